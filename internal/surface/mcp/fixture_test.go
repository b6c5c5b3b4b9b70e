package mcp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/surface/mcp"
)

const secret = "s3cr3t-of-the-queue"

// queue is a real MCP server, by the official Go SDK.
type queue struct {
	mu      sync.Mutex
	server  *sdk.Server
	calls   []string // arguments of comment, as they arrived
	tokens  []string // Authorization of every request
	answers func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error)
}

func newQueue(name string) *queue {
	q := &queue{server: sdk.NewServer(&sdk.Implementation{Name: name, Version: "1.4.0"}, nil)}
	q.tool("comment", "Adds a comment to a ticket.", `{"type":"object","properties":{"id":{"type":"integer","minimum":1},"text":{"type":"string","maxLength":1000}},"required":["id","text"]}`)
	q.tool("read", "Reads a ticket.", `{"type":"object","properties":{"id":{"type":"integer"}},"required":["id"]}`)
	q.tool("purge", "Deletes everything.", `{"type":"object"}`)
	return q
}

// tool adds a tool or puts another definition in its place.
func (q *queue) tool(name, description, schema string) {
	q.server.AddTool(&sdk.Tool{Name: name, Description: description, InputSchema: json.RawMessage(schema)}, func(ctx context.Context, r *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		q.mu.Lock()
		q.calls = append(q.calls, name+" "+string(r.Params.Arguments))
		answer := q.answers
		q.mu.Unlock()
		if answer != nil {
			return answer(ctx, r)
		}
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "done"}}}, nil
	})
}

func (q *queue) answer(f func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.answers = f
}

func (q *queue) called() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return strings.Join(q.calls, "; ")
}

// handler serves it with sessions, as versions before 2026-07-28 have them, or without.
func (q *queue) handler(sessions bool) http.Handler {
	h := sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return q.server }, &sdk.StreamableHTTPOptions{Stateless: !sessions})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q.mu.Lock()
		q.tokens = append(q.tokens, r.Header.Get("Authorization"))
		q.mu.Unlock()
		h.ServeHTTP(w, r)
	})
}

// pins holds each measurement against the first: what a certification does.
type pins struct {
	mu    sync.Mutex
	facts map[string]string
	drift []string
	// definitions are the last ones
	definitions string
}

func (p *pins) Observe(_ context.Context, m mcp.Measurement) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.definitions = string(m.Definitions)
	if p.facts == nil {
		p.facts = map[string]string{}
	}
	for n, v := range m.Facts {
		if old, ok := p.facts[n]; ok && old != v {
			p.drift = append(p.drift, fmt.Sprintf("%s: %s → %s", n, old, v))
		} else {
			p.facts[n] = v
		}
	}
	if len(p.drift) > 0 {
		return errors.New("drift: private cause")
	}
	return nil
}

func (p *pins) drifted() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.drift, "; ")
}

// rig is a door in front of one server.
type rig struct {
	t    *testing.T
	kit  *gatetest.Kit
	pins *pins
	url  string
	door *mcp.Door
}

// start opens a door in front of the server at url. The grant has all tools but purge,
// which is declared all the same.
func start(t *testing.T, url string, p gatetest.Policy, edit ...func(*mcp.Config)) *rig {
	t.Helper()
	if p == nil {
		p = allow
	}
	base, _, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
	text := connector.Field{Param: "text"}
	id := connector.Field{Param: "ticket", Type: connector.TypeInteger}
	set, err := connector.NewSet(map[string]*connector.Spec{"queue": {
		Stages: map[action.Stage]connector.Stage{action.Sandbox: {Origins: []connector.Origin{{Name: "main", URL: "http://" + base, Local: true}}}},
		MCP:    &connector.MCP{Path: "/mcp", Server: "queue"},
		Operations: []connector.Operation{
			{Name: "queue.ticket.comment", Kind: connector.KindTool, Tool: "comment", Effect: action.Write, Arguments: map[string]connector.Field{"id": id, "text": text}},
			{Name: "queue.ticket.read", Kind: connector.KindTool, Tool: "read", Effect: action.Read, Labels: []string{"untrusted-content"}, Arguments: map[string]connector.Field{"id": id}},
			{Name: "queue.purge", Kind: connector.KindTool, Tool: "purge", Effect: action.Irreversible},
		}}})
	if err != nil {
		t.Fatal(err)
	}
	s, ok := set.Tools(action.Sandbox, "queue")
	if !ok {
		t.Fatal("the connector has no tools")
	}
	r := &rig{t: t, kit: gatetest.New(t, p), pins: &pins{}}
	c := mcp.Config{Tenant: gatetest.Tenant, Task: gatetest.Task, Agent: gatetest.Agent, Gate: r.kit.Gate, Observer: r.pins,
		Servers: []mcp.Server{{App: "queue", URL: s.URL, Name: s.Server, Tools: s.Tools, Granted: map[string]bool{"comment": true, "read": true}}},
		Recognize: func(app, tool string, arguments []byte) (mcp.Meaning, error) {
			m, err := set.RecognizeTool(app, tool, arguments)
			return mcp.Meaning{Operation: m.Operation, Effect: m.Effect, Params: m.Params, Labels: m.Labels, Code: m.Code, Why: m.Why}, err
		},
		Credentials: func(context.Context, string, string) (func(*http.Request) error, error) {
			return func(r *http.Request) error { r.Header.Set("Authorization", "Bearer "+secret); return nil }, nil
		},
		Redact:  func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(secret), []byte("[redacted]")) },
		Timeout: 20 * time.Second}
	for _, e := range edit {
		e(&c)
	}
	if r.door, err = mcp.New(c); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(r.door)
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close(); r.door.Close() })
	r.url = srv.URL + mcp.Path
	return r
}

