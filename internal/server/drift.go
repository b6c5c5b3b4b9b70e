package server

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/surface/inference"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// Sources of measured facts.
const (
	atLaunch    = "launch"
	atInference = "inference " // and the phase of the call
)

// measured is what one session saw of its boundary. A fact that was seen with
// two values keeps the first; the second is drift.
type measured struct {
	mu    sync.Mutex
	facts map[string]boundary.Fact
}

func newMeasured() *measured { return &measured{facts: map[string]boundary.Fact{}} }

func (m *measured) set(g boundary.Grade, source string, values map[string]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n, v := range values {
		if old, ok := m.facts[n]; ok && old.Value != v {
			continue
		}
		m.facts[n] = boundary.Fact{Name: n, Value: v, Grade: g, Source: source, Owner: ownerOf(n), Measured: time.Now().UTC()}
	}
}

func (m *measured) get(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.facts[name].Value
}

func (m *measured) values() boundary.Measure {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := boundary.Measure{}
	for n, f := range m.facts {
		out[n] = f.Value
	}
	return out
}

func (m *measured) all() map[string]boundary.Fact {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.facts)
}

// ownerOf is the role that may change a fact: who may apply the resource that it
// is in, or who installs what runs on this machine.
func ownerOf(name string) string {
	switch name {
	case "browser.version", "browser.flags", "containment", "sallyport.binary", "policy.shipped", "identity.source":
		return string(resource.RoleOperations)
	}
	switch kind, _, _ := strings.Cut(name, "."); kind {
	case "connector", "capability", "policy", "suite":
		return string(resource.RolePolicy)
	case "credential":
		return string(resource.RoleSecrets)
	}
	return string(resource.RoleOwner)
}

// manifest joins what is declared with what was measured; a measurement of a
// declared fact with the declared value raises its grade.
func manifest(a *agent, seen *measured) (boundary.Manifest, error) {
	facts := map[string]boundary.Fact{}
	for _, f := range a.declared.Facts {
		facts[f.Name] = f
	}
	for n, f := range seen.all() {
		d, ok := facts[n]
		if !ok || d.Value == f.Value && f.Grade.AtLeast(d.Grade) {
			facts[n] = f
		}
	}
	out := make([]boundary.Fact, 0, len(facts))
	for _, f := range facts {
		out = append(out, f)
	}
	return boundary.New(a.name, out)
}

// certified is the certification under which a production task of the agent may be
// opened: in force, and of the boundary that is declared now, so by all its suites
// (certify.Certification.Left). An apply ends the certifications of what it changes; one that people
// approve afterwards can be of what is not declared any more.
func (t *tenant) certified(a *agent) (certify.Certification, error) {
	next := "sallyport certify " + a.name
	c, err := t.certs.Live(a.name, action.Production)
	if err != nil {
		return c, problem(Refused, "no_certification", err.Error(), next)
	}
	if changes := drifted(a, c.Manifest); len(changes) > 0 {
		return c, problem(Refused, "drift", "the boundary is not the one that was certified: "+describe(changes), next)
	}
	return c, nil
}

// holdAgainst compares what was measured at launch with what was certified, or
// in the sandbox with what is declared. Drift in production lapses.
func (t *tenant) holdAgainst(ctx context.Context, s *session) error {
	now := t.current()
	a := now.agents[s.task.Agent]
	if a == nil {
		return problem(Refused, "agent_gone", "the agent is not declared any more", "apply it again")
	}
	base := a.declared
	if s.task.Stage == action.Production {
		c, err := t.certs.Live(s.task.Agent, s.task.Stage)
		if err != nil {
			return problem(Refused, "no_certification", err.Error(), "sallyport certify "+s.task.Agent)
		}
		base = c.Manifest
	}
	changes := base.Drift(declaredAnd(s.seen.values(), a, base, s.task.Stage))
	changes = append(changes, undeclared(base, a.declared)...)
	if len(changes) == 0 {
		if s.task.Stage == action.Production {
			t.mu.Lock()
			t.launched[a.name] = s.seen
			t.mu.Unlock()
		}
		return nil
	}
	// Another harness is what a caller of run brought, not a change of the
	// boundary: it does not run, and the certification of the right one stands.
	brought := !slices.ContainsFunc(changes, func(c boundary.Change) bool { return !strings.HasPrefix(c.Name, "harness.") })
	if s.task.Stage == action.Production && !brought {
		t.lapse(ctx, s.task.Agent, "drift", changes)
	}
	return problem(Refused, "drift", "the boundary is not the one that was certified: "+describe(changes), "sallyport certify "+s.task.Agent)
}

