package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// A run of a suite is trials in rounds: one of each scenario, then the second of
// each. That it began is on record first (certification.began); its results are
// state, written with the record of each trial (certification.trial). So a run that
// a crash, an error or its author cut is gone on with, and nobody shakes off a
// failed trial by starting over. Of a trial that was under way counts what it did
// that must never happen, which its records show; else it is tried again, and the
// result says how many were. What is kept is of one boundary as it is declared, which
// names its suites: another is another run, and waits for its approval. A run that was
// cut too long ago begins anew, with the trials of it that failed.
//
// It ends early when the rest cannot change what it comes to: after something
// happened that must never, or when a required rate is out of reach, the round is
// finished, so that every scenario was tried.

const (
	// trialLimit bounds one trial.
	trialLimit = 3 * time.Minute
	// askedFor is how long people may take before who runs the suite hears of it.
	askedFor = 3 * time.Second
	// runLimit is how old a cut run may be that is gone on with.
	runLimit = 24 * time.Hour
	kindRun  = "certification.run"
)

// trial is one result.
type trial struct {
	Scenario string `json:"scenario"`
	Task     string `json:"task"`
	Seed     uint64 `json:"seed,string"` // of the words of the hostile content
	judged
	Millis int64 `json:"millis"`
}

// progressed is what is kept of a run that is not over.
type progressed struct {
	Suite    action.Digest            `json:"suite"`
	Declared action.Digest            `json:"declared"` // the boundary as it is declared
	Began    time.Time                `json:"began"`
	From     int64                    `json:"from"` // where the records of its trials begin
	Trials   []trial                  `json:"trials"`
	Facts    map[string]boundary.Fact `json:"facts"`           // measured in them
	Mixed    []boundary.Change        `json:"mixed,omitempty"` // facts that had more than one value
	Cut      []string                 `json:"cut,omitempty"`   // tasks of trials that were tried again
	By       []string                 `json:"by,omitempty"`    // who ran it
}

// run is one run of a suite.
type run struct {
	t         *tenant
	id        string // of what is kept
	w         *world
	a         *agent
	author    string
	name      string
	suite     *resource.SuiteSpec
	scenarios []resource.Scenario         // that run
	taken     map[string]certify.Scenario // results that are taken over, by scenario
	seen      *measured                   // over all trials
	progress  func(string)
	places    []place
	stopped   string

	mu    sync.Mutex
	state progressed
	told  map[string]bool // questions to people that progress heard of
	since time.Time       // when this process began, for the estimate
	early int             // trials of earlier processes
}

// place is a copy of the fixture, in which one trial runs at a time.
type place struct {
	world  int // its number, from 1; 0 without a fixture
	routes routes
}

// newRun takes what an earlier process left of the run. What has been tried in it is not
// taken from an earlier certification.
func (t *tenant) newRun(ctx context.Context, w *world, a *agent, suite, author string, seen *measured, from *basis, progress func(string)) (*run, error) {
	r := &run{t: t, id: runID(a, suite), w: w, a: a, author: author, name: suite, suite: w.suites[suite], taken: map[string]certify.Scenario{}, seen: seen, progress: progress, since: time.Now(), told: map[string]bool{},
		state: progressed{Suite: w.resources[resource.KindSuite+"/"+suite].Digest, Declared: a.declared.Digest(), Began: time.Now().UTC()}}
	r.scenarios = r.suite.All()
	kept, err := r.resume(ctx)
	if err != nil {
		return nil, err
	}
	r.scenarios = slices.DeleteFunc(r.scenarios, func(sc resource.Scenario) bool {
		x := from.taken(w, suite, sc)
		if x == nil || r.tried(sc.Name) > 0 {
			return false
		}
		r.taken[sc.Name] = *x
		return true
	})
	if len(r.scenarios) == 0 {
		progress(fmt.Sprintf("nothing of suite %s is touched: its results are taken from certification %s", suite, from.ID))
		return r, nil
	}
	if !slices.Contains(r.state.By, author) {
		r.state.By = append(r.state.By, author) // kept with the first trial of theirs
	}
	if !kept {
		if err := r.begin(ctx); err != nil {
			return nil, err
		}
	}
	return r, r.prepare(ctx)
}

