package approval

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/receipt"
)

// grantedBody is the body of approval.granted and hold.approved. With it alone
// the signature can be checked: it is over the canonical form of Statement.
type grantedBody struct {
	V           int       `json:"v"`
	ID          string    `json:"id"`
	Statement   Statement `json:"statement"`
	Signature   string    `json:"signature"` // as receipt.VerifyApproval reads it
	Person      string    `json:"person"`
	Key         string    `json:"key"` // as receipt.ParseApprovalKey returns it
	Fingerprint string    `json:"fingerprint"`
	Hardware    bool      `json:"hardware,omitempty"`
	Verified    bool      `json:"userVerified,omitempty"`
	Counter     uint32    `json:"counter,omitempty"`
	Count       int       `json:"count"` // people who signed, this one included
	Complete    bool      `json:"complete"`
	TookMillis  int64     `json:"tookMillis"` // since it was requested
}

// refusedBody is the body of approval.refused.
type refusedBody struct {
	V      int    `json:"v"`
	ID     string `json:"id,omitempty"`
	Person string `json:"person,omitempty"`
	Verb   string `json:"verb"` // "grant" or "reject"
	Code   string `json:"code"`
}

// Grant takes one person's signature: an armored SSHSIG (Sign), or what a browser
// gives for a passkey (AuthenticationResponseJSON) over Statement.Challenge. When
// the quorum is reached the approval
// is granted; if release is not nil it is used up at once, and release is the
// caller's change in the same transaction. A refusal is a *Refusal and is
// recorded; the approval stays as it was.
func (e *Engine) Grant(ctx context.Context, id, person string, signature []byte, release func(record.Tx, Statement) error) (Approval, error) {
	var a Approval
	err := retry(func() (err error) {
		a, err = e.grant(ctx, id, person, signature, release)
		return err
	})
	return a, e.settle(ctx, "grant", id, person, err)
}

func (e *Engine) grant(ctx context.Context, id, person string, signature []byte, release func(record.Tx, Statement) error) (Approval, error) {
	now := e.now().UTC()
	text, err := stored(signature)
	if err != nil {
		return Approval{}, refuse("signature_invalid", err.Error())
	}
	var seen Approval
	var sig receipt.Signer
	var count int
	err = e.log.View(ctx, func(tx record.Tx) (err error) {
		if seen, err = get(tx, id); err != nil {
			return err
		}
		p, err := e.open(tx, seen, now)
		if err != nil {
			return err
		}
		if sig, err = p.verify(seen.Statement, text); err != nil {
			return err
		}
		count, err = p.judge(seen, person, sig)
		return err
	})
	if err != nil {
		return Approval{}, err
	}
	next := seen
	next.Version++
	next.Signatures = append(next.Signatures[:len(next.Signatures):len(next.Signatures)],
		Signed{Person: person, Fingerprint: sig.Fingerprint, Signature: text, At: now})
	complete := count >= seen.Statement.Quorum
	if complete {
		next.State, next.Closed, next.TookMillis = Granted, now, took(seen, now)
		if release != nil {
			next.State = Used
		}
	}
	_, err = e.log.Append(ctx, record.Draft{
		Type: seen.recordType("granted"), Task: seen.Statement.Task, Agent: seen.Statement.Agent, Actor: actor(person),
		Body: grantedBody{
			V: 1, ID: id, Statement: seen.Statement, Signature: text, Person: person,
			Key: sig.Key, Fingerprint: sig.Fingerprint, Hardware: sig.Hardware, Verified: sig.Verified, Counter: sig.Counter,
			Count: count, Complete: complete, TookMillis: took(seen, now),
		},
		Change: func(tx record.Tx) error {
			a, err := get(tx, id)
			if err != nil {
				return err
			}
			if a.Version != seen.Version {
				return errMoved
			}
			// Again, in the transaction: a key removed since the look above is
			// removed.
			p, err := e.open(tx, a, now)
			if err != nil {
				return err
			}
			n, err := p.judge(a, person, sig)
			if err != nil {
				return err
			}
			if n != count {
				return errMoved
			}
			if err := advance(tx, sig, now); err != nil {
				return err
			}
			if err := put(tx, next); err != nil {
				return err
			}
			if complete && release != nil {
				return release(tx, a.Statement)
			}
			return nil
		},
	})
	if err != nil {
		return Approval{}, err
	}
	e.announce()
	return next, nil
}

