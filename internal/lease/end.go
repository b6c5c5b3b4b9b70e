package lease

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// End ends every lease of the task and returns when all are confirmed, or with
// the reason why one is not yet; Run goes on trying. One that ends by time alone is
// left to that.
func (k *Keeper) End(ctx context.Context, task string) error {
	if err := k.load(ctx); err != nil {
		return err
	}
	k.mu.Lock()
	var mine []Lease
	for id := range k.tasks[task] {
		mine = append(mine, k.open[id])
	}
	k.mu.Unlock()
	return k.endAll(ctx, mine)
}

// EndOne ends one lease of a task that goes on: what replaces it is in use already.
func (k *Keeper) EndOne(ctx context.Context, id string) error {
	err := k.end(ctx, id)
	if err != nil {
		k.nudge()
	}
	return err
}

// endAll tries each once, those of one upstream together.
func (k *Keeper) endAll(ctx context.Context, all []Lease) error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, l := range all {
		wg.Go(func() {
			if err := k.end(ctx, l.ID); err != nil {
				errs[i] = fmt.Errorf("lease %s of %s is not confirmed revoked: %w", l.ID, l.Source, err)
			}
		})
	}
	wg.Wait()
	err := errors.Join(errs...)
	if err != nil {
		k.nudge()
	}
	return err
}

// end moves one lease to revoked: record the intent, revoke, confirm, record.
func (k *Keeper) end(ctx context.Context, id string) error {
	if err := k.claim(ctx, id); err != nil {
		return err
	}
	defer k.unclaim(id)
	l, err := k.get(ctx, id)
	if err != nil {
		// As in revoke: the label is enough to end it.
		k.mu.Lock()
		l, known := k.open[id]
		k.mu.Unlock()
		if known {
			err = errors.Join(err, k.enqueue(context.WithoutCancel(ctx), l))
		}
		return err
	}
	if l.State == Revoked {
		return nil
	}
	return k.revoke(ctx, l)
}

// revoke is the rest of end, for who holds the claim.
func (k *Keeper) revoke(ctx context.Context, l Lease) error {
	if l.State != Revoking {
		l.State, l.Since = Revoking, time.Now().UTC()
		if err := k.put(ctx, "lease.revoking", l, nil); err != nil {
			// Ending less is worse than an end without its record: the state stays
			// as it is, so that the end is tried, and recorded, again.
			return errors.Join(err, k.enqueue(ctx, l))
		}
	}
	if err := k.enqueue(ctx, l); err != nil {
		if late, ok := errors.AsType[*comesLate](err); ok {
			l.Lasts = late.until
			return k.lasts(ctx, l, late.Error())
		}
		if l.Lasts.After(time.Now()) && errors.Is(err, errConfirm) {
			return k.lasts(ctx, l, "its upstream may take it until "+l.Lasts.Format(time.RFC3339)+", and nothing but time ends it, or tells; nobody uses it")
		}
		l.Attempts++
		l.Tried, l.Why = time.Now().UTC(), err.Error()
		// Outside of the caller's time: that it failed must be seen.
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if rec := k.put(rctx, "lease.unconfirmed", l, nil); rec != nil {
			return errors.Join(err, rec)
		}
		return err
	}
	l.State, l.Since, l.Tried, l.Sealed, l.Why = Revoked, time.Now().UTC(), time.Time{}, nil, ""
	l.Attempts++
	return k.put(context.WithoutCancel(ctx), "lease.revoked", l, nil)
}

// lasts says once that a lease waits for its time: what can be done of its end is.
func (k *Keeper) lasts(ctx context.Context, l Lease, why string) error {
	if l.Why != "" && l.Attempts == 0 {
		return nil
	}
	l.Attempts, l.Tried, l.Why = 0, time.Time{}, why // no more of revocations that failed
	return k.put(context.WithoutCancel(ctx), "lease.lasting", l, nil)
}

// Recover ends every lease that an earlier process left open, and then what
// upstream holds and no lease is open for. It returns when each was tried once;
// Run goes on with the rest.
func (k *Keeper) Recover(ctx context.Context) error {
	if err := k.load(ctx); err != nil {
		return err
	}
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for u, ls := range byUpstream(k.some(func(Lease) bool { return true })) {
		wg.Go(func() {
			if _, err := k.round(ctx, ls); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("%s: %w", u.Source, err))
			}
		})
	}
	wg.Wait()
	return errors.Join(append(errs, k.Sweep(ctx))...)
}

func byUpstream(ls []Lease) map[Upstream][]Lease {
	out := map[Upstream][]Lease{}
	for _, l := range ls {
		out[l.upstream()] = append(out[l.upstream()], l)
	}
	return out
}

// Back-off of one upstream, and how often Run looks when nothing is nudged.
const (
	firstRetry = time.Second
	lastRetry  = 5 * time.Minute // of an upstream
	lastTry    = time.Minute     // of a lease whose upstream answers
	lookEvery  = 5 * time.Second
	sweepEvery = 10 * time.Minute
)

