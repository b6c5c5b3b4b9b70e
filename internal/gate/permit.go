package gate

import (
	"errors"
	"sync/atomic"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// ErrPermit says that a permit was missing, already used, or made for another
// action. The caller must not dispatch.
var ErrPermit = errors.New("permit is not valid for this action")

// Permit is the single-use right to dispatch one action. Only the gate makes
// one, after the record of the decision is durable; the zero value permits
// nothing. Whoever dispatches calls Consume first, with the digest of what is
// about to be sent.
type Permit struct{ s *permitState }

type permitState struct {
	action action.Action
	digest action.Digest
	drift  string
	used   atomic.Bool
}

func newPermit(a action.Action, d action.Digest, drift string) Permit {
	return Permit{&permitState{action: a, digest: d, drift: drift}}
}

// Action is the action as it was decided and recorded.
func (p Permit) Action() action.Action {
	if p.s == nil {
		return action.Action{}
	}
	return p.s.action
}

// Drift is what Admission.Drifted said when what is privileged was decided: whoever
// measures afterwards and finds more must not dispatch.
func (p Permit) Drift() string {
	if p.s == nil {
		return ""
	}
	return p.s.drift
}

// Consume uses the permit up. It fails if the permit is the zero value, was
// used before, or was made for another digest.
func (p Permit) Consume(d action.Digest) error {
	if p.s == nil || d == "" || d != p.s.digest || !p.s.used.CompareAndSwap(false, true) {
		return ErrPermit
	}
	return nil
}
