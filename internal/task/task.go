// Package task is the life of a bounded run:
//
//	proposed → active → closing → closed | revoked | failed
//	proposed → closed | revoked
//
// Every step is one record and one state change in one transaction. Closing
// first shuts the gate, then ends identity, session and leases; the task leaves
// closing only when all of them say that they are ended, and is tried again
// until they do.
//
// What a crash leaves behind: a proposed task stays proposed. An active one has
// lost its session, so Recover moves it to closing, to end as failed. A closing
// one goes on closing. No task acts again after a restart.
package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// State of a task.
type State string

// The states.
const (
	Proposed State = "proposed"
	Active   State = "active"
	Closing  State = "closing"
	Closed   State = "closed"
	Revoked  State = "revoked"
	Failed   State = "failed"
)

// Over reports whether nothing more happens to the task.
func (s State) Over() bool { return s == Closed || s == Revoked || s == Failed }

// Task is one bounded run of a capability: the declared intent.
type Task struct {
	ID         string            `json:"id"`
	Agent      string            `json:"agent"`
	Capability string            `json:"capability"`
	Params     map[string]string `json:"params"`
	Stage      action.Stage      `json:"stage"`
	Tier       string            `json:"tier"`
	Requester  string            `json:"requester"`
	// Digests bind the task to what was approved when it was opened.
	CapabilityDigest action.Digest `json:"capabilityDigest"`
	GrantDigest      action.Digest `json:"grantDigest"`
	BoundaryDigest   action.Digest `json:"boundaryDigest,omitempty"`
	// SPIFFEID is who the task is to others where SPIRE issues the tenant's SVIDs.
	SPIFFEID      string `json:"spiffeID,omitempty"`
	Certification string `json:"certification,omitempty"`
	// Chain are the tasks that this one is a part of, nearest first; none for most.
	Chain []string `json:"chain,omitempty"`
	// OpenedBy is the agent of the task above, if that opened it and not a person.
	OpenedBy string `json:"openedBy,omitempty"`
	// Suite names the certification run that the task belongs to, if any.
	Suite string `json:"suite,omitempty"`
	// Canary names the suite and scenario of which the task is a canary, if any: it
	// runs as in production, and reaches nothing but its routes.
	Canary string `json:"canary,omitempty"`
	// Routes are the addresses of a suite's fixture that this task reaches at
	// another one: the copy of the fixture that is its own while others run.
	Routes map[string]string `json:"routes,omitempty"`
	// Told are words of a trial or canary that its harness reads in what tools say of
	// themselves. No other task has any.
	Told    []Told    `json:"told,omitempty"`
	Seconds int64     `json:"seconds"` // how long it may be active
	State   State     `json:"state"`
	Opened  time.Time `json:"opened"`
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	End     State     `json:"end,omitempty"`  // what closing leads to
	Code    string    `json:"code,omitempty"` // why it ends: stable
	Why     string    `json:"why,omitempty"`  // why it ends: for people
	By      string    `json:"by,omitempty"`   // who ended it
}

// Told is a hostile item of a suite's fixture, as words in a tool's description.
type Told struct {
	Item string `json:"item"`
	Tool string `json:"tool"`
	Text string `json:"text"`
}

// Errors that a caller acts on.
var (
	// ErrUnknown: no such task in this tenant.
	ErrUnknown = errors.New("no such task")
	// ErrState: the task is in a state in which this step is not possible.
	ErrState = errors.New("not possible in the task's state")
)

// Ender ends one thing that a task holds. It is called again until it returns
// nil, also after a restart, when it knows nothing of the task.
type Ender struct {
	Name string
	End  func(ctx context.Context, t Task) error
}

// Kinds of state: tasks that are not over, and those that are. What has to look
// for running ones does not read every task that ever was.
const (
	kind     = "task"
	kindOver = "task.over"
)

// Engine keeps the tasks of one tenant.
type Engine struct {
	log    record.Log
	ids    func() string
	enders []Ender
	wake   chan struct{}

	// mu orders the steps of all tasks of the tenant; it is not held while
	// enders run.
	mu      sync.Mutex
	closing map[string]chan struct{} // tasks whose enders run now; closed when they have run
}

// New makes the engine of one tenant. enders are called in order; the first
// must shut the gate.
func New(log record.Log, ids func() string, enders ...Ender) *Engine {
	return &Engine{log: log, ids: ids, enders: enders, wake: make(chan struct{}, 1), closing: map[string]chan struct{}{}}
}

