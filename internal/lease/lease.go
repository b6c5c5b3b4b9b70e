// Package lease issues short-lived credentials for one task and takes them back.
//
// Invariants:
//   - No lease is usable before its record is durable. The order of issuing is:
//     record lease.requested; obtain the credential upstream, labelled with the
//     lease's id; record lease.issued with the credential sealed; use.
//   - A lease never outlives its task: End stops its use at once, in memory, and
//     then ends it upstream. When it may live longest is fixed when it is
//     requested, and no renewal goes beyond that.
//   - Ended means confirmed: the upstream was asked, after the revocation, and
//     refused the credential. Until then the lease is visible as revoking and is
//     tried again, with back-off, for ever. A static secret is the exception: no
//     upstream ends it with a task, and its lease says static.
//   - What an upstream ends by time alone (Lasting) stays in sight as revoking until
//     then. Once it is revoked, as far as it can be, it is no alarm before: nothing of
//     it is used any more, since the copy in the boundary was the only one.
//   - So does one whose answer was lost, if it may come late (Slow): nothing carries its
//     label now, and that is seen to once more when nothing can come any more.
//   - Upstreams do not wait for each other: each has a queue of its own, which
//     works on few leases at once.
//   - Nothing of ours lives upstream unseen: Sweep compares what an upstream holds
//     under our prefix with the leases that are open, and ends what is not one.
//
// What a crash leaves behind: a lease in state requested (the credential may or
// may not exist upstream), issued or revoking. Recover ends all of them. A
// requested one is found upstream by its label. A ledger that is older than what
// upstream holds, such as a restored one, is what Sweep is for.
//
// Not trusted: the target's own expiry, and its word that a revocation worked.
package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/record"
)

// State of a lease. It only moves forward, but for one that Sweep found alive
// after it was revoked: that one is revoking again.
type State string

// The states.
const (
	Requested State = "requested" // may exist upstream
	Issued    State = "issued"    // exists upstream
	Revoking  State = "revoking"  // is being ended, not yet confirmed; from requested, if it must not be used
	Revoked   State = "revoked"   // the upstream was seen to refuse it
)

// Lease is a credential issued for a task, as it is kept in the state.
type Lease struct {
	ID       string `json:"id"`
	Task     string `json:"task"`
	Agent    string `json:"agent"`
	Source   string `json:"source"`   // name of the CredentialSource
	Audience string `json:"audience"` // the one origin it is sent to
	Account  string `json:"account"`  // the upstream's name for who acts
	Purpose  string `json:"purpose"`
	// Chain are the tasks that the task is a part of, nearest first.
	Chain []string `json:"chain,omitempty"`
	// Label marks the credential at the upstream, so that it can be found without
	// knowing it.
	Label string    `json:"label"`
	State State     `json:"state"`
	Since time.Time `json:"since"`
	Asked time.Time `json:"asked,omitzero"` // when it was requested
	// Until is when it ends at the latest, whatever is renewed.
	Until time.Time `json:"until,omitzero"`
	// Expires is when it ends at the upstream by itself, if nobody renews it and
	// the upstream keeps its word. TTL is by how much it is renewed; 0 is not at all.
	Expires  time.Time     `json:"expires,omitzero"`
	TTL      time.Duration `json:"ttlNanos,omitempty"`
	Attempts int           `json:"attempts,omitempty"` // revocations tried
	Tried    time.Time     `json:"tried,omitzero"`     // when the last one was not confirmed
	Why      string        `json:"why,omitempty"`      // of the last failure; no secret
	Sealed   []byte        `json:"sealed,omitempty"`   // the credential, until it is revoked
	// Static says that the credential is a secret which outlives its tasks: what
	// ends with the lease is that the boundary puts it in.
	Static bool `json:"static,omitempty"`
	// Lasts is until when the upstream may take it, whatever anybody does, or may still
	// make it; zero is that it can be ended.
	Lasts time.Time `json:"lasts,omitzero"`
	// Lost is until when one may live whose answer was lost, as it was declared when it
	// was asked for.
	Lost time.Time `json:"lost,omitzero"`
}

// Request says for what a lease is.
type Request struct {
	Task, Agent, Source, Audience, Account, Purpose string
	Chain                                           []string // of the task
	Static                                          bool
	// Until is when it must be over: the end of the task's time.
	Until time.Time
	// TTL is how long it lives unless it is renewed; 0 is until Until.
	TTL time.Duration
	// Live is asked in the transaction of lease.requested whether the task may
	// still be given credentials; nil asks nobody. So a task whose end is on
	// record gets none, and End, which comes after that record, sees all.
	Live func(record.Tx) error
}

// ErrNotIssued marks an error of Source.Issue after which it is certain that
// nothing exists upstream. Any other error leaves that open, and the lease is
// swept by its label.
var ErrNotIssued = errors.New("not issued")

// Kinds of state: open leases, and those that are confirmed revoked.
const (
	kind     = "lease"
	kindOver = "lease.over"
)

