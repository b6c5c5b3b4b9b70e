package seal

import (
	"context"
	"fmt"
	"time"
)

// RingState is what may be said of a ring.
type RingState struct {
	Kind        string    `json:"kind"`
	KeyID       string    `json:"keyID,omitempty"` // that the keys are wrapped by
	Generations int       `json:"generations"`     // of data keys; 0 while closed
	Wrapped     time.Time `json:"wrapped,omitzero"`
	Heard       time.Time `json:"heard,omitzero"` // when the KEK last opened it
	Closed      bool      `json:"closed,omitempty"`
	Why         string    `json:"why,omitempty"` // the KEK did not answer last time
}

// State says where the ring stands.
func (r *Ring) State() RingState {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.root.mu.RLock()
	defer r.root.mu.RUnlock()
	s := RingState{Kind: r.file.Kind, KeyID: r.file.Wrapped.KeyID, Generations: len(r.root.keys), Wrapped: r.since, Heard: r.heard, Closed: r.root.closed != nil}
	if r.why != nil {
		s.Why = r.why.Error()
	}
	return s
}

// Check asks a remote KEK whether it still opens the ring, and wraps the keys anew
// when the KEK names another key (Kubernetes KMS v2: a key ID that differs is
// stale). Until that is confirmed the ring stays as it is, so the older key must
// stay usable at the KMS. rewrapped says that it was done.
//
// When the KEK has not answered for grace, the keys are forgotten, and Root answers
// ErrClosed; the first answer opens them again.
func (r *Ring) Check(ctx context.Context, grace time.Duration) (rewrapped bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	kek, ok := r.kek.(Remote)
	if !ok {
		return false, nil
	}
	id, err := kek.KeyID(ctx)
	if err == nil {
		err = r.reopen(ctx)
	}
	if err == nil && id != r.file.Wrapped.KeyID {
		if err = r.rewrap(ctx, kek, id); err == nil {
			return true, nil
		}
		// It still opens as it is: the failure is told and tried again.
		r.why = fmt.Errorf("wrap the keys by key %q: %w", id, err)
		return false, r.why
	}
	r.why = err
	if err != nil && time.Since(r.heard) >= grace && r.root.Err() == nil {
		r.root.close(fmt.Errorf("%w since %s: %w", ErrClosed, r.heard.UTC().Format(time.RFC3339), err))
	}
	return false, err
}

// reopen is called with mu held.
func (r *Ring) reopen(ctx context.Context) error {
	keys, err := open(ctx, r.kek, r.file)
	if err != nil {
		return err
	}
	r.heard = time.Now()
	if r.root.Err() != nil {
		r.root.set(keys)
	} else {
		forget(keys)
	}
	return nil
}

// checkEvery is how often a remote KEK is asked, if its grace is not shorter.
const checkEvery = time.Minute

// Watch checks until ctx ends, and tells what changed: a failure, once; its end,
// with nil; and a rewrapping, with nil too.
func (r *Ring) Watch(ctx context.Context, grace time.Duration, changed func(rewrapped bool, err error)) {
	tick := time.NewTicker(min(checkEvery, max(grace/4, 100*time.Millisecond)))
	defer tick.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		cctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		rewrapped, err := r.Check(cctx, grace)
		cancel()
		if ctx.Err() == nil && (rewrapped || (err != nil) != failed) {
			failed = err != nil
			changed(rewrapped, err)
		}
	}
}
