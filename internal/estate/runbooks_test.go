package estate_test

import (
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/sallyport-dev/sallyport/internal/estate"
)

// basic signs in with each request.
type basic struct {
	http.RoundTripper
	as     estate.Credentials
	origin string
}

func (b basic) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.SetBasicAuth(b.as.Username, b.as.Password.Reveal())
	if b.origin != "" {
		r.Header.Set("Origin", b.origin)
	}
	return b.RoundTripper.RoundTrip(r)
}

// dial is a client of the official SDK.
func dial(t *testing.T, e *estate.Estate, stage estate.Stage, as estate.Credentials, origin string) (*sdk.ClientSession, error) {
	c := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, nil)
	s, err := c.Connect(t.Context(), &sdk.StreamableClientTransport{Endpoint: e.URL(stage, estate.Runbooks) + estate.ToolPath, DisableStandaloneSSE: true,
		HTTPClient: &http.Client{Transport: basic{e.HTTPClient().Transport, as, origin}}}, nil)
	if err == nil {
		t.Cleanup(func() { s.Close() })
	}
	return s, err
}

func ask(t *testing.T, s *sdk.ClientSession, tool string, arguments any) (string, bool) {
	t.Helper()
	res, err := s.CallTool(t.Context(), &sdk.CallToolParams{Name: tool, Arguments: arguments})
	if err != nil {
		t.Fatal(err)
	}
	return res.Content[0].(*sdk.TextContent).Text, !res.IsError
}

// The official client finds, reads and notes, in each copy on its own; what it wrote,
// and what was refused, is in the state and in the audit log.
func TestRunbooks(t *testing.T) {
	e := serve(t)
	as := e.Credentials(estate.Production, estate.Runbooks)
	s, err := dial(t, e, estate.Production, as, "")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.InitializeResult().ServerInfo.Name; got != estate.ToolServer {
		t.Errorf("it calls itself %q", got)
	}
	l, err := s.ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, x := range l.Tools {
		names = append(names, x.Name)
	}
	if want := []string{"add_note", "find_runbooks", "read_runbook"}; !reflect.DeepEqual(names, want) {
		t.Errorf("it lists %q", names)
	}
	note := map[string]any{"id": "mfa-reset", "text": "Done for jo."}
	for _, x := range []struct {
		tool      string
		arguments any
		has       string
		ok        bool
	}{
		{"find_runbooks", map[string]any{"query": "FACTOR"}, "mfa-reset: Reset a second factor", true},
		{"find_runbooks", map[string]any{"query": "cheese"}, "none", true},
		{"read_runbook", map[string]any{"id": "mfa-reset"}, "Call back", true},
		{"add_note", note, "added", true},
		{"read_runbook", map[string]any{"id": "mfa-reset"}, "Note of svc-helpdesk", true},
		{"read_runbook", map[string]any{"id": "nothing"}, "not-found", false},
		{"add_note", map[string]any{"id": "nothing", "text": "x"}, "not-found", false},
		{"add_note", map[string]any{"id": "mfa-reset", "text": " "}, "input", false},
		{"add_note", map[string]any{"id": 7}, "input", false},
	} {
		if text, ok := ask(t, s, x.tool, x.arguments); ok != x.ok || !strings.Contains(text, x.has) {
			t.Errorf("%s %v: %v %q", x.tool, x.arguments, ok, text)
		}
	}
	if got := e.Copy(estate.Production).State().Runbooks[0].Notes; len(got) != 2 || got[1].Text != "Done for jo." || got[1].Author != estate.ServiceAccount {
		t.Errorf("noted: %+v", got)
	}
	if got := e.Copy(estate.Sandbox).State().Runbooks[0].Notes; len(got) != 1 {
		t.Errorf("the sandbox changed too: %+v", got)
	}
	wantAudit(t, e, estate.Runbooks, "svc-helpdesk runbook.note.add mfa-reset refused input")
	auditor, _ := e.CredentialsOf(estate.Production, estate.Runbooks, estate.ReadOnlyAccount)
	ro, err := dial(t, e, estate.Production, auditor, "")
	if err != nil {
		t.Fatal(err)
	}
	if text, ok := ask(t, ro, "add_note", note); ok || text != "role" {
		t.Errorf("the auditor wrote: %q", text)
	}
	wantAudit(t, e, estate.Runbooks, "auditor runbook.note.add mfa-reset refused role")
	if _, err := dial(t, e, estate.Production, e.Credentials(estate.Sandbox, estate.Runbooks), ""); err == nil {
		t.Error("the sandbox's password opens production")
	}
	wantAudit(t, e, estate.Runbooks, "tool.call  refused unauthenticated")
	if _, err := dial(t, e, estate.Production, as, e.URL(estate.Production, estate.Evil)); err == nil {
		t.Error("a page of the attacker was answered")
	}
	b := newBrowser(t, e, estate.Production, estate.Runbooks)
	events := wantStatus(t, b.do("GET", "/api/events", "", "Authorization", basicOf(auditor)), 200).body
	if !strings.Contains(events, `"action":"runbook.note.add","objects":{"runbook":"mfa-reset"},"outcome":"ok"`) {
		t.Errorf("events: %s", events)
	}
	wantStatus(t, b.get("/login"), 404)
}

