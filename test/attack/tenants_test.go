package attack

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// Two tenants with the same people, names and keys, which is the worst case. What
// one of them has must be of no use in the other: tasks, approvals, signatures,
// secrets, records, kills.
func TestTwoTenants(t *testing.T) {
	if testing.Short() {
		t.Skip("starts browsers")
	}
	r := rig.New(t, rig.Options{})
	r.Ready(t)
	ctx := t.Context()
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	r.StopApprover()
	anotherTenant(t, r, "northgate")
	const a, b = "brightwell", "northgate"

	// Nothing of A is approved in B, though every digest is the same, and A's
	// signatures do not count there.
	in := rig.Intent(action.Sandbox, "jo", "4711")
	_, err := r.Server.OpenTask(ctx, b, rig.As("dana"), in)
	refusedWith(t, err, "not_approved")
	granted, err := r.Server.Approvals(ctx, a, approval.Used)
	if err != nil {
		t.Fatal(err)
	}
	old, err := r.Server.Approvals(ctx, a, approval.Granted)
	if err != nil {
		t.Fatal(err)
	}
	pending, err := r.Server.Approvals(ctx, b, approval.Pending)
	if err != nil || len(pending) == 0 {
		t.Fatalf("%d pending, %v", len(pending), err)
	}
	tried := 0
	for _, g := range append(granted, old...) {
		for _, p := range pending {
			for _, s := range g.Signatures {
				tried++
				if _, err := r.Server.Approve(ctx, b, p.ID(), s.Person, []byte(s.Signature)); err == nil {
					t.Errorf("a signature for %s of %s counts in %s", g.Statement.Subject, a, b)
				}
			}
			if _, err := r.Server.Approve(ctx, a, p.ID(), "ines", nil); err == nil {
				t.Error("an approval of B was found in A")
			}
		}
	}
	if tried == 0 {
		t.Error("there was no signature to try")
	}

	// A task of A does not exist in B.
	if _, err := r.Server.Task(ctx, b, x.ID); err == nil {
		t.Error("B reads a task of A")
	}
	if _, err := r.Server.CloseTask(ctx, b, rig.As("dana"), x.ID); err == nil {
		t.Error("B closes a task of A")
	}
	var out rig.Output
	if _, err := r.Server.Run(ctx, b, x.ID, rig.Harness(t, &out, rig.SampleAgent...)); err == nil {
		t.Error("B runs a task of A")
	}
	for _, scope := range []string{"task/" + x.ID, "agent/helpdesk", "connector/tickets", "tenant/" + b} {
		if ended, err := r.Server.Revoke(ctx, b, rig.As("ada"), scope, "test"); err != nil || len(ended) != 0 {
			t.Errorf("kill of %s in B: %d tasks, %v", scope, len(ended), err)
		}
	}
	if _, err := r.Server.Revoke(ctx, b, rig.As("ada"), "tenant/"+a, "test"); err == nil {
		t.Error("B kills A")
	}
	if y, err := r.Server.Task(ctx, a, x.ID); err != nil || y.State != task.Proposed {
		t.Errorf("A's task is %s, %v", y.State, err)
	}

	// No secret, lease or record of A is in B.
	if s, err := r.Server.Secrets(ctx, b); err != nil || len(s) != 0 {
		t.Errorf("secrets of B: %v, %v", s, err)
	}
	if l, err := r.Server.Leases(ctx, b); err != nil || len(l) != 0 {
		t.Errorf("leases of B: %v, %v", l, err)
	}
	log, err := r.Server.Log(b)
	if err != nil {
		t.Fatal(err)
	}
	err = log.Entries(ctx, 0, func(e record.Entry) error {
		if e.Tenant != b || bytes.Contains(e.Raw, []byte(x.ID)) && e.Type != "epoch.bumped" {
			t.Errorf("record %d of B: %s", e.Seq, e.Raw)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// With two of them, a call that names none is refused.
	_, err = r.Server.OpenTask(ctx, "", rig.As("dana"), in)
	refusedWith(t, err, "tenant_unclear")
}

// anotherTenant declares a tenant that is brightwell under another name.
func anotherTenant(t *testing.T, r *rig.Rig, name string) {
	t.Helper()
	all, err := r.Resources(func(files map[string][]byte) {
		for file, b := range files {
			if strings.HasSuffix(file, ".yaml") {
				b = bytes.ReplaceAll(b, []byte("tenant: brightwell"), []byte("tenant: "+name))
				b = bytes.ReplaceAll(b, []byte("name: brightwell"), []byte("name: "+name))
				files[file] = bytes.ReplaceAll(b, []byte("trustDomain: brightwell.example"), []byte("trustDomain: "+name+".example"))
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Server.Apply(t.Context(), rig.As("noor"), all); err != nil {
		t.Fatal(err)
	}
}
