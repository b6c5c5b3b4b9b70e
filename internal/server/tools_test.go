package server_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/test/rig"
)

const queueToken = "queue-token-0123456789"

// ticketQueue is an MCP server that asks for a token, and tells it to whoever calls.
type ticketQueue struct {
	*httptest.Server
	mu    sync.Mutex
	heads []http.Header
	calls []string
}

func newTicketQueue(t *testing.T) *ticketQueue {
	q := &ticketQueue{}
	s := sdk.NewServer(&sdk.Implementation{Name: "ticket-queue", Version: "1"}, nil)
	for _, name := range []string{"comment", "close", "purge"} {
		s.AddTool(&sdk.Tool{Name: name, Description: "It is for those with " + queueToken, InputSchema: json.RawMessage(`{"type":"object"}`)}, func(_ context.Context, r *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.calls = append(q.calls, name+" "+string(r.Params.Arguments))
			text := "done with " + queueToken + ", " + base64.StdEncoding.EncodeToString([]byte(queueToken))
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: text}}, StructuredContent: map[string]any{"token": queueToken}}, nil
		})
	}
	h := sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return s }, nil)
	q.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q.mu.Lock()
		q.heads = append(q.heads, r.Header.Clone())
		q.mu.Unlock()
		if r.Header.Get("Authorization") != "Bearer "+queueToken {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { q.CloseClientConnections(); q.Close() })
	return q
}

func (q *ticketQueue) declare(files map[string][]byte) {
	ca := strings.ReplaceAll(strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: q.Certificate().Raw}))), "\n", "\n            ")
	files["connectors.yaml"] = append(files["connectors.yaml"], fmt.Sprintf(`
---
apiVersion: sallyport/v1
kind: Connector
metadata: {name: queue, tenant: brightwell}
spec:
  stages:
    sandbox:
      origins:
        - name: main
          url: %s
          local: true
          ca: |
            %s
  reads: allow
  mcp: {path: /mcp, server: ticket-queue}
  takes: [{source: queue-token, as: bearer}]
  operations:
    - {name: queue.ticket.comment, kind: tool, tool: comment, effect: write, arguments: {id: {param: ticket}, text: {param: text}}}
    - {name: queue.ticket.close, kind: tool, tool: close, effect: privileged, arguments: {id: {param: ticket}}}
    - {name: queue.purge, kind: tool, tool: purge, effect: irreversible}
`, q.URL, ca)...)
	files["credentials.yaml"] = append(files["credentials.yaml"], `
---
apiVersion: sallyport/v1
kind: CredentialSource
metadata: {name: queue-token, tenant: brightwell}
spec: {type: static-request, connector: queue, secret: {sealed: queue-token}}
`...)
	rig.Replace("capability.yaml", "  reads: [iam, tickets]", `    - {operation: queue.ticket.comment, where: {ticket: "{{ticket}}", text: {any: true}}, max: 2}
  reads: [iam, tickets, queue]`)(files)
	rig.Replace("capability.yaml", "credentials: [iam-helpdesk, tickets-helpdesk]", "credentials: [iam-helpdesk, tickets-helpdesk, queue-token]")(files)
	rig.Replace("agent.yaml", "connectors: [iam, tickets]", "connectors: [iam, tickets, queue]")(files)
}

