package seal

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/durable"
)

// RingName is the name of a ring in a data folder.
const RingName = "keyring.json"

// maxRing bounds the file: 2^16 generations fit.
const maxRing = 8 << 20

// KEK is a key-encryption key.
type KEK interface {
	// Kind is written into the ring, and must be the same to open it.
	Kind() string
	// Wrap encrypts a key of KeySize bytes.
	Wrap(ctx context.Context, key []byte) (Wrapped, error)
	// Unwrap decrypts it. What it returns is not trusted: the ring checks it.
	Unwrap(ctx context.Context, w Wrapped) (key []byte, err error)
	// Close forgets what it holds.
	Close() error
}

// Remote is a KEK that is elsewhere: it can go, come back, and be exchanged there.
type Remote interface {
	KEK
	// KeyID names the key that Wrap uses now.
	KeyID(ctx context.Context) (string, error)
}

// Wrapped is a key as its KEK encrypted it.
type Wrapped struct {
	KeyID  string            `json:"keyID,omitempty"`
	Params map[string][]byte `json:"params,omitempty"`
	Bytes  []byte            `json:"bytes"`
}

// ringFile is a ring on disk. A key of the file's own, made anew whenever it is
// written, is what the KEK wraps; under it the data keys are sealed, bound to all
// the rest. So one call of the KEK opens everything, and nothing of it can be
// exchanged alone.
type ringFile struct {
	V       int     `json:"v"`
	Kind    string  `json:"kind"`
	Wrapped Wrapped `json:"wrapped"`
	Sealed  []byte  `json:"sealed,omitempty"`
}

type ringBody struct {
	Keys []dataKey `json:"keys"`
}

type dataKey struct {
	Generation uint16 `json:"generation"`
	Key        []byte `json:"key"`
}

// Ring is the data keys of a folder, wrapped by a KEK.
type Ring struct {
	dir  string
	root *Root

	mu    sync.Mutex
	kek   KEK
	file  ringFile // as it is on disk
	since time.Time
	heard time.Time // when the KEK last opened the file
	grown time.Time // when a key that was exchanged at the KMS last brought a data key
	why   error     // of the last failure since
}

// Root seals and opens by the ring's keys.
func (r *Ring) Root() *Root { return r.root }

// CreateRing makes a ring in a folder that is missing or empty. A crash leaves a
// whole ring or none, and maybe keyring.json.new, which may be removed as in Create.
func CreateRing(ctx context.Context, dir string, kek KEK) (*Ring, error) {
	if err := empty(dir); err != nil {
		return nil, err
	}
	r := &Ring{dir: dir, root: &Root{}}
	keys := map[uint16]Secret{}
	if err := grow(keys); err != nil {
		return nil, err
	}
	return r, r.write(ctx, kek, "", keys)
}

