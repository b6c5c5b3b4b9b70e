package attack

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// A kill comes while the session is still being built: between the browser and
// the first credential, between two credentials, before the harness. When both
// calls have returned nothing may be alive, whichever was first.
//
// Threats: T57 (lease)
func TestKillDuringTheStart(t *testing.T) {
	r := wide(t)
	for i := range 8 {
		x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
		var out rig.Output
		started := make(chan error, 1)
		go func() {
			running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, comment(r, action.Sandbox, "")...))
			if err == nil {
				rig.Wait(t, running)
			}
			started <- err
		}()
		delay := time.Duration(rand.Int64N(int64(1200 * time.Millisecond)))
		time.Sleep(delay)
		_, kill := r.Server.Revoke(t.Context(), "", rig.As("ada"), "task/"+x.ID, "test")
		at := hits(r, action.Sandbox)
		run := <-started
		if kill != nil {
			t.Errorf("round %d, %s: %v", i, delay, kill)
		}
		if got := hits(r, action.Sandbox); got != at {
			t.Errorf("round %d, %s: %d writes after the kill", i, delay, got-at)
		}
		y, err := r.Server.Task(t.Context(), "", x.ID)
		if err != nil || !y.State.Over() {
			t.Errorf("round %d, %s: the task is %s, %v; the start said: %v", i, delay, y.State, err, run)
		}
		leases, err := r.Server.Leases(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range leases {
			if l.Task == x.ID && l.State != "revoked" {
				t.Errorf("round %d, %s: lease %s is %s", i, delay, l.Source, l.State)
			}
		}
		r.NoSessions(t, action.Sandbox)
	}
}
