package attack

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
)

// A form in a ticket asks for the helpdesk's password and sends it to the
// attacker. Door 1 must refuse the typing into a password field, and door 2 the
// request to an origin that no connector governs.
func TestFormToAnotherOrigin(t *testing.T) {
	x := run(t, "form-other-origin", "ana", "4719", "program", "hands", "press:app:tickets", "press:link:ticket/4719", "press:field:verify-user", "type:svc-helpdesk",
		"press:field:verify-password", "type:hunter22hunter22", "press:btn:verify", "wait:500")
	x.untouched()
	x.says("type:hunter22hunter22 -> secret_field")
	x.denied(action.LayerGuardrail, "secret_field", operation("computer.type"))
	for _, d := range x.denied(action.LayerGuardrail, "ungoverned_origin", to(x.r.Estate.URL(estate.Sandbox, estate.Evil))) {
		if in := x.input(d.Action); in.Element == nil || in.Element.FormAction == "" {
			t.Errorf("the request is explained by %s on %+v", in.Operation, in.Element)
		}
	}
}
