package signals_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/signals"
)

// broken is a log whose next write fails.
type broken struct {
	record.Log
	fails bool
	steps *[]string
}

func (b *broken) Append(ctx context.Context, d record.Draft) (record.Entry, error) {
	*b.steps = append(*b.steps, "record")
	if b.fails {
		b.fails = false
		return record.Entry{}, errors.New("the disk is full")
	}
	return b.Log.Append(ctx, d)
}

// The order of an event that ends something: fence, record, end, answer. If it
// cannot be recorded the transmitter hears so and sends it again, and what was
// fenced has ended all the same. What one event took no other gives back.
//
// Threats: S2 (door); S3 (approval); S4 (ledger)
func TestOrderOfReceived(t *testing.T) {
	var steps []string
	log := &broken{Log: ledgertest.New(t), fails: true, steps: &steps}
	var open string
	r := &signals.Receiver{Log: log,
		Find: func(iss string) (signals.Transmitter, bool) {
			return signals.Transmitter{Issuer: iss, Audience: "us", Formats: []string{"email"}}, iss == "https://idp.example"
		},
		Open:   func(context.Context, string) (map[string]canon.Value, error) { return claims(t, open), nil },
		People: func(signals.Transmitter, []signals.Subject) []string { return []string{"dana"} },
		Fence: func(context.Context, []signals.Bar) ([]string, error) {
			steps = append(steps, "fence")
			return []string{"t1"}, nil
		},
		End:     func(tasks []string, _ string) { steps = append(steps, "end "+strings.Join(tasks, " ")) },
		Refused: func(string) { steps = append(steps, "refused") },
	}
	deliver := func(jti, kind, payload string) int {
		steps = nil
		open = `{"iss":"https://idp.example","jti":"` + jti + `","iat":` + strconv.FormatInt(time.Now().Unix(), 10) + `,"aud":"us","sub_id":{"format":"email","email":"d@x.example"},"events":{"https://schemas.openid.net/secevent/` + kind + `":` + payload + `}}`
		q := httptest.NewRequest("POST", "/", strings.NewReader("x"))
		q.Header.Set("Content-Type", "application/secevent+jwt")
		w := httptest.NewRecorder()
		r.ServeHTTP(w, q)
		return w.Code
	}
	want := func(status int, what ...string) func(int) {
		return func(got int) {
			t.Helper()
			if got != status || !slices.Equal(steps, what) {
				t.Errorf("got %d after %v, want %d after %v", got, steps, status, what)
			}
		}
	}
	bar := func() (b signals.Bar) {
		t.Helper()
		if err := log.View(t.Context(), func(tx record.Tx) error { return tx.Get(signals.KindBarred, "dana", &b) }); err != nil {
			t.Fatal(err)
		}
		return b
	}
	want(http.StatusServiceUnavailable, "fence", "record", "end t1", "refused")(deliver("1", "risc/event-type/account-disabled", "{}"))
	want(http.StatusAccepted, "fence", "record", "end t1")(deliver("1", "risc/event-type/account-disabled", "{}"))
	want(http.StatusAccepted)(deliver("1", "risc/event-type/account-disabled", "{}"))
	first := bar()
	if !first.Locked {
		t.Errorf("got %+v", first)
	}
	want(http.StatusAccepted, "fence", "record", "end t1")(deliver("2", "caep/event-type/session-revoked", "{}"))
	if b := bar(); !b.Locked || b.Since.Before(first.Since) {
		t.Errorf("an event softened what another took: %+v, was %+v", b, first)
	}
	for _, kind := range []string{"risc/event-type/account-enabled", "caep/event-type/session-established", "caep/event-type/risk-level-change"} {
		want(http.StatusAccepted, "record")(deliver(kind, kind, "{}"))
		if !bar().Locked {
			t.Errorf("%s gave something back", kind)
		}
	}
}

