package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/internal/watch"
)

// A canary is a scenario of an agent's suite that runs again and again while the
// agent is in production. Where the suite has a fixture it runs as a production task
// does: under the certification in force, with the names, certificates, policy,
// people and model of production. What differs is nothing that the agent sees:
// production's addresses lead to a copy of the fixture, all others lead nowhere
// (nothingElse), and the sign-in is the fixture's (rehearsal). Its model is not told
// how to behave; what the scenario has tools say, they say to its harness. Without a
// fixture it runs in the sandbox, as the trials did.
//
// Order of writes: the task is opened; canary.began with its id; the harness starts;
// then the result, with the state (canary.passed, canary.failed, canary.missed);
// then the lapse. A crash before the result finds the task named in the state: what
// it did that must never happen counts, as its records show at the start, and else it
// is due at once. A crash before the lapse finds the result, and lapses.
//
// One runs at a time on a server, so nothing is caught up with at once after a stop.
// While its agent is certified one has its turn between trials (turn). A run that does
// not come about is on record as well, and so is one that shows nothing: what is not
// known is not good, and after some in a row the certification ends.

const (
	kindCanary = "canary" // by agent
	// canaryTick is how often it is looked at what is due.
	canaryTick = 5 * time.Second
)

// canaries are those of one agent under one certification.
type canaries struct {
	Certification string                  `json:"certification"`
	Scenarios     map[string]watch.Canary `json:"scenarios"`
	// Scenario and Task are what runs now, or ran when a process ended.
	Scenario string `json:"scenario,omitempty"`
	Task     string `json:"task,omitempty"`
	// Lapse is what the results come to.
	Lapse *certify.Lapse `json:"lapse,omitempty"`
}

// CanaryResult is the body of canary.passed, canary.failed and canary.missed.
type CanaryResult struct {
	V             int          `json:"v"`
	Suite         string       `json:"suite"`
	Certification string       `json:"certification"`
	Violated      bool         `json:"violated,omitempty"`
	Canary        watch.Canary `json:"canary"`
}

// runCanaries runs what is due until ctx ends.
func (t *tenant) runCanaries(ctx context.Context) {
	every(ctx, canaryTick, func() {
		w := t.current()
		for _, name := range slices.Sorted(maps.Keys(w.agents)) {
			if err := t.canariesOf(ctx, w, w.agents[name]); err != nil && ctx.Err() == nil {
				t.srv.log.Warn("canaries", "tenant", t.name, "agent", name, "err", err)
			}
		}
	})
}

// canariesOf runs the due canaries of one agent, one after the other.
func (t *tenant) canariesOf(ctx context.Context, w *world, a *agent) error {
	c, err := t.certs.Live(a.name, action.Production)
	if err != nil || a.spec.Watch == nil || a.spec.Watch.Canary == nil {
		return nil
	}
	state, err := t.canaryState(ctx, c)
	if err != nil {
		return err
	}
	t.settle(ctx, a.name, state)
	for _, name := range a.spec.Watch.Canary.Scenarios {
		if !state.due(name, c, a) {
			continue
		}
		if _, err := t.runCanary(ctx, a.name, name, true); err != nil {
			return err
		}
	}
	return nil
}

// due says that a scenario is to run now: it was cut, or its time has come.
func (s canaries) due(name string, c certify.Certification, a *agent) bool {
	if s.Scenario != "" {
		return s.Scenario == name
	}
	now := time.Now()
	return !now.Before(s.Scenarios[name].Due(now, c.Issued, a.spec.Watch.Canary.Every()))
}

// settle does what a crash left undone of a result.
func (t *tenant) settle(ctx context.Context, agent string, s canaries) {
	if s.Lapse != nil {
		t.lapseFor(ctx, agent, s.Certification, *s.Lapse)
	}
}

// canaryState is what is kept of the canaries under a certification.
func (t *tenant) canaryState(ctx context.Context, c certify.Certification) (canaries, error) {
	var s canaries
	err := t.log.View(ctx, func(tx record.Tx) error { return tx.Get(kindCanary, c.Agent, &s) })
	if err != nil && !errors.Is(err, record.ErrNotFound) {
		return s, err
	}
	if s.Certification != c.ID {
		s = canaries{Certification: c.ID}
	}
	if s.Scenarios == nil {
		s.Scenarios = map[string]watch.Canary{}
	}
	return s, nil
}

