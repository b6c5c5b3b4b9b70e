package gate_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/record"
)

func by(actor string, s action.Surface, source string) action.Action {
	a := attempt()
	a.Actor, a.Surface, a.Source = actor, s, source
	return a
}

// Threats: T56 (authority)
func TestOneHand(t *testing.T) {
	k := gatetest.New(t, nil)
	pass := func(from, to string, want error) {
		t.Helper()
		if err := k.Pass(t.Context(), gatetest.Tenant, gatetest.Task, from, to); !errors.Is(err, want) {
			t.Errorf("%q to %q: got %v, want %v", from, to, err, want)
		}
	}
	var n atomic.Int64
	agent := func(code string) {
		t.Helper()
		verdict, layer := action.Deny, action.LayerAuthority
		if code == "test_allow" {
			verdict, layer = action.Allow, action.LayerGrant
		}
		want(t, k.Act(t.Context(), by("", action.Computer, "harness"), []record.Blob{{Name: action.Screenshot, Data: []byte("x")}}, sent(&n)), verdict, layer, code)
		want(t, k.Act(t.Context(), by("", action.Egress, "harness"), nil, sent(&n)), verdict, layer, code)
		want(t, k.Act(t.Context(), by("", action.Database, "harness"), nil, sent(&n)), verdict, layer, code)
		want(t, k.Act(t.Context(), by("", action.MCP, "harness"), nil, sent(&n)), verdict, layer, code)
		want(t, k.Act(t.Context(), by("", action.Inference, "harness"), nil, sent(&n)), action.Allow, action.LayerGrant, "test_allow")
		want(t, k.Act(t.Context(), by("", action.Egress, "browser"), nil, sent(&n)), action.Allow, action.LayerGrant, "test_allow")
	}
	agent("test_allow")
	want(t, k.Act(t.Context(), by("person:ines", action.Computer, "person"), nil, sent(&n)), action.Deny, action.LayerAuthority, "not_in_hand")
	pass("", "person:ines", nil)
	pass("", "person:ada", gate.ErrOtherHand)
	from := len(k.Log.All())
	agent(gate.CodeTaken)
	want(t, k.Act(t.Context(), by("person:ines", action.Computer, "person"), nil, sent(&n)), action.Allow, action.LayerGrant, "test_allow")
	want(t, k.Act(t.Context(), by("person:ada", action.Computer, "person"), nil, sent(&n)), action.Deny, action.LayerAuthority, "not_in_hand")
	for _, e := range k.Log.All()[from:] {
		if len(e.Evidence) > 0 {
			t.Errorf("a picture that was refused is kept: %+v", e.Evidence)
		}
	}
	actors := map[string]int{}
	for _, d := range k.Log.Decisions(t) {
		if d.Decision.Verdict == action.Allow && d.Action.Source != "harness" {
			actors[d.Action.Actor]++
		}
	}
	if actors["person:ines"] != 2 || actors[""] != 1 { // what she did, and what the page did then
		t.Errorf("got %v", actors)
	}
	// She may be signing in: what the page sends for her is not kept.
	r := k.Act(t.Context(), by("", action.Egress, "browser"), []record.Blob{{Name: "request-body", Data: []byte("password")}}, sent(&n))
	if want(t, r, action.Allow, action.LayerGrant, "test_allow"); len(r.Action.Evidence) > 0 || r.Action.Actor != "person:ines" {
		t.Errorf("got %+v", r.Action)
	}
	pass("person:ines", "", nil)
	agent("test_allow")
}

