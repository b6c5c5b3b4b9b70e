package approval

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Limits of questions by actions. People who are asked without end stop reading:
// what goes beyond is refused, so that the action is denied without a question.
const (
	MaxOpenPerTask   = 16  // held actions of one task at one time
	MaxOpenPerPerson = 64  // of all tasks that one person requested
	MaxAskedPerTask  = 100 // in the life of a task
	MaxAskedPerHour  = 120 // of the people with one role, by all tasks but certification runs
	// MaxRejected is how often people say no to an operation in a task, whatever
	// its parameters, before they are not asked about it any more.
	MaxRejected = 3
)

// kindAsked is the object kind of how often a task has asked: id is the task.
// kindAskedOf is the kind of when the people with a role were asked: id is the role.
const (
	kindAsked   = "approval-asked"
	kindAskedOf = "approval-asked-of"
)

type asked struct {
	Count int `json:"count"`
	// Rejected is what people said no to; Refused how often, by operation.
	Rejected []action.Digest `json:"rejected,omitempty"`
	Refused  map[string]int  `json:"refused,omitempty"`
}

type askedOf struct {
	At []time.Time `json:"at"` // of the last hour, oldest first
}

// remember keeps a rejection for the life of its task, in the transaction of it:
// the same question is not asked again until somebody is tired enough to say yes.
func remember(tx record.Tx, a Approval) error {
	if !a.Hold || a.Statement.Task == "" {
		return nil
	}
	n, err := askedBy(tx, a.Statement.Task)
	if err != nil {
		return err
	}
	what, err := whatIs(a.Statement)
	if err != nil || slices.Contains(n.Rejected, what) {
		return err
	}
	n.Rejected = append(n.Rejected, what)
	if n.Refused == nil {
		n.Refused = map[string]int{}
	}
	n.Refused[a.Statement.Operation]++
	return tx.Put(kindAsked, a.Statement.Task, n)
}

// whatIs is the same for the same operation with the same parameters, however it
// came about and was spelled.
func whatIs(s Statement) (action.Digest, error) {
	return canon.DigestOf(struct {
		Operation string            `json:"operation"`
		Params    map[string]string `json:"params"`
	}{s.Operation, s.Params})
}

func askedBy(tx record.Tx, task string) (n asked, err error) {
	if err = tx.Get(kindAsked, task, &n); errors.Is(err, record.ErrNotFound) {
		err = nil
	}
	return n, err
}

// drip counts one more question by a held action, in the transaction that opens
// it, or refuses it. Planned ones are not counted against the hour.
func drip(tx record.Tx, a Approval, planned bool) error {
	if !a.Hold || a.Statement.Task == "" {
		return nil
	}
	ofTask, ofPerson := 0, 0
	for _, state := range []State{Pending, Granted} {
		open, err := list(tx, state)
		if err != nil {
			return err
		}
		for _, o := range open {
			if !o.Hold {
				continue
			}
			if o.Statement.Task == a.Statement.Task {
				ofTask++
			}
			if a.Requester != "" && o.Requester == a.Requester {
				ofPerson++
			}
		}
	}
	n, err := askedBy(tx, a.Statement.Task)
	if err != nil {
		return err
	}
	what, err := whatIs(a.Statement)
	if err != nil {
		return err
	}
	of, err := askedLately(tx, a)
	if err != nil {
		return err
	}
	switch {
	case slices.Contains(n.Rejected, what):
		return refuse("rejected_before", "people rejected this in this task already")
	case n.Refused[a.Statement.Operation] >= MaxRejected:
		return refuse("rejected_before", fmt.Sprintf("people rejected this operation %d times in this task", MaxRejected))
	case ofTask >= MaxOpenPerTask:
		return refuse("too_many_open", fmt.Sprintf("%d questions of this task wait for people", ofTask))
	case ofPerson >= MaxOpenPerPerson:
		return refuse("too_many_open", fmt.Sprintf("%d questions of tasks of %s wait for people", ofPerson, a.Requester))
	case n.Count >= MaxAskedPerTask:
		return refuse("too_many_asked", fmt.Sprintf("this task has asked people %d times", n.Count))
	case len(of.At) >= MaxAskedPerHour && !planned:
		return refuse("too_many_asked", fmt.Sprintf("people with the role %s were asked %d times within an hour", a.Statement.Role, len(of.At)))
	}
	n.Count++
	if !planned {
		of.At = append(of.At, a.Requested)
		if err := tx.Put(kindAskedOf, a.Statement.Role, of); err != nil {
			return err
		}
	}
	return tx.Put(kindAsked, a.Statement.Task, n)
}

