package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// TestSuiteRunsInParallelAndGoesOn: trials run at once, each in a copy of the
// estate of its own, so that none disturbs another or the estate itself; and a run
// that was cut keeps its results, in another server too.
func TestSuiteRunsInParallelAndGoesOn(t *testing.T) {
	if testing.Short() {
		t.Skip("starts browsers")
	}
	r := rig.New(t, rig.Options{Edit: rig.Replace("suite.yaml", "  parallel: 2\n", "  parallel: 3\n")})
	certifyIt := func(ctx context.Context, progress func(string)) (certify.Certification, error) {
		return r.Server.Certify(ctx, "", rig.As("mara"), "helpdesk", "", false, progress)
	}
	r.Ready(t)
	before := r.State(action.Sandbox)
	ctx, cancel := context.WithCancel(t.Context())
	var said []string
	_, err := certifyIt(ctx, func(s string) {
		said = append(said, s)
		if strings.HasPrefix(s, "2 of ") {
			cancel()
		}
	})
	if err == nil {
		t.Fatalf("a run that was cut came to its end: %q", said)
	}
	if err := r.CloseServer(); err != nil {
		t.Fatal(err)
	}
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	r.Approver(rig.Ines)
	said = nil
	c, err := certifyIt(t.Context(), func(s string) { said = append(said, s) })
	if err != nil || c.State != certify.Proposed {
		t.Fatalf("%s %v %+v %q", c.State, err, c.Scenarios(), said)
	}
	kept := 0
	if n, err := fmt.Sscanf(said[0], "going on after %d trials", &kept); n != 1 || err != nil || kept < 2 {
		t.Errorf("the run began again: %q", said)
	}
	tasks, err := r.Server.Tasks(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	of := map[string]task.Task{}
	for _, x := range tasks {
		of[x.ID] = x
	}
	trials, together := 0, 0
	var all []task.Task
	for _, s := range c.Scenarios() {
		if s.Passed != s.Trials || len(s.Tasks) != s.Trials {
			t.Errorf("got %+v", s)
		}
		for _, id := range s.Tasks {
			trials++
			all = append(all, of[id])
		}
	}
	for i, a := range all {
		for _, b := range all[:i] {
			if a.Started.Before(b.Ended) && b.Started.Before(a.Ended) {
				together++
				for from, to := range a.Routes {
					if b.Routes[from] == to {
						t.Errorf("%s and %s ran at once in one copy, at %s", a.ID, b.ID, to)
					}
				}
			}
		}
		if len(a.Routes) != 2 { // the estate and the model
			t.Errorf("task %s has routes %v", a.ID, a.Routes)
		}
	}
	seeds := map[string]bool{}
	for _, e := range r.Records(t, 0) {
		var x struct{ Seed string }
		if e.Type == "certification.trial" && json.Unmarshal(e.Body, &x) == nil {
			seeds[x.Seed] = true
		}
	}
	if len(seeds) != trials {
		t.Errorf("%d trials have the seeds %v", trials, seeds)
	}
	if trials != 7 || together == 0 {
		t.Errorf("%d trials, %d pairs of them at once", trials, together)
	}
	if got := rig.Changes(before, r.State(action.Sandbox)); len(got) > 0 {
		t.Errorf("the estate itself changed: %q", got)
	}
}

// TestCutTrialIsNotShakenOff: whoever runs a suite sees in the ledger how a trial
// goes, and cuts the run before that is its result. What the trial did counts.
func TestCutTrialIsNotShakenOff(t *testing.T) {
	if testing.Short() {
		t.Skip("starts browsers")
	}
	r := rig.New(t, rig.Options{Edit: rig.Replace("suite.yaml", "        denied: [global_administrators]\n", "        untried: [iam.group.*]\n")})
	r.Ready(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	var said []string
	go func() {
		_, err := r.Server.Certify(ctx, "", rig.As("mara"), "helpdesk", "", false, func(s string) { said = append(said, s) })
		done <- err
	}()
	cut := "" // the trial's task
	rig.Await(t, "the agent to try what the ticket orders", func() bool {
		for _, e := range r.Records(t, 0) {
			if e.Type == "action.decided" && strings.Contains(string(e.Body), `"operation":"iam.group.`) {
				cut = e.Task
			}
		}
		return cut != ""
	})
	cancel()
	if err := <-done; err == nil || strings.Contains(strings.Join(said, " "), "ticket-orders-admin") {
		t.Fatalf("the trial came to its end before it was cut: %v %q", err, said)
	}
	c, err := r.Server.Certify(t.Context(), "", rig.As("mara"), "helpdesk", "", false, func(string) {})
	if err != nil || c.State != certify.Failed || !strings.Contains(strings.Join(c.Shortfall, " "), "ticket-orders-admin: in 1 of 1 trials") {
		t.Fatalf("%s %v %q", c.State, err, c.Shortfall)
	}
	for _, s := range c.Scenarios() {
		if s.Name == "ticket-orders-admin" && (len(s.Tasks) != 1 || s.Tasks[0] != cut) {
			t.Errorf("it was tried again, as %q; cut was %s", s.Tasks, cut)
		}
	}
}

// TestTrialSaysThatPeopleAreAsked: who runs a suite whose work asks people learns
// that they are awaited, while there is time to answer and afterwards.
func TestTrialSaysThatPeopleAreAsked(t *testing.T) {
	if testing.Short() {
		t.Skip("starts browsers")
	}
	r := rig.New(t, rig.Options{Edit: rig.Replace("suite.yaml", "  parallel: 2\n", "  parallel: 1\n  defaults: {seconds: 10}\n")})
	r.Ready(t)
	r.StopApprover()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var said []string
	_, err := r.Server.Certify(ctx, "", rig.As("mara"), "helpdesk", "", false, func(s string) {
		if said = append(said, s); strings.HasPrefix(s, "1 of ") {
			cancel()
		}
	})
	if err == nil || len(said) < 2 || said[0] != "plain-reset waits for people: iam.user.mfa.reset; see: sallyport approvals" ||
		!strings.Contains(said[1], "plain-reset failed: the harness did not end within 10s, and waited for people at the end;") {
		t.Errorf("%v %q", err, said)
	}
}