// declaredAnd adds the facts declared today to what was measured, so that a
// changed connector or policy shows. In the sandbox, what is measured beyond the
// declaration is not drift: it is what the certification will say.
func declaredAnd(seen boundary.Measure, a *agent, base boundary.Manifest, stage action.Stage) boundary.Measure {
	out := boundary.Measure{}
	for n, v := range seen {
		if _, ok := base.Get(n); ok || stage == action.Production {
			out[n] = v
		}
	}
	if stage == action.Production {
		for _, f := range a.declared.Facts {
			out[f.Name] = f.Value
		}
	}
	return out
}

// undeclared lists what a certified manifest was made of and is not declared any
// more: a connector, capability, policy or suite that was taken away.
func undeclared(certified, declared boundary.Manifest) []boundary.Change {
	var out []boundary.Change
	for _, f := range certified.Facts {
		kind, _, _ := strings.Cut(f.Name, ".")
		if !slices.Contains([]string{"connector", "capability", "credential", "policy", "suite"}, kind) {
			continue
		}
		if _, ok := declared.Get(f.Name); !ok {
			out = append(out, boundary.Change{Name: f.Name, Old: f.Value})
		}
	}
	return out
}

func describe(changes []boundary.Change) string {
	var out []string
	for _, c := range changes {
		out = append(out, c.String())
	}
	return strings.Join(out, "; ")
}

// lapse ends the production certification of an agent because of drift: first
// the certification in memory, then every task that runs under it, then the
// record. When it returns nothing of the agent is dispatched any more; what was in
// flight is cut and the tasks are being taken down.
func (t *tenant) lapse(ctx context.Context, agent, code string, changes []boundary.Change) {
	why := describe(changes)
	l := certify.Lapse{Code: code, Why: why, Changes: changes}
	err := t.certs.Lapse(ctx, agent, action.Production, l, func() {
		// Not End: the drift may have been seen inside a dispatch of such a task.
		t.srv.gate.Shut(func(a gate.Admission) bool {
			return a.Tenant == t.name && a.Agent == agent && a.Stage == action.Production
		}, "lapsed", "the certification lapsed: "+why)
	})
	if err != nil {
		t.srv.log.Error("the lapse could not be recorded; nothing passes", "agent", agent, "err", err)
	}
	t.recordDrift(ctx, agent, "", changes)
	t.mu.RLock()
	defer t.mu.RUnlock()
	for id, s := range t.sessions {
		if s.task.Agent == agent && s.task.Stage == action.Production {
			go t.endTask(id, task.Revoked, "lapsed", "the certification lapsed: "+why)
		}
	}
}

func (t *tenant) recordDrift(ctx context.Context, agent, task string, changes []boundary.Change) {
	if _, err := t.log.Append(ctx, record.Draft{Type: "boundary.drift", Task: task, Agent: agent, Actor: "sallyport",
		Body: map[string]any{"agent": agent, "changes": changes}}); err != nil {
		t.srv.log.Error("the drift could not be recorded; nothing passes", "agent", agent, "err", err)
	}
}

// observer holds every inference call against the boundary.
type observer struct{ s *session }

// Observe implements inference.Observer. An error cuts the call.
func (o observer) Observe(ctx context.Context, m inference.Measurement) error {
	var seen boundary.Measure
	switch m.Phase {
	case inference.AtRequest:
		seen = boundary.Measure{"model.requested": m.Model, "prompt.system": string(m.SystemDigest),
			"tools": string(m.ToolsDigest), "model.sampling": string(m.SamplingDigest), "model.endpoint": m.Endpoint}
	case inference.AtResponse:
		seen = boundary.Measure{"model.id": m.Model}
	default:
		return nil
	}
	s := o.s
	var base boundary.Manifest
	if s.task.Stage == action.Production {
		c, err := s.t.certs.Live(s.task.Agent, s.task.Stage)
		if err != nil {
			return err
		}
		base = c.Manifest
	} else {
		base = s.agent.declared
	}
	known := boundary.Measure{}
	for n, v := range seen {
		if _, ok := base.Get(n); ok || s.task.Stage == action.Production {
			known[n] = v
		}
	}
	changes := base.Drift(known)
	// In the sandbox too a fact may not change its value within a run.
	for n, v := range seen {
		if old := s.seen.get(n); old != "" && old != v {
			changes = append(changes, boundary.Change{Name: n, Old: old, New: v})
		}
	}
	s.seen.set(boundary.Observed, atInference+string(m.Phase), seen)
	if len(changes) == 0 {
		return nil
	}
	s.t.srv.log.Warn("drift", "agent", s.task.Agent, "task", s.task.ID, "stage", s.task.Stage, "changes", describe(changes))
	if s.task.Stage == action.Production {
		s.t.lapse(context.WithoutCancel(ctx), s.task.Agent, "drift", changes)
	} else {
		s.t.recordDrift(context.WithoutCancel(ctx), s.task.Agent, s.task.ID, changes)
	}
	return fmt.Errorf("the model behind this agent is not the one that was certified: %s", describe(changes))
}