// issueLimit bounds one attempt to issue.
const issueLimit = 30 * time.Second

// Upstream names a source and an audience of it.
type Upstream struct{ Source, Audience string }

func (l Lease) upstream() Upstream { return Upstream{l.Source, l.Audience} }

// Config is what a keeper works with.
type Config struct {
	Log  record.Log
	Seal record.Sealer
	IDs  func() string
	// Prefix begins every label. It belongs to this tenant of this installation
	// alone, and stays with its data: Sweep ends what carries it.
	Prefix string
	// Find returns the source of a lease. It is asked again at each step, since a
	// restart lost the first answer and resources change.
	Find func(ctx context.Context, l Lease) (Source, error)
	// Upstreams are those that Sweep looks at; nil is none.
	Upstreams func() []Upstream
}

// Keeper holds the leases of one tenant.
type Keeper struct {
	Config
	wake chan struct{}

	mu     sync.Mutex
	busy   map[string]chan struct{}   // leases that somebody is issuing or ending now; closed when done
	queues map[Upstream]*queue        // of revocations
	loaded bool                       // open and tasks are filled from the store
	open   map[string]Lease           // not confirmed revoked, without their credentials
	tasks  map[string]map[string]bool // ids of open ones, by task
}

// New makes the keeper of one tenant's leases. Run must be called for failed
// revocations to be tried again.
func New(c Config) *Keeper {
	return &Keeper{Config: c, wake: make(chan struct{}, 1), busy: map[string]chan struct{}{}, queues: map[Upstream]*queue{},
		open: map[string]Lease{}, tasks: map[string]map[string]bool{}}
}

// Issue obtains a credential for a task. The returned bytes are the only copy
// outside the sealed state; the caller keeps them in the boundary.
func (k *Keeper) Issue(ctx context.Context, r Request) (Lease, []byte, error) {
	now := time.Now().UTC()
	l := Lease{ID: k.IDs(), Task: r.Task, Agent: r.Agent, Source: r.Source, Audience: r.Audience, Account: r.Account, Purpose: r.Purpose, Chain: r.Chain, Static: r.Static,
		State: Requested, Since: now, Asked: now, Until: r.Until.UTC(), TTL: r.TTL}
	l.Label = k.Prefix + l.ID
	if !l.Until.After(now) {
		return l, nil, errors.New("the task's time is spent")
	}
	l.Expires = l.next(now)
	if err := k.load(ctx); err != nil {
		return l, nil, err
	}
	src, err := k.Find(ctx, l)
	if err != nil {
		return l, nil, fmt.Errorf("credential source %s: %w", r.Source, err)
	}
	o := Order{Label: l.Label, Task: l.Task, Agent: l.Agent, Purpose: l.Purpose, Account: l.Account, Expires: l.Expires}
	if s, ok := src.(Lasting); ok {
		lctx, cancel := context.WithTimeout(ctx, issueLimit)
		over, alone, err := s.Lasts(lctx, o)
		cancel()
		if err != nil {
			return l, nil, fmt.Errorf("credential source %s: %w", r.Source, err)
		}
		if l.Lost = over.UTC(); alone {
			l.Lasts = l.Lost
		}
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
	ictx, cancel := context.WithTimeout(ctx, patience(src, issueLimit))
	secret, err := src.Issue(ictx, o)
	cancel()
	if err != nil {
		never := errors.Is(err, ErrNotIssued)
		if !never && secret != nil {
			l.Lasts = time.Time{} // which was of what was asked for
			k.unused(ctx, src, l, secret)
		}
		k.unclaim(l.ID)
		k.settle(l, never)
		return l, nil, fmt.Errorf("issue from %s: %w", r.Source, err)
	}
	l.State, l.Since = Issued, time.Now().UTC()
	if !r.Static { // which is sealed in its own place, and not needed to end the lease
		l.Sealed, err = k.Seal.Seal(kind+"/"+l.ID, secret)
	}
	if err == nil {
		err = k.put(ctx, "lease.issued", l, nil)
	}
	if err != nil {
		k.unused(ctx, src, l, secret)
		k.unclaim(l.ID)
		k.settle(l, false)
		return l, nil, fmt.Errorf("record lease: %w", err)
	}
	k.unclaim(l.ID)
	l.Sealed = nil
	return l, secret, nil
}

// unused keeps what exists upstream and nobody uses: lease.revoking is recorded with
// the credential sealed in the state, where it stays until lease.revoked, since some
// upstreams know it by nothing but its text. Then settle ends it. A crash before the
// record leaves the lease requested, with the label alone; a record that fails does as
// well, and then the text, known here for the last time, is revoked first.
func (k *Keeper) unused(ctx context.Context, src Source, l Lease, secret []byte) {
	defer clear(secret)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), attemptLimit)
	defer cancel()
	l.State, l.Since = Revoking, time.Now().UTC()
	var err error
	if !l.Static {
		l.Sealed, err = k.Seal.Seal(kind+"/"+l.ID, secret)
	}
	if err == nil {
		err = k.put(ctx, "lease.revoking", l, nil)
	}
	if err != nil {
		_ = src.Revoke(ctx, Credential{Label: l.Label, Secret: secret}) // settle tells
	}
}

