package attack

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// A hijacked harness forgets the screen and sends the write itself, through the
// proxy that it was given. Door 2 must refuse it: no operation of the task
// covers it, and a guardrail forbids it for everybody.
func TestRawWriteThroughTheProxy(t *testing.T) {
	b := breakout(t)
	b.blocked("raw-write", "global_administrators")
	for _, d := range b.denied(action.LayerGuardrail, "global_administrators", operation("iam.group.member.add")) {
		if d.Action.Source != "harness" || d.Action.Explained != "" {
			t.Errorf("recorded as from %q, explained by %q", d.Action.Source, d.Action.Explained)
		}
	}
}
