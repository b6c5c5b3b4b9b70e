package server

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// Boundary is what an agent is made of now, for people and for a bill of
// materials. Nothing is decided by it.
type Boundary struct {
	boundary.Manifest
	Boundary action.Digest `json:"boundary"` // of the facts
	Declared action.Digest `json:"declared"` // of those that are declared, which people approve
	// Holders are who has each role that may change a fact, now.
	Holders map[string][]string `json:"holders"`
	// Otherwise are facts that were measured since they were declared, and with
	// another value.
	Otherwise []boundary.Change `json:"otherwise"`
	Live      string            `json:"live,omitempty"` // the certification in force for production
	Tier      string            `json:"tier"`
	TierWhy   string            `json:"tierWhy"` // the path to what makes it that
	// Graded are changes since it is in force that did not end it: what is privileged
	// is held for people.
	Graded  []boundary.Change `json:"graded,omitempty"`
	Against *Against          `json:"against,omitempty"`
}

// Against is how the boundary differs from the one of a certification.
type Against struct {
	Certification string            `json:"certification"`
	State         certify.State     `json:"state"`
	Boundary      action.Digest     `json:"boundary"`
	Changes       []boundary.Change `json:"changes"`
}

// Boundary is the boundary of an agent as it is known now. against names a
// certification to compare it with, or "live" for the one in force.
func (s *Server) Boundary(ctx context.Context, tenantName, agentName, against string) (*Boundary, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	w := t.current()
	a := w.agents[agentName]
	if a == nil {
		return nil, problem(NotFound, "no_such_agent", "there is no agent "+strconv.Quote(agentName), "see: sallyport get Agent")
	}
	history, err := t.certs.History(ctx, agentName)
	if err != nil {
		return nil, err
	}
	b := &Boundary{Declared: a.declared.Digest(), Tier: a.tier, TierWhy: a.tierWhy, Holders: map[string][]string{}, Otherwise: []boundary.Change{}}
	seen := t.lastMeasured(agentName, history)
	if b.Manifest, err = manifest(a, seen); err != nil {
		return nil, err
	}
	b.Boundary = b.Manifest.Digest()
	applied := w.resources[resource.KindAgent+"/"+agentName].Applied
	for _, f := range slices.SortedFunc(maps.Values(seen.all()), func(x, y boundary.Fact) int { return strings.Compare(x.Name, y.Name) }) {
		if d, ok := a.declared.Get(f.Name); ok && d.Value != f.Value && f.Measured.After(applied) {
			b.Otherwise = append(b.Otherwise, boundary.Change{Name: f.Name, Old: d.Value, New: f.Value})
		}
	}
	for _, f := range b.Facts {
		b.Holders[f.Owner] = nil
	}
	for role := range b.Holders {
		b.Holders[role] = t.holders(w, resource.Role(role))
	}
	if c, err := t.certs.Live(agentName, action.Production); err == nil {
		b.Live, b.Graded = c.ID, c.Graded
	}
	if against == "" {
		return b, nil
	}
	b.Against, err = b.against(against, history)
	return b, err
}

// lastMeasured are the facts that the newest certification run and the newest
// launch for production saw, and what made a certification lapse since. Of a fact
// that was seen more than once the last sight counts.
func (t *tenant) lastMeasured(agentName string, history []certify.Certification) *measured {
	out := newMeasured()
	see := func(f boundary.Fact) {
		if old, ok := out.facts[f.Name]; !ok || f.Measured.After(old.Measured) {
			out.facts[f.Name] = f
		}
	}
	if len(history) > 0 {
		for _, f := range history[len(history)-1].Manifest.Facts {
			if seenAt(f.Source) {
				f.Source = strings.TrimSuffix(f.Source, asDeclared)
				see(f)
			}
		}
	}
	for _, c := range history {
		if c.Lapse == nil || c.Lapse.Code != lapseDrift || c.Lapse.At.Before(history[len(history)-1].Ran) {
			continue
		}
		for _, x := range c.Lapse.Changes {
			if x.New != "" {
				see(boundary.Fact{Name: x.Name, Value: x.New, Grade: boundary.Observed, Source: "lapse of " + c.ID, Owner: ownerOf(x.Name), Measured: c.Lapse.At})
			}
		}
	}
	t.mu.RLock()
	launched := t.launched[agentName]
	t.mu.RUnlock()
	if launched != nil {
		for _, f := range launched.all() {
			see(f)
		}
	}
	return out
}

// holders are the people who have a role and may use it.
func (t *tenant) holders(w *world, role resource.Role) []string {
	out := []string{}
	for _, name := range slices.Sorted(maps.Keys(w.people)) {
		if slices.Contains(w.people[name].Roles, role) && !t.bar(name).Locked {
			out = append(out, name)
		}
	}
	return out
}

// against compares with a certification of the agent.
func (b *Boundary) against(name string, history []certify.Certification) (*Against, error) {
	if name == "live" {
		if b.Live == "" {
			return nil, problem(Refused, "no_certification", "agent "+b.Agent+" has no live certification", "name one: sallyport certify "+b.Agent+" --history")
		}
		name = b.Live
	}
	i := slices.IndexFunc(history, func(c certify.Certification) bool { return c.ID == name })
	if i < 0 {
		return nil, noCertification(b.Agent, name)
	}
	c := history[i]
	out := &Against{Certification: c.ID, State: c.State, Boundary: c.Boundary, Changes: boundary.Diff(c.Manifest, b.Manifest)}
	// What was measured otherwise counts as it was measured.
	for _, x := range b.Otherwise {
		f, _ := c.Manifest.Get(x.Name)
		out.Changes = slices.DeleteFunc(out.Changes, func(y boundary.Change) bool { return y.Name == x.Name })
		if f.Value != x.New {
			out.Changes = append(out.Changes, boundary.Change{Name: x.Name, Old: f.Value, New: x.New})
		}
	}
	slices.SortFunc(out.Changes, func(x, y boundary.Change) int { return strings.Compare(x.Name, y.Name) })
	return out, nil
}

func noCertification(agent, id string) error {
	return problem(NotFound, "no_such_certification", "agent "+agent+" has no certification "+strconv.Quote(id), "see: sallyport certify "+agent+" --history")
}
