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
	"github.com/sallyport-dev/sallyport/internal/policy"
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
	for i := range callers {
		if err := s.admit(g, d, guardrails, callerTask(i)); err != nil {
			return err
		}
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

	no, err := s.write(origin0)
	if err != nil {
		return err
	}
	var one, whole pair
	var passed, refused crowd
	long := time.Duration(b.n(400)) * time.Millisecond
	single := func() error {
		var acts samples
		err := one.each(b.n(200), func() (time.Duration, error) {
			first, all, err := act(ctx, g, of(a, 0))
			acts = append(acts, all)
			return first, err
		}, bare.append)
		whole.own, whole.base = append(whole.own, acts), one.base
		return err
	}
	many := func() error {
		return errors.Join(refused.round(callers, long, func(i int) (time.Duration, error) { return refuse(ctx, g, of(no, i)) }),
			passed.round(callers, long, func(i int) (time.Duration, error) { first, _, err := act(ctx, g, of(a, i)); return first, err }))
	}
	for i := range b.rounds + 1 { // the first one warms up
		if i == 1 {
			one, whole, passed, refused = pair{}, pair{}, crowd{}, crowd{}
		}
		if err := inTurn(i, single, many); err != nil {
			return err
		}
	}
	size, err := recordSize(ctx, d)
	if err != nil {
		return err
	}
	b.decisionRows(one, whole, refused, passed)
	b.note("**Decision.** `gate.Act` with %d guardrails (the shipped ones, the sample's own, and policies each about one operation of one "+
		"application) and the sample task's compiled grant; the action is a recognised read. \"To dispatch\" ends when the door may act: the "+
		"decision's record (%d bytes on average, outcomes included) and its Merkle hashes are on the disk. \"With its outcome\" adds a dispatch that "+
		"does nothing and the second durable record. Baseline: 1 KiB appended to a file beside it and fsynced, one writer.", policies, size)
	b.note("**%d callers** are as many tasks of one tenant, and each asks again as soon as it was answered. A refusal (a write that the grant does not cover) is a whole decision with one "+
		"durable record, like the baseline's one append, so the target is held against it; an action that is let through waits for its outcome's record "+
		"too, so each of those rows is two records. The signer of checkpoints runs meanwhile, as in a server.", callers)
	return nil
}

// callerTask is the task of one caller.
func callerTask(caller int) string { return fmt.Sprintf("%s-%d", taskName, caller) }

// of is the action in the caller's task.
func of(a action.Action, caller int) action.Action {
	a.Task = callerTask(caller)
	return a
}

func (b *bench) decisionRows(one, whole pair, refused, passed crowd) {
	own, base := one.p50()
	all, _ := whole.p50()
	rates := make([]float64, 0, len(one.base))
	for _, s := range one.base {
		rates = append(rates, s.rate())
	}
	refusals, decisions := median(refused.over(rates)), median(passed.over(rates))
	bare := short(base) + " append+fsync"
	bareRate := perSecond(median(rates)) + " append+fsync"
	bareTail := medianOf(one.base, samples.p99)
	b.add(row{"decision to dispatch, 1 caller, p50", short(own), bare, times(one.ratio()), "under 2x", one.ratio() < 2},
		row{"decision with its outcome (2 records), p50", short(all), bare, times(whole.ratio()), "", false},
		row{fmt.Sprintf("decisions of 1 record (refusals), %d callers", callers), perSecond(median(refused.rates)), bareRate, times(refusals),
			"at least 5x", refusals >= 5},
		row{fmt.Sprintf("decisions with outcomes (2 records), %d callers", callers), perSecond(median(passed.rates)), bareRate, times(decisions), "", false})
	for _, c := range []struct {
		name string
		of   crowd
	}{{"decision of 1 record", refused}, {"decision to dispatch", passed}} {
		p99 := medianOf(c.of.times, samples.p99)
		b.add(row{fmt.Sprintf("%s, %d callers, p99", c.name, callers), short(p99), short(bareTail) + " append+fsync, 1 writer", times(float64(p99) / float64(bareTail)),
			"under 10 ms", p99 < 10*time.Millisecond})
	}
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

// refuse passes the gate once with an action that the grant does not cover: a
// decision of one record.
func refuse(ctx context.Context, g *gate.Gate, a action.Action) (time.Duration, error) {
	start := time.Now()
	res := g.Act(ctx, a, nil, func(context.Context, gate.Permit) action.Outcome { return action.Outcome{State: action.Unknown} })
	d := time.Since(start)
	if res.Decision.Verdict != action.Deny || res.Decision.Code != policy.CodeOutsideGrant || res.Seq < 0 {
		return 0, fmt.Errorf("the sample's write was not refused on record: %+v %d", res.Decision, res.Seq)
	}
	return d, nil
}

// crowd is what many callers saw.
type crowd struct {
	rates []float64 // per second, by round
	times []samples
}

// over is its rates to others, round by round.
func (c *crowd) over(base []float64) (out []float64) {
	for i, r := range c.rates {
		out = append(out, r/base[i])
	}
	return out
}

// inTurn does both, in an order that changes with the round.
func inTurn(round int, one, two func() error) error {
	if round%2 == 1 {
		one, two = two, one
	}
	if err := one(); err != nil {
		return err
	}
	return two()
}

// round has many callers ask for so long, each again as soon as it was answered.
func (c *crowd) round(callers int, long time.Duration, once func(caller int) (time.Duration, error)) error {
	var mu sync.Mutex
	var all samples
	var errs []error
	var wg sync.WaitGroup
	start := time.Now()
	for i := range callers {
		wg.Go(func() {
			var own samples
			var err error
			for err == nil && time.Since(start) < long {
				var d time.Duration
				if d, err = once(i); err == nil {
					own = append(own, d)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all, errs = append(all, own...), append(errs, err)
		})
	}
	wg.Wait()
	c.rates, c.times = append(c.rates, float64(len(all))/time.Since(start).Seconds()), append(c.times, all)
	return errors.Join(errs...)
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
