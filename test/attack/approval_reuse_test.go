package attack

import (
	"sync/atomic"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// reset is the privileged write of the task, sent by the harness itself; the
// application refuses its token, so that it can be counted and changes nothing.
func reset(r *rig.Rig, times string) []string {
	return []string{"program", "hammer", r.Estate.URL(estate.Sandbox, estate.IAM) + "/users/jo/mfa/reset", "_csrf=wrong", times}
}

func resets(r *rig.Rig) int {
	n := 0
	for _, e := range r.State(action.Sandbox).Audit[estate.IAM] {
		if e.Action == "user.mfa.reset" {
			n++
		}
	}
	return n
}

// A harness sends the approved write a second time, byte for byte. The task
// covers one; the grant must stop the second.
//
// Threats: T19, T50 (grant)
func TestSecondResetBeyondTheGrant(t *testing.T) {
	r := sandbox(t)
	x := runOn(t, r, action.Sandbox, "", "jo", "4711", reset(r, "3")...)
	if got := resets(r); got != 1 {
		t.Errorf("%d resets reached the application, want 1", got)
	}
	if got := r.Allowed(t, x.task.ID, "iam.user.mfa.reset"); len(got) != 1 || got[0].Approval == "" {
		t.Errorf("%d resets were let through", len(got))
	}
	x.denied(action.LayerGrant, "count_spent", operation("iam.user.mfa.reset"))
}

// The same where the task covers two. Each must ask for an approval of its own:
// one that was used releases nothing again. The approver signs the first only.
//
// Threats: T50, I2 (approval, hold)
func TestSecondUseOfAnApproval(t *testing.T) {
	r := wide(t)
	var asked atomic.Int32
	second := make(chan approval.Approval, 1)
	r.Approver(func(a approval.Approval) string {
		if asked.Add(1) == 1 {
			return "ines"
		}
		select {
		case second <- a:
		default:
		}
		return ""
	})
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	var out rig.Output
	running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, reset(r, "2")...))
	if err != nil {
		t.Fatal(err)
	}
	next := <-second
	first := r.Allowed(t, x.ID, "iam.user.mfa.reset")
	if len(first) != 1 || first[0].Approval == next.ID() {
		t.Fatalf("let through before the second approval: %v", first)
	}
	old, err := r.Server.Approval(t.Context(), "", first[0].Approval)
	if err != nil {
		t.Fatal(err)
	}
	if old.State != approval.Used {
		t.Errorf("the approval of the first reset is %s", old.State)
	}
	// Its signature is of another statement: it cannot be put under this one,
	// and the old approval takes no further signature.
	for _, id := range []string{next.ID(), old.ID()} {
		if _, err := r.Server.Approve(t.Context(), "", id, "ines", []byte(old.Signatures[0].Signature)); err == nil {
			t.Errorf("the used signature was accepted for %s", id)
		}
	}
	if _, err := r.Server.Reject(t.Context(), "", rig.As("ines"), next.ID(), "once is enough"); err != nil {
		t.Fatal(err)
	}
	x = rig.Wait(t, running)
	if got := resets(r); got != 1 {
		t.Errorf("%d resets reached the application, want 1\n%s", got, out.String())
	}
	r.Denied(t, x.ID, action.LayerHold, "not_approved", operation("iam.user.mfa.reset"))
}

// Two held resets of the same task shape for two people: the approval of one,
// and its signature, must not release the other.
//
// Threats: T50, I2 (approval)
func TestApprovalOfOneUsedForAnother(t *testing.T) {
	r := wide(t)
	r.Approver(rig.Nobody)
	var waiting []approval.Approval
	var running []interface{ wait() }
	for _, user := range []string{"jo", "sam"} {
		in := rig.Intent(action.Sandbox, user, "4711")
		x := r.OpenTask(t, in)
		var out rig.Output
		run, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, "program", "hammer",
			r.Estate.URL(estate.Sandbox, estate.IAM)+"/users/"+user+"/mfa/reset", "_csrf=wrong", "1"))
		if err != nil {
			t.Fatal(err)
		}
		running = append(running, waiter(func() { rig.Wait(t, run) }))
		rig.Await(t, "the hold", func() bool { waiting = r.Pending(t); return len(waiting) == len(running) })
	}
	a, b := waiting[0], waiting[1]
	if a.Statement.Params["user"] == b.Statement.Params["user"] {
		t.Fatalf("both holds are for %s", a.Statement.Params["user"])
	}
	key, err := r.Key("ines")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := approval.Sign(a.Statement, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Server.Approve(t.Context(), "", b.ID(), "ines", sig); err == nil {
		t.Error("the signature for one was accepted for the other")
	}
	// A statement that was changed after it was shown is another one.
	for _, forge := range []func(*approval.Statement){
		func(s *approval.Statement) { s.Params = map[string]string{"user": "kate"} },
		func(s *approval.Statement) { s.Digest = b.Statement.Digest },
		func(s *approval.Statement) { s.Excluded = nil },
		func(s *approval.Statement) { s.Nonce = b.Statement.Nonce },
	} {
		f := a.Statement
		forge(&f)
		if sig, err := approval.Sign(f, key); err == nil {
			if _, err := r.Server.Approve(t.Context(), "", a.ID(), "ines", sig); err == nil {
				t.Errorf("a signature over a changed statement was accepted: %+v", f)
			}
		}
	}
	if err := r.Sign(t.Context(), a, "ines"); err != nil {
		t.Fatal(err)
	}
	rig.Await(t, "the approved reset", func() bool { return resets(r) == 1 })
	if _, err := r.Server.Reject(t.Context(), "", rig.As("ines"), b.ID(), "not this one"); err != nil {
		t.Fatal(err)
	}
	for _, w := range running {
		w.wait()
	}
	if got := resets(r); got != 1 {
		t.Errorf("%d resets reached the application, want the approved one", got)
	}
	for _, e := range r.State(action.Sandbox).Audit[estate.IAM] {
		if e.Action == "user.mfa.reset" && e.Target != a.Statement.Params["user"] {
			t.Errorf("the reset of %s was released", e.Target)
		}
	}
}

type waiter func()

func (w waiter) wait() { w() }
