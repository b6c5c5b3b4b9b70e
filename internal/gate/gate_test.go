package gate_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/record"
)

const digest = action.Digest("sha256:aa")

func attempt() action.Action {
	return action.Action{Tenant: gatetest.Tenant, Task: gatetest.Task, Agent: gatetest.Agent,
		Surface: action.Egress, Operation: "iam.user.mfa.reset", Effect: action.Privileged, Digest: digest}
}

// sent counts effects: it consumes the permit the way a surface does.
func sent(n *atomic.Int64) gate.Dispatch {
	return func(ctx context.Context, p gate.Permit) action.Outcome {
		if err := p.Consume(digest); err != nil {
			return action.Outcome{State: action.Failed, Detail: err.Error()}
		}
		n.Add(1)
		return action.Outcome{State: action.Done}
	}
}

func want(t *testing.T, r gate.Result, v action.Verdict, l action.Layer, code string) {
	t.Helper()
	if r.Decision.Verdict != v || r.Decision.Layer != l || r.Decision.Code != code {
		t.Errorf("got %s %s %s (%s), want %s %s %s", r.Decision.Verdict, r.Decision.Layer, r.Decision.Code, r.Decision.Reason, v, l, code)
	}
}

func TestNoEffectUnlessAllowed(t *testing.T) {
	ctx := t.Context()
	policy := func(v action.Verdict) gatetest.Policy {
		return func(gate.Facts) action.Decision {
			return action.Decision{Verdict: v, Layer: action.LayerGrant, Code: "c", Approvers: "approver"}
		}
	}
	cases := []struct {
		name   string
		policy gatetest.Policy
		edit   func(*gate.Admission)
		change func(*action.Action)
		layer  action.Layer
		code   string
	}{
		{"policy_denies", policy(action.Deny), nil, nil, action.LayerGrant, "c"},
		{"policy_says_nothing", policy(""), nil, nil, action.LayerGrant, "c"},
		{"policy_says_nonsense", policy("permit"), nil, nil, action.LayerGrant, "c"},
		{"nobody_to_ask", policy(action.Hold), nil, nil, action.LayerHold, "hold_not_recorded"},
		{"no_budget", nil, func(a *gate.Admission) { a.MaxActions = 0 }, nil, action.LayerAuthority, "budget_spent"},
		{"time_spent", nil, func(a *gate.Admission) { a.Deadline = time.Now() }, nil, action.LayerAuthority, "task_time_spent"},
		{"no_certification", nil, func(a *gate.Admission) {
			a.Stage = action.Production
			a.Certified = func() error { return errors.New("lapsed") }
		}, nil, action.LayerAuthority, "no_certification"},
		{"unknown_task", nil, nil, func(a *action.Action) { a.Task = "t-2" }, action.LayerAuthority, "unknown_task"},
		{"other_agent", nil, nil, func(a *action.Action) { a.Agent = "other" }, action.LayerAuthority, "unknown_task"},
		{"other_tenant", nil, nil, func(a *action.Action) { a.Tenant = "other" }, action.LayerAuthority, "unknown_task"},
		{"no_digest", nil, nil, func(a *action.Action) { a.Digest = "" }, action.LayerForm, "incomplete_action"},
		{"unknown_effect", nil, nil, func(a *action.Action) { a.Effect = "harmless" }, action.LayerForm, "unknown_effect"},
		{"unknown_surface", nil, nil, func(a *action.Action) { a.Surface = "telepathy" }, action.LayerForm, "unknown_surface"},
		{"malformed", nil, nil, func(a *action.Action) {
			a.Operation, a.Params = "egress.malformed", map[string]string{"why": "path_ambiguous"}
		}, action.LayerForm, "path_ambiguous"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			edit := func(*gate.Admission) {}
			if c.edit != nil {
				edit = c.edit
			}
			k := gatetest.New(t, c.policy, edit)
			a := attempt()
			if c.change != nil {
				c.change(&a)
			}
			var n atomic.Int64
			r := k.Act(ctx, a, nil, sent(&n))
			want(t, r, action.Deny, c.layer, c.code)
			if n.Load() != 0 || r.Outcome != nil {
				t.Errorf("an effect happened: %d, outcome %v", n.Load(), r.Outcome)
			}
			if c.code != "unknown_task" && len(k.Log.Decisions(t)) != 1 {
				t.Errorf("got %d decisions in the log, want the denial", len(k.Log.Decisions(t)))
			}
		})
	}
}