// askedLately is when the people who would be asked were asked within the hour
// before.
func askedLately(tx record.Tx, a Approval) (of askedOf, err error) {
	if err = tx.Get(kindAskedOf, a.Statement.Role, &of); errors.Is(err, record.ErrNotFound) {
		err = nil
	}
	of.At = slices.DeleteFunc(of.At, func(t time.Time) bool { return a.Requested.Sub(t) >= time.Hour })
	return of, err
}

// alike returns the open questions that are the same as s.
func alike(tx record.Tx, s Statement, now time.Time) (out []Approval, err error) {
	like, err := likeness(s)
	if err != nil || s.Task == "" {
		return nil, err
	}
	for _, state := range []State{Granted, Pending} {
		open, err := list(tx, state)
		if err != nil {
			return nil, err
		}
		for _, a := range open {
			if !a.Hold || inTime(a.Statement, now) != nil {
				continue
			}
			its, err := likeness(a.Statement)
			if err != nil {
				return nil, err
			}
			if its == like {
				out = append(out, a)
			}
		}
	}
	return out, nil
}

// likeness is equal for statements that ask for the same thing under the same
// conditions: they differ in nonce and time, in the name of the attempt, and in
// the picture, since whoever waits may look once more.
func likeness(s Statement) (action.Digest, error) {
	s.V, s.Nonce, s.Subject, s.Screenshot, s.NotBefore, s.Expires = 0, "", "", "", time.Time{}, time.Time{}
	return canon.DigestOf(s)
}

// supersede withdraws what the same task asked before about the same operation
// and parameters with other content, if nobody waits for the answer any more: the
// new question is in its place. A crash before it leaves both open; the task ends
// with it, and its questions with the task.
func (e *Engine) supersede(ctx context.Context, by Approval) (err error) {
	defer func() {
		if err != nil { // the new question stands, and nobody waits for it
			e.Abandon(by.ID())
			err = fmt.Errorf("withdraw what was asked before: %w", err)
		}
	}()
	what, err := whatIs(by.Statement)
	if err != nil || !by.Hold || by.Statement.Task == "" {
		return err
	}
	like, err := likeness(by.Statement)
	if err != nil {
		return err
	}
	return e.sweep(ctx, Rejected, "superseded by "+by.ID(), func(a Approval) bool {
		if a.State != Pending || !a.Hold || a.ID() == by.ID() || a.Statement.Task != by.Statement.Task || e.waitedFor(a.ID()) {
			return false
		}
		its, err := whatIs(a.Statement)
		if err != nil || its != what {
			return false
		}
		alike, err := likeness(a.Statement) // whoever asked that may come back for it
		return err == nil && alike != like
	})
}

func (e *Engine) waitedFor(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, waited := e.claimed[id]
	return waited
}

// claim notes that somebody here waits for the answer; false if somebody does.
// A task lives in one process, so that this need not be shared.
func (e *Engine) claim(a Approval) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, taken := e.claimed[a.ID()]; taken {
		return false
	}
	e.claimed[a.ID()] = a.Statement.Task
	return true
}

// Abandon says that whoever asked waits no more. The question stays open until
// it is answered, expires, or the task ends.
func (e *Engine) Abandon(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.claimed, id)
}
