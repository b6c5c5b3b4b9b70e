package attack

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// felix as the sample declares him, and with a role more.
const (
	felix     = "email: felix@brightwell.example\n  roles: [approver]\n  sshKeyFiles: [keys/felix.pub]"
	felixMore = "email: felix@brightwell.example\n  roles: [approver, auditor]\n  sshKeyFiles: [keys/felix.pub]"
)

// applyFelix applies the Person felix alone.
func applyFelix(t *testing.T, r *rig.Rig, as, to string) server.Applied {
	t.Helper()
	all, err := r.Resources(rig.Replace("people.yaml", felix, to))
	if err != nil {
		t.Fatal(err)
	}
	all = slices.DeleteFunc(all, func(x resource.Resource) bool { return x.Metadata.Name != "felix" })
	done, err := r.Server.Apply(t.Context(), rig.As(as), all)
	if err != nil {
		t.Fatal(err)
	}
	return done[0]
}

// asked are the questions about proposals.
func asked(t *testing.T, r *rig.Rig) []approval.Approval {
	t.Helper()
	return slices.DeleteFunc(r.Pending(t), func(a approval.Approval) bool { return a.Statement.Kind != approval.Resource })
}

// inForce is the Person felix.
func inForce(t *testing.T, r *rig.Rig) string {
	t.Helper()
	all, err := r.Server.Resources("", resource.KindPerson, "felix")
	if err != nil {
		t.Fatal(err)
	}
	return string(all[0])
}

// A key is revoked while a proposal of before waits, which has it and something
// else. Its approval must not bring the key back, which the question did not say;
// the same if what is in force is only said again.
//
// Threats: R1, I5 (approval)
func TestRevokedKeyComesBackByAnOldProposal(t *testing.T) {
	for name, then := range map[string]string{"revoked": "email: felix@brightwell.example\n  roles: [approver]", "said_again": felix} {
		t.Run(name, func(t *testing.T) {
			r := rig.New(t, rig.Options{})
			if d := applyFelix(t, r, "kofi", felixMore); d.Change != "proposed" || d.Pending == "" {
				t.Fatalf("got %+v, want a proposal that waits", d)
			}
			old := asked(t, r)
			// Who may not say who people are takes nothing back by saying what is so.
			if applyFelix(t, r, "noor", felix); len(asked(t, r)) != 1 {
				t.Error("a proposal of others was taken back")
			}
			applyFelix(t, r, "kofi", then)
			if now := asked(t, r); len(now) != 0 {
				t.Errorf("it is asked still: %v", now)
			}
			want := inForce(t, r)
			refusedWith(t, r.Sign(t.Context(), old[0], "ines"), "not_pending")
			if got := inForce(t, r); got != want || strings.Contains(got, "auditor") {
				t.Errorf("in force is %s", got)
			}
		})
	}
}

// What an approver has said no to is not asked again at the next apply of
// somebody else, until one of them says yes.
//
// Threats: R1 (approval)
func TestRejectedProposalIsAskedAgain(t *testing.T) {
	r := rig.New(t, rig.Options{})
	applyFelix(t, r, "kofi", felixMore)
	if _, err := r.Server.Reject(t.Context(), "", rig.As("ines"), asked(t, r)[0].ID(), "no"); err != nil {
		t.Fatal(err)
	}
	applyFelix(t, r, "noor", felix)
	if err := r.CloseServer(); err != nil {
		t.Fatal(err)
	}
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	if again := asked(t, r); len(again) != 0 {
		t.Errorf("it is asked again: %v", again)
	}
	// Who means it says it again.
	if d := applyFelix(t, r, "kofi", felixMore); d.Change != "proposed" || len(asked(t, r)) != 1 {
		t.Errorf("got %+v, want a new question", d)
	}
}

