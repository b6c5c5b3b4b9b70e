package lease

import (
	"context"
	"time"
)

// Order is what a source is asked to issue.
type Order struct {
	Label                string
	Task, Agent, Purpose string
	Account              string
	Expires              time.Time
}

// Credential names one credential to end. A nil Secret means that only the label
// is known.
type Credential struct {
	Label  string
	Secret []byte
	// Asked is when a credential was asked for of which only the label is known;
	// zero if none is missing.
	Asked time.Time
	Lost  time.Time // see Lease
}

// Source is one kind of credential at one upstream. All methods may be called
// again after a failure, and concurrently.
type Source interface {
	// Issue obtains a credential and marks it with the order's label. One that comes
	// with an error exists and is not what was asked for: it is never used, and
	// Revoke and Confirm are given it. ErrNotIssued comes without.
	Issue(ctx context.Context, o Order) (credential []byte, err error)
	// Revoke ends the credential, and whatever else carries the label.
	Revoke(ctx context.Context, c Credential) error
	// Confirm returns nil only if the upstream was just seen to refuse the
	// credential, or to list nothing that carries the label.
	Confirm(ctx context.Context, c Credential) error
}

// Batch is a Source whose upstream ends many credentials in one step. Errors are
// by position; one credential that cannot be ended does not keep the others.
type Batch interface {
	Source
	RevokeAll(ctx context.Context, cs []Credential) []error
	ConfirmAll(ctx context.Context, cs []Credential) []error
}

// Patient is a Source that may have to wait for its turn: so much is added to what an
// attempt may take.
type Patient interface {
	Source
	Patience() time.Duration
}

// patience is how long an attempt may take.
func patience(s Source, limit time.Duration) time.Duration {
	if p, ok := s.(Patient); ok {
		limit += p.Patience()
	}
	return limit
}

// Renewer is a Source whose credentials end by themselves and can be kept alive
// for longer.
type Renewer interface {
	Source
	Renew(ctx context.Context, c Credential, expires time.Time) error
}

// Lister is a Source that can say which labels exist at its upstream.
type Lister interface {
	Source
	List(ctx context.Context, prefix string) (labels []string, err error)
}

// Lasting is a Source whose credentials end by time.
type Lasting interface {
	Source
	// Lasts is when the credential of an order, asked for now, is over at the latest,
	// and whether nothing but time ends it, or tells that it ended.
	Lasts(ctx context.Context, o Order) (over time.Time, alone bool, err error)
}

// Slow is a Source whose upstream may go on with an order after its answer was lost.
type Slow interface {
	Source
	// Late is for how long after it was asked for a credential may still come to exist.
	Late() time.Duration
}
