// Package lease issues short-lived credentials for one task and takes them back.
//
// Invariants:
//   - No lease is usable before its record is durable. The order of issuing is:
//     record lease.requested; obtain the credential upstream, labelled with the
//     lease's id; record lease.issued with the credential sealed; use.
//   - A lease never outlives its task: End stops its use at once, in memory, and
//     then ends it upstream.
//   - Ended means confirmed: the upstream was asked, after the revocation, and
//     refused the credential. Until then the lease is visible as revoking and is
//     tried again, with back-off, for ever. A static secret is the exception: no
//     upstream ends it with a task, and its lease says static.
//
// What a crash leaves behind: a lease in state requested (the credential may or
// may not exist upstream), issued or revoking. Recover ends all of them. A
// requested one is found upstream by its label.
//
// Not trusted: the target's own expiry, and its word that a revocation worked.
package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/record"
)

// State of a lease. It only moves forward.
type State string

// The states.
const (
	Requested State = "requested" // may exist upstream
	Issued    State = "issued"    // exists upstream
	Revoking  State = "revoking"  // is being ended, not yet confirmed
	Revoked   State = "revoked"   // the upstream was seen to refuse it
)

// Lease is a credential issued for a task, as it is kept in the state.
type Lease struct {
	ID       string    `json:"id"`
	Task     string    `json:"task"`
	Agent    string    `json:"agent"`
	Source   string    `json:"source"`   // name of the CredentialSource
	Audience string    `json:"audience"` // the one origin it is sent to
	Account  string    `json:"account"`  // the upstream's name for who acts
	Purpose  string    `json:"purpose"`
	State    State     `json:"state"`
	Since    time.Time `json:"since"`
	Attempts int       `json:"attempts,omitempty"` // revocations tried
	Why      string    `json:"why,omitempty"`      // of the last failure; no secret
	Sealed   []byte    `json:"sealed,omitempty"`   // the credential, until it is revoked
	// Static says that the credential is a secret which outlives its tasks: what
	// ends with the lease is that the boundary puts it in.
	Static bool `json:"static,omitempty"`
}

// Label marks the credential at the upstream, so that it can be found without
// knowing it.
func (l Lease) Label() string { return "sallyport-lease/" + l.ID }

// Source is one kind of credential at one upstream. All methods may be called
// again after a failure.
type Source interface {
	// Issue obtains a credential and marks it with label.
	Issue(ctx context.Context, label string) (credential []byte, err error)
	// Revoke ends the credential, and whatever else carries the label. A nil
	// credential means that only the label is known.
	Revoke(ctx context.Context, label string, credential []byte) error
	// Confirm returns nil only if the upstream was just seen to refuse the
	// credential, or to list nothing that carries the label.
	Confirm(ctx context.Context, label string, credential []byte) error
}

// Request says for what a lease is.
type Request struct {
	Task, Agent, Source, Audience, Account, Purpose string
	Static                                          bool
	// Live is asked in the transaction of lease.requested whether the task may
	// still be given credentials; nil asks nobody. So a task whose end is on
	// record gets none, and End, which comes after that record, sees all.
	Live func(record.Tx) error
}

// ErrNotIssued marks an error of Source.Issue after which it is certain that
// nothing exists upstream. Any other error leaves that open, and the lease is
// swept by its label.
var ErrNotIssued = errors.New("not issued")

const kind = "lease"

// Keeper holds the leases of one tenant.
type Keeper struct {
	log  record.Log
	seal record.Sealer
	ids  func() string
	// find returns the source by name. It is asked again at each revocation,
	// since a restart lost the first answer.
	find func(ctx context.Context, l Lease) (Source, error)
	wake chan struct{}

	mu   sync.Mutex
	busy map[string]chan struct{} // leases that somebody is issuing or ending now; closed when done
}

// New makes the keeper of one tenant's leases. Run must be called for failed
// revocations to be tried again.
func New(log record.Log, seal record.Sealer, ids func() string, find func(context.Context, Lease) (Source, error)) *Keeper {
	return &Keeper{log: log, seal: seal, ids: ids, find: find, wake: make(chan struct{}, 1), busy: map[string]chan struct{}{}}
}

