package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/capability"
	"github.com/sallyport-dev/sallyport/internal/contain"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/surface/computer"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// Intent is what a requester declares: the task to be opened.
type Intent struct {
	Agent      string            `json:"agent,omitempty"` // may be left out when one agent has the capability
	Capability string            `json:"capability"`
	Params     map[string]string `json:"params,omitempty"`
	Stage      action.Stage      `json:"stage,omitempty"`  // default production
	Parent     string            `json:"parent,omitempty"` // running task of the same requester, of which it is a part
	suite      string            // set by a certification run, as routes is
	canary     string            // see task.Task
	routes     map[string]string // see task.Task
	told       []task.Told       // see task.Task
	openedBy   string            // set by the agent of the parent
}

// OpenTask declares an intent: a capability with its parameters filled in by a
// person. Nothing runs yet.
func (s *Server) OpenTask(ctx context.Context, tenantName string, c Caller, o Intent) (task.Task, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return task.Task{}, err
	}
	requester, err := t.require(c, "open a task", resource.RoleRequester)
	if err != nil {
		return task.Task{}, err
	}
	return t.open(ctx, requester, o)
}

func (t *tenant) open(ctx context.Context, requester string, o Intent) (task.Task, error) {
	w := t.current()
	if o.Stage == "" {
		o.Stage = action.Production
	}
	spec := w.capabilities[o.Capability]
	if spec == nil {
		return task.Task{}, problem(NotFound, "no_such_capability", "there is no capability "+strconv.Quote(o.Capability), "see: sallyport get Capability")
	}
	a, err := w.agentFor(o)
	if err != nil {
		return task.Task{}, err
	}
	if !slices.Contains(spec.Stages, o.Stage) {
		return task.Task{}, problem(Refused, "stage_not_covered", fmt.Sprintf("capability %s does not cover stage %s", o.Capability, o.Stage), "open it for another stage")
	}
	in, err := spec.Instantiate(o.Capability, o.Params)
	if err != nil {
		return task.Task{}, problem(Invalid, "invalid_parameters", err.Error(), "see: sallyport get Capability "+o.Capability)
	}
	if err := w.spelled(in); err != nil {
		return task.Task{}, err
	}
	if o.Stage == action.Shadow {
		if err := w.shadows(in); err != nil {
			return task.Task{}, err
		}
	}
	if err := t.mayOpen(ctx, w, a, o); err != nil {
		return task.Task{}, err
	}
	digest, err := in.Digest()
	if err != nil {
		return task.Task{}, err
	}
	x := task.Task{Agent: a.name, Capability: o.Capability, Params: o.Params, Stage: o.Stage, Tier: a.tier, Requester: requester,
		CapabilityDigest: w.resources[resource.KindCapability+"/"+o.Capability].Digest, GrantDigest: digest, Seconds: in.Budgets.Seconds, Suite: o.suite, Canary: o.canary, Routes: o.routes, Told: o.told,
		OpenedBy: o.openedBy, SPIFFEID: a.spec.SPIFFEID}
	switch {
	case o.Stage == action.Production:
		cert, err := t.certified(a)
		if err != nil {
			return task.Task{}, err
		}
		x.Certification, x.BoundaryDigest = cert.ID, cert.Boundary
	case o.suite != "": // a trial is of the boundary as it is declared
		x.BoundaryDigest = a.declared.Digest()
	}
	if o.Parent == "" {
		return t.tasks.Open(ctx, x, nil)
	}
	if err := t.part(ctx, w, &x, in, o.Parent); err != nil {
		return task.Task{}, err
	}
	y, err := t.tasks.Open(ctx, x, func(tx record.Tx) error { return task.Live(tx, o.Parent) })
	if errors.Is(err, task.ErrState) {
		err = problem(Refused, "parent_not_running", "task "+o.Parent+" does not run", "open it without a parent, or under a running task")
	}
	return y, err
}

