package ldap

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/sallyport-dev/sallyport/internal/lease"
)

// ErrHeld is what Passwords.Hold returns while another lease holds the account.
var ErrHeld = errors.New("another task holds the account: one at a time")

// Held is a service account's state, as it is kept.
type Held struct {
	Holder  string // label of the lease that holds it; "" is none
	Current []byte // the password
	Next    []byte // that a change was begun with; nil is none
}

// Passwords keeps the passwords of one service account, sealed, and who holds it.
// Each change returns when it is durable; an error leaves open whether it is.
type Passwords interface {
	Read(ctx context.Context) (Held, error)
	// Hold gives the account to a lease, and to no other until Settle.
	Hold(ctx context.Context, label string) error
	// Begin keeps next beside the current password, for who holds the account.
	Begin(ctx context.Context, label string, next []byte) error
	// Settle makes next the current password and ends the hold, in one step.
	Settle(ctx context.Context, label string) error
}

// Rotation is a lease.Source of a service account that is there already. A lease has
// its password, alone; the end of the lease is another password.
//
// Order of an end: the next password, durably kept beside the current one; then the
// directory; then binds, of which the new one must be taken and the old one
// refused; only then the next is the current one and the account free. A crash
// anywhere leaves an account whose password is one of the two that are kept, held by
// a lease whose end is tried again with the same next password.
type Rotation struct {
	Source    // of its Config without Base and Groups
	account   string
	login     string
	passwords Passwords
}

var _ lease.Accounts = (*Rotation)(nil)

// NewRotation makes a source of the account of a DN, which signs in as login.
func NewRotation(c Config, account, login string, p Passwords) *Rotation {
	return &Rotation{Source: Source{c}, account: account, login: login, passwords: p}
}

func (r *Rotation) credential(password []byte) ([]byte, error) {
	return json.Marshal(credential{UID: r.login, DN: r.account, Password: string(password)})
}

// Issue holds the account for the lease. Before that nothing is changed; after it the
// account is the lease's, whatever fails.
func (r *Rotation) Issue(ctx context.Context, o lease.Order) ([]byte, error) {
	never := func(err error) ([]byte, error) { return nil, fmt.Errorf("%w: %w", lease.ErrNotIssued, err) }
	if !labels.MatchString(o.Label) {
		return never(errors.New("the lease carries no label of ours"))
	}
	h, err := r.passwords.Read(ctx)
	if err != nil {
		return never(err)
	}
	if h.Holder != "" {
		return never(ErrHeld)
	}
	ok, err := r.takes(ctx, h.Current)
	if err != nil {
		return never(err)
	}
	if !ok {
		return never(fmt.Errorf("the directory refuses the password of %s that is stored: store the one that it has now", r.account))
	}
	if err := r.passwords.Hold(ctx, o.Label); err != nil {
		if errors.Is(err, ErrHeld) {
			return never(err)
		}
		return nil, err
	}
	now, err := r.passwords.Read(ctx)
	if err != nil {
		return nil, err
	}
	if string(now.Current) != string(h.Current) {
		return nil, errors.New("the password was changed meanwhile")
	}
	return r.credential(now.Current)
}

// Revoke gives the account another password, if the lease holds it.
func (r *Rotation) Revoke(ctx context.Context, c lease.Credential) error {
	h, err := r.passwords.Read(ctx)
	if err != nil || h.Holder != c.Label {
		return err
	}
	if h, err = r.change(ctx, h); err != nil {
		return err
	}
	if ok, err := r.takes(ctx, h.Next); err != nil || !ok {
		return errors.Join(err, fmt.Errorf("the directory does not take the new password of %s", r.account))
	}
	if ok, err := r.takes(ctx, h.Current); err != nil || ok {
		return errors.Join(err, fmt.Errorf("the directory still takes the old password of %s", r.account))
	}
	return r.passwords.Settle(ctx, c.Label)
}

// change sets the next password: the one that an earlier attempt began with, or a new
// one. As an administrator, so that a holder who changed it too loses it all the same.
func (r *Rotation) change(ctx context.Context, h Held) (Held, error) {
	if h.Next == nil {
		h.Next = []byte(rand.Text() + rand.Text()) // 256 bits
		if err := r.passwords.Begin(ctx, h.Holder, h.Next); err != nil {
			return h, err
		}
	}
	c, err := r.admin(ctx)
	if err != nil {
		return h, err
	}
	defer c.Close()
	m := ldap.NewModifyRequest(r.account, nil)
	m.Replace("userPassword", []string{hash(string(h.Next))}) // all of its values
	if err := c.Modify(m); err != nil {
		return h, fmt.Errorf("set the password of %s: %w", r.account, err)
	}
	return h, nil
}

// takes says whether the directory takes a password for the account. An answer that
// is neither is an error.
func (r *Rotation) takes(ctx context.Context, password []byte) (bool, error) {
	if len(password) == 0 { // which is an anonymous bind, and succeeds
		return false, nil
	}
	c, err := r.open(ctx)
	if err != nil {
		return false, err
	}
	defer c.Close()
	err = c.Bind(r.account, string(password))
	switch {
	case err == nil:
		return true, nil
	case ldap.IsErrorWithCode(err, ldap.LDAPResultInvalidCredentials):
		return false, nil
	}
	return false, fmt.Errorf("bind as %s: %w", r.account, err)
}

// Confirm wants the password that the lease had to be refused, and the account to be
// free of the lease, which Revoke makes it last.
func (r *Rotation) Confirm(ctx context.Context, c lease.Credential) error {
	if c.Secret != nil {
		had, err := parse(c.Secret)
		if err != nil {
			return err
		}
		if ok, err := r.takes(ctx, []byte(had.Password)); err != nil || ok {
			return errors.Join(err, fmt.Errorf("the directory still takes the old password of %s", r.account))
		}
	}
	h, err := r.passwords.Read(ctx)
	if err == nil && h.Holder == c.Label {
		err = fmt.Errorf("%s has no new password yet", r.account)
	}
	return err
}

// Reset finds the password that the account has, for who must sign in to end what the
// lease left; nil if the lease does not hold it. Where somebody set a third one, the
// next is set.
func (r *Rotation) Reset(ctx context.Context, label string) ([]byte, error) {
	h, err := r.passwords.Read(ctx)
	if err != nil || h.Holder != label {
		return nil, err
	}
	for _, p := range [][]byte{h.Current, h.Next} {
		if ok, err := r.takes(ctx, p); err != nil {
			return nil, err
		} else if ok {
			return r.credential(p)
		}
	}
	if h, err = r.change(ctx, h); err != nil {
		return nil, err
	}
	return r.credential(h.Next)
}

// List names the lease that holds the account.
func (r *Rotation) List(ctx context.Context, prefix string) ([]string, error) {
	h, err := r.passwords.Read(ctx)
	if err != nil || h.Holder == "" || !strings.HasPrefix(h.Holder, prefix) {
		return nil, err
	}
	return []string{h.Holder}, nil
}
