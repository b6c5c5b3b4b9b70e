package server_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/reconcile"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// note has the agent add a note at the CRM.
func (w *worker) note(text string) {
	w.Helper()
	a := action.Action{Surface: action.Egress, Source: "browser", Explained: "a-0", Operation: "crm.note.add", App: "crm", Effect: action.Write, Params: map[string]string{"note": text}}
	if d := w.a.Act(w.Context(), a).Decision; d.Verdict != action.Allow {
		w.Fatalf("%+v", d)
	}
}

// TestSlowAndWordyLog: a log that shows its events late and not in their order, and
// events whose texts are longer than is shown. What is ours is no finding, and what is
// not is one wherever it appears.
//
// Threats: W11, W12 (watch)
func TestSlowAndWordyLog(t *testing.T) {
	c := newCRM(t)
	c.says(nil)
	w := c.start()
	long := strings.Repeat("A note of lines,\r\nand \"more\" of them. é ", 100)
	w.note(long)
	w.note("7")
	ours, late := event(4, fmt.Sprintf(`"what":"note","note":%q`, long)), event(2, `"what":"note","note":"7"`)
	one, six := event(1, `"what":"sign-in"`), event(6, `"what":"sign-in"`)
	for _, log := range [][]string{{one, ours, six}, {one, late, ours, six}, {one, late, ours, six}} {
		if x := c.says(nil, log...); !x.Good() || x.Matched != int64(len(log)-2) {
			t.Errorf("of honest work: %+v, %s", x, x.Failing)
		}
	}
	// By GET, with an answer that was lost.
	if got, err := w.a.Do(t.Context(), action.Request{Method: "GET", Origin: c.url, Path: "/drop/7"}, "", func() action.Outcome {
		return action.Outcome{State: action.Unknown, Detail: "upstream_failed"}
	}); err != nil || got.Decision.Verdict != action.Allow {
		t.Fatalf("%+v, %v", got.Decision, err)
	}
	drop := event(7, `"what":"drop","note":"7"`)
	if x := c.says(nil, one, late, ours, six, drop); !x.Good() || x.Matched != 3 {
		t.Errorf("by GET: %+v", x)
	}
	// In a gap before what was read, and with a text that begins as one of ours.
	w.note(long)
	around := event(3, fmt.Sprintf(`"what":"note","note":%q`, long+"!"))
	x := c.says(nil, one, late, around, ours, six, drop)
	if l := c.lapse(); x.Bypass != 1 || l == nil || !strings.Contains(l.Why, "event 3") {
		t.Fatalf("got %+v, %+v", l, x)
	}
	w.ended()
	// It is not found a second time, after a restart either.
	if err := c.CloseServer(); err != nil {
		t.Fatal(err)
	}
	if err := c.Open(); err != nil {
		t.Fatal(err)
	}
	c.Ready(t)
	if x := c.says(nil, one, late, around, ours, six, drop, event(8, `"what":"sign-in"`)); x.Bypass != 1 || x.Matched != 3 || x.Failing != "" {
		t.Errorf("after a restart: %+v", x)
	}
}

