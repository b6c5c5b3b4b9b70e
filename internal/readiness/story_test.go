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
	"github.com/sallyport-dev/sallyport/internal/record"
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
	c := must(s.certs.Record(ctx, certify.Certification{Agent: agent, Stage: action.Production, Manifest: s.measured(), Author: "mara", Suites: []certify.Suite{{Name: "core", Digest: dig("Suite/core"),
		Scenarios: []certify.Scenario{{Name: "honest", Trials: 1, Passed: 1, Lower: "0.207", Upper: "1.000", Tasks: []string{trial}}}}}}, time.Hour, nil))(t)
	st := must(s.app.Request(ctx, approval.Draft{Requester: "mara", Valid: time.Hour, Statement: approval.Statement{Kind: approval.Certification, Subject: c.ID, Digest: c.Statement(),
		Agent: agent, BoundaryDigest: c.Boundary, Role: "approver", Excluded: []string{"mara", "tom"}}}))(t)
	s.approve(st, "felix", nil)
	live := must(s.certs.Issue(ctx, c.ID, st.Nonce, certify.Verifier{}, nil))(t)
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
	if !r.Ready || len(r.Probes) != 6 {
		t.Fatalf("%d probes ran:\n%s", len(r.Probes), text(t, r))
	}
	for _, p := range r.Probes {
		if !p.Caught || p.Saw == "" {
			t.Errorf("got %+v", p)
		}
	}
	for down, condition := range map[string]string{"gate": "runtime-policy", "identity": "workload-identity", "tasks": "owner-environment", "approval": "change-approval"} {
		r := evaluate(t, prober{source{s, s.world()}, down}, readiness.Options{Probe: true})
		if r.Ready || states(r)[condition] != readiness.Fail {
			t.Errorf("without the %s it is %s", down, r.Decision)
		}
	}
	w := s.world()
	w.Live = nil
	r = evaluate(t, prober{source{s, w}, "tasks"}, readiness.Options{Probe: true})
	if i := slices.IndexFunc(r.Probes, func(p readiness.ProbeResult) bool { return p.Condition == "recertification" }); i < 0 || r.Probes[i].Caught {
		t.Errorf("a task opened without a certification was not seen: %+v", r.Probes)
	}
	if r := evaluate(t, source{s, s.world()}, readiness.Options{}); r.Probed || len(r.Probes) != 0 {
		t.Error("probes ran without being asked for")
	}
}

// What is no break does not turn READY off.
func TestHarmless(t *testing.T) {
	s := newStory(t)
	s.tell()
	for name, f := range map[string]func(*broken){
		"drift_in_the_sandbox": func(b *broken) {
			b.drift()
			b.recs[len(b.recs)-1].Task = b.all("task.opened")[0].Task
		},
		"another_agents_deeds": func(b *broken) {
			b.add("action.decided", "t-777", "payroll", "agent:payroll", map[string]any{"stage": "production", "decision": map[string]any{"verdict": "allow"},
				"action": map[string]any{"id": "a-777", "task": "t-777", "agent": "payroll", "effect": "privileged", "surface": "egress"}})
		},
		"a_refused_approval": func(b *broken) {
			b.add("approval.refused", "", "", "person:mara", map[string]any{"v": 1, "verb": "grant", "code": "excluded"})
		},
		"unexplained_write_that_a_person_approved": func(b *broken) { delete(in(b.last("action.decided", op(reset)).body, "action"), "explained") },
		"lease_that_was_never_issued": func(b *broken) {
			x := b.last("task.opened").Task
			i := b.at(b.last("lease.revoked"))
			never := map[string]any{"id": "l-800", "task": x, "agent": agent, "source": "iam-helpdesk", "audience": "https://iam.example", "state": "revoked", "why": "never issued"}
			for _, typ := range []string{"lease.revoked", "lease.requested"} {
				b.add(typ, x, agent, "sallyport", never)
				r := b.recs[len(b.recs)-1]
				r.Time = b.recs[i-1].Time
				b.recs = slices.Insert(b.recs[:len(b.recs)-1], i, r)
			}
		},
		"dispatch_stopped_by_the_fence_after_the_lapse_of_another": func(b *broken) {
			b.again(b.last("action.decided", op("tickets.ticket.close")), func(m map[string]any) { in(m, "action")["id"] = "a-900" })
			b.again(b.last("action.outcome"), func(m map[string]any) {
				m["action"] = "a-900"
				m["outcome"] = map[string]any{"state": "failed", "detail": "not dispatched"}
			})
		},
		"a_task_that_runs_now": func(b *broken) {
			last := b.last("task.closed").Task
			b.drop(func(r *rec) bool {
				return r.Task == last && (r.Type == "task.closed" || r.Type == "task.closing" || r.Type == "lease.revoked" || r.Type == "lease.revoking")
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := breakable(t, s)
			f(b)
			b.close()
			if r := evaluate(t, b, readiness.Options{}); !r.Ready {
				t.Errorf("it is not READY:\n%s", text(t, r))
			}
		})
	}
}

// growing appends a record each time that it is read.
type growing struct{ *broken }

func (g growing) Entries(ctx context.Context, from int64, f func(record.Entry) error) error {
	err := g.broken.Entries(ctx, from, f)
	g.add("action.noted", "", "", "sallyport", map[string]any{})
	g.close()
	return err
}

// A log that grows while it is read is covered to its end.
func TestGrowingLog(t *testing.T) {
	s := newStory(t)
	s.tell()
	b := breakable(t, s)
	b.close()
	n := len(b.entries)
	r := evaluate(t, growing{b}, readiness.Options{})
	if !r.Ready || r.Ledger.Records <= int64(n) || r.Ledger.Size < r.Ledger.Records || !r.Ledger.Verified {
		t.Errorf("got %+v\n%s", r.Ledger, text(t, r))
	}
}

// A caller that gives up gets no report.
func TestCancelled(t *testing.T) {
	s := newStory(t)
	s.tell()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b := breakable(t, s)
	b.close()
	if r, err := readiness.Evaluate(ctx, b, agent, readiness.Options{}); err == nil {
		t.Errorf("got %s", r.Decision)
	}
}
