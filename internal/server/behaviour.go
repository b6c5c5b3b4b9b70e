package server

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/internal/watch"
)

// How an agent behaves is counted when a production task ends by itself, as the last
// thing of its end: the task's own records are read once, and its numbers and the
// state of its capability are written in one transaction (behaviour.task, or
// behaviour.changed if it shows a change). So nothing is rebuilt after a restart, and
// no other task's records are read. With the first task under a certification the
// records of its benign trials of the capability are read as well.
//
// A crash before the record leaves the task closing, and it is counted when that goes
// on; a crash after it finds it counted. What a change leads to is done after it is
// on record, at the end of each later task, and at the start: what a crash in between
// left undone is done before anything is served.

// kindBehaviour holds a watch.State by agent/capability.
const kindBehaviour = "behaviour"

// byItself says of the code of a task's end that the agent's program came to an end, or had its time: nobody cut
// it, and the boundary did not fail it.
func byItself(code string) bool {
	return slices.Contains([]string{"done", "harness_failed", "task_time_spent"}, code)
}

// byAgents says that nobody but agents ended a task: its own, or one above it, which
// would else choose what is counted of its parts.
func (t *tenant) byAgents(ctx context.Context, x task.Task) bool {
	switch {
	case x.Code == "closed":
		return strings.HasPrefix(x.By, "agent:")
	case x.Code == "parent_ended":
		above, err := t.tasks.Get(ctx, x.Parent())
		return err == nil && t.byAgents(ctx, above)
	}
	return byItself(x.Code)
}

// behaved is the body of behaviour.task and behaviour.changed.
type behaved struct {
	V int `json:"v"`
	watch.Numbers
	Change *watch.Change `json:"change,omitempty"`
}

// endBehaviour counts a task that has ended.
func (t *tenant) endBehaviour(ctx context.Context, x task.Task) error {
	if x.Stage != action.Production || x.Canary != "" || !t.byAgents(ctx, x) {
		return nil
	}
	c, err := t.certs.Live(x.Agent, x.Stage)
	if err != nil || c.ID != x.Certification {
		return nil // nothing to hold it against
	}
	n, counted, err := t.numbers(ctx, x)
	if err != nil {
		return err
	}
	t.behaving.Lock()
	defer t.behaving.Unlock()
	s, err := t.behaviourOf(ctx, c, x.Capability)
	if err != nil {
		return err
	}
	if !counted {
		n.Novel = s.Novel(n.Kinds)
		draft := record.Draft{Type: "behaviour.task", Task: x.ID, Agent: x.Agent, Actor: "sallyport",
			Change: func(tx record.Tx) error { return tx.Put(kindBehaviour, x.Agent+"/"+x.Capability, s) }}
		change := s.Add(x.ID, n)
		if draft.Body = (behaved{1, n, change}); change != nil {
			draft.Type = "behaviour.changed"
		}
		if _, err := t.log.Append(ctx, draft); err != nil {
			return err
		}
	}
	if s.Changed != nil {
		t.changed(ctx, x.Agent, *s)
	}
	return nil
}

// changed does what the agent's declaration says of a change.
func (t *tenant) changed(ctx context.Context, name string, s watch.State) {
	t.srv.log.Warn("behaviour changed", "agent", name, "capability", s.Capability, "change", s.Changed.Text())
	a := t.current().agents[name]
	if a == nil || a.spec.Watch == nil {
		return
	}
	switch a.spec.Watch.OnChange {
	case resource.OnChangeLapse:
		t.lapseFor(ctx, name, s.Certification, certify.Lapse{Code: "behaviour_changed", Why: s.Capability + ": " + s.Changed.Text()})
	case resource.OnChangeHold:
		// As graded drift: a fact that no declaration has and nobody certified.
		if _, err := t.certs.Grade(ctx, name, action.Production, []boundary.Change{{Name: "behaviour." + s.Capability, Old: "as certified", New: s.Changed.Signal + " since task " + s.Changed.Since}}); err != nil {
			t.srv.log.Error("the change of behaviour could not be recorded; nothing passes", "agent", name, "err", err)
		}
	}
}

// settleBehaviour does what the changes on record under certifications in force lead to.
func (t *tenant) settleBehaviour(ctx context.Context) error {
	var all []watch.State
	err := t.log.View(ctx, func(tx record.Tx) error {
		all = nil
		return tx.List(kindBehaviour, func(_ string, raw []byte) error {
			var s watch.State
			err := json.Unmarshal(raw, &s)
			if s.Changed != nil {
				all = append(all, s)
			}
			return err
		})
	})
	for _, s := range all {
		if c, err := t.certs.Live(s.Agent, action.Production); err == nil && c.ID == s.Certification {
			t.changed(ctx, s.Agent, s)
		}
	}
	return err
}

// numbers reads what a task did, and whether it was counted already.
func (t *tenant) numbers(ctx context.Context, x task.Task) (n watch.Numbers, counted bool, err error) {
	n, err = watch.Collect(func(f func(record.Entry) error) error {
		return t.log.TaskEntries(ctx, x.ID, func(e record.Entry) error {
			counted = counted || e.Type == "behaviour.task" || e.Type == "behaviour.changed"
			return f(e)
		})
	})
	n.Agent, n.Capability, n.Certification, n.Failed = x.Agent, x.Capability, x.Certification, x.End == task.Failed
	return n, counted, err
}

// behaviourOf is what is known of a capability under a certification; at first what
// its trials showed.
func (t *tenant) behaviourOf(ctx context.Context, c certify.Certification, capability string) (*watch.State, error) {
	var s watch.State
	err := t.log.View(ctx, func(tx record.Tx) error { return tx.Get(kindBehaviour, c.Agent+"/"+capability, &s) })
	if err == nil && s.Certification == c.ID {
		return &s, nil
	}
	if err != nil && !errors.Is(err, record.ErrNotFound) {
		return nil, err
	}
	var trials []watch.Numbers
	for _, sc := range c.Scenarios() {
		for _, id := range sc.Tasks {
			x, err := t.tasks.Get(ctx, id)
			if err != nil {
				return nil, err
			}
			if sc.Kind != certify.Benign || x.Capability != capability {
				break // all tasks of a scenario are of one capability
			}
			n, _, err := t.numbers(ctx, x)
			if err != nil {
				return nil, err
			}
			trials = append(trials, n)
		}
	}
	return watch.New(c.Agent, capability, c.ID, trials), nil
}

// lapseFor ends a certification because of what its agent did, if it is still the one
// in force.
func (t *tenant) lapseFor(ctx context.Context, agent, certification string, l certify.Lapse) {
	if c, err := t.certs.Live(agent, action.Production); err != nil || c.ID != certification {
		return
	}
	t.lapse(context.WithoutCancel(ctx), agent, l)
}
