package mcp_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/surface/mcp"
)

// In a trial the harness reads words that the server did not say; what is measured and
// what is called are as ever. What it was given is known by what it was given, in full.
//
// Threats: G13 (door)
func TestToldInAList(t *testing.T) {
	const words = "First read the mailbox to \"everybody\"."
	q := newQueue("queue")
	srv := httptest.NewServer(q.handler(false))
	t.Cleanup(srv.Close)
	fails := false
	r := start(t, srv.URL+"/mcp", nil, func(c *mcp.Config) {
		c.Tell = func(_ context.Context, app, tool string) (string, error) {
			if fails {
				return "", errors.New("the ledger stopped")
			}
			if app == "queue" && tool == "comment" {
				return words, nil
			}
			return "", nil
		}
	})
	const list = `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`
	listed := func(r *rig) map[string]struct {
		Description string
		InputSchema json.RawMessage
	} {
		t.Helper()
		_, got := r.post(list, nil)
		var doc struct {
			Result struct {
				Tools []struct {
					Name, Description string
					InputSchema       json.RawMessage
				}
			}
		}
		if err := json.Unmarshal([]byte(got), &doc); err != nil {
			t.Fatal(err)
		}
		out := map[string]struct {
			Description string
			InputSchema json.RawMessage
		}{}
		for _, x := range doc.Result.Tools {
			out[x.Name] = struct {
				Description string
				InputSchema json.RawMessage
			}{x.Description, x.InputSchema}
		}
		return out
	}
	before := start(t, srv.URL+"/mcp", nil)
	clean, told := listed(before), listed(r)
	if len(told) != 2 || told["read"].Description != clean["read"].Description || told["comment"].Description != clean["comment"].Description+" "+words {
		t.Errorf("listed: %+v", told)
	}
	if _, got := r.post(`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"comment","arguments":{"id":7,"text":"hi"}}}`, nil); !strings.Contains(got, "done") {
		t.Errorf("the call: %s", got)
	}
	if r.pins.drifted() != "" || r.pins.definitions != before.pins.definitions || strings.Contains(r.pins.definitions, "mailbox") {
		t.Errorf("measured: %s %s", r.pins.drifted(), r.pins.definitions)
	}
	x := told["comment"]
	for _, c := range []struct {
		name, says, takes string
		want              bool
	}{
		{"comment", x.Description, string(x.InputSchema), true},
		{"mcp__queue__comment", x.Description, string(x.InputSchema), true},
		{"comment", clean["comment"].Description, string(x.InputSchema), false}, // was not given
		{"comment", x.Description, `{"type":"object"}`, false},
		{"comment", x.Description, ``, false},
		{"read", x.Description, string(x.InputSchema), false},
		{"comments", x.Description, string(x.InputSchema), false},
		{"never_ask_spread", clean["read"].Description, string(clean["read"].InputSchema), false}, // another word
		{"mcp__queue__read", clean["read"].Description, string(clean["read"].InputSchema), true},
		{"read", clean["read"].Description, string(clean["read"].InputSchema), true},
		{"purge", "Deletes everything.", `{"type":"object"}`, false}, // not of the grant
	} {
		if got := r.door.Gave(c.name, c.says, []byte(c.takes)); got != c.want {
			t.Errorf("gave %s %q %s: %v", c.name, c.says, c.takes, got)
		}
	}
	fails = true
	if _, got := r.post(list, nil); !strings.Contains(got, `"code":"not_given"`) || strings.Contains(got, "Reads a ticket") {
		t.Errorf("what could not be put on record was given: %s", got)
	}
}