// spelled refuses a task whose parameters are never those of an operation, since
// the connector folds them: nothing would ever be covered by its grant.
func (w *world) spelled(in *capability.Instance) error {
	for _, r := range in.Rules {
		spec := w.connectors.Spec(r.App)
		for _, name := range slices.Sorted(maps.Keys(r.Params)) {
			if v := r.Params[name]; spec != nil && !v.Any && !spec.Decides(name, v.Equals) {
				return problem(Invalid, "invalid_parameters", fmt.Sprintf("%s of %s is not written as connector %s decides it", name, r.Operation, r.App),
					"write the task's parameter in lower-case ASCII, or as a plain number")
			}
		}
	}
	return nil
}

// mayOpen: the capability and the boundary are approved as they are now, nothing
// of the agent's earlier tasks is still alive upstream, and the machine can
// contain what the tier asks for.
func (t *tenant) mayOpen(ctx context.Context, w *world, a *agent, o Intent) error {
	if err := t.srv.Err(); err != nil {
		return problem(Refused, "not_ready", err.Error(), "see: sallyport ledger verify")
	}
	if err := t.srv.root.Err(); err != nil {
		return problem(Refused, "keys_closed", err.Error(), "bring the key-encryption key back: sallyport secret keys")
	}
	if b := t.bar(a.owner); b.Locked {
		return problem(Refused, "owner_locked", "a security event of "+b.Issuer+" locked "+a.owner+", who owns agent "+a.name, "name another owner, or reinstate them")
	}
	type need struct {
		kind   approval.Kind
		name   string
		digest action.Digest
	}
	for _, n := range []need{
		{approval.Capability, o.Capability, w.resources[resource.KindCapability+"/"+o.Capability].Digest},
		{approval.Boundary, a.name, a.declared.Digest()},
	} {
		ok, err := t.isApproved(ctx, string(n.kind)+"/"+n.name, n.digest)
		if err != nil {
			return err
		}
		if !ok {
			return problem(Refused, "not_approved", fmt.Sprintf("the %s %s is not approved as it is now", n.kind, n.name), "approve it: sallyport approvals; after a no, apply it again")
		}
	}
	if t.srv.grade == string(contain.None) || a.tier == "privileged" && t.srv.grade != string(contain.Contained) {
		return problem(Refused, "not_contained", "this machine cannot contain an agent of tier "+a.tier, "see: sallyport doctor")
	}
	left, err := t.leases.Unconfirmed(ctx)
	if err != nil {
		return err
	}
	for _, l := range left {
		if l.Agent == a.name {
			return problem(Refused, "lease_unconfirmed", fmt.Sprintf("credential %s of task %s is not confirmed revoked: %s", l.ID, l.Task, l.Why),
				"restore the application; the revocation is tried again by itself")
		}
	}
	return nil
}

func (w *world) agentFor(o Intent) (*agent, error) {
	if o.Agent != "" {
		a := w.agents[o.Agent]
		if a == nil {
			return nil, problem(NotFound, "no_such_agent", "there is no agent "+strconv.Quote(o.Agent), "see: sallyport get Agent")
		}
		if !slices.Contains(a.spec.Capabilities, o.Capability) {
			return nil, problem(Refused, "capability_not_of_agent", fmt.Sprintf("agent %s does not have capability %s", o.Agent, o.Capability), "see: sallyport get Agent "+o.Agent)
		}
		return a, nil
	}
	var found []string
	for _, n := range slices.Sorted(maps.Keys(w.agents)) {
		if slices.Contains(w.agents[n].spec.Capabilities, o.Capability) {
			found = append(found, n)
		}
	}
	if len(found) != 1 {
		return nil, problem(Invalid, "agent_unclear", fmt.Sprintf("%d agents have capability %s: %s", len(found), o.Capability, strings.Join(found, ", ")), "name one with --agent")
	}
	return w.agents[found[0]], nil
}

// Task returns one task.
func (s *Server) Task(ctx context.Context, tenantName, id string) (task.Task, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return task.Task{}, err
	}
	x, err := t.tasks.Get(ctx, id)
	if errors.Is(err, task.ErrUnknown) {
		err = problem(NotFound, "no_such_task", "there is no task "+strconv.Quote(id), "see: sallyport task list")
	}
	return x, err
}

