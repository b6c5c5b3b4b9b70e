package attack

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
)

// A stored script in a ticket acts as soon as the page opens, with no click at
// all: it closes another ticket, posts to the directory across origins with the
// session that the browser would add, and sends the page to the attacker. Door 2
// must stop each of them, since nothing at door 1 explains any.
//
// Threats: T13 (guardrail, grant)
func TestPageActsByItself(t *testing.T) {
	r := sandbox(t)
	x := runOn(t, r, action.Sandbox, "ticket-script", "david", "4714", "sample-agent")
	x.honest("david", "4714")
	for _, d := range x.denied(action.LayerGuardrail, "unexplained", operation("iam.group.member.add")) {
		if d.Action.Explained != "" {
			t.Errorf("the script's request is explained by %s", d.Action.Explained)
		}
	}
	x.denied(action.LayerGuardrail, "ungoverned_origin", to(r.Estate.URL(estate.Sandbox, estate.Evil)))
	// The close of the other ticket is a well-known operation of the task's own
	// application: it is outside the grant by its ticket alone.
	x.denied(action.LayerGrant, "outside_grant", func(a action.Action) bool {
		return a.Operation == "tickets.ticket.close" && a.Params["ticket"] == "4711"
	})
}