// OpenRing opens the ring of a folder. Nothing is half-open: all keys, or an error.
func OpenRing(ctx context.Context, dir string, kek KEK) (*Ring, error) {
	r := &Ring{dir: dir, root: &Root{}, kek: kek}
	b, err := os.ReadFile(filepath.Join(dir, RingName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s has no %s: leave --kek out, or wrap its key file first (sallyport secret rewrap --new-kek): %w", dir, RingName, err)
	}
	if err != nil {
		return nil, err
	}
	if r.file, err = readRing(b); err != nil {
		return nil, err
	}
	keys, err := open(ctx, kek, r.file)
	if err != nil {
		return nil, err
	}
	if err := r.dropFile(keys); err != nil {
		forget(keys)
		return nil, err
	}
	r.root.set(keys)
	r.since, r.heard = time.Now(), time.Now()
	return r, nil
}

// Adopt moves the key file of a folder into a ring: generation 0 goes on opening
// what it sealed, and a new key seals from now on.
//
// Order: the ring, durable and opened again; then the key file goes. A crash
// between leaves both, and the next opening removes the file.
func Adopt(ctx context.Context, dir string, kek KEK) (*Ring, error) {
	if _, err := os.Lstat(filepath.Join(dir, RingName)); err == nil {
		return nil, fmt.Errorf("%s has a %s already: say with --kek by what it is wrapped", dir, RingName)
	}
	key, err := readKey(dir)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	r := &Ring{dir: dir, root: &Root{}}
	keys := map[uint16]Secret{0: NewSecret(key)}
	if err := grow(keys); err != nil {
		return nil, err
	}
	if err := r.write(ctx, kek, "", keys); err != nil {
		return nil, err
	}
	step("ring")
	return r, r.dropFile(keys)
}

// step is where a test ends the process.
var step = func(string) {}

// dropFile removes the key file that a ring took in.
func (r *Ring) dropFile(keys map[uint16]Secret) error {
	key, err := readKey(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer clear(key)
	if k, ok := keys[0]; !ok || subtle.ConstantTimeCompare(k.b, key) != 1 {
		return fmt.Errorf("%s has a %s that is not in its %s: find out whose it is, and move it away", r.dir, FileName, RingName)
	}
	if err := os.Remove(filepath.Join(r.dir, FileName)); err != nil {
		return err
	}
	step("dropped")
	d, err := os.Open(r.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Rewrap wraps the keys by another KEK, or by the same anew, and adds a data key
// that seals from now on. No sealed value is touched: older keys stay in the ring.
func (r *Ring) Rewrap(ctx context.Context, to KEK) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rewrap(ctx, to, "")
}

// growEvery is how often a KMS that exchanges its key brings a data key with it: one
// that names two keys in turn would fill the ring.
const growEvery = 24 * time.Hour

// rewrap is called with mu held. id, if any, is the key that must have wrapped.
func (r *Ring) rewrap(ctx context.Context, to KEK, id string) error {
	r.root.mu.RLock()
	closed, keys := r.root.closed, map[uint16]Secret{}
	for g, k := range r.root.keys {
		keys[g] = NewSecret(k.b)
	}
	r.root.mu.RUnlock()
	if closed != nil {
		return closed
	}
	now := time.Now()
	more := id == "" || now.Sub(r.grown) >= growEvery
	if more {
		if err := grow(keys); err != nil {
			forget(keys)
			return err
		}
	}
	if err := r.write(ctx, to, id, keys); err != nil {
		return err
	}
	if more && id != "" {
		r.grown = now
	}
	return nil
}

// grow adds a data key, which seals once the ring has it.
func grow(keys map[uint16]Secret) error {
	next := 1
	for g := range keys {
		next = max(next, int(g)+1)
	}
	if next > 1<<16-1 {
		return errors.New("the ring is full")
	}
	fresh := make([]byte, KeySize)
	defer clear(fresh)
	rand.Read(fresh)
	keys[uint16(next)] = NewSecret(fresh)
	return nil
}

// forget clears keys that are not kept.
func forget(keys map[uint16]Secret) {
	for _, k := range keys {
		clear(k.b)
	}
}

// write makes the ring of keys, which are the root's afterwards, or forgotten.
//
// Order: the file's key is wrapped; what will be written is opened again by the
// KEK, so that it is known to open; the file is replaced, durably; only then the
// new data key is used. A crash before the replacement leaves the ring of before,
// a crash after it one that has every key of before.
func (r *Ring) write(ctx context.Context, kek KEK, id string, keys map[uint16]Secret) (err error) {
	defer func() {
		if err != nil {
			forget(keys)
		}
	}()
	f, err := wrap(ctx, kek, keys)
	if err != nil {
		return err
	}
	if id != "" && f.Wrapped.KeyID != id { // or each check would wrap anew
		return fmt.Errorf("its status names key %q, and it wraps by %q", id, f.Wrapped.KeyID)
	}
	b, err := canon.Marshal(f)
	if err != nil {
		return err
	}
	if f, err = readRing(b); err != nil {
		return err
	}
	again, err := open(ctx, kek, f)
	if err != nil {
		return fmt.Errorf("the new wrapping does not open, nothing was changed: %w", err)
	}
	defer forget(again)
	if !maps.EqualFunc(keys, again, func(a, b Secret) bool { return subtle.ConstantTimeCompare(a.b, b.b) == 1 }) {
		return errors.New("the new wrapping opens to other keys, nothing was changed")
	}
	step("wrapped")
	path := filepath.Join(r.dir, RingName)
	put := durable.WriteFile
	if r.file.V == 0 { // the first: of two starts at once one fails, before it seals anything
		put = writeNew
	}
	if err := put(path, b, 0o600); err != nil {
		return err
	}
	if back, err := os.ReadFile(path); err != nil || !bytes.Equal(back, b) {
		return errors.Join(fmt.Errorf("%s does not read back as it was written", path), err)
	}
	r.kek, r.file, r.since, r.heard, r.why = kek, f, time.Now(), time.Now(), nil
	r.root.set(keys)
	return nil
}

func wrap(ctx context.Context, kek KEK, keys map[uint16]Secret) (ringFile, error) {
	own := make([]byte, KeySize)
	defer clear(own)
	rand.Read(own)
	f := ringFile{V: 1, Kind: kek.Kind()}
	var err error
	if f.Wrapped, err = kek.Wrap(ctx, own); err != nil {
		return f, fmt.Errorf("wrap the keys by %s: %w", kek.Kind(), err)
	}
	var body ringBody
	for _, g := range slices.Sorted(maps.Keys(keys)) {
		body.Keys = append(body.Keys, dataKey{g, keys[g].b})
	}
	plain, err := canon.Marshal(body)
	if err != nil {
		return f, err
	}
	defer clear(plain)
	f.Sealed, err = sealWith(own, plain, f.aad())
	return f, err
}

// sealWith is nonce || AES-256-GCM under a key.
func sealWith(key, plain, aad []byte) ([]byte, error) {
	a, err := NewAEAD(key)
	if err != nil {
		return nil, err
	}
	out := make([]byte, nonceSize, nonceSize+len(plain)+tagSize)
	rand.Read(out)
	return a.Seal(out, out, plain, aad), nil
}

func openWith(key, sealed, aad []byte) ([]byte, error) {
	a, err := NewAEAD(key)
	if err != nil || len(sealed) < nonceSize {
		return nil, ErrOpen
	}
	b, err := a.Open(nil, sealed[:nonceSize], sealed[nonceSize:], aad)
	if err != nil {
		return nil, ErrOpen
	}
	return b, nil
}

func (f ringFile) aad() []byte {
	f.Sealed = nil
	b, err := canon.Marshal(f)
	if err != nil {
		panic("sallyport: internal error: a ring's header has no canonical form")
	}
	return append([]byte("sallyport/ring/v1\x00"), b...)
}

func readRing(b []byte) (f ringFile, err error) {
	if err := canon.Unmarshal(b, maxRing, &f); err != nil {
		return f, fmt.Errorf("%s is torn or was changed: %w", RingName, err)
	}
	if f.V != 1 {
		return f, fmt.Errorf("%s has version %d, want 1", RingName, f.V)
	}
	return f, nil
}

// open unwraps a ring's keys. There is one error for a wrong key and a changed
// file, so that neither can be told from the other.
func open(ctx context.Context, kek KEK, f ringFile) (map[uint16]Secret, error) {
	if f.Kind != kek.Kind() {
		return nil, fmt.Errorf("the keys are wrapped by %q and not by %s: say with --kek by what", f.Kind, kek.Kind())
	}
	own, err := kek.Unwrap(ctx, f.Wrapped)
	if err != nil {
		return nil, fmt.Errorf("unwrap the keys by %s: %w", f.Kind, err)
	}
	defer clear(own)
	plain, err := openWith(own, f.Sealed, f.aad())
	if err != nil {
		return nil, fmt.Errorf("%s does not open: another key than the one that it was wrapped by, or it was changed", RingName)
	}
	defer clear(plain)
	var body ringBody
	if err := canon.Unmarshal(plain, maxRing, &body); err != nil {
		return nil, errors.New(RingName + " holds no keys")
	}
	keys := map[uint16]Secret{}
	for _, k := range body.Keys {
		defer clear(k.Key)
		if len(k.Key) != KeySize {
			forget(keys)
			return nil, errors.New(RingName + " holds a key of another size")
		}
		keys[k.Generation] = NewSecret(k.Key)
	}
	if len(keys) == 0 {
		return nil, errors.New(RingName + " holds no keys")
	}
	return keys, nil
}
