package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
)

const (
	policies = 100
	callers  = 64
	origin0  = "https://" + iamHost + ":8643" // nothing listens there; nothing is sent
)

// decision: what a decision costs until the dispatch may begin, with its record
// on the disk, against writing the bare bytes there.
func (b *bench) decision(ctx context.Context) (err error) {
	s, err := plainSample()
	if err != nil {
		return err
	}
	d, err := newDisk(ctx, filepath.Join(b.dir, "decision"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	guardrails, err := s.guardrails(policies, scoped)
	if err != nil {
		return err
	}
	g := newGate()
	if err := s.admit(g, d, guardrails, taskName); err != nil {
		return err
	}
	a, err := s.read(origin0)
	if err != nil {
		return err
	}
	bare, err := newAppender(filepath.Join(b.dir, "bare"))
	if err != nil {
		return err
	}
	defer bare.f.Close()

	var one, whole pair
	var rates, overOne, recordsOver []float64
	var many []samples
	for i := range b.rounds + 1 { // the first one warms up
		w, o := pair{}, pair{}
		var acts samples
		err := o.each(b.n(200), func() (time.Duration, error) {
			first, all, err := act(ctx, g, a)
			acts = append(acts, all)
			return first, err
		}, bare.append)
		if err != nil {
			return err
		}
		w.own, w.base = []samples{acts}, o.base
		rate, lat, err := crowd(ctx, g, a, time.Duration(b.n(500))*time.Millisecond)
		if err != nil {
			return err
		}
		if i == 0 {
			continue
		}
		one.own, one.base = append(one.own, o.own...), append(one.base, o.base...)
		whole.own, whole.base = append(whole.own, w.own...), append(whole.base, w.base...)
		many = append(many, lat)
		rates = append(rates, rate)
		overOne = append(overOne, rate/o.base[0].rate())
		recordsOver = append(recordsOver, 2*rate/o.base[0].rate())
	}
	size, err := recordSize(ctx, d)
	if err != nil {
		return err
	}
	b.decisionRows(one, whole, many, rates, overOne, recordsOver)
	b.note("**Decision.** `gate.Act` with %d guardrails (the shipped ones, the sample's own, and policies each about one operation of one "+
		"application) and the sample task's compiled grant; the action is a recognised read. \"To dispatch\" ends when the door may act: the "+
		"decision's record (%d bytes on average, outcomes included) and its Merkle hashes are on the disk. \"With its outcome\" adds a dispatch that "+
		"does nothing and the second durable record. Baseline: 1 KiB appended to a file beside it and fsynced, one writer.", policies, size)
	b.note("**%d callers** each ask again as soon as they were answered, so every decision counted here also waited for its outcome's "+
		"record. The signer of checkpoints runs meanwhile, as in a server.", callers)
	return nil
}

func (b *bench) decisionRows(one, whole pair, many []samples, rates, overOne, recordsOver []float64) {
	own, base := one.p50()
	all, _ := whole.p50()
	baseRate := func(s samples) time.Duration { return time.Duration(s.rate()) }
	bareRate := perSecond(float64(medianOf(one.base, baseRate)))
	p99 := medianOf(many, samples.p99)
	b.add(
		row{"decision to dispatch, 1 caller, p50", short(own), short(base) + " append+fsync", times(one.ratio()), "under 2x", one.ratio() < 2},
		row{"decision with its outcome (2 records), p50", short(all), short(base) + " append+fsync", times(whole.ratio()), "", false},
		row{fmt.Sprintf("decisions, %d callers", callers), perSecond(median(rates)), bareRate + " append+fsync", times(median(overOne)), "at least 5x", median(overOne) >= 5},
		row{fmt.Sprintf("durable records, %d callers", callers), perSecond(2 * median(rates)), bareRate + " append+fsync", times(median(recordsOver)), "", false},
		row{fmt.Sprintf("decision to dispatch, %d callers, p99", callers), short(p99), short(medianOf(one.base, samples.p99)) + " append+fsync, 1 writer",
			times(float64(p99) / float64(medianOf(one.base, samples.p99))), "under 10 ms", p99 < 10*time.Millisecond},
	)
}

// act passes the gate once, and says when the dispatch began and when all of it
// was over.
func act(ctx context.Context, g *gate.Gate, a action.Action) (first, all time.Duration, err error) {
	start := time.Now()
	res := g.Act(ctx, a, nil, func(_ context.Context, p gate.Permit) action.Outcome {
		first = time.Since(start)
		if err := p.Consume(a.Digest); err != nil {
			return action.Outcome{State: action.Failed, Detail: err.Error()}
		}
		return action.Outcome{State: action.Done}
	})
	all = time.Since(start)
	if res.Decision.Verdict != action.Allow || res.Outcome == nil || res.Outcome.State != action.Done {
		return 0, 0, fmt.Errorf("the sample's read was not let through: %+v %+v", res.Decision, res.Outcome)
	}
	return first, all, nil
}

// crowd has many callers ask for so long.
func crowd(ctx context.Context, g *gate.Gate, a action.Action, long time.Duration) (rate float64, lat samples, err error) {
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	start := time.Now()
	for range callers {
		wg.Go(func() {
			var own samples
			var err error
			for err == nil && time.Since(start) < long {
				var first time.Duration
				if first, _, err = act(ctx, g, a); err == nil {
					own = append(own, first)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			lat, errs = append(lat, own...), append(errs, err)
		})
	}
	wg.Wait()
	return float64(len(lat)) / time.Since(start).Seconds(), lat, errors.Join(errs...)
}

// appender is the limit: a file that grows by 1 KiB and is synced.
type appender struct {
	f   *os.File
	buf [1024]byte
}

func newAppender(path string) (*appender, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	return &appender{f: f}, err
}

func (w *appender) append() (time.Duration, error) {
	return timed(func() error {
		if _, err := w.f.Write(w.buf[:]); err != nil {
			return err
		}
		return w.f.Sync()
	})
}

// recordSize is the average size of the first records.
func recordSize(ctx context.Context, d *disk) (int, error) {
	n, sum := 0, 0
	enough := errors.New("enough")
	err := d.log.Entries(ctx, 0, func(e record.Entry) error {
		n, sum = n+1, sum+len(e.Raw)
		if n == 1000 {
			return enough
		}
		return nil
	})
	if err != nil && !errors.Is(err, enough) {
		return 0, err
	}
	return sum / max(1, n), nil
}
