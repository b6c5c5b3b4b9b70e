package attack

import (
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// A harness that does not stop writes while its task is ended: closed by its
// requester, killed by task, by agent, by connector, by credential, by tenant.
// When the call that ends it has returned, nothing more may reach the
// application, no decision may let anything through, and the credentials must
// be dead there.
//
// Threats: T57 (authority, lease)
func TestActAfterTheEnd(t *testing.T) {
	for _, tc := range []struct {
		name  string
		scope func(task.Task) string // of the kill; nil is a close
		state task.State
	}{
		{"close", nil, task.Closed},
		{"kill task", func(x task.Task) string { return "task/" + x.ID }, task.Revoked},
		{"kill agent", func(task.Task) string { return "agent/helpdesk" }, task.Revoked},
		{"kill connector", func(task.Task) string { return "connector/tickets" }, task.Revoked},
		{"kill credential", func(task.Task) string { return "credential/iam-helpdesk" }, task.Revoked},
		{"kill tenant", func(task.Task) string { return "tenant/brightwell" }, task.Revoked},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := wide(t)
			x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
			var out rig.Output
			running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, comment(r, action.Sandbox, "")...))
			if err != nil {
				t.Fatal(err)
			}
			rig.Await(t, "the harness to write", func() bool { return hits(r, action.Sandbox) > 2 })
			if tc.scope == nil {
				_, err = r.Server.CloseTask(t.Context(), "", rig.As("dana"), x.ID)
			} else {
				_, err = r.Server.Revoke(t.Context(), "", rig.As("ada"), tc.scope(x), "test")
			}
			if err != nil {
				t.Fatal(err)
			}
			at, head := hits(r, action.Sandbox), int64(len(r.Records(t, 0)))
			r.NoSessions(t, action.Sandbox)
			time.Sleep(300 * time.Millisecond) // time for what should not come
			if got := hits(r, action.Sandbox); got != at {
				t.Errorf("%d writes reached the application after the end", got-at)
			}
			for _, e := range r.Records(t, head) {
				if e.Type == "action.decided" || e.Type == "lease.issued" || e.Type == "identity.issued" {
					t.Errorf("%s after the end: %s", e.Type, e.Body)
				}
			}
			x = rig.Wait(t, running)
			if x.State != tc.state {
				t.Errorf("the task is %s: %s", x.State, x.Why)
			}
			if _, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, rig.SampleAgent...)); err == nil {
				t.Error("a task that is over was run again")
			}
			leases, err := r.Server.Leases(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range leases {
				if l.State != "revoked" {
					t.Errorf("lease %s of %s is %s", l.ID, l.Task, l.State)
				}
			}
		})
	}
}
