package gate_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// tree is a task, a part of it, and a part of that.
func tree(t *testing.T, k *gatetest.Kit, edit func(name string, a *gate.Admission)) {
	t.Helper()
	above := gatetest.Task
	for _, name := range []string{"part", "leaf"} {
		a := gate.Admission{Tenant: gatetest.Tenant, Task: name, Agent: "other", Stage: action.Sandbox, Tier: "standard", Parent: above, Policy: gatetest.Policy(gatetest.AllowAll),
			Holds: gatetest.NoHolds{}, Log: k.Log, Deadline: time.Now().Add(time.Hour), MaxActions: 1000, HoldLimit: time.Second, Certified: func() error { return nil }}
		if edit != nil {
			edit(name, &a)
		}
		if err := k.Admit(a); err != nil {
			t.Fatal(err)
		}
		above = name
	}
}

func attemptOf(task string) action.Action {
	a := attempt()
	if a.Task = task; task != gatetest.Task {
		a.Agent = "other"
	}
	return a
}

// What a part does counts for all above it, whoever acts and however many at
// once, and says in its record whose part it is.
func TestPartsShareTheBudget(t *testing.T) {
	k := gatetest.New(t, nil, func(a *gate.Admission) { a.MaxActions = 50 })
	tree(t, k, nil)
	var n atomic.Int64
	var wg sync.WaitGroup
	for i := range 90 {
		wg.Go(func() {
			k.Act(t.Context(), attemptOf([]string{gatetest.Task, "part", "leaf"}[i%3]), nil, sent(&n))
		})
	}
	wg.Wait()
	if n.Load() != 50 {
		t.Errorf("got %d effects, want the 50 of the task at the top", n.Load())
	}
	want(t, k.Act(t.Context(), attemptOf("leaf"), nil, sent(&n)), action.Deny, action.LayerAuthority, "budget_spent")
	for _, d := range k.Log.Decisions(t) {
		chain := map[string][]string{gatetest.Task: nil, "part": {gatetest.Task}, "leaf": {"part", gatetest.Task}}[d.Action.Task]
		if !slices.Equal(d.Chain, chain) {
			t.Fatalf("record of %s: got chain %v, want %v", d.Action.Task, d.Chain, chain)
		}
	}
}

// What is above a part must be certified as well: it ended, and nobody has ended its
// tasks yet.
func TestPartsNeedWhatIsAboveThemCertified(t *testing.T) {
	for _, name := range []string{gatetest.Task, "part", "leaf"} {
		production := func(of string, a *gate.Admission) {
			a.Stage = action.Production
			if of == name {
				a.Certified = func() error { return errors.New("expired") }
			}
		}
		k := gatetest.New(t, nil, func(a *gate.Admission) { production(gatetest.Task, a) })
		tree(t, k, production)
		var n atomic.Int64
		want(t, k.Act(t.Context(), attemptOf("leaf"), nil, sent(&n)), action.Deny, action.LayerAuthority, "no_certification")
	}
}

// An action that is not recorded is given back to all.
func TestPartsGiveBack(t *testing.T) {
	k := gatetest.New(t, nil, func(a *gate.Admission) { a.MaxActions = 1 })
	tree(t, k, nil)
	var n atomic.Int64
	k.Log.Fail = func(record.Draft) error { return errors.New("disk full") }
	want(t, k.Act(t.Context(), attemptOf("leaf"), nil, sent(&n)), action.Deny, action.LayerLedger, "not_recorded")
	k.Log.Fail = nil
	if r := k.Act(t.Context(), attempt(), nil, sent(&n)); r.Decision.Verdict != action.Allow || n.Load() != 1 {
		t.Errorf("the budget of one was not given back: got %v", r.Decision)
	}
}

