// Package ledger keeps one append-only log per tenant and the state that goes
// with it.
//
// Invariants:
//   - A record is acknowledged only when it, the state change that came with
//     it, its payloads and its Merkle hashes are on stable storage, all in one
//     transaction. What is not in the log did not happen.
//   - Records of a tenant are in one order, numbered from 0 without a gap, and
//     their time never goes back.
//   - A checkpoint is signed only over records that were read back and hashed
//     again, and only as an extension of the checkpoint before it.
//   - When it is not known what the log holds, the ledger stops (ErrStopped)
//     and stays stopped until it is opened again.
//   - Payloads are encrypted apart from the records. Destroying a task's key
//     erases their content and leaves every proof valid.
//
// Order of an append: the caller's goroutine encrypts the payloads; the one
// committer takes what is waiting as a batch, or a caller that found nobody
// waiting commits its own and what came meanwhile; in one transaction it locks the heads, runs each Change (under a
// savepoint), writes records, hashes and payloads and moves the heads; it
// commits; it answers. There is one commit at a time. A crash before the
// commit leaves nothing, a crash after it leaves a record that may not have
// been answered for: the callers of a dead process were told nothing.
//
// The tree is that of RFC 6962, served as C2SP tlog-tiles; checkpoints are
// C2SP tlog-checkpoint notes signed with Ed25519.
//
// Not trusted: the database, for integrity. Who can write to it can destroy the
// log, but cannot change it without Verify naming the record, given the public
// key and one checkpoint kept elsewhere. State objects are not in the tree;
// records are.
package ledger

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// ErrStopped is wrapped by every append after a fault that left the state of
// the log unknown. The caller must deny; the operator must find the cause, and
// start again, which reads the log anew.
var ErrStopped = errors.New("ledger stopped")

// ErrErased is wrapped by Payload for content whose key was destroyed, and by
// Append for new payloads of such a task. It is final.
var ErrErased = errors.New("content was erased: its key is destroyed")

// Keys gives each tenant its sealer. *seal.Root implements it.
type Keys interface {
	Sealer(tenant string) (record.Sealer, error)
}

// Ledger is all tenants' logs in one store.
type Ledger struct {
	store    Store
	keys     Keys
	now      func() time.Time
	readOnly bool

	queue   queue
	ctx     context.Context // of the signer
	cancel  context.CancelFunc
	wg      sync.WaitGroup // the signer
	drained chan struct{}  // closed when the committer ended
	grown   chan struct{}  // capacity 1: some tree has grown since the signer looked

	// mu guards what follows. It is never held over I/O of a commit.
	mu      sync.Mutex
	logs    map[string]*Log
	stopped error // first fault; wraps ErrStopped
}

// Kinds of the ledger's own objects. Drafts cannot touch kinds with this
// prefix.
const (
	reserved = "ledger."
	kindKey  = "ledger.key"     // id "log": the sealed signing key
	kindTask = "ledger.taskkey" // id: task. The sealed data key, or a tombstone
)

// logKey is the stored form of a tenant's log key.
type logKey struct {
	Origin   string `json:"origin"`
	Verifier string `json:"verifier"` // C2SP signed-note verifier key
	Sealed   []byte `json:"sealed"`   // Ed25519 seed
}

// ErrReadOnly is the cause of every refusal of a ledger from OpenReadOnly.
var ErrReadOnly = errors.New("ledger is open for reading only")

// Open starts the ledger on a store. Close stops it; the store stays open.
func Open(ctx context.Context, s Store, k Keys) (*Ledger, error) {
	l, err := load(ctx, s, k)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	go func() { defer close(l.drained); l.commitLoop() }()
	l.wg.Go(l.signLoop)
	l.poke()
	return l, nil
}

// OpenReadOnly opens the ledger of a stopped server: everything but appending.
// A log whose stored hashes do not give its signed root opens too, so that
// Verify can name what is wrong.
func OpenReadOnly(ctx context.Context, s Store, k Keys) (*Ledger, error) {
	l, err := load(ctx, s, k, readOnly)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	close(l.drained)
	l.queue.close()
	return l, nil
}

func readOnly(l *Ledger) {
	l.readOnly = true
	l.stopped = fmt.Errorf("%w: %w", ErrStopped, ErrReadOnly)
}

