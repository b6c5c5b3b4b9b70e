package resource

import (
	"fmt"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/capability"
)

// Watch is how an agent's behaviour in production is watched.
type Watch struct {
	// OnChange is what a change of its rates leads to, beside the alarm and a
	// readiness that is not met; empty is alarm.
	OnChange OnChange `json:"onChange,omitempty"`
	Canary   *Canary  `json:"canary,omitempty"`
}

// OnChange is what a change of behaviour leads to.
type OnChange string

// What there is.
const (
	OnChangeAlarm OnChange = "alarm"
	OnChangeHold  OnChange = "hold"  // what is privileged is held for people
	OnChangeLapse OnChange = "lapse" // the certification ends
)

// Values lists what may be written.
func (OnChange) Values() []string {
	return []string{string(OnChangeAlarm), string(OnChangeHold), string(OnChangeLapse)}
}

// Canary are scenarios that are run again and again while the agent is in production.
type Canary struct {
	Suite     string   `json:"suite"`
	Scenarios []string `json:"scenarios"`
	// EverySeconds is how long after one run of a scenario the next is due.
	EverySeconds int64 `json:"everySeconds"`
	// Missed is how many runs of a scenario in a row may not come about before the
	// certification ends; 0 is 3.
	Missed int `json:"missed,omitempty"`
}

// Every is how long after one run the next is due.
func (c Canary) Every() time.Duration { return time.Duration(c.EverySeconds) * time.Second }

// Limit is how many missed runs in a row end the certification.
func (c Canary) Limit() int {
	if c.Missed > 0 {
		return c.Missed
	}
	return 3
}

func (w *Watch) validate(report func(path, problem string)) {
	c := w.Canary
	if c == nil {
		return
	}
	if c.EverySeconds < 60 || c.EverySeconds > 7*24*3600 {
		report("canary.everySeconds", "want 60 to 604800")
	}
	if c.Missed < 0 || c.Missed > 100 {
		report("canary.missed", "want 0 to 100")
	}
	if len(c.Scenarios) == 0 {
		report("canary.scenarios", "want at least one scenario")
	}
	for i, name := range c.Scenarios {
		if slices.Contains(c.Scenarios[:i], name) {
			report(fmt.Sprintf("canary.scenarios[%d]", i), "is given twice")
		}
	}
}

// canary: it can run by itself, and reaches nothing of production.
func (v *validator) canary(r *Resource, s *AgentSpec) {
	if s.Watch == nil || s.Watch.Canary == nil {
		return
	}
	c := s.Watch.Canary
	suite, ok := Of[SuiteSpec](v.all, r.Metadata.Tenant, c.Suite)
	if !ok || !slices.Contains(s.Suites, c.Suite) {
		v.bad(r, "spec.watch.canary.suite", "want one of the agent's suites")
		return
	}
	for i, name := range c.Scenarios {
		at := fmt.Sprintf("spec.watch.canary.scenarios[%d]", i)
		all := suite.All()
		n := slices.IndexFunc(all, func(sc Scenario) bool { return sc.Name == name })
		if n < 0 {
			v.bad(r, at, "suite %s has no scenario %s", c.Suite, name)
			continue
		}
		sc := all[n]
		if sc.Behaviour != "" && sc.Behaviour != "honest" {
			v.bad(r, at, "%s has the scripted model behave %s: a canary asks the model as it is", name, sc.Behaviour)
		}
		if suite.Fixture != nil {
			v.rehearsed(r, at, sc)
		}
	}
}

// rehearsed: with a fixture a canary runs under the names of production, so the
// capability must be for production, and get nothing from where production gets it.
func (v *validator) rehearsed(r *Resource, at string, sc Scenario) {
	spec, ok := Of[capability.Spec](v.all, r.Metadata.Tenant, sc.Capability)
	if !ok {
		return
	}
	if !slices.Contains(spec.Stages, action.Production) {
		v.bad(r, at, "%s is of capability %s, which is not for production", sc.Name, sc.Capability)
	}
	for _, name := range spec.Credentials {
		if src, ok := Of[CredentialSourceSpec](v.all, r.Metadata.Tenant, name); ok && src.Type != SourceForm && !src.Static() {
			v.bad(r, at, "%s is of capability %s, whose credential %s is of type %s: a canary would get it from production", sc.Name, sc.Capability, name, src.Type)
		}
	}
}
