package resource

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

var (
	loopbackURL   = regexp.MustCompile(`^http://127\.0\.0\.1:[0-9]{1,5}$`)
	statePath     = regexp.MustCompile(`^[a-z][A-Za-z0-9_-]*(/[^/{}]+)*$`)
	suiteTemplate = regexp.MustCompile(`\{\{[^{}]*\}\}`)
	operationName = regexp.MustCompile(`^[a-z][A-Za-z0-9_.-]*$`)
	denialCode    = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
)

// Limits of one suite: the results of all its trials are one record.
const (
	maxScenarios = 120
	maxTrials    = 600
)

// SuiteSpec is the body of a Suite: what an agent must show inside its boundary
// before it is certified. Success and violations are read from the ledger, and from
// the applications' own state.
type SuiteSpec struct {
	Description string `json:"description,omitempty"`
	// Trials of each scenario that does not say otherwise.
	Trials    int        `json:"trials"`
	Scenarios []Scenario `json:"scenarios"`
	// Defaults is what a scenario says that does not say otherwise, member by member.
	Defaults *Scenario `json:"defaults,omitempty"`
	Required Required  `json:"required"`
	// Parallel is how many trials run at once, each in a copy of the fixture of
	// its own; 0 is 1.
	Parallel int `json:"parallel,omitempty"`
	// Seed is of the seeds of its trials, which say in what words a fixture puts its
	// hostile content: see SeedOf.
	Seed int64 `json:"seed,omitempty"`
	// Exhaustive runs every trial, also when the rest cannot change the result.
	Exhaustive bool `json:"exhaustive,omitempty"`
	// Fixture is the sample estate whose content the scenarios set. Without one
	// no scenario may name hostile content, a behaviour or a state.
	Fixture *Fixture `json:"fixture,omitempty"`
}

// Fixture is where the sample estate takes orders from a suite. Both are on the
// loopback of the boundary's own machine.
type Fixture struct {
	Estate   string `json:"estate"`             // admin URL of the estate
	Provider string `json:"provider,omitempty"` // admin URL of the scripted model
}

// Required are the lower bounds of the 95 % confidence intervals, in percent,
// that the results must reach. A suite without scenarios of a kind requires
// nothing of it.
type Required struct {
	Success int `json:"success,omitempty"` // benign scenarios that did what they should
	Safety  int `json:"safety,omitempty"`  // attack scenarios in which all was as it should be
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

// People says what becomes of the questions of a trial. A suite can only refuse:
// what is granted, people grant, with their signatures.
type People string

// What people do in a trial; empty is whatever they do.
const (
	Reject People = "reject" // each question is rejected as it is asked
	Away   People = "away"   // nobody answers, and the question runs out
)

// Values lists what may be written.
func (People) Values() []string { return []string{string(Reject), string(Away)} }

// Scenario is one task under one condition of the estate.
type Scenario struct {
	Name        string            `json:"name,omitempty"`
	Description string            `json:"description,omitempty"`
	Kind        ScenarioKind      `json:"kind,omitempty"`
	Capability  string            `json:"capability,omitempty"`
	Params      map[string]string `json:"params,omitempty"`
	// Hostile is the hostile content that the sample estate shows.
	Hostile []string `json:"hostile,omitempty"`
	// Behaviour is the script of a scripted model; empty for a real one.
	Behaviour string `json:"behaviour,omitempty"`
	People    People `json:"people,omitempty"`
	Trials    int    `json:"trials,omitempty"`
	// Seconds is how long one trial may take; 0 is 180.
	Seconds int `json:"seconds,omitempty"`
	// Actions is how many decisions one trial may ask for; 0 leaves it to the
	// capability.
	Actions int `json:"actions,omitempty"`
	// Tokens is how many of the model's one trial may take, in and out, as its
	// provider counts them; 0 bounds nothing.
	Tokens int64  `json:"tokens,omitempty"`
	Expect Expect `json:"expect,omitempty,omitzero"`
}

// Expect is what must be true of a trial's records, and of the applications after
// it. {{name}} stands for a parameter of the task.
type Expect struct {
	// Done are operations that took effect: a write exactly Times, a read at
	// least so often.
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
	// Only are the objects of the estate that the trial may change, such as
	// "tickets/4711"; "nothing" is none. Another that changed is a violation.
	Only []string `json:"only,omitempty"`
	// State is what the applications say afterwards.
	State []State `json:"state,omitempty"`
}

// Expected is one operation with some of its parameters.
type Expected struct {
	Operation string            `json:"operation"`
	Params    map[string]string `json:"params,omitempty"`
	Path      string            `json:"path,omitempty"`  // of the request, without its query
	Times     int               `json:"times,omitempty"` // 0 means 1
}

// State is what one place in the estate's state must be. What it Lacks and is there
// is a violation; the others are misses.
type State struct {
	At    string `json:"at"` // such as users/jo/mfa: members of lists by id
	Is    string `json:"is,omitempty"`
	Has   string `json:"has,omitempty"`   // text within it
	Lacks string `json:"lacks,omitempty"` // text that must not be in it
}

// SeedOf is the seed of the n-th trial of a scenario, from 0 on: the same whenever
// it runs.
func (s *SuiteSpec) SeedOf(scenario string, n int) uint64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d/%s/%d", s.Seed, scenario, n))
	return binary.BigEndian.Uint64(sum[:8])
}

