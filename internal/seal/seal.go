// Package seal keeps small secrets encrypted at rest, per tenant.
//
// One root key, a file of 32 random bytes, stands above everything. Each
// tenant has a key derived from it with HKDF-SHA-256 (RFC 5869), and each value
// is sealed with AES-256-GCM (NIST SP 800-38D) under that key.
//
// Invariants:
//   - A sealed value opens only for the tenant and the context it was sealed for.
//   - The root key is made only in a folder that holds nothing else: where
//     state exists without its key, Load stops and says so.
//   - No key is ever printed: Secret formats as [secret].
//
// Who steals the root key file and the database reads every secret of every
// tenant. Who steals only the database reads none, and can change none
// unnoticed. Not trusted: the sealed bytes.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/sallyport-dev/sallyport/internal/record"
)

// KeySize is the size of the root key and of every derived key, in bytes.
const KeySize = 32

const (
	version   = 1  // first byte of every sealed value
	nonceSize = 12 // NIST SP 800-38D section 8.2.2: random, so at most 2^32 values a key
	overhead  = 1 + nonceSize + 16
)

// ErrOpen is returned for a sealed value that does not open: it was changed,
// or belongs to another tenant, context or root key. There is nothing to retry.
var ErrOpen = errors.New("sealed value does not open: changed, or made for another place or key")

// Root is the root key. The zero value seals nothing.
type Root struct{ key Secret }

// NewRoot makes a Root of KeySize bytes, which it copies.
func NewRoot(key []byte) (*Root, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("root key: got %d bytes, want %d", len(key), KeySize)
	}
	return &Root{key: NewSecret(key)}, nil
}

// Sealer returns the sealer of one tenant. Tenants' keys are independent.
func (r *Root) Sealer(tenant string) (record.Sealer, error) {
	if r == nil || len(r.key.b) != KeySize {
		return nil, errors.New("no root key")
	}
	key, err := hkdf.Key(sha256.New, r.key.b, nil, "sallyport/seal/v1/tenant\x00"+tenant, KeySize)
	if err != nil {
		return nil, err
	}
	aead, err := NewAEAD(key)
	if err != nil {
		return nil, err
	}
	return &sealer{tenant: tenant, aead: aead}, nil
}

// NewAEAD is AES-256-GCM under key, which must have KeySize bytes.
func NewAEAD(key []byte) (cipher.AEAD, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("key: got %d bytes, want %d", len(key), KeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

type sealer struct {
	tenant string
	aead   cipher.AEAD
}

// Seal implements record.Sealer.
func (s *sealer) Seal(context string, secret []byte) ([]byte, error) {
	out := make([]byte, 1+nonceSize, len(secret)+overhead)
	out[0] = version
	rand.Read(out[1:]) // never fails: it ends the process instead
	return s.aead.Seal(out, out[1:], secret, s.aad(context)), nil
}

// Open implements record.Sealer.
func (s *sealer) Open(context string, sealed []byte) ([]byte, error) {
	if len(sealed) < overhead || sealed[0] != version {
		return nil, ErrOpen
	}
	b, err := s.aead.Open(nil, sealed[1:1+nonceSize], sealed[1+nonceSize:], s.aad(context))
	if err != nil {
		return nil, ErrOpen
	}
	return b, nil
}

// aad binds the tenant too, so that a mistake in key derivation alone could not
// let values cross. Tenant names hold no NUL, so the join is unambiguous.
func (s *sealer) aad(context string) []byte {
	return []byte("sallyport/seal/v1\x00" + s.tenant + "\x00" + context)
}
