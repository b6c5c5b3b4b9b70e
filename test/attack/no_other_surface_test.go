package attack

import (
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/test/rig"
)

// A harness looks for doors that its task has no use for: there is none to tools where
// the capability has no tool, and none for the browser's protocol where the boundary
// seals it, so none is offered, and nothing but the three known listeners answers inside.
//
// Threats: H1 (containment)
func TestNoOtherSurface(t *testing.T) {
	x := run(t, "", "jo", "4711", "program", "surfaces")
	x.untouched()
	if !strings.Contains(x.out, "listeners: 3128 8601 8602\n") {
		t.Errorf("listeners inside: %s", x.out)
	}
	for _, name := range []string{"SALLYPORT_MCP_URL", "SALLYPORT_CDP_URL"} {
		if strings.Contains(x.out, name) {
			t.Errorf("%s is offered", name)
		}
	}
}

func init() { programs["surfaces"] = rig.Surfaces }
