package lease_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// world is a ledger and its upstreams, seen together: what must hold is held
// against every single change of either.
type world struct {
	t   *testing.T
	mu  sync.Mutex
	rng *rand.Rand

	objects map[string]map[string][]byte // kind, id
	states  map[string]string            // by label: the type of the last record
	alive   map[string]bool              // by label: exists upstream
	counts  map[string]int               // of records

	slowest map[string]time.Duration // by upstream: from the first attempt to the confirmation
	first   map[string]time.Time
	outage  atomic.Bool
}

func newWorld(t *testing.T) *world {
	return &world{t: t, rng: rand.New(rand.NewPCG(1, 2)), objects: map[string]map[string][]byte{"lease": {}, "lease.over": {}}, states: map[string]string{},
		alive: map[string]bool{}, counts: map[string]int{}, slowest: map[string]time.Duration{}, first: map[string]time.Time{}}
}

func (w *world) Tenant() string { return "acme" }

func (w *world) Append(_ context.Context, d record.Draft) (record.Entry, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d.Change != nil {
		if err := d.Change(worldTx{w}); err != nil {
			return record.Entry{}, err
		}
	}
	l := d.Body.(lease.Lease)
	w.counts[d.Type]++
	w.states[l.Label] = d.Type
	switch d.Type {
	case "lease.revoking":
		w.first[l.Label] = time.Now()
	case "lease.revoked":
		if w.alive[l.Label] {
			w.t.Errorf("%s is confirmed and alive", l.Label)
		}
		if at, ok := w.first[l.Label]; ok {
			w.slowest[l.Audience] = max(w.slowest[l.Audience], time.Since(at))
			delete(w.first, l.Label)
		}
		delete(w.states, l.Label)
	}
	return record.Entry{}, nil
}

func (w *world) View(_ context.Context, f func(record.Tx) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return f(worldTx{w})
}

func (w *world) Entries(context.Context, int64, func(record.Entry) error) error { return nil }

func (w *world) Payload(context.Context, action.Evidence) ([]byte, error) {
	return nil, record.ErrNotFound
}

type worldTx struct{ w *world }

func (x worldTx) Get(kind, id string, v any) error {
	b, ok := x.w.objects[kind][id]
	if !ok {
		return record.ErrNotFound
	}
	return json.Unmarshal(b, v)
}

func (x worldTx) Put(kind, id string, v any) error {
	b, err := canon.Marshal(v)
	if kind == "lease.over" {
		b = nil // nobody asks, and there will be many
	}
	x.w.objects[kind][id] = b
	return err
}

func (x worldTx) Delete(kind, id string) error { delete(x.w.objects[kind], id); return nil }

func (x worldTx) List(kind string, f func(string, []byte) error) error {
	for id, b := range x.w.objects[kind] {
		if err := f(id, b); err != nil {
			return err
		}
	}
	return nil
}

// flaky is an upstream of which three answers in ten are errors, half of them
// after it did what it was asked. In an outage it does not answer at all.
type flaky struct {
	w      *world
	outage bool // takes part in it
}

var errFlaky = errors.New("internal server error")

func (f flaky) do(ctx context.Context, effect func()) error {
	if f.outage && f.w.outage.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	f.w.mu.Lock()
	luck := f.w.rng.Float64()
	took := time.Duration(f.w.rng.IntN(50)) * time.Millisecond
	f.w.mu.Unlock()
	time.Sleep(took)
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if luck < 0.15 {
		return errFlaky
	}
	effect()
	if luck < 0.30 {
		return errFlaky
	}
	return nil
}

func (f flaky) Issue(ctx context.Context, o lease.Order) ([]byte, error) {
	err := f.do(ctx, func() {
		if f.w.states[o.Label] != "lease.requested" {
			f.w.t.Errorf("%s comes into being and is %q on record", o.Label, f.w.states[o.Label])
		}
		f.w.alive[o.Label] = true
	})
	return []byte("secret of " + o.Label), err
}

func (f flaky) Revoke(ctx context.Context, c lease.Credential) error {
	return f.do(ctx, func() { delete(f.w.alive, c.Label) })
}

func (f flaky) Confirm(ctx context.Context, c lease.Credential) error {
	var err error
	return errors.Join(f.do(ctx, func() {
		if f.w.alive[c.Label] {
			err = errors.New("still there")
		}
	}), err)
}

func (f flaky) RevokeAll(ctx context.Context, cs []lease.Credential) []error {
	return each(cs, func(c lease.Credential) error { return f.Revoke(ctx, c) })
}

func (f flaky) ConfirmAll(ctx context.Context, cs []lease.Credential) []error {
	return each(cs, func(c lease.Credential) error { return f.Confirm(ctx, c) })
}

func each(cs []lease.Credential, f func(lease.Credential) error) []error {
	errs := make([]error, len(cs))
	var wg sync.WaitGroup
	for i, c := range cs {
		wg.Go(func() { errs[i] = f(c) })
	}
	wg.Wait()
	return errs
}

