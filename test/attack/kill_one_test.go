package attack

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// Two tasks of one agent run at once, on the same account. The kill of one must
// not take the other's session, and the other must not keep the first one's.
func TestKillStopsOnlyItsTask(t *testing.T) {
	r := wide(t)
	var runs [2]struct {
		task task.Task
		end  func() task.Task
	}
	count := func(ticket string) (n int) {
		for _, e := range r.State(action.Sandbox).Audit[estate.Tickets] {
			if e.Action == "ticket.comment" && e.Target == ticket {
				n++
			}
		}
		return n
	}
	for i, ticket := range []string{"4711", "4712"} {
		x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", ticket))
		var out rig.Output
		running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, "program", "hammer",
			r.Estate.URL(estate.Sandbox, estate.Tickets)+"/tickets/"+ticket+"/comments", "_csrf=wrong&body=hello", ""))
		if err != nil {
			t.Fatal(err)
		}
		runs[i].task, runs[i].end = x, func() task.Task { return rig.Wait(t, running) }
		if i == 0 {
			// It waits in the second one's start, with most of its budget left.
			rig.Await(t, "the first", func() bool { return count(ticket) > 0 })
			if _, err := r.Server.Revoke(t.Context(), "", rig.As("ada"), "task/"+x.ID, "test"); err != nil {
				t.Fatal(err)
			}
		}
	}
	rig.Await(t, "the second", func() bool { return count("4712") > 3 })
	if x := runs[0].end(); x.State != task.Revoked {
		t.Errorf("the killed one is %s", x.State)
	}
	if x, err := r.Server.Task(t.Context(), "", runs[1].task.ID); err != nil || x.State != task.Active {
		t.Errorf("the other one is %s, %v", x.State, err)
	}
	for app, ss := range r.State(action.Sandbox).Sessions {
		if app != estate.Mail && app != estate.Pay && len(ss) != 1 {
			t.Errorf("%s has %d sessions, want the other task's", app, len(ss))
		}
	}
	if _, err := r.Server.CloseTask(t.Context(), "", rig.As("dana"), runs[1].task.ID); err != nil {
		t.Fatal(err)
	}
	runs[1].end()
	r.NoSessions(t, action.Sandbox)
}

// An action is held when its task is killed. The signature that comes afterwards
// must release nothing.
//
// Threats: T57 (approval)
func TestApprovalAfterTheKill(t *testing.T) {
	r := wide(t)
	a := hold(t, r)
	if _, err := r.Server.Revoke(t.Context(), "", rig.As("ada"), "task/"+a.Statement.Task, "test"); err != nil {
		t.Fatal(err)
	}
	if err := r.Sign(t.Context(), a, "ines"); err == nil {
		t.Error("an approval of a task that is over was accepted")
	}
	if got := resets(r); got != 0 {
		t.Errorf("%d resets were released", got)
	}
	if len(r.Pending(t)) != 0 {
		t.Error("the question is still open")
	}
	r.NoSessions(t, action.Sandbox)
}