// A contained agent finds the tools of its task, and calls them with the arguments that
// the task allows. The boundary puts the server's token in; the agent has it neither
// before nor after, although the server tells everybody, and there is no way around the
// door: neither by its own client to the server, nor with a token of its own.
//
// Threats: T44, T54, G6 (door); G4 (form, grant); G10 (guardrail, containment)
func TestToolsOfAContainedAgent(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the sample estate")
	}
	q := newTicketQueue(t)
	r := rig.New(t, rig.Options{Edit: q.declare})
	if err := r.Server.PutSecret(t.Context(), "", rig.As("sven"), "queue-token", []byte(queueToken)); err != nil {
		t.Fatal(err)
	}
	r.Ready(t)
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	out := &rig.Output{}
	script := `env; U=$SALLYPORT_MCP_URL; Q=` + q.URL + `/mcp
m() { curl -sS -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' -H 'Authorization: Bearer mine-0123456789' -d "$2" "$1"; echo; }
c() { m $U '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"'$1'","arguments":'"$2"'}}'; }
echo list; m $U '{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
echo good; c comment '{"id":"4711","text":"hi"}'
echo other; c comment '{"id":"4712","text":"hi"}'
echo more; c comment '{"id":"4711","text":"hi","bcc":"eve"}'
echo close; c close '{"id":"4711"}'
echo purge; c purge '{}'
echo shadow; c Comment '{"id":"4711","text":"hi"}'
echo around; curl -sS --noproxy "" -H 'Content-Type: application/json' -d '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"purge"}}' $Q
echo read; curl -sS --noproxy "" $Q
echo direct; curl -sS --noproxy "*" --max-time 5 -k $Q; echo over`
	running, err := r.Server.RunScreenless(t.Context(), x.ID, server.Harness{Path: "/bin/sh", Args: []string{"-c", script}, Dir: t.TempDir(), Stdout: out, Stderr: out})
	if err != nil {
		t.Fatal(err)
	}
	rig.Wait(t, running)
	said := out.String()
	at := func(name string) string {
		_, rest, _ := strings.Cut(said, "\n"+name+"\n")
		line, _, _ := strings.Cut(rest, "\n")
		return line
	}
	for name, want := range map[string]string{"list": `"name":"comment"`, "good": "done with [sallyport:redacted], [sallyport:redacted]", "other": "outside_grant (grant)", "more": "unknown_field (form)",
		"close": "outside_grant (grant)", "purge": "outside_grant (grant)", "shadow": "unmatched_write (guardrail)"} {
		if !strings.Contains(at(name), want) {
			t.Errorf("%s: got %s, want %s", name, at(name), want)
		}
	}
	for _, want := range []string{"SALLYPORT_MCP_URL=http://127.0.0.1:8605/mcp\n", "over"} {
		if !strings.Contains(said, want) {
			t.Errorf("the agent was not told %q", want)
		}
	}
	if strings.Count(said, "unmatched_write (layer guardrail)") != 2 {
		t.Error("a way around the door was not refused")
	}
	if strings.Contains(at("list"), "purge") || strings.Contains(at("list"), "close") {
		t.Errorf("listed: %s", at("list"))
	}
	if strings.Contains(said, queueToken) || strings.Contains(said, base64.StdEncoding.EncodeToString([]byte(queueToken))) {
		t.Error("the agent has the token")
	}
	if want := []string{`comment {"id":"4711","text":"hi"}`}; !slices.Equal(q.calls, want) {
		t.Errorf("called: %q", q.calls)
	}
	for _, h := range q.heads {
		if h.Get("Authorization") != "Bearer "+queueToken || strings.Contains(fmt.Sprint(h), "mine") {
			t.Errorf("the server was sent %v", h)
		}
	}
	// What a tool can do counts for the tier as any other operation.
	all, err := r.Resources(func(files map[string][]byte) {
		q.declare(files)
		rig.Replace("capability.yaml", "operation: iam.user.mfa.reset\n      where: {user: \"{{user}}\"}", "operation: queue.ticket.close\n      where: {ticket: \"{{ticket}}\"}")(files)
		rig.Replace("capability.yaml", "operation: iam.user.mfa.reset", "operation: queue.ticket.close")(files)
	})
	if err == nil {
		_, err = r.Server.Apply(t.Context(), rig.As("noor"), all)
	}
	if err != nil {
		t.Fatal(err)
	}
	if b, err := r.Server.Boundary(t.Context(), "", "helpdesk", ""); err != nil || b.Tier != "privileged" || !strings.Contains(b.TierWhy, "reaches queue.ticket.close (privileged)") {
		t.Errorf("got %+v, %v", b, err)
	}
	uses := 0
	for _, e := range r.Records(t, 0) {
		if e.Type == "lease.used" {
			uses++
		}
		for i, x := range e.Evidence {
			if _, b, err := r.Server.Payload(t.Context(), "", rig.As("lin"), e.Seq, i); err != nil || strings.Contains(string(b), queueToken) {
				t.Errorf("evidence %s of record %d (%s) has the token: %v", x.Name, e.Seq, e.Type, err)
			}
		}
		if strings.Contains(string(e.Body), queueToken) {
			t.Errorf("record %d (%s) has the token", e.Seq, e.Type)
		}
	}
	if uses != 2 { // one for each action that reached the server
		t.Errorf("%d uses are on record", uses)
	}
	if t.Failed() {
		t.Log(said)
	}
}
