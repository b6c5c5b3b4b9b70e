package seal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"golang.org/x/crypto/argon2"
)

// Bounds of a passphrase. A new one is not shorter than minPassphrase.
const (
	minPassphrase = 12
	MaxPassphrase = 1024
)

// The key derivation: Argon2id, the second recommended option of RFC 9106 section
// 4. How it was done is in the ring, which is bound to it: less work for a guess
// gives another key.
const (
	argonTime    = 3
	argonMemory  = 64 << 10 // KiB
	argonThreads = 4
	argonForm    = "v=19,m=%d,t=%d,p=%d"
	maxMemory    = 1 << 20 // KiB, that a changed file can ask for
)

// Passphrase is a KEK that is derived from a passphrase.
type Passphrase struct {
	Secret Secret
}

// NewPassphrase takes a passphrase, and clears the bytes it was given.
func NewPassphrase(b []byte) (*Passphrase, error) {
	defer clear(b)
	if len(b) == 0 || len(b) > MaxPassphrase {
		return nil, fmt.Errorf("passphrase: got %d bytes, want 1 to %d", len(b), MaxPassphrase)
	}
	return &Passphrase{NewSecret(b)}, nil
}

// Kind implements KEK.
func (*Passphrase) Kind() string { return "passphrase" }

// Close clears the passphrase.
func (p *Passphrase) Close() error {
	clear(p.Secret.b)
	p.Secret.b = nil
	return nil
}

// Wrap implements KEK. Each has a salt of its own.
func (p *Passphrase) Wrap(_ context.Context, key []byte) (Wrapped, error) {
	if len(p.Secret.b) < minPassphrase {
		return Wrapped{}, fmt.Errorf("a new passphrase has at least %d bytes", minPassphrase)
	}
	salt := make([]byte, 16)
	rand.Read(salt)
	w := Wrapped{Params: map[string][]byte{"argon2id": fmt.Appendf(nil, argonForm, argonMemory, argonTime, argonThreads), "salt": salt}}
	kek, err := p.derive(w)
	if err != nil {
		return w, err
	}
	defer clear(kek)
	w.Bytes, err = sealWith(kek, key, []byte("sallyport/passphrase/v1"))
	return w, err
}

// Unwrap implements KEK. A wrong passphrase and a changed file give the same error,
// after the same work.
func (p *Passphrase) Unwrap(_ context.Context, w Wrapped) ([]byte, error) {
	kek, err := p.derive(w)
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	key, err := openWith(kek, w.Bytes, []byte("sallyport/passphrase/v1"))
	if err != nil {
		return nil, errors.New("the passphrase is wrong, or " + RingName + " was changed")
	}
	return key, nil
}

func (p *Passphrase) derive(w Wrapped) ([]byte, error) {
	if len(p.Secret.b) == 0 {
		return nil, errors.New("the passphrase was cleared")
	}
	var m, t uint32
	var threads uint8
	if n, err := fmt.Sscanf(string(w.Params["argon2id"]), argonForm, &m, &t, &threads); n != 3 || err != nil ||
		m == 0 || m > maxMemory || t == 0 || t > 64 || threads == 0 || len(w.Params["salt"]) < 16 {
		return nil, errors.New(RingName + " says no derivation that can be done")
	}
	return argon2.IDKey(p.Secret.b, w.Params["salt"], t, m, threads, KeySize), nil
}
