package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/lease"
	leasessh "github.com/sallyport-dev/sallyport/internal/lease/ssh"
	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/notify"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/signals"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// tenant is everything of one tenant. Tenants share the gate, which knows them
// apart, and nothing that a tenant can name.
type tenant struct {
	srv  *Server
	name string

	log        *ledger.Log
	seal       record.Sealer
	approvals  *approval.Engine
	tasks      *task.Engine
	leases     *lease.Keeper
	certs      *certify.Engine
	certifying one // agents whose suites run now
	issuer     *identity.Issuer
	receiver   *signals.Receiver
	sender     *signals.Sender
	teller     *notify.Notifier
	attestor   *identity.LaunchAttestor

	// mu guards what follows. world is replaced whole by apply.
	mu       sync.RWMutex
	world    *world
	sessions map[string]*session      // by task, running ones
	launched map[string]*measured     // by agent: what its last launch for production saw, of this process
	turns    map[string]*sync.RWMutex // by agent; see turn
	parts    map[string]int           // that agents opened and are not over, by the task at the top
	bars     map[string]signals.Bar   // by person: what security events took
	// forTargets are the secrets of who is told, by name and sealed: they are told that
	// the store cannot be read, too.
	forTargets map[string][]byte
	storing    sync.Mutex // one secret after the other: memory has what the store has

	cutOwed  atomic.Bool // settleCut has to be tried again
	behaving sync.Mutex  // orders the changes of what is known of behaviour

	answers sync.Mutex           // see kindAgainst
	auditMu sync.Mutex           // guards audits, and what is known of each
	audits  map[string]*auditing // by connector

	swept time.Time // when expirePayloads last looked; used by expire only

	codes *codes // one-time, for sign-ins
	roles roleSources
	auths authServers
	keys  *leasessh.Keys // for hosts
}

func (s *Server) openTenant(ctx context.Context, name string) (*tenant, error) {
	log, err := s.ledger.Tenant(ctx, name)
	if err != nil {
		return nil, err
	}
	sealer, err := s.root.Sealer(name)
	if err != nil {
		return nil, err
	}
	t := &tenant{srv: s, name: name, log: log, seal: sealer, attestor: s.attestor, sessions: map[string]*session{}, launched: map[string]*measured{}, parts: map[string]int{}, turns: map[string]*sync.RWMutex{}, audits: map[string]*auditing{}, keys: leasessh.NewKeys(), codes: newCodes()}
	if t.world, err = loadWorld(ctx, log); err != nil {
		return nil, err
	}
	if err = log.View(ctx, func(tx record.Tx) (err error) {
		if t.bars, err = signals.Bars(tx); err == nil {
			t.forTargets, err = ofTargets(tx)
		}
		return err
	}); err != nil {
		return nil, err
	}
	t.approvals = approval.New(log, directory{}, nil)
	if t.certs, err = certify.Open(ctx, log, sealer, ids("c")); err != nil {
		return nil, err
	}
	t.leases = lease.New(lease.Config{Log: log, Seal: sealer, IDs: ids("l"), Prefix: labelPrefix(log.VerifierKey()), Find: t.source, Upstreams: t.upstreams})
	// The gate first: from there on nothing new happens. Then everything that
	// the task holds, the credentials last, since ending them takes the network.
	t.tasks = task.New(log, ids("t"),
		task.Ender{Name: "gate", End: t.endGate},
		task.Ender{Name: "parts", End: func(ctx context.Context, x task.Task) error { return t.tasks.EndParts(ctx, x) }},
		task.Ender{Name: "identity", End: t.endIdentity},
		task.Ender{Name: "approvals", End: t.endApprovals},
		task.Ender{Name: "session", End: t.endSession},
		task.Ender{Name: "leases", End: func(ctx context.Context, x task.Task) error { return t.leases.End(ctx, x.ID) }},
		task.Ender{Name: "behaviour", End: t.endBehaviour},
	)
	spire, err := s.cfg.spire(name)
	if err != nil {
		return nil, err
	}
	t.issuer, err = identity.Open(ctx, log, sealer, authority{t}, identity.Config{
		TrustDomain: t.world.trustDomain, IssuerURL: s.cfg.Issuer + "/t/" + name, Grants: t.tokens, Signer: s.cfg.signer(name), SPIRE: spire, WIT: s.cfg.WIT})
	if err != nil {
		return nil, err
	}
	if err := t.trust(ctx, t.world); err != nil {
		return nil, err
	}
	t.receiver, t.sender, t.teller = t.hear(), t.transmit(), t.tell()
	s.background(t.issuer.RunFederation)
	s.background(t.issuer.RunSPIRE)
	s.background(t.sender.Run)
	s.background(t.teller.Run)
	s.background(t.leases.Run)
	s.background(t.tasks.Run)
	s.background(t.expire)
	s.background(t.watch)
	s.background(t.runCanaries)
	s.background(t.runAudits)
	return t, nil
}

// recover ends what an earlier process left running, and does what it had
// recorded and not done: requests for approval, and certifications that were
// approved.
func (t *tenant) recover(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	errs := []error{t.tasks.Recover(ctx), t.leases.Recover(ctx), t.settleBehaviour(context.WithoutCancel(ctx)), t.settleCut(context.WithoutCancel(ctx))}
	_, err := t.askApprovals(ctx, t.current(), nil)
	errs = append(errs, err)
	errs = append(errs, t.approvals.List(ctx, approval.Granted, func(a approval.Approval) error {
		if a.Statement.Kind == approval.Certification {
			return t.issue(ctx, a.Statement)
		}
		return nil
	}))
	// Before anything is served: this server may be another one than was certified.
	// However long the rest took, since what could not be looked at would stand.
	ctx = context.WithoutCancel(ctx)
	t.lookAgain(ctx)
	return errors.Join(append(errs, t.auditOwed(ctx))...)
}

