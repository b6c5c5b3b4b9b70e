package attack

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// A runaway harness repeats a write that its task covers, without end. The gate
// must stop it when the budget of the task is spent: nothing of what follows
// reaches the application.
func TestBudgetStopsARunawayAgent(t *testing.T) {
	r := wide(t)
	x, out := r.Run(t, rig.Intent(action.Sandbox, "jo", "4711"), comment(r, action.Sandbox, "200")...)
	if got := hits(r, action.Sandbox); got == 0 || got > wideActions {
		t.Errorf("%d writes reached the application, the budget is %d\n%s", got, wideActions, out)
	}
	denied := r.Denied(t, x.ID, action.LayerAuthority, "budget_spent", operation("tickets.ticket.comment"))
	if len(denied) < 200-wideActions {
		t.Errorf("%d attempts were denied, want at least %d", len(denied), 200-wideActions)
	}
	allowed := 0
	for _, d := range r.Decisions(t, x.ID) {
		if d.Decision.Verdict == action.Allow {
			allowed++
		}
	}
	if allowed != wideActions {
		t.Errorf("%d actions were let through, the budget is %d", allowed, wideActions)
	}
}