// backoff is what Run remembers of one upstream.
type backoff struct {
	wait    time.Duration
	next    time.Time
	running bool
}

// Run ends what is to be ended and was not: revocations that are not confirmed,
// leases whose time is over, leases whose issue failed half-way. It renews what
// is to be renewed, and sweeps, until ctx is done. Each upstream is worked on by
// itself. An upstream that answers nothing is tried again after a second, then
// less often, at most every five minutes; and so is a lease that cannot be ended,
// after a tenth of the time for which that was tried, at most every minute.
func (k *Keeper) Run(ctx context.Context) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	defer wg.Wait()
	state := map[Upstream]*backoff{}
	swept := time.Now()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	soon := time.NewTimer(firstRetry)
	defer soon.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
			soon.Reset(firstRetry)
			continue
		case <-soon.C:
		case <-tick.C:
		}
		if k.load(ctx) != nil {
			continue
		}
		if time.Since(swept) >= sweepEvery {
			swept = time.Now()
			wg.Go(func() { _ = k.Sweep(ctx) }) // what it finds is on record; what it cannot reach is asked again
		}
		for u, ls := range byUpstream(k.some(k.due)) {
			mu.Lock()
			b := state[u]
			if b == nil {
				b = &backoff{}
				state[u] = b
			}
			ready := !b.running && !time.Now().Before(b.next)
			b.running = b.running || ready
			mu.Unlock()
			if !ready {
				continue
			}
			wg.Go(func() {
				down, _ := k.round(ctx, ls) // each error is in its lease and on record
				mu.Lock()
				defer mu.Unlock()
				b.running = false
				if !down {
					b.wait, b.next = 0, time.Time{}
					return
				}
				b.wait = min(max(2*b.wait, firstRetry), lastRetry)
				b.next = time.Now().Add(b.wait)
				soon.Reset(min(b.wait, lookEvery))
			})
		}
	}
}

// due is called with mu held.
func (k *Keeper) due(l Lease) bool {
	now := time.Now()
	switch l.State {
	case Revoking:
		waits := l.Attempts == 0 && l.Lasts.After(now)
		return k.busy[l.ID] == nil && !waits && !now.Before(l.Tried.Add(min(max(l.Tried.Sub(l.Since)/10, firstRetry), lastTry)))
	case Requested: // whoever asked for it is gone
		return k.busy[l.ID] == nil
	case Issued:
		return !now.Before(l.Until) || k.renewable(l, now)
	}
	return false
}

// renewable: half of its time is over, and there is more to be had.
func (k *Keeper) renewable(l Lease, now time.Time) bool {
	return l.State == Issued && l.TTL > 0 && now.Before(l.Until) && l.Expires.Before(l.Until) && now.After(l.Expires.Add(-l.TTL/2))
}

// chunk is how many leases of one upstream are tried together.
const chunk = 128

// round tries the leases of one upstream once, those first that were tried least.
// When nothing of a chunk could be done the upstream is taken to be down, and
// the rest is left for the next round.
func (k *Keeper) round(ctx context.Context, ls []Lease) (down bool, failed error) {
	slices.SortFunc(ls, func(a, b Lease) int {
		return cmp.Or(cmp.Compare(a.Attempts, b.Attempts), a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID))
	})
	for some := range slices.Chunk(ls, chunk) {
		errs := make([]error, len(some))
		var wg sync.WaitGroup
		for i, l := range some {
			wg.Go(func() {
				if k.renewable(l, time.Now()) && ctx.Err() == nil {
					errs[i] = k.renew(ctx, l.ID)
					return
				}
				errs[i] = k.end(ctx, l.ID)
			})
		}
		wg.Wait()
		n := 0
		for _, err := range errs {
			if err != nil {
				failed = err
				n++
			}
		}
		if n == len(some) || ctx.Err() != nil {
			return true, cmp.Or(failed, ctx.Err())
		}
	}
	return false, failed
}

// renew keeps an issued lease alive. What was renewed upstream and could not be
// recorded ends earlier on record than it does upstream; it is ended with its
// task in either case.
func (k *Keeper) renew(ctx context.Context, id string) error {
	if err := k.claim(ctx, id); err != nil {
		return err
	}
	defer k.unclaim(id)
	l, err := k.get(ctx, id)
	now := time.Now().UTC()
	if err != nil || !k.renewable(l, now) {
		return err
	}
	src, err := k.Find(ctx, l)
	if err != nil {
		return err
	}
	r, ok := src.(Renewer)
	if !ok {
		return nil
	}
	secret, err := k.Seal.Open(kind+"/"+l.ID, l.Sealed)
	if err != nil {
		return err
	}
	defer clear(secret)
	ctx, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	l.Expires = l.next(now)
	if err := r.Renew(ctx, Credential{Label: l.Label, Secret: secret}, l.Expires); err != nil {
		return fmt.Errorf("renew: %w", err)
	}
	return k.put(ctx, "lease.renewed", l, nil)
}
