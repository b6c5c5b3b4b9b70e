// Package server is the wiring: it opens store, ledger and every tenant, runs
// the sessions of tasks, and answers the questions that the faces ask. It
// decides nothing itself: the gate decides, the engines keep, the ledger
// remembers.
//
// A data folder belongs to one running server. It holds root.key (whoever has it
// and the store can read every secret) or keyring.json (whoever has it, the store
// and the use of its key-encryption key can), the embedded store, and the sockets.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/browser"
	"github.com/sallyport-dev/sallyport/internal/contain"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/internal/store"
	"github.com/sallyport-dev/sallyport/internal/surface/egress"
)

// Config is what an operator decides about a server. The zero value of each
// field but Data is safe.
type Config struct {
	// Data is the folder of the server's state. It is made if it is empty or
	// missing; a folder with state but without its root key is refused.
	Data string
	// Store is a PostgreSQL URL, or empty for the store in Data.
	Store string
	// KEK wraps the keys in Data; nil is a key file that holds one as it is. The
	// server closes it. KEKGrace is how long secrets open while a remote one does
	// not answer; 0 is DefaultKEKGrace.
	KEK      seal.KEK
	KEKGrace time.Duration
	// Issuer is the base URL under which others reach /t/TENANT/..., for OIDC
	// discovery; empty means http://localhost.
	Issuer string
	// Signers are sockets of SSH agents that hold the private keys of tenants, by
	// tenant. The keys of the others are sealed in the store.
	Signers map[string]string
	// SPIRE are Workload API sockets of SPIRE agents on this machine, by tenant: for
	// those that declare identity: spire.
	SPIRE map[string]string
	// HoldLimit bounds how long an action waits for people; default 10 minutes.
	HoldLimit time.Duration
	// WarmBrowsers is how many browsers wait, started, for tasks to come.
	WarmBrowsers int
	// WIT says that WIT-SVIDs are issued too, which is experimental.
	WIT bool
	Log *slog.Logger
}

func (c Config) spire(tenant string) (*identity.SPIRE, error) {
	if path := c.SPIRE[tenant]; path != "" {
		return identity.NewSPIRE(path)
	}
	return nil, nil
}

func (c Config) signer(tenant string) *identity.Signer {
	if path := c.Signers[tenant]; path != "" {
		return identity.NewSigner(path)
	}
	return nil
}

// Server is one running node.
type Server struct {
	cfg    Config
	log    *slog.Logger
	lock   *os.File
	store  dataStore
	ledger *ledger.Ledger
	root   *seal.Root
	ring   *seal.Ring // nil: root is of a key file
	gate   *gate.Gate
	// browsers gives every session its own.
	browsers *browser.Pool[*egress.Keys]
	canary   chan struct{} // has one in it while a canary runs
	fixtures one           // in which trials run now
	alone    atomic.Bool   // no other server uses the store
	self     action.Digest // of the running binary
	grade    string        // what containment this machine gives

	attestor *identity.LaunchAttestor

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.RWMutex
	tenants map[string]*tenant
}

// GCPercent is how much the heap of a server may grow between two collections
// (debug.SetGCPercent), unless GOGC says otherwise: it is small, and most of what
// a decision allocates is gone with the decision.
const GCPercent = 400

// Open opens the data folder and everything in it, and ends what an earlier
// process left behind: tasks that ran, credentials that were alive.
func Open(ctx context.Context, cfg Config) (*Server, error) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(GCPercent)
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.HoldLimit == 0 {
		cfg.HoldLimit = 10 * time.Minute
	}
	if cfg.KEKGrace == 0 {
		cfg.KEKGrace = DefaultKEKGrace
	}
	if cfg.Issuer == "" {
		cfg.Issuer = "http://localhost"
	}
	s := &Server{cfg: cfg, log: cfg.Log, gate: gate.New(ids("a")), attestor: identity.NewLaunchAttestor(), tenants: map[string]*tenant{}, canary: make(chan struct{}, 1),
		browsers: browser.NewPool(cfg.WarmBrowsers, egress.NewKeys)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.alone.Store(true)
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) open(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if s.self, err = fileDigest(self); err != nil {
		return err
	}
	s.grade = string(contain.Doctor(ctx).Grade)
	if err := s.openKeys(ctx); err != nil {
		return err
	}
	// What a crash left of programs that ran.
	if err := errors.Join(os.RemoveAll(s.programs()), os.Mkdir(s.programs(), 0o700)); err != nil {
		return err
	}
	if err = s.openStore(ctx); err != nil {
		return err
	}
	if s.ledger, err = ledger.Open(ctx, s.store, s.root); err != nil {
		return err
	}
	names, err := s.ledger.Tenants(ctx)
	if err != nil {
		return err
	}
	for _, n := range names {
		t, err := s.openTenant(ctx, n)
		if err != nil {
			return fmt.Errorf("tenant %s: %w", n, err)
		}
		s.tenants[n] = t
	}
	for _, t := range s.tenants {
		if err := t.recover(ctx); err != nil {
			// What could not be ended yet is visible and tried again.
			s.log.Warn("recovery is not complete", "tenant", t.name, "err", err)
		}
	}
	s.watchKeys()
	return nil
}