// Tasks lists all tasks.
func (s *Server) Tasks(ctx context.Context, tenantName string) ([]task.Task, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	return t.tasks.List(ctx)
}

// CloseTask ends a task on behalf of its requester, its agent's owner, or an
// operator.
func (s *Server) CloseTask(ctx context.Context, tenantName string, c Caller, id string) (task.Task, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return task.Task{}, err
	}
	person, err := t.require(c, "close a task", resource.RoleRequester, resource.RoleOwner, resource.RoleOperations)
	if err != nil {
		return task.Task{}, err
	}
	if _, err := s.Task(ctx, tenantName, id); err != nil {
		return task.Task{}, err
	}
	return t.tasks.Close(ctx, id, task.Closed, "closed", "closed by "+person, "person:"+person)
}

// Revoke is the kill: it ends every task in the scope, and returns when nothing
// of them is dispatched any more and their credentials are confirmed ended, or
// says which are not yet. Scopes: task/ID, agent/NAME, connector/NAME,
// credential/NAME, tenant/NAME.
func (s *Server) Revoke(ctx context.Context, tenantName string, c Caller, scope, reason string) ([]task.Task, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	if reason == "" {
		return nil, problem(Invalid, "reason_missing", "a kill needs a reason", "add --reason")
	}
	person, _, err := t.identify(c)
	if err != nil {
		return nil, err
	}
	match, err := t.scope(scope)
	if err != nil {
		return nil, err
	}
	// The fence first, in memory, for all of them at once; then the record; then
	// each task is taken down.
	fence := t.srv.gate.End(ctx, func(a gate.Admission) bool {
		return a.Tenant == t.name && match(task.Task{ID: a.Task, Agent: a.Agent})
	}, "killed", "killed by "+person+": "+reason)
	_, rec := t.log.Append(ctx, record.Draft{Type: "epoch.bumped", Actor: "person:" + person, Body: map[string]any{"scope": scope, "reason": reason}})
	all, err := t.tasks.Unfinished(ctx)
	errs := []error{fence, rec, err}
	all = slices.DeleteFunc(all, func(x task.Task) bool { return !match(x) })
	// Together, so that what they hold at one upstream is ended in few steps.
	var wg sync.WaitGroup
	slots := make(chan struct{}, killWidth)
	failed := make([]error, len(all))
	for i, x := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			all[i], failed[i] = t.tasks.Close(ctx, x.ID, task.Revoked, "killed", reason, "person:"+person)
		})
	}
	wg.Wait()
	return all, errors.Join(append(errs, failed...)...)
}

// killWidth is how many tasks a kill takes down at once.
const killWidth = 256

func (t *tenant) scope(scope string) (func(task.Task) bool, error) {
	kind, name, ok := strings.Cut(scope, "/")
	w := t.current()
	uses := func(x task.Task, f func(*agent) bool) bool {
		a := w.agents[x.Agent]
		return a == nil || f(a) // an agent that is gone is ended by any kill of its tenant's parts
	}
	switch {
	case !ok || name == "":
	case kind == "task":
		return func(x task.Task) bool { return x.ID == name }, nil
	case kind == "agent" || kind == "boundary":
		return func(x task.Task) bool { return x.Agent == name }, nil
	case kind == "connector":
		return func(x task.Task) bool { return uses(x, func(a *agent) bool { return a.apps[name] }) }, nil
	case kind == "credential":
		return func(x task.Task) bool {
			return uses(x, func(a *agent) bool {
				return slices.ContainsFunc(a.spec.Capabilities, func(c string) bool { return slices.Contains(w.capabilities[c].Credentials, name) })
			})
		}, nil
	case kind == "tenant" && name == t.name:
		return func(task.Task) bool { return true }, nil
	}
	return nil, problem(Invalid, "unknown_scope", "the scope "+strconv.Quote(scope)+" is not known",
		"use task/ID, agent/NAME, connector/NAME, credential/NAME or tenant/NAME")
}

// closeLimit bounds how long the end of a task is waited for; what is not ended
// then goes on ending in the background.
const closeLimit = 30 * time.Second

