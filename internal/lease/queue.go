package lease

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// attemptLimit bounds one attempt to revoke and confirm; batchLimit one of many.
const (
	attemptLimit = 20 * time.Second
	batchLimit   = time.Minute
	maxBatch     = 128
	maxWorkers   = 4 // of one upstream that ends them one by one
)

// queue holds the revocations of one upstream, in order. A Batch is given all
// that wait, one batch at a time; what ends one by one has a few workers. So many
// ends at once become few steps upstream, and an upstream that hangs holds up
// nothing but its own.
type queue struct {
	mu      sync.Mutex
	waiting []*job
	workers int
}

// The two steps of an end, for why it failed.
var errRevoke, errConfirm = errors.New("revoke"), errors.New("confirm")

// comesLate is why a lease is looked for again although nothing carries its label.
type comesLate struct{ until time.Time }

func (c *comesLate) Error() string {
	return "its answer was lost, and it may come until " + c.until.Format(time.RFC3339) + "; then it is looked for again"
}

type job struct {
	ctx  context.Context
	l    Lease
	cred Credential
	src  Source
	err  error
	done chan struct{}
}

// enqueue ends one lease upstream and confirms it.
func (k *Keeper) enqueue(ctx context.Context, l Lease) error {
	src, err := k.Find(ctx, l)
	if err != nil {
		return err
	}
	j := &job{ctx: ctx, l: l, src: src, cred: Credential{Label: l.Label, Lost: l.Lost}, done: make(chan struct{})}
	if l.Sealed != nil {
		if j.cred.Secret, err = k.Seal.Open(kind+"/"+l.ID, l.Sealed); err != nil {
			return err
		}
		defer clear(j.cred.Secret)
	} else if !l.Static {
		j.cred.Asked = l.Asked
	}
	k.mu.Lock()
	q := k.queues[l.upstream()]
	if q == nil {
		q = &queue{}
		k.queues[l.upstream()] = q
	}
	k.mu.Unlock()
	q.add(j)
	select {
	case <-j.done:
		return j.err
	case <-ctx.Done():
	}
	if q.take(j) {
		return fmt.Errorf("it waits for others at its upstream: %w", ctx.Err())
	}
	<-j.done // it is being worked on, within a limit
	return j.err
}

func (q *queue) add(j *job) {
	limit := maxWorkers
	if _, ok := j.src.(Batch); ok {
		limit = 1
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, j)
	if q.workers < limit {
		q.workers++
		go q.work()
	}
}

// take takes a job back, if nobody works on it yet.
func (q *queue) take(j *job) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, j)
	if i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	return i >= 0
}

func (q *queue) work() {
	for {
		q.mu.Lock()
		if len(q.waiting) == 0 {
			q.workers--
			q.mu.Unlock()
			return
		}
		n := 1
		b, ok := q.waiting[0].src.(Batch)
		if ok {
			n = min(len(q.waiting), maxBatch)
		}
		jobs := slices.Clone(q.waiting[:n])
		q.waiting = slices.Delete(q.waiting, 0, n)
		q.mu.Unlock()
		if n > 1 {
			endBatch(b, jobs)
		} else {
			jobs[0].err = endOne(jobs[0])
		}
		for _, j := range jobs {
			close(j.done)
		}
	}
}

func endOne(j *job) error {
	ctx, cancel := context.WithTimeout(j.ctx, patience(j.src, attemptLimit))
	defer cancel()
	if err := j.src.Revoke(ctx, j.cred); err != nil {
		return fmt.Errorf("%w: %w", errRevoke, err)
	}
	if err := j.src.Confirm(ctx, j.cred); err != nil {
		return fmt.Errorf("%w: %w", errConfirm, err)
	}
	if j.l.Attempts > 0 && j.cred.Secret != nil {
		// An attempt that failed may have left something of its own behind,
		// under the label.
		if err := j.src.Confirm(ctx, Credential{Label: j.cred.Label}); err != nil {
			return fmt.Errorf("%w: %w", errConfirm, err)
		}
	}
	if s, ok := j.src.(Slow); ok && j.cred.Secret == nil {
		if until := j.cred.Asked.Add(s.Late()); time.Now().Before(until) {
			return &comesLate{until}
		}
	}
	return nil
}

// endBatch is endOne for many. The caller of one does not cut the others short.
func endBatch(b Batch, jobs []*job) {
	ctx, cancel := context.WithTimeout(context.Background(), batchLimit)
	defer cancel()
	cs := make([]Credential, len(jobs))
	for i, j := range jobs {
		cs[i] = j.cred
	}
	step := func(what error, errs []error) {
		for i, j := range jobs {
			err := errors.New("the source gave no answer")
			if i < len(errs) {
				err = errs[i]
			}
			if j.err == nil && err != nil {
				j.err = fmt.Errorf("%w: %w", what, err)
			}
		}
	}
	step(errRevoke, b.RevokeAll(ctx, cs))
	step(errConfirm, b.ConfirmAll(ctx, cs))
}
