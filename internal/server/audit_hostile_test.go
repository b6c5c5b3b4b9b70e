package server_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/readiness"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// crm is an application whose audit log does as the test says: a list of events, or a
// handler of its own.
type crm struct {
	*reconciled
	mu    sync.Mutex
	lines []string
	odd   http.HandlerFunc
	asked int
	url   string
	edit  func(files map[string][]byte)
}

func newCRM(t *testing.T, more ...func(files map[string][]byte)) *crm {
	t.Helper()
	c := &crm{}
	s := httptest.NewServer(c)
	t.Cleanup(s.Close)
	c.url = s.URL
	c.edit = func(files map[string][]byte) {
		files["connectors.yaml"] = fmt.Appendf(files["connectors.yaml"], `---
apiVersion: sallyport/v1
kind: Connector
metadata: {name: crm, tenant: brightwell}
spec:
  stages: {production: {origins: [{name: main, url: %q, local: true}]}}
  audit:
    path: /log
    after: after
    credential: {source: crm-auditor, as: bearer}
    id: /id
    time: /time
    actor: /who
    event: /what
    accounts: {svc-crm: tickets-helpdesk}
    operations:
      - {event: note, operation: crm.note.add, params: {note: /note}}
      - {event: drop, operation: crm.note.drop, params: {note: /note}}
      - {event: move, operation: crm.note.move, params: {note: /note, to: /to, by: /by, at: /at}}
    ignored: [sign-in]
    everySeconds: 3600
  operations:
    - {name: crm.note.add, method: POST, path: "/notes/{note}", effect: write}
    - {name: crm.note.drop, method: GET, path: "/drop/{note}", effect: write}
    - {name: crm.note.move, method: POST, path: "/notes/{note}/{to}/{by}/{at}", effect: write}
`, s.URL)
		files["credentials.yaml"] = append(files["credentials.yaml"], `---
apiVersion: sallyport/v1
kind: CredentialSource
metadata: {name: crm-auditor, tenant: brightwell}
spec: {type: static-request, connector: crm, secret: {sealed: crm-auditor}}
`...)
		rig.Replace("agent.yaml", "connectors: [iam, tickets]", "connectors: [crm, iam, tickets]")(files)
		rig.Replace("capability.yaml", "  reads: [iam, tickets]", "    - operation: crm.note.add\n      where: {note: {any: true}}\n      max: 20\n    - operation: crm.note.drop\n      where: {note: {any: true}}\n      max: 20\n  reads: [iam, tickets]")(files)
		for _, edit := range more {
			edit(files)
		}
	}
	c.reconciled = newReconciled(t, c.edit)
	if err := c.Server.PutSecret(t.Context(), "", rig.As("sven"), "crm-auditor", []byte(crmToken)); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestAuditorComesLater: who declares the connector does not declare the source with which
// its log is read. Until it is there the log is not read, and that is said.
func TestAuditorComesLater(t *testing.T) {
	var whole []byte
	later := true
	c := newCRM(t, func(files map[string][]byte) {
		whole = files["credentials.yaml"]
		if later {
			files["credentials.yaml"] = whole[:bytes.LastIndex(whole, []byte("---\n"))]
		}
	})
	if x := c.says(nil, event(1, `"what":"sign-in"`)); x.Good() || !strings.Contains(x.Failing, "there is no CredentialSource crm-auditor") || c.asked > 0 {
		t.Errorf("got %+v, asked %d times", x, c.asked)
	}
	later = false
	all, err := c.Resources(c.edit)
	if err == nil {
		_, err = c.Server.Apply(t.Context(), rig.As("sven"), all)
	}
	if err != nil {
		t.Fatal(err)
	}
	if x := c.says(nil, event(1, `"what":"sign-in"`)); !x.Good() {
		t.Errorf("when it is there: %+v", x)
	}
}

const crmToken = "crm-auditors-token"

func (c *crm) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	switch {
	case r.Header.Get("Authorization") != "Bearer "+crmToken || r.Method != "GET" || r.URL.Path != "/log":
		w.WriteHeader(http.StatusUnauthorized)
		return
	case c.odd != nil:
		c.odd(w, r)
		return
	}
	after, _ := strconv.Atoi(r.URL.Query().Get("after"))
	var out []string
	for _, l := range c.lines {
		var e struct{ ID int }
		if json.Unmarshal([]byte(l), &e) == nil && e.ID > after {
			out = append(out, l)
		}
	}
	fmt.Fprintf(w, "[%s]", strings.Join(out, ","))
}