// programs is the folder of the harnesses' programs while they run. It is beside
// the state and not in the system's temporary folder, from where nothing may be
// executed on a hardened machine.
func (s *Server) programs() string { return filepath.Join(s.cfg.Data, "programs") }

type dataStore interface {
	ledger.Store
	Close() error
}

// openStore opens the store for this server alone: what a server keeps in memory
// is not shared, so a second one on the same store would not see a kill.
func (s *Server) openStore(ctx context.Context) error {
	if s.cfg.Store == "" {
		db, err := store.OpenSQLite(s.cfg.Data)
		if err == nil {
			s.store = db
		}
		return err
	}
	db, err := store.OpenPostgres(ctx, s.cfg.Store)
	if err != nil {
		return err
	}
	s.store = db
	lost, err := db.Alone(ctx)
	if err != nil {
		return err
	}
	go func() {
		<-lost
		if s.ctx.Err() == nil {
			s.log.Error("the lock on the database is lost: everything is stopped; start the server again")
			s.gate.Shut(func(gate.Admission) bool { return true }, "store_lost", "the lock on the database is lost")
			s.alone.Store(false)
		}
	}()
	return nil
}

// lockFolder makes sure that one process uses the folder. The lock ends with
// the process, however it ends.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s is in use by another server: stop it, or name another folder with --data", dir)
	}
	return f, nil
}

// Close ends every task, with what it holds, and closes the store. Leases that
// cannot be confirmed in time stay visible and are ended by the next start.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var errs []error
	for _, t := range s.all() {
		errs = append(errs, t.close(ctx))
	}
	s.cancel()
	s.browsers.Close()
	s.wg.Wait()
	for _, t := range s.all() {
		if t.issuer != nil {
			t.issuer.Close()
		}
		t.roles.close()
	}
	if s.ledger != nil {
		errs = append(errs, s.ledger.Close())
	}
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.cfg.KEK != nil {
		errs = append(errs, s.cfg.KEK.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

func (s *Server) all() []*tenant {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Collect(maps.Values(s.tenants))
}

// Err says why nothing can pass, or nil: the ledger cannot write, or the store is
// not this server's alone any more.
func (s *Server) Err() error {
	if !s.alone.Load() {
		return errors.New("the lock on the database is lost: start the server again")
	}
	return s.ledger.Err()
}

// Ready tries a durable write of every tenant's log, so that a full disk shows
// before an agent meets it.
func (s *Server) Ready(ctx context.Context) error {
	if err := errors.Join(s.Err(), s.root.Err()); err != nil {
		return err
	}
	for _, t := range s.all() {
		err := s.store.Update(ctx, func(tx ledger.WriteTx) error { return tx.PutObject(t.name, "server.ready", "1", []byte("{}")) })
		if err != nil {
			return fmt.Errorf("the store does not take a write: %w", err)
		}
	}
	return nil
}

// Store is the store under the ledger, for who copies or inspects it as it is.
// Nothing that is written around the ledger is believed by it.
func (s *Server) Store() ledger.Store { return s.store }

// containment is the grade of this machine as a fact of boundaries.
func (s *Server) containment() string { return s.grade }

// tenant returns a tenant, or the only one when name is empty.
func (s *Server) tenant(name string) (*tenant, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if name == "" {
		if len(s.tenants) == 1 {
			for _, t := range s.tenants {
				return t, nil
			}
		}
		return nil, problem(NotFound, "tenant_unclear", fmt.Sprintf("there are %d tenants", len(s.tenants)), "name one with --tenant")
	}
	if t := s.tenants[name]; t != nil {
		return t, nil
	}
	return nil, problem(NotFound, "no_such_tenant", "there is no tenant of this name", "see: sallyport get Tenant")
}

// background runs f until Close.
func (s *Server) background(f func(context.Context)) { s.wg.Go(func() { f(s.ctx) }) }

// Problem is a refusal that a caller can act on. Its texts may be shown.
type Problem struct {
	Kind   ProblemKind `json:"-"`
	Code   string      `json:"code"`
	Reason string      `json:"reason"`
	Next   string      `json:"next,omitempty"`
}

// ProblemKind says whose turn it is.
type ProblemKind int

// The kinds of problems.
const (
	Refused  ProblemKind = iota // understood, and not allowed
	Invalid                     // not understood
	NotFound                    // the thing named does not exist
)

func (p *Problem) Error() string {
	if p.Next != "" {
		return p.Reason + " (" + p.Code + "); next: " + p.Next
	}
	return p.Reason + " (" + p.Code + ")"
}

func problem(k ProblemKind, code, reason, next string) *Problem {
	return &Problem{Kind: k, Code: code, Reason: reason, Next: next}
}
