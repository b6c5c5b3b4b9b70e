package replay

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Change is the direction of a difference.
type Change string

// The changes, in the order in which a report has them.
const (
	Loosened  Change = "loosened"  // deny < hold < allow
	Tightened Change = "tightened" // the other way
	Otherwise Change = "otherwise" // the same verdict, for another reason or of another name
)

var order = []Change{Loosened, Tightened, Otherwise}

// Side is one of the two decisions.
type Side struct {
	Operation string         `json:"operation"`
	Verdict   action.Verdict `json:"verdict"`
	Layer     action.Layer   `json:"layer"`
	Code      string         `json:"code"`
	Reason    string         `json:"reason"`
	Policies  []string       `json:"policies,omitempty"`
	Approvers string         `json:"approvers,omitempty"`
}

func side(a action.Action, d action.Decision) Side {
	return Side{a.Operation, d.Verdict, d.Layer, d.Code, d.Reason, d.Policies, d.Approvers}
}

// key is everything but the reason, which people wrote and may write better, and
// the place of a rule in its grant, which another rule before it moves.
func (s Side) key() string {
	var policies []string
	for _, id := range s.Policies {
		if strings.HasPrefix(id, "grant/") {
			id = strings.TrimRight(id, "0123456789")
		}
		policies = append(policies, id)
	}
	return fmt.Sprintf("%q %q %q %q %q %q", s.Operation, s.Verdict, s.Layer, s.Code, slices.Compact(policies), s.Approvers)
}

// At is a decision on record.
type At struct {
	Seq  int64  `json:"seq"`
	Task string `json:"task"`
}

// Group are the differences that are alike.
type Group struct {
	Change  Change `json:"change"`
	Old     Side   `json:"old"` // a hold, where people were asked, whatever they answered
	New     Side   `json:"new"`
	Records []At   `json:"records"` // by rising seq
}

// Skipped are the records that could not be decided again, by the reason.
type Skipped struct {
	Why     string `json:"why"`
	Records []At   `json:"records"`
}

// Report is what would have been decided otherwise.
type Report struct {
	Replayed    int       `json:"replayed"`
	Unchanged   int       `json:"unchanged"`
	Differences []Group   `json:"differences"` // loosened first
	NotReplayed []Skipped `json:"notReplayed"`
	// Cut says why older decisions were not looked at: limit, time, or nothing.
	Cut string `json:"cut,omitempty"`
}

var rank = map[action.Verdict]int{action.Deny: 1, action.Hold: 2, action.Allow: 3}

func (r *run) compare(e record.Entry, old, now Side) {
	if old.key() == now.key() {
		r.same++
		return
	}
	change := Otherwise
	switch {
	case rank[now.Verdict] > rank[old.Verdict]:
		change = Loosened
	case rank[now.Verdict] < rank[old.Verdict]:
		change = Tightened
	}
	k := old.key() + now.key()
	if r.groups[k] == nil {
		r.groups[k] = &Group{Change: change, Old: old, New: now}
	}
	r.groups[k].Records = append(r.groups[k].Records, At{e.Seq, e.Task})
}

func (r *run) skip(e record.Entry, why Unknown) {
	if r.skipped[string(why)] == nil {
		r.skipped[string(why)] = &Skipped{Why: string(why)}
	}
	r.skipped[string(why)].Records = append(r.skipped[string(why)].Records, At{e.Seq, e.Task})
}

func (r *run) report() Report {
	out := Report{Replayed: r.same, Unchanged: r.same, Differences: []Group{}, NotReplayed: []Skipped{}, Cut: r.cut}
	bySeq := func(a, b At) int { return int(a.Seq - b.Seq) }
	for _, k := range slices.Sorted(maps.Keys(r.groups)) {
		g := *r.groups[k]
		slices.SortFunc(g.Records, bySeq)
		out.Replayed += len(g.Records)
		out.Differences = append(out.Differences, g)
	}
	slices.SortStableFunc(out.Differences, func(a, b Group) int {
		if c := slices.Index(order, a.Change) - slices.Index(order, b.Change); c != 0 {
			return c
		}
		return strings.Compare(a.Old.Operation, b.Old.Operation)
	})
	for _, k := range slices.Sorted(maps.Keys(r.skipped)) {
		s := *r.skipped[k]
		slices.SortFunc(s.Records, bySeq)
		out.NotReplayed = append(out.NotReplayed, s)
	}
	return out
}
