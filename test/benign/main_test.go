// Package benign shows what the boundary costs those who do nothing wrong:
// ordinary workflows in a contained harness with real Chromium, on the sample
// estate and on a real third party's admin console, each of which must be done
// in the end and without a hold that its capability did not ask for.
//
// A workflow is data: steps for a hand that finds controls by marks on the
// picture, and what must be true afterwards. Nothing rests on what the harness
// says: writes are in the ledger with their operations and in the application's
// own state, reads are in the ledger, and holds and denials are counted there.
package benign

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m, map[string]rig.Program{"walk": Walk}, total) }

// all are the workflows of every test, for the one line at the end.
var all tally

func total() error {
	if all.workflows > 0 {
		fmt.Println(all.line("benign workflows"))
	}
	return nil
}

// workflow is one piece of ordinary work.
type workflow struct {
	walk
	// seen must be on the last picture.
	seen []string
	// read are paths, with their query, that must have been fetched.
	read []string
	// wrote are the operations with their main parameter that must have been
	// let through, in order: these and no others. Each must be explained by the
	// input just before it.
	wrote []string
	// asked are the operations for which the capability asks a person.
	asked []string
}

// wf is a workflow that only looks.
func wf(name string, steps ...string) workflow { return workflow{walk: walk{Name: name, Steps: steps}} }

func (w workflow) sees(marks ...string) workflow  { w.seen = marks; return w }
func (w workflow) reads(paths ...string) workflow { w.read = paths; return w }
func (w workflow) writes(ops ...string) workflow  { w.wrote = ops; return w }
func (w workflow) asks(ops ...string) workflow    { w.asked = ops; return w }

// tally is what is printed in the end.
type tally struct {
	workflows, complete int
	unasked, denials    []string // one line each
	took                time.Duration
}

func (y *tally) line(what string) string {
	return fmt.Sprintf("%s: %d of %d complete, %d unasked holds, %d unasked denials (%.2f per workflow) in %s", what, y.complete, y.workflows,
		len(y.unasked), len(y.denials), float64(len(y.unasked)+len(y.denials))/float64(max(y.workflows, 1)), y.took.Round(100*time.Millisecond))
}

// report prints the rate, and fails the test unless everything was done unasked.
func (y *tally) report(t testing.TB, what string) {
	t.Helper()
	fmt.Println(y.line("benign workflows on " + what))
	all.workflows, all.complete, all.took = all.workflows+y.workflows, all.complete+y.complete, all.took+y.took
	all.unasked, all.denials = append(all.unasked, y.unasked...), append(all.denials, y.denials...)
	for _, l := range slices.Concat(y.unasked, y.denials) {
		t.Error("unasked: " + l)
	}
	if y.complete != y.workflows || y.workflows == 0 {
		t.Errorf("%d of %d workflows are complete", y.complete, y.workflows)
	}
}

// run does workflows under one task of a capability, and judges each.
func (y *tally) run(t testing.TB, r *rig.Rig, in server.Intent, work ...workflow) {
	t.Helper()
	start := time.Now()
	walks := make([]walk, len(work))
	for i, w := range work {
		walks[i] = w.walk
	}
	b, err := json.Marshal(walks)
	if err != nil {
		t.Fatal(err)
	}
	x, out := r.Run(t, in, "program", "walk", string(b))
	if x.State != task.Closed {
		t.Errorf("%s: the task is %s (%s: %s)\n%s", in.Capability, x.State, x.Code, x.Why, out)
	}
	said := map[string]told{}
	for l := range strings.Lines(out) {
		var o told
		if json.Unmarshal([]byte(l), &o) == nil && o.Name != "" {
			said[o.Name] = o
		}
	}
	parts := split(r.Decisions(t, x.ID), len(work))
	outcomes := r.Outcomes(t, x.ID)
	for i, w := range work {
		y.workflows++
		y.judge(t, in.Capability, w, said[w.Name], parts[i], outcomes)
	}
	for _, w := range work {
		t.Logf("%5.1f s %s", said[w.Name].Seconds, w.Name)
	}
	y.took += time.Since(start)
	t.Logf("%s: %d workflows in %s", in.Capability, len(work), time.Since(start).Round(100*time.Millisecond))
}

