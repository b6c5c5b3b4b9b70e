package ledger_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
	"github.com/sallyport-dev/sallyport/internal/record"
)

type counter struct {
	N int64 `json:"n"`
}

func bump(id string) func(record.Tx) error {
	return func(tx record.Tx) error {
		var c counter
		if err := tx.Get("counter", id, &c); err != nil && !errors.Is(err, record.ErrNotFound) {
			return err
		}
		c.N++
		return tx.Put("counter", id, c)
	}
}

func TestAppendKeepsRecordAndState(t *testing.T) { both(t, appendKeepsRecordAndState) }

func appendKeepsRecordAndState(t *testing.T, _ *ledger.Ledger, log *ledger.Log) {
	e, err := log.Append(t.Context(), record.Draft{Type: "test.made", Task: "t1", Actor: "person:jo",
		Body: map[string]any{"b": 1, "a": "x"}, Change: bump("a"),
		Blobs: []record.Blob{{Name: "screenshot", Type: "image/png", Data: []byte("pixels")}}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(e.Body), `{"a":"x","b":1}`; e.Seq != 0 || got != want {
		t.Errorf("got seq %d body %s, want 0 %s", e.Seq, got, want)
	}
	data, err := log.Payload(t.Context(), e.Evidence[0])
	if err != nil || string(data) != "pixels" {
		t.Errorf("payload: got %q, %v", data, err)
	}
	var c counter
	if err := log.View(t.Context(), func(tx record.Tx) error { return tx.Get("counter", "a", &c) }); err != nil || c.N != 1 {
		t.Errorf("state: got %d, %v; want 1", c.N, err)
	}
	ledgertest.Check(t, log)
}

func TestChangeErrorLeavesNothing(t *testing.T) { both(t, changeErrorLeavesNothing) }

func changeErrorLeavesNothing(t *testing.T, _ *ledger.Ledger, log *ledger.Log) {
	boom := errors.New("boom")
	_, err := log.Append(t.Context(), record.Draft{Type: "test.bad", Change: func(tx record.Tx) error {
		if err := tx.Put("counter", "a", counter{7}); err != nil {
			return err
		}
		return boom
	}})
	if !errors.Is(err, boom) {
		t.Errorf("got %v, want %v", err, boom)
	}
	_, err = log.Append(t.Context(), record.Draft{Type: "test.panic", Change: func(tx record.Tx) error { panic("x") }})
	if err == nil {
		t.Error("panic in a change: got no error")
	}
	if e, err := log.Append(t.Context(), record.Draft{Type: "test.good"}); err != nil || e.Seq != 0 {
		t.Errorf("got seq %d, %v; want 0", e.Seq, err)
	}
	err = log.View(t.Context(), func(tx record.Tx) error { return tx.Get("counter", "a", new(counter)) })
	if !errors.Is(err, record.ErrNotFound) {
		t.Errorf("got %v, want %v", err, record.ErrNotFound)
	}
}

func TestConcurrentAppendsKeepOrderAndSums(t *testing.T) { both(t, concurrentAppendsKeepOrderAndSums) }

func concurrentAppendsKeepOrderAndSums(t *testing.T, _ *ledger.Ledger, log *ledger.Log) {
	const writers, each = 64, 10
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			last := int64(-1)
			for i := range each {
				d := record.Draft{Type: "test.sum", Task: fmt.Sprint(w), Body: map[string]int{"i": i}, Change: bump("sum")}
				if i == each/2 {
					bad := errors.New("refused")
					d.Change = func(tx record.Tx) error { bump("sum")(tx); return bad }
					if _, err := log.Append(t.Context(), d); !errors.Is(err, bad) {
						t.Errorf("got %v, want %v", err, bad)
					}
					continue
				}
				e, err := log.Append(t.Context(), d)
				if err != nil || e.Seq <= last {
					t.Errorf("got seq %d after %d, %v", e.Seq, last, err)
				}
				last = e.Seq
			}
		})
	}
	wg.Wait()
	const want = writers * (each - 1)
	n := int64(0)
	err := log.Entries(t.Context(), 0, func(e record.Entry) error {
		if e.Seq != n {
			t.Errorf("got seq %d, want %d", e.Seq, n)
		}
		n++
		return nil
	})
	var c counter
	if err := log.View(t.Context(), func(tx record.Tx) error { return tx.Get("counter", "sum", &c) }); err != nil {
		t.Fatal(err)
	}
	if err != nil || n != want || c.N != want {
		t.Errorf("got %d records, sum %d, %v; want %d", n, c.N, err, want)
	}
	ledgertest.Check(t, log)
}

// TestKeysOfManyTasksAreForgotten: what a log keeps in memory does not grow with
// its tasks, and the payload of a forgotten key is read all the same.
func TestKeysOfManyTasksAreForgotten(t *testing.T) {
	l, _ := ledgertest.NewLedger(t)
	log, err := l.Create(t.Context(), "acme", "acme.example/log")
	if err != nil {
		t.Fatal(err)
	}
	var first record.Entry
	_, limit := log.DataKeys()
	for i := range limit + 2 {
		e, err := log.Append(t.Context(), record.Draft{Type: "test.made", Task: fmt.Sprint("t", i), Blobs: []record.Blob{{Name: "b", Type: "text/plain", Data: []byte("of the first")}}})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = e
		}
		if n, _ := log.DataKeys(); n > limit {
			t.Fatalf("%d keys after %d tasks, limit %d", n, i+1, limit)
		}
	}
	if data, err := log.Payload(t.Context(), first.Evidence[0]); err != nil || string(data) != "of the first" {
		t.Errorf("got %q, %v", data, err)
	}
}
