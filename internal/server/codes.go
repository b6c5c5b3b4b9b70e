package server

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/totp"
)

// codes gives out the one-time codes of a tenant's sealed secrets.
//
// Invariant: no two codes are of one time step of one secret. What was used is kept
// in memory alone: a process uses only steps that began after it did, so it uses
// none that one before it may have used.
//
// Codes are not looked for in what comes back: a verifier takes each once (RFC 6238
// section 5.2), and to replace six digits would tell who sends all of them which.
type codes struct {
	mu    sync.Mutex
	start time.Time
	last  map[[sha256.Size]byte]int64
}

func newCodes() *codes {
	return &codes{start: time.Now(), last: map[[sha256.Size]byte]int64{}}
}

// next is a code that nobody was given. It waits for the next time step if that of
// now was used, or is nearly over.
func (c *codes) next(ctx context.Context, k totp.Key) (string, error) {
	for {
		code, wait := c.take(k, time.Now())
		if code != "" {
			return code, nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("wait for the next code: %w", ctx.Err())
		case <-time.After(wait):
		}
	}
}

func (c *codes) take(k totp.Key, now time.Time) (code string, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, step := k.ID(), k.Step(now)
	first := k.Step(c.start) + 1
	if last, ok := c.last[id]; ok { // also when the clock was set back
		first = max(first, last+1)
	}
	if end := k.Begin(step + 1); step >= first && end.Sub(now) < k.Period/10 {
		first = step + 1
	}
	if step < first {
		return "", k.Begin(first).Sub(now)
	}
	c.last[id] = step
	return k.Code(step), 0
}

// totpKey is the key of a source's codes.
func (t *tenant) totpKey(ctx context.Context, ref *resource.SecretRef, stage action.Stage) (totp.Key, error) {
	b, err := t.stageSecret(ctx, ref, stage)
	if err != nil {
		return totp.Key{}, err
	}
	defer clear(b)
	k, err := totp.Parse(string(b))
	if err != nil {
		err = fmt.Errorf("secret %s: %w", ref.Sealed, err)
	}
	return k, err
}

// withCode has a form's sign-in enter a code as well.
func (t *tenant) withCode(ctx context.Context, f *lease.Form, ref *resource.SecretRef, stage action.Stage) error {
	k, err := t.totpKey(ctx, ref, stage)
	if err != nil {
		return err
	}
	// Steps begin together, so of several that wait one goes on with each.
	f.Wait = 3 * k.Period
	f.Code = func(ctx context.Context) (string, error) {
		k, err := t.totpKey(ctx, ref, stage)
		if err != nil {
			return "", err
		}
		return t.codes.next(ctx, k)
	}
	return nil
}