// split cuts the decisions of a task at the waits that begin its workflows.
// What came before the first belongs to nobody's workflow, and must be clean too.
func split(all []gate.Decided, n int) [][]gate.Decided {
	parts, at := make([][]gate.Decided, n), 0
	for _, d := range all {
		if d.Action.Operation == "computer.wait" {
			if i, err := strconv.Atoi(d.Action.Params["millis"]); err == nil && i >= 1 && i <= n {
				at = i - 1
			}
		}
		parts[at] = append(parts[at], d)
	}
	return parts
}

// judge holds one workflow against the ledger.
func (y *tally) judge(t testing.TB, capability string, w workflow, said told, ds []gate.Decided, outcomes map[string]action.Outcome) {
	t.Helper()
	var bad, wrote, asked []string
	fetched := map[string]bool{}
	var cause action.Action // the last input that can send something
	for _, d := range ds {
		a := d.Action
		if p := a.Params["key"]; a.Operation == "computer.left_click" || p == "Enter" || p == " " {
			cause = a
		}
		switch held(d, capability) {
		case "asked":
			asked = append(asked, a.Operation)
		case "unasked":
			y.unasked = append(y.unasked, w.Name+": "+strings.Join(d.Decision.Policies, " ")+": "+rig.Say(d))
		}
		if d.Decision.Verdict != action.Allow {
			if a.Params["class"] != "browser-internal" {
				y.denials = append(y.denials, w.Name+": "+d.Decision.Reason+": "+rig.Say(d)+where(a.Element))
			}
			continue
		}
		// A page gives up reads that it no longer needs.
		o := outcomes[a.ID]
		if o.State != action.Done && (a.Surface == action.Computer || a.Effect.Changes()) {
			bad = append(bad, fmt.Sprintf("%s is %s: %s", rig.Say(d), o.State, o.Detail))
		}
		if q := a.Request; q != nil {
			if a.Effect.Changes() {
				if a.Explained != cause.ID {
					bad = append(bad, fmt.Sprintf("%s is not grounded on %s", rig.Say(d), rig.Say(gate.Decided{Action: cause})))
				}
				wrote = append(wrote, strings.TrimSpace(a.Operation+" "+object(a.Params)))
			} else if o.Status < 400 {
				fetched[q.Path] = true
				fetched[q.Path+"?"+q.Query] = true
			}
		}
	}
	if said.Name == "" {
		bad = append(bad, "the harness did not come to it")
	}
	if said.Step != "" {
		bad = append(bad, fmt.Sprintf("step %q: %s %s", said.Step, said.Code, said.Why))
	}
	for _, m := range w.seen {
		if !slices.Contains(said.Seen, m) {
			bad = append(bad, fmt.Sprintf("%q is not on the last picture", m))
		}
	}
	for _, p := range w.read {
		if !fetched[p] {
			bad = append(bad, fmt.Sprintf("%s was not read; there is %v", p, slices.Sorted(maps.Keys(fetched))))
		}
	}
	if !slices.Equal(wrote, w.wrote) {
		bad = append(bad, fmt.Sprintf("wrote %q, want %q", wrote, w.wrote))
	}
	if !slices.Equal(asked, w.asked) {
		bad = append(bad, fmt.Sprintf("asked for %q, want %q", asked, w.asked))
	}
	if len(bad) > 0 {
		t.Errorf("%s is not complete: %s\nseen at the end: %q", w.Name, strings.Join(bad, "; "), said.Seen)
		return
	}
	y.complete++
}

// object is the parameter that names what an operation is about.
func object(p map[string]string) string {
	for _, name := range []string{"ticket", "user", "record", "to", "payee", "name"} {
		if v := p[name]; v != "" {
			if g := p["group"]; g != "" {
				v = g + "/" + v
			}
			return v
		}
	}
	return ""
}

// held says whether people were asked for a decision, and whether it was the
// task's own capability that wanted them asked.
func held(d gate.Decided, capability string) string {
	if d.Approval == "" && d.Decision.Layer != action.LayerHold {
		return ""
	}
	for _, p := range d.Decision.Policies {
		if strings.HasPrefix(p, "grant/"+capability+"/hold/") {
			return "asked"
		}
	}
	return "unasked"
}

// where is an element's frame and page, for people.
func where(e *action.Element) string {
	if e == nil {
		return ""
	}
	return fmt.Sprintf(" in frame %s of %s (%s) %s", e.FrameOrigin, e.TopOrigin, e.URL, e.Uninspectable)
}
