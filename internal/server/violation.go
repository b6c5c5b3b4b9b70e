package server

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// What happened in a trial or a canary and must never is a violation. It speaks against
// the boundary that did it, so it ends the certification in force of that boundary at
// once, whatever the run comes to, and keeps one of before it from being issued.
//
// It is of the boundary in force if nothing that is certified was measured otherwise in
// the trial, but for what the agent's rules grade: that one would act in production too.
// What a trial did not come to measure, and what it sent beyond what is certified, makes
// no other boundary: an agent that was hijacked would choose it. Before and after go by
// the order of the ledger, which no clock changes.
//
// Order of writes: the result of the trial or canary, with the violation as state, in one
// record; then the certification in memory, the gate, and the record of the lapse
// (tenant.lapse); then the questions about runs before it are withdrawn. A crash after the
// first finds the violation before anything is served (lookAgain), and no certification of
// before it is issued (issue). A crash before it finds the task, and judges it by its
// records (settleCut). Where the result cannot be recorded the certification ends in
// memory all the same, and the task is judged again when the run goes on.

// kindViolated has the last violation of an agent.
const kindViolated = "violated"

// violated is one violation.
type violated struct {
	From int64  `json:"from"` // the size of the log before its record
	Code string `json:"code"` // of the lapse; empty is no violation
	Why  string `json:"why"`
	// Facts were declared or measured in the trial. A canary has none: it runs under the
	// certification that it speaks against.
	Facts boundary.Measure `json:"facts,omitempty"`
}

// since says that the violation is of a time when the run of c had begun.
func (v violated) since(c certify.Certification) bool { return v.Code != "" && v.From >= c.From }

// against says that the violation ends c.
func (v violated) against(a *agent, c certify.Certification) bool {
	changes := slices.DeleteFunc(c.Manifest.Drift(v.Facts), func(x boundary.Change) bool {
		_, certified := c.Manifest.Get(x.Name)
		return !certified
	})
	material, _ := a.material(c.Manifest, changes)
	return v.since(c) && len(material) == 0
}

// newViolation is a violation that is about to be recorded.
func (t *tenant) newViolation(ctx context.Context, code, where, task, why string) (violated, error) {
	const most = 4000 // bytes; it is in the record of the lapse
	head, err := t.log.Head(ctx)
	if err != nil { // and nothing is recorded: it ends what is in force
		head.Size = math.MaxInt64
	}
	why = fmt.Sprintf("%s, task %s: %s", where, task, why)
	return violated{From: head.Size, Code: code, Why: strings.ToValidUTF8(why[:min(len(why), most)], "")}, err
}

// keeping is the change of state that goes into the record of a violation. One before it
// that has still to end a certification is not replaced by one that has not.
func (t *tenant) keeping(a *agent, v violated) func(record.Tx) error {
	c, err := t.certs.Live(a.name, action.Production)
	owed := err == nil && !v.against(a, c)
	return func(tx record.Tx) error {
		if before, err := violatedIn(tx, a.name); err != nil || owed && before.against(a, c) {
			return err
		}
		return tx.Put(kindViolated, a.name, v)
	}
}

// follow does what a violation leads to.
func (t *tenant) follow(ctx context.Context, a *agent, v violated) error {
	if c, err := t.certs.Live(a.name, action.Production); err == nil && v.against(a, c) {
		t.lapse(ctx, a.name, certify.Lapse{Code: v.Code, Why: v.Why})
	}
	return t.withdrawCertifications(ctx, certify.Certification{Agent: a.name}, "something happened since that must never: "+v.Why)
}

// violation is the last one of an agent.
func (t *tenant) violation(ctx context.Context, agent string) (v violated, err error) {
	err = t.log.View(ctx, func(tx record.Tx) error { v, err = violatedIn(tx, agent); return err })
	return v, err
}

func violatedIn(tx record.Tx, agent string) (v violated, err error) {
	if err = tx.Get(kindViolated, agent, &v); errors.Is(err, record.ErrNotFound) {
		err = nil
	}
	return v, err
}

// issuable refuses a certification whose agent violated since its run began.
func issuable(tx record.Tx, c certify.Certification) error {
	v, err := violatedIn(tx, c.Agent)
	if err == nil && v.since(c) {
		err = problem(Refused, "violated_since", "something happened since that must never: "+v.Why, "sallyport certify "+c.Agent)
	}
	return err
}

// settleCut judges the trials and canaries that were under way when a process ended. What
// cannot be judged yet is tried again at each look of the watch.
func (t *tenant) settleCut(ctx context.Context) error {
	kept, err := t.keptRuns(ctx)
	errs := []error{err}
	for _, r := range kept {
		if !t.certifying.begin(r.a.name) { // its trials may be under way
			errs = append(errs, fmt.Errorf("agent %s is being certified", r.a.name))
			continue
		}
		errs = append(errs, r.cut(ctx))
		t.certifying.end(r.a.name)
	}
	w := t.current()
	for _, a := range w.agents {
		errs = append(errs, t.settleCanary(ctx, w, a))
	}
	err = errors.Join(errs...)
	t.cutOwed.Store(err != nil)
	return err
}