// says sets the log, or what is answered in its place, and reads it.
func (c *crm) says(odd http.HandlerFunc, lines ...string) server.Reconciliation {
	c.Helper()
	c.mu.Lock()
	c.odd, c.lines, c.asked = odd, lines, 0
	c.mu.Unlock()
	return c.read("crm")
}

// event is one of the agent's account, now.
func event(id int, rest string) string {
	return fmt.Sprintf(`{"id":%d,"time":%q,"who":"svc-crm",%s}`, id, time.Now().UTC().Format(time.RFC3339Nano), rest)
}

// TestUnreadableAuditLog: whatever an application answers in the place of its log, it is
// not taken for agreement, nothing else is asked for it, and it costs no more than it
// may. What can be read afterwards is.
//
// Threats: W13 (watch)
func TestUnreadableAuditLog(t *testing.T) {
	c := newCRM(t)
	if x := c.says(nil, event(1, `"what":"sign-in"`)); !x.Good() {
		t.Fatalf("%+v", x)
	}
	elsewhere := 0
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	defer other.Close()
	text := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, s) }
	}
	one := c.lines[0]
	for _, o := range []struct {
		name string
		odd  http.HandlerFunc
		want string
	}{
		{"error", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); io.WriteString(w, "[]") }, "answers 500"},
		{"refusal", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }, "answers 401"},
		{"nothing", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, "answers 204"},
		{"redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, 302) }, "answers 302"},
		{"refresh", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", other.URL)
			w.Header().Set("Refresh", "0; url="+other.URL)
			io.WriteString(w, "<html>")
		}, "json"},
		{"garbage", text("\x1b[2J\u202e not json"), "json"},
		{"other schema", text(`{"events":[]}`), "no list of events"},
		{"cut", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "["+one)
		}, "EOF"},
		{"without an end", func(w http.ResponseWriter, _ *http.Request) {
			for range 1000 {
				if _, err := io.WriteString(w, strings.Repeat(" ", 1<<16)); err != nil {
					return
				}
			}
		}, "limit"},
		{"a bomb", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			for range 1000 {
				z.Write(make([]byte, 1<<16))
			}
			z.Close()
		}, "limit"},
		{"the credential", text("[" + one + "," + event(2, `"what":"\u0063rm-auditors-token"`) + "]"), "repeats the credential"},
		{"the credential as a member", text("[" + one + "," + event(2, `"what":"note","note":{"a":[{"`+crmToken+`":1}]}`) + "]"), "repeats the credential"},
		{"the credential as a member twice", text(`[{"` + crmToken + `":1,"` + crmToken + `":2}]`), "the answer repeats the credential"},
		{"the credential in a head that is none", func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				io.WriteString(conn, "HTTP/1.1 200 OK\r\n"+crmToken+"\r\n\r\n")
				conn.Close()
			}
		}, "the answer repeats the credential"},
		{"one without a time", text("[" + one + `,{"id":2,"who":"svc-crm","what":"note"}]`), "no time"},
		{"the future", text(strings.Replace("["+one+","+event(2, `"what":"sign-in"`)+"]", `{"id":2,"time":"20`, `{"id":2,"time":"21`, 1)), "clock is wrong"},
		{"another clock", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(time.Minute).UTC().Format(http.TimeFormat))
			io.WriteString(w, "["+one+"]")
		}, "set the clocks right"},
	} {
		x := c.says(o.odd)
		if !strings.Contains(x.Failing, o.want) || strings.ContainsFunc(x.Failing, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%s: got %q, want %q", o.name, x.Failing, o.want)
		}
		if c.asked > 60 {
			t.Errorf("%s: asked %d times", o.name, c.asked)
		}
	}
	if elsewhere > 0 {
		t.Errorf("another server was asked %d times", elsewhere)
	}
	if l := c.lapse(); l != nil {
		t.Errorf("lapsed: %+v", l)
	}
	// For too long: it is said once, and the agent is not ready.
	if err := c.Server.AuditUnreadSince("crm", time.Now().Add(-11*time.Hour)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if x := c.says(text("no")); !x.Stale || x.Good() {
			t.Errorf("after too long: %+v", x)
		}
	}
	if got := c.audits("audit.unread"); len(got) != 1 || !strings.Contains(got[0], `"connector":"crm"`) {
		t.Errorf("on record: %q", got)
	}
	if k := c.condition(); !saw(k, readiness.Fail, "the audit log of crm was not read for 11 hours") {
		t.Errorf("%+v", k.Findings)
	}
	// What happened meanwhile is found when it can be read.
	if x := c.says(nil, one, event(2000, `"what":"note","note":"7"`)); x.Failing != "" || x.Stale || x.Bypass != 1 {
		t.Errorf("afterwards: %+v", x)
	}
	if l := c.lapse(); l == nil || l.Code != "bypass" || !strings.Contains(l.Why, "crm.note.add note=7") {
		t.Errorf("got %+v", l)
	}
	// A log without an end is read on the next time, and is not said to be read.
	last := c.lines[1]
	endless := func(w http.ResponseWriter, r *http.Request) {
		after, _ := strconv.Atoi(r.URL.Query().Get("after"))
		if after < 2000 {
			io.WriteString(w, "["+last+"]")
			return
		}
		fmt.Fprintf(w, "[%s]", event(after+1, `"what":"sign-in"`))
	}
	if x := c.says(endless); !strings.Contains(x.Failing, "goes on after") || x.Last != "2049" || c.asked > 60 {
		t.Errorf("without an end: asked %d times, %+v", c.asked, x)
	}
}

