package resource

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// DriftRule says what a change of some facts of a boundary comes to.
type DriftRule struct {
	// Facts are names of facts, with * for any run of characters.
	Facts []string    `json:"facts"`
	Then  Consequence `json:"then"`
}

// Consequence of drift.
type Consequence string

// The consequences.
const (
	// Lapse ends the certification and what runs under it.
	Lapse Consequence = "lapse"
	// HoldPrivileged keeps the certification: what is privileged is held for a person
	// until the agent is certified again.
	HoldPrivileged Consequence = "hold"
)

// Values lists what may be written.
func (Consequence) Values() []string { return []string{string(Lapse), string(HoldPrivileged)} }

// ungradable facts always lapse: what checks the agent, what holds it, who answers
// for it, what it may do, the program that it is, and the rules themselves. A
// connector says what is privileged, so it cannot change while only that is held.
var ungradable = []string{"suite.", "watch", "policy.", "containment", "harness.", "sallyport.binary", "capability.", "connector.", "credential.", "identity.", "agent.", "tier", "drift.",
	"browser.protocol", "model.kind"}

func gradable(name string) bool {
	return !slices.ContainsFunc(ungradable, func(p string) bool { return strings.HasPrefix(name, p) })
}

// Consequence is what a change of a fact comes to. A fact that was not certified at
// all is unknown, and unknown lapses.
func (s *AgentSpec) Consequence(fact string, certified bool) Consequence {
	if !certified || !gradable(fact) {
		return Lapse
	}
	for _, r := range s.Drift {
		for _, pattern := range r.Facts {
			if ok, err := path.Match(pattern, fact); ok && err == nil {
				return r.Then
			}
		}
	}
	return Lapse
}

// checkDrift reports rules that cannot be meant.
func (s *AgentSpec) checkDrift(report func(path, problem string)) {
	for i, r := range s.Drift {
		if len(r.Facts) == 0 {
			report(fmt.Sprintf("drift[%d].facts", i), "want names of facts: sallyport get boundary lists them")
		}
		for j, pattern := range r.Facts {
			at := fmt.Sprintf("drift[%d].facts[%d]", i, j)
			if pattern == "" || strings.ContainsAny(pattern, `[]\?/`) {
				report(at, "want the name of a fact, with * for any run of characters")
			} else if literal, _, _ := strings.Cut(pattern, "*"); r.Then != Lapse && literal != "" && !gradable(literal) {
				report(at, "always lapses: want none of "+strings.Join(ungradable, ", "))
			}
		}
	}
}

// SamplingParameter is a number of a call that can be bounded, by its name there.
type SamplingParameter string

// Values lists what may be written.
func (SamplingParameter) Values() []string {
	return []string{"temperature", "top_p", "top_k", "max_tokens"}
}

// Bound is an inclusive range, in decimals; an end that is left out is open, and
// both ends the same pin the parameter.
type Bound struct {
	Min string `json:"min,omitempty"`
	Max string `json:"max,omitempty"`
}

func (b Bound) String() string {
	switch {
	case b.Min == b.Max:
		return b.Min
	case b.Min == "":
		return "at most " + b.Max
	case b.Max == "":
		return "at least " + b.Min
	}
	return b.Min + " to " + b.Max
}

// Has reports whether a number lies within. What is no number does not.
func (b Bound) Has(number string) bool {
	v, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return false
	}
	for _, end := range []struct {
		text string
		sign float64
	}{{b.Min, 1}, {b.Max, -1}} {
		if end.text == "" {
			continue
		}
		if x, err := strconv.ParseFloat(end.text, 64); err != nil || (v-x)*end.sign < 0 {
			return false
		}
	}
	return true
}

func (s *AgentSpec) checkSampling(report func(path, problem string)) {
	for name, b := range s.Model.Sampling {
		low, high := b.Min, b.Max
		if low == "" {
			low = high
		}
		if high == "" {
			high = low
		}
		if low == "" || !decimal(low) || !decimal(high) || !(Bound{low, high}).Has(low) {
			report("model.sampling."+string(name), `want min, max or both, as decimals like "0.3", and min not above max`)
		}
	}
}

// decimal numbers have one spelling here, with neither exponent nor sign.
func decimal(s string) bool {
	_, err := strconv.ParseFloat(s, 64)
	return err == nil && s[0] != '+' && s[0] != '-' && !strings.ContainsAny(s, "eExXpPiInN_")
}