// By who somebody is they are known for somebody else: to take an account or an
// address from a name makes another person of it, who may agree with themselves.
//
// Threats: R2 (approval)
func TestSecondNameIsMadeByTakingAway(t *testing.T) {
	r := rig.New(t, rig.Options{Edit: rig.Replace("people.yaml", felix, felix+"\n  unixUser: felix")})
	for what, to := range map[string]string{
		"account": felix,
		"mailbox": strings.TrimPrefix(felix, "email: felix@brightwell.example\n  ") + "\n  unixUser: felix",
	} {
		before := inForce(t, r)
		d := applyFelix(t, r, "kofi", to)
		if d.Change != "proposed" || inForce(t, r) != before {
			t.Errorf("%s: got %+v, want a proposal", what, d)
			continue
		}
		if q := asked(t, r); len(q) != 1 || q[0].Statement.Details["gains.1"] != what+" none" {
			t.Errorf("%s: asked is %v", what, q)
		}
	}
}

// cut is a context that ends when it is looked at for the nth time.
type cut struct {
	context.Context
	left int
}

func (c *cut) Err() error {
	if c.left--; c.left <= 0 {
		return context.Canceled
	}
	return nil
}

// Whatever step of an apply fails, what is in force is what is on record: not half
// of it without a record, which would be gone after a restart.
//
// Threats: R1 (ledger)
func TestHalfAnApply(t *testing.T) {
	both := rig.Replace("people.yaml", "roles: [identity-administrator]", "roles: [identity-administrator, policy-author]")
	r := rig.New(t, rig.Options{Edit: both})
	all, err := r.Resources(func(f map[string][]byte) {
		both(f)
		rig.Replace("people.yaml", felix, felixMore)(f)
		rig.Replace("capability.yaml", "description: Reset", "description: changed Reset")(f)
	})
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n < 100; n++ {
		_, failed := r.Server.Apply(&cut{t.Context(), n}, rig.As("kofi"), all)
		now, err := r.Server.Resources("", resource.KindCapability, "")
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Contains(fmt.Sprintf("%s", now), "changed ")
		proposed, applied := 0, 0
		for _, e := range r.Records(t, 0) {
			if e.Type == "resource.applied" {
				applied++
				proposed += strings.Count(string(e.Body), `"proposed":`)
			}
		}
		if changed != (applied == 1) || proposed != applied {
			t.Fatalf("step %d failed (%v): in force is %v, on record %d changes with %d proposals", n, failed, changed, applied, proposed)
		}
		if failed == nil {
			return
		}
	}
	t.Error("it never succeeded")
}

// gone is an approver who goes away while their answer is on its way to the disk.
type gone struct{ context.Context }

func (g gone) Done() <-chan struct{} {
	pc := make([]uintptr, 1)
	runtime.Callers(2, pc)
	if f, _ := runtime.CallersFrames(pc).Next(); strings.HasSuffix(f.Function, ".submit") {
		c := make(chan struct{})
		close(c)
		return c
	}
	return nil
}

// An approver goes away in the moment of the commit. The Person is in the store
// with what they gain: then they are so in memory, or a revocation that changes
// nothing of what it sees would leave them so after a restart.
//
// Threats: R1 (approval)
func TestApproverGoesAwayDuringTheCommit(t *testing.T) {
	r := rig.New(t, rig.Options{})
	applyFelix(t, r, "kofi", felixMore)
	a := asked(t, r)[0]
	log, err := r.Server.Log("")
	if err != nil {
		t.Fatal(err)
	}
	entered, release, noise := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := log.Append(context.Background(), record.Draft{Type: "noise", Change: func(record.Tx) error {
			close(entered)
			<-release
			return nil
		}})
		noise <- err
	}()
	<-entered
	signed := make(chan error, 1)
	go func() { signed <- r.Sign(gone{t.Context()}, a, "ines") }()
	select {
	case err := <-signed:
		signed <- fmt.Errorf("it did not wait for the commit: %w", err)
	case <-time.After(100 * time.Millisecond): // as long as it is let wait
	}
	close(release)
	if err := <-noise; err != nil {
		t.Fatal(err)
	}
	if err := <-signed; err != nil {
		t.Error(err)
	}
	if !strings.Contains(inForce(t, r), "auditor") {
		t.Error("what was approved is not in force")
	}
}