// open checks that the approval is open to signatures, and reads the people.
func (e *Engine) open(tx record.Tx, a Approval, now time.Time) (people, error) {
	if a.State != Pending {
		return nil, refuse("not_pending", "the approval is "+string(a.State))
	}
	if a.Statement.Tenant != e.log.Tenant() {
		return nil, refuse("wrong_tenant", "the statement belongs to another tenant")
	}
	if err := inTime(a.Statement, now); err != nil {
		return nil, err
	}
	if err := e.current(tx, a.Statement); err != nil {
		return nil, err
	}
	return e.read(tx)
}

// judge decides whether the person's signature counts, and returns how many
// people will have signed with it.
func (p people) judge(a Approval, person string, sig receipt.Signer) (int, error) {
	if err := p.eligible(a.Statement, person, sig); err != nil {
		return 0, err
	}
	counted := p.counted(a)
	for _, n := range counted {
		if p.same(n, person) {
			return 0, refuse("already_signed", "this person has signed it")
		}
	}
	return len(counted) + 1, nil
}

// closedBody is the body of approval.rejected, approval.expired,
// hold.rejected and hold.expired.
type closedBody struct {
	V          int    `json:"v"`
	ID         string `json:"id"`
	Person     string `json:"person,omitempty"` // empty: Sallyport itself
	Reason     string `json:"reason,omitempty"`
	TookMillis int64  `json:"tookMillis"`
}

const maxReason = 500 // bytes

// Reject closes a pending approval with no. The person must have the role that
// may approve, or be the requester, who withdraws it; the caller has
// authenticated them. No signature is asked for: no one gains by a false no.
// change, if not nil, is the caller's change in the same transaction.
func (e *Engine) Reject(ctx context.Context, id, person, reason string, change func(record.Tx, Statement) error) (Approval, error) {
	var a Approval
	err := retry(func() (err error) {
		a, err = e.end(ctx, id, Rejected, person, reason, func(tx record.Tx, a Approval) error {
			if err := e.mayReject(tx, a, person); err != nil || change == nil {
				return err
			}
			return change(tx, a.Statement)
		})
		return err
	})
	return a, e.settle(ctx, "reject", id, person, err)
}

func (e *Engine) mayReject(tx record.Tx, a Approval, person string) error {
	all, err := e.people.People(tx)
	if err != nil {
		return err
	}
	p, ok := people(all).named(person)
	switch {
	case !ok:
		return refuse("unknown_person", "no such person is known")
	case slices.Contains(p.Roles, a.Statement.Role):
		return remember(tx, a)
	case person == a.Requester:
		return nil
	}
	return refuse("role_missing", "this person can neither approve nor withdraw it")
}

// CancelTask closes what is pending or granted and unused for a task, when
// the task ends.
func (e *Engine) CancelTask(ctx context.Context, task, reason string) error {
	e.mu.Lock()
	maps.DeleteFunc(e.claimed, func(_, of string) bool { return of == task })
	e.mu.Unlock()
	return e.sweep(ctx, Rejected, reason, func(a Approval) bool { return task != "" && a.Statement.Task == task })
}

// Withdraw closes what is open and matches: it was asked about something that is
// not so any more.
func (e *Engine) Withdraw(ctx context.Context, reason string, match func(Approval) bool) error {
	return e.sweep(ctx, Rejected, reason, match)
}