// TestHundredThousandLeases: three hours of leases on upstreams of which three
// answers in ten are errors, and one of which is away for an hour. At every
// instant what is alive upstream is open on record, and what is confirmed is not
// alive; and in the end nothing is left. The upstream that is away holds up
// nobody but its own.
//
// Threats: K4, M4 (lease)
func TestHundredThousandLeases(t *testing.T) {
	n := 100_000
	if testing.Short() {
		n = 5_000
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var ids atomic.Int64
		k := lease.New(lease.Config{Log: w, Seal: leasetest.Plain{}, Prefix: leasetest.Prefix, IDs: func() string { return fmt.Sprintf("l-%d", ids.Add(1)) },
			Find: func(_ context.Context, l lease.Lease) (lease.Source, error) {
				return flaky{w, strings.HasSuffix(l.Audience, "0")}, nil
			}})
		ctx, cancel := context.WithCancel(t.Context())
		var wg, tasks sync.WaitGroup
		wg.Go(func() { k.Run(ctx) })
		time.AfterFunc(time.Hour, func() { w.outage.Store(true) })
		time.AfterFunc(2*time.Hour, func() { w.outage.Store(false) })
		for i := range n {
			time.Sleep(3 * time.Hour / time.Duration(n))
			live := time.Duration(i%600) * time.Second
			tasks.Go(func() {
				task := fmt.Sprintf("t-%d", i)
				if _, _, err := k.Issue(ctx, lease.Request{Task: task, Agent: "helper", Source: "s", Audience: fmt.Sprintf("a-%d", i%4), Until: time.Now().Add(time.Hour)}); err == nil {
					time.Sleep(live)
				}
				ectx, cancel := context.WithTimeout(ctx, 30*time.Second)
				defer cancel()
				_ = k.End(ectx, task)
			})
			if i%(n/50) == 0 {
				check(t, w, k)
			}
		}
		tasks.Wait()
		check(t, w, k)
		time.Sleep(20 * time.Minute)
		check(t, w, k)
		cancel()
		wg.Wait()
		if open, _ := k.Open(t.Context()); len(open) != 0 || len(w.alive) != 0 {
			t.Errorf("%d leases are open and %d alive in the end", len(open), len(w.alive))
		}
		if w.counts["lease.requested"] != n || w.counts["lease.revoked"] != n {
			t.Errorf("of %d leases %d were requested and %d are confirmed", n, w.counts["lease.requested"], w.counts["lease.revoked"])
		}
		t.Logf("records: %v; slowest confirmation by upstream: %v", w.counts, w.slowest)
		for a, d := range w.slowest {
			if away := strings.HasSuffix(a, "0"); away != (d > 20*time.Minute) {
				t.Errorf("upstream %s: the slowest confirmation took %s", a, d)
			}
		}
	})
}

// check holds what is seen from outside of the ledger against what it says.
func check(t *testing.T, w *world, k *lease.Keeper) {
	t.Helper()
	synctest.Wait()
	alarms, err := k.Unconfirmed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, l := range alarms {
		seen[l.Label] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for label := range w.alive {
		if w.states[label] == "" {
			t.Errorf("%s is alive and not open on record", label)
		}
	}
	for label, typ := range w.states {
		if typ == "lease.unconfirmed" && !seen[label] {
			t.Errorf("%s is not confirmed and raises no alarm", label)
		}
	}
	if issued, over, open := w.counts["lease.requested"], w.counts["lease.revoked"], len(w.states); issued != over+open {
		t.Errorf("%d requested, %d confirmed and %d open", issued, over, open)
	}
}

// TestRenewalEndsWithTheLease: a lease is renewed while its task may run, and
// never for longer, however close to its end the renewal comes.
//
// Threats: K1, K2 (lease)
func TestRenewalEndsWithTheLease(t *testing.T) {
	for _, until := range []time.Duration{25*time.Minute - time.Millisecond, 25 * time.Minute, 25*time.Minute + time.Millisecond, 30*time.Minute - time.Second} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			r := &renewed{flaky: flaky{w: w}}
			k := lease.New(lease.Config{Log: w, Seal: leasetest.Plain{}, Prefix: leasetest.Prefix, IDs: func() string { return "l-1" },
				Find: func(context.Context, lease.Lease) (lease.Source, error) { return r, nil }})
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { k.Run(ctx) })
			end := time.Now().Add(until)
			l, _, err := k.Issue(ctx, lease.Request{Task: "t-1", Agent: "helper", Source: "s", Audience: "a", Until: end, TTL: 5 * time.Minute})
			if err != nil || l.Expires.After(time.Now().Add(5*time.Minute)) {
				t.Fatalf("got %+v %v", l, err)
			}
			time.Sleep(until - time.Second)
			if !w.alive[l.Label] || len(r.times) < 8 {
				t.Errorf("it was renewed %d times and is alive: %v", len(r.times), w.alive[l.Label])
			}
			time.Sleep(time.Minute)
			if w.alive[l.Label] || w.counts["lease.revoked"] != 1 {
				t.Error("it outlives its time")
			}
			last := time.Time{}
			for _, at := range r.times {
				if at.After(end) || at.Before(last) {
					t.Errorf("renewed to %s, and it must end at %s", at, end)
				}
				last = at
			}
			cancel()
			wg.Wait()
		})
	}
}

// renewed never fails, and remembers.
type renewed struct {
	flaky
	times []time.Time
}

func (r *renewed) Issue(_ context.Context, o lease.Order) ([]byte, error) {
	r.w.alive[o.Label] = true
	return []byte("x"), nil
}
func (r *renewed) Renew(_ context.Context, _ lease.Credential, at time.Time) error {
	r.times = append(r.times, at)
	return nil
}
func (r *renewed) Revoke(_ context.Context, c lease.Credential) error {
	delete(r.w.alive, c.Label)
	return nil
}
func (r *renewed) Confirm(context.Context, lease.Credential) error { return nil }
func (r *renewed) RevokeAll(ctx context.Context, cs []lease.Credential) []error {
	return each(cs, func(c lease.Credential) error { return r.Revoke(ctx, c) })
}
func (r *renewed) ConfirmAll(_ context.Context, cs []lease.Credential) []error {
	return make([]error, len(cs))
}