// Whoever gets the session gets it when what was being done has ended, and not a
// moment before; a turn outlives a whole take-over never.
//
// Threats: T56 (authority)
func TestPassCutsAndWaits(t *testing.T) {
	t.Run("dispatch", func(t *testing.T) {
		k := gatetest.New(t, nil)
		started := make(chan struct{})
		var ended atomic.Bool
		done := make(chan gate.Result, 1)
		go func() {
			done <- k.Act(context.Background(), by("", action.Computer, "harness"), nil, func(ctx context.Context, p gate.Permit) action.Outcome {
				close(started)
				<-ctx.Done()
				ended.Store(true)
				return action.Outcome{State: action.Unknown}
			})
		}()
		<-started
		if err := k.Pass(t.Context(), gatetest.Tenant, gatetest.Task, "", "person:ines"); err != nil || !ended.Load() {
			t.Fatalf("got %v before the agent had ended", err)
		}
		<-done
	})
	t.Run("hold", func(t *testing.T) {
		h := &holds{answer: make(chan error, 1)}
		k := gatetest.New(t, holding, func(a *gate.Admission) { a.Holds = h })
		done := make(chan gate.Result, 1)
		go func() { done <- k.Act(context.Background(), by("", action.Computer, "harness"), nil, nil) }()
		turn, end, ok := k.Turn(t.Context(), by("", action.Computer, "harness"))
		if !ok {
			t.Fatal("no turn")
		}
		passed := make(chan error, 1)
		go func() { passed <- k.Pass(context.Background(), gatetest.Tenant, gatetest.Task, "", "person:ines") }()
		<-turn.Done() // it was cut
		if _, _, ok := k.Turn(t.Context(), by("", action.Computer, "harness")); ok {
			t.Error("a turn began while the session changed hands")
		}
		select {
		case err := <-passed:
			t.Fatalf("passed within a turn: %v", err)
		default:
		}
		end()
		if err := <-passed; err != nil {
			t.Fatal(err)
		}
		h.answer <- nil
		if r := <-done; r.Decision.Code != gate.CodeTaken {
			t.Errorf("what was held: got %+v, want it cut", r.Decision)
		}
	})
	t.Run("who_does_not_stop", func(t *testing.T) {
		k := gatetest.New(t, nil)
		_, end, _ := k.Turn(t.Context(), by("", action.Computer, "harness"))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := k.Pass(ctx, gatetest.Tenant, gatetest.Task, "", "person:ines"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		end()
		if _, end, ok := k.Turn(t.Context(), by("", action.Computer, "harness")); !ok {
			t.Error("the session was lost")
		} else {
			end()
		}
	})
	t.Run("ended", func(t *testing.T) {
		k := gatetest.New(t, nil)
		if err := k.End(t.Context(), func(gate.Admission) bool { return true }, "killed", "killed"); err != nil {
			t.Fatal(err)
		}
		if err := k.Pass(t.Context(), gatetest.Tenant, gatetest.Task, "", "person:ines"); !errors.Is(err, gate.ErrNotRunning) {
			t.Errorf("got %v", err)
		}
	})
}

// The agent and two people, all at once: never two at a time.
//
// Threats: T56 (authority)
func TestHandsAreNeverTwo(t *testing.T) {
	k := gatetest.New(t, nil)
	var inside atomic.Int64
	acted := make(chan struct{}, 1)
	var passed atomic.Value // a channel that the next pass closes
	passed.Store(make(chan struct{}))
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, who := range []string{"", "person:ines", "person:ada"} {
		source := "harness"
		if who != "" {
			source = "person"
		}
		wg.Go(func() {
			for ctx.Err() == nil {
				next := passed.Load().(chan struct{})
				r := k.Act(ctx, by(who, action.Computer, source), nil, func(context.Context, gate.Permit) action.Outcome {
					if inside.Add(1) != 1 {
						t.Error("two at a time")
					}
					select {
					case acted <- struct{}{}:
					default:
					}
					inside.Add(-1)
					return action.Outcome{State: action.Done}
				})
				if r.Outcome == nil { // not theirs: until it is somebody else's
					select {
					case <-next:
					case <-ctx.Done():
					}
				}
			}
		})
	}
	hands := []string{"", "person:ines", "person:ada"}
	for i := range 100 {
		<-acted
		if err := k.Pass(t.Context(), gatetest.Tenant, gatetest.Task, hands[i%3], hands[(i+1)%3]); err != nil {
			t.Fatal(err)
		}
		close(passed.Swap(make(chan struct{})).(chan struct{}))
	}
	stop()
	wg.Wait()
}

// People are asked with the picture that the agent was given last, whatever gave
// it: not a refused one, not a person's, and none if there was none.
//
// Threats: T50, T51 (approval)
func TestQuestionNamesTheLastPicture(t *testing.T) {
	w := &witness{}
	k := gatetest.New(t, func(f gate.Facts) action.Decision {
		switch f.Action.Operation {
		case "held":
			return action.Decision{Verdict: action.Hold, Layer: action.LayerGrant, Code: "needs_approval", Approvers: "approver"}
		case "refused":
			return action.Denied(action.LayerGrant, "outside_grant", "", "")
		}
		return gatetest.AllowAll(f)
	}, func(a *gate.Admission) { a.Holds = w })
	var n atomic.Int64
	shot := func(op, actor, content string) action.Digest {
		a := by(actor, action.Computer, "harness")
		a.Operation = op
		r := k.Act(t.Context(), a, []record.Blob{{Name: action.Screenshot, Data: []byte(content)}}, sent(&n))
		return r.Action.Evidence[len(r.Action.Evidence)-1].Commitment
	}
	ask := func(want action.Digest) {
		t.Helper()
		a := by("", action.Egress, "browser")
		a.Operation = "held"
		k.Act(t.Context(), a, nil, sent(&n))
		if w.saw != want {
			t.Errorf("asked with %q, want %q", w.saw, want)
		}
	}
	ask("")
	first := shot("screenshot", "", "one")
	ask(first)
	shot("refused", "", "two")
	ask(first)
	if err := k.Pass(t.Context(), gatetest.Tenant, gatetest.Task, "", "person:ines"); err != nil {
		t.Fatal(err)
	}
	shot("screenshot", "person:ines", "three")
	if err := k.Pass(t.Context(), gatetest.Tenant, gatetest.Task, "person:ines", ""); err != nil {
		t.Fatal(err)
	}
	ask(first)
	ask2 := shot("screenshot", "", "four")
	ask(ask2)
}

// witness is a Holds that notes the picture it was asked with and asks nobody.
type witness struct{ saw action.Digest }

func (w *witness) Open(_ context.Context, a action.Action, _ action.Decision) (gate.Hold, error) {
	w.saw = ""
	for _, e := range a.Evidence {
		if e.Name == action.Screenshot {
			w.saw = e.Commitment
		}
	}
	return nil, errors.New("nobody is asked")
}