// Threats: T55 (ledger)
func TestNoRecordNoEffect(t *testing.T) {
	k := gatetest.New(t, nil)
	k.Log.Fail = func(record.Draft) error { return errors.New("disk full") }
	var n atomic.Int64
	r := k.Act(t.Context(), attempt(), nil, sent(&n))
	want(t, r, action.Deny, action.LayerLedger, "not_recorded")
	if n.Load() != 0 {
		t.Error("an effect without a record")
	}
	k.Log.Fail = nil
	want(t, k.Act(t.Context(), attempt(), nil, sent(&n)), action.Allow, action.LayerGrant, "test_allow")
	if n.Load() != 1 {
		t.Errorf("got %d effects, want 1", n.Load())
	}
}

func TestRecordBeforeDispatch(t *testing.T) {
	k := gatetest.New(t, nil)
	r := k.Act(t.Context(), attempt(), nil, func(_ context.Context, p gate.Permit) action.Outcome {
		if got := len(k.Log.Decisions(t)); got != 1 {
			t.Errorf("got %d decisions at dispatch, want 1", got)
		}
		if err := p.Consume("sha256:bb"); err == nil {
			t.Error("a permit for one request let another through")
		}
		if err := p.Consume(digest); err != nil {
			t.Error(err)
		}
		if err := p.Consume(digest); err == nil {
			t.Error("a permit worked twice")
		}
		return action.Outcome{State: action.Done}
	})
	want(t, r, action.Allow, action.LayerGrant, "test_allow")
	var zero gate.Permit
	if zero.Consume("") == nil || zero.Consume(digest) == nil {
		t.Error("the zero permit permits")
	}
}

// A kill that returned has no effect after it, however many attempts race it.
//
// Threats: T57 (authority)
func TestNothingAfterEnd(t *testing.T) {
	for round := range 50 {
		k := gatetest.New(t, nil)
		var over atomic.Bool
		var late atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 20 {
					k.Act(context.Background(), attempt(), nil, func(ctx context.Context, p gate.Permit) action.Outcome {
						if p.Consume(digest) == nil && over.Load() {
							late.Add(1)
						}
						return action.Outcome{State: action.Done}
					})
				}
			})
		}
		if err := k.End(t.Context(), func(gate.Admission) bool { return true }, "killed", "killed"); err != nil {
			t.Fatal(err)
		}
		over.Store(true)
		wg.Wait()
		if late.Load() != 0 {
			t.Fatalf("round %d: %d effects after the kill returned", round, late.Load())
		}
		want(t, k.Act(context.Background(), attempt(), nil, nil), action.Deny, action.LayerAuthority, "killed")
	}
}

// Threats: T57 (dispatch)
func TestEndCutsWhatIsInFlight(t *testing.T) {
	k := gatetest.New(t, nil)
	started := make(chan struct{})
	done := make(chan gate.Result)
	go func() {
		done <- k.Act(context.Background(), attempt(), nil, func(ctx context.Context, p gate.Permit) action.Outcome {
			close(started)
			<-ctx.Done()
			return action.Outcome{State: action.Unknown, Detail: "cut"}
		})
	}()
	<-started
	if err := k.End(t.Context(), func(gate.Admission) bool { return true }, "killed", "killed"); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.Outcome == nil || r.Outcome.State != action.Unknown {
		t.Errorf("got %+v, want an unknown outcome", r.Outcome)
	}
}

func TestPanicIsUnknownOutcomeOfOneAction(t *testing.T) {
	k := gatetest.New(t, nil)
	r := k.Act(t.Context(), attempt(), nil, func(context.Context, gate.Permit) action.Outcome { panic("parser") })
	if r.Outcome == nil || r.Outcome.State != action.Unknown {
		t.Errorf("got %+v, want unknown", r.Outcome)
	}
	var n atomic.Int64
	want(t, k.Act(t.Context(), attempt(), nil, sent(&n)), action.Allow, action.LayerGrant, "test_allow")
}