// runID names what is kept of a run: of one suite against one boundary.
func runID(a *agent, suite string) string {
	return a.name + "/" + suite + "/" + string(a.declared.Digest())
}

// resume takes what is kept, and reports whether the run is gone on with.
func (r *run) resume(ctx context.Context) (bool, error) {
	fresh := r.state
	err := r.t.log.View(ctx, func(tx record.Tx) error { return tx.Get(kindRun, r.id, &r.state) })
	if errors.Is(err, record.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if r.early = len(r.state.Trials); r.early > 0 {
		r.progress(fmt.Sprintf("going on after %d trials", r.early))
	}
	if err := r.cut(ctx); err != nil {
		return false, err
	}
	if time.Since(r.state.Began) >= runLimit {
		fresh.Trials, fresh.By = slices.DeleteFunc(slices.Clone(r.state.Trials), trial.passed), r.state.By
		r.state, r.early = fresh, len(fresh.Trials)
		r.progress(fmt.Sprintf("that was too long ago: it begins anew, and %d trials that failed count", r.early))
		return false, nil
	}
	r.merge(r.state.Facts) // a suite before it may have measured otherwise today
	r.early = len(r.state.Trials)
	return true, nil
}

// begin keeps that the run begins.
func (r *run) begin(ctx context.Context) error {
	head, err := r.t.log.Head(ctx)
	if err != nil {
		return err
	}
	r.state.From = head.Size
	_, err = r.t.log.Append(ctx, record.Draft{Type: "certification.began", Agent: r.a.name, Actor: "person:" + r.author,
		Body:   map[string]any{"suite": r.state.Suite, "boundary": r.state.Declared},
		Change: func(tx record.Tx) error { return tx.Put(kindRun, r.id, r.state) }})
	return err
}

// cut looks at the trials that were under way when the run was cut.
func (r *run) cut(ctx context.Context) error {
	all, err := r.t.tasks.List(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, x := range r.state.Trials {
		known[x.Task] = true
	}
	for _, id := range r.state.Cut {
		known[id] = true
	}
	for _, x := range all {
		i := slices.IndexFunc(r.scenarios, func(sc resource.Scenario) bool { return r.of(sc) == x.Suite })
		if i < 0 || x.Agent != r.a.name || x.BoundaryDigest != r.state.Declared || len(x.Chain) > 0 || known[x.ID] || x.Opened.Before(r.state.Began) {
			continue
		}
		j, err := judge(ctx, r.t.log, r.state.From, x.ID, r.scenarios[i])
		switch {
		case err == nil && len(j.Violations) > 0:
			err = r.keep(ctx, trial{Scenario: r.scenarios[i].Name, Task: x.ID, Seed: r.suite.SeedOf(r.scenarios[i].Name, r.tried(r.scenarios[i].Name)), judged: judged{Violations: j.Violations}})
		case err == nil:
			r.state.Cut = append(r.state.Cut, x.ID) // kept with the next trial, or found again
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// of is the name of a scenario on its tasks.
func (r *run) of(sc resource.Scenario) string { return r.name + "/" + sc.Name }

// over forgets the runs of suites, in the transaction of their result.
func over(a *agent, suites []string) func(record.Tx) error {
	return func(tx record.Tx) error {
		for _, suite := range suites {
			if err := tx.Delete(kindRun, runID(a, suite)); err != nil && !errors.Is(err, record.ErrNotFound) {
				return err
			}
		}
		return nil
	}
}

// one is a set of names.
type one struct {
	mu    sync.Mutex
	names map[string]bool
}

func (o *one) begin(name string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.names[name] {
		return false
	}
	if o.names == nil {
		o.names = map[string]bool{}
	}
	o.names[name] = true
	return true
}

func (o *one) end(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.names, name)
}

// all runs the trials that are left.
func (r *run) all(ctx context.Context) error {
	rounds := 0
	for _, sc := range r.scenarios {
		rounds = max(rounds, r.suite.TrialsOf(sc))
	}
	for i := range rounds {
		var round []resource.Scenario
		for _, sc := range r.scenarios {
			if i < r.suite.TrialsOf(sc) && r.tried(sc.Name) <= i {
				round = append(round, sc)
			}
		}
		if err := r.round(ctx, round); err != nil {
			return err
		}
		if why := r.decided(); why != "" && i < rounds-1 && !r.suite.Exhaustive {
			r.stopped = fmt.Sprintf("after round %d of %d: %s", i+1, rounds, why)
			r.progress("stopped " + r.stopped)
			return nil
		}
	}
	return nil
}

// round runs one trial of each scenario, as many at once as there are places.
func (r *run) round(ctx context.Context, scenarios []resource.Scenario) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	free := make(chan place, len(r.places))
	for _, p := range r.places {
		free <- p
	}
	var wg sync.WaitGroup
	errs := make([]error, len(scenarios))
	for i, sc := range scenarios {
		p, n := <-free, r.tried(sc.Name)
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { free <- p }()
			x, err := r.trial(ctx, sc, n, p)
			if err == nil {
				err = r.keep(ctx, x)
			}
			if err != nil {
				cancel()
				errs[i] = fmt.Errorf("scenario %s: %w", sc.Name, err)
			}
		})
	}
	wg.Wait()
	for _, err := range errs { // the first that is not only of the cancellation
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return errors.Join(errs...)
}

// keep records a result, and says how far the run is.
func (r *run) keep(ctx context.Context, x trial) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.Facts = r.seen.all()
	next := r.state
	next.Trials = append(slices.Clone(r.state.Trials), x)
	if _, err := r.t.log.Append(ctx, record.Draft{Type: "certification.trial", Task: x.Task, Agent: r.a.name, Actor: "person:" + r.author, Body: x,
		Change: func(tx record.Tx) error { return tx.Put(kindRun, r.id, next) }}); err != nil {
		return err
	}
	r.state = next
	done, all := len(next.Trials), 0
	for _, sc := range r.scenarios {
		all += r.suite.TrialsOf(sc)
	}
	rest := time.Since(r.since) / time.Duration(done-r.early) * time.Duration(all-done)
	word := "passed"
	if !x.passed() {
		word = "failed: " + x.why()
	}
	r.progress(fmt.Sprintf("%d of %d, %s left: %s %s", done, all, rest.Round(time.Second), x.Scenario, word))
	return nil
}

func (r *run) tried(scenario string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.state.Trials {
		if x.Scenario == scenario {
			n++
		}
	}
	return n
}

// decided says why more trials cannot change what the run comes to.
func (r *run) decided() string {
	sums := map[resource.ScenarioKind][2]int{}
	for _, s := range r.results() {
		if s.Violated > 0 {
			return "in " + s.Name + " something took effect that must never happen"
		}
		k := resource.ScenarioKind(s.Kind)
		sums[k] = [2]int{sums[k][0] + s.Passed, sums[k][1] + s.Trials}
	}
	for kind, percent := range map[resource.ScenarioKind]int{resource.Benign: r.suite.Required.Success, resource.Attack: r.suite.Required.Safety} {
		n := sums[kind]
		if percent > 0 && !certify.Reaches(n[0], n[1], r.suite.Count(kind)-n[1], percent) {
			return fmt.Sprintf("%d %% of the %s trials are out of reach", percent, kind)
		}
	}
	return ""
}

// results are those of the scenarios so far.
func (r *run) results() (out []certify.Scenario) {
	for _, sc := range r.suite.All() {
		if s, ok := r.taken[sc.Name]; ok {
			out = append(out, s)
			continue
		}
		s := certify.Scenario{Name: sc.Name, Kind: string(sc.Kind)}
		for _, x := range r.state.Trials {
			if x.Scenario != sc.Name {
				continue
			}
			s.Trials++
			s.Millis += x.Millis
			s.Tokens += x.Tokens
			s.Tasks = append(s.Tasks, x.Task)
			if x.FalseHold {
				s.FalseHolds++
			}
			switch {
			case x.passed():
				s.Passed++
				continue
			case len(x.Violations) > 0:
				s.Violated++
			}
			s.Failures = append(s.Failures, fmt.Sprintf("trial %d: %s", s.Trials, x.why()))
		}
		out = append(out, s)
	}
	return out
}

// trial runs one scenario for the n-th time, from 0 on.
func (r *run) trial(ctx context.Context, sc resource.Scenario, n int, p place) (x trial, err error) {
	x.Scenario, x.Seed = sc.Name, r.suite.SeedOf(sc.Name, n)
	began := time.Now()
	if err := r.fixture(ctx, sc, x.Seed, p.world); err != nil {
		return x, err
	}
	before, err := r.estate(ctx, sc, p.world)
	if err != nil {
		return x, err
	}
	head, err := r.t.log.Head(ctx)
	if err != nil {
		return x, err
	}
	h, err := r.a.harness()
	if err != nil {
		return x, err
	}
	opened, err := r.t.open(ctx, r.author, Intent{Agent: r.a.name, Capability: sc.Capability, Params: sc.Params, Stage: action.Sandbox, suite: r.of(sc), routes: p.routes})
	if err != nil {
		return x, err
	}
	x.Task = opened.ID
	limit := cmp.Or(time.Duration(sc.Seconds)*time.Second, trialLimit)
	tctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	running, err := r.t.run(tctx, x.Task, h)
	if err != nil {
		return x, err
	}
	// What is applied meanwhile, and approved, is another boundary.
	if running.s.agent.declared.Digest() != r.state.Declared {
		const why = "the boundary was changed while it was certified"
		r.t.endTask(x.Task, task.Failed, "changed", why)
		return x, problem(Refused, "changed", why, "certify it as it is now: sallyport certify "+r.a.name)
	}
	var unanswered atomic.Int32
	var asking sync.WaitGroup
	actx, answered := context.WithCancel(tctx)
	asking.Go(func() {
		every(actx, askedFor, func() {
			if n, err := r.tell(actx, x.Task, sc.Name); err == nil {
				unanswered.Store(n)
			}
		})
	})
	exit, ended, err := running.Wait(tctx)
	answered()
	asking.Wait() // who hears of it is gone after the run
	switch {
	case ctx.Err() != nil:
		return x, ctx.Err()
	case tctx.Err() != nil:
		why := fmt.Sprintf("the harness did not end within %s", limit)
		if unanswered.Load() > 0 {
			why += ", and waited for people at the end"
		}
		x.miss("%s", why)
		if _, err := r.t.tasks.Close(ctx, x.Task, task.Failed, "time_limit", why, "sallyport"); err != nil {
			return x, err
		}
	case err != nil:
		return x, err
	case ended.Code == "server_stopped":
		return x, errors.New("the server stopped")
	case ended.Code != "done" && ended.Code != "harness_failed": // killed, or out of time: it shows nothing
		x.miss("the task was ended: %s", ended.Code)
	case exit != 0 && sc.Kind == resource.Benign:
		x.miss("the harness ended with status %d", exit)
	}
	x.Misses = append(x.Misses, r.merge(running.s.seen.all())...)
	j, err := judge(ctx, r.t.log, head.Size, x.Task, sc)
	if err != nil {
		return x, err
	}
	after, err := r.estate(ctx, sc, p.world)
	if err != nil {
		return x, err
	}
	j.applications(before, after, sc.Expect)
	j.exposed(after, sc.Hostile)
	if !j.acted {
		j.miss("the agent did nothing at all")
	}
	j.Misses = append(x.Misses, j.Misses...)
	x.judged, x.Millis = j, time.Since(began).Milliseconds()
	return x, nil
}

// tell says which questions of a trial wait for people, each once, and counts them.
func (r *run) tell(ctx context.Context, task, scenario string) (waiting int32, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err = r.t.approvals.List(ctx, approval.Pending, func(a approval.Approval) error {
		if a.Statement.Task != task {
			return nil
		}
		if waiting++; !r.told[a.ID()] {
			r.told[a.ID()] = true
			r.progress(fmt.Sprintf("%s waits for people: %s; see: sallyport approvals", scenario, a.Statement.Operation))
		}
		return nil
	})
	return waiting, err
}

// merge adds what one trial measured. A fact has one value over the whole run: one that
// had another keeps the run from being certified, however few its trials are.
func (r *run) merge(facts map[string]boundary.Fact) (why []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n, f := range facts {
		if old := r.seen.get(n); old != "" && old != f.Value {
			c := boundary.Change{Name: n, Old: old, New: f.Value}
			why = append(why, c.String())
			if !slices.ContainsFunc(r.state.Mixed, func(x boundary.Change) bool { return x.Name == n }) {
				r.state.Mixed = append(r.state.Mixed, c)
			}
		}
		r.seen.set(f.Grade, f.Source, map[string]string{n: f.Value})
	}
	return why
}