// close ends what runs: a stopped server has no running tasks.
func (t *tenant) close(ctx context.Context) error {
	t.mu.RLock()
	var running []string
	for id := range t.sessions {
		running = append(running, id)
	}
	t.mu.RUnlock()
	var errs []error
	for _, id := range running {
		_, err := t.tasks.Close(ctx, id, task.Failed, "server_stopped", "the boundary was stopped", "sallyport")
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// expire ends by the clock what has an end: approvals, certifications, running
// tasks, and payloads that retention lets go.
func (t *tenant) expire(ctx context.Context) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		errs := []error{t.approvals.Expire(ctx), t.expireCertifications(ctx), t.expireTasks(ctx), t.endUnheld(ctx), t.expireTakeOvers(ctx), t.expirePayloads(ctx)}
		if err := errors.Join(errs...); err != nil && ctx.Err() == nil {
			t.srv.log.Warn("something could not be ended by the clock", "tenant", t.name, "err", err)
		}
	}
}

func (t *tenant) expireCertifications(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(t.current().agents)) {
		if _, err := t.certs.Live(name, action.Production); errors.Is(err, certify.ErrExpired) {
			t.lapse(ctx, name, certify.Lapse{Code: lapseExpired, Why: "its time is over"})
		}
	}
	return nil
}

func (t *tenant) expireTasks(ctx context.Context) error {
	t.mu.RLock()
	var over []string
	for id, s := range t.sessions {
		if time.Now().After(s.task.Started.Add(time.Duration(s.task.Seconds) * time.Second)) {
			over = append(over, id)
		}
	}
	t.mu.RUnlock()
	var errs []error
	for _, id := range over {
		_, err := t.tasks.Close(ctx, id, task.Failed, "task_time_spent", "the task's time was spent", "sallyport")
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// expirePayloads destroys the keys of payloads whose retention is over. The
// records stay, and so do their proofs.
func (t *tenant) expirePayloads(ctx context.Context) error {
	w := t.current()
	spec := w.retentions[w.retention]
	if spec == nil || spec.LegalHold || time.Since(t.swept) < time.Hour {
		return nil
	}
	t.swept = time.Now()
	all, err := t.tasks.List(ctx)
	if err != nil {
		return err
	}
	keep := time.Duration(spec.Days) * 24 * time.Hour
	var errs []error
	for _, x := range all {
		if x.State.Over() && time.Since(x.Ended) > keep {
			if _, err := t.log.DestroyKey(ctx, x.ID, "sallyport"); err != nil && !errors.Is(err, ledger.ErrErased) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// current is the tenant's declared world now.
func (t *tenant) current() *world {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.world
}

func (t *tenant) endGate(ctx context.Context, x task.Task) error {
	return t.srv.gate.End(ctx, func(a gate.Admission) bool { return a.Tenant == t.name && a.Task == x.ID }, x.Code, "the task ended: "+x.Why)
}

func (t *tenant) endIdentity(_ context.Context, x task.Task) error {
	t.issuer.Revoke(x.ID)
	t.attestor.Revoke(t.name, x.ID)
	return nil
}

func (t *tenant) endApprovals(ctx context.Context, x task.Task) error {
	return t.approvals.CancelTask(ctx, x.ID, "the task ended")
}

// endSession stops the session of a task, if this process has one.
func (t *tenant) endSession(ctx context.Context, x task.Task) error {
	t.mu.Lock()
	s := t.sessions[x.ID]
	delete(t.sessions, x.ID)
	t.mu.Unlock()
	if s != nil {
		s.jar.close()
		s.stop()
		s.endTakeOver(ctx, x.Why)
		close(s.done)
		t.srv.gate.Forget(t.name, x.ID)
	}
	return nil
}

// endTask ends a task from inside the boundary, without a caller to wait for.
func (t *tenant) endTask(id string, end task.State, code, why string) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := t.tasks.Close(ctx, id, end, code, why, "sallyport"); err != nil {
		t.srv.log.Warn("task is still closing", "task", id, "err", err)
	}
}

// authority answers the identity engine: a task may have an SVID while it is
// active and its certification, where it needs one, is in force.
type authority struct{ t *tenant }

func (a authority) Live(ctx context.Context, tenant, id string) ([]string, error) {
	x, err := a.running(ctx, tenant, id)
	return x.Chain, err
}

func (a authority) running(ctx context.Context, tenant, id string) (task.Task, error) {
	if tenant != a.t.name {
		return task.Task{}, errors.New("another tenant's task")
	}
	x, err := a.t.tasks.Get(ctx, id)
	if err != nil {
		return x, err
	}
	if x.State != task.Active {
		return x, fmt.Errorf("task %s is %s", id, x.State)
	}
	if p := x.Parent(); p != "" {
		if _, err := a.running(ctx, tenant, p); err != nil {
			return x, err
		}
	}
	if time.Now().After(x.Started.Add(time.Duration(x.Seconds) * time.Second)) {
		return x, fmt.Errorf("the time of task %s is spent", id)
	}
	if x.Stage == action.Production {
		c, err := a.t.certs.Live(x.Agent, x.Stage)
		if err != nil {
			return x, err
		}
		if c.ID != x.Certification {
			return x, fmt.Errorf("task %s was opened under another certification", id)
		}
	}
	return x, nil
}
