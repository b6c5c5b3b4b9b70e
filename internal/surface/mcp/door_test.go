package mcp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/surface/mcp"
)

// TestOfficialPeers: the official SDK on both ends, in both generations of the protocol,
// with and without sessions, finds the tools of the grant and calls them.
func TestOfficialPeers(t *testing.T) {
	for _, client := range []string{"", "2025-11-25", "2025-06-18"} {
		for _, sessions := range []bool{true, false} {
			t.Run(fmt.Sprintf("client_%s_sessions_%t", client, sessions), func(t *testing.T) {
				q := newQueue("queue")
				up := httptest.NewServer(q.handler(sessions))
				defer up.Close()
				r := start(t, up.URL+"/mcp", nil)
				c := sdk.NewClient(&sdk.Implementation{Name: "harness", Version: "1"}, nil)
				cs, err := c.Connect(t.Context(), &sdk.StreamableClientTransport{Endpoint: r.url}, &sdk.ClientSessionOptions{ProtocolVersion: client})
				if err != nil {
					t.Fatal(err)
				}
				defer cs.Close()
				if got := cs.InitializeResult(); client != "" && got.ProtocolVersion != client || client == "" && got.ProtocolVersion != "2026-07-28" || got.ServerInfo.Name != "sallyport" || got.Instructions != "" {
					t.Errorf("got %+v", got)
				}
				list, err := cs.ListTools(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				var names []string
				for _, x := range list.Tools {
					names = append(names, x.Name)
				}
				if !slices.Equal(names, []string{"comment", "read"}) || list.Tools[0].Description != "Adds a comment to a ticket." {
					t.Errorf("tools: %v", names)
				}
				res, err := cs.CallTool(t.Context(), &sdk.CallToolParams{Name: "comment", Arguments: map[string]any{"text": "hi", "id": 4711}})
				if err != nil || res.IsError || res.Content[0].(*sdk.TextContent).Text != "done" {
					t.Fatalf("got %+v, %v", res, err)
				}
				if got := q.called(); got != `comment {"id":4711,"text":"hi"}` {
					t.Errorf("called: %s", got)
				}
				if got := r.records(); !slices.Equal(got, []string{"allow mcp.list", "allow queue.ticket.comment"}) {
					t.Errorf("recorded: %q", got)
				}
				want := "2025-11-25"
				if !sessions {
					want = "2026-07-28"
				}
				if got := r.pins.facts["mcp.queue.server"]; got != "queue 1.4.0, protocol "+want {
					t.Errorf("the server is %s", got)
				}
				if got := r.pins.facts["mcp.queue.tools"] + "; " + r.pins.facts["mcp.queue.tool.comment.takes"]; !strings.HasPrefix(got, "comment, purge, read; id, text; sha256:") {
					t.Errorf("facts: %s", got)
				}
				for _, token := range q.tokens {
					if token != "Bearer "+secret {
						t.Errorf("a request with credential %q", token)
					}
				}
				if err := cs.Ping(t.Context(), nil); err != nil && client != "" {
					t.Error(err)
				}
				if _, err := cs.ListPrompts(t.Context(), nil); err == nil {
					t.Error("there are prompts")
				}
			})
		}
	}
}

// TestDecision: what is decided has the arguments as parameters, and they are on record;
// what is observed has the definitions as they are passed on.
func TestDecision(t *testing.T) {
	q := newQueue("queue")
	up := httptest.NewServer(q.handler(true))
	defer up.Close()
	r := start(t, up.URL+"/mcp", nil)
	if _, body := r.post(`{"jsonrpc":"2.0","id":"a","method":"tools/list"}`, nil); !strings.Contains(body, `"id":"a"`) || strings.Contains(body, "purge") {
		t.Fatalf("got %s", body)
	}
	for range 2 {
		if text, failed := r.tool("read", `{"id":4711}`); failed || text != "done" {
			t.Fatalf("got %s", text)
		}
	}
	all := r.kit.Log.Decisions(t)
	for i, d := range all[1:] {
		want := `tool-arguments {"id":4711}`
		a := d.Action
		if got := strings.Join(r.evidence(i+1), " "); got != want || a.Surface != action.MCP || a.Source != "harness" || a.App != "queue" || a.Params["ticket"] != "4711" || len(a.Params) != 1 || a.Effect != action.Read {
			t.Errorf("%d: %s; %+v", i, got, a)
		}
	}
	if want := `{"description":"Reads a ticket.","inputSchema":{"properties":{"id":{"type":"integer"}},"required":["id"],"type":"object"},"name":"read"}]`; !strings.HasSuffix(r.pins.definitions, want) {
		t.Errorf("definitions: %s", r.pins.definitions)
	}
	if got := all[1].Labels; len(got) != 0 {
		t.Errorf("labels before: %v", got)
	}
	if got := all[2].Labels; !slices.Equal(got, []string{"untrusted-content"}) {
		t.Errorf("labels after a read: %v", got)
	}
}

// evidence is what the n-th decision has, as text.
func (r *rig) evidence(n int) (out []string) {
	for _, e := range r.kit.Log.All() {
		if e.Type != "action.decided" {
			continue
		}
		if n--; n >= 0 {
			continue
		}
		for _, x := range e.Evidence {
			b, err := r.kit.Log.Payload(r.t.Context(), x)
			if err != nil {
				r.t.Fatal(err)
			}
			out = append(out, x.Name+" "+string(b))
		}
		return out
	}
	return nil
}

// TestHeld: a call that people are asked about is answered as held in a time that
// clients wait, and passes once, sent again, after they have said yes.
func TestHeld(t *testing.T) {
	q := newQueue("queue")
	up := httptest.NewServer(q.handler(true))
	defer up.Close()
	ask := func(f gate.Facts) action.Decision {
		d := allow(f)
		if f.Action.Operation == "queue.ticket.comment" {
			d.Verdict, d.Code, d.Approvers = action.Hold, "needs_approval", "approver"
		}
		return d
	}
	h := &question{yes: make(chan struct{})}
	kit := gatetest.New(t, ask, func(a *gate.Admission) { a.Holds = h })
	r := start(t, up.URL+"/mcp", nil, func(c *mcp.Config) { c.Gate, c.Patience = kit.Gate, time.Millisecond })
	text, failed := r.tool("comment", `{"id":1,"text":"hi"}`)
	if !failed || !strings.Contains(text, "held (hold)") || !strings.Contains(text, "send the same again") || q.called() != "" {
		t.Fatalf("got %s", text)
	}
	close(h.yes)
	if text, failed := r.tool("comment", `{"id":1,"text":"hi"}`); failed || text != "done" {
		t.Errorf("got %s", text)
	}
	if h.asked.Params["text"] != "hi" || h.asked.Digest == "" {
		t.Errorf("asked about %+v", h.asked)
	}
}

// TestKillCutsACall: the end of the task cuts what is on its way, and nothing is called
// afterwards.
//
// Threats: T57 (dispatch)
func TestKillCutsACall(t *testing.T) {
	in, cut, calls := make(chan struct{}), make(chan struct{}), 0
	r := start(t, serve(t, map[string]http.HandlerFunc{"tools/call": func(_ http.ResponseWriter, r *http.Request) {
		calls++
		close(in)
		<-r.Context().Done()
		close(cut)
	}})+"/mcp", nil)
	done := make(chan string)
	go func() { text, _ := r.tool("read", `{"id":1}`); done <- text }()
	<-in
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := r.kit.End(ctx, func(gate.Admission) bool { return true }, "killed", "killed by test"); err != nil {
		t.Fatal(err)
	}
	<-cut
	if text := <-done; !strings.Contains(text, "upstream_failed") || r.outcome().State != action.Unknown {
		t.Errorf("got %s, %+v", text, r.outcome())
	}
	if text, failed := r.tool("read", `{"id":1}`); !failed || !strings.Contains(text, "killed") || calls != 1 {
		t.Errorf("after the kill: %s, %d calls", text, calls)
	}
}

type held struct{ q *question }

func (held) ID() string          { return "h-1" }
func (held) Use(record.Tx) error { return nil }
func (h held) Wait(ctx context.Context) error {
	select {
	case <-h.q.yes:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// question is a hold that people answer when yes is closed.
type question struct {
	asked action.Action
	yes   chan struct{}
}

func (q *question) Open(_ context.Context, a action.Action, _ action.Decision) (gate.Hold, error) {
	q.asked = a
	return held{q}, nil
}

// refused is a message that the door must refuse, with the code on record.
type refused struct {
	name, body string
	header     map[string]string
	status     int
	code       string
}

// TestRefused: what has no one meaning is refused and recorded, and no server hears of it.
//
// Threats: T2, G9 (form)
func TestRefused(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a server was asked") }))
	defer up.Close()
	call := func(params string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":` + params + `}`
	}
	good := call(`{"name":"read","arguments":{"id":1}}`)
	meta := func(version string) string {
		return call(`{"name":"read","arguments":{"id":1},"_meta":{"io.modelcontextprotocol/protocolVersion":"` + version + `"}}`)
	}
	modern := func(method, name string) map[string]string {
		return map[string]string{"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": method, "Mcp-Name": name}
	}
	for _, tc := range []refused{
		{"batch", "[" + good + "]", nil, 400, "malformed_json"},
		{"response", `{"jsonrpc":"2.0","id":1,"result":{}}`, nil, 400, "malformed_json"},
		{"two_documents", good + good, nil, 400, "malformed_json"},
		{"duplicate_method", `{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}`, nil, 400, "malformed_json"},
		{"case_of_a_member", `{"jsonrpc":"2.0","id":1,"Method":"tools/call","method":"ping"}`, nil, 400, "malformed_json"},
		{"duplicate_tool", call(`{"name":"read","name":"comment"}`), nil, 400, "malformed_json"},
		{"no_double", call(`{"name":"read","arguments":{"id":9007199254740993}}`), nil, 400, "malformed_json"},
		{"case_of_a_param", call(`{"name":"read","Arguments":{}}`), nil, 200, "bad_params"},
		{"no_id", `{"jsonrpc":"2.0","method":"tools/call","params":{"name":"read","arguments":{"id":1}}}`, nil, 400, "bad_id"},
		{"notification_with_id", `{"jsonrpc":"2.0","id":1,"method":"notifications/initialized"}`, nil, 400, "bad_id"},
		{"null_id", `{"jsonrpc":"2.0","id":null,"method":"ping"}`, nil, 400, "bad_id"},
		{"object_id", `{"jsonrpc":"2.0","id":{},"method":"ping"}`, nil, 400, "bad_id"},
		{"long_id", `{"jsonrpc":"2.0","id":"` + strings.Repeat("a", 200) + `","method":"ping"}`, nil, 400, "bad_id"},
		{"version_1", `{"jsonrpc":"1.0","id":1,"method":"ping"}`, nil, 400, "malformed_json"},
		{"sampling", `{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{}}`, nil, 200, "unknown_method"},
		{"elicitation", `{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{}}`, nil, 200, "unknown_method"},
		{"resources", `{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///etc/passwd"}}`, nil, 200, "unknown_method"},
		{"prompts", `{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"x"}}`, nil, 200, "unknown_method"},
		{"completion", `{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{}}`, nil, 200, "unknown_method"},
		{"logging", `{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"debug"}}`, nil, 200, "unknown_method"},
		{"subscriptions", `{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{}}`, nil, 200, "unknown_method"},
		{"as_a_task", call(`{"name":"read","arguments":{"id":1},"task":{"ttl":1}}`), nil, 200, "bad_params"},
		{"input_given", call(`{"name":"read","arguments":{"id":1},"inputResponses":{}}`), nil, 200, "bad_params"},
		{"cursor", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"x"}}`, nil, 200, "bad_cursor"},
		{"no_tool", call(`{"arguments":{}}`), nil, 200, "bad_params"},
		{"wrong_type", good, map[string]string{"Content-Type": "text/plain"}, 415, "wrong_type"},
		{"encoded", good, map[string]string{"Content-Encoding": "gzip"}, 400, "bad_encoding"},
		{"large", call(`{"name":"read","arguments":{"a":"` + strings.Repeat("a", 1<<20) + `"}}`), nil, 413, "too_large"},
	} {
		r := start(t, up.URL+"/mcp", nil)
		r.refuses(tc)
	}
	t.Run("header_mismatch", func(t *testing.T) {
		for name, tc := range map[string]refused{
			"method":          {"", good, map[string]string{"Mcp-Method": "tools/list"}, 400, "header_mismatch"},
			"name":            {"", good, map[string]string{"Mcp-Name": "comment"}, 400, "header_mismatch"},
			"version":         {"", meta("2026-07-28"), map[string]string{"Mcp-Protocol-Version": "2025-11-25"}, 400, "header_mismatch"},
			"version_unsaid":  {"", meta("2026-07-28"), nil, 400, "header_mismatch"},
			"version_alone":   {"", good, modern("tools/call", "read"), 400, "header_mismatch"},
			"method_unsaid":   {"", meta("2026-07-28"), map[string]string{"Mcp-Protocol-Version": "2026-07-28", "Mcp-Name": "read"}, 400, "header_mismatch"},
			"name_unsaid":     {"", meta("2026-07-28"), map[string]string{"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call"}, 400, "header_mismatch"},
			"other_name":      {"", meta("2026-07-28"), modern("tools/call", "comment"), 400, "header_mismatch"},
			"argument":        {"", good, map[string]string{"Mcp-Param-Id": "2"}, 400, "header_mismatch"},
			"unknown_version": {"", good, map[string]string{"Mcp-Protocol-Version": "2024-11-05"}, 400, "unknown_version"},
			"old_method":      {"", strings.Replace(meta("2026-07-28"), "tools/call", "initialize", 1), nil, 200, "bad_params"},
		} {
			tc.name = name
			start(t, up.URL+"/mcp", nil).refuses(tc)
		}
	})
}

func (r *rig) refuses(tc refused) {
	r.t.Helper()
	status, body := r.post(tc.body, tc.header)
	if status != tc.status || !strings.Contains(body, `"code":"`+tc.code+`"`) || !json.Valid([]byte(body)) {
		r.t.Errorf("%s: got %d %s, want %d %s", tc.name, status, body, tc.status, tc.code)
	}
	if got := r.records(); len(got) != 1 || got[0] != "deny mcp.malformed "+tc.code {
		r.t.Errorf("%s: recorded %q", tc.name, got)
	}
}