// What the task above may not do, its part may not, whatever the part's own
// policy says; and where the task above asks people, the part does.
func TestPartsNeedWhatIsAboveThem(t *testing.T) {
	for name, c := range map[string]struct {
		top, own action.Verdict
		layer    action.Layer
		code     string
	}{
		"denied_above":   {action.Deny, action.Allow, action.LayerGrant, "top"},
		"nothing_above":  {"", action.Allow, action.LayerGrant, "top"},
		"held_above":     {action.Hold, action.Allow, action.LayerHold, "hold_not_recorded"},
		"two_holds":      {action.Hold, action.Hold, action.LayerHold, "two_holds"},
		"denied_by_own":  {action.Allow, action.Deny, action.LayerGrant, "own"},
		"nothing_by_own": {action.Allow, "nonsense", action.LayerGrant, "own"},
	} {
		t.Run(name, func(t *testing.T) {
			var asked action.Action
			k := gatetest.New(t, func(f gate.Facts) action.Decision {
				asked = f.Action
				return action.Decision{Verdict: c.top, Layer: action.LayerGrant, Code: "top", Approvers: "approver"}
			})
			tree(t, k, func(name string, a *gate.Admission) {
				if name == "leaf" {
					a.Policy = gatetest.Policy(func(gate.Facts) action.Decision {
						return action.Decision{Verdict: c.own, Layer: action.LayerGrant, Code: "own", Approvers: "other"}
					})
				}
			})
			var n atomic.Int64
			want(t, k.Act(t.Context(), attemptOf("leaf"), nil, sent(&n)), action.Deny, c.layer, c.code)
			if n.Load() != 0 {
				t.Error("an effect happened")
			}
			if c.own == action.Allow && (asked.Task != gatetest.Task || asked.Agent != gatetest.Agent) {
				t.Errorf("the task above was asked as %s of %s", asked.Task, asked.Agent)
			}
		})
	}
}

// A label that a part brings in is on all above it.
func TestPartsShareLabels(t *testing.T) {
	var seen []string
	k := gatetest.New(t, func(f gate.Facts) action.Decision {
		seen = f.Labels
		return gatetest.AllowAll(f)
	})
	tree(t, k, nil)
	var n atomic.Int64
	a := attemptOf("leaf")
	a.Labels = []string{"untrusted-content"}
	k.Act(t.Context(), a, nil, sent(&n))
	k.Act(t.Context(), attempt(), nil, sent(&n))
	if !slices.Equal(seen, []string{"untrusted-content"}) || n.Load() != 2 {
		t.Errorf("the task at the top sees %v after %d effects", seen, n.Load())
	}
}

// A kill of the task at the top ends the whole tree at once: nothing of it is
// dispatched after End returned, and nothing joins it.
//
// Threats: T57 (authority)
func TestKillEndsTheTree(t *testing.T) {
	k := gatetest.New(t, nil)
	tree(t, k, nil)
	inside, hold := make(chan struct{}), make(chan struct{})
	var after atomic.Bool
	var late atomic.Int64
	go k.Act(context.Background(), attemptOf("leaf"), nil, func(ctx context.Context, p gate.Permit) action.Outcome {
		close(inside)
		<-ctx.Done() // cut by the kill of the top
		close(hold)
		if after.Load() {
			late.Add(1)
		}
		return action.Outcome{State: action.Failed}
	})
	<-inside
	if err := k.End(t.Context(), func(a gate.Admission) bool { return a.Task == gatetest.Task }, "killed", "test"); err != nil {
		t.Fatal(err)
	}
	after.Store(true)
	<-hold
	var n atomic.Int64
	for _, task := range []string{gatetest.Task, "part", "leaf"} {
		want(t, k.Act(t.Context(), attemptOf(task), nil, sent(&n)), action.Deny, action.LayerAuthority, "killed")
	}
	err := k.Admit(gate.Admission{Tenant: gatetest.Tenant, Task: "late", Agent: "other", Parent: "part", Policy: gatetest.Policy(gatetest.AllowAll), Holds: gatetest.NoHolds{},
		Log: k.Log, Deadline: time.Now().Add(time.Hour), MaxActions: 1, Certified: func() error { return nil }})
	if err == nil || n.Load() != 0 || late.Load() != 0 {
		t.Errorf("after the kill: admission %v, %d effects, %d late", err, n.Load(), late.Load())
	}
}

// A part ends alone; what is above goes on. A part of nothing is refused.
func TestPartEndsAlone(t *testing.T) {
	k := gatetest.New(t, nil)
	tree(t, k, nil)
	if err := k.End(t.Context(), func(a gate.Admission) bool { return a.Task == "part" }, "killed", "test"); err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	want(t, k.Act(t.Context(), attemptOf("leaf"), nil, sent(&n)), action.Deny, action.LayerAuthority, "killed")
	if r := k.Act(t.Context(), attempt(), nil, sent(&n)); r.Decision.Verdict != action.Allow || n.Load() != 1 {
		t.Errorf("the task above: got %v", r.Decision)
	}
	for _, parent := range []string{"nobody", "part"} {
		err := k.Admit(gate.Admission{Tenant: gatetest.Tenant, Task: "x-" + parent, Agent: "a", Parent: parent, Policy: gatetest.Policy(gatetest.AllowAll), Holds: gatetest.NoHolds{}, Log: k.Log, Certified: func() error { return errors.New("no") }})
		if err == nil {
			t.Errorf("a part of %s: admitted", parent)
		}
	}
}