// next is when a lease that is issued or renewed now ends by itself.
func (l Lease) next(now time.Time) time.Time {
	if e := now.Add(l.TTL); l.TTL > 0 && e.Before(l.Until) {
		return e
	}
	return l.Until
}

// settle ends a lease that never became usable, outside the caller's context.
func (k *Keeper) settle(l Lease, never bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var err error
	if never {
		l.State, l.Since, l.Why, l.Sealed = Revoked, time.Now().UTC(), "never issued", nil
		err = k.put(ctx, "lease.revoked", l, nil)
	} else {
		err = k.end(ctx, l.ID)
	}
	if err != nil {
		k.nudge()
	}
}

// Open lists the leases that are not confirmed revoked.
func (k *Keeper) Open(ctx context.Context) ([]Lease, error) { return k.list(ctx, kind) }

// All lists every lease, without its sealed credential.
func (k *Keeper) All(ctx context.Context) ([]Lease, error) { return k.list(ctx, kind, kindOver) }

func (k *Keeper) list(ctx context.Context, kinds ...string) ([]Lease, error) {
	var out []Lease
	err := k.Log.View(ctx, func(tx record.Tx) error {
		out = nil
		for _, kind := range kinds {
			if err := tx.List(kind, func(_ string, raw []byte) error {
				var l Lease
				if err := json.Unmarshal(raw, &l); err != nil {
					return err
				}
				l.Sealed = nil
				out = append(out, l)
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// Unconfirmed are the leases whose revocation was tried and is not confirmed.
// Each is an alarm: somebody has to bring the upstream back.
func (k *Keeper) Unconfirmed(ctx context.Context) ([]Lease, error) {
	if err := k.load(ctx); err != nil {
		return nil, err
	}
	return k.some(func(l Lease) bool { return l.State == Revoking && l.Attempts > 0 }), nil
}

// some selects from the open leases, in no order.
func (k *Keeper) some(match func(Lease) bool) []Lease {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []Lease
	for _, l := range k.open {
		if match(l) {
			out = append(out, l)
		}
	}
	return out
}

// load fills the index of open leases, once: one process uses a store.
func (k *Keeper) load(ctx context.Context) error {
	k.mu.Lock()
	loaded := k.loaded
	k.mu.Unlock()
	if loaded {
		return nil
	}
	all, err := k.Open(ctx)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.loaded {
		k.loaded = true
		for _, l := range all {
			k.index(l)
		}
	}
	return nil
}

// index is called with mu held.
func (k *Keeper) index(l Lease) {
	l.Sealed = nil
	if l.State != Revoked {
		k.open[l.ID] = l
		if k.tasks[l.Task] == nil {
			k.tasks[l.Task] = map[string]bool{}
		}
		k.tasks[l.Task][l.ID] = true
		return
	}
	delete(k.open, l.ID)
	delete(k.tasks[l.Task], l.ID)
	if len(k.tasks[l.Task]) == 0 {
		delete(k.tasks, l.Task)
	}
}

// put writes the lease and its record in one transaction, and then the index. The
// sealed credential is state, not record: the ledger holds no secret, sealed or
// not. check, if any, may refuse inside the transaction.
func (k *Keeper) put(ctx context.Context, typ string, l Lease, check func(record.Tx) error) error {
	body := l
	body.Sealed = nil
	_, err := k.Log.Append(ctx, record.Draft{Type: typ, Task: l.Task, Agent: l.Agent, Actor: "sallyport", Body: body,
		Change: func(tx record.Tx) error {
			if check != nil {
				if err := check(tx); err != nil {
					return err
				}
			}
			switch {
			case l.State == Revoked:
				return errors.Join(tx.Delete(kind, l.ID), tx.Put(kindOver, l.ID, l))
			case typ == "lease.orphan":
				return errors.Join(tx.Delete(kindOver, l.ID), tx.Put(kind, l.ID, l))
			}
			return tx.Put(kind, l.ID, l)
		}})
	if err == nil {
		k.mu.Lock()
		k.index(l)
		k.mu.Unlock()
	}
	return err
}

// get reads one lease, whatever its state.
func (k *Keeper) get(ctx context.Context, id string) (l Lease, err error) {
	err = k.Log.View(ctx, func(tx record.Tx) error {
		err := tx.Get(kind, id, &l)
		if errors.Is(err, record.ErrNotFound) {
			err = tx.Get(kindOver, id, &l)
		}
		return err
	})
	return l, err
}

// Labelled finds the lease of a label, whatever its state; record.ErrNotFound says that
// there is none.
func (k *Keeper) Labelled(ctx context.Context, label string) (Lease, error) {
	id, ok := strings.CutPrefix(label, k.Prefix)
	if !ok {
		return Lease{}, record.ErrNotFound
	}
	return k.get(ctx, id)
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