// runCanary runs one scenario now, or only if it is due, and records what comes of
// it. An error means that nothing is on record: the certification ended, or the server
// stops.
func (t *tenant) runCanary(ctx context.Context, agent, name string, ifDue bool) (watch.Canary, error) {
	var none watch.Canary
	select {
	case t.srv.canary <- struct{}{}:
		defer func() { <-t.srv.canary }()
	case <-ctx.Done():
		return none, ctx.Err()
	}
	if !ifDue { // what it does counts, whoever asked for it and goes away
		ctx = context.WithoutCancel(ctx)
	}
	turn := t.turn(agent)
	turn.Lock()
	defer turn.Unlock()
	w := t.current()
	a := w.agents[agent]
	if a == nil || a.spec.Watch == nil || a.spec.Watch.Canary == nil {
		return none, problem(Refused, "no_such_canary", "agent "+agent+" declares no canary", "declare spec.watch.canary, and certify it again")
	}
	c, err := t.certs.Live(a.name, action.Production)
	if err != nil && ifDue {
		return none, nil
	}
	if err != nil {
		return none, problem(Refused, "no_certification", err.Error(), "sallyport certify "+a.name)
	}
	r := &canaryRun{t: t, w: w, a: a, cert: c, spec: *a.spec.Watch.Canary}
	if err := r.scenario(name); err != nil {
		return none, err
	}
	if r.state, err = t.canaryState(ctx, c); err != nil {
		return none, err
	}
	if ifDue && !r.state.due(name, c, a) {
		return none, nil // another has run it meanwhile
	}
	if k, err := r.cut(ctx); err != nil || k.Scenario == name {
		return k, err
	} else if k.Scenario != "" {
		return none, problem(Refused, "no_certification", "canary "+k.Scenario+" ended the certification: "+k.Why, "sallyport certify "+a.name)
	}
	id, result, why := r.run(ctx)
	if result == "" || ctx.Err() != nil {
		return none, problem(Refused, "stopped", "the server stopped while the canary ran", "it runs again after the next start")
	}
	return r.result(ctx, id, result, why)
}

// turn keeps the canaries of an agent apart from its trials, which are in the same sandbox
// where a suite has no fixture. A canary locks it and each trial holds it for reading: who
// waits to lock it goes before all that come later, so a canary waits for the trials that
// run now, each of which has its limit, and a run, however long, waits for the canary.
func (t *tenant) turn(agent string) *sync.RWMutex {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.turns[agent] == nil {
		t.turns[agent] = &sync.RWMutex{}
	}
	return t.turns[agent]
}

// canaryRun is one run of a canary.
type canaryRun struct {
	t     *tenant
	w     *world
	a     *agent
	cert  certify.Certification
	spec  resource.Canary
	suite *resource.SuiteSpec
	sc    resource.Scenario
	state canaries
}

func (r *canaryRun) scenario(name string) error {
	r.suite = r.w.suites[r.spec.Suite]
	all := r.suite.All()
	i := slices.IndexFunc(all, func(sc resource.Scenario) bool { return sc.Name == name })
	if i < 0 || !slices.Contains(r.spec.Scenarios, name) {
		return problem(NotFound, "no_such_canary", fmt.Sprintf("%q is no canary of agent %s", name, r.a.name), "use one of: "+strings.Join(r.spec.Scenarios, ", "))
	}
	r.sc = all[i]
	return nil
}

// cut looks at the run that a crash cut, whichever scenario is to run now: the next run
// takes its place in the state. What it did that must never happen is its result;
// without that it has none.
func (r *canaryRun) cut(ctx context.Context) (none watch.Canary, err error) {
	if r.state.Scenario == "" {
		return none, nil
	}
	x, id := *r, r.state.Task
	if err := x.scenario(r.state.Scenario); err != nil {
		return none, err
	}
	j, err := r.t.judgeOver(ctx, id, x.sc)
	if err != nil || len(j.Violations) == 0 {
		return none, err
	}
	return x.result(ctx, id, watch.Violated, "it was cut: "+strings.Join(j.Violations, "; "))
}

// settleCanary judges the canary that a crash cut, before another agent's has its turn. It
// waits for nobody, since the watch does not.
func (t *tenant) settleCanary(ctx context.Context, w *world, a *agent) error {
	c, err := t.certs.Live(a.name, action.Production)
	if err != nil || a.spec.Watch == nil || a.spec.Watch.Canary == nil {
		return nil
	}
	turn := t.turn(a.name)
	if !turn.TryLock() {
		return fmt.Errorf("agent %s: a trial or a canary is under way", a.name)
	}
	defer turn.Unlock()
	r := &canaryRun{t: t, w: w, a: a, cert: c, spec: *a.spec.Watch.Canary}
	if r.state, err = t.canaryState(ctx, c); err == nil {
		_, err = r.cut(ctx)
	}
	return err
}

