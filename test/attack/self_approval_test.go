package attack

import (
	"errors"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// hold starts a held reset and returns its approval; end stops it.
func hold(t *testing.T, r *rig.Rig) approval.Approval {
	t.Helper()
	r.Approver(rig.Nobody)
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	var out rig.Output
	running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, reset(r, "1")...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := r.Server.CloseTask(t.Context(), "", rig.As("ada"), x.ID); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
		rig.Wait(t, running)
	})
	var waiting []approval.Approval
	rig.Await(t, "the hold", func() bool { waiting = r.Pending(t); return len(waiting) == 1 })
	return waiting[0]
}

func refusedWith(t *testing.T, err error, codes ...string) {
	t.Helper()
	var p *server.Problem
	if !errors.As(err, &p) {
		t.Errorf("got %v, want a refusal with one of %q", err, codes)
		return
	}
	for _, c := range codes {
		if p.Code == c {
			return
		}
	}
	t.Errorf("got %s (%s), want one of %q", p.Code, p.Reason, codes)
}

// The requester of a task is an approver too, and approves the held action of
// it. So do the agent's owner and deputy, an auditor, and somebody with another
// person's key. None of it may count.
//
// Threats: T50, I4 (approval)
func TestSelfApproval(t *testing.T) {
	r := wide(t)
	a := hold(t, r)
	ctx := t.Context()
	refusedWith(t, r.Sign(ctx, a, "dana"), "excluded") // requester and approver
	refusedWith(t, r.Sign(ctx, a, "mara"), "excluded") // owner
	refusedWith(t, r.Sign(ctx, a, "tom"), "excluded")  // deputy
	refusedWith(t, r.Sign(ctx, a, "lin"), "role_missing")
	refusedWith(t, r.Sign(ctx, a, "nobody"), "signature_invalid", "unknown_person")
	key, err := r.Key("dana")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := approval.Sign(a.Statement, key)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Server.Approve(ctx, "", a.ID(), "ines", sig)
	refusedWith(t, err, "key_not_theirs")
	if got := resets(r); got != 0 {
		t.Errorf("%d resets were released", got)
	}
	if err := r.Sign(ctx, a, "ines"); err != nil {
		t.Errorf("the honest approver: %v", err)
	}
	rig.Await(t, "the approved reset", func() bool { return resets(r) == 1 })
}

// An approver loses the role while an action waits for them. Their signature,
// made with the key that they still have, must not count any more; the role of
// the directory now decides, not that of when it was asked.
//
// Threats: I8 (approval)
func TestApproverRemoved(t *testing.T) {
	r := rig.New(t, rig.Options{})
	r.Ready(t)
	a := hold(t, r)
	all, err := r.Resources(rig.Replace("people.yaml", "email: ines@brightwell.example\n  roles: [approver]", "email: ines@brightwell.example\n  roles: [auditor]"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Server.Apply(t.Context(), rig.As("ines"), all); err == nil {
		t.Error("a person changed their own roles")
	}
	if _, err := r.Server.Apply(t.Context(), rig.As("kofi"), all); err != nil {
		t.Fatal(err)
	}
	refusedWith(t, r.Sign(t.Context(), a, "ines"), "role_missing")
	if got := resets(r); got != 0 {
		t.Errorf("%d resets were released", got)
	}
	if err := r.Sign(t.Context(), a, "felix"); err != nil {
		t.Errorf("the approver who is left: %v", err)
	}
	rig.Await(t, "the approved reset", func() bool { return resets(r) == 1 })
}