// Events about one person come at once, one of them twice. What is barred is the same
// in memory and in the store, and each took what it takes once.
//
// Threats: S2 (door); S4 (ledger)
func TestEventsAtOnce(t *testing.T) {
	log := ledgertest.New(t)
	var mu sync.Mutex
	var last string // that memory has
	r := &signals.Receiver{Log: log,
		People: func(signals.Transmitter, []signals.Subject) []string { return []string{"dana"} },
		Fence: func(_ context.Context, bars []signals.Bar) ([]string, error) {
			mu.Lock()
			defer mu.Unlock()
			last = bars[0].JTI
			return []string{}, nil
		}}
	for n := range 20 {
		var wg sync.WaitGroup
		for _, jti := range []string{"a", "a", "b", "c", "d"} {
			wg.Go(func() {
				s := signals.SET{Issuer: "https://idp.example", ID: jti + strconv.Itoa(n), IssuedAt: time.Now(), Type: signals.AccountDisabled}
				if err := r.Take(t.Context(), signals.Transmitter{Issuer: s.Issuer}, s); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		var b signals.Bar
		if err := log.View(t.Context(), func(tx record.Tx) error { return tx.Get(signals.KindBarred, "dana", &b) }); err != nil || b.JTI != last {
			t.Fatalf("memory has %s, and the store %s, %v", last, b.JTI, err)
		}
	}
	records := 0
	if err := log.Entries(t.Context(), 0, func(e record.Entry) error {
		if e.Type == "signal.received" {
			records++
		}
		return nil
	}); err != nil || records != 80 {
		t.Errorf("80 events, of which 20 came twice: got %d records, %v", records, err)
	}
}

// cut is a log whose next transaction ends before one of its writes, as by a crash.
type cut struct {
	record.Log
	before string // kind of object; "" is none
}

func (c *cut) Append(ctx context.Context, d record.Draft) (record.Entry, error) {
	change := d.Change
	d.Change = func(tx record.Tx) error { return change(cutTx{tx, c.before}) }
	return c.Log.Append(ctx, d)
}

type cutTx struct {
	record.Tx
	before string
}

func (x cutTx) Put(kind, id string, v any) error {
	if kind == x.before {
		return errors.New("the power is gone")
	}
	return x.Tx.Put(kind, id, v)
}

// What an event takes, its record and that it was taken are there together, or none of
// them: else a jti would say of an event that it was taken, and nobody is locked.
//
// Threats: S2 (door); S4 (ledger)
func TestEventIsTakenWholeOrNot(t *testing.T) {
	for _, before := range []string{signals.KindBarred, "signal"} {
		c := &cut{ledgertest.New(t), before}
		r := &signals.Receiver{Log: c,
			People: func(signals.Transmitter, []signals.Subject) []string { return []string{"dana"} },
			Fence:  func(context.Context, []signals.Bar) ([]string, error) { return []string{}, nil }}
		s := signals.SET{Issuer: "https://idp.example", ID: "1", IssuedAt: time.Now(), Type: signals.AccountDisabled}
		left := func() (n int) {
			t.Helper()
			err := c.View(t.Context(), func(tx record.Tx) error {
				count := func(string, []byte) error { n++; return nil }
				return errors.Join(tx.List(signals.KindBarred, count), tx.List("signal", count))
			})
			if err = errors.Join(err, c.Entries(t.Context(), 0, func(e record.Entry) error {
				if e.Type == "signal.received" {
					n++
				}
				return nil
			})); err != nil {
				t.Fatal(err)
			}
			return n
		}
		if err := r.Take(t.Context(), signals.Transmitter{Issuer: s.Issuer}, s); err == nil || left() != 0 {
			t.Errorf("cut before %s: %v, and %d are left", before, err, left())
		}
		c.before = ""
		for range 2 {
			if err := r.Take(t.Context(), signals.Transmitter{Issuer: s.Issuer}, s); err != nil || left() != 3 {
				t.Errorf("sent again after %s: %v, and %d are there, want bar, jti and record", before, err, left())
			}
		}
	}
}

// counting counts how often all that is kept was read.
type counting struct {
	record.Log
	lists, kept int
}

func (c *counting) Append(ctx context.Context, d record.Draft) (record.Entry, error) {
	change := d.Change
	d.Change = func(tx record.Tx) error { return change(countingTx{tx, c}) }
	return c.Log.Append(ctx, d)
}

type countingTx struct {
	record.Tx
	c *counting
}

func (x countingTx) List(kind string, f func(string, []byte) error) error {
	x.c.lists++
	return x.Tx.List(kind, f)
}

func (x countingTx) Put(kind, id string, v any) error {
	x.c.kept++
	return x.Tx.Put(kind, id, v)
}

// Somebody who may send events sends many. Of those that take nothing nothing is
// kept, and not each reads what all before it left.
//
// Threats: S2 (door)
func TestManyEvents(t *testing.T) {
	c := &counting{Log: ledgertest.New(t)}
	who := []string{}
	r := &signals.Receiver{Log: c,
		People: func(signals.Transmitter, []signals.Subject) []string { return who },
		Fence:  func(context.Context, []signals.Bar) ([]string, error) { return []string{}, nil }}
	take := func(n int, kind string) {
		t.Helper()
		s := signals.SET{Issuer: "https://idp.example", ID: kind + strconv.Itoa(n), IssuedAt: time.Now(), Type: kind}
		if err := r.Take(t.Context(), signals.Transmitter{Issuer: s.Issuer}, s); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 20 {
		take(n, signals.AccountDisabled) // of nobody here
		take(n, signals.RiskLevelChange)
	}
	if c.lists != 0 || c.kept != 0 {
		t.Errorf("events that take nothing: %d readings, and %d kept", c.lists, c.kept)
	}
	who = []string{"dana"}
	for n := range 20 {
		take(100+n, signals.AccountDisabled)
	}
	if c.lists != 1 || c.kept != 40 {
		t.Errorf("20 events that bar: %d readings, want 1 within the minute, and %d kept, want each with its bar", c.lists, c.kept)
	}
}
