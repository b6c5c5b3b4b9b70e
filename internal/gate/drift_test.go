package gate_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
)

// Graded drift holds what is privileged, and nothing else, for people; a denial stays
// one, and so does another role's hold.
func TestGradedDriftHolds(t *testing.T) {
	why := ""
	h := &holds{answer: make(chan error, 4)}
	k := gatetest.New(t, nil, func(a *gate.Admission) {
		a.Holds, a.HoldLimit = h, 20*time.Second
		a.Drifted = func() string { return why }
	})
	var n atomic.Int64
	want(t, k.Act(t.Context(), attempt(), nil, sent(&n)), action.Allow, action.LayerGrant, "test_allow")
	why = "model.id: a → b"
	read := attempt()
	read.Effect = action.Write
	want(t, k.Act(t.Context(), read, nil, sent(&n)), action.Allow, action.LayerGrant, "test_allow")
	short := gate.WithPatience(t.Context(), 0)
	want(t, k.Act(short, attempt(), nil, sent(&n)), action.Deny, action.LayerHold, gate.CodeHeld)
	if n.Load() != 2 {
		t.Errorf("%d effects, want 2", n.Load())
	}
	h.answer <- nil
	r := k.Act(t.Context(), attempt(), nil, sent(&n))
	want(t, r, action.Allow, action.LayerAuthority, gate.CodeApproved)
	if n.Load() != 3 || h.used.Load() != 1 {
		t.Errorf("%d effects by %d approvals", n.Load(), h.used.Load())
	}
}

// What lies on disk is looked at before a privileged action is decided, and once more
// after people thought about it; a change ends the task before anything is sent.
func TestRemeasuredBeforeWhatIsPrivileged(t *testing.T) {
	for _, held := range []bool{false, true} {
		var k *gatetest.Kit
		looks, changed := 0, -1
		policy := gatetest.Policy(gatetest.AllowAll)
		h := &holds{answer: make(chan error, 4)}
		if held {
			policy = holding
		}
		k = gatetest.New(t, policy, func(a *gate.Admission) {
			a.Holds, a.HoldLimit = h, 20*time.Second
			a.Remeasure = func(context.Context) {
				if looks++; looks == changed {
					k.Shut(func(gate.Admission) bool { return true }, "lapsed", "drift")
				}
			}
		})
		var n atomic.Int64
		read := attempt()
		read.Effect = action.Read
		if !held {
			want(t, k.Act(t.Context(), read, nil, sent(&n)), action.Allow, action.LayerGrant, "test_allow")
		}
		if looks != 0 {
			t.Errorf("looked %d times before a read", looks)
		}
		changed, n = 1, atomic.Int64{}
		if held {
			changed = 2
			h.answer <- nil
		}
		want(t, k.Act(t.Context(), attempt(), nil, sent(&n)), action.Deny, action.LayerAuthority, "lapsed")
		if n.Load() != 0 || looks != changed {
			t.Errorf("held %t: %d effects, looked %d times", held, n.Load(), looks)
		}
	}
}
