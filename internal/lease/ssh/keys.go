package ssh

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/internal/lease"
)

func (k *Keys) add(label string, key ed25519.PrivateKey, until time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.all[label] != nil {
		return fmt.Errorf("%s was issued before", label)
	}
	k.all[label] = &held{key: key, until: until}
	return nil
}

// lend returns the public key and when a certificate that is made now ends. That
// is noted before there is one, so that Confirm cannot miss it.
func (k *Keys) lend(label string, now time.Time) (ssh.PublicKey, time.Time, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	h := k.all[label]
	if h == nil || h.key == nil || !now.Before(h.until) {
		return nil, time.Time{}, lease.ErrEnded
	}
	ends := now.Add(Life)
	if ends.After(h.until) {
		ends = h.until
	}
	ends = ends.Truncate(time.Second) // what a certificate can say
	if ends.After(h.last) {
		h.last = ends
	}
	pub, err := ssh.NewPublicKey(h.key.Public())
	return pub, ends, err
}

func (k *Keys) sign(label string, data []byte) (*ssh.Signature, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	h := k.all[label]
	if h == nil || h.key == nil || !time.Now().Before(h.until) {
		return nil, lease.ErrEnded
	}
	signer, err := ssh.NewSignerFromSigner(h.key)
	if err != nil {
		return nil, err
	}
	return signer.Sign(rand.Reader, data)
}

// drop clears the key; when its last certificate ends stays.
func (k *Keys) drop(label string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h := k.all[label]; h != nil {
		clear(h.key)
		h.key = nil
	}
}

// ended says when the last certificate of a dropped key ends. One that is not
// known is an earlier process's, which made none after this one began.
func (k *Keys) ended(label string) (time.Time, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	h := k.all[label]
	switch {
	case h == nil:
		return k.began.Add(Life), nil
	case h.key != nil:
		return time.Time{}, errors.New("the key is still there")
	case h.last.IsZero(): // no certificate was made
		return time.Now(), nil
	}
	return h.last, nil
}

func (k *Keys) forget(label string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.all, label)
}