// All are the scenarios with the defaults and their own parameters filled in.
func (s *SuiteSpec) All() []Scenario {
	out := make([]Scenario, 0, len(s.Scenarios))
	for _, sc := range s.Scenarios {
		if s.Defaults != nil {
			sc = sc.or(*s.Defaults)
		}
		out = append(out, sc.filled())
	}
	return out
}

// or takes from d what is not said.
func (sc Scenario) or(d Scenario) Scenario {
	sc.Kind, sc.Capability, sc.Behaviour, sc.People = first(sc.Kind, d.Kind), first(sc.Capability, d.Capability), first(sc.Behaviour, d.Behaviour), first(sc.People, d.People)
	sc.Trials, sc.Seconds, sc.Actions = first(sc.Trials, d.Trials), first(sc.Seconds, d.Seconds), first(sc.Actions, d.Actions)
	sc.Tokens = first(sc.Tokens, d.Tokens)
	sc.Hostile = firstOf(sc.Hostile, d.Hostile)
	if sc.Capability == d.Capability { // parameters are those of a capability
		params := map[string]string{}
		maps.Copy(params, d.Params)
		maps.Copy(params, sc.Params)
		sc.Params = params
	}
	e, of := sc.Expect, d.Expect
	sc.Expect = Expect{Done: firstOf(e.Done, of.Done), Never: firstOf(e.Never, of.Never), Untried: firstOf(e.Untried, of.Untried), Denied: firstOf(e.Denied, of.Denied),
		Only: firstOf(e.Only, of.Only), State: firstOf(e.State, of.State)}
	return sc
}

func first[T comparable](own, d T) T {
	var none T
	if own != none {
		return own
	}
	return d
}

func firstOf[T any](own, d []T) []T {
	if own != nil {
		return own
	}
	return d
}

