package server_test

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/readiness"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// reconciled is a rig whose server reads the estate's audit logs, with an agent that is
// certified without a browser. Its tasks have real sessions at the estate, and what the
// gate lets through is sent there.
type reconciled struct {
	*rig.Rig
	*testing.T
	cert certify.Certification
}

func newReconciled(t *testing.T, edit func(map[string][]byte)) *reconciled {
	t.Helper()
	r := &reconciled{T: t, Rig: rig.New(t, rig.Options{Audit: true, Edit: edit})}
	r.Ready(t)
	r.certify()
	return r
}

func (r *reconciled) certify() {
	r.Helper()
	x := r.OpenTask(r.T, rig.Intent(action.Sandbox, "jo", "4711"))
	if _, err := r.Server.StartAsker(r.Context(), x.ID); err != nil {
		r.Fatal(err)
	}
	if err := r.Server.EndTask(r.Context(), x.ID, task.Closed, "done"); err != nil {
		r.Fatal(err)
	}
	c, err := r.Server.ProposeDeclared(r.Context(), "helpdesk", "plain-reset", []string{x.ID})
	if err != nil {
		r.Fatal(err)
	}
	rig.Await(r.T, "the certification to become live", func() bool {
		r.cert = r.Certification(r.T, c.ID)
		return r.cert.State == certify.Live
	})
}

// signedOver is what the approvers of the certification were told of the one before.
func (r *reconciled) signedOver() string {
	r.Helper()
	a, err := r.Server.Approval(r.Context(), "", r.cert.Approval)
	if err != nil {
		r.Fatal(err)
	}
	return a.Statement.Details["before"]
}

// worker is a task in production, signed in to the ticket queue by its lease.
type worker struct {
	*reconciled
	id   string
	a    *server.Asker
	http *http.Client
	put  func(*http.Request) error // its session
}

func (r *reconciled) start() *worker {
	r.Helper()
	x := r.OpenTask(r.T, rig.Intent(action.Production, "jo", "4711"))
	a, put, err := r.Server.StartSignedIn(r.Context(), x.ID)
	if err != nil {
		r.Fatal(err)
	}
	c := r.Estate.HTTPClient()
	c.Jar = nil
	return &worker{r, x.ID, a, c, put}
}

var metaToken = regexp.MustCompile(`<meta name="csrf-token" content="([^"]+)">`)