// TestFoundWhileAsked: what is found while nothing is certified, or while people are asked
// already, is answered by those alone who sign over it.
//
// Threats: W11 (watch)
func TestFoundWhileAsked(t *testing.T) {
	c := newCRM(t)
	c.says(nil)
	around := func(id int) string { return event(id, `"what":"note","note":"7"`) }
	log := []string{around(1)}
	if c.says(nil, log...); c.lapse() == nil {
		t.Fatal("no lapse")
	}
	c.Approver(rig.Nobody)
	log = append(log, around(2)) // nothing is certified
	c.says(nil, log...)
	ask := func() approval.Approval {
		c.Helper()
		x := c.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
		if err := c.Server.EndTask(t.Context(), x.ID, "closed", "done"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Server.ProposeDeclared(t.Context(), "helpdesk", "plain-reset", []string{x.ID}); err != nil {
			t.Fatal(err)
		}
		all := c.Pending(t)
		if len(all) != 1 || all[0].Statement.Kind != approval.Certification {
			t.Fatalf("%+v", all)
		}
		return all[0]
	}
	a := ask()
	if why := a.Statement.Details["found.crm"]; !strings.Contains(why, "2 findings, and the first: ") || !strings.Contains(why, "event 1") {
		t.Errorf("who approves reads %q", why)
	}
	log = append(log, around(3)) // they are asked
	c.says(nil, log...)
	if err := c.Sign(t.Context(), a, "ines"); err == nil || !strings.Contains(err.Error(), "since this was asked: 3 findings") {
		t.Errorf("what nobody has read of became live: %v", err)
	}
	a = ask()
	if err := c.Sign(t.Context(), a, "ines"); err != nil {
		t.Fatal(err)
	}
	if x := c.says(nil, log...); !x.Good() || x.Bypass != 3 {
		t.Errorf("answered: %+v", x)
	}
	if why := ask().Statement.Details; why["found.crm"] != "" {
		t.Errorf("asked again: %q", why)
	}
}

// TestLogMoves: who changes what is asked of a log goes on where it was read to, and
// another log takes nothing away of what was found in the one before.
//
// Threats: W11 (watch)
func TestLogMoves(t *testing.T) {
	c := newCRM(t)
	c.says(nil)
	one := event(1, `"what":"sign-in"`)
	c.says(nil, one)
	apply := func(old, new string) {
		c.Helper()
		all, err := c.Resources(func(files map[string][]byte) {
			c.edit(files)
			rig.Replace("connectors.yaml", old, new)(files)
		})
		if err == nil {
			_, err = c.Server.Apply(t.Context(), rig.As("noor"), all)
		}
		if err != nil {
			t.Fatal(err)
		}
		c.Ready(t)
	}
	const path = "    path: /log\n"
	apply(path, path+"    query: {limit: \"500\"}\n")
	x := c.says(nil, one, event(2, `"what":"note","note":"7"`))
	if x.Bypass != 1 || len(x.Findings) != 1 {
		t.Errorf("asked otherwise: %+v", x)
	}
	began := x.Began
	apply(path, "    path: /other\n")
	if x := c.read("crm"); !x.Began.After(began) || x.Bypass != 1 || len(x.Findings) != 1 || x.Open != 1 || x.Good() {
		t.Errorf("another log: %+v", x)
	}
}

// TestLogAfterAnOutage: a log that could not be read for long has more to say than may wait
// at a time. It is read to its end nevertheless, and all of it has its records.
//
// Threats: W13 (watch)
func TestLogAfterAnOutage(t *testing.T) {
	c := newCRM(t, rig.Replace("connectors.yaml", "    everySeconds: 3600\n", "    everySeconds: 3600\n    skewSeconds: 1\n"))
	c.says(nil)
	const batch = reconcile.MaxPending * 3 / 4
	var log []string
	for i := range 2 {
		if err := c.Server.FillNotes(t.Context(), i*batch, batch); err != nil {
			t.Fatal(err)
		}
		for n := i * batch; n < (i+1)*batch; n++ {
			log = append(log, event(n+1, fmt.Sprintf(`"what":"note","note":"%d"`, n)))
		}
		over := time.Now().Add(2 * time.Second)
		rig.Await(t, "the next", func() bool { return time.Now().After(over) })
	}
	pages := func(w http.ResponseWriter, q *http.Request) {
		after, _ := strconv.Atoi(q.URL.Query().Get("after"))
		fmt.Fprintf(w, "[%s]", strings.Join(log[after:min(len(log), after+500)], ","))
	}
	if x := c.says(pages); x.Failing != "" || x.Matched != 2*batch || x.Bypass+x.Missing != 0 {
		t.Errorf("%+v", x)
	}
	// Nor does a crowd hide what nothing explains.
	if err := c.Server.FillNotes(t.Context(), 2*batch, reconcile.MaxPending+batch); err != nil {
		t.Fatal(err)
	}
	log = append(log, event(len(log)+1, `"what":"export everything"`))
	if x := c.says(pages); !strings.Contains(x.Failing, "wait for each other") || x.Bypass != 1 || c.lapse() == nil {
		t.Errorf("in a crowd: %+v", x)
	}
}

// TestWorstAuditState: whatever an application and its people write, what waits to be
// judged fits into the store.
//
// Threats: W13 (watch)
func TestWorstAuditState(t *testing.T) {
	if n, err := server.WorstAuditState(); err != nil || n > ledger.MaxObject {
		t.Errorf("%d bytes, and an object has at most %d: %v", n, ledger.MaxObject, err)
	}
}