func load(ctx context.Context, s Store, k Keys, how ...func(*Ledger)) (*Ledger, error) {
	l := &Ledger{store: s, keys: k, now: time.Now, logs: map[string]*Log{}, grown: make(chan struct{}, 1), drained: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	l.queue.init()
	for _, f := range how {
		f(l)
	}
	names, err := l.Tenants(ctx)
	if err != nil {
		l.cancel()
		return nil, err
	}
	for _, name := range names {
		if _, err := l.Tenant(ctx, name); err != nil {
			l.cancel()
			return nil, fmt.Errorf("tenant %s: %w", name, err)
		}
	}
	return l, nil
}

// Close waits for the appends under way, signs what is unsigned, and stops.
func (l *Ledger) Close() error {
	l.queue.close()
	<-l.drained
	l.cancel()
	l.wg.Wait()
	return nil
}

// Names that may appear in paths, keys and origins.
var (
	nameForm   = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)
	originForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,200}$`)
)

// Create makes a tenant's log, empty, with a new signing key. origin names the
// log in checkpoints (C2SP tlog-checkpoint, "origin"), for ever; by custom it
// is "<trust domain>/log".
func (l *Ledger) Create(ctx context.Context, tenant, origin string) (*Log, error) {
	if !nameForm.MatchString(tenant) {
		return nil, fmt.Errorf("create log: tenant %q: want lower-case letters, digits, dots and dashes, at most 63", tenant)
	}
	if !originForm.MatchString(origin) || strings.HasPrefix(origin, "sallyport/") {
		return nil, fmt.Errorf("create log: origin %q: want letters, digits and ._/- and not the prefix sallyport/", origin)
	}
	sealer, err := l.keys.Sealer(tenant)
	if err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	defer clear(priv)
	k := logKey{Origin: origin}
	if k.Verifier, err = note.NewEd25519VerifierKey(origin, pub); err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	if k.Sealed, err = sealer.Seal("log key "+origin, priv.Seed()); err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	body, err := canon.Marshal(k)
	if err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	err = l.store.Update(ctx, func(tx WriteTx) error {
		if _, err := tx.Head(tenant); !errors.Is(err, record.ErrNotFound) {
			return errors.Join(err, fmt.Errorf("tenant %s exists", tenant))
		}
		if err := tx.CreateTenant(tenant); err != nil {
			return err
		}
		return tx.PutObject(tenant, kindKey, "log", body)
	})
	err = l.check(err)
	if err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	return l.Tenant(ctx, tenant)
}

// Tenant returns the log of a tenant, or an error that wraps
// record.ErrNotFound.
func (l *Ledger) Tenant(ctx context.Context, tenant string) (*Log, error) {
	l.mu.Lock()
	log := l.logs[tenant]
	l.mu.Unlock()
	if log != nil {
		return log, nil
	}
	log, err := l.loadLog(ctx, tenant)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if have := l.logs[tenant]; have != nil {
		return have, nil
	}
	l.logs[tenant] = log
	return log, nil
}

// Tenants returns the names of all logs, sorted.
func (l *Ledger) Tenants(ctx context.Context) (names []string, err error) {
	err = l.store.View(ctx, func(tx ReadTx) error {
		names, err = tx.Tenants()
		return err
	})
	return names, err
}

func (l *Ledger) loadLog(ctx context.Context, tenant string) (*Log, error) {
	sealer, err := l.keys.Sealer(tenant)
	if err != nil {
		return nil, err
	}
	log := &Log{l: l, tenant: tenant, sealer: sealer, dataKeys: map[string]aead{}}
	err = l.store.View(ctx, func(tx ReadTx) error {
		if _, err := tx.Head(tenant); err != nil {
			return err
		}
		b, err := tx.Object(tenant, kindKey, "log")
		if err != nil {
			return fmt.Errorf("log key: %w", err)
		}
		var k logKey
		if err := canon.Unmarshal(b, 1<<16, &k); err != nil {
			return fmt.Errorf("log key: %w", err)
		}
		return log.setKey(k)
	})
	if err != nil {
		return nil, err
	}
	if err := log.loadEdge(ctx); err != nil {
		if !l.readOnly || !errors.Is(err, errTampered) {
			return nil, err
		}
		log.tip = tip{}
	}
	return log, nil
}

// stop records the first fault; from then on nothing is appended.
func (l *Ledger) stop(cause error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped == nil {
		l.stopped = fmt.Errorf("%w: %w", ErrStopped, cause)
	}
	return l.stopped
}

// check stops the ledger if err says that the store is in doubt.
func (l *Ledger) check(err error) error {
	if errors.Is(err, ErrFatal) {
		return l.stop(err)
	}
	return err
}

// Err returns why the ledger stopped, or nil while it serves.
func (l *Ledger) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stopped
}

// poke tells the signer that a tree may have grown.
func (l *Ledger) poke() {
	select {
	case l.grown <- struct{}{}:
	default:
	}
}
