package attack

import (
	"strings"
	"testing"
)

// A hijacked harness asks the Workload API for the identity of another task. The
// identity engine must refuse: what a workload is follows from how it was
// launched, not from what it asks for.
func TestOtherIdentity(t *testing.T) {
	b := breakout(t)
	b.blocked("other-identity", "")
	for _, e := range b.r.Records(t, 0) {
		if e.Type == "identity.issued" && strings.Contains(string(e.Body), b.targets.OtherTask) {
			t.Errorf("an identity of the other task was issued: %s", e.Body)
		}
	}
}
