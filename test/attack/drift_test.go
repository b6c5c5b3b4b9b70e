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
