// Package replay decides the actions on record again, under resources that are
// not in force, and says what would have been decided otherwise. It reads.
//
// Invariants:
//   - It knows records and a pair of questions (Rules), and no gate, policy or
//     surface: nothing that it finds can let anything through.
//   - What the record does not hold is never made up. An action that cannot be
//     decided again is counted as such, with the reason.
//   - It says nothing of an action but its place, operation and decisions, so that
//     who may ask learns nothing that the records themselves do not show.
//
// History stays as it was: what passed is what counts and puts labels on, whether
// or not the other resources would have let it pass, under the name that they give
// it. An answer of a person stands for nothing: a hold is compared with a hold.
//
// Not in a record, and so taken as it was: whether the task's time and whole budget
// were spent, whether a certification was live, which input explains a request. What
// was decided at one moment in one task may stand on record in another order than it
// was counted in.
//
// Of a task in shadow it is what would have been decided that is compared, and what
// would have passed counts.
//
// Not trusted: a record's body beyond what the ledger vouches for. One that is not
// of its task is not decided.
package replay

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Limits of one replay.
const (
	DefaultLimit = 10_000
	MaxLimit     = 100_000
)

// Task is what is asked of a task here.
type Task struct {
	ID, Agent string
	Chain     []string // the tasks that it is a part of, nearest first
	Opened    time.Time
	Ended     time.Time // zero while it runs
}

func (t Task) top() string {
	if len(t.Chain) == 0 {
		return t.ID
	}
	return t.Chain[len(t.Chain)-1]
}

// Done is what a task had let through before an action.
type Done struct {
	Task   string
	Labels []string // sorted
	Counts map[string]int64
}

// Rules are resources as they would be in force. They decide and do nothing else.
type Rules interface {
	// Name is the action as connectors name it. An Unknown says why that cannot be
	// told.
	Name(ctx context.Context, a action.Action, stage action.Stage) (action.Action, error)
	// Decide asks policy. line has what was done before, for the task of the action
	// and then for those above it.
	Decide(a action.Action, stage action.Stage, line []Done) (action.Decision, error)
}

// Unknown is why an action cannot be decided again. It may be shown.
type Unknown string

func (u Unknown) Error() string { return string(u) }

// Log is a tenant's log, as far as it is read.
type Log interface {
	Tenant() string
	TaskEntries(ctx context.Context, task string, f func(record.Entry) error) error
}

// Filter selects decisions. The zero value is the newest DefaultLimit.
type Filter struct {
	Agent string    `json:"agent,omitempty"`
	Task  string    `json:"task,omitempty"`
	Since time.Time `json:"since,omitzero"`
	Limit int       `json:"limit,omitempty"`
}

func (f Filter) wants(e record.Entry) bool {
	return (f.Agent == "" || e.Agent == f.Agent) && (f.Task == "" || e.Task == f.Task) && !e.Time.Before(f.Since)
}

// may reports whether records of the task can be wanted.
func (f Filter) may(t Task) bool {
	return (f.Agent == "" || t.Agent == f.Agent) && (f.Task == "" || t.ID == f.Task) && (t.Ended.IsZero() || !t.Ended.Before(f.Since))
}

// Run decides again what the filter selects, the tasks that were opened last first.
// When ctx's time is over, the report says how far it came.
func Run(ctx context.Context, log Log, tasks []Task, rules Rules, f Filter) (Report, error) {
	if f.Limit == 0 {
		f.Limit = DefaultLimit
	}
	r := &run{ctx: ctx, log: log, rules: rules, f: f, groups: map[string]*Group{}, skipped: map[string]*Skipped{}}
	for _, tree := range trees(tasks, f) {
		err := r.tree(tree)
		if err == errLimit || ctx.Err() == context.DeadlineExceeded {
			r.cut = "time"
			if err == errLimit {
				r.cut = "limit"
			}
			break
		}
		if err != nil {
			return Report{}, err
		}
	}
	return r.report(), nil
}

var errLimit = errors.New("enough")

// trees are the tasks that count together, those opened last first: what a part
// does counts for the tasks above it.
func trees(tasks []Task, f Filter) (out [][]Task) {
	byTop := map[string][]Task{}
	for _, t := range tasks {
		byTop[t.top()] = append(byTop[t.top()], t)
	}
	for _, tree := range byTop {
		if slices.ContainsFunc(tree, f.may) {
			slices.SortFunc(tree, func(a, b Task) int { return newer(b, a) })
			out = append(out, tree)
		}
	}
	slices.SortFunc(out, func(a, b []Task) int { return newer(a[0], b[0]) })
	return out
}

func newer(a, b Task) int {
	if c := b.Opened.Compare(a.Opened); c != 0 {
		return c
	}
	return strings.Compare(b.ID, a.ID)
}

type run struct {
	ctx     context.Context
	log     Log
	rules   Rules
	f       Filter
	seen    int
	same    int
	cut     string
	groups  map[string]*Group
	skipped map[string]*Skipped
}

// tree replays the tasks that count together, in the order of the record.
func (r *run) tree(tasks []Task) error {
	var all []record.Entry
	done := map[string]*Done{}
	for _, t := range tasks {
		done[t.ID] = &Done{Task: t.ID, Counts: map[string]int64{}}
		err := r.log.TaskEntries(r.ctx, t.ID, func(e record.Entry) error {
			if e.Type == "action.decided" {
				e.Raw = nil // the body is enough
				all = append(all, e)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	slices.SortFunc(all, func(a, b record.Entry) int { return int(a.Seq - b.Seq) })
	chains := map[string][]string{}
	for _, t := range tasks {
		chains[t.ID] = append([]string{t.ID}, t.Chain...)
	}
	for _, e := range all {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		wanted := r.f.wants(e)
		if wanted {
			if r.seen == r.f.Limit {
				return errLimit
			}
			r.seen++
		}
		if err := r.entry(e, chains[e.Task], done, wanted); err != nil {
			return err
		}
	}
	return nil
}

// entry decides one record again, if it is wanted, and counts what it let through.
func (r *run) entry(e record.Entry, line []string, done map[string]*Done, wanted bool) error {
	d, err := read(e, r.log.Tenant(), line)
	if err == nil {
		err = r.again(e, d, line, done, wanted)
	}
	var u Unknown
	if errors.As(err, &u) {
		if wanted {
			r.skip(e, u)
		}
		return nil
	}
	return err
}

func (r *run) again(e record.Entry, d decided, line []string, done map[string]*Done, wanted bool) error {
	was, asked := d.asked()
	if asked != nil { // nothing passed, and policy had no part in it
		return asked
	}
	now, err := r.rules.Name(r.ctx, d.Action, d.Stage)
	if err != nil {
		if d.counted() { // it counts, by the name that it had
			count(d.Action, line, done)
		}
		return err
	}
	if wanted {
		var before []Done
		for _, t := range line {
			before = append(before, *done[t])
		}
		var will action.Decision
		if will, err = r.rules.Decide(now, d.Stage, before); err == nil {
			r.compare(e, side(d.Action, was), side(now, will))
		}
	}
	if d.counted() {
		count(now, line, done)
	}
	return err
}

// count is what the gate counts of an action that passes.
func count(a action.Action, line []string, done map[string]*Done) {
	for _, t := range line {
		x := done[t]
		x.Counts[a.Operation]++
		for _, l := range a.Labels {
			if i, ok := slices.BinarySearch(x.Labels, l); !ok {
				x.Labels = slices.Insert(x.Labels, i, l)
			}
		}
	}
}
