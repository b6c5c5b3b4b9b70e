package ledger

import (
	"errors"
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
	q.ready.Signal()
	return nil
}

// take waits for drafts and returns a batch of at least one, or none once the
// queue is closed and empty. It never waits for more to come.
func (q *queue) take() []*pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.turn) == 0 && !q.closed {
		q.ready.Wait()
	}
	var batch []*pending
	size := 0
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