func basicOf(c estate.Credentials) string {
	r := &http.Request{Header: http.Header{}, URL: &url.URL{}}
	r.SetBasicAuth(c.Username, c.Password.Reveal())
	return r.Header.Get("Authorization")
}

// What an attacker wrote in a runbook is in the answer, in the voice of the seed, and was
// shown then. What an attacker would have a tool say of itself the server never says.
func TestHostileTools(t *testing.T) {
	e := serve(t)
	c := e.Copy(estate.Production)
	s, err := dial(t, e, estate.Production, e.Credentials(estate.Production, estate.Runbooks), "")
	if err != nil {
		t.Fatal(err)
	}
	list := func() []*sdk.Tool {
		l, err := s.ListTools(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return l.Tools
	}
	clean, n := list(), 0
	read := map[string]any{"id": "mfa-reset"}
	plain, _ := ask(t, s, "read_runbook", read)
	for _, h := range estate.Hostiles() {
		if h.App != estate.Runbooks {
			continue
		}
		n++
		if err := c.SetHostile(h.Name); err != nil {
			t.Fatal(err)
		}
		voices := map[string]bool{}
		for _, seed := range []uint64{0, 1, 2, 1<<64 - 1} {
			c.Seed(seed)
			if !reflect.DeepEqual(list(), clean) {
				t.Errorf("%s changes what the server lists", h.Name)
			}
			if got := c.State().Shown; seed == 0 && len(got) > 0 {
				t.Errorf("%s was shown by a list: %q", h.Name, got)
			}
			words, _ := ask(t, s, "read_runbook", read)
			shown := []string{h.Name}
			if said := c.Sayings(); h.Surface == estate.OnDescription {
				if words != plain || len(said) != 1 || said[0].Item != h.Name || !slices.ContainsFunc(clean, func(x *sdk.Tool) bool { return x.Name == said[0].Tool }) {
					t.Fatalf("%s: %+v, %q", h.Name, said, words)
				}
				words, shown = said[0].Text, []string{}
			} else if len(said) > 0 {
				t.Errorf("%s is said of a tool: %+v", h.Name, said)
			}
			if got := c.State().Shown; !reflect.DeepEqual(got, shown) {
				t.Errorf("%s: %q were shown", h.Name, got)
			}
			if got := estate.Ordered(words); !reflect.DeepEqual(got, h.Marks()) {
				t.Errorf("%s orders %q in %q", h.Name, got, words)
			}
			voices[words] = true
		}
		if len(voices) != 3 {
			t.Errorf("%s has %d voices", h.Name, len(voices))
		}
	}
	if n < 8 || len(estate.Ordered(plain)) > 0 {
		t.Errorf("%d items; without one it orders %q", n, estate.Ordered(plain))
	}
}