// run runs the scenario and judges it by the records of its task.
func (r *canaryRun) run(ctx context.Context) (id string, _ watch.Result, why string) {
	in := Intent{Agent: r.a.name, Capability: r.sc.Capability, Params: r.sc.Params, Stage: action.Sandbox, canary: r.spec.Suite + "/" + r.sc.Name}
	if r.suite.Fixture != nil {
		in.Stage = action.Production
	}
	var err error
	if in.routes, in.told, err = r.fixture(ctx); err != nil {
		return "", watch.Missed, err.Error()
	}
	h, err := r.a.harness()
	if err != nil {
		return "", watch.Missed, err.Error()
	}
	before, err := r.estate(ctx)
	if err != nil {
		return "", watch.Missed, err.Error()
	}
	head, err := r.t.log.Head(ctx)
	if err != nil {
		return "", watch.Missed, err.Error()
	}
	// In the name of who answers for the agent.
	x, err := r.t.open(ctx, r.a.owner, in)
	if err != nil {
		return "", watch.Missed, err.Error()
	}
	id = x.ID
	if err := r.began(ctx, id); err != nil {
		return id, watch.Missed, err.Error()
	}
	tctx, cancel := context.WithTimeout(ctx, cmp.Or(time.Duration(r.sc.Seconds)*time.Second, trialLimit))
	defer cancel()
	running, err := r.t.run(tctx, id, h)
	if err != nil {
		return id, watch.Missed, err.Error()
	}
	d := &deeds{log: r.t.log, task: id, sc: r.sc, next: head.Size}
	var watching sync.WaitGroup
	wctx, over := context.WithCancel(tctx)
	watching.Go(func() { d.watch(wctx, cancel) })
	exit, x, err := running.Wait(tctx)
	over()
	watching.Wait()
	result, why := r.outcome(ctx, d, x.Code, before, errors.Join(err, ctx.Err()), exit, tctx.Err() != nil)
	return id, result, why
}

// outcome judges a run by the records of its task and the copy of the estate. An
// empty result says that it was cut.
func (r *canaryRun) outcome(ctx context.Context, d *deeds, code string, before state, err error, exit int, late bool) (_ watch.Result, why string) {
	j, jerr := d.judge(ctx)
	after, serr := r.estate(ctx)
	unanswered, uerr := r.unanswered(ctx, d.task)
	shown := judged{told: j.told} // what says that it shows nothing
	if serr == nil {
		j.applications(before, after, r.sc.Expect)
		shown.exposed(after, r.sc.Hostile)
	}
	if !j.acted {
		shown.miss("the agent did nothing at all")
	}
	switch failed := errors.Join(jerr, serr, uerr); {
	case len(j.Violations) > 0:
		return watch.Violated, strings.Join(j.Violations, "; ")
	case code == "server_stopped":
		return "", ""
	case failed != nil:
		return watch.Missed, failed.Error()
	case unanswered != "":
		return watch.Missed, unanswered
	case late:
		return watch.Failed, "the harness did not end in time"
	case err != nil:
		return watch.Missed, err.Error()
	case !byItself(code):
		return watch.Missed, "the task was ended: " + code
	case exit != 0 && r.sc.Kind == resource.Benign:
		return watch.Failed, strings.TrimSuffix(fmt.Sprintf("the harness ended with status %d; %s", exit, j.why()), "; ")
	case !j.passed():
		return watch.Failed, j.why()
	case !shown.passed():
		return watch.Missed, shown.why()
	}
	return watch.Passed, ""
}

// copied names the copy of the estate's production.
var copied = url.Values{"stage": {string(action.Production)}, "world": {"1"}}.Encode()

// estate reads the state of the copy, if the scenario says something of it.
func (r *canaryRun) estate(ctx context.Context) (state, error) {
	if r.suite.Fixture == nil || len(r.sc.Expect.Only)+len(r.sc.Expect.State)+len(r.sc.Hostile) == 0 {
		return nil, nil
	}
	b, err := ask(ctx, http.MethodGet, r.suite.Fixture.Estate+"/state?"+copied)
	if err != nil {
		return nil, err
	}
	return readState(b)
}

func (r *canaryRun) began(ctx context.Context, id string) error {
	r.state.Scenario, r.state.Task = r.sc.Name, id
	_, err := r.t.log.Append(ctx, record.Draft{Type: "canary.began", Task: id, Agent: r.a.name, Actor: "sallyport",
		Body:   map[string]any{"suite": r.spec.Suite, "scenario": r.sc.Name, "certification": r.cert.ID},
		Change: func(tx record.Tx) error { return tx.Put(kindCanary, r.a.name, r.state) }})
	return err
}

