package approval

import (
	"context"
	"time"
)

// pollEvery bounds how late a decision made on another node is seen.
const pollEvery = 500 * time.Millisecond

// Wait returns the approval once it is not pending any more, or expired by the
// clock, or when ctx ends.
func (e *Engine) Wait(ctx context.Context, id string) (Approval, error) {
	for {
		e.mu.Lock()
		changed := e.changed
		e.mu.Unlock()
		a, err := e.Get(ctx, id)
		if err != nil {
			return Approval{}, err
		}
		if a.State != Pending {
			return a, nil
		}
		if !e.now().Before(a.Statement.Expires) {
			if err := e.Expire(ctx); err != nil {
				return Approval{}, err
			}
			continue
		}
		timer := time.NewTimer(pollEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return Approval{}, ctx.Err()
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (e *Engine) announce() {
	e.mu.Lock()
	close(e.changed)
	e.changed = make(chan struct{})
	e.mu.Unlock()
}
