package ledger

import "testing"

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
	batch := q.take()
	if len(batch) != maxBatch || batch[1] != last {
		t.Errorf("got a batch of %d without the other tenant in its turn", len(batch))
	}
	for n := len(batch); n < 10*maxBatch+1; n += len(batch) {
		batch = q.take()
	}
	big := &pending{log: a, size: maxBatchBytes}
	q.put(big)
	q.put(&pending{log: a})
	if batch := q.take(); len(batch) != 1 {
		t.Errorf("got %d drafts over the limit of bytes", len(batch))
	}
	q.close()
	if batch := q.take(); len(batch) != 1 {
		t.Errorf("closed with one waiting: got %d", len(batch))
	}
	if batch := q.take(); batch != nil {
		t.Errorf("closed and empty: got %d", len(batch))
	}
	if err := q.put(big); err == nil {
		t.Error("put after close: got no error")
	}
}
