package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Records reads the ledger from seq on.
func (r *Rig) Records(t testing.TB, from int64) []record.Entry {
	t.Helper()
	log, err := r.Server.Log("")
	if err != nil {
		t.Fatal(err)
	}
	var out []record.Entry
	if err := log.Entries(context.WithoutCancel(t.Context()), from, func(e record.Entry) error { out = append(out, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// Decisions reads every decision of a task from the ledger, in order.
func (r *Rig) Decisions(t testing.TB, task string) []gate.Decided {
	t.Helper()
	var out []gate.Decided
	for _, e := range r.Records(t, 0) {
		if e.Type == "action.decided" && e.Task == task {
			var d gate.Decided
			if err := json.Unmarshal(e.Body, &d); err != nil {
				t.Fatal(err)
			}
			out = append(out, d)
		}
	}
	return out
}

// Outcomes reads what became of the dispatched actions of a task, by action.
func (r *Rig) Outcomes(t testing.TB, task string) map[string]action.Outcome {
	t.Helper()
	out := map[string]action.Outcome{}
	for _, e := range r.Records(t, 0) {
		if e.Type == "action.outcome" && e.Task == task {
			var o gate.Outcome
			if err := json.Unmarshal(e.Body, &o); err != nil {
				t.Fatal(err)
			}
			out[o.Action] = o.Outcome
		}
	}
	return out
}

// Denied returns the decisions of a task that are a denial with this layer and
// code and, where match is not nil, pass it. It fails the test if there is none.
func (r *Rig) Denied(t testing.TB, task string, layer action.Layer, code string, match func(action.Action) bool) []gate.Decided {
	t.Helper()
	var out []gate.Decided
	var others []string
	for _, d := range r.Decisions(t, task) {
		if d.Decision.Verdict == action.Allow {
			continue
		}
		if d.Decision.Layer == layer && d.Decision.Code == code && (match == nil || match(d.Action)) {
			out = append(out, d)
		}
		others = append(others, Say(d))
	}
	if len(out) == 0 {
		t.Errorf("the ledger has no matching denial %s/%s; it has\n%s", layer, code, strings.Join(others, "\n"))
	}
	return out
}

// Allowed returns the decisions of a task that let an operation through.
func (r *Rig) Allowed(t testing.TB, task, operation string) []gate.Decided {
	t.Helper()
	var out []gate.Decided
	for _, d := range r.Decisions(t, task) {
		if d.Decision.Verdict == action.Allow && d.Action.Operation == operation {
			out = append(out, d)
		}
	}
	return out
}

// Say is one decision in one line.
func Say(d gate.Decided) string {
	a := d.Action
	s := fmt.Sprintf("%s %s/%s: %s %s by %s %v", d.Decision.Verdict, d.Decision.Layer, d.Decision.Code, a.Surface, a.Operation, a.Source, a.Params)
	if q := a.Request; q != nil {
		s += fmt.Sprintf(" %s %s%s explained=%q", q.Method, q.Origin, q.Path, a.Explained)
	}
	if e := a.Element; e != nil {
		s += fmt.Sprintf(" on <%s> %q form=%s", e.Tag, e.Name, e.FormAction)
	}
	return s
}

// Changes says what is different between two states of the estate, as
// "tickets/4711" or "groups/finance", sorted: everything but sessions and
// audit. Nothing in it is the agent's word.
func Changes(before, after estate.State) []string {
	a, b := objects(before), objects(after)
	var out []string
	for id, v := range b {
		if a[id] != v {
			out = append(out, id)
		}
	}
	for id := range a {
		if _, ok := b[id]; !ok {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

func objects(s estate.State) map[string]string {
	out := map[string]string{}
	put := func(id string, v any) {
		b, err := json.Marshal(v)
		if err != nil {
			panic("rig: " + err.Error())
		}
		out[id] = string(b)
	}
	for _, u := range s.Users {
		put("users/"+u.ID, u)
	}
	for _, g := range s.Groups {
		put("groups/"+g.ID, g)
	}
	for _, t := range s.Tickets {
		put("tickets/"+t.ID, t)
	}
	for i, m := range s.Sent {
		put(fmt.Sprintf("sent/%d", i), m)
	}
	for i, p := range s.Payments {
		put(fmt.Sprintf("payments/%d", i), p)
	}
	for i, h := range s.Evil {
		put(fmt.Sprintf("evil/%d", i), h)
	}
	return out
}

// Arrived lists what reached the applications between two states and would
// change something, also if the application refused it: "iam user.mfa.reset jo ok".
func Arrived(before, after estate.State) []string {
	type id struct {
		app estate.App
		n   int
	}
	seen := map[id]bool{}
	for app, es := range before.Audit {
		for _, e := range es {
			seen[id{app, e.ID}] = true
		}
	}
	var out []string
	for app, es := range after.Audit {
		for _, e := range es {
			if !seen[id{app, e.ID}] && !strings.HasPrefix(e.Action, "session.") {
				out = append(out, fmt.Sprintf("%s %s %s %s", app, e.Action, e.Target, e.Outcome))
			}
		}
	}
	slices.Sort(out)
	return out
}

// State is the estate's state in a stage.
func (r *Rig) State(stage action.Stage) estate.State {
	return r.Estate.Copy(estate.Stage(stage)).State()
}

// NoSessions checks that the estate knows no session of the service account.
func (r *Rig) NoSessions(t testing.TB, stage action.Stage) {
	t.Helper()
	for app, ss := range r.State(stage).Sessions {
		if len(ss) > 0 {
			t.Errorf("%s in %s still has %d sessions", app, stage, len(ss))
		}
	}
}

// Unrecorded lists the writes that reached an application, refused or not, more
// often than decisions let them through: effects without a record. It must be
// empty, whatever happened to the server.
func Unrecorded(s estate.State, decided []gate.Decided) []string {
	allowed := map[string]int{}
	for _, d := range decided {
		if d.Decision.Verdict == action.Allow {
			for _, object := range []string{"user", "ticket"} {
				if v := d.Action.Params[object]; v != "" {
					allowed[d.Action.Operation+" "+v]++
				}
			}
		}
	}
	var out []string
	for app, es := range s.Audit {
		for _, e := range es {
			if strings.HasPrefix(e.Action, "session.") {
				continue
			}
			key := string(app) + "." + e.Action + " " + e.Target
			if allowed[key]--; allowed[key] < 0 {
				out = append(out, key)
			}
		}
	}
	return out
}