// Two attempts cannot both be the last that a budget lets through.
func TestBudgetIsExactUnderRaces(t *testing.T) {
	perOp := func(f gate.Facts) action.Decision {
		if f.Counts[f.Action.Operation] >= 7 {
			return action.Denied(action.LayerGrant, "count_spent", "", "")
		}
		return gatetest.AllowAll(f)
	}
	k := gatetest.New(t, perOp)
	var n atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() { k.Act(context.Background(), attempt(), nil, sent(&n)) })
	}
	wg.Wait()
	if n.Load() != 7 {
		t.Errorf("got %d effects, want exactly 7", n.Load())
	}
}

// holds is a Holds whose answer the test gives.
type holds struct {
	answer chan error
	used   atomic.Int64
	once   bool
}

func (h *holds) Open(context.Context, action.Action, action.Decision) (gate.Hold, error) {
	return h, nil
}
func (h *holds) ID() string { return "h-1" }
func (h *holds) Wait(ctx context.Context) error {
	select {
	case err := <-h.answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *holds) Use(record.Tx) error {
	if h.used.Add(1) > 1 && h.once {
		return errors.New("approval was used")
	}
	return nil
}

func holding(f gate.Facts) action.Decision {
	if f.Labels != nil {
		return action.Denied(action.LayerGuardrail, "changed", "", "")
	}
	return action.Decision{Verdict: action.Hold, Layer: action.LayerGrant, Code: "needs_approval", Approvers: "approver"}
}

// Threats: T50, I2 (hold, ledger)
func TestHold(t *testing.T) {
	type setup struct {
		h *holds
		k *gatetest.Kit
	}
	start := func(t *testing.T, p gatetest.Policy) setup {
		h := &holds{answer: make(chan error, 4), once: true}
		return setup{h, gatetest.New(t, p, func(a *gate.Admission) { a.Holds = h; a.HoldLimit = 20 * time.Second })}
	}
	t.Run("approved_once", func(t *testing.T) {
		s := start(t, holding)
		s.h.answer <- nil
		var n atomic.Int64
		r := s.k.Act(t.Context(), attempt(), nil, sent(&n))
		want(t, r, action.Allow, action.LayerGrant, "approved")
		if n.Load() != 1 || s.k.Log.Decisions(t)[0].Approval != "h-1" {
			t.Errorf("got %d effects and %+v", n.Load(), s.k.Log.Decisions(t))
		}
		// The same approval a second time: Use refuses in the transaction.
		s.h.answer <- nil
		want(t, s.k.Act(t.Context(), attempt(), nil, sent(&n)), action.Deny, action.LayerLedger, "not_recorded")
		if n.Load() != 1 {
			t.Error("an approval was used twice")
		}
	})
	t.Run("rejected", func(t *testing.T) {
		s := start(t, holding)
		s.h.answer <- errors.New("rejected by ines")
		var n atomic.Int64
		want(t, s.k.Act(t.Context(), attempt(), nil, sent(&n)), action.Deny, action.LayerHold, "not_approved")
		if n.Load() != 0 {
			t.Error("an effect after a rejection")
		}
	})
	t.Run("caller_who_cannot_wait", func(t *testing.T) {
		s := start(t, holding)
		var n atomic.Int64
		hasty := gate.WithPatience(t.Context(), 0)
		want(t, s.k.Act(hasty, attempt(), nil, sent(&n)), action.Deny, action.LayerHold, gate.CodeHeld)
		s.h.answer <- errors.New("rejected by ines")
		want(t, s.k.Act(hasty, attempt(), nil, sent(&n)), action.Deny, action.LayerHold, "not_approved")
		if n.Load() != 0 || s.h.used.Load() != 0 {
			t.Error("an effect that nobody approved")
		}
		s.h.answer <- nil
		want(t, s.k.Act(hasty, attempt(), nil, sent(&n)), action.Allow, action.LayerGrant, "approved")
		ended, cancel := context.WithCancel(hasty)
		cancel()
		want(t, s.k.Act(ended, attempt(), nil, sent(&n)), action.Deny, action.LayerHold, "not_approved")
	})
	t.Run("policy_changed_while_people_thought", func(t *testing.T) {
		var asked atomic.Int64
		s := start(t, func(f gate.Facts) action.Decision {
			if asked.Add(1) > 1 {
				return action.Denied(action.LayerGuardrail, "changed", "", "")
			}
			return holding(f)
		})
		s.h.answer <- nil
		var n atomic.Int64
		want(t, s.k.Act(t.Context(), attempt(), nil, sent(&n)), action.Deny, action.LayerGuardrail, "changed")
		if n.Load() != 0 || s.h.used.Load() != 0 {
			t.Error("an approval outlived the policy it was given under")
		}
	})
	t.Run("killed_while_people_thought", func(t *testing.T) {
		s := start(t, holding)
		done := make(chan gate.Result)
		var n atomic.Int64
		go func() { done <- s.k.Act(context.Background(), attempt(), nil, sent(&n)) }()
		if err := s.k.End(t.Context(), func(gate.Admission) bool { return true }, "killed", "killed"); err != nil {
			t.Fatal(err)
		}
		s.h.answer <- nil
		want(t, <-done, action.Deny, action.LayerAuthority, "killed")
		if n.Load() != 0 {
			t.Error("an approval released a killed action")
		}
	})
}

func TestLabelsStayOnTheTask(t *testing.T) {
	var seen []string
	k := gatetest.New(t, func(f gate.Facts) action.Decision { seen = f.Labels; return gatetest.AllowAll(f) })
	a := attempt()
	a.Labels = []string{"untrusted-content", "pii"}
	var n atomic.Int64
	k.Act(t.Context(), a, nil, sent(&n))
	k.Act(t.Context(), attempt(), nil, sent(&n))
	if fmt.Sprint(seen) != "[pii untrusted-content]" {
		t.Errorf("got %v", seen)
	}
}

// TestLargeAttemptIsRecorded: an attempt that is larger than a record is denied, and on
// record whatever else would have been decided, with its evidence. It used to leave
// nothing, so somebody could try what they like.
//
// Threats: T55, M1 (form)
func TestLargeAttemptIsRecorded(t *testing.T) {
	large := strings.Repeat("\x01", 20<<10) // six bytes each, in JSON
	for name, tc := range map[string]struct {
		edit   func(*action.Action)
		policy gatetest.Policy
		layer  action.Layer
		code   string
	}{
		"allowed": {func(a *action.Action) { a.Params = map[string]string{"text": large} }, nil, action.LayerForm, "too_large"},
		"denied":  {func(a *action.Action) { a.Params = map[string]string{large: "text"} }, func(gate.Facts) action.Decision { return action.Denied(action.LayerGrant, "outside_grant", "no", "") }, action.LayerGrant, "outside_grant"},
		"held":    {func(a *action.Action) { a.Params = map[string]string{"text": large} }, func(gate.Facts) action.Decision { return action.Decision{Verdict: action.Hold, Approvers: "approver"} }, action.LayerHold, "hold_not_recorded"},
		"request": {func(a *action.Action) { a.Request = &action.Request{Path: large, Query: large} }, nil, action.LayerForm, "too_large"},
		"element": {func(a *action.Action) { a.Element = &action.Element{URL: large} }, nil, action.LayerForm, "too_large"},
	} {
		k := gatetest.New(t, tc.policy, func(a *gate.Admission) { a.MaxActions = 1 })
		var n atomic.Int64
		a := attempt()
		tc.edit(&a)
		r := k.Act(t.Context(), a, []record.Blob{{Name: "request-body", Data: []byte(large)}}, sent(&n))
		want(t, r, action.Deny, tc.layer, tc.code)
		all := k.Log.Decisions(t)
		if n.Load() != 0 || r.Seq < 0 || len(all) != 1 || all[0].Decision.Code != tc.code || all[0].Action.Operation != a.Operation || all[0].Action.Digest != digest || len(all[0].Action.Params["tooLarge"]) != 71 {
			t.Errorf("%s: %d sent; on record: %+v", name, n.Load(), all)
		}
		if e := k.Log.All()[0].Evidence; len(e) != 1 || e[0].Size != int64(len(large)) {
			t.Errorf("%s: evidence %+v", name, e)
		}
		if tc.code == "too_large" { // it took nothing out of the budget
			if r := k.Act(t.Context(), attempt(), nil, sent(&n)); r.Decision.Verdict != action.Allow {
				t.Errorf("%s: the next: %+v", name, r.Decision)
			}
		}
	}
}
