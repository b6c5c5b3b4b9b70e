package readiness

import (
	"fmt"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/boundary"
)

// condition is one of the ten.
type condition struct {
	id, title, question string
	controls            []string
	check               func(*check)
}

// check collects the findings of one condition. The worst finding decides.
type check struct {
	e      *evaluation
	def    condition
	number int

	findings []Finding
	state    State
	summary  string // when it passes
	next     string // of the worst finding so far
	newest   time.Time
	highest  int64 // position of the last record used
	records  int
}

var severity = map[State]int{"": 0, Pass: 1, Unknown: 2, Fail: 3}

func (k *check) add(s State, next string, refs []ref, f Finding) {
	f.State, f.Count = s, len(refs)
	refs = slices.SortedFunc(slices.Values(refs), func(a, b ref) int { return int(a.seq - b.seq) })
	refs = slices.Compact(refs)
	f.Count = len(refs)
	for i, r := range refs {
		if i >= len(refs)-maxListed {
			f.Records = append(f.Records, r.seq)
		}
		if r.time.After(k.newest) {
			k.newest = r.time
		}
		k.highest = max(k.highest, r.seq)
	}
	k.records += len(refs)
	if severity[s] > severity[k.state] {
		k.state, k.next, k.summary = s, next, f.Saw
	}
	k.findings = append(k.findings, f)
}

// ok, fail and unknown add a finding; its text is what was seen.
func (k *check) ok(refs []ref, format string, args ...any) {
	k.add(Pass, "", refs, Finding{Saw: fmt.Sprintf(format, args...)})
}

func (k *check) fail(next string, refs []ref, format string, args ...any) {
	k.add(Fail, next, refs, Finding{Saw: fmt.Sprintf(format, args...)})
}

func (k *check) unknown(next string, refs []ref, format string, args ...any) {
	k.add(Unknown, next, refs, Finding{Saw: fmt.Sprintf(format, args...)})
}

// fact adds a finding about a fact of the boundary.
func (k *check) fact(s State, next string, refs []ref, f boundary.Fact, format string, args ...any) {
	k.add(s, next, refs, Finding{Saw: fmt.Sprintf(format, args...), Fact: f.Name, Grade: f.Grade})
}

// pass sets the sentence for when nothing speaks against it.
func (k *check) pass(format string, args ...any) {
	if k.state == Pass {
		k.summary = fmt.Sprintf(format, args...)
	}
}

// finish applies the rules that hold for every condition.
func (k *check) finish() {
	if k.state == "" || k.state == Pass && k.records == 0 {
		k.unknown("run the agent through a certification: sallyport certify "+k.e.w.Agent, nil, "no record speaks about this condition")
	}
	if limit := maxAge[k.e.tier()]; k.state == Pass && k.e.now.Sub(k.newest) > limit {
		k.unknown("certify the agent again: sallyport certify "+k.e.w.Agent, nil,
			"the newest record is %s old; the %s tier takes nothing older than %s", age(k.e.now.Sub(k.newest)), k.e.tier(), age(limit))
	}
	if k.state == Pass {
		k.next = ""
	}
}

func (k *check) result() Result {
	r := Result{Number: k.number, ID: k.def.id, Title: k.def.title, Question: k.def.question, State: k.state, Summary: sentence(k.summary),
		Findings: k.findings, Newest: k.newest, Age: -1, Next: k.next, Controls: slices.Clone(k.def.controls), Mapping: mapped(k.def.id)}
	if !k.newest.IsZero() {
		r.Age = int64(max(0, k.e.now.Sub(k.newest)).Seconds())
	}
	return r
}

// age is a duration for people, in its greatest unit.
func age(d time.Duration) string {
	unit := func(n int, name string) string {
		if n != 1 {
			name += "s"
		}
		return fmt.Sprintf("%d %s", n, name)
	}
	switch {
	case d < 2*time.Minute:
		return unit(int(d.Seconds()), "second")
	case d < 2*time.Hour:
		return unit(int(d.Minutes()), "minute")
	case d < 2*day:
		return unit(int(d.Hours()), "hour")
	}
	return unit(int(d/day), "day")
}
