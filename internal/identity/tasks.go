package identity

import (
	"sync"
	"time"
)

// Rate of issues per task: a workload asks for an X.509-SVID every half life
// and for a token per audience; a loop must not fill the ledger.
const (
	issueBurst     = 30
	issuePerSecond = 5
)

// forgetAfter is how long a revocation is remembered here. By then every
// attempt that began before it has ended, and Authority alone answers.
const forgetAfter = time.Hour

// tasks knows what is revoked, ends streams, and bounds the rate of issues.
type tasks struct {
	now func() time.Time

	mu     sync.Mutex
	state  map[string]*taskState
	closed bool
}

type taskState struct {
	ended   chan struct{} // closed by revoke
	revoked time.Time     // zero while not revoked
	budget  float64
	refill  time.Time
}

func newTasks(now func() time.Time) *tasks {
	return &tasks{now: now, state: map[string]*taskState{}}
}

// get returns the task's state, making it. t.mu is held.
func (t *tasks) get(task string) *taskState {
	s := t.state[task]
	if s == nil {
		s = &taskState{ended: make(chan struct{}), budget: issueBurst, refill: t.now()}
		t.state[task] = s
		if t.closed {
			s.revoked = t.now()
			close(s.ended)
		}
	}
	return s
}

var errEnded = &Refusal{"task_ended", "the task has ended"}

// check reports whether the task is revoked.
func (t *tasks) check(task string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.get(task).revoked.IsZero() {
		return errEnded
	}
	return nil
}

// admit is check, and takes one issue out of the task's rate.
func (t *tasks) admit(task string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.get(task)
	if !s.revoked.IsZero() {
		return errEnded
	}
	now := t.now()
	if d := now.Sub(s.refill).Seconds(); d > 0 {
		s.budget = min(issueBurst, s.budget+d*issuePerSecond)
	}
	s.refill = now
	if s.budget < 1 {
		return refuse("too_many", "the task asks for identities too often")
	}
	s.budget--
	return nil
}

// ended is closed when the task is revoked.
func (t *tasks) ended(task string) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.get(task).ended
}

func (t *tasks) revoke(task string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for name, s := range t.state {
		if !s.revoked.IsZero() && now.Sub(s.revoked) > forgetAfter {
			delete(t.state, name)
		}
	}
	if s := t.get(task); s.revoked.IsZero() {
		s.revoked = now
		close(s.ended)
	}
}

func (t *tasks) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, s := range t.state {
		if s.revoked.IsZero() {
			s.revoked = t.now()
			close(s.ended)
		}
	}
}

// Revoke ends a task's identity: after it returns nothing is issued for the
// task, and its streams end; a stream whose caller does not read ends when
// ServeWorkload's context does. What was issued before lives on until it expires,
// MaxTTL at most; that is why doors ask for the epoch and not for an SVID.
func (i *Issuer) Revoke(task string) { i.tasks.revoke(task) }
