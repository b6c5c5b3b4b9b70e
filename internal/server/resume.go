package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

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

// newRun takes what an earlier process left of the run. What has been tried in it is not
// taken from an earlier certification.
func (t *tenant) newRun(ctx context.Context, w *world, a *agent, suite, author string, seen *measured, from *basis, progress func(string)) (*run, error) {
	r := t.runOf(w, a, suite, author, seen, progress)
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

// runOf is a run of which nothing was tried.
func (t *tenant) runOf(w *world, a *agent, suite, author string, seen *measured, progress func(string)) *run {
	return &run{t: t, id: runID(a, suite), w: w, a: a, author: author, name: suite, suite: w.suites[suite], scenarios: w.suites[suite].All(), taken: map[string]certify.Scenario{}, seen: seen, progress: progress, since: time.Now(), told: map[string]bool{},
		state: progressed{Suite: w.resources[resource.KindSuite+"/"+suite].Digest, Declared: a.declared.Digest(), Began: time.Now().UTC()}}
}

// keptRuns are the runs that were cut, of the boundaries that are declared now.
func (t *tenant) keptRuns(ctx context.Context) (out []*run, err error) {
	w := t.current()
	err = t.log.View(ctx, func(tx record.Tx) error {
		out = nil
		return tx.List(kindRun, func(id string, raw []byte) error {
			for name, a := range w.agents {
				for _, suite := range a.spec.Suites {
					if id != runID(a, suite) {
						continue
					}
					r := t.runOf(w, a, suite, "", newMeasured(), func(string) {})
					if err := json.Unmarshal(raw, &r.state); err != nil {
						return fmt.Errorf("run of agent %s: %w", name, err)
					}
					r.merge(r.state.Facts)
					out = append(out, r)
				}
			}
			return nil
		})
	})
	return out, err
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
	_, err = r.t.log.Append(ctx, record.Draft{Type: "certification.began", Agent: r.a.name, Actor: r.actor(),
		Body:   map[string]any{"suite": r.state.Suite, "boundary": r.state.Declared},
		Change: func(tx record.Tx) error { return tx.Put(kindRun, r.id, r.state) }})
	return err
}

// cut looks at the trials that were under way when a process ended.
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
		j, err := r.t.judgeOver(ctx, x.ID, r.scenarios[i])
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
