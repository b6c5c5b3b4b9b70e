package contain_test

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/contain"
)

// Threats: T48 (containment)
func TestSelfTestStopsEveryAttempt(t *testing.T) {
	fs, err := contain.SelfTest(t.Context())
	for _, f := range fs {
		if !f.Stopped {
			t.Errorf("%s: got through: %s", f.Name, f.How)
		} else {
			t.Logf("%s: %s", f.Name, f.How)
		}
	}
	if err != nil {
		t.Error(err)
	}
	if len(fs) < 40 {
		t.Errorf("only %d attempts", len(fs))
	}
}
