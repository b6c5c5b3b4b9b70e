package certify_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// A graded change stays with its certification over a restart, is on record once, and
// is gone with the next certification.
func TestGrade(t *testing.T) {
	b := newBench(t)
	e := b.open()
	b.issue(e, b.record(e, b.passed("m-1")).ID)
	x, y := boundary.Change{Name: "browser.version", Old: "1", New: "2"}, boundary.Change{Name: "model.geo", Old: "eu", New: "us"}
	grade := func(want []boundary.Change, all ...boundary.Change) {
		t.Helper()
		if got, err := e.Grade(t.Context(), "helpdesk", action.Production, all); err != nil || !slices.Equal(got, want) {
			t.Errorf("got %v, %v; want %v", got, err, want)
		}
	}
	grade([]boundary.Change{x}, x)
	grade(nil, x)
	grade([]boundary.Change{y}, x, y)
	for range 2 {
		if c, err := e.Live("helpdesk", action.Production); err != nil || !slices.Equal(c.Graded, []boundary.Change{x, y}) {
			t.Errorf("got %v, %v", c.Graded, err)
		}
		e = b.open()
	}
	b.issue(e, b.record(e, b.passed("m-2")).ID)
	if c, err := e.Live("helpdesk", action.Production); err != nil || len(c.Graded) != 0 {
		t.Errorf("got %v, %v", c.Graded, err)
	}
	if got, err := e.Grade(t.Context(), "another", action.Production, []boundary.Change{x}); got != nil || err != nil {
		t.Errorf("without a certification: %v, %v", got, err)
	}
}

// A fact that has another value each time it is looked at is graded so often and no
// more; what was kept before stays.
//
// Threats: G12 (authority)
func TestGradedWithoutEnd(t *testing.T) {
	b := newBench(t)
	e := b.open()
	b.issue(e, b.record(e, b.passed("m-1")).ID)
	n := 0
	for ; n < 1000; n++ {
		if _, err := e.Grade(t.Context(), "helpdesk", action.Production, []boundary.Change{{Name: "mcp.queue.tools", Old: "a", New: fmt.Sprint(n)}}); errors.Is(err, certify.ErrGraded) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if c, err := e.Live("helpdesk", action.Production); err != nil || n == 1000 || len(c.Graded) != n {
		t.Errorf("%d changes were graded, and %d are kept: %v", n, len(c.Graded), err)
	}
}

// slowLog does something before it appends.
type slowLog struct {
	record.Log
	before func(record.Draft)
}

func (l *slowLog) Append(ctx context.Context, d record.Draft) (record.Entry, error) {
	if l.before != nil {
		l.before(d)
	}
	return l.Log.Append(ctx, d)
}

// The certification ends between the drift and its record: the record of the end
// stands, and nothing brings the certification back after a restart. A ledger that
// fails leaves the hold in memory.
func TestGradeAgainstALapse(t *testing.T) {
	b := newBench(t)
	slow := &slowLog{Log: b.log}
	e, err := certify.Open(t.Context(), slow, b.seal, b.ids)
	if err != nil {
		t.Fatal(err)
	}
	c := b.issue(e, b.record(e, b.passed("m-1")).ID)
	x := []boundary.Change{{Name: "browser.version", Old: "1", New: "2"}}
	slow.before = func(d record.Draft) {
		if d.Type != "boundary.drift" {
			return
		}
		if err := e.Lapse(t.Context(), "helpdesk", action.Production, certify.Lapse{Code: "test"}, nil); err != nil {
			t.Error(err)
		}
	}
	if got, err := e.Grade(t.Context(), "helpdesk", action.Production, x); got != nil || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
	if got := b.state(b.open(), c.ID); got != certify.Lapsed {
		t.Errorf("after the restart it is %s", got)
	}
	slow.before = nil
	b.issue(e, b.record(e, b.passed("m-2")).ID)
	b.log.Fail = func(record.Draft) error { return errors.New("disk full") }
	if _, err := e.Grade(t.Context(), "helpdesk", action.Production, x); err == nil {
		t.Error("no error of the ledger")
	}
	if c, err := e.Live("helpdesk", action.Production); err != nil || len(c.Graded) != 1 {
		t.Errorf("in memory: %v, %v", c.Graded, err)
	}
}
