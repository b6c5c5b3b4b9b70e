// Package boundary is the manifest of everything that makes an agent behave as
// it does: facts, each with a grade, under one digest.
//
// Invariants:
//   - The digest covers name and value of every fact, and nothing else: how a
//     fact is known may improve without making the thing another thing.
//   - A fact has one value. Measuring another value is a difference, never an
//     update.
//
// Not trusted: a fact of grade declared, which is only what somebody said.
package boundary

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// Grade is how well a fact is known, in rising order.
type Grade string

// The grades.
const (
	Declared Grade = "declared" // someone said so
	Observed Grade = "observed" // seen on the wire, or in the running system
	Pinned   Grade = "pinned"   // enforced by digest: another value cannot act
	Attested Grade = "attested" // proved by hardware or a verified signature
)

var rank = map[Grade]int{Declared: 1, Observed: 2, Pinned: 3, Attested: 4}

// AtLeast reports whether g is known at least as well as o. An unknown grade is
// below every known one.
func (g Grade) AtLeast(o Grade) bool { return rank[g] >= rank[o] && rank[g] > 0 }

// Fact is one thing about the boundary. Names are dotted:
//
//	model.id, model.endpoint, model.location, prompt.system, tools,
//	harness.binary, harness.args, browser.version, browser.flags,
//	connector.<name>, capability.<name>, policy.<name>, suite.<name>,
//	containment, sallyport.binary
//
// docs/certification.md has them all, with how a change of each is noticed.
type Fact struct {
	Name     string    `json:"name"`
	Value    string    `json:"value"`
	Grade    Grade     `json:"grade"`
	Source   string    `json:"source"`   // where it was learnt: "agent resource", "inference response", ...
	Owner    string    `json:"owner"`    // the role that may change it
	Measured time.Time `json:"measured"` // last time it was seen
}

// Manifest is the boundary of one agent. Facts are sorted by name.
type Manifest struct {
	Agent string `json:"agent"`
	Facts []Fact `json:"facts"`
}

// New makes a manifest. Two facts of one name are an error.
func New(agent string, facts []Fact) (Manifest, error) {
	m := Manifest{Agent: agent, Facts: slices.Clone(facts)}
	slices.SortFunc(m.Facts, func(a, b Fact) int { return strings.Compare(a.Name, b.Name) })
	for i, f := range m.Facts {
		if i > 0 && m.Facts[i-1].Name == f.Name {
			return m, fmt.Errorf("boundary of %s: fact %s is given twice", agent, f.Name)
		}
		if f.Name == "" || rank[f.Grade] == 0 {
			return m, fmt.Errorf("boundary of %s: fact %q has grade %q", agent, f.Name, f.Grade)
		}
	}
	return m, nil
}

// Digest is over agent, names and values.
func (m Manifest) Digest() action.Digest {
	type pair struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	doc := struct {
		Agent string `json:"agent"`
		Facts []pair `json:"facts"`
	}{Agent: m.Agent, Facts: []pair{}}
	for _, f := range m.Facts {
		doc.Facts = append(doc.Facts, pair{f.Name, f.Value})
	}
	d, err := canon.DigestOf(doc)
	if err != nil {
		panic("sallyport: internal error: manifest cannot be marshalled: " + err.Error())
	}
	return d
}

// Get returns the fact of that name.
func (m Manifest) Get(name string) (Fact, bool) {
	i, ok := slices.BinarySearchFunc(m.Facts, name, func(f Fact, n string) int { return strings.Compare(f.Name, n) })
	if !ok {
		return Fact{}, false
	}
	return m.Facts[i], true
}

// Weakest is the lowest grade of the facts whose name has one of the prefixes.
func (m Manifest) Weakest(prefixes ...string) (Fact, bool) {
	var low Fact
	found := false
	for _, f := range m.Facts {
		for _, p := range prefixes {
			if strings.HasPrefix(f.Name, p) && (!found || rank[f.Grade] < rank[low.Grade]) {
				low, found = f, true
			}
		}
	}
	return low, found
}

// Change is one difference between two manifests. An empty value means that the
// fact is not there.
type Change struct {
	Name string `json:"name"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

func (c Change) String() string {
	show := func(s string) string {
		if s == "" {
			return "(none)"
		}
		return s
	}
	return fmt.Sprintf("%s: %s → %s", c.Name, show(c.Old), show(c.New))
}

// Limits of what is said of changes: a record has 64 KiB.
const (
	maxChanges = 50
	maxValue   = 200 // bytes
)

// Brief is changes as they go on record: no more than that has room for. A value that
// is long, or not plain, is told by its digest: a harness or a provider may have
// written it.
func Brief(changes []Change) []Change {
	out := slices.Clone(changes[:min(len(changes), maxChanges)])
	for i := range out {
		out[i].Old, out[i].New = Plain(out[i].Old), Plain(out[i].New)
	}
	return out
}

// Plain is a value, or its digest where it is long or cannot be printed.
func Plain(v string) string {
	if len(v) > maxValue || !utf8.ValidString(v) || strings.ContainsFunc(v, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return string(canon.Digest([]byte(v)))
	}
	return v
}

// Diff lists what differs, by name.
func Diff(old, now Manifest) []Change {
	values := map[string]Change{}
	for _, f := range old.Facts {
		values[f.Name] = Change{Name: f.Name, Old: f.Value}
	}
	for _, f := range now.Facts {
		c := values[f.Name]
		c.Name, c.New = f.Name, f.Value
		values[f.Name] = c
	}
	var out []Change
	for _, c := range values {
		if c.Old != c.New {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Measure is one sight of facts in the running system, to be held against a
// manifest.
type Measure map[string]string

// Drift lists the facts of m that were seen with another value, or were seen and
// are not in m at all.
func (m Manifest) Drift(seen Measure) []Change {
	var out []Change
	for name, v := range seen {
		f, ok := m.Get(name)
		if !ok || f.Value != v {
			out = append(out, Change{Name: name, Old: f.Value, New: v})
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Name, b.Name) })
	return out
}