// Run starts a proposed task with a harness. It returns when the harness has
// started; Wait waits for its end.
func (s *Server) Run(ctx context.Context, tenantName, id string, h Harness) (*Running, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	return t.run(ctx, id, h)
}

func (t *tenant) run(ctx context.Context, id string, h Harness) (*Running, error) {
	w := t.current()
	x, err := t.tasks.Get(ctx, id)
	if err == nil && x.State == task.Proposed {
		err = t.unchanged(ctx, w, x)
		if err == nil {
			err = t.held(w.agents[x.Agent])
		}
	}
	if err == nil {
		x, err = t.tasks.Start(ctx, id)
	}
	switch {
	case errors.Is(err, task.ErrUnknown):
		return nil, problem(NotFound, "no_such_task", "there is no task "+strconv.Quote(id), "see: sallyport task list")
	case errors.Is(err, task.ErrState):
		return nil, problem(Refused, "task_state", err.Error(), "open a new task")
	case err != nil:
		return nil, err
	}
	s := &session{t: t, task: x, world: w, agent: w.agents[x.Agent], seen: newMeasured(), jar: newJar(), done: make(chan struct{})}
	s.journal = computer.NewJournal(s.sender)
	if s.instance, err = w.capabilities[x.Capability].Instantiate(x.Capability, x.Params); err == nil {
		t.mu.Lock()
		t.sessions[id] = s
		t.mu.Unlock()
		err = s.start(ctx, h)
	}
	if err != nil {
		t.endTask(id, task.Failed, "not_started", err.Error())
		return nil, err
	}
	return &Running{s}, nil
}

// unchanged refuses to start a task whose capability or boundary is not the one
// that it was opened under, and still approved.
func (t *tenant) unchanged(ctx context.Context, w *world, x task.Task) error {
	changed := func(what string) error {
		return problem(Refused, "changed", "the "+what+" is not the one under which the task was opened", "close the task and open a new one")
	}
	a, spec := w.agents[x.Agent], w.capabilities[x.Capability]
	if a == nil || spec == nil || w.resources[resource.KindCapability+"/"+x.Capability].Digest != x.CapabilityDigest {
		return changed("capability " + x.Capability)
	}
	in, err := spec.Instantiate(x.Capability, x.Params)
	if err != nil {
		return changed("capability " + x.Capability)
	}
	if d, err := in.Digest(); err != nil || d != x.GrantDigest {
		return changed("capability " + x.Capability)
	}
	if a.spec.SPIFFEID != x.SPIFFEID {
		return changed("SPIFFE ID of agent " + x.Agent)
	}
	if why := t.barredTask(w, x); why != "" {
		return problem(Refused, "barred", why, "open a new task")
	}
	return t.mayOpen(ctx, w, a, Intent{Capability: x.Capability})
}

// Running is a session whose harness was started.
type Running struct{ s *session }

// Wait returns when the task is over, with the exit status of the harness. A
// harness that ends by itself ends its task: closed if it exited with 0, else
// failed. The end of ctx kills it.
func (r *Running) Wait(ctx context.Context) (exit int, x task.Task, err error) {
	s, p := r.s, r.s.proc
	fence := s.t.srv.gate.Done(s.t.name, s.task.ID)
	end, code, why := task.Closed, "done", "the agent finished"
	select {
	case <-p.Done():
	case <-fence:
	case <-ctx.Done():
		end, code, why = task.Failed, "interrupted", "the run was interrupted"
	}
	cctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	select {
	case <-fence: // somebody else ends the task, and says why
		p.Kill()
	default:
		p.Kill()
		if werr := p.Wait(); werr != nil && code == "done" {
			end, code, why = task.Failed, "harness_failed", "the agent's program: "+werr.Error()
		}
		if _, err = s.t.tasks.Close(cctx, s.task.ID, end, code, why, "agent:"+s.task.Agent); err != nil {
			s.t.srv.log.Warn("task is still closing", "task", s.task.ID, "err", err)
		}
	}
	var ee *contain.ExitError
	if errors.As(p.Wait(), &ee) {
		exit = ee.Code
	}
	x, err = s.t.tasks.Wait(cctx, s.task.ID)
	return exit, x, err
}