// TestRewrittenAuditLog: a log that is not the one that was read before ends the
// certification of who acts there, and is read anew.
//
// Threats: W12 (watch)
func TestRewrittenAuditLog(t *testing.T) {
	c := newCRM(t, rig.Replace("connectors.yaml", "    everySeconds: 3600\n", "    everySeconds: 3600\n    skewSeconds: 1\n    lateSeconds: 1\n"))
	one, two, other := event(1, `"what":"sign-in"`), event(2, `"what":"sign-in"`), event(2, `"what":"note","note":"7"`)
	for _, o := range []struct {
		name   string
		before []string
		after  []string
		want   string
	}{
		{"cut off", []string{one, two}, []string{one}, "event 2, which was read before, is not there any more"},
		{"edited", []string{one, two}, []string{one, other}, "event 2 is not what it was"},
		{"all gone", []string{one}, nil, "event 1, which was read before, is not there any more"},
		{"back within a page", []string{one}, []string{one, event(4, `"what":"note"`), event(3, `"what":"note"`)}, "event 3 follows event 4: ids go back"},
	} {
		t.Run(strings.ReplaceAll(o.name, " ", "_"), func(t *testing.T) {
			if x := c.says(nil, o.before...); x.Failing != "" || !x.Good() {
				t.Fatalf("%+v", x)
			}
			var x server.Reconciliation
			rig.Await(t, "it to be older than the log may be late", func() bool { x = c.says(nil, o.after...); return c.lapse() != nil })
			if l := c.lapse(); l == nil || l.Code != "rewritten" || !strings.Contains(l.Why, "the audit log of crm was rewritten: "+o.want) || x.Good() {
				t.Errorf("got %+v, want %q; %+v", l, o.want, x)
			}
			if k := c.condition(); !saw(k, readiness.Fail, "the audit log of crm is not the one") {
				t.Errorf("%+v", k.Findings)
			}
			c.certify()
			if x := c.says(nil); x.Failing != "" || x.Bypass != 0 {
				t.Errorf("read anew: %+v", x)
			}
		})
	}
}

