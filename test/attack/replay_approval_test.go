package attack

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// A hijacked harness presents an approval that released something before, as a
// member, as a header and as a field. No door takes an approval from the agent:
// the first is malformed, the others change nothing, and the reset is no more
// approved than before.
//
// Threats: T50, I2 (form)
func TestReplayOfAnApproval(t *testing.T) {
	b := breakout(t)
	b.blocked("replay", "")
	b.denied(action.LayerForm, "malformed_json", operation("computer.malformed"))
	if got := b.r.Allowed(t, b.task.ID, "iam.user.mfa.reset"); len(got) != 0 {
		t.Errorf("the reset was let through: %s", got[0].Approval)
	}
}