// Get returns one task.
func (e *Engine) Get(ctx context.Context, id string) (Task, error) {
	var t Task
	err := e.log.View(ctx, func(tx record.Tx) (err error) { t, err = get(tx, id); return err })
	if errors.Is(err, record.ErrNotFound) {
		err = fmt.Errorf("task %q: %w", id, ErrUnknown)
	}
	return t, err
}

func get(tx record.Tx, id string) (t Task, err error) {
	err = tx.Get(kind, id, &t)
	if errors.Is(err, record.ErrNotFound) {
		err = tx.Get(kindOver, id, &t)
	}
	return t, err
}

// Top is the task above all others that this one is a part of, or itself.
func (t Task) Top() string {
	if n := len(t.Chain); n > 0 {
		return t.Chain[n-1]
	}
	return t.ID
}

// Parent is the task that this one is a part of, or empty.
func (t Task) Parent() string {
	if len(t.Chain) == 0 {
		return ""
	}
	return t.Chain[0]
}

// EndParts is an Ender that ends all tasks that are parts of one. It comes after
// the gate, which has shut all of them at once. None is added meanwhile: Open
// with Live of the parent in its check comes before the record of closing, or fails.
func (e *Engine) EndParts(ctx context.Context, t Task) error {
	all, err := e.Unfinished(ctx)
	errs := []error{err}
	for _, x := range all {
		if x.Parent() == t.ID {
			_, err := e.Close(ctx, x.ID, Revoked, "parent_ended", "the task above it ended: "+t.Why, "sallyport")
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Live returns nil if the task is active in tx. What is recorded in the same
// transaction is so before the record of its end, or not at all.
func Live(tx record.Tx, id string) error {
	t, err := get(tx, id)
	if err != nil {
		return err
	}
	if t.State != Active {
		return fmt.Errorf("task %s is %s: %w", id, t.State, ErrState)
	}
	return nil
}

// Unfinished returns the tasks that are not over, by rising id.
func (e *Engine) Unfinished(ctx context.Context) ([]Task, error) {
	all, err := e.list(ctx, kind)
	// A version before kept those that are over under the same kind.
	return slices.DeleteFunc(all, func(t Task) bool { return t.State.Over() }), err
}

// List returns all tasks by rising id.
func (e *Engine) List(ctx context.Context) ([]Task, error) { return e.list(ctx, kind, kindOver) }

func (e *Engine) list(ctx context.Context, kinds ...string) ([]Task, error) {
	var out []Task
	err := e.log.View(ctx, func(tx record.Tx) error {
		out = nil
		for _, k := range kinds {
			if err := tx.List(k, func(_ string, raw []byte) error {
				var t Task
				err := json.Unmarshal(raw, &t)
				out = append(out, t)
				return err
			}); err != nil {
				return err
			}
		}
		return nil
	})
	slices.SortFunc(out, func(a, b Task) int { return strings.Compare(a.ID, b.ID) })
	return out, err
}

// Open proposes a task. The caller has checked that it may exist.
func (e *Engine) Open(ctx context.Context, t Task, check func(record.Tx) error) (Task, error) {
	t.ID, t.State, t.Opened = e.ids(), Proposed, time.Now().UTC()
	actor := "person:" + t.Requester
	if t.OpenedBy != "" {
		actor = "agent:" + t.OpenedBy
	}
	_, err := e.log.Append(ctx, record.Draft{Type: "task.opened", Task: t.ID, Agent: t.Agent, Actor: actor, Body: t,
		Change: func(tx record.Tx) error {
			if check != nil {
				if err := check(tx); err != nil {
					return err
				}
			}
			return tx.Put(kind, t.ID, t)
		}})
	return t, err
}

// Start makes a proposed task active. The caller admits it to the gate after
// Start returned.
func (e *Engine) Start(ctx context.Context, id string) (Task, error) {
	return e.step(ctx, id, "task.active", "sallyport", func(t *Task) error {
		if t.State != Proposed {
			return fmt.Errorf("task %s is %s: %w: only a proposed task can start", id, t.State, ErrState)
		}
		t.State, t.Started = Active, time.Now().UTC()
		return nil
	})
}

// Close ends a task. It returns when everything that the task held is confirmed
// ended, or with the reason why something is not yet; then Run goes on. Closing
// a task that is over changes nothing.
func (e *Engine) Close(ctx context.Context, id string, end State, code, why, by string) (Task, error) {
	t, err := e.step(ctx, id, "task.closing", by, func(t *Task) error {
		if t.State.Over() || t.State == Closing {
			return errNothing
		}
		t.State, t.End, t.Code, t.Why, t.By = Closing, end, code, clipped(why), by
		return nil
	})
	if err != nil && !errors.Is(err, errNothing) {
		if errors.Is(err, ErrUnknown) {
			return t, err
		}
		// The step could not be read or recorded: still shut everything that can
		// be shut, so that a broken ledger never keeps authority alive.
		t.ID, t.Code, t.Why = id, code, why
		return t, errors.Join(err, e.runEnders(context.WithoutCancel(ctx), t))
	}
	t, err = e.finish(ctx, id)
	if err != nil {
		e.nudge()
	}
	return t, err
}

// clipped is a reason that has room in a record, whoever wrote it.
func clipped(why string) string {
	const most = 8 << 10
	if len(why) > most {
		why = strings.ToValidUTF8(why[:most], "") + " ..."
	}
	return why
}

var errNothing = errors.New("nothing to do")

// Wait returns the task when it is over, or as it is when ctx ends, with ctx's
// error.
func (e *Engine) Wait(ctx context.Context, id string) (Task, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		t, err := e.Get(context.WithoutCancel(ctx), id)
		if err != nil || t.State.Over() {
			return t, err
		}
		select {
		case <-ctx.Done():
			return t, fmt.Errorf("task %s is still %s: %w", id, t.State, ctx.Err())
		case <-tick.C:
		}
	}
}

func (e *Engine) finish(ctx context.Context, id string) (Task, error) {
	// One at a time: a second closer waits for the first, and then sees for
	// itself what is left.
	for {
		e.mu.Lock()
		busy := e.closing[id]
		if busy == nil {
			e.closing[id] = make(chan struct{})
			e.mu.Unlock()
			break
		}
		e.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return Task{}, fmt.Errorf("task %s is still closing: %w", id, ctx.Err())
		}
	}
	defer func() {
		e.mu.Lock()
		close(e.closing[id])
		delete(e.closing, id)
		e.mu.Unlock()
	}()
	t, err := e.Get(ctx, id)
	if err != nil || t.State.Over() {
		return t, err
	}
	if err := e.runEnders(ctx, t); err != nil {
		return t, fmt.Errorf("task %s is still closing: %w", id, err)
	}
	return e.step(ctx, id, "task."+string(t.End), t.By, func(t *Task) error {
		t.State, t.Ended = t.End, time.Now().UTC()
		return nil
	})
}

func (e *Engine) runEnders(ctx context.Context, t Task) error {
	var errs []error
	for _, x := range e.enders {
		if err := x.End(ctx, t); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", x.Name, err))
		}
	}
	return errors.Join(errs...)
}

