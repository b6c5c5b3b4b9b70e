package certify_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Lapse is in memory before anything else: stop already finds none, and a ledger
// that cannot write does not bring it back.
func TestLapseIsInMemoryFirst(t *testing.T) {
	b := newBench(t)
	e := b.open()
	c := b.issue(e, b.record(e, b.passed("m1")).ID)
	full := errors.New("disk full")
	b.log.Fail = func(record.Draft) error { return full }
	stopped := 0
	err := e.Lapse(t.Context(), "helpdesk", action.Production, certify.Lapse{Code: "drift", Why: "model"}, func() {
		stopped++
		b.live(e, "")
		if n := len(b.log.All()); b.log.All()[n-1].Type == "certification.lapsed" {
			t.Error("the record came before the stop")
		}
	})
	if !errors.Is(err, full) || stopped != 1 {
		t.Errorf("got %v, stopped %d times", err, stopped)
	}
	b.live(e, "")
	b.log.Fail = nil
	// As the package comment says: what a crash before the record leaves behind
	// is live again after a restart, for the next measurement to find.
	e = b.open()
	b.live(e, c.ID)
	if err := e.Lapse(t.Context(), "helpdesk", action.Production, certify.Lapse{Code: "drift"}, nil); err != nil {
		t.Fatal(err)
	}
	b.live(b.open(), "")
}

// A lapse that could not be recorded is recorded as soon as that goes, and before
// another certification is issued: a restart brings neither back.
func TestLapseIsRecordedLater(t *testing.T) {
	b := newBench(t)
	for _, later := range []func(e *certify.Engine, next string) error{
		func(e *certify.Engine, _ string) error { return e.Settle(t.Context()) },
		func(e *certify.Engine, next string) error {
			_, err := e.Issue(t.Context(), next, "a", certify.Verifier{}, nil)
			return errors.Join(err, e.Lapse(t.Context(), "helpdesk", action.Production, certify.Lapse{Code: "drift"}, nil))
		},
	} {
		e := b.open()
		c, next := b.issue(e, b.record(e, b.passed("m1")).ID), b.record(e, b.passed("m2"))
		b.log.Fail = func(record.Draft) error { return errors.New("the database is away") }
		if err := e.Lapse(t.Context(), "helpdesk", action.Production, certify.Lapse{Code: "drift", Why: "model"}, nil); err == nil {
			t.Fatal("recorded without a record")
		}
		if err := later(e, next.ID); err == nil {
			t.Error("settled without a record")
		}
		b.log.Fail = nil
		if err := later(e, next.ID); err != nil {
			t.Fatal(err)
		}
		records := len(b.log.All())
		if err := e.Settle(t.Context()); err != nil || len(b.log.All()) != records {
			t.Errorf("settled again: %v", err)
		}
		b.live(b.open(), "")
		if got, err := e.Get(t.Context(), c.ID); err != nil || got.Lapse == nil || got.Lapse.Code != "drift" {
			t.Errorf("it is %s: %+v, %v", got.State, got.Lapse, err)
		}
	}
}

// Who asks for what is live, as the gate does with a task's lock held, does not wait
// for a record: else a kill would.
func TestLiveDoesNotWaitForIssue(t *testing.T) {
	b := newBench(t)
	e := b.open()
	first, second := b.issue(e, b.record(e, b.passed("m1")).ID), b.record(e, b.passed("m2"))
	inside, release := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := e.Issue(t.Context(), second.ID, "a", certify.Verifier{}, func(record.Tx) error { close(inside); <-release; return nil })
		done <- err
	}()
	<-inside
	answered := make(chan struct{})
	go func() { b.live(e, first.ID); close(answered) }()
	select {
	case <-answered:
	case <-time.After(5 * time.Second):
		t.Error("it waits for the record")
	}
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	<-answered
	b.live(e, second.ID)
}

// issuedLog stops between the record of an issue and what follows it.
type issuedLog struct {
	record.Log
	issued func()
}