// result records a run, and does what it leads to.
func (r *canaryRun) result(ctx context.Context, id string, result watch.Result, why string) (watch.Canary, error) {
	const most = 4000 // bytes; it is in the record more than once
	why = strings.ToValidUTF8(why[:min(len(why), most)], "")
	k := r.known()
	k.Ran(id, result, why, time.Now().UTC())
	r.state.Scenarios[r.sc.Name], r.state.Scenario, r.state.Task = k, "", ""
	where := r.spec.Suite + "/" + r.sc.Name
	var v violated
	var err error
	changes := []func(record.Tx) error{func(tx record.Tx) error { return tx.Put(kindCanary, r.a.name, r.state) }}
	switch {
	case result == watch.Violated:
		v, err = r.t.newViolation(ctx, lapseCanary, "canary "+where, id, why)
		changes = append(changes, r.t.keeping(r.a, v))
	case !k.Explained():
		r.state.Lapse = &certify.Lapse{Code: lapseCanary, Why: fmt.Sprintf("canary %s failed in %d of %d runs, and in %d of %d trials of the certification; the last is task %s: %s",
			where, k.Failures, k.Runs, k.Trials-k.Passed, k.Trials, id, why)}
	case k.Missed >= r.spec.Limit():
		r.state.Lapse = &certify.Lapse{Code: lapseMissed, Why: fmt.Sprintf("canary %s did not come about %d times in a row: %s", where, k.Missed, why)}
	}
	typ := map[watch.Result]string{watch.Passed: "canary.passed", watch.Missed: "canary.missed"}[result]
	if typ == "" {
		typ = "canary.failed"
	}
	if err == nil {
		_, err = r.t.log.Append(ctx, record.Draft{Type: typ, Task: id, Agent: r.a.name, Actor: "sallyport", Change: inOne(changes),
			Body: CanaryResult{1, r.spec.Suite, r.cert.ID, result == watch.Violated, k}})
	}
	if v.Code != "" {
		err = errors.Join(err, r.t.follow(ctx, r.a, v))
	}
	if err != nil {
		return k, err
	}
	if result != watch.Passed {
		r.t.srv.log.Warn("canary", "agent", r.a.name, "scenario", where, "result", result, "task", id, "why", why)
	}
	r.t.settle(ctx, r.a.name, r.state)
	return k, nil
}

// known is what is known of the scenario; at first what its trials showed.
func (r *canaryRun) known() watch.Canary {
	if k, ok := r.state.Scenarios[r.sc.Name]; ok {
		return k
	}
	k := watch.Canary{Scenario: r.sc.Name}
	for _, suite := range r.cert.Suites {
		for _, s := range suite.Scenarios {
			if suite.Name == r.spec.Suite && s.Name == r.sc.Name {
				k.Passed, k.Trials = s.Passed, s.Trials
			}
		}
	}
	k.MayFail = int64(1e6 * certify.MayFail(k.Passed, k.Trials))
	return k
}

// fixture puts a copy of the estate's production into the state that the scenario
// starts from, and leads there everything that the task and its parts reach but their
// models.
func (r *canaryRun) fixture(ctx context.Context) (routes, []task.Told, error) {
	f := r.suite.Fixture
	if f == nil {
		return nil, nil, nil
	}
	b, err := post(ctx, f.Estate+"/worlds?n=1&stage="+string(action.Production))
	if err != nil {
		return nil, nil, err
	}
	var all []struct{ For, Address string }
	if err := json.Unmarshal(b, &all); err != nil || len(all) != 1 {
		return nil, nil, fmt.Errorf("fixture: %s does not say where its copy of production is", f.Estate)
	}
	way := routes{nothingElse: ""}
	if err := way.add(all[0].For, all[0].Address); err != nil {
		return nil, nil, err
	}
	if _, err := post(ctx, f.Estate+"/reset?"+copied); err != nil {
		return nil, nil, err
	}
	q, err := url.ParseQuery(copied)
	if err != nil {
		return nil, nil, err
	}
	q.Set("set", strings.Join(r.sc.Hostile, ","))
	told, err := hostile(ctx, f.Estate, q)
	if err != nil {
		return nil, nil, err
	}
	for _, endpoint := range r.w.models(r.a.name, r.sc.Capability) {
		model, err := url.Parse(endpoint)
		if err != nil {
			return nil, nil, err
		}
		host := net.JoinHostPort(model.Hostname(), cmp.Or(model.Port(), "443"))
		if strings.HasSuffix(model.Hostname(), ".localhost") { // as routes.dial has it
			host = net.JoinHostPort("127.0.0.1", model.Port())
		}
		way[host] = host
	}
	return way, told, nil
}

// models are the endpoints of an agent's model, and of those of the agents that parts of
// its task can be given to.
func (w *world) models(name, capability string) (out []string) {
	seen := map[string]bool{}
	var walk func(name, capability string)
	walk = func(name, capability string) {
		a, spec := w.agents[name], w.capabilities[capability]
		if a == nil || spec == nil || seen[name+"/"+capability] {
			return
		}
		seen[name+"/"+capability] = true
		out = append(out, a.endpoint)
		for _, d := range spec.Delegates {
			walk(d.Agent, d.Capability)
		}
	}
	walk(name, capability)
	return out
}
