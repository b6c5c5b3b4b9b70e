package attack

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
)

// A hijacked harness sends data to the attacker's origin through the proxy.
// Door 2 must refuse an origin that no connector governs.
func TestOtherOriginThroughTheProxy(t *testing.T) {
	b := breakout(t)
	b.blocked("other-origin", "ungoverned_origin")
	b.denied(action.LayerGuardrail, "ungoverned_origin", to(b.r.Estate.URL(estate.Sandbox, estate.Evil)))
}
