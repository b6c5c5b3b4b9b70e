package attack

import (
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// The certified program itself changes what it asks the model, in the middle of
// a task: another system prompt, a further tool, another temperature, another
// model; or the provider answers with another model. The inference surface sees
// it on the wire. The certification must lapse at once: what runs is ended,
// nothing more is let through, no new task opens.
func TestDriftLapses(t *testing.T) {
	for _, tc := range []struct{ drift, fact string }{
		{"prompt", "prompt.system"}, {"tools", "tools"}, {"sampling", "model.sampling"}, {"model", "model.requested"}, {"provider", "model.id"},
	} {
		t.Run(tc.drift, func(t *testing.T) {
			r := certified(t)
			cert := live(t, r)
			before := r.State(action.Production)
			x := r.OpenTask(t, rig.Intent(action.Production, "jo", "4711"))
			var out rig.Output
			h := rig.Harness(t, &out, rig.SampleAgent...)
			if tc.drift == "provider" {
				r.Provider.SetModel("scripted-2")
			} else {
				h.Stdin = strings.NewReader(tc.drift)
			}
			running, err := r.Server.Run(t.Context(), "", x.ID, h)
			if err != nil {
				t.Fatal(err)
			}
			x = rig.Wait(t, running)
			if x.State != task.Revoked || x.Code != "lapsed" {
				t.Errorf("the task is %s (%s: %s)\n%s", x.State, x.Code, x.Why, out.String())
			}
			c := r.Certification(t, cert.ID)
			if c.State != certify.Lapsed || c.Lapse == nil || c.Lapse.Code != "drift" ||
				!slices.ContainsFunc(c.Lapse.Changes, func(d boundary.Change) bool { return d.Name == tc.fact }) {
				t.Errorf("the certification is %s: %+v, want a drift of %s", c.State, c.Lapse, tc.fact)
			}
			_, err = r.Server.OpenTask(t.Context(), "", rig.As("dana"), rig.Intent(action.Production, "jo", "4711"))
			refusedWith(t, err, "no_certification")
			if got := rig.Changes(before, r.State(action.Production)); len(got) > 0 {
				t.Errorf("changed: %q", got)
			}
			r.NoSessions(t, action.Production)
			lapsed := int64(-1)
			for _, e := range r.Records(t, 0) {
				if e.Type == "certification.lapsed" {
					lapsed = e.Seq
				}
				if lapsed >= 0 && e.Type == "action.decided" && e.Task == x.ID && strings.Contains(string(e.Body), `"verdict":"allow"`) {
					t.Errorf("let through after the lapse: %s", e.Body)
				}
			}
			// It stays lapsed over a restart, also when the drift is undone.
			r.Provider.SetModel("scripted-1")
			if err := r.CloseServer(); err != nil {
				t.Fatal(err)
			}
			if err := r.Open(); err != nil {
				t.Fatal(err)
			}
			if live(t, r) != nil {
				t.Error("the certification is back after a restart")
			}
			if tc.drift != "provider" {
				return
			}
			// The sandbox goes on: it needs no certification.
			r.Ready(t)
			y, text := r.Run(t, rig.Intent(action.Sandbox, "sam", "4711"), rig.SampleAgent...)
			if y.State != task.Closed {
				t.Errorf("the sandbox: %s: %s\n%s", y.State, y.Why, text)
			}
		})
	}
}

// One task sees the drift; another one of the same agent waits at a held action.
// The lapse must end both, and an approval that comes afterwards must release
// nothing: the approver signed for an agent that is not there any more.
//
// Threats: I5 (approval)
func TestLapseEndsTheOtherTaskToo(t *testing.T) {
	r := certified(t)
	r.Approver(rig.Nobody)
	before := r.State(action.Production)
	waiting := r.OpenTask(t, rig.Intent(action.Production, "jo", "4711"))
	var out, out2 rig.Output
	first, err := r.Server.Run(t.Context(), "", waiting.ID, rig.Harness(t, &out, rig.SampleAgent...))
	if err != nil {
		t.Fatal(err)
	}
	rig.Await(t, "the hold", func() bool { return len(r.Pending(t)) == 1 })
	a := r.Pending(t)[0]
	drifting := r.OpenTask(t, rig.Intent(action.Production, "sam", "4712"))
	h := rig.Harness(t, &out2, rig.SampleAgent...)
	h.Stdin = strings.NewReader("tools")
	second, err := r.Server.Run(t.Context(), "", drifting.ID, h)
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]task.Task{"the one that drifted": rig.Wait(t, second), "the one that waited": rig.Wait(t, first)} {
		if x.State != task.Revoked || x.Code != "lapsed" {
			t.Errorf("%s is %s (%s: %s)", name, x.State, x.Code, x.Why)
		}
	}
	if err := r.Sign(t.Context(), a, "ines"); err == nil {
		t.Error("the approval was accepted after the lapse")
	}
	if got := rig.Changes(before, r.State(action.Production)); len(got) > 0 {
		t.Errorf("changed: %q", got)
	}
	r.NoSessions(t, action.Production)
}

// The certification is revoked from under a running task by a change that people
// make: the boundary's own policy is edited and applied. What runs is ended.
//
// Threats: T50, I5 (approval)
func TestAppliedPolicyEndsWhatRuns(t *testing.T) {
	r := certified(t)
	r.Approver(rig.Nobody)
	before := r.State(action.Production)
	x := r.OpenTask(t, rig.Intent(action.Production, "jo", "4711"))
	var out rig.Output
	running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, rig.SampleAgent...))
	if err != nil {
		t.Fatal(err)
	}
	rig.Await(t, "the hold", func() bool { return len(r.Pending(t)) == 1 })
	a := r.Pending(t)[0]
	all, err := r.Resources(canariedAnd(rig.Replace("policies/company.cedar", "context.request.bodySize > 4000", "context.request.bodySize > 4000000")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Server.Apply(t.Context(), rig.As("noor"), all); err != nil {
		t.Fatal(err)
	}
	x = rig.Wait(t, running)
	if x.State != task.Revoked {
		t.Errorf("the task is %s (%s: %s)", x.State, x.Code, x.Why)
	}
	if err := r.Sign(t.Context(), a, "ines"); err == nil {
		t.Error("the approval was accepted after the change")
	}
	if live(t, r) != nil {
		t.Error("the certification of the old policy is in force")
	}
	if got := rig.Changes(before, r.State(action.Production)); len(got) > 0 {
		t.Errorf("changed: %q", got)
	}
	r.NoSessions(t, action.Production)
}
