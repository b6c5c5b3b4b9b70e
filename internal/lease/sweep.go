package lease

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/record"
)

// Sweep asks every upstream that can answer which labels of ours it holds. What
// no lease is open for is an orphan: of a ledger that is older than the upstream,
// or of a revocation that was confirmed and came back. It is recorded as
// lease.orphan and ended like any other lease.
//
// The list is taken first and the leases are read after it, each under its claim:
// one that was being issued or ended meanwhile is not taken for an orphan.
func (k *Keeper) Sweep(ctx context.Context) error {
	if k.Upstreams == nil {
		return nil
	}
	if err := k.load(ctx); err != nil {
		return err
	}
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for _, u := range k.Upstreams() {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, batchLimit)
			defer cancel()
			if err := k.sweep(ctx, u); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("sweep %s: %w", u.Source, err))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (k *Keeper) sweep(ctx context.Context, u Upstream) error {
	src, err := k.Find(ctx, Lease{Source: u.Source, Audience: u.Audience})
	if err != nil {
		return err
	}
	ls, ok := src.(Lister)
	if !ok {
		return nil
	}
	labels, err := ls.List(ctx, k.Prefix)
	if err != nil {
		return err
	}
	for some := range slices.Chunk(labels, chunk) {
		errs := make([]error, len(some))
		var wg sync.WaitGroup
		for i, label := range some {
			if id, ok := strings.CutPrefix(label, k.Prefix); ok && id != "" {
				wg.Go(func() { errs[i] = k.orphan(ctx, u, src, label, id) })
			}
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return nil
}

// orphan ends what carries a label, unless a lease is open for it.
func (k *Keeper) orphan(ctx context.Context, u Upstream, src Source, label, id string) error {
	if err := k.claim(ctx, id); err != nil {
		return err
	}
	defer k.unclaim(id)
	l, err := k.get(ctx, id)
	switch {
	case errors.Is(err, record.ErrNotFound):
		l = Lease{ID: id, Label: label, Source: u.Source, Audience: u.Audience, Purpose: "not on record"}
	case err != nil:
		return err
	case l.State != Revoked:
		return nil
	}
	if src.Confirm(ctx, Credential{Label: label}) == nil {
		return nil // it was ended between the list and now
	}
	l.State, l.Since, l.Attempts, l.Why = Revoking, time.Now().UTC(), 0, "upstream holds it, and it is not in use"
	if err := k.put(ctx, "lease.orphan", l, nil); err != nil {
		return err
	}
	if err := k.revoke(ctx, l); err != nil {
		k.nudge()
		return err
	}
	return nil
}
