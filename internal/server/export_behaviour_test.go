package server

import (
	"context"
	"encoding/json"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/internal/watch"
)

// ProposeDeclared asks for a certification of what an agent declares, without a run:
// its benign scenario was tried in the tasks, and all passed.
func (s *Server) ProposeDeclared(ctx context.Context, agent, scenario string, tasks []string) (certify.Certification, error) {
	t, err := s.tenant("")
	if err != nil {
		return certify.Certification{}, err
	}
	w := t.current()
	a := w.agents[agent]
	suite := a.spec.Suites[0]
	c := certify.Certification{Agent: agent, Stage: action.Production, Author: "mara", Manifest: a.declared, Scripted: true,
		Suites: []certify.Suite{{Name: suite, Digest: w.resources[resource.KindSuite+"/"+suite].Digest,
			Scenarios: []certify.Scenario{{Name: scenario, Kind: certify.Benign, Trials: max(1, len(tasks)), Passed: max(1, len(tasks)), Tasks: tasks}}}}}
	head, err := t.log.Head(ctx)
	if err != nil {
		return c, err
	}
	c.From = head.Size
	if c, err = t.certs.Record(ctx, c, time.Hour, nil); err != nil {
		return c, err
	}
	return c, t.askCertification(ctx, a, c)
}

// EndTask ends a task as its session does.
func (s *Server) EndTask(ctx context.Context, id string, end task.State, code string) error {
	t, err := s.tenant("")
	if err != nil {
		return err
	}
	_, err = t.tasks.Close(ctx, id, end, code, "as the test says", "sallyport")
	return err
}

// BeginCanary begins a canary as far as a crash could cut it: its task runs, and
// there is no result.
func (s *Server) BeginCanary(ctx context.Context, agent, scenario string) (*Asker, string, error) {
	t, err := s.tenant("")
	if err != nil {
		return nil, "", err
	}
	w := t.current()
	r := &canaryRun{t: t, w: w, a: w.agents[agent], spec: *w.agents[agent].spec.Watch.Canary}
	if err := r.scenario(scenario); err != nil {
		return nil, "", err
	}
	if r.cert, err = t.certs.Live(agent, action.Production); err != nil {
		return nil, "", err
	}
	if r.state, err = t.canaryState(ctx, r.cert); err != nil {
		return nil, "", err
	}
	x, err := t.open(ctx, r.a.owner, Intent{Agent: agent, Capability: r.sc.Capability, Params: r.sc.Params, Stage: action.Production,
		canary: r.spec.Suite + "/" + scenario, routes: routes{nothingElse: ""}})
	if err == nil {
		err = r.began(ctx, x.ID)
	}
	if err != nil {
		return nil, "", err
	}
	asker, err := s.StartAsker(ctx, x.ID)
	return asker, x.ID, err
}

// BehaviourState is what is kept of a capability of an agent, as it is stored.
func (s *Server) BehaviourState(ctx context.Context, agent, capability string) (raw []byte, out watch.State, err error) {
	t, err := s.tenant("")
	if err != nil {
		return nil, out, err
	}
	err = t.log.View(ctx, func(tx record.Tx) error { return tx.Get(kindBehaviour, agent+"/"+capability, &out) })
	if err == nil {
		raw, err = json.Marshal(out)
	}
	return raw, out, err
}

// MarkChanged keeps that an agent behaves otherwise under its certification in force
// than it was certified, or that it does not.
func (s *Server) MarkChanged(ctx context.Context, agent, capability string, yes bool) error {
	t, err := s.tenant("")
	if err != nil {
		return err
	}
	c, err := t.certs.Live(agent, action.Production)
	if err != nil {
		return err
	}
	x := watch.State{Agent: agent, Capability: capability, Certification: c.ID}
	if yes {
		x.Changed = &watch.Change{Signal: "denied", Since: "t-1"}
	}
	_, err = t.log.Append(ctx, record.Draft{Type: "behaviour.task", Agent: agent, Change: func(tx record.Tx) error { return tx.Put(kindBehaviour, agent+"/"+capability, x) }})
	return err
}

// HoldCanaries keeps every canary waiting until release.
func (s *Server) HoldCanaries() (release func()) {
	s.canary <- struct{}{}
	return func() { <-s.canary }
}

// Declare applies what Apply has let a person apply.
func (s *Server) Declare(ctx context.Context, person string, all []resource.Resource) ([]Applied, error) {
	t, err := s.tenant("")
	if err != nil {
		return nil, err
	}
	return t.apply(ctx, person, all, nil)
}

// Judges lists the tasks whose decisions a canary's judge reads, of the canary's task.
func (s *Server) Judges(ctx context.Context, id string) (out []string, err error) {
	t, err := s.tenant("")
	if err != nil {
		return nil, err
	}
	err = ofTask{t.log, t, id}.Entries(ctx, 0, func(e record.Entry) error {
		if e.Type == "action.decided" {
			out = append(out, e.Task)
		}
		return nil
	})
	return out, err
}

// Unanswered says, as of a canary's task, that people were asked and did not say yes.
func (s *Server) Unanswered(ctx context.Context, id string) (string, error) {
	t, err := s.tenant("")
	if err != nil {
		return "", err
	}
	return (&canaryRun{t: t}).unanswered(ctx, id)
}

// CanaryRoutes is where the task of a canary gets to.
func (s *Server) CanaryRoutes(ctx context.Context, agent, scenario string) (map[string]string, error) {
	t, err := s.tenant("")
	if err != nil {
		return nil, err
	}
	w := t.current()
	r := &canaryRun{t: t, w: w, a: w.agents[agent], spec: *w.agents[agent].spec.Watch.Canary}
	if err := r.scenario(scenario); err != nil {
		return nil, err
	}
	way, _, err := r.fixture(ctx)
	return way, err
}
