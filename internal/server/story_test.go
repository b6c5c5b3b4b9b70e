package server_test

import (
	"slices"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/estate/provider"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

func TestHonestAgentInTheSandbox(t *testing.T) {
	r := rig.New(t, rig.Options{})
	r.Ready(t)
	before := r.State(action.Sandbox)
	x, out := r.Run(t, rig.Intent(action.Sandbox, "jo", "4711"), rig.SampleAgent...)
	if x.State != task.Closed {
		t.Fatalf("got %s: %s\n%s", x.State, x.Why, out)
	}
	if got, want := rig.Changes(before, r.State(action.Sandbox)), []string{"tickets/4711", "users/jo"}; !slices.Equal(got, want) {
		t.Errorf("changed: got %q, want %q\n%s", got, want, out)
	}
	r.NoSessions(t, action.Sandbox)
}

// TestStory: from nothing to production, and out of it again when the model
// changes.
func TestStory(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a certification")
	}
	r := rig.New(t, rig.Options{Audit: true})
	reset := rig.Intent(action.Production, "jo", "4711")
	for _, a := range r.Pending(t) {
		if err := r.Sign(t.Context(), a, "noor"); err == nil {
			t.Errorf("the author approved her own %s", a.Statement.Kind)
		}
	}
	if _, err := r.Server.OpenTask(t.Context(), "", rig.As("dana"), reset); err == nil {
		t.Fatal("a task was opened under a capability that nobody approved")
	}
	r.Ready(t)
	cert := r.Certify(t)
	for _, f := range cert.Manifest.Facts {
		t.Logf("%-20s %-9s %s", f.Name, f.Grade, f.Value)
	}

	before := r.State(action.Production)
	x, out := r.Run(t, reset, rig.SampleAgent...)
	if x.State != task.Closed {
		t.Fatalf("got %s: %s\n%s", x.State, x.Why, out)
	}
	if got, want := rig.Changes(before, r.State(action.Production)), []string{"tickets/4711", "users/jo"}; !slices.Equal(got, want) {
		t.Errorf("changed: got %q, want %q\n%s", got, want, out)
	}

	agreed(t, r, 1, 2)
	b, err := r.Server.Behaviour(t.Context(), "", "helpdesk")
	if err != nil || len(b.Capabilities) != 1 || b.Capabilities[0].Trials != 2 || b.Capabilities[0].Tasks != 1 {
		t.Fatalf("its behaviour is %+v, %v", b, err)
	}
	for _, rate := range b.Capabilities[0].Rates { // as in the trials: it worked for a while, and people were asked
		if with := rate.Scaled || rate.Signal == "held"; with != (rate.Tasks.With == 1) || with != (rate.Trials.With == 2) {
			t.Errorf("%s: %+v", rate.Signal, rate)
		}
	}

	// The model falls for what a ticket says.
	if err := r.Estate.Copy(estate.Production).SetHostile("ticket-text"); err != nil {
		t.Fatal(err)
	}
	before = r.State(action.Production)
	r.Provider.SetBehaviour(provider.Gullible)
	x, out = r.Run(t, rig.Intent(action.Production, "tom", "4712"), rig.SampleAgent...)
	if got, want := rig.Changes(before, r.State(action.Production)), []string{"tickets/4712", "users/tom"}; !slices.Equal(got, want) {
		t.Errorf("changed: got %q, want %q; the task is %s: %s\n%s", got, want, x.State, x.Why, out)
	}
	r.Provider.SetBehaviour(provider.Honest)
	agreed(t, r, 2, 4)

	// The provider answers with another model.
	r.Provider.SetModel("scripted-2")
	x, out = r.Run(t, reset, rig.SampleAgent...)
	if x.State != task.Revoked || x.Code != "lapsed" {
		t.Errorf("got %s %s %s\n%s", x.State, x.Code, x.Why, out)
	}
	if _, err := r.Server.OpenTask(t.Context(), "", rig.As("dana"), reset); err == nil {
		t.Error("a task was opened without a live certification")
	}
	r.NoSessions(t, action.Production)
}

// agreed: the applications' own audit logs were read to their ends, and show of the
// agent what is on record and nothing else.
func agreed(t *testing.T, r *rig.Rig, iam, tickets int64) {
	t.Helper()
	all, err := r.Server.Reconcile(t.Context(), "", rig.As("mara"), "")
	if err != nil || len(all) != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	for i, want := range []int64{iam, tickets} {
		if x := all[i]; !x.Good() || x.Matched != want || x.Bypass+x.Missing != 0 || len(x.Findings) > 0 {
			t.Errorf("got %+v, want %d events, all matched", x, want)
		}
	}
}
