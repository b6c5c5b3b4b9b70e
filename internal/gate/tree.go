package gate

import (
	"fmt"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// line is the task and all above it, nearest first.
func (r *running) line() (out []*running) {
	for ; r != nil; r = r.parent {
		out = append(out, r)
	}
	return out
}

// chain are the names of the tasks above.
func (r *running) chain() (out []string) {
	for _, x := range r.line()[1:] {
		out = append(out, x.Task)
	}
	return out
}

// spent is why nothing passes by the task's own time and budget. r.mu is held.
func (r *running) spent(now time.Time) (d *action.Decision) {
	switch {
	case !now.Before(r.Deadline):
		d = new(action.Denied(action.LayerAuthority, "task_time_spent", "the task's time is spent", "close the task and open a new one"))
	case r.passed >= r.MaxActions:
		d = new(action.Denied(action.LayerAuthority, "budget_spent",
			fmt.Sprintf("the task's budget of %d actions is spent", r.MaxActions), "close the task and open a new one"))
	}
	return d
}

// above is what becomes of a decision of a part when the task above it is asked
// the same as if it acted itself. r.mu is held.
func (r *running) above(d action.Decision, f Facts) action.Decision {
	if !AsksAbove(d, f.Action) {
		return d
	}
	f.Action.Task, f.Action.Agent = r.Task, r.Agent
	f.Tier, f.Params, f.Labels, f.Counts = r.Tier, r.Params, slices.Clone(r.labels), r.counts
	return Stricter(d, r.Policy.Decide(f))
}

// AsksAbove reports whether a part's own decision leaves anything to the task
// above it. Which model answers is a matter of the part's own boundary.
func AsksAbove(d action.Decision, a action.Action) bool {
	return (d.Verdict == action.Allow || d.Verdict == action.Hold) && a.Surface != action.Inference
}

// Stricter is the stricter of what a part's policies decided and of what those of
// the task above it did.
func Stricter(d, above action.Decision) action.Decision {
	switch {
	case above.Verdict == action.Allow:
		return d
	case above.Verdict == action.Hold && d.Verdict == action.Allow:
		return above
	case above.Verdict == action.Hold && above.Approvers == d.Approvers:
		return d
	case above.Verdict == action.Hold:
		return action.Denied(action.LayerHold, "two_holds", "the task and the one above it ask different people", "let both ask the same")
	}
	above.Verdict = action.Deny
	return above
}

// count takes an action that passes out of the budget. r.mu is held.
func (r *running) count(a action.Action) {
	r.passed++
	r.counts[a.Operation]++
	for _, l := range a.Labels {
		if i, ok := slices.BinarySearch(r.labels, l); !ok {
			r.labels = slices.Insert(r.labels, i, l)
		}
	}
}