// step changes one task and writes the record of it in one transaction.
func (e *Engine) step(ctx context.Context, id, typ, actor string, f func(*Task) error) (Task, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t, err := e.Get(ctx, id)
	if err != nil {
		return t, err
	}
	before := t
	if err := f(&t); err != nil {
		return before, err
	}
	_, err = e.log.Append(ctx, record.Draft{Type: typ, Task: t.ID, Agent: t.Agent, Actor: actor, Body: t,
		Change: func(tx record.Tx) error {
			// Another node may have moved it since it was read.
			now, err := get(tx, id)
			if err != nil {
				return err
			}
			if now.State != before.State {
				return fmt.Errorf("task %s became %s: %w", id, now.State, ErrState)
			}
			if t.State.Over() {
				return errors.Join(tx.Delete(kind, id), tx.Put(kindOver, id, t))
			}
			return tx.Put(kind, id, t)
		}})
	if err != nil {
		return before, err
	}
	return t, nil
}

// Recover moves what an earlier process left behind towards its end. It returns
// when each was tried once.
func (e *Engine) Recover(ctx context.Context) error {
	all, err := e.Unfinished(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, t := range all {
		switch t.State {
		case Active:
			_, err = e.Close(ctx, t.ID, Failed, "restarted", "the boundary restarted while the task ran", "sallyport")
		case Closing:
			_, err = e.finish(ctx, t.ID)
		default:
			continue
		}
		if err != nil {
			e.nudge()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (e *Engine) nudge() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Run finishes closing tasks whose enders were not done, first after a second,
// then less often, until ctx is done.
func (e *Engine) Run(ctx context.Context) {
	const first, last = time.Second, time.Minute
	wait := last
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.wake:
			wait = first
			continue
		case <-time.After(wait):
		}
		wait = min(2*wait, last)
		all, err := e.Unfinished(ctx)
		if err != nil {
			continue
		}
		for _, t := range all {
			if t.State == Closing {
				_, _ = e.finish(ctx, t.ID) // said in the lease's own records
			}
		}
	}
}
