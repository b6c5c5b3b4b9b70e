package ledger

import (
	"errors"
	"runtime"
	"sync"
)

// Limits of one batch. They bound the time of a transaction, and so the wait
// of whoever comes next.
const (
	maxBatch      = 512
	maxBatchBytes = 8 << 20
)

var errClosed = errors.New("ledger is closed")

// queue holds the drafts that wait. It is taken from fairly: one draft of each
// tenant in turn, so that a tenant with many waiting cannot keep out another.
type queue struct {
	mu      sync.Mutex
	ready   sync.Cond
	waiting map[string][]*pending // by tenant, in order of arrival
	turn    []string              // tenants with something waiting
	busy    bool                  // somebody commits: the committer, or an alone caller
	closed  bool
}

func (q *queue) init() {
	q.ready.L = &q.mu
	q.waiting = map[string][]*pending{}
}

func (q *queue) put(p *pending) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return errClosed
	}
	t := p.log.tenant
	if len(q.waiting[t]) == 0 {
		q.turn = append(q.turn, t)
	}
	q.waiting[t] = append(q.waiting[t], p)
	if !q.busy { // else whoever is done signals
		q.ready.Signal()
	}
	return nil
}

// alone reports whether nothing waits and nobody commits. Then the caller may
// commit its own draft, and those that join it, which saves it two changes of
// goroutine, and must call done.
func (q *queue) alone() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.busy || q.closed || len(q.turn) > 0 {
		return false
	}
	q.busy = true
	return true
}

// join is the batch of a caller that was alone: its draft, and what came since.
func (q *queue) join(p *pending) []*pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.fill([]*pending{p}, p.size)
}

// done ends the time of whoever commits.
func (q *queue) done() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy = false
	if len(q.turn) > 0 || q.closed {
		q.ready.Signal()
	}
}

// take waits for drafts and for its turn to commit them, and returns a batch of
// at least one, or none once the queue is closed and empty and nobody commits.
// Whoever got a batch calls done.
func (q *queue) take() []*pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.busy || len(q.turn) == 0 && !q.closed {
		q.ready.Wait()
	}
	if len(q.turn) == 0 {
		return nil
	}
	q.busy = true
	q.mu.Unlock()
	gather()
	q.mu.Lock()
	return q.fill(nil, 0)
}

// gather lets whoever could run do so before a batch is closed, since it may be
// about to bring a draft: a larger batch costs less for each. No clock is waited
// for, and with nobody else to run it costs nothing.
func gather() { runtime.Gosched() }

// fill adds what waits to a batch of so many bytes, up to the limits.
func (q *queue) fill(batch []*pending, size int) []*pending {
	for len(q.turn) > 0 && len(batch) < maxBatch && size < maxBatchBytes {
		t := q.turn[0]
		q.turn = q.turn[1:]
		p := q.waiting[t][0]
		if rest := q.waiting[t][1:]; len(rest) > 0 {
			q.waiting[t] = rest
			q.turn = append(q.turn, t)
		} else {
			delete(q.waiting, t)
		}
		batch = append(batch, p)
		size += p.size
	}
	return batch
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.ready.Broadcast()
}
