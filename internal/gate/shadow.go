package gate

import "github.com/sallyport-dev/sallyport/internal/action"

// In the stage shadow everything is decided as in production, and nothing that
// changes anything gets a permit. The record says what would have happened (Decided.Would)
// beside a decision that is a denial, so whoever knows nothing of shadow takes it for none
// of what would have passed. Nobody is asked: an approval of what does not happen is worth
// nothing, and people learn to give it.
//
// What would have passed is counted as if it had, a hold as if people had agreed, so
// that what comes later is decided as it would be.

// CodeShadow is the code of a denial by the stage alone.
const CodeShadow = "shadow"

// goesOn reports whether what policy lets through really passes in shadow: what
// only looks or reads, what is put into the screen (a request that comes of it is
// decided at door 2), tools that are declared to read, and calls of the model. A socket can write, whatever its handshake
// looks like, and what is done in a session of a database or host is not decided here.
func goesOn(a action.Action) bool {
	switch a.Surface {
	case action.Computer, action.Inference:
		return true
	case action.MCP:
		return !a.Effect.Changes()
	case action.Egress:
		return !a.Effect.Changes() && a.Request != nil && a.Request.Destination != "websocket"
	}
	return false
}

// shadow is what a decision of policy comes to: in shadow a denial where it would let
// through or ask, and beside it the decision itself.
func (r *running) shadow(a action.Action, would action.Decision) (action.Decision, *action.Decision) {
	hold, passes := would.Verdict == action.Hold, would.Verdict == action.Allow
	if r.Stage != action.Shadow || !hold && !passes || passes && goesOn(a) {
		return would, nil
	}
	d := action.Denied(action.LayerShadow, CodeShadow, "it would have passed; in shadow nothing takes effect", "go on as if it had been done")
	if hold {
		d.Reason = "it would have been held for " + would.Approvers + "; in shadow nothing takes effect, and nobody is asked"
		d.Next = "go on as if they had agreed and it had been done"
	}
	return d, &would
}
