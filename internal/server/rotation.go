package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/lease/ldap"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// kindRotation is the state of service accounts that a lease holds: the id is the
// name of the secret that their password is. An account that is free has none.
const kindRotation = "rotation"

type rotation struct {
	Holder string `json:"holder"`
	Next   []byte `json:"next,omitempty"` // sealed in the place of the secret
}

// passwords keeps one service account's: the current one is the sealed secret that
// people stored first, NAME/STAGE, or NAME until the first change.
type passwords struct {
	t     *tenant
	ref   *resource.SecretRef
	stage action.Stage
}

var _ ldap.Passwords = passwords{}

func (p passwords) name() string { return p.ref.Sealed + "/" + string(p.stage) }

// Read implements ldap.Passwords.
func (p passwords) Read(ctx context.Context) (h ldap.Held, err error) {
	if h.Current, err = p.t.stageSecret(ctx, p.ref, p.stage); err != nil {
		return h, err
	}
	var x rotation
	err = p.t.log.View(ctx, func(tx record.Tx) error { return tx.Get(kindRotation, p.name(), &x) })
	if errors.Is(err, record.ErrNotFound) {
		return h, nil
	}
	if err != nil {
		return h, err
	}
	h.Holder = x.Holder
	if x.Next != nil {
		h.Next, err = p.t.seal.Open(kindSecret+"/"+p.name(), x.Next)
	}
	return h, err
}

// step writes one change of the state with its record. The record names no password.
func (p passwords) step(ctx context.Context, typ, label string, change func(record.Tx, *rotation) error) error {
	_, err := p.t.log.Append(ctx, record.Draft{Type: typ, Actor: "sallyport", Body: map[string]any{"name": p.name(), "lease": label},
		Change: func(tx record.Tx) error {
			var x rotation
			if err := tx.Get(kindRotation, p.name(), &x); err != nil && !errors.Is(err, record.ErrNotFound) {
				return err
			}
			return change(tx, &x)
		}})
	return err
}

// Hold implements ldap.Passwords.
func (p passwords) Hold(ctx context.Context, label string) error {
	return p.step(ctx, "secret.held", label, func(tx record.Tx, x *rotation) error {
		if x.Holder != "" && x.Holder != label {
			return ldap.ErrHeld
		}
		x.Holder = label
		return tx.Put(kindRotation, p.name(), x)
	})
}

// Begin implements ldap.Passwords.
func (p passwords) Begin(ctx context.Context, label string, next []byte) error {
	sealed, err := p.t.seal.Seal(kindSecret+"/"+p.name(), next)
	if err != nil {
		return err
	}
	return p.step(ctx, "secret.rotating", label, func(tx record.Tx, x *rotation) error {
		if x.Holder != label || x.Next != nil {
			return fmt.Errorf("secret %s: a change was begun meanwhile", p.name())
		}
		x.Next = sealed
		return tx.Put(kindRotation, p.name(), x)
	})
}

// Settle implements ldap.Passwords.
func (p passwords) Settle(ctx context.Context, label string) error {
	return p.step(ctx, "secret.rotated", label, func(tx record.Tx, x *rotation) error {
		if x.Holder != label || x.Next == nil {
			return fmt.Errorf("secret %s: no change of this lease was begun", p.name())
		}
		s := Secret{Name: p.name(), Author: "sallyport", Stored: time.Now().UTC(), Sealed: x.Next}
		return errors.Join(tx.Put(kindSecret, p.name(), s), tx.Delete(kindRotation, p.name()))
	})
}
