package readiness_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/readiness"
)

func states(r *readiness.Report) map[string]readiness.State {
	out := map[string]readiness.State{}
	for _, c := range r.Conditions {
		out[c.ID] = c.State
	}
	return out
}

// An agent that is declared and never ran has nothing to show.
func TestNothingIsProvedByNothing(t *testing.T) {
	s := newStory(t)
	r := evaluate(t, source{s, s.world()}, readiness.Options{})
	if r.Ready {
		t.Fatal("it is READY")
	}
	for id, st := range states(r) {
		if st == readiness.Pass && id != "logs" {
			t.Errorf("%s passes for an agent that never ran:\n%s", id, text(t, r))
		}
	}
}

// A drift ends READY, and another certification of what is there now brings it
// back.
func TestLapseAndBack(t *testing.T) {
	s := newStory(t)
	s.tell()
	ctx := t.Context()
	change := []boundary.Change{{Name: "model.id", Old: "model-7", New: "model-8"}}
	if err := s.certs.Lapse(ctx, agent, action.Production, certify.Lapse{Code: "drift", Why: "model.id: model-7 → model-8", Changes: change}, nil); err != nil {
		t.Fatal(err)
	}
	s.record("boundary.drift", "", "sallyport", map[string]any{"agent": "another", "changes": change}) // no agent in the entry: not ours
	d := source{s, s.world()}
	r := evaluate(t, d, readiness.Options{})
	if r.Ready || r.Lapse == nil || r.Lapse.Code != "drift" || !slices.Equal(r.Lapse.Changes, change) || r.Certification != nil {
		t.Fatalf("got %s, lapse %+v", r.Decision, r.Lapse)
	}
	if !strings.Contains(text(t, r), "model.id: model-7 → model-8") {
		t.Error("the report does not say what changed")
	}

	trial := s.run(action.Sandbox, nil)
	c := must(s.certs.Record(ctx, certify.Certification{Agent: agent, Stage: action.Production, Manifest: s.measured(), Suite: "core", SuiteDigest: dig("Suite/core"), Author: "mara",
		Scenarios: []certify.Scenario{{Name: "honest", Trials: 20, Passed: 20, Lower: "0.839", Upper: "1.000", Tasks: []string{trial}}}}, time.Hour))(t)
	st := must(s.app.Request(ctx, approval.Draft{Requester: "mara", Valid: time.Hour, Statement: approval.Statement{Kind: approval.Certification, Subject: c.ID, Digest: c.Statement(),
		Agent: agent, BoundaryDigest: c.Boundary, Role: "approver", Excluded: []string{"mara", "tom"}}}))(t)
	s.approve(st, "felix", nil)
	live := must(s.certs.Issue(ctx, c.ID, st.Nonce, nil))(t)
	s.run(action.Production, &live)
	r = evaluate(t, source{s, s.world()}, readiness.Options{})
	if !r.Ready || len(r.History) != 2 || r.Lapse != nil || !slices.Equal(r.Certification.Approvers, []string{"felix"}) {
		t.Errorf("not back:\n%s", text(t, r))
	}
}

// prober tries the real engines of the story. down takes one of them away.
type prober struct {
	source
	down string
}

func (p prober) Act(ctx context.Context, a action.Action) (action.Decision, error) {
	if p.down == "gate" {
		return action.Decision{Verdict: action.Allow}, nil
	}
	r := p.s.gate.Act(ctx, a, nil, func(context.Context, gate.Permit) action.Outcome { return action.Outcome{State: action.Failed} })
	return r.Decision, nil
}

func (p prober) Identity(ctx context.Context, _, id string) error {
	x, err := p.s.tasks.Get(ctx, id)
	if err != nil || p.down == "identity" {
		return err
	}
	if x.State.Over() {
		return errors.New("task has ended")
	}
	return nil
}

func (p prober) Open(_ context.Context, name, _ string) error {
	if p.down == "tasks" {
		return nil
	}
	_, err := p.s.certs.Live(name, action.Production)
	return err
}

func (p prober) Approve(ctx context.Context, id, person string, sig []byte) error {
	if p.down == "approval" {
		return nil
	}
	_, err := p.s.app.Grant(ctx, id, person, sig, nil)
	return err
}

func TestProbes(t *testing.T) {
	s := newStory(t)
	s.tell()
	r := evaluate(t, prober{source{s, s.world()}, ""}, readiness.Options{Probe: true})
	if !r.Ready || len(r.Probes) != 7 {
		t.Fatalf("%d probes ran:\n%s", len(r.Probes), text(t, r))
	}
	for _, p := range r.Probes {
		if !p.Caught || p.Saw == "" {
			t.Errorf("got %+v", p)
		}
	}
	for down, condition := range map[string]string{"gate": "runtime-policy", "identity": "workload-identity", "tasks": "recertification", "approval": "separation"} {
		r := evaluate(t, prober{source{s, s.world()}, down}, readiness.Options{Probe: true})
		if r.Ready || states(r)[condition] != readiness.Fail {
			t.Errorf("without the %s it is %s", down, r.Decision)
		}
	}
	if r := evaluate(t, source{s, s.world()}, readiness.Options{}); r.Probed || len(r.Probes) != 0 {
		t.Error("probes ran without being asked for")
	}
}
