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

// asked counts the questions to people.
type asked struct{ n *atomic.Int64 }

func (h asked) Open(context.Context, action.Action, action.Decision) (gate.Hold, error) {
	h.n.Add(1)
	return nil, context.Canceled
}

func decide(v action.Verdict) gatetest.Policy {
	return func(gate.Facts) action.Decision {
		return action.Decision{Verdict: v, Layer: action.LayerGrant, Code: "c", Approvers: "approver", Policies: []string{"p"}}
	}
}

// TestShadowLetsNothingTakeEffect: every surface, every effect, every decision of
// policy. What has an effect is denied and says what it would have been; nobody
// is asked.
//
// Threats: T61 (shadow)
func TestShadowLetsNothingTakeEffect(t *testing.T) {
	surfaces := []action.Surface{action.Computer, action.Egress, action.Inference, action.Database, action.SSH, action.MCP, action.Control}
	effects := []action.Effect{action.Observe, action.Read, action.Write, action.Privileged, action.Irreversible}
	for _, v := range []action.Verdict{action.Allow, action.Hold, action.Deny, "", "permit"} {
		var questions atomic.Int64
		k := gatetest.New(t, decide(v), func(a *gate.Admission) { a.Stage, a.Holds = action.Shadow, asked{&questions} })
		for _, s := range surfaces {
			for _, e := range effects {
				for _, destination := range []string{"empty", "websocket"} {
					a := attempt()
					a.Surface, a.Effect, a.Request = s, e, &action.Request{Method: "GET", Destination: destination}
					var n atomic.Int64
					r := k.Act(t.Context(), a, nil, sent(&n))
					reads := s == action.Egress && !e.Changes() && destination != "websocket" || s == action.MCP && !e.Changes()
					passes := v == action.Allow && (reads || s == action.Computer || s == action.Inference)
					if (n.Load() == 1) != passes || (r.Decision.Verdict == action.Allow) != passes {
						t.Errorf("%s %s %s, %q by policy: got %d effects and %s, want it to pass: %v", s, e, destination, v, n.Load(), r.Decision.Verdict, passes)
					}
					all := k.Log.Decisions(t)
					d := all[len(all)-1]
					would := !passes && (v == action.Allow || v == action.Hold)
					if (d.Would != nil) != would || would && (d.Would.Verdict != v || d.Would.Policies[0] != "p") || d.Stage != action.Shadow {
						t.Errorf("%s %s, %q by policy: the record has %+v in stage %s", s, e, v, d.Would, d.Stage)
					}
					if would {
						want(t, r, action.Deny, action.LayerShadow, gate.CodeShadow)
					}
				}
			}
		}
		if questions.Load() != 0 {
			t.Errorf("%q by policy: people were asked %d times", v, questions.Load())
		}
	}
}

// What a request says of itself is not there: nothing is known to be a read.
func TestShadowUnknownRequest(t *testing.T) {
	k := gatetest.New(t, nil, func(a *gate.Admission) { a.Stage = action.Shadow })
	a := attempt()
	a.Effect = action.Read
	var n atomic.Int64
	if want(t, k.Act(t.Context(), a, nil, sent(&n)), action.Deny, action.LayerShadow, gate.CodeShadow); n.Load() != 0 {
		t.Error("it was sent")
	}
}

// TestShadowCountsWhatWouldPass: policy sees production, and what would have
// passed, or been approved, as passed.
func TestShadowCountsWhatWouldPass(t *testing.T) {
	var seen []gate.Facts
	var counts []int64
	k := gatetest.New(t, func(f gate.Facts) action.Decision {
		seen, counts = append(seen, f), append(counts, f.Counts[f.Action.Operation])
		return action.Decision{Verdict: action.Hold, Layer: action.LayerGrant, Approvers: "approver"}
	}, func(a *gate.Admission) { a.Stage, a.MaxActions = action.Shadow, 2 })
	a := attempt()
	a.Labels = []string{"pii"}
	var n atomic.Int64
	for range 2 {
		want(t, k.Act(t.Context(), a, nil, sent(&n)), action.Deny, action.LayerShadow, gate.CodeShadow)
	}
	want(t, k.Act(t.Context(), a, nil, sent(&n)), action.Deny, action.LayerAuthority, "budget_spent")
	if seen[1].Stage != action.Production || counts[1] != 1 || len(seen[1].Labels) != 1 {
		t.Errorf("policy saw stage %s, count %d and labels %v", seen[1].Stage, counts[1], seen[1].Labels)
	}
}

// TestNoStageIsLeft: a part is in the stage of the task above it, and a stage that
// nobody knows is none.
//
// Threats: T61 (authority)
func TestNoStageIsLeft(t *testing.T) {
	for _, c := range []struct{ above, part action.Stage }{{action.Shadow, action.Production}, {action.Shadow, action.Sandbox}, {action.Production, action.Shadow}, {action.Shadow, "live"}, {action.Shadow, ""}} {
		k := gatetest.New(t, nil, func(a *gate.Admission) { a.Stage = c.above })
		err := k.Admit(gate.Admission{Tenant: gatetest.Tenant, Task: "part", Agent: "other", Stage: c.part, Parent: gatetest.Task, Policy: gatetest.Policy(gatetest.AllowAll),
			Holds: gatetest.NoHolds{}, Log: k.Log, Deadline: time.Now().Add(time.Hour), MaxActions: 1, Certified: func() error { return nil }})
		if err == nil {
			t.Errorf("a part in stage %q was admitted under a task in %q", c.part, c.above)
		}
	}
}