// filled puts the parameters in the place of their names.
func (sc Scenario) filled() Scenario {
	var pairs []string
	for k, v := range sc.Params {
		pairs = append(pairs, "{{"+k+"}}", v)
	}
	fill := strings.NewReplacer(pairs...).Replace
	sc.Expect.Done, sc.Expect.Only, sc.Expect.State = slices.Clone(sc.Expect.Done), slices.Clone(sc.Expect.Only), slices.Clone(sc.Expect.State)
	for i, d := range sc.Expect.Done {
		params := maps.Clone(d.Params)
		for k, v := range params {
			params[k] = fill(v)
		}
		sc.Expect.Done[i].Params, sc.Expect.Done[i].Path = params, fill(d.Path)
	}
	for i, o := range sc.Expect.Only {
		sc.Expect.Only[i] = fill(o)
	}
	for i, x := range sc.Expect.State {
		sc.Expect.State[i] = State{At: fill(x.At), Is: fill(x.Is), Has: fill(x.Has), Lacks: fill(x.Lacks)}
	}
	return sc
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
	for _, k := range []struct {
		field   string
		kind    ScenarioKind
		percent int
	}{{"success", Benign, s.Required.Success}, {"safety", Attack, s.Required.Safety}} {
		switch some := s.Count(k.kind) > 0; {
		case some && (k.percent < 1 || k.percent > 99): // no lower bound is 100 %, however many trials
			report("required."+k.field, "want 1 to 99 percent")
		case !some && k.percent != 0:
			report("required."+k.field, "the suite has no "+string(k.kind)+" scenario to show it")
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
	if n := len(s.Scenarios); n == 0 || n > maxScenarios {
		report("scenarios", fmt.Sprintf("want 1 to %d; an agent may have several suites", maxScenarios))
	}
	if n := s.Count(Benign) + s.Count(Attack); n > maxTrials {
		report("trials", fmt.Sprintf("%d in all scenarios, want at most %d; an agent may have several suites", n, maxTrials))
	}
	if s.Defaults != nil && s.Defaults.Name+s.Defaults.Description != "" {
		report("defaults.name", "name and description are each scenario's own")
	}
	seen := map[string]bool{}
	for i, sc := range s.All() {
		at := fmt.Sprintf("scenarios[%d]", i)
		if seen[sc.Name] {
			report(at+".name", "is used twice")
		}
		seen[sc.Name] = true
		s.scenario(sc, func(path, problem string) { report(at+path, problem) })
	}
}

func (s *SuiteSpec) scenario(sc Scenario, report func(path, problem string)) {
	if !kindNames.MatchString(sc.Name) {
		report(".name", "want small letters, digits and hyphens")
	}
	if sc.Kind == "" {
		report(".kind", "want benign or attack, here or in defaults")
	}
	if sc.Capability == "" {
		report(".capability", "want a capability, here or in defaults")
	}
	if s.Fixture == nil && (len(sc.Hostile) > 0 || sc.Behaviour != "" || len(sc.Expect.Only)+len(sc.Expect.State) > 0) {
		report("", "hostile content, behaviour, only and state need a fixture")
	}
	if sc.Trials < 0 || sc.Trials > 10_000 {
		report(".trials", "want 0 to 10000")
	}
	if sc.Seconds < 0 || sc.Seconds > 3600 {
		report(".seconds", "want 0 to 3600")
	}
	if sc.Actions < 0 {
		report(".actions", "want 0 or more")
	}
	if sc.Tokens < 0 {
		report(".tokens", "want 0 or more")
	}
	if sc.Kind == Benign && len(sc.Expect.Done)+len(sc.Expect.Denied) == 0 {
		report(".expect.done", "a benign scenario must do something, or be denied something")
	}
	if sc.Kind == Attack && len(sc.Expect.Never)+len(sc.Expect.Untried)+len(sc.Expect.Only) == 0 {
		report(".expect.never", "an attack must name what may never happen")
	}
	for field, patterns := range map[string][]string{"never": sc.Expect.Never, "untried": sc.Expect.Untried} {
		for j, p := range patterns {
			at := fmt.Sprintf(".expect.%s[%d]", field, j)
			if name := strings.TrimSuffix(p, "*"); p != "*" && !operationName.MatchString(name) {
				report(at, "want an operation such as iam.user.disable, iam.* for all that begin so, or other")
			} else if i := slices.IndexFunc(sc.Expect.Done, func(e Expected) bool { return p != "other" && Covers(p, e.Operation) }); i >= 0 {
				report(at, "done has "+sc.Expect.Done[i].Operation)
			}
		}
	}
	for j, code := range sc.Expect.Denied {
		if !denialCode.MatchString(code) {
			report(fmt.Sprintf(".expect.denied[%d]", j), "want a code such as outside_grant")
		}
	}
	for j, e := range sc.Expect.Done {
		if !operationName.MatchString(e.Operation) {
			report(fmt.Sprintf(".expect.done[%d].operation", j), "want an operation such as iam.user.disable")
		}
		if t := suiteTemplate.FindString(e.Path); t != "" {
			report(fmt.Sprintf(".expect.done[%d].path", j), "the scenario has no parameter "+t)
		}
		if e.Times < 0 {
			report(fmt.Sprintf(".expect.done[%d].times", j), "want 0 or more")
		}
		for k, v := range e.Params {
			if suiteTemplate.MatchString(v) {
				report(fmt.Sprintf(".expect.done[%d].params.%s", j, k), "the scenario has no parameter "+v)
			}
		}
	}
	for j, o := range sc.Expect.Only {
		if !statePath.MatchString(o) || strings.Count(o, "/") > 1 { // a part of an object is no object
			report(fmt.Sprintf(".expect.only[%d]", j), "want an object such as tickets/4711, or nothing")
		}
	}
	for j, x := range sc.Expect.State {
		n := 0
		for _, v := range []string{x.Is, x.Has, x.Lacks} {
			if v != "" {
				n++
			}
		}
		if n != 1 || !statePath.MatchString(x.At) || suiteTemplate.MatchString(x.Is+x.Has+x.Lacks) {
			report(fmt.Sprintf(".expect.state[%d]", j), "want a place such as users/jo/mfa, and one of is, has and lacks")
		}
	}
}

// Covers reports whether a pattern of Never or Untried is of an operation: its name,
// or what it begins with before a "*".
func Covers(pattern, operation string) bool {
	if begin, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(operation, begin)
	}
	return pattern == operation
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
	for _, sc := range s.All() {
		if sc.Kind == k {
			n += s.TrialsOf(sc)
		}
	}
	return n
}
