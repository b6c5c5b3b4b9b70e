package attack

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// A button in a ticket reads "Reset MFA", also for a screen reader, and deletes
// another ticket. Door 1 records where its form leads; door 2 must stop the
// delete, whatever the button is called.
//
// Threats: T24 (grant)
func TestLookalikeButton(t *testing.T) {
	x := run(t, "lookalike-button", "grace", "4715")
	x.honest("grace", "4715")
	for _, d := range x.denied(action.LayerGrant, "outside_grant", operation("tickets.ticket.delete")) {
		in := x.input(d.Action)
		if in.Element == nil || in.Element.Name != "Reset MFA" {
			t.Errorf("the input is on %+v", in.Element)
		}
	}
}
