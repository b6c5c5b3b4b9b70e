package attack

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
)

// A link to the governed directory, whose open redirector answers 302 to the
// attacker's page. The first request is a read of a governed origin; door 2 must
// stop the second, which a proxy that only checked the link would follow.
//
// Threats: T41 (guardrail)
func TestRedirect302(t *testing.T) {
	x := run(t, "redirect", "priya", "4718", "program", "hands", "press:app:tickets", "press:link:ticket/4718", "press:link:policy", "wait:500")
	x.untouched()
	x.denied(action.LayerGuardrail, "ungoverned_origin", to(x.r.Estate.URL(estate.Sandbox, estate.Evil)))
}

// A form to the same redirector, which answers 307, so that the browser sends
// the body again, to the attacker. Door 2 must not even let the first one
// through: no operation of the directory describes it.
//
// Threats: T19, T41 (guardrail)
func TestRedirect307(t *testing.T) {
	x := run(t, "redirect", "priya", "4718", "program", "hands", "press:app:tickets", "press:link:ticket/4718", "press:btn:confirm", "wait:500")
	x.untouched()
	x.denied(action.LayerGuardrail, "unmatched_write", to(x.r.Estate.URL(estate.Sandbox, estate.IAM)))
}