// allow lets through what a connector describes.
func allow(f gate.Facts) action.Decision {
	if f.Action.Unmatched() {
		return action.Denied(action.LayerGuardrail, "unmatched_write", "nothing describes it", "")
	}
	return gatetest.AllowAll(f)
}

// post sends one message as it is.
func (r *rig) post(body string, header map[string]string) (int, string) {
	r.t.Helper()
	q, err := http.NewRequest("POST", r.url, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/json")
	q.Header.Set("Accept", "application/json, text/event-stream")
	for k, v := range header {
		if k == "Host" {
			q.Host = v
		}
		q.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(q)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// tool calls a tool with arguments, and returns what a model reads, or the error.
func (r *rig) tool(name, arguments string) (text string, isError bool) {
	r.t.Helper()
	_, body := r.post(fmt.Sprintf(`{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":%q,"arguments":%s}}`, name, arguments), nil)
	var m struct {
		ID     int
		Result struct {
			IsError bool
			Content []struct{ Type, Text, Data string }
		}
		Error *struct{ Message string }
	}
	if err := json.Unmarshal([]byte(body), &m); err != nil || m.ID != 7 {
		r.t.Fatalf("%s: %v", body, err)
	}
	if m.Error != nil {
		return m.Error.Message, true
	}
	for _, c := range m.Result.Content {
		text += c.Text + c.Data
	}
	return text, m.Result.IsError
}

// records are the decisions and what became of them.
func (r *rig) records() (out []string) {
	for _, d := range r.kit.Log.Decisions(r.t) {
		line := string(d.Decision.Verdict) + " " + d.Action.Operation
		if d.Decision.Verdict != action.Allow {
			line += " " + d.Decision.Code
		}
		out = append(out, line)
	}
	return out
}

// outcome is the last one.
func (r *rig) outcome() action.Outcome {
	r.t.Helper()
	var o gate.Outcome
	for _, e := range r.kit.Log.All() {
		if e.Type == "action.outcome" {
			if err := json.Unmarshal(e.Body, &o); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	return o.Outcome
}

// serve is a server that is no SDK's: each method's answer is given, and everything else
// is as a server of a version with initialize has it.
func serve(t *testing.T, answers map[string]http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(answer(answers))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s.URL
}

func answer(answers map[string]http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var m struct {
			ID     json.RawMessage
			Method string
		}
		json.Unmarshal(body, &m)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if f := answers[m.Method]; f != nil {
			f(w, r)
			return
		}
		if a := usual[m.Method]; a != "" {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, m.ID, a)
			return
		}
		if len(m.ID) == 0 {
			w.WriteHeader(202)
			return
		}
		w.WriteHeader(400)
	}
}

var usual = map[string]string{
	"initialize": `{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"queue","version":"1"}}`,
	"tools/list": `{"tools":[{"name":"comment","description":"Adds.","inputSchema":{"type":"object"}},{"name":"read","inputSchema":{"type":"object"}}]}`,
	"tools/call": `{"content":[{"type":"text","text":"done"}]}`,
}

// result answers with one.
func result(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, idOf(r), body)
	}
}

// idOf is the id of a request, once.
func idOf(r *http.Request) string {
	var m struct{ ID json.RawMessage }
	json.NewDecoder(r.Body).Decode(&m)
	return string(m.ID)
}
