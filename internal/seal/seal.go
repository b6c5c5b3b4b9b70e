// Package seal keeps small secrets encrypted at rest, per tenant.
//
// Data keys stand above everything: 32 random bytes each, by generation. Each
// tenant has a key derived from each with HKDF-SHA-256 (RFC 5869), and each value
// is sealed with AES-256-GCM (NIST SP 800-38D) under the tenant's newest. The data
// keys are kept in one of two ways: generation 0 alone in a key file as it is
// (Load), or all of them in a Ring, wrapped by a key-encryption key that is not in
// the folder: made of a passphrase, or held by a KMS.
//
// Invariants:
//   - A sealed value opens only for the tenant and the context it was sealed for.
//   - Data keys are made only in a folder that holds nothing else, or beside older
//     ones: where state exists without its keys, opening stops and says so.
//   - What wraps the keys is what the operator says, never what the folder says: a
//     folder with a ring is not opened by a key file, nor the reverse.
//   - A data key seals nothing before the ring that has it is durable and was opened
//     again by the key-encryption key that will have to.
//   - No key is ever printed: Secret formats as [secret].
//
// Who steals the key file and the database reads every secret of every tenant; who
// steals a ring needs its passphrase, or the use of its KMS key, as well. Who steals
// only the database reads none, and can change none unnoticed. A passphrase and keys
// are cleared when they are done with; copies inside a key derivation stay until the
// memory is used again. Not trusted: the sealed bytes, and a ring's.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/sallyport-dev/sallyport/internal/record"
)

// KeySize is the size of every key, in bytes.
const KeySize = 32

// A sealed value is its version, from version 2 on the generation of its data key
// in two bytes, a nonce and AES-GCM's output. Version 1 is of generation 0.
const (
	version1  = 1
	version2  = 2
	nonceSize = 12 // NIST SP 800-38D section 8.2.2: random, so at most 2^32 values a key
	tagSize   = 16
)

// ErrOpen is returned for a sealed value that does not open: it was changed,
// or belongs to another tenant, context or data key. There is nothing to retry.
var ErrOpen = errors.New("sealed value does not open: changed, or made for another place or key")

// ErrClosed is returned for every value while the key-encryption key is out of
// reach for longer than its grace. It ends when the key answers again.
var ErrClosed = errors.New("secrets are closed: the key-encryption key does not answer")

// Root holds the data keys. The zero value seals nothing.
type Root struct {
	mu     sync.RWMutex
	keys   map[uint16]Secret // by generation; nil: nothing, or closed
	newest uint16            // what new values are sealed under
	closed error             // why keys is nil
	aeads  map[place]cipher.AEAD
}

type place struct {
	tenant     string
	generation uint16
}

// NewRoot makes a Root of one key of KeySize bytes, which it copies.
func NewRoot(key []byte) (*Root, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("root key: got %d bytes, want %d", len(key), KeySize)
	}
	r := &Root{}
	r.set(map[uint16]Secret{0: NewSecret(key)})
	return r, nil
}

// set replaces the keys, which it takes. The newest generation seals from now on.
func (r *Root) set(keys map[uint16]Secret) {
	r.mu.Lock()
	defer r.mu.Unlock()
	forget(r.keys)
	r.keys, r.newest, r.closed, r.aeads = keys, 0, nil, map[place]cipher.AEAD{}
	for g := range keys {
		r.newest = max(r.newest, g)
	}
}

// close forgets the keys. What was opened before is with who opened it.
func (r *Root) close(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	forget(r.keys)
	r.keys, r.aeads, r.closed = nil, nil, why
}

// Err says why nothing opens now, or nil.
func (r *Root) Err() error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.closed
}

// aead is a tenant's key of a generation, or of the newest.
func (r *Root) aead(tenant string, newest bool, generation uint16) (cipher.AEAD, uint16, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed != nil {
		return nil, 0, r.closed
	}
	if newest {
		generation = r.newest
	}
	at := place{tenant, generation}
	if a := r.aeads[at]; a != nil {
		return a, generation, nil
	}
	k, ok := r.keys[generation]
	if !ok {
		return nil, 0, ErrOpen
	}
	key, err := hkdf.Key(sha256.New, k.b, nil, "sallyport/seal/v1/tenant\x00"+tenant, KeySize)
	if err != nil {
		return nil, 0, err
	}
	defer clear(key)
	a, err := NewAEAD(key)
	if err != nil {
		return nil, 0, err
	}
	r.aeads[at] = a
	return a, generation, nil
}

// Sealer returns the sealer of one tenant. Tenants' keys are independent.
func (r *Root) Sealer(tenant string) (record.Sealer, error) {
	if r == nil {
		return nil, errors.New("no root key")
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.keys == nil && r.closed == nil {
		return nil, errors.New("no root key")
	}
	return &sealer{tenant: tenant, root: r}, nil
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
	root   *Root
}

// Seal implements record.Sealer.
func (s *sealer) Seal(context string, secret []byte) ([]byte, error) {
	a, g, err := s.root.aead(s.tenant, true, 0)
	if err != nil {
		return nil, err
	}
	out := []byte{version1}
	if g > 0 {
		out = binary.BigEndian.AppendUint16([]byte{version2}, g)
	}
	n := len(out)
	out = append(out, make([]byte, nonceSize, nonceSize+len(secret)+tagSize)...)
	rand.Read(out[n:]) // never fails: it ends the process instead
	return a.Seal(out, out[n:], secret, s.aad(context)), nil
}

// Open implements record.Sealer.
func (s *sealer) Open(context string, sealed []byte) ([]byte, error) {
	n, g := 1, uint16(0)
	switch {
	case len(sealed) > 3 && sealed[0] == version2:
		// Generation 0 has one form, so that no value has two.
		if n, g = 3, binary.BigEndian.Uint16(sealed[1:]); g == 0 {
			return nil, ErrOpen
		}
	case len(sealed) < 1 || sealed[0] != version1:
		return nil, ErrOpen
	}
	if len(sealed) < n+nonceSize+tagSize {
		return nil, ErrOpen
	}
	a, _, err := s.root.aead(s.tenant, false, g)
	if err != nil {
		return nil, err
	}
	b, err := a.Open(nil, sealed[n:n+nonceSize], sealed[n+nonceSize:], s.aad(context))
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
