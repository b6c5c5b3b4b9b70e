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
	done, err := tryFelix(t, t.Context(), r, as, to)
	if err != nil {
		t.Fatal(err)
	}
	return done[0]
}

func tryFelix(t *testing.T, ctx context.Context, r *rig.Rig, as, to string) ([]server.Applied, error) {
	t.Helper()
	all, err := r.Resources(rig.Replace("people.yaml", felix, to))
	if err != nil {
		t.Fatal(err)
	}
	all = slices.DeleteFunc(all, func(x resource.Resource) bool { return x.Metadata.Name != "felix" })
	return r.Server.Apply(ctx, rig.As(as), all)
}

// cutFelix applies the Person felix and dies right after the record: nothing that
// comes after it happens.
func cutFelix(t *testing.T, r *rig.Rig, as, to string) {
	t.Helper()
	before := len(applied(t, r))
	for n := 1; n < 100; n++ {
		_, err := tryFelix(t, &cut{t.Context(), n}, r, as, to)
		if len(applied(t, r)) == before {
			continue
		}
		if err == nil {
			t.Fatal("nothing is done after the record that could be cut")
		}
		return
	}
	t.Fatal("it was never recorded")
}

// applied are the records of applies.
func applied(t *testing.T, r *rig.Rig) []record.Entry {
	t.Helper()
	return slices.DeleteFunc(r.Records(t, 0), func(e record.Entry) bool { return e.Type != "resource.applied" })
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
	r := rig.New(t, rig.Options{})
	for _, then := range []string{felix, "email: felix@brightwell.example\n  roles: [approver]"} {
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
	}
	if got := inForce(t, r); strings.Contains(got, "ssh-") {
		t.Errorf("the key is in force: %s", got)
	}
}

// The question of the proposal outlived the revocation, since the apply died before
// it withdrew it, and the same is proposed once more. What is signed says nothing of
// the key: it must not bring it back.
//
// Threats: R1, I5 (approval)
func TestOldQuestionForANewProposal(t *testing.T) {
	r := rig.New(t, rig.Options{})
	applyFelix(t, r, "kofi", felixMore)
	old := asked(t, r)[0]
	cutFelix(t, r, "kofi", "email: felix@brightwell.example\n  roles: []")
	if now := asked(t, r); len(now) != 1 || now[0].ID() != old.ID() {
		t.Fatalf("asked is %v, want the old question", now)
	}
	want := inForce(t, r)
	if !strings.Contains(want, `"roles":[]`) || strings.Contains(want, "ssh-") {
		t.Errorf("with everything taken away, in force is %s", want)
	}
	refusedWith(t, r.Sign(t.Context(), old, "ines"), "superseded") // no proposal
	cutFelix(t, r, "kofi", felixMore)
	refusedWith(t, r.Sign(t.Context(), old, "ines"), "superseded") // one that gains more
	if got := inForce(t, r); got != want {
		t.Errorf("in force is %s", got)
	}
	// The next start asks what it would be now.
	if err := r.CloseServer(); err != nil {
		t.Fatal(err)
	}
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	now := asked(t, r)
	if len(now) != 1 || now[0].ID() == old.ID() || len(now[0].Statement.Details["gains.3"]) == 0 {
		t.Fatalf("asked is %v, want two roles and a key", now)
	}
	if err := r.Sign(t.Context(), now[0], "ines"); err != nil {
		t.Fatal(err)
	}
	if got := inForce(t, r); !strings.Contains(got, "auditor") || !strings.Contains(got, "ssh-") {
		t.Errorf("in force is %s", got)
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
	const account, subject = "\n  unixUser: felix", "\n  subjects: [{issuer: https://idp.example, subject: felix}]"
	r := rig.New(t, rig.Options{Edit: func(f map[string][]byte) {
		rig.Replace("people.yaml", felix, felix+account+subject)(f)
		rig.Replace("tenant.yaml", "  reviewers: [lin]\n", "  reviewers: [lin]\n  transmitters: [{issuer: https://idp.example, audience: us, subjects: [iss_sub]}]\n")(f)
	}})
	for gain, to := range map[string]string{
		"account none": felix + subject,
		"mailbox none": strings.TrimPrefix(felix, "email: felix@brightwell.example\n  ") + account + subject,
		"subjects []":  felix + account,
	} {
		before := inForce(t, r)
		d := applyFelix(t, r, "kofi", to)
		if d.Change != "proposed" || inForce(t, r) != before {
			t.Errorf("%s: got %+v, want a proposal", gain, d)
			continue
		}
		if q := asked(t, r); len(q) != 1 || q[0].Statement.Details["gains.1"] != gain {
			t.Errorf("%s: asked is %v", gain, q)
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
		onRecord := applied(t, r)
		if changed != (len(onRecord) == 1) || changed && !strings.Contains(string(onRecord[0].Body), `"proposed":`) {
			t.Fatalf("step %d failed (%v): in force is %v, on record %d changes", n, failed, changed, len(onRecord))
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
	if _, err := log.Append(gone{t.Context()}, record.Draft{Type: "noise"}); err == nil {
		t.Error("nobody went away: what follows shows nothing")
	}
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
