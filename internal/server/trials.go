package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
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
// that must never happen; else it is tried again, and the result says how many were.
// What a violation leads to beside the run is in violation.go. What is kept is of one boundary as it is declared, which
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
	Millis int64     `json:"millis"`
	seen   *measured // nil: it was cut, and nobody knows
}

// run is one run of a suite.
type run struct {
	t         *tenant
	id        string // of what is kept
	w         *world
	a         *agent
	author    string // who runs it; nobody, where a start judges what was cut
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
			if err == nil || len(x.Violations) > 0 {
				err = errors.Join(err, r.keep(ctx, x))
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

// keep records a result, does what a violation leads to, and says how far the run is. It
// happened, whoever went away.
func (r *run) keep(ctx context.Context, x trial) error {
	ctx = context.WithoutCancel(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.Facts = r.seen.all()
	next := r.state
	next.Trials = append(slices.Clone(r.state.Trials), x)
	changes := []func(record.Tx) error{func(tx record.Tx) error { return tx.Put(kindRun, r.id, next) }}
	var v violated
	var err error
	if len(x.Violations) > 0 {
		v, err = r.t.newViolation(ctx, lapseRun, "a run of "+r.name+"/"+x.Scenario, x.Task, strings.Join(x.Violations, "; "))
		v.Facts = r.facts(x)
		changes = append(changes, r.t.keeping(r.a, v))
	}
	if err == nil {
		_, err = r.t.log.Append(ctx, record.Draft{Type: "certification.trial", Task: x.Task, Agent: r.a.name, Actor: r.actor(), Body: x, Change: inOne(changes)})
	}
	if v.Code != "" {
		err = errors.Join(err, r.t.follow(ctx, r.a, v))
	}
	if err != nil {
		return err
	}
	r.state = next
	r.report(x)
	return nil
}

// inOne makes several changes one.
func inOne(changes []func(record.Tx) error) func(record.Tx) error {
	return func(tx record.Tx) error {
		for _, change := range changes {
			if err := change(tx); err != nil {
				return err
			}
		}
		return nil
	}
}

func (r *run) actor() string {
	if r.author == "" {
		return "sallyport"
	}
	return "person:" + r.author
}

// facts are those of the boundary of a trial: as declared, or as it was measured.
func (r *run) facts(x trial) boundary.Measure {
	out := boundary.Measure{}
	for _, f := range r.a.declared.Facts {
		out[f.Name] = f.Value
	}
	if x.seen != nil {
		maps.Copy(out, x.seen.values())
	}
	return out
}

// report says how far the run is.
func (r *run) report(x trial) {
	done, all := len(r.state.Trials), 0
	for _, sc := range r.scenarios {
		all += r.suite.TrialsOf(sc)
	}
	rest := time.Since(r.since) / time.Duration(done-r.early) * time.Duration(all-done)
	word := "passed"
	if !x.passed() {
		word = "failed: " + x.why()
	}
	r.progress(fmt.Sprintf("%d of %d, %s left: %s %s", done, all, rest.Round(time.Second), x.Scenario, word))
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

// trial runs one scenario for the n-th time, from 0 on. With an error it was cut: then
// the result has nothing but what happened and must never, and is none without that.
func (r *run) trial(ctx context.Context, sc resource.Scenario, n int, p place) (trial, error) {
	x := trial{Scenario: sc.Name, Seed: r.suite.SeedOf(sc.Name, n)}
	turn := r.t.turn(r.a.name)
	turn.RLock()
	defer turn.RUnlock()
	began := time.Now()
	told, err := r.fixture(ctx, sc, x.Seed, p.world)
	if err != nil {
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
	opened, err := r.t.open(ctx, r.author, Intent{Agent: r.a.name, Capability: sc.Capability, Params: sc.Params, Stage: action.Sandbox, suite: r.of(sc), routes: p.routes, told: told})
	if err != nil {
		return x, err
	}
	x.Task = opened.ID
	d := &deeds{log: r.t.log, task: x.Task, sc: sc, next: head.Size}
	err = r.result(ctx, d, &x, before, p, r.attempt(ctx, sc, h, d, &x))
	x.Millis = time.Since(began).Milliseconds()
	return x, err
}

// attempt runs the task of a trial to its end, and notes what it missed in x. An error
// says that it was cut.
func (r *run) attempt(ctx context.Context, sc resource.Scenario, h Harness, d *deeds, x *trial) error {
	limit := cmp.Or(time.Duration(sc.Seconds)*time.Second, trialLimit)
	tctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	running, err := r.t.run(tctx, x.Task, h)
	if err != nil {
		return err
	}
	// What is applied meanwhile, and approved, is another boundary.
	if running.s.agent.declared.Digest() != r.state.Declared {
		const why = "the boundary was changed while it was certified"
		r.t.endTask(x.Task, task.Failed, "changed", why)
		return problem(Refused, "changed", why, "certify it as it is now: sallyport certify "+r.a.name)
	}
	var unanswered atomic.Int32
	var beside sync.WaitGroup
	bctx, over := context.WithCancel(tctx)
	beside.Go(func() { d.watch(bctx, cancel) })
	beside.Go(func() {
		every(bctx, askedFor, func() {
			if n, err := r.tell(bctx, x.Task, sc.Name); err == nil {
				unanswered.Store(n)
			}
		})
	})
	exit, ended, err := running.Wait(tctx)
	over()
	beside.Wait() // who hears of it is gone after the run
	x.seen = running.s.seen
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(tctx.Err(), context.DeadlineExceeded):
		why := fmt.Sprintf("the harness did not end within %s", limit)
		if unanswered.Load() > 0 {
			why += ", and waited for people at the end"
		}
		x.miss("%s", why)
	case err != nil:
		return err
	case ended.Code == "server_stopped":
		return errors.New("the server stopped")
	case tctx.Err() != nil: // d.watch saw what must never happen
	case ended.Code != "done" && ended.Code != "harness_failed": // killed, or out of time: it shows nothing
		x.miss("the task was ended: %s", ended.Code)
	case exit != 0 && sc.Kind == resource.Benign:
		x.miss("the harness ended with status %d", exit)
	}
	return nil
}

// result judges a trial whose task is over, also one that was cut, and whoever went away.
func (r *run) result(ctx context.Context, d *deeds, x *trial, before state, p place, cut error) error {
	ctx = context.WithoutCancel(ctx)
	j, err := d.judge(ctx)
	if err != nil {
		return errors.Join(cut, err)
	}
	after, err := r.estate(ctx, d.sc, p.world)
	if err != nil {
		// An agent could see to that, by writing too much. It is no reason to try it again.
		j.miss("what the applications have after it could not be read: %v", err)
	} else {
		j.applications(before, after, d.sc.Expect)
		j.exposed(after, d.sc.Hostile)
	}
	if cut != nil {
		x.judged = judged{Violations: j.Violations}
		return cut
	}
	if x.seen != nil {
		x.Misses = append(x.Misses, r.merge(x.seen.all())...)
	}
	if !j.acted {
		j.miss("the agent did nothing at all")
	}
	j.Misses = append(x.Misses, j.Misses...)
	x.judged = j
	return nil
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