// Issue obtains a credential for a task. The returned bytes are the only copy
// outside the sealed state; the caller keeps them in the boundary.
func (k *Keeper) Issue(ctx context.Context, r Request) (Lease, []byte, error) {
	l := Lease{ID: k.ids(), Task: r.Task, Agent: r.Agent, Source: r.Source, Audience: r.Audience,
		Account: r.Account, Purpose: r.Purpose, Static: r.Static, State: Requested, Since: time.Now().UTC()}
	src, err := k.find(ctx, l)
	if err != nil {
		return l, nil, fmt.Errorf("credential source %s: %w", r.Source, err)
	}
	// Nobody ends it while it comes into being: an end that found nothing
	// upstream yet would be taken for one that worked.
	if err := k.claim(ctx, l.ID); err != nil {
		return l, nil, err
	}
	if err := k.put(ctx, "lease.requested", l, r.Live); err != nil {
		k.unclaim(l.ID)
		return l, nil, err
	}
	secret, err := src.Issue(ctx, l.Label())
	if err != nil {
		k.unclaim(l.ID)
		k.settle(l, errors.Is(err, ErrNotIssued))
		return l, nil, fmt.Errorf("issue from %s: %w", r.Source, err)
	}
	l.State, l.Since = Issued, time.Now().UTC()
	if !r.Static { // which is sealed in its own place, and not needed to end the lease
		l.Sealed, err = k.seal.Seal(kind+"/"+l.ID, secret)
	}
	if err == nil {
		err = k.put(ctx, "lease.issued", l, nil)
	}
	k.unclaim(l.ID)
	if err != nil {
		// It exists upstream and was never recorded as issued: end it now; if
		// this process dies first, Recover does, since requested is durable.
		k.settle(l, false)
		return l, nil, fmt.Errorf("record lease: %w", err)
	}
	return l, secret, nil
}

// settle ends a lease that never became usable, outside the caller's context.
func (k *Keeper) settle(l Lease, never bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var err error
	if never {
		l.State, l.Since, l.Why = Revoked, time.Now().UTC(), "never issued"
		err = k.put(ctx, "lease.revoked", l, nil)
	} else {
		err = k.end(ctx, l.ID)
	}
	if err != nil {
		k.nudge()
	}
}

