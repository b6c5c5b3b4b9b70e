package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/capability"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/contain"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/readiness"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/internal/separation"
)

// Readiness decides whether an agent may act in production, today, as it is now.
// With probe it also tries to break the running system.
func (s *Server) Readiness(ctx context.Context, tenantName, agentName string, probe bool) (*readiness.Report, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	if t.current().agents[agentName] == nil {
		return nil, problem(NotFound, "no_such_agent", "there is no agent "+strconv.Quote(agentName), "see: sallyport get Agent")
	}
	return readiness.Evaluate(ctx, source{t.view(), t}, agentName, readiness.Options{Probe: probe})
}

// view shows a running tenant.
func (t *tenant) view() view {
	return view{tenant: t.name, log: t.log, world: t.current(), certs: t.certs, leases: t.leases, grade: t.srv.grade, checkpoint: t.log.CheckpointNow, audits: t.auditsNow}
}

// StoppedReadiness is Readiness for the log of a stopped server, which it only
// reads. Nothing runs, so nothing can be probed.
func StoppedReadiness(ctx context.Context, log *ledger.Log, root *seal.Root, agentName string) (*readiness.Report, error) {
	sealer, err := root.Sealer(log.Tenant())
	if err != nil {
		return nil, err
	}
	w, err := loadWorld(ctx, log)
	if err != nil {
		return nil, err
	}
	if w.agents[agentName] == nil {
		return nil, problem(NotFound, "no_such_agent", "there is no agent "+strconv.Quote(agentName), "name one that is declared")
	}
	certs, err := certify.Open(ctx, log, sealer, ids("c"))
	if err != nil {
		return nil, err
	}
	v := view{tenant: log.Tenant(), log: log, world: w, certs: certs, leases: lease.New(lease.Config{Log: log, Seal: sealer}),
		grade: string(contain.Doctor(ctx).Grade), checkpoint: log.Checkpoint, audits: func() map[string]auditStanding { return nil }}
	return readiness.Evaluate(ctx, v, agentName, readiness.Options{})
}

// view shows a tenant to the readiness engine.
type view struct {
	tenant     string
	log        *ledger.Log
	world      *world
	certs      *certify.Engine
	leases     *lease.Keeper
	grade      string
	checkpoint func(context.Context) ([]byte, error)
	audits     func() map[string]auditStanding
}

// source is the view of a running tenant, which can be probed.
type source struct {
	view
	t *tenant
}

func (v view) World(ctx context.Context, name string) (readiness.World, error) {
	w := v.world
	a := w.agents[name]
	if a == nil {
		return readiness.World{}, fmt.Errorf("there is no agent %s", name)
	}
	out := readiness.World{Tenant: v.tenant, Demo: w.demo, Agent: name, Purpose: a.spec.Purpose, Owner: a.owner, Deputy: a.deputy,
		SPIFFEID: a.spec.SPIFFEID, ReviewBy: a.spec.ReviewBy, Scripted: a.spec.Model.Scripted, Tier: a.tier, TierWhy: a.tierWhy, Declared: a.declared,
		Containment: v.grade, Tools: w.toolFacts(a), Environment: (&session{agent: a, world: w, instance: &capability.Instance{}}).environment(Harness{})}
	if c, err := v.certs.Live(name, action.Production); err == nil {
		out.Live = &c
	}
	var err error
	if out.Certifications, err = v.certs.History(ctx, name); err != nil {
		return out, err
	}
	if err = v.log.View(ctx, func(tx record.Tx) (err error) { out.People, err = directory{}.People(tx); return err }); err != nil {
		return out, err
	}
	open, err := v.leases.Open(ctx)
	if err != nil {
		return out, err
	}
	for _, l := range open {
		if l.Agent == name {
			out.Open = append(out.Open, l)
		}
	}
	for _, f := range separation.Analyse(w.estate()) {
		if f.Open() {
			out.Conflicts = append(out.Conflicts, f.String())
		}
	}
	if x := a.spec.Watch; x != nil && x.Canary != nil {
		out.Canaries = &readiness.Canaries{Scenarios: x.Canary.Scenarios, Every: x.Canary.Every(), Limit: x.Canary.Limit()}
	}
	if out.Audits, err = v.auditsOf(ctx, a); err != nil {
		return out, err
	}
	if w.retention != "" {
		out.Retention = w.retention
		if spec, ok := w.retentions[w.retention]; ok {
			out.RetentionDays, out.LegalHold = spec.Days, spec.LegalHold
		}
	}
	return out, nil
}

// auditsOf are the applications of an agent, and how their own audit logs agree.
func (v view) auditsOf(ctx context.Context, a *agent) (out []readiness.Audit, err error) {
	all, err := v.reconciliations(ctx)
	for _, r := range all {
		if a.apps[r.Connector] {
			out = append(out, readiness.Audit{Connector: r.Connector, Declared: r.Log != "", Read: r.Read, Stale: r.Stale, Failing: r.Failing, Nameless: v.world.nameless(r.Connector, a)})
		}
	}
	return out, err
}

func (v view) Entries(ctx context.Context, from int64, f func(record.Entry) error) error {
	return v.log.Entries(ctx, from, f)
}

func (v view) Checkpoint(ctx context.Context) (readiness.Checkpoint, error) {
	b, err := v.checkpoint(ctx)
	return readiness.Checkpoint{Signed: b, Key: v.log.VerifierKey()}, err
}

func (v view) Verify(ctx context.Context) ([]string, error) {
	r, err := v.log.Verify(ctx)
	var out []string
	for _, p := range r.Problems {
		out = append(out, fmt.Sprintf("record %d: %s: %s", p.Seq, p.What, p.Detail))
	}
	return out, err
}

// Act asks the gate; its dispatch does nothing.
func (s source) Act(ctx context.Context, a action.Action) (action.Decision, error) {
	a.Tenant = s.t.name
	r := s.t.srv.gate.Act(ctx, a, nil, func(_ context.Context, p gate.Permit) action.Outcome {
		return action.Outcome{State: action.Failed, Detail: "a probe dispatches nothing"}
	})
	return r.Decision, nil
}

// Identity asks the issuer for an identity of a task.
func (s source) Identity(ctx context.Context, agent, task string) error {
	_, err := s.t.issuer.IssueJWT(ctx, identity.Workload{Tenant: s.t.name, Agent: agent, Task: task, Selectors: []string{"probe"}}, "sallyport-probe")
	return err
}

// Open asks whether a production task could be opened now. It opens none: the
// checks are those of open, and the answer is taken before the record.
func (s source) Open(ctx context.Context, agent, capability string) error {
	w := s.t.current()
	a := w.agents[agent]
	if a == nil {
		return errors.New("there is no such agent")
	}
	if err := s.t.mayOpen(ctx, w, a, Intent{Agent: agent, Capability: capability}); err != nil {
		return err
	}
	_, err := s.t.certified(a)
	return err
}

// Approve hands in a signature as anybody could.
func (s source) Approve(ctx context.Context, id, person string, signature []byte) error {
	_, err := s.t.srv.Approve(ctx, s.t.name, id, person, signature)
	return err
}

var _ readiness.Prober = source{}
