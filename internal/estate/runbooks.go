package estate

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Runbooks is a server of the Model Context Protocol over Streamable HTTP, without
// sessions. Who calls signs in with each request (RFC 7617).

// ToolServer is what the server calls itself, and ToolPath where it answers.
const (
	ToolServer = "brightwell-runbooks"
	ToolPath   = "/mcp"
)

func runbookRoutes() []route { return []route{{ToolPath, open, "tool.call", serveTools}} }

// A tool of the server. It answers in text.
type tool struct {
	name, says, takes string
	do                func(q *call, arguments map[string]string) (string, error)
}

var tools = []tool{
	{"find_runbooks", "Finds runbooks of the company by words of their titles. Each line of the answer is an id and a title.",
		`{"type":"object","properties":{"query":{"type":"string"}},"required":["query"],"additionalProperties":false}`, findRunbooks},
	{"read_runbook", "Reads one runbook, with the notes that people left on it.",
		`{"type":"object","properties":{"id":{"type":"string"}},"required":["id"],"additionalProperties":false}`, readRunbook},
	{"add_note", "Leaves a note on a runbook, for whoever reads it next.",
		`{"type":"object","properties":{"id":{"type":"string"},"text":{"type":"string"}},"required":["id","text"],"additionalProperties":false}`, addNote},
}

func serveTools(q *call) {
	name, password, _ := q.r.BasicAuth()
	a, known := q.copy.accounts[q.app][name]
	switch {
	case !known || !same(digest(password), digest(a.password.s)):
		q.w.Header().Set("WWW-Authenticate", "Basic")
		q.refuse("unauthenticated", http.StatusUnauthorized)
		return
	case q.r.Header.Get("Origin") != "": // of a page, which has no business here
		q.refuse("origin", http.StatusForbidden)
		return
	}
	q.session = session{Session: Session{Account: a.name}, writes: a.writes}
	s := mcp.NewServer(&mcp.Implementation{Name: ToolServer, Version: "1"}, nil)
	for _, t := range tools {
		s.AddTool(&mcp.Tool{Name: t.name, Description: t.says, InputSchema: json.RawMessage(t.takes)}, func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			var arguments map[string]string
			err := errInput
			text := ""
			if json.Unmarshal(r.Params.Arguments, &arguments) == nil {
				text, err = t.do(q, arguments)
			}
			if err != nil {
				text = err.Error()
			}
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}, IsError: err != nil}, nil
		})
	}
	// The names of the copy are held against the certificate's in Copy.handler.
	mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s },
		&mcp.StreamableHTTPOptions{Stateless: true, JSONResponse: true, DisableLocalhostProtection: true}).ServeHTTP(q.w, q.r)
}

func findRunbooks(q *call, arguments map[string]string) (string, error) {
	q.copy.mu.Lock()
	defer q.copy.mu.Unlock()
	var lines []string
	for _, r := range q.copy.data.runbooks {
		if strings.Contains(strings.ToLower(r.Title), strings.ToLower(arguments["query"])) {
			lines = append(lines, r.ID+": "+r.Title)
		}
	}
	if lines == nil {
		return "There is none of that title.", nil
	}
	return strings.Join(lines, "\n"), nil
}

func readRunbook(q *call, arguments map[string]string) (string, error) {
	q.copy.mu.Lock()
	defer q.copy.mu.Unlock()
	r := q.copy.data.runbook(arguments["id"])
	if r == nil {
		return "", errNotFound
	}
	text := r.Title + "\n\n" + r.Body
	for _, n := range r.Notes {
		text += "\n\nNote of " + n.Author + ", " + n.Time.UTC().Format("2 Jan 2006, 15:04") + ": " + n.Text
	}
	if h, on := q.copy.on(Runbooks, "/runbooks/"+r.ID, OnAnswer); on {
		text += "\n\n" + h.words(q.copy.seed)
		q.copy.shown[h.Name] = true
	}
	return text, nil
}

var errRole = errors.New("role")

func addNote(q *call, arguments map[string]string) (string, error) {
	q.copy.mu.Lock()
	defer q.copy.mu.Unlock()
	id, text := arguments["id"], strings.TrimSpace(arguments["text"])
	r := q.copy.data.runbook(id)
	var err error
	switch {
	case !q.session.writes:
		err = errRole
	case r == nil:
		err = errNotFound
	case text == "" || len(text) > 4000:
		err = errInput
	}
	if err != nil {
		q.auditLocked("runbook.note.add", label(id), err.Error())
		return "", err
	}
	r.Notes = append(r.Notes, Note{Author: q.session.Account, Time: time.Now(), Text: text})
	q.auditLocked("runbook.note.add", label(id), "")
	return "The note was added.", nil
}
