package attack

import (
	"context"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// A task for production is opened for an agent that was never certified. It must
// not even exist.
func TestProductionWithoutCertification(t *testing.T) {
	r := sandbox(t)
	_, err := r.Server.OpenTask(t.Context(), "", rig.As("dana"), rig.Intent(action.Production, "jo", "4711"))
	refusedWith(t, err, "no_certification")
	for _, e := range r.Records(t, 0) {
		if e.Type == "task.opened" && jsonStage(t, e) == action.Production {
			t.Errorf("a task was opened: %s", e.Body)
		}
	}
}

// age moves the end of every live certification of a stopped server into the
// past, as the clock would.
func age(t *testing.T, r *rig.Rig) {
	t.Helper()
	stopped(t, r, func(ctx context.Context, of func(string) (*rig.Stopped, error)) error {
		s, err := of("brightwell")
		if err != nil {
			return err
		}
		_, err = s.Log.Append(ctx, record.Draft{Type: "test.clock", Actor: "test", Body: map[string]any{}, Change: func(tx record.Tx) error {
			var ids []string
			if err := tx.List("certification", func(id string, _ []byte) error { ids = append(ids, id); return nil }); err != nil {
				return err
			}
			for _, id := range ids {
				var c certify.Certification
				if err := tx.Get("certification", id, &c); err != nil {
					return err
				}
				c.Expires = time.Now().Add(-time.Second).UTC()
				if err := tx.Put("certification", id, c); err != nil {
					return err
				}
			}
			return nil
		}})
		return err
	})
}

// The certification's time is over. A task that was opened while it lived must
// not start, and a new one must not open.
func TestExpiredCertification(t *testing.T) {
	r := certified(t)
	x := r.OpenTask(t, rig.Intent(action.Production, "jo", "4711"))
	age(t, r)
	before := r.State(action.Production)
	_, err := r.Server.OpenTask(t.Context(), "", rig.As("dana"), rig.Intent(action.Production, "jo", "4711"))
	refusedWith(t, err, "no_certification")
	var out rig.Output
	if running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, rig.SampleAgent...)); err == nil {
		x = rig.Wait(t, running)
		t.Errorf("it ran and is %s (%s)\n%s", x.State, x.Code, out.String())
	} else {
		refusedWith(t, err, "no_certification")
	}
	if got := rig.Changes(before, r.State(action.Production)); len(got) > 0 {
		t.Errorf("changed: %q", got)
	}
	r.NoSessions(t, action.Production)
}

// The capability is made wider after it was approved. Nobody approved what it is
// now: no task opens under it, one that was opened under the old one does not
// start with the new one, in any stage; and when people do approve it, production
// still waits for a new certification.
//
// Threats: I5, I6 (authority)
func TestCapabilityChangedAfterApproval(t *testing.T) {
	r := certified(t)
	old := r.OpenTask(t, rig.Intent(action.Production, "jo", "4711"))
	oldSandbox := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	r.Approver(rig.Nobody)
	all, err := r.Resources(canariedAnd(rig.Replace("capability.yaml", "where: {user: \"{{user}}\"}\n      max: 1", "where: {user: {any: true}}\n      max: 100")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Server.Apply(t.Context(), rig.As("noor"), all); err != nil {
		t.Fatal(err)
	}
	for _, stage := range []action.Stage{action.Production, action.Sandbox} {
		_, err := r.Server.OpenTask(t.Context(), "", rig.As("dana"), rig.Intent(stage, "jo", "4711"))
		refusedWith(t, err, "not_approved")
	}
	for _, x := range []task.Task{old, oldSandbox} {
		var out rig.Output
		if running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, rig.SampleAgent...)); err == nil {
			y := rig.Wait(t, running)
			t.Errorf("a task of %s ran under another capability; it is %s", x.Stage, y.State)
		} else {
			refusedWith(t, err, "changed", "drift")
		}
	}
	for _, a := range r.Pending(t) {
		if err := r.Sign(t.Context(), a, "noor"); err == nil {
			t.Errorf("the author approved her own change: %s %s", a.Statement.Kind, a.Statement.Subject)
		}
	}
	// Approved now: the certification is of the old boundary.
	r.Ready(t)
	x, err := r.Server.OpenTask(t.Context(), "", rig.As("dana"), rig.Intent(action.Production, "jo", "4711"))
	if err == nil {
		var out rig.Output
		_, err = r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, rig.SampleAgent...))
	}
	refusedWith(t, err, "drift", "no_certification")
	r.NoSessions(t, action.Production)
}