// send sends a request with the task's session, whatever the gate says.
func (w *worker) send(method, path string, form url.Values) (int, string) {
	w.Helper()
	q, err := http.NewRequestWithContext(w.Context(), method, w.Estate.URL(estate.Production, estate.Tickets)+path, strings.NewReader(form.Encode()))
	if err != nil {
		w.Fatal(err)
	}
	if form != nil {
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if err := w.put(q); err != nil {
		w.Fatal(err)
	}
	resp, err := w.http.Do(q)
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func (w *worker) form(text string) url.Values {
	w.Helper()
	_, page := w.send("GET", "/tickets/4711", nil)
	m := metaToken.FindStringSubmatch(page)
	if m == nil {
		w.Fatalf("no token in %.300s", page)
	}
	return url.Values{"_csrf": {m[1]}, "body": {text}}
}

// ended waits until the task is revoked, with its credentials.
func (w *worker) ended() {
	w.Helper()
	rig.Await(w.T, "the end of the task", func() bool {
		y, err := w.Server.Task(w.Context(), "", w.id)
		return err == nil && y.State == task.Revoked
	})
}

const comments = "/tickets/4711/comments"

// comment comments on the ticket through the gate. during, if not nil, runs when it was
// sent and its outcome is not on record.
func (w *worker) comment(text string, during func()) action.Decision {
	w.Helper()
	f := w.form(text)
	got, err := w.a.Do(w.Context(), action.Request{Method: "POST", Origin: w.Estate.URL(estate.Production, estate.Tickets), Path: comments}, f.Encode(), func() action.Outcome {
		status, _ := w.send("POST", comments, f)
		if during != nil {
			during()
		}
		return action.Outcome{State: action.Done, Status: status}
	})
	if err != nil {
		w.Fatal(err)
	}
	return got.Decision
}

// around does the same with the agent's session and without the doors.
func (w *worker) around(path, text string) {
	w.Helper()
	if status, body := w.send("POST", path, w.form(text)); status != http.StatusSeeOther {
		w.Fatalf("got %d: %.300s", status, body)
	}
}

// read reads the logs now and returns how one agrees.
func (r *reconciled) read(name string) server.Reconciliation {
	r.Helper()
	all, err := r.Server.Reconcile(r.Context(), "", rig.As("mara"), "")
	if err != nil {
		r.Fatal(err)
	}
	i := slices.IndexFunc(all, func(x server.Reconciliation) bool { return x.Connector == name })
	if i < 0 {
		r.Fatalf("there is no %s in %+v", name, all)
	}
	return all[i]
}

func (r *reconciled) lapse() *certify.Lapse {
	r.Helper()
	return r.Certification(r.T, r.cert.ID).Lapse
}

// audits are the records of one log, without those that only say how far it is read.
func (r *reconciled) audits(typ string) (out []string) {
	r.Helper()
	for _, e := range r.Records(r.T, 0) {
		if e.Type == typ {
			out = append(out, string(e.Body))
		}
	}
	return out
}

func (r *reconciled) condition() readiness.Result {
	r.Helper()
	got, err := r.Server.Readiness(r.Context(), "", "helpdesk", false)
	if err != nil {
		r.Fatal(err)
	}
	for _, c := range got.Conditions {
		if c.ID == "runtime-policy" {
			return c
		}
	}
	r.Fatal("no such condition")
	panic("unreachable")
}

func saw(c readiness.Result, state readiness.State, text string) bool {
	return slices.ContainsFunc(c.Findings, func(f readiness.Finding) bool { return f.State == state && strings.Contains(f.Saw, text) })
}

// TestAroundTheDoors: somebody uses the agent's own session at the application without
// the doors, beside the agent's work and with the very request that it was let through.
// The application's log shows one more than is on record, and with that the agent's
// authority is gone.
//
// Threats: W11 (watch)
func TestAroundTheDoors(t *testing.T) {
	r := newReconciled(t, nil)
	if x := r.read("tickets"); !x.Good() || x.Matched != 0 {
		t.Fatalf("before anything: %+v", x)
	}
	w := r.start()
	if d := w.comment("done", nil); d.Verdict != action.Allow {
		t.Fatalf("%+v", d)
	}
	// One is in flight while the log is read: it is not judged before its outcome.
	if d := w.comment("done", func() {
		if x := r.read("tickets"); x.Matched != 1 || x.Bypass != 0 {
			t.Errorf("while one is in flight: %+v", x)
		}
	}); d.Verdict != action.Allow {
		t.Fatalf("%+v", d)
	}
	if x := r.read("tickets"); !x.Good() || x.Matched != 2 || x.Bypass+x.Missing != 0 {
		t.Fatalf("of honest work: %+v", x)
	}
	if c := r.condition(); !saw(c, readiness.Pass, "2 effects of the agent in the audit log of tickets") {
		t.Errorf("%+v", c.Findings)
	}

	w.around(comments, "done")
	if n, err := r.Server.ReadAuditUnkept(t.Context(), "tickets"); n != 1 || err != nil {
		t.Fatalf("a reading that a crash cuts: %d, %v", n, err)
	}
	if r.lapse() != nil {
		t.Fatal("lapsed by what is not on record")
	}
	x := r.read("tickets")
	l := r.lapse()
	if l == nil || l.Code != "bypass" || x.Bypass != 1 || x.Open != 1 || len(x.Findings) != 1 {
		t.Fatalf("got %+v, %+v", l, x)
	}
	f := x.Findings[0]
	for _, part := range []string{"tickets", "event " + f.Event, "tickets.ticket.comment ticket=4711", "svc-helpdesk", f.Time.Format("2006-01-02T15:04:05Z"), "nothing on record explains it"} {
		if !strings.Contains(l.Why, part) {
			t.Errorf("%q does not say %q", l.Why, part)
		}
	}
	next, err := w.a.Do(t.Context(), action.Request{Method: "POST", Origin: r.Estate.URL(estate.Production, estate.Tickets), Path: comments}, "_csrf=a&body=again", func() action.Outcome {
		t.Error("it is dispatched")
		return action.Outcome{State: action.Unknown}
	})
	if d := next.Decision; err != nil || d.Verdict != action.Deny || d.Layer != action.LayerAuthority {
		t.Errorf("the next effect: %+v, %v", d, err)
	}
	w.ended()
	r.NoSessions(t, action.Production)
	if _, err := r.Server.OpenTask(t.Context(), "", rig.As("dana"), rig.Intent(action.Production, "jo", "4711")); err == nil {
		t.Error("a task was opened afterwards")
	}
	if c := r.condition(); c.State != readiness.Fail || !saw(c, readiness.Fail, "tickets saw event "+f.Event) {
		t.Errorf("readiness did not turn: %+v", c.Findings)
	}
	// Read again it is not counted again, and after a certification it is answered.
	if x := r.read("tickets"); x.Bypass != 1 || len(r.audits("audit.bypass")) != 1 {
		t.Errorf("read again: %+v", x)
	}
	r.certify()
	if why := r.signedOver(); !strings.Contains(why, "event "+f.Event) {
		t.Errorf("the approvers of the next one signed over %q", why)
	}
	if x := r.read("tickets"); !x.Good() || x.Bypass != 1 {
		t.Errorf("after a certification: %+v", x)
	}
	if c := r.condition(); saw(c, readiness.Fail, "saw event") {
		t.Errorf("after a certification: %+v", c.Findings)
	}
	if r.lapse() != nil {
		t.Error("an old finding ended the new certification")
	}

	// Another operation, of no grant of the agent.
	w = r.start()
	w.around("/tickets/4712/close", "")
	if x := r.read("tickets"); x.Bypass != 2 || r.lapse() == nil {
		t.Errorf("an effect outside of every grant: %+v", x)
	}
	w.ended()
}

// TestToolIsAnEffect: what a tool of the application did is in its log as anything else,
// and no way around the doors.
func TestToolIsAnEffect(t *testing.T) {
	r := newReconciled(t, nil)
	r.read("tickets")
	w := r.start()
	f := w.form("done")
	a := action.Action{Surface: action.MCP, Source: "harness", Operation: "tickets.ticket.comment", App: "tickets", Effect: action.Write, Params: map[string]string{"ticket": "4711", "text": "done"}}
	if d := w.a.Act(t.Context(), a).Decision; d.Verdict != action.Allow {
		t.Fatalf("%+v", d)
	}
	w.send("POST", comments, f)
	if x := r.read("tickets"); !x.Good() || x.Matched != 1 || x.Bypass+x.Missing != 0 {
		t.Errorf("%+v", x)
	}
}

// TestStolenPassword: somebody signs in to the application by the agent's account, and
// does nothing yet that is on its log. It is no sign-in of a lease, also if it is made to
// look like one that is over.
//
// Threats: W11 (watch)
func TestStolenPassword(t *testing.T) {
	r := newReconciled(t, func(files map[string][]byte) {
		// Another account of the agent, by another of its credentials.
		files["connectors.yaml"] = bytes.ReplaceAll(files["connectors.yaml"], []byte("    credential: {source: tickets-auditor"), []byte("    accounts: {auditor: iam-helpdesk}\n    credential: {source: tickets-auditor"))
	})
	r.read("tickets")
	w := r.start()
	label, err := r.Server.LeaseLabel(t.Context(), w.id, "tickets-helpdesk")
	if err != nil {
		t.Fatal(err)
	}
	r.signIn(estate.ReadOnlyAccount, label)
	if x, l := r.read("tickets"), r.lapse(); l == nil || !strings.Contains(l.Why, "session.sign-in by auditor") || !strings.Contains(l.Why, "the lease that it names is of another account") {
		t.Errorf("under the label of another account: %+v, %+v", l, x)
	}
	w.ended()
	r.certify()
	w = r.start()
	if label, err = r.Server.LeaseLabel(t.Context(), w.id, "tickets-helpdesk"); err != nil {
		t.Fatal(err)
	}
	others, err := r.Server.LeaseLabel(t.Context(), w.id, "iam-helpdesk")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Server.EndTask(t.Context(), w.id, task.Closed, "done"); err != nil {
		t.Fatal(err)
	}
	if x := r.read("tickets"); !x.Good() || r.lapse() != nil {
		t.Fatalf("sign-ins of the boundary: %+v", x)
	}
	// Behind the lease's end by more than clocks may differ.
	if err := r.Server.LeaseRevokedBefore(t.Context(), label, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	for _, o := range []struct{ agent, why string }{
		{"Mozilla/5.0", "no lease signed in so"},
		{label + "x", "no lease signed in so"},
		{others, "no lease signed in so"},
		{label, "was not open then"},
		{label + "/sweep", "was not open then"},
	} {
		r.signIn(estate.ServiceAccount, o.agent)
		x := r.read("tickets")
		if l := r.lapse(); l == nil || l.Code != "bypass" || !strings.Contains(l.Why, "session.sign-in by svc-helpdesk") || !strings.Contains(l.Why, o.why) {
			t.Errorf("%s: got %+v, want %q; %+v", o.agent, l, o.why, x)
		}
		r.certify()
	}
}

// signIn signs in to the ticket queue with the password of an account.
func (r *reconciled) signIn(account, agent string) {
	r.Helper()
	c, at := r.Estate.HTTPClient(), r.Estate.URL(estate.Production, estate.Tickets)+"/login"
	who, _ := r.Estate.CredentialsOf(estate.Production, estate.Tickets, account)
	do := func(method string, form url.Values) (int, string) {
		q, err := http.NewRequestWithContext(r.Context(), method, at, strings.NewReader(form.Encode()))
		if err != nil {
			r.Fatal(err)
		}
		q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		q.Header.Set("User-Agent", agent)
		resp, err := c.Do(q)
		if err != nil {
			r.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			r.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	_, page := do("GET", nil)
	m := regexp.MustCompile(`name="_csrf" value="([^"]+)"`).FindStringSubmatch(page)
	if m == nil {
		r.Fatalf("no form: %.300s", page)
	}
	if status, body := do("POST", url.Values{"_csrf": {m[1]}, "username": {who.Username}, "password": {who.Password.Reveal()}}); status != http.StatusSeeOther {
		r.Fatalf("got %d: %.300s", status, body)
	}
}

// TestMissingFromTheLog: what is on record as done, and the application does not show, is
// said and ends nothing; that its log shows everything is not claimed any more.
//
// Threats: W12 (watch)
func TestMissingFromTheLog(t *testing.T) {
	r := newReconciled(t, func(files map[string][]byte) {
		files["connectors.yaml"] = bytes.ReplaceAll(files["connectors.yaml"], []byte("    after: after\n"), []byte("    after: after\n    lateSeconds: 1\n    skewSeconds: 1\n"))
	})
	r.read("tickets")
	w := r.start()
	got, err := w.a.Do(t.Context(), action.Request{Method: "POST", Origin: r.Estate.URL(estate.Production, estate.Tickets), Path: comments}, "_csrf=a&body=lost", func() action.Outcome {
		return action.Outcome{State: action.Done, Status: http.StatusSeeOther}
	})
	if err != nil || got.Decision.Verdict != action.Allow {
		t.Fatal(got.Decision, err)
	}
	var x server.Reconciliation
	rig.Await(t, "the time in which it may show", func() bool { x = r.read("tickets"); return x.Missing > 0 })
	if x.Missing != 1 || x.Bypass != 0 || x.Good() || len(x.Findings) != 1 || x.Findings[0].Action != got.Action.ID || r.lapse() != nil {
		t.Errorf("got %+v, %+v", x, r.lapse())
	}
	if c := r.condition(); c.State == readiness.Pass || !saw(c, readiness.Unknown, "1 effect on record as done that the audit log of tickets does not show") {
		t.Errorf("%+v", c.Findings)
	}
	if x := r.read("tickets"); x.Missing != 1 || len(r.audits("audit.missing")) != 1 {
		t.Errorf("read again: %+v", x)
	}
}

// TestAuditAfterACrash: a crash between the record of a finding and its lapse is made
// good before anything is served.
//
// Threats: W11 (watch)
func TestAuditAfterACrash(t *testing.T) {
	r := newReconciled(t, nil)
	r.read("iam")
	if err := r.Server.OweLapse(t.Context(), "iam", "helpdesk"); err != nil {
		t.Fatal(err)
	}
	if err := r.CloseServer(); err != nil {
		t.Fatal(err)
	}
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	if l := r.lapse(); l == nil || l.Code != "bypass" {
		t.Errorf("got %+v", l)
	}
	// The log goes on where it was read to, also in another process.
	if x := r.read("iam"); x.Failing != "" || x.Bypass != 0 {
		t.Errorf("after a restart: %+v", x)
	}
	r.Ready(t)
	r.certify()
	if err := r.CloseServer(); err != nil {
		t.Fatal(err)
	}
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	if l := r.lapse(); l != nil {
		t.Errorf("the same finding ended the next certification: %+v", l)
	}
}
