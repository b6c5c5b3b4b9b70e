package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/surface/inference"
)

// Sources of measured facts.
const (
	atLaunch    = "launch"
	atInference = "inference " // and the phase of the call
	asDeclared  = ", as declared"
)

// seenAt reports whether the source of a fact is the running system.
func seenAt(source string) bool {
	return strings.HasPrefix(source, atLaunch) || strings.HasPrefix(source, atInference) || strings.HasPrefix(source, atTools)
}

// onlyMeasured says that no resource declared a fact.
func onlyMeasured(f boundary.Fact) bool {
	return seenAt(f.Source) && !strings.HasSuffix(f.Source, asDeclared)
}

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

// replace sets a fact that is another one's than before; "" is none.
func (m *measured) replace(g boundary.Grade, source, name, value string) {
	m.mu.Lock()
	delete(m.facts, name)
	m.mu.Unlock()
	if value != "" {
		m.set(g, source, map[string]string{name: value})
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
	case "browser.version", "browser.binary", "browser.flags", "containment", "sallyport.binary", "policy.shipped", "identity.source":
		return string(resource.RoleOperations)
	}
	switch kind, _, _ := strings.Cut(name, "."); kind {
	case "connector", "capability", "policy", "suite", "mcp":
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
		if !ok {
			facts[n] = f
		} else if d.Value == f.Value && f.Grade.AtLeast(d.Grade) {
			f.Source += asDeclared
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
	if changes, _ := a.material(c.Manifest, drifted(a, c.Manifest)); len(changes) > 0 {
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
	if s.task.Stage == action.Shadow && base.Digest() != s.agent.declared.Digest() {
		return problem(Refused, "changed", "the boundary is not the one under which the task was started", "open a new task")
	}
	if s.task.Stage == action.Production {
		c, err := t.certs.Live(s.task.Agent, s.task.Stage)
		if err != nil {
			return problem(Refused, "no_certification", err.Error(), "sallyport certify "+s.task.Agent)
		}
		if c.ID != s.task.Certification {
			return problem(Refused, "changed", "the task was opened under certification "+s.task.Certification+", and "+c.ID+" is in force", "open a new task")
		}
		base = c.Manifest
	}
	changes := base.Drift(declaredAnd(s.seen.values(), a, base, s.task.Stage))
	changes = append(changes, undeclared(base, a.declared)...)
	if s.task.Stage == action.Production {
		// Another harness is what a caller of run brought, not a change of the
		// boundary: it does not run, and the certification of the right one stands.
		brought := slices.DeleteFunc(slices.Clone(changes), func(c boundary.Change) bool { return !strings.HasPrefix(c.Name, "harness.") })
		changes = slices.DeleteFunc(changes, func(c boundary.Change) bool { return strings.HasPrefix(c.Name, "harness.") })
		changes = append(t.drift(ctx, a, base, lapseDrift, changes), brought...)
	}
	if len(changes) == 0 {
		if s.task.Stage == action.Production {
			t.mu.Lock()
			t.launched[a.name] = s.seen
			t.mu.Unlock()
		}
		return nil
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

// undeclared lists what a certified manifest declares and is not declared any more: a
// connector, capability, policy, suite, bound or rule that was taken away.
func undeclared(certified, declared boundary.Manifest) []boundary.Change {
	var out []boundary.Change
	for _, f := range certified.Facts {
		if _, ok := declared.Get(f.Name); !ok && !onlyMeasured(f) {
			out = append(out, boundary.Change{Name: f.Name, Old: f.Value})
		}
	}
	return out
}

// describe is changes in at most some 4 KiB.
func describe(changes []boundary.Change) string {
	var out []string
	for _, c := range boundary.Brief(changes) {
		out = append(out, c.String())
	}
	text := strings.Join(out, "; ")
	if len(text) > 4<<10 {
		text = text[:4<<10] + " ..."
	}
	return strings.ToValidUTF8(text, "")
}

// observer holds every inference call against the boundary.
type observer struct{ s *session }

// Observe implements inference.Observer. An error cuts the call.
func (o observer) Observe(ctx context.Context, m inference.Measurement) error {
	var seen boundary.Measure
	switch m.Phase {
	case inference.AtRequest:
		seen = boundary.Measure{"model.requested": m.Model, "prompt.system": string(m.SystemDigest), "tools": string(m.ToolsDigest), "model.endpoint": m.Endpoint}
		maps.Copy(seen, o.s.agent.sampling(m))
	case inference.AtConnect:
		seen = boundary.Measure{"model.peer": m.Peer}
	case inference.AtResponse:
		seen = boundary.Measure{"model.id": m.Model, "model.account": m.Said.Account, "model.geo": m.Said.Geo}
	default:
		return nil
	}
	return o.s.compare(ctx, atInference+string(m.Phase), seen, action.Read, "")
}

// compare holds what was seen in the running system against the boundary. An error
// keeps what follows, of that effect, from happening. known is what s.drifted said when it
// was decided: for what is privileged nothing may have come since, seen here or by another.
func (s *session) compare(ctx context.Context, source string, seen boundary.Measure, effect action.Effect, known string) error {
	if s.task.Stage != action.Production {
		return s.sandboxed(ctx, source, seen)
	}
	c, err := s.t.certs.Live(s.task.Agent, s.task.Stage)
	if err != nil {
		return err
	}
	changes := c.Manifest.Drift(seen)
	s.seen.set(boundary.Observed, source, seen)
	if len(changes) > 0 {
		s.t.srv.log.Warn("drift", "agent", s.task.Agent, "task", s.task.ID, "stage", s.task.Stage, "changes", describe(changes))
		if err := notCertified(s.t.drift(context.WithoutCancel(ctx), s.agent, c.Manifest, lapseDrift, changes)); err != nil {
			return err
		}
	}
	if now := s.drifted(); effect.AtLeast(action.Privileged) && now != known {
		return errors.New("the boundary of this agent drifted after this was decided: " + now)
	}
	return nil
}

// drifted is how the boundary drifted in ways that its rules grade. It grows with each.
func (s *session) drifted() string {
	c, err := s.t.certs.Live(s.task.Agent, s.task.Stage)
	if err != nil || len(c.Graded) == 0 {
		return "" // without one nothing passes
	}
	return fmt.Sprintf("%s (%d in all)", describe(c.Graded), len(c.Graded))
}

func notCertified(changes []boundary.Change) error {
	if len(changes) == 0 {
		return nil
	}
	return fmt.Errorf("the boundary of this agent is not the one that was certified: %s", describe(changes))
}

// sandboxed holds a call against what is declared, and against the run's own calls
// before: a fact may not change its value within a run.
func (s *session) sandboxed(ctx context.Context, source string, seen boundary.Measure) error {
	known := boundary.Measure{}
	for n, v := range seen {
		if _, ok := s.agent.declared.Get(n); ok {
			known[n] = v
		}
	}
	changes := s.agent.declared.Drift(known)
	for n, v := range seen {
		if old := s.seen.get(n); old != "" && old != v {
			changes = append(changes, boundary.Change{Name: n, Old: old, New: v})
		}
	}
	s.seen.set(boundary.Observed, source, seen)
	if len(changes) == 0 {
		return nil
	}
	s.t.srv.log.Warn("drift", "agent", s.task.Agent, "task", s.task.ID, "stage", s.task.Stage, "changes", describe(changes))
	s.t.recordDrift(context.WithoutCancel(ctx), s.task.Agent, s.task.ID, changes)
	return notCertified(changes)
}

// sampling are the facts of a call's sampling parameters. One that the boundary bounds
// is seen as its bound while it is within, and must be sent; all others are one fact.
// How long an answer may be (max_tokens) is one only where it is bounded.
func (a *agent) sampling(m inference.Measurement) map[string]string {
	bounded, out := []string{"max_tokens"}, map[string]string{}
	for name, b := range a.spec.Model.Sampling {
		bounded = append(bounded, string(name))
		v, sent := m.Sampling[string(name)]
		switch {
		case !sent:
			v = "unsent"
		case b.Has(v):
			v = b.String()
		}
		out["sampling."+string(name)] = v
	}
	out["model.sampling"] = m.SamplingText(bounded...)
	return out
}