func (l *issuedLog) Append(ctx context.Context, d record.Draft) (record.Entry, error) {
	r, err := l.Log.Append(ctx, d)
	if err == nil && d.Type == "certification.issued" {
		l.issued()
	}
	return r, err
}

// Who reads that a certification is live finds it in force.
func TestWhatIsReadAsLiveIsInForce(t *testing.T) {
	b := newBench(t)
	log := &issuedLog{Log: b.log}
	e, err := certify.Open(t.Context(), log, b.seal, b.ids)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	log.issued = func() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			all, err := e.History(t.Context(), "helpdesk")
			if err == nil && len(all) == 1 && all[0].State == certify.Live {
				_, err = e.Live("helpdesk", action.Production)
			}
			read <- err
		}()
		select {
		case <-done:
		case <-time.After(50 * time.Millisecond): // it waits, as it should
		}
	}
	b.issue(e, b.record(e, b.passed("m1")).ID)
	if err := <-read; err != nil {
		t.Error(err)
	}
}

// Nothing un-lapses: not a second lapse, not a restart, not the same run again.
func TestNothingUnlapses(t *testing.T) {
	b := newBench(t)
	e := b.open()
	c := b.issue(e, b.record(e, b.passed("m1")).ID)
	l := certify.Lapse{Code: "drift", Why: "model.id", Changes: []boundary.Change{{Name: "model.id", Old: "m1", New: "m2"}}}
	if err := e.Lapse(t.Context(), "helpdesk", action.Production, l, nil); err != nil {
		t.Fatal(err)
	}
	records := len(b.log.All())
	ran := false
	if err := e.Lapse(t.Context(), "helpdesk", action.Production, l, func() { ran = true }); err != nil || len(b.log.All()) != records {
		t.Errorf("lapse of nothing: %v, %d records", err, len(b.log.All())-records)
	}
	_ = ran // whether stop runs for nothing is for the caller
	e = b.open()
	b.live(e, "")
	got, err := e.Get(t.Context(), c.ID)
	if err != nil || got.State != certify.Lapsed || got.Lapse == nil || got.Lapse.Code != "drift" || len(got.Lapse.Changes) != 1 || got.Lapse.At.IsZero() {
		t.Errorf("got %+v, %v", got.Lapse, err)
	}
	// Another run of the same boundary is another certification.
	d := b.issue(e, b.record(e, b.passed("m1")).ID)
	b.live(e, d.ID)
	if b.state(e, c.ID) != certify.Lapsed {
		t.Error("the first one came back")
	}
}

func TestLapseOfAnotherAgentOrStage(t *testing.T) {
	b := newBench(t)
	e := b.open()
	c := b.issue(e, b.record(e, b.passed("m1")).ID)
	for _, x := range []struct {
		agent string
		stage action.Stage
	}{{"other", action.Production}, {"helpdesk", action.Sandbox}, {"", ""}, {"helpdesk/production", ""}} {
		if err := e.Lapse(t.Context(), x.agent, x.stage, certify.Lapse{Code: "drift"}, nil); err != nil {
			t.Error(err)
		}
		if _, err := e.Live(x.agent, x.stage); err == nil {
			t.Errorf("%s/%s is live", x.agent, x.stage)
		}
	}
	b.live(e, c.ID)
}

// Lapse and Issue race with readers: after Lapse returned nobody reads the
// lapsed one.
func TestLapseAgainstReaders(t *testing.T) {
	b := newBench(t)
	e := b.open()
	var proposed []string
	for i := range 30 {
		proposed = append(proposed, b.record(e, b.passed(fmt.Sprint("m", i))).ID)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for ctx.Err() == nil {
				if c, err := e.Live("helpdesk", action.Production); err == nil && c.State != certify.Live {
					t.Errorf("Live returned one that is %s", c.State)
					return
				}
			}
		})
	}
	for _, id := range proposed {
		b.issue(e, id)
		if err := e.Lapse(t.Context(), "helpdesk", action.Production, certify.Lapse{Code: "drift"}, nil); err != nil {
			t.Fatal(err)
		}
		b.live(e, "")
	}
	cancel()
	readers.Wait()
}
