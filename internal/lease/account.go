package lease

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// Accounts is a Source of accounts that sign in with a password.
type Accounts interface {
	Lister
	// Account is what an issued credential signs in with.
	Account(credential []byte) (name, password string, err error)
	// Reset gives the account of a label a new password and returns a credential
	// for it; nil if there is no account, or none that anybody could have signed in
	// with since Issue and Revoke began.
	Reset(ctx context.Context, label string) (credential []byte, err error)
}

// AccountForm is a Source that makes an account for the task and signs in with it
// by a form. One lease has both, so that they end in the right order:
//
//   - Its holder's session is signed out, and its account is deleted even if the
//     application does not answer. Both are confirmed.
//   - When only the label is known, as after a crash, a session may exist that
//     nobody has the cookies of. The account is needed to find it, and is deleted
//     after that: with a new password, which its sweep alone knows.
type AccountForm struct {
	Accounts Accounts
	Form     Form // without Account and Password
}

var _ Lister = (*AccountForm)(nil)

// signedIn is what is sealed.
type signedIn struct {
	Account json.RawMessage `json:"account"`
	Session json.RawMessage `json:"session"`
}

// ParseAccount reads a credential that AccountForm issued: the session's part, for
// ParseCookies, and the account's.
func ParseAccount(credential []byte) (session, account []byte, err error) {
	var s signedIn
	if json.Unmarshal(credential, &s) != nil || len(s.Account) == 0 || len(s.Session) == 0 {
		return nil, nil, errors.New("not a session of an account")
	}
	return s.Session, s.Account, nil
}

// form signs in as one account.
func (a *AccountForm) form(account []byte) (*Form, error) {
	name, password, err := a.Accounts.Account(account)
	if err != nil {
		return nil, err
	}
	f := a.Form
	f.Account, f.Password = name, func(context.Context) ([]byte, error) { return []byte(password), nil }
	return &f, nil
}

// Issue makes the account and signs in with it.
func (a *AccountForm) Issue(ctx context.Context, o Order) ([]byte, error) {
	account, err := a.Accounts.Issue(ctx, o)
	if err != nil {
		return nil, err
	}
	defer clear(account)
	f, err := a.form(account)
	if err != nil {
		return nil, err
	}
	session, err := f.Issue(ctx, o)
	if errors.Is(err, ErrNotIssued) {
		// There is no session, so the account goes at once: to look for sessions as
		// an account that the application refuses would be refused as well.
		made := Credential{Label: o.Label, Secret: account}
		if errors.Join(a.Accounts.Revoke(ctx, made), a.Accounts.Confirm(ctx, made)) == nil {
			return nil, err
		}
	}
	defer clear(session)
	if err != nil { // the account exists: not ErrNotIssued, whatever the form says
		if err = fmt.Errorf("%v", err); session == nil {
			return nil, err
		}
	}
	both, unfit := json.Marshal(signedIn{account, session})
	return both, cmp.Or(unfit, err)
}

// Revoke ends the session and the account.
func (a *AccountForm) Revoke(ctx context.Context, c Credential) error {
	if c.Secret != nil {
		session, account, err := ParseAccount(c.Secret)
		if err != nil {
			return err
		}
		return errors.Join(a.Form.logout(ctx, c.Label, session), a.Accounts.Revoke(ctx, Credential{Label: c.Label, Secret: account}))
	}
	account, err := a.Accounts.Reset(ctx, c.Label)
	if err != nil {
		return err
	}
	if account != nil {
		defer clear(account)
		f, err := a.form(account)
		if err != nil {
			return err
		}
		if err := f.sweep(ctx, c.Label); err != nil {
			return err
		}
	}
	return a.Accounts.Revoke(ctx, c)
}

// Confirm asks the application and the source of accounts.
func (a *AccountForm) Confirm(ctx context.Context, c Credential) error {
	if c.Secret == nil {
		return a.Accounts.Confirm(ctx, c)
	}
	session, account, err := ParseAccount(c.Secret)
	if err != nil {
		return err
	}
	return errors.Join(a.Form.Confirm(ctx, Credential{Label: c.Label, Secret: session}), a.Accounts.Confirm(ctx, Credential{Label: c.Label, Secret: account}))
}

// List says which accounts carry the prefix.
func (a *AccountForm) List(ctx context.Context, prefix string) ([]string, error) {
	return a.Accounts.List(ctx, prefix)
}