// End ends every lease of the task and returns when all are confirmed, or with
// the reason why one is not yet; Run goes on trying.
func (k *Keeper) End(ctx context.Context, task string) error {
	open, err := k.Open(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range open {
		if l.Task == task {
			if err := k.end(ctx, l.ID); err != nil {
				errs = append(errs, fmt.Errorf("lease %s of %s is not confirmed revoked: %w", l.ID, l.Source, err))
			}
		}
	}
	if len(errs) > 0 {
		k.nudge()
	}
	return errors.Join(errs...)
}

// Open lists the leases that are not confirmed revoked.
func (k *Keeper) Open(ctx context.Context) ([]Lease, error) {
	all, err := k.All(ctx)
	open := all[:0]
	for _, l := range all {
		if l.State != Revoked {
			open = append(open, l)
		}
	}
	return open, err
}

// All lists every lease, without its sealed credential.
func (k *Keeper) All(ctx context.Context) ([]Lease, error) {
	var out []Lease
	err := k.log.View(ctx, func(tx record.Tx) error {
		out = nil
		return tx.List(kind, func(_ string, raw []byte) error {
			var l Lease
			if err := json.Unmarshal(raw, &l); err != nil {
				return err
			}
			l.Sealed = nil
			out = append(out, l)
			return nil
		})
	})
	return out, err
}

// Recover ends every lease that an earlier process left open. It returns when
// each was tried once; Run goes on with the rest.
func (k *Keeper) Recover(ctx context.Context) error {
	open, err := k.Open(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range open {
		if err := k.end(ctx, l.ID); err != nil {
			errs = append(errs, fmt.Errorf("lease %s of %s: %w", l.ID, l.Source, err))
		}
	}
	if len(errs) > 0 {
		k.nudge()
	}
	return errors.Join(errs...)
}

// end moves one lease to revoked: record the intent, revoke, confirm, record.
func (k *Keeper) end(ctx context.Context, id string) error {
	if err := k.claim(ctx, id); err != nil {
		return err
	}
	defer k.unclaim(id)

	var l Lease
	if err := k.log.View(ctx, func(tx record.Tx) error { return tx.Get(kind, id, &l) }); err != nil {
		return err
	}
	if l.State == Revoked {
		return nil
	}
	if l.State != Revoking {
		l.State, l.Since = Revoking, time.Now().UTC()
		if err := k.put(ctx, "lease.revoking", l, nil); err != nil {
			// Ending less is worse than an end without its record: the state stays
			// as it is, so that the end is tried, and recorded, again.
			return errors.Join(err, k.upstream(ctx, l))
		}
	}
	if err := k.upstream(ctx, l); err != nil {
		l.Attempts++
		l.Why = err.Error()
		if rec := k.put(ctx, "lease.unconfirmed", l, nil); rec != nil {
			return errors.Join(err, rec)
		}
		return err
	}
	l.State, l.Since, l.Sealed, l.Why = Revoked, time.Now().UTC(), nil, ""
	l.Attempts++
	return k.put(ctx, "lease.revoked", l, nil)
}

func (k *Keeper) upstream(ctx context.Context, l Lease) error {
	src, err := k.find(ctx, l)
	if err != nil {
		return err
	}
	var secret []byte
	if l.Sealed != nil {
		if secret, err = k.seal.Open(kind+"/"+l.ID, l.Sealed); err != nil {
			return err
		}
		defer clear(secret)
	}
	if err := src.Revoke(ctx, l.Label(), secret); err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	if err := src.Confirm(ctx, l.Label(), secret); err != nil {
		return fmt.Errorf("confirm: %w", err)
	}
	if l.Attempts > 0 && secret != nil {
		// An attempt that failed may have left something of its own behind,
		// under the label.
		if err := src.Confirm(ctx, l.Label(), nil); err != nil {
			return fmt.Errorf("confirm: %w", err)
		}
	}
	return nil
}

// put writes the lease and its record in one transaction. The sealed credential
// is state, not record: the ledger holds no secret, sealed or not. check, if
// any, may refuse inside the transaction.
func (k *Keeper) put(ctx context.Context, typ string, l Lease, check func(record.Tx) error) error {
	body := l
	body.Sealed = nil
	_, err := k.log.Append(ctx, record.Draft{Type: typ, Task: l.Task, Agent: l.Agent, Actor: "sallyport", Body: body,
		Change: func(tx record.Tx) error {
			if check != nil {
				if err := check(tx); err != nil {
					return err
				}
			}
			return tx.Put(kind, l.ID, l)
		}})
	return err
}

// claim waits until nobody else works on the lease.
func (k *Keeper) claim(ctx context.Context, id string) error {
	for {
		k.mu.Lock()
		other := k.busy[id]
		if other == nil {
			k.busy[id] = make(chan struct{})
			k.mu.Unlock()
			return nil
		}
		k.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return fmt.Errorf("it is being issued or revoked: %w", ctx.Err())
		}
	}
}

func (k *Keeper) unclaim(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.busy[id])
	delete(k.busy, id)
}

func (k *Keeper) nudge() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run tries unconfirmed revocations again, first after a second, then less
// often, at most every five minutes, until ctx is done. Leases of running tasks
// are left alone: only those in state revoking or requested are touched, the
// latter when they are older than a minute.
func (k *Keeper) Run(ctx context.Context) {
	const first, last = time.Second, 5 * time.Minute
	wait := first
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
			wait = first
		case <-time.After(wait):
		}
		if k.retry(ctx) {
			wait = last
		} else {
			wait = min(2*wait, last)
		}
	}
}

// retry reports whether nothing is left to do.
func (k *Keeper) retry(ctx context.Context) bool {
	open, err := k.Open(ctx)
	if err != nil {
		return false
	}
	clean := true
	for _, l := range open {
		if l.State == Revoking || l.State == Requested && time.Since(l.Since) > time.Minute {
			if k.end(ctx, l.ID) != nil {
				clean = false
			}
		}
	}
	return clean
}
