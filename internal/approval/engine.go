package approval

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Object kinds. An approval moves to kindClosed when its state is final, so
// that the inbox does not grow slower with the past.
const (
	kindOpen   = "approval"
	kindClosed = "approval-closed"
)

// State is where an approval stands.
type State string

// The states. Only pending changes to granted, and only granted to used; the
// others are final.
const (
	Pending  State = "pending"
	Granted  State = "granted"
	Used     State = "used"
	Rejected State = "rejected"
	Expired  State = "expired"
)

func (s State) final() bool { return s != Pending && s != Granted }

// Approval is a statement and where it stands: object kind "approval", or
// "approval-closed" when it is final, id the statement's nonce.
type Approval struct {
	V          int       `json:"v"`
	Statement  Statement `json:"statement"`
	Hold       bool      `json:"hold,omitempty"` // records are hold.* instead of approval.*
	State      State     `json:"state"`
	Version    int64     `json:"version"` // rises with every change
	Requester  string    `json:"requester,omitempty"`
	Requested  time.Time `json:"requested"`
	Signatures []Signed  `json:"signatures,omitempty"`
	Closed     time.Time `json:"closed,omitzero"` // when it left pending
	// TookMillis is how long people had the question before it left pending.
	TookMillis int64  `json:"tookMillis,omitempty"`
	By         string `json:"by,omitempty"` // who rejected it
	Reason     string `json:"reason,omitempty"`
}

// ID is the statement's nonce.
func (a Approval) ID() string { return a.Statement.Nonce }

// Signed is one person's signature, kept so that it can be checked again.
type Signed struct {
	Person      string    `json:"person"`
	Fingerprint string    `json:"fingerprint"`
	Signature   string    `json:"signature"` // as receipt.VerifyApproval reads it
	At          time.Time `json:"at"`
}

// Refusal is a denial with a stable code. Its text may be shown.
type Refusal struct{ Code, Reason string }

func (r *Refusal) Error() string { return "approval: " + r.Code + ": " + r.Reason }

func refuse(code, reason string) error { return &Refusal{code, reason} }

// ErrBusy says that others kept changing the same approval. Nothing was done;
// the caller may try again.
var ErrBusy = errors.New("approval is being changed by others")

// errMoved says that what a record was built from has changed since.
var errMoved = errors.New("approval was changed meanwhile")

// Engine keeps the approvals of one tenant. It may be used from several
// goroutines, and several engines may share one log.
type Engine struct {
	log    record.Log
	people Directory
	now    func() time.Time

	mu      sync.Mutex
	changed chan struct{}     // closed and replaced when something was decided here
	claimed map[string]string // task, by open question for whose answer somebody here waits
}

// New makes an engine. now is the clock; time.Now when nil.
func New(log record.Log, people Directory, now func() time.Time) *Engine {
	if now == nil {
		now = time.Now
	}
	return &Engine{log: log, people: people, now: now, changed: make(chan struct{}), claimed: map[string]string{}}
}

// Draft is a statement to be asked for. The engine fills V, Tenant, Nonce,
// Expires, and NotBefore where it is zero.
type Draft struct {
	Statement Statement
	Valid     time.Duration // from NotBefore; required
	// Requester is who asks. They are put into Excluded, and so are the
	// accounts of everyone in it.
	Requester string
	// Hold says that an action waits for it: its records are hold.opened,
	// hold.approved, hold.rejected and hold.expired instead of
	// approval.requested, .granted, .rejected and .expired.
	Hold bool
	// Adopt takes up an open question of the same task that asks for the same and
	// for whose answer nobody waits any more, instead of asking again: nothing is
	// written then, and Change is not called. Whoever waits no more calls Abandon.
	Adopt bool
	// Planned says that people started the task to be asked: a certification run.
	Planned bool
	// Fill, if not nil, completes the statement with what the state says.
	Fill func(record.Tx, *Statement) error
	// Change, if not nil, is the caller's own change in the same transaction.
	Change func(record.Tx, Statement) error
}

// requestedBody is the body of approval.requested and hold.opened.
type requestedBody struct {
	V         int       `json:"v"`
	ID        string    `json:"id"`
	Statement Statement `json:"statement"`
	Requester string    `json:"requester,omitempty"`
}

// Request stores a statement as pending, in the transaction of its record.
func (e *Engine) Request(ctx context.Context, d Draft) (Statement, error) {
	now := e.now().UTC()
	s, known, err := e.draw(ctx, d, now)
	if err != nil {
		return Statement{}, fmt.Errorf("request approval: %w", err)
	}
	for _, a := range known {
		if e.claim(a) {
			return a.Statement, e.supersede(ctx, a)
		}
	}
	a := Approval{V: 1, Statement: s, Hold: d.Hold, State: Pending, Version: 1, Requester: d.Requester, Requested: now}
	_, err = e.log.Append(ctx, record.Draft{
		Type: a.recordType("requested"), Task: s.Task, Agent: s.Agent, Actor: actor(d.Requester),
		Body: requestedBody{V: 1, ID: s.Nonce, Statement: s, Requester: d.Requester},
		Change: func(tx record.Tx) error {
			if err := drip(tx, a, d.Planned); err != nil {
				return err
			}
			if err := put(tx, a); err != nil {
				return err
			}
			if d.Change != nil {
				return d.Change(tx, s)
			}
			return nil
		},
	})
	if err != nil {
		return Statement{}, fmt.Errorf("request approval: %w", err)
	}
	if d.Adopt {
		e.claim(a)
		return s, e.supersede(ctx, a)
	}
	return s, nil
}