// WithdrawStale withdraws every question that names what is not in force any
// more, which nobody could answer.
func (e *Engine) WithdrawStale(ctx context.Context) error {
	stale := map[string]bool{}
	err := e.log.View(ctx, func(tx record.Tx) error {
		clear(stale)
		for _, state := range []State{Pending, Granted} {
			open, err := list(tx, state)
			if err != nil {
				return err
			}
			for _, a := range open {
				err := e.current(tx, a.Statement)
				if _, refused := errors.AsType[*Refusal](err); err != nil && !refused {
					return err
				}
				stale[a.ID()] = err != nil
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return e.sweep(ctx, Rejected, "superseded: what it was asked about was changed", func(a Approval) bool { return stale[a.ID()] })
}

// Expire closes every approval whose time is over. It is called now and then;
// an expired approval is worth nothing before that as well.
func (e *Engine) Expire(ctx context.Context) error {
	now := e.now()
	return e.sweep(ctx, Expired, "", func(a Approval) bool { return !now.Before(a.Statement.Expires) })
}

func (e *Engine) sweep(ctx context.Context, to State, reason string, match func(Approval) bool) error {
	var found []Approval
	for _, state := range []State{Pending, Granted} {
		err := e.List(ctx, state, func(a Approval) error {
			if match(a) {
				found = append(found, a)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, a := range found {
		err := retry(func() error {
			_, err := e.end(ctx, a.ID(), to, "", reason, nil)
			return err
		})
		if _, refused := errors.AsType[*Refusal](err); err != nil && !refused { // refused: someone else closed it
			return err
		}
	}
	return nil
}

// end closes an approval. Sallyport itself (person empty) may also close one
// that is granted and unused.
func (e *Engine) end(ctx context.Context, id string, to State, person, reason string, may func(record.Tx, Approval) error) (Approval, error) {
	seen, err := e.Get(ctx, id)
	if err != nil {
		return Approval{}, err
	}
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "") + "…"
	}
	now := e.now().UTC()
	next := seen
	next.State, next.Version, next.By, next.Reason = to, seen.Version+1, person, reason
	if next.Closed.IsZero() { // granted and unused is closed: the answer took what it took
		next.TookMillis = took(seen, now)
	}
	next.Closed = now
	verb := "rejected"
	if to == Expired {
		verb = "expired"
	}
	_, err = e.log.Append(ctx, record.Draft{
		Type: seen.recordType(verb), Task: seen.Statement.Task, Agent: seen.Statement.Agent, Actor: actor(person),
		Body: closedBody{V: 1, ID: id, Person: person, Reason: reason, TookMillis: took(seen, now)},
		Change: func(tx record.Tx) error {
			a, err := get(tx, id)
			if err != nil {
				return err
			}
			if a.State != Pending && (person != "" || a.State != Granted) {
				return refuse("not_pending", "the approval is "+string(a.State))
			}
			if a.Version != seen.Version {
				return errMoved
			}
			if may != nil {
				if err := may(tx, a); err != nil {
					return err
				}
			}
			return put(tx, next)
		},
	})
	if err != nil {
		return Approval{}, err
	}
	e.announce()
	return next, nil
}

// settle records a refusal and adds the operation to other errors.
func (e *Engine) settle(ctx context.Context, verb, id, person string, err error) error {
	if err == nil {
		return nil
	}
	r, ok := errors.AsType[*Refusal](err)
	if !ok {
		return fmt.Errorf("%s approval: %w", verb, err)
	}
	b := refusedBody{V: 1, Person: person, Verb: verb, Code: r.Code}
	if nonceForm.MatchString(id) {
		b.ID = id
	}
	if len(b.Person) > 255 {
		b.Person = ""
	}
	b.Person = strings.ToValidUTF8(b.Person, "?")
	if _, lerr := e.log.Append(ctx, record.Draft{Type: "approval.refused", Actor: actor(b.Person), Body: b}); lerr != nil {
		return fmt.Errorf("%w (and the refusal could not be recorded: %w)", r, lerr)
	}
	return r
}

func retry(f func() error) error {
	for range 10 {
		if err := f(); !errors.Is(err, errMoved) {
			return err
		}
	}
	return ErrBusy
}
