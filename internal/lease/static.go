package lease

import (
	"context"
	"errors"
	"fmt"

	"github.com/sallyport-dev/sallyport/internal/record"
)

// Static is a Source of a sealed secret that is not made for the task: an API
// token that an application knows already. A lease of it binds its use to the
// task. The application still takes the secret afterwards; whoever wants to end
// that changes it there and stores the new one.
type Static struct {
	// Secret is asked at each issue.
	Secret func(ctx context.Context) ([]byte, error)
}

// Issue opens the secret. Nothing comes to exist upstream.
func (s Static) Issue(ctx context.Context, _ Order) ([]byte, error) {
	b, err := s.Secret(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotIssued, err)
	}
	return b, nil
}

// Revoke has nothing to do upstream.
func (Static) Revoke(context.Context, Credential) error { return nil }

// Confirm has nobody to ask: what ended is in the boundary's own memory.
func (Static) Confirm(context.Context, Credential) error { return nil }

// ErrEnded refuses the use of a lease that is not in force.
var ErrEnded = errors.New("the lease is not in force")

// Used is the body of lease.used: a lease and the action that it is used for.
type Used struct {
	Lease
	Action string `json:"action"`
}

// Use puts on record that an action uses a lease, before it does. A lease whose
// end is on record is never used: both records are of one log, and the state is
// read in the transaction.
//
// A crash afterwards leaves a use that may not have happened, as its action does.
func (k *Keeper) Use(ctx context.Context, l Lease, action string) error {
	body := Used{l, action}
	body.Sealed = nil
	_, err := k.Log.Append(ctx, record.Draft{Type: "lease.used", Task: l.Task, Agent: l.Agent, Actor: "sallyport", Body: body,
		Change: func(tx record.Tx) error {
			var now Lease
			if err := tx.Get(kind, l.ID, &now); err != nil {
				return err
			}
			if now.State != Issued {
				return ErrEnded
			}
			return nil
		}})
	return err
}
