package approval

import (
	"errors"
	"fmt"
	"time"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Limits of questions by actions. People who are asked without end stop reading:
// what goes beyond is refused, so that the action is denied without a question.
const (
	MaxOpenPerTask   = 16  // held actions of one task at one time
	MaxOpenPerPerson = 64  // of all tasks that one person requested
	MaxAskedPerTask  = 100 // in the life of a task
)

// kindAsked is the object kind of how often a task has asked: id is the task.
const kindAsked = "approval-asked"

type asked struct {
	Count int `json:"count"`
}

// drip counts one more question by a held action, in the transaction that opens
// it, or refuses it.
func drip(tx record.Tx, a Approval) error {
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
	var n asked
	if err := tx.Get(kindAsked, a.Statement.Task, &n); err != nil && !errors.Is(err, record.ErrNotFound) {
		return err
	}
	switch {
	case ofTask >= MaxOpenPerTask:
		return refuse("too_many_open", fmt.Sprintf("%d questions of this task wait for people", ofTask))
	case ofPerson >= MaxOpenPerPerson:
		return refuse("too_many_open", fmt.Sprintf("%d questions of tasks of %s wait for people", ofPerson, a.Requester))
	case n.Count >= MaxAskedPerTask:
		return refuse("too_many_asked", fmt.Sprintf("this task has asked people %d times", n.Count))
	}
	n.Count++
	return tx.Put(kindAsked, a.Statement.Task, n)
}

// alike returns the open questions that are the same as s.
func alike(tx record.Tx, s Statement, now time.Time) (out []Approval, err error) {
	for _, state := range []State{Granted, Pending} {
		open, err := list(tx, state)
		if err != nil {
			return nil, err
		}
		for _, a := range open {
			if !a.Hold || inTime(a.Statement, now) != nil {
				continue
			}
			if ok, err := same(a.Statement, s); err != nil {
				return nil, err
			} else if ok {
				out = append(out, a)
			}
		}
	}
	return out, nil
}

// same reports whether two statements ask for the same thing under the same
// conditions: they differ in nonce and time, and in the name of the attempt.
func same(a, b Statement) (bool, error) {
	a.V, a.Nonce, a.Subject, a.NotBefore, a.Expires = b.V, b.Nonce, b.Subject, b.NotBefore, b.Expires
	da, err := canon.DigestOf(a)
	if err != nil {
		return false, err
	}
	db, err := canon.DigestOf(b)
	return a.Task != "" && da == db, err
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
