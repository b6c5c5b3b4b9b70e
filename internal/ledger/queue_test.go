package ledger

import (
	"testing"
	"time"
)

// TestQueueIsFair: a tenant with thousands waiting does not keep out another.
func TestQueueIsFair(t *testing.T) {
	var q queue
	q.init()
	a, b := &Log{tenant: "a"}, &Log{tenant: "b"}
	for range 10 * maxBatch {
		q.put(&pending{log: a})
	}
	last := &pending{log: b}
	q.put(last)
	take := func() []*pending {
		t.Helper()
		batch := q.take()
		if len(batch) > 0 {
			if q.alone() {
				t.Error("a caller commits beside the committer")
			}
			q.done()
		}
		return batch
	}
	batch := take()
	if len(batch) != maxBatch || batch[1] != last {
		t.Errorf("got a batch of %d without the other tenant in its turn", len(batch))
	}
	for n := len(batch); n < 10*maxBatch+1; n += len(batch) {
		batch = take()
	}
	big := &pending{log: a, size: maxBatchBytes}
	q.put(big)
	q.put(&pending{log: a})
	if batch := take(); len(batch) != 1 {
		t.Errorf("got %d drafts over the limit of bytes", len(batch))
	}
	q.close()
	if batch := take(); len(batch) != 1 {
		t.Errorf("closed with one waiting: got %d", len(batch))
	}
	if batch := take(); batch != nil {
		t.Errorf("closed and empty: got %d", len(batch))
	}
	if err := q.put(big); err == nil {
		t.Error("put after close: got no error")
	}
	if q.alone() {
		t.Error("a caller commits after close")
	}
}

// TestAloneExcludesTheCommitter: while a caller commits its own draft, others
// wait, nobody else is alone, and the committer ends only after it.
func TestAloneExcludesTheCommitter(t *testing.T) {
	var q queue
	q.init()
	if !q.alone() {
		t.Fatal("an idle queue: got not alone")
	}
	if q.alone() {
		t.Error("two callers are alone")
	}
	p := &pending{log: &Log{tenant: "a"}}
	q.put(p)
	q.close()
	got := make(chan []*pending)
	go func() { got <- q.take() }()
	select {
	case batch := <-got:
		t.Fatalf("took %d drafts while somebody commits", len(batch))
	case <-time.After(20 * time.Millisecond):
	}
	q.done()
	if batch := <-got; len(batch) != 1 || batch[0] != p {
		t.Errorf("got %d drafts, want the one that waits", len(batch))
	}
	go func() { got <- q.take() }()
	select {
	case batch := <-got:
		t.Fatalf("the committer ended with %d drafts while somebody commits", len(batch))
	case <-time.After(20 * time.Millisecond):
	}
	q.done()
	if batch := <-got; batch != nil {
		t.Errorf("closed and empty: got %d", len(batch))
	}
}

// TestWhoCameMeanwhileJoins: a caller that was alone commits for those that came
// before it began.
func TestWhoCameMeanwhileJoins(t *testing.T) {
	var q queue
	q.init()
	first, second := &pending{log: &Log{tenant: "a"}}, &pending{log: &Log{tenant: "b"}}
	if !q.alone() {
		t.Fatal("an idle queue: got not alone")
	}
	q.put(second)
	if batch := q.join(first); len(batch) != 2 || batch[0] != first || batch[1] != second {
		t.Errorf("got a batch of %d, want the caller's draft and the one that came", len(batch))
	}
	if q.alone() {
		t.Error("a second caller commits beside the first")
	}
	q.done()
	if !q.alone() {
		t.Error("nobody is alone once it is over")
	}
}
