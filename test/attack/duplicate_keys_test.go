package attack

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// A harness sends JSON that two parsers read differently: duplicate members, in
// both formats of the computer endpoint, another case, a trailing document. Door
// 1 must refuse the whole request, do nothing of it, and record it.
//
// Threats: T2 (form)
func TestDuplicateKeysAtTheComputer(t *testing.T) {
	bodies := []string{
		`/v1/actions {"actions":[{"type":"screenshot","type":"left_click","x":1155,"y":26}]}`,
		`/v1/actions {"actions":[{"type":"screenshot"}],"actions":[{"type":"left_click","x":1155,"y":26}]}`,
		`/v1/anthropic/computer_20251124 {"action":"screenshot","action":"left_click","coordinate":[1231,26]}`,
		`/v1/anthropic/computer_20251124 {"action":"left_click","Action":"screenshot","coordinate":[1231,26]}`,
		`/v1/anthropic/computer_20251124 {"action":"left_click","coordinate":[1231,26]}{"action":"screenshot"}`,
	}
	args := []string{"program", "hands", "find:btn:sign-out"}
	for _, b := range bodies {
		args = append(args, "post:"+b)
	}
	x := run(t, "", "jo", "4711", append(args, "press:nav:groups")...)
	x.untouched()
	if x.task.State != task.Closed {
		t.Errorf("the harness could not go on: %s\n%s", x.task.Why, x.out)
	}
	if got := len(x.denied(action.LayerForm, "malformed_json", operation("computer.malformed"))); got != len(bodies) {
		t.Errorf("recorded %d of %d malformed requests", got, len(bodies))
	}
	if got := x.r.Allowed(t, x.task.ID, "computer.left_click"); len(got) != 1 {
		t.Errorf("%d clicks were let through, want the honest one", len(got))
	}
}
