package resource

import (
	"fmt"
	"regexp"
)

var loopbackURL = regexp.MustCompile(`^http://127\.0\.0\.1:[0-9]{1,5}$`)

// SuiteSpec is the body of a Suite: what an agent must show inside its boundary
// before it is certified. Success and violations are read from the ledger.
type SuiteSpec struct {
	Description string `json:"description,omitempty"`
	// Trials of each scenario that does not say otherwise.
	Trials    int        `json:"trials"`
	Scenarios []Scenario `json:"scenarios"`
	Required  Required   `json:"required"`
	// Parallel is how many trials run at once, each in a copy of the fixture of
	// its own; 0 is 1.
	Parallel int `json:"parallel,omitempty"`
	// Exhaustive runs every trial, also when the rest cannot change the result.
	Exhaustive bool `json:"exhaustive,omitempty"`
	// Fixture is the sample estate whose content the scenarios set. Without one
	// no scenario may name hostile content or a behaviour.
	Fixture *Fixture `json:"fixture,omitempty"`
}

// Fixture is where the sample estate takes orders from a suite. Both are on the
// loopback of the boundary's own machine.
type Fixture struct {
	Estate   string `json:"estate"`             // admin URL of the estate
	Provider string `json:"provider,omitempty"` // admin URL of the scripted model
}

// Required are the lower bounds of the 95 % confidence intervals, in percent,
// that the results must reach.
type Required struct {
	Success int `json:"success"` // benign scenarios that did what they should
	Safety  int `json:"safety"`  // attack scenarios in which all was as it should be
	// Margin is by how many points the success may be worse than that of the
	// certification before, with 95 % confidence; 0 asks for no proof of it.
	Margin int `json:"margin,omitempty"`
}

// ScenarioKind tells work from attack.
type ScenarioKind string

// The kinds of scenario.
const (
	Benign ScenarioKind = "benign" // the task should be done
	Attack ScenarioKind = "attack" // something tries to redirect the agent
)

// Values lists what may be written.
func (ScenarioKind) Values() []string { return []string{string(Benign), string(Attack)} }

// Scenario is one task under one condition of the estate.
type Scenario struct {
	Name        string            `json:"name"`
	Description string            `json:"description,omitempty"`
	Kind        ScenarioKind      `json:"kind"`
	Capability  string            `json:"capability"`
	Params      map[string]string `json:"params,omitempty"`
	// Hostile is the hostile content that the sample estate shows.
	Hostile []string `json:"hostile,omitempty"`
	// Behaviour is the script of a scripted model; empty for a real one.
	Behaviour string `json:"behaviour,omitempty"`
	Trials    int    `json:"trials,omitempty"`
	Expect    Expect `json:"expect"`
}

// Expect is what must be true of a trial's records.
type Expect struct {
	// Done are operations that took effect, each exactly Times.
	Done []Expected `json:"done,omitempty"`
	// Never are operations of which none may take effect; "*" at the end of a
	// name stands for any rest. "other" means every write that Done does not list.
	Never []string `json:"never,omitempty"`
	// Untried are operations, as in Never, that the agent must not even try: what
	// it pressed, typed or sent itself and was refused counts. What a page does by
	// itself does not.
	Untried []string `json:"untried,omitempty"`
	// Denied are codes of which each must have been the answer at least once.
	Denied []string `json:"denied,omitempty"`
}

// Expected is one operation with some of its parameters.
type Expected struct {
	Operation string            `json:"operation"`
	Params    map[string]string `json:"params,omitempty"`
	Times     int               `json:"times,omitempty"` // 0 means 1
}

// Validate reports what is wrong, by field path.
func (s *SuiteSpec) Validate(_ string, report func(path, problem string)) {
	if s.Trials < 1 || s.Trials > 10_000 {
		report("trials", "want 1 to 10000")
	}
	if f := s.Fixture; f != nil {
		for field, u := range map[string]string{"estate": f.Estate, "provider": f.Provider} {
			if !loopbackURL.MatchString(u) && (u != "" || field == "estate") {
				report("fixture."+field, "want http://127.0.0.1:port")
			}
		}
	}
	for field, n := range map[string]int{"success": s.Required.Success, "safety": s.Required.Safety} {
		if n < 1 || n > 100 {
			report("required."+field, "want 1 to 100 percent")
		}
	}
	if s.Required.Margin < 0 || s.Required.Margin > 100 {
		report("required.margin", "want 0 to 100 points")
	}
	if s.Parallel < 0 || s.Parallel > 8 {
		report("parallel", "want 0 to 8 trials at once")
	}
	if s.Parallel > 1 && s.Fixture == nil {
		report("parallel", "trials at once need a fixture that has a copy for each")
	}
	if len(s.Scenarios) == 0 {
		report("scenarios", "want at least one scenario")
	}
	kinds := map[ScenarioKind]bool{}
	seen := map[string]bool{}
	for i, sc := range s.Scenarios {
		at := fmt.Sprintf("scenarios[%d]", i)
		if seen[sc.Name] {
			report(at+".name", "is used twice")
		}
		seen[sc.Name], kinds[sc.Kind] = true, true
		if s.Fixture == nil && (len(sc.Hostile) > 0 || sc.Behaviour != "") {
			report(at, "hostile content and behaviour need a fixture")
		}
		if sc.Trials < 0 || sc.Trials > 10_000 {
			report(at+".trials", "want 0 to 10000")
		}
		if sc.Kind == Benign && len(sc.Expect.Done) == 0 {
			report(at+".expect.done", "a benign scenario must do something")
		}
		if sc.Kind == Attack && len(sc.Expect.Never)+len(sc.Expect.Untried) == 0 {
			report(at+".expect.never", "an attack must name what may never happen")
		}
		for j, e := range sc.Expect.Done {
			if e.Times < 0 {
				report(fmt.Sprintf("%s.expect.done[%d].times", at, j), "want 0 or more")
			}
		}
	}
	for _, k := range []ScenarioKind{Benign, Attack} {
		if len(s.Scenarios) > 0 && !kinds[k] {
			report("scenarios", "want at least one "+string(k)+" scenario")
		}
	}
}

// TrialsOf is how often a scenario is tried.
func (s *SuiteSpec) TrialsOf(sc Scenario) int {
	if sc.Trials > 0 {
		return sc.Trials
	}
	return s.Trials
}

// Count is how many trials the scenarios of a kind have together.
func (s *SuiteSpec) Count(k ScenarioKind) (n int) {
	for _, sc := range s.Scenarios {
		if sc.Kind == k {
			n += s.TrialsOf(sc)
		}
	}
	return n
}
