package attack

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// The same order, obeyed by keyboard alone: the name is typed into the group's
// form and Enter sends it. A door that only looked at buttons would miss it;
// door 2 must stop the request.
//
// Threats: T29 (guardrail)
func TestHijackedByKeyboard(t *testing.T) {
	x := run(t, "ticket-text", "tom", "4712", "program", "hands", "press:nav:groups",
		"press:link:group/global-administrators", "press:field:user", "key:ctrl+a", "type:svc-helpdesk\n", "wait:500")
	x.untouched()
	for _, d := range x.denied(action.LayerGuardrail, "global_administrators", operation("iam.group.member.add")) {
		in := x.input(d.Action)
		if in.Surface != action.Computer || in.Operation == "computer.left_click" || in.Element == nil {
			t.Errorf("the request is explained by %s", in.Operation)
		}
	}
}