// draw completes the statement of a draft from the state, and returns what is
// open already and could be adopted.
func (e *Engine) draw(ctx context.Context, d Draft, now time.Time) (s Statement, known []Approval, err error) {
	err = e.log.View(ctx, func(tx record.Tx) error {
		all, err := e.people.People(tx)
		if err != nil {
			return err
		}
		draft := d.Statement
		if d.Fill != nil {
			if err := d.Fill(tx, &draft); err != nil {
				return err
			}
		}
		names := append([]string{d.Requester}, draft.Excluded...)
		s = draft.complete(e.log.Tenant(), people(all).excluded(names), now, d.Valid)
		if err := s.check(); err != nil {
			return err
		}
		if known = nil; d.Adopt {
			known, err = alike(tx, s, now)
		}
		return err
	})
	return s, known, err
}

// excluded adds to the names the accounts that these people have now, so that
// they stay excluded when they come back under another name.
func (p people) excluded(names []string) []string {
	var out []string
	for _, name := range names {
		if name == "" {
			continue
		}
		q, _ := p.named(name)
		out = append(append(out, name), q.Accounts...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Get returns an approval.
func (e *Engine) Get(ctx context.Context, id string) (a Approval, err error) {
	err = e.log.View(ctx, func(tx record.Tx) error { a, err = get(tx, id); return err })
	return a, err
}

// List calls f for each approval in the state, by rising id, until f returns
// an error.
func (e *Engine) List(ctx context.Context, state State, f func(Approval) error) error {
	var found []Approval
	err := e.log.View(ctx, func(tx record.Tx) (err error) {
		found, err = list(tx, state)
		return err
	})
	if err != nil {
		return err
	}
	for _, a := range found {
		if err := f(a); err != nil {
			return err
		}
	}
	return nil
}

// Consume uses a granted approval up, inside the caller's transaction: the one
// that records and releases what was approved. want is the digest of what is
// about to be released. Those who signed must be eligible still.
func (e *Engine) Consume(tx record.Tx, id string, want action.Digest) (Statement, error) {
	a, err := get(tx, id)
	if err != nil {
		return Statement{}, err
	}
	switch a.State {
	case Granted:
	case Used:
		return Statement{}, refuse("used", "the approval was used before")
	default:
		return Statement{}, refuse("not_granted", "the approval is "+string(a.State))
	}
	if err := e.usable(tx, a, want); err != nil {
		return Statement{}, err
	}
	a.State, a.Version = Used, a.Version+1
	return a.Statement, put(tx, a)
}

func (e *Engine) usable(tx record.Tx, a Approval, want action.Digest) error {
	if want == "" || want != a.Statement.Digest {
		return refuse("digest_mismatch", "something else was approved")
	}
	if err := inTime(a.Statement, e.now()); err != nil {
		return err
	}
	if err := e.current(tx, a.Statement); err != nil {
		return err
	}
	all, err := e.read(tx)
	if err != nil {
		return err
	}
	if len(all.counted(a)) < a.Statement.Quorum {
		return refuse("quorum_lost", "someone who approved can no longer approve")
	}
	return nil
}

// Use consumes an approval in the transaction of the caller's own record. The
// draft's Change, if any, runs after.
func (e *Engine) Use(ctx context.Context, id string, want action.Digest, d record.Draft) (record.Entry, error) {
	change := d.Change
	d.Change = func(tx record.Tx) error {
		if _, err := e.Consume(tx, id, want); err != nil {
			return err
		}
		if change != nil {
			return change(tx)
		}
		return nil
	}
	return e.log.Append(ctx, d)
}

func inTime(s Statement, now time.Time) error {
	if now.Before(s.NotBefore) {
		return refuse("not_yet_valid", "the statement is not valid yet")
	}
	if !now.Before(s.Expires) {
		return refuse("expired", "the statement has expired")
	}
	return nil
}

func get(tx record.Tx, id string) (Approval, error) {
	var a Approval
	if !nonceForm.MatchString(id) {
		return a, refuse("not_found", "there is no such approval")
	}
	err := tx.Get(kindOpen, id, &a)
	if errors.Is(err, record.ErrNotFound) {
		err = tx.Get(kindClosed, id, &a)
	}
	if errors.Is(err, record.ErrNotFound) {
		return a, refuse("not_found", "there is no such approval")
	}
	return a, err
}

// put stores an approval under the kind of its state.
func put(tx record.Tx, a Approval) error {
	if !a.State.final() {
		return tx.Put(kindOpen, a.ID(), a)
	}
	if err := tx.Delete(kindOpen, a.ID()); err != nil {
		return err
	}
	return tx.Put(kindClosed, a.ID(), a)
}

func list(tx record.Tx, state State) ([]Approval, error) {
	var ids []string
	kind := kindOpen
	if state.final() {
		kind = kindClosed
	}
	if err := tx.List(kind, func(id string, _ []byte) error { ids = append(ids, id); return nil }); err != nil {
		return nil, err
	}
	var out []Approval
	for _, id := range ids {
		a, err := get(tx, id)
		if err != nil {
			return nil, err
		}
		if a.State == state {
			out = append(out, a)
		}
	}
	return out, nil
}

func (a Approval) recordType(verb string) string {
	if !a.Hold {
		return "approval." + verb
	}
	switch verb {
	case "requested":
		return "hold.opened"
	case "granted":
		return "hold.approved"
	}
	return "hold." + verb
}

func actor(person string) string {
	if person == "" {
		return "sallyport"
	}
	return "person:" + person
}
