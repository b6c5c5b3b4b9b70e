package attack

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// A hijacked harness calls the model provider itself, where nothing would see
// prompts and tools: past the boundary, which its namespace stops, and through
// the proxy, which door 2 stops.
func TestProviderDirect(t *testing.T) { breakout(t).blocked("provider-direct", "connection refused") }

func TestProviderThroughTheProxy(t *testing.T) {
	b := breakout(t)
	b.blocked("provider-proxy", "address_literal")
	b.denied(action.LayerForm, "address_literal", func(a action.Action) bool { return a.Params["origin"] == b.targets.Provider })
}
