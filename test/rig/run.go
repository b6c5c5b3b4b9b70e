package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/estate/agent"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// runLimit bounds one run of a harness.
const runLimit = 3 * time.Minute

// Approver starts the scripted approver, or tells the one that runs what to
// sign: who names the person that signs an approval, or "" for nobody.
func (r *Rig) Approver(who func(approval.Approval) string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.signer = who
	if r.stop != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	r.stop = func() { cancel(); <-done }
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			r.approve(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(30 * time.Millisecond):
			}
		}
	}()
}

// Ines is a scripted approver who signs everything that she may.
func Ines(approval.Approval) string { return "ines" }

// Nobody signs nothing.
func Nobody(approval.Approval) string { return "" }

// StopApprover stops the scripted approver.
func (r *Rig) StopApprover() {
	r.mu.Lock()
	stop := r.stop
	r.stop = nil
	r.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// approve looks once. What is refused is not reported: tests that care sign
// themselves.
func (r *Rig) approve(ctx context.Context) {
	list, err := r.Server.Approvals(ctx, "", approval.Pending)
	if err != nil {
		return
	}
	for _, a := range list {
		r.mu.Lock()
		who := r.signer(a)
		r.mu.Unlock()
		if who != "" {
			r.Sign(ctx, a, who)
		}
	}
}

// Sign approves as one person, with that person's own key.
func (r *Rig) Sign(ctx context.Context, a approval.Approval, person string) error {
	key, err := r.Key(person)
	if err != nil {
		return err
	}
	sig, err := approval.Sign(a.Statement, key)
	if err != nil {
		return err
	}
	_, err = r.Server.Approve(ctx, "", a.ID(), person, sig)
	return err
}

// Pending lists what waits for people.
func (r *Rig) Pending(t testing.TB) []approval.Approval {
	t.Helper()
	l, err := r.Server.Approvals(t.Context(), "", approval.Pending)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Ready starts the approver and waits until capability and boundary are approved.
func (r *Rig) Ready(t testing.TB) {
	t.Helper()
	r.Approver(Ines)
	Await(t, "the approvals of the sample tenant", func() bool { return len(r.Pending(t)) == 0 })
}

// Certify runs the sample suite and waits until the approver made the
// certification live. It takes most of a minute.
func (r *Rig) Certify(t testing.TB) certify.Certification {
	t.Helper()
	c, err := r.Server.Certify(t.Context(), "", As("mara"), "helpdesk", "", false, func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	if c.State == certify.Failed {
		t.Fatalf("certification failed: %+v %v", c.Scenarios(), c.Shortfall)
	}
	Await(t, "the certification to become live", func() bool {
		c = r.Certification(t, c.ID)
		return c.State == certify.Live
	})
	return c
}

// Certification reads one back.
func (r *Rig) Certification(t testing.TB, id string) certify.Certification {
	t.Helper()
	all, err := r.Server.Certifications(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.ID == id {
			return c
		}
	}
	t.Fatalf("there is no certification %s", id)
	panic("unreachable")
}

// Output is what a harness wrote, safe to read while it runs.
type Output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// Harness is the test binary as a harness; see Main for args.
func Harness(t testing.TB, out *Output, args ...string) server.Harness {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return server.Harness{Path: self, Args: args, Stdout: out, Stderr: out}
}

// SampleAgent are the arguments of the reference harness, as it is certified.
var SampleAgent = []string{"sample-agent"}

// Attempts are the arguments of a hijacked harness that makes the named
// attempts of package agent.
func Attempts(t testing.TB, names string, targets agent.Targets) []string {
	t.Helper()
	b, err := json.Marshal(targets)
	if err != nil {
		t.Fatal(err)
	}
	return []string{"attempts", names, string(b)}
}

// Intent is a reset for a user and a ticket of the estate.
func Intent(stage action.Stage, user, ticket string) server.Intent {
	return server.Intent{Capability: "reset-mfa", Stage: stage, Params: map[string]string{"user": user, "ticket": ticket}}
}

// OpenTask opens a task as the sample requester.
func (r *Rig) OpenTask(t testing.TB, in server.Intent) task.Task {
	t.Helper()
	x, err := r.Server.OpenTask(t.Context(), "", As("dana"), in)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// Run opens a task, runs a harness under it to its end, and returns both.
func (r *Rig) Run(t testing.TB, in server.Intent, args ...string) (task.Task, string) {
	t.Helper()
	x := r.OpenTask(t, in)
	var out Output
	running, err := r.Server.Run(t.Context(), "", x.ID, Harness(t, &out, args...))
	if err != nil {
		t.Fatal(err)
	}
	x = Wait(t, running)
	return x, out.String()
}

// Wait waits for the end of a run and of its task.
func Wait(t testing.TB, running *server.Running) task.Task {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), runLimit)
	defer cancel()
	_, x, err := running.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return x
}
