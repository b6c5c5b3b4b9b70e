package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// A run may repeat only what the changes since the last certification touch, and
// take the other results from it. Which scenarios a fact touches:
//
//	capability.X   those of capability X
//	connector.X    those of a capability that acts in X or reads it
//	credential.X   those of a capability that leases from X
//	suite.X        all of suite X, and none of another
//	any other      all: model, prompt, tools, harness, browser, policy, identity, host
//
// A capability that hands out parts of its work is touched by everything. What is
// only measured shows in the run: if it is not as it was, the rest runs too. A
// result is taken over for as long as a certification of that tier would hold from
// when it ran, however often it was taken over since; and never from one that ended
// for another reason than a change, or whose agent was seen to behave otherwise or violated since.

// basis is what results are taken from.
type basis struct {
	certify.Certification
	changes []boundary.Change // in what is declared, since
	oldest  time.Time         // of a result that may be taken
}

// basis is the last certification of an agent that was in force, if it may be built
// upon now.
func (t *tenant) basis(ctx context.Context, a *agent) (*basis, error) {
	all := "run all: sallyport certify " + a.name
	history, err := t.certs.History(ctx, a.name)
	if err != nil {
		return nil, err
	}
	var c *certify.Certification
	failed := ""
	for _, x := range slices.Backward(history) {
		if x.State == certify.Failed && failed == "" {
			failed = x.ID
		}
		if x.Stage == action.Production && !x.Issued.IsZero() {
			c = &x
			break
		}
	}
	switch {
	case c == nil:
		return nil, problem(Refused, "nothing_to_build_on", "agent "+a.name+" was never certified", all)
	case failed != "":
		return nil, problem(Refused, "nothing_to_build_on", fmt.Sprintf("run %s failed after the last certification %s, which does not speak for what it tried", failed, c.ID), all)
	case c.Lapse != nil && !slices.Contains([]string{lapseChanged, lapseDrift}, c.Lapse.Code):
		return nil, problem(Refused, "nothing_to_build_on", fmt.Sprintf("the last certification %s did not end by a change: %s", c.ID, c.Lapse.Why), all)
	}
	if v, err := t.violation(ctx, a.name); err != nil {
		return nil, err
	} else if v.since(*c) { // in a run that never came to its end, too
		return nil, problem(Refused, "nothing_to_build_on", fmt.Sprintf("since the run of the last certification %s something happened that must never: %s", c.ID, v.Why), all)
	}
	var seen Behaviour
	if err := t.ratesNow(ctx, *c, &seen); err != nil {
		return nil, err
	}
	for _, x := range seen.Capabilities {
		if x.Changed != nil {
			return nil, problem(Refused, "nothing_to_build_on", fmt.Sprintf("the agent does not behave in capability %s as it was certified (%s): %s", x.Capability, c.ID, x.Text), all)
		}
	}
	b := &basis{*c, drifted(a, c.Manifest), time.Now().Add(-validity[a.tier])}
	// A declared fact that was not there before is no drift, and a change.
	for _, f := range a.declared.Facts {
		if _, ok := c.Manifest.Get(f.Name); !ok && !slices.ContainsFunc(b.changes, func(x boundary.Change) bool { return x.Name == f.Name }) {
			b.changes = append(b.changes, boundary.Change{Name: f.Name, New: f.Value})
		}
	}
	if len(b.changes) == 0 {
		return nil, problem(Refused, "nothing_to_build_on", fmt.Sprintf("nothing that is declared has changed since the last certification %s", c.ID), all)
	}
	return b, nil
}

// taken is the result of a scenario that is not run again, or nil.
func (b *basis) taken(w *world, suite string, sc resource.Scenario) *certify.Scenario {
	if b == nil || w.touched(b.changes, suite, sc.Capability) {
		return nil
	}
	for _, s := range b.Suites {
		for _, x := range s.Scenarios {
			if s.Name != suite || s.Digest != w.resources[resource.KindSuite+"/"+suite].Digest || x.Name != sc.Name {
				continue
			}
			if x.From == "" {
				x.From, x.Ran = b.ID, b.Ran
			}
			if x.Ran.After(b.oldest) {
				return &x
			}
		}
	}
	return nil
}

// touched reports whether one of the changes touches the scenarios of a capability
// in a suite.
func (w *world) touched(changes []boundary.Change, suite, of string) bool {
	spec := w.capabilities[of]
	if spec == nil || len(spec.Delegates) > 0 {
		return true
	}
	apps := slices.Clone(spec.Reads)
	for _, op := range spec.Operations {
		app := op.App
		if app == "" {
			app, _, _ = strings.Cut(op.Operation, ".")
		}
		apps = append(apps, app)
	}
	for _, source := range spec.Credentials {
		if src := w.sources[source]; src != nil {
			apps = append(apps, src.Connector)
		}
	}
	return slices.ContainsFunc(changes, func(c boundary.Change) bool {
		switch kind, name, _ := strings.Cut(c.Name, "."); kind {
		case "capability":
			return name == of
		case "connector":
			return slices.Contains(apps, name)
		case "credential":
			return slices.Contains(spec.Credentials, name)
		case "suite":
			return name == suite
		}
		return true
	})
}

// more are the facts that turned out to be others than the basis had, beside
// those that are declared.
func (b *basis) more(now boundary.Manifest) (out []boundary.Change) {
	for _, c := range boundary.Diff(b.Manifest, now) {
		if !slices.ContainsFunc(b.changes, func(x boundary.Change) bool { return x.Name == c.Name }) {
			out = append(out, c)
		}
	}
	return out
}