// TestAgentsAccounts: whose an event is. An account that was made for a task is the
// agent's of its lease; one that only says so is everybody's who acts there. What a
// thief has the application write cannot turn the finding into something smaller.
//
// Threats: W11 (watch)
func TestAgentsAccounts(t *testing.T) {
	c := newCRM(t)
	w := c.start()
	label, err := c.Server.LeaseLabel(t.Context(), w.id, "tickets-helpdesk")
	if err != nil || label == "" {
		t.Fatal(label, err)
	}
	c.says(nil)
	who := func(name string) string {
		return strings.Replace(event(0, `"what":"note","note":"7"`), `"who":"svc-crm"`, `"who":`+name, 1)
	}
	var all []string
	for i, o := range []struct {
		name, event, why string // why is empty if nothing is found
	}{
		{"another person", who(`"ines"`), ""},
		{"nobody", who(`null`), ""},
		{"a list", who(`["svc-crm"]`), ""},
		{"the account", event(0, `"what":"note","note":"7"`), "crm.note.add note=7 by svc-crm"},
		{"in another case", who(`"SVC-CRM"`), "crm.note.add note=7 by SVC-CRM"},
		{"made for a task", who(`"` + label + `"`), "by " + label},
		{"made for no task that is known", who(`"` + label + `x"`), "by " + label + "x"},
		{"a label that is none", who(`"` + label + `\u0000\u001b[2J"`), `by ` + label + `\x00\x1b[2J`},
		{"an unknown event", event(0, `"what":"export everything"`), "export everything by svc-crm"},
		{"no event", event(0, `"what":{}`), "the connector does not say what such an event is"},
		{"an event that does not say of what", event(0, `"what":"note","note":["a"]`), "it does not say note"},
		{"orders in what it is of", event(0, `"what":"note","note":"a\u001b[2J"`), `note=a\x1b[2J by svc-crm`},
		{"terminal's orders", event(0, `"what":"\u001b[2J\u202e"`), `\x1b[2J\u202e by svc-crm`},
		{"a long one", event(0, `"what":"`+strings.Repeat("a", 100_000)+`"`), strings.Repeat("a", 256) + " by svc-crm"},
		{"a long text", event(0, `"what":"note","note":"`+strings.Repeat("a", 100_000)+`"`), "note=" + strings.Repeat("a", 252) + " by svc-crm"},
	} {
		all = append(all, strings.Replace(o.event, `"id":0`, fmt.Sprintf(`"id":%d`, i+1), 1))
		x := c.says(nil, all...)
		l := c.lapse()
		switch {
		case x.Failing != "":
			t.Errorf("%s: cannot be read: %s", o.name, x.Failing)
		case o.why == "" && l != nil:
			t.Errorf("%s: %+v", o.name, l)
		case o.why != "" && (l == nil || !strings.Contains(l.Why, o.why) || strings.ContainsFunc(l.Why, func(r rune) bool { return r < ' ' || r > '~' })):
			t.Errorf("%s: got %+v, want %q", o.name, l, o.why)
		}
		if l != nil {
			c.certify()
		}
	}
	w.ended()
	// Many at once are one record, which names some of them, and has room for them
	// however much the application had to say.
	long := strings.Repeat("é", 128)
	for i := range 900 {
		all = append(all, event(100+i, fmt.Sprintf(`"what":"move","note":%q,"to":%q,"by":%q,"at":%q`, long, long, long, long)))
	}
	x := c.says(nil, all...)
	records := c.audits("audit.bypass")
	if l := c.lapse(); x.Bypass != 912 || len(x.Findings) > 20 || l == nil {
		t.Errorf("%d found, %d named, %d bytes, lapse %+v; %s", x.Bypass, len(x.Findings), len(records[len(records)-1]), l, x.Failing)
	}
	// So it is with many that agree.
	if x, err := c.Server.KeepPairs(t.Context(), "crm", 2000); err != nil || x != 2000 {
		t.Errorf("%d of 2000 pairs are on record: %v", x, err)
	}
}
