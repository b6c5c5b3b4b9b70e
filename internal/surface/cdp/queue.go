package cdp

import "sync"

// queue is first in, first out, with a bound on the weight of what it holds.
type queue[T any] struct {
	mu     sync.Mutex
	ready  *sync.Cond
	items  []item[T]
	weight int
	limit  int
	closed bool
	last   bool // nothing more is put in
}

type item[T any] struct {
	v      T
	weight int
}

func newQueue[T any](limit int) *queue[T] {
	q := &queue[T]{limit: limit}
	q.ready = sync.NewCond(&q.mu)
	return q
}

// put reports false if the queue is full. What is put into a closed queue is lost.
func (q *queue[T]) put(v T, weight int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return true
	}
	if q.weight+weight > q.limit {
		return false
	}
	q.items = append(q.items, item[T]{v, weight})
	q.weight += weight
	q.ready.Signal()
	return true
}

func (q *queue[T]) take() (v T, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.items) == 0 && !q.closed && !q.last {
		q.ready.Wait()
	}
	if len(q.items) == 0 || q.closed {
		return v, false
	}
	i := q.items[0]
	q.items[0] = item[T]{}
	q.items = q.items[1:]
	q.weight -= i.weight
	return i.v, true
}

// finish lets what is in the queue go out, and then ends it.
func (q *queue[T]) finish() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.last = true
	q.ready.Broadcast()
}

func (q *queue[T]) shut() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.ready.Broadcast()
}
