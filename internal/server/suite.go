package server

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// How long a certification holds, by tier.
var validity = map[string]time.Duration{"light": 90 * 24 * time.Hour, "standard": 30 * 24 * time.Hour, "privileged": 7 * 24 * time.Hour}

// Certify runs the suites of an agent in the sandbox, in the real boundary with the
// agent's real harness, and records what was measured and how it went: all of them,
// or the one that is named, which certifies nothing if there are others. If
// everything passed, a request for approval is made. changed asks to run only what
// the changes since the last certification touch. progress hears of each trial.
func (s *Server) Certify(ctx context.Context, tenantName string, c Caller, agentName, suite string, changed bool, progress func(string)) (certify.Certification, error) {
	var none certify.Certification
	t, err := s.tenant(tenantName)
	if err != nil {
		return none, err
	}
	author, err := t.require(c, "run a certification", resource.RoleOwner, resource.RolePolicy, resource.RoleOperations)
	if err != nil {
		return none, err
	}
	w := t.current()
	a := w.agents[agentName]
	if a == nil {
		return none, problem(NotFound, "no_such_agent", "there is no agent "+agentName, "see: sallyport get Agent")
	}
	names := a.spec.Suites
	if suite != "" {
		if !slices.Contains(names, suite) {
			return none, problem(Invalid, "suite_not_of_agent", fmt.Sprintf("agent %s is not certified by suite %q", agentName, suite), "name one of: "+strings.Join(names, ", "))
		}
		names = []string{suite}
	}
	if a.spec.Model.Scripted && !w.demo {
		return none, problem(Refused, "scripted_model", "a scripted model cannot be certified for production", "only a tenant declared demo: true accepts one")
	}
	if err := enough(w, a, names, suite != "" && len(a.spec.Suites) > 1); err != nil {
		return none, err
	}
	release, err := t.reserveRun(w, agentName, names)
	if err != nil {
		return none, err
	}
	defer release()
	var from *basis
	if changed {
		if from, err = t.basis(ctx, a); err != nil {
			return none, err
		}
	}
	head, err := t.log.Head(ctx)
	if err != nil {
		return none, err
	}
	cert := certify.Certification{Agent: agentName, Stage: action.Production, Author: author, Scripted: a.spec.Model.Scripted, From: head.Size}
	if err := t.runSuites(ctx, w, a, names, &cert, from, progress); err != nil {
		return none, err
	}
	if from != nil && cert.Taken() > 0 {
		if more := from.more(cert.Manifest); len(more) > 0 {
			progress("the rest runs too, since more has changed than was declared: " + describe(more))
			if err := t.runSuites(ctx, w, a, names, &cert, nil, progress); err != nil {
				return none, err
			}
		}
	}
	earlier, err := t.certs.Latest(ctx, agentName, action.Production)
	if err != nil {
		return none, err
	}
	cert.Judge(earlier)
	if v, err := t.violation(ctx, agentName); err != nil {
		return none, err
	} else if cert.Passed() && v.since(cert) { // in a canary, while it ran
		cert.Shortfall = append(cert.Shortfall, v.Why)
	}
	if cert, err = t.certs.Record(ctx, cert, validity[a.tier], over(a, names)); err != nil {
		return none, err
	}
	switch cert.State {
	case certify.Proposed:
		err = t.askCertification(ctx, a, cert)
	case certify.Failed: // what passed before it and waits is not the last word
		err = t.withdrawCertifications(ctx, cert, "run "+cert.ID+" failed since")
	}
	return cert, err
}

// reserveRun keeps a run's agent and fixtures for itself, until release: another run
// would take up the same results, or change what is in the copies.
func (t *tenant) reserveRun(w *world, agent string, suites []string) (release func(), err error) {
	var ends []func()
	release = func() {
		for _, f := range ends {
			f()
		}
	}
	if !t.certifying.begin(agent) {
		return nil, problem(Refused, "certifying", "agent "+agent+" is being certified", "wait until that run is over")
	}
	ends = append(ends, func() { t.certifying.end(agent) })
	mine := map[string]bool{"": true}
	for _, name := range suites {
		f := w.suites[name].Fixture
		if f == nil {
			continue
		}
		for _, admin := range []string{f.Estate, f.Provider} {
			if mine[admin] {
				continue
			}
			if mine[admin] = true; !t.srv.fixtures.begin(admin) {
				release()
				return nil, problem(Refused, "certifying", "another agent is being certified with the fixture "+admin, "wait until that run is over")
			}
			ends = append(ends, func() { t.srv.fixtures.end(admin) })
		}
	}
	return release, nil
}

// runSuites runs one suite after the other, each to its end: an owner learns at
// once what there is to do in all of them.
func (t *tenant) runSuites(ctx context.Context, w *world, a *agent, names []string, cert *certify.Certification, from *basis, progress func(string)) (err error) {
	seen := newMeasured()
	cert.Suites = nil
	by := []string{cert.Author}
	for _, name := range names {
		if len(names) > 1 {
			progress("suite " + name)
		}
		r, err := t.newRun(ctx, w, a, name, cert.Author, seen, from, progress)
		if err != nil {
			return err
		}
		if err := r.all(ctx); err != nil {
			return err
		}
		by = append(by, r.state.By...)
		if len(r.state.Trials) > 0 {
			cert.From = min(cert.From, r.state.From)
		}
		if len(r.taken) > 0 {
			by = append(append(by, from.Author), from.RanBy...)
		}
		cert.Suites = append(cert.Suites, certify.Suite{Name: name, Digest: w.resources[resource.KindSuite+"/"+name].Digest, Need: need(r.suite),
			Scenarios: r.results(), Stopped: r.stopped, Mixed: r.state.Mixed, Cut: len(r.state.Cut)})
	}
	slices.Sort(by)
	cert.RanBy = slices.Compact(by)
	t.productionPeers(ctx, w, a, seen)
	cert.Manifest, err = manifest(a, seen)
	return err
}

// askCertification asks people who neither wrote anything of it nor answer for the agent.
func (t *tenant) askCertification(ctx context.Context, a *agent, c certify.Certification) error {
	d := map[string]string{"agent": c.Agent, "stage": string(c.Stage), "suites": c.SuiteNames(), "expires": c.Expires.Format(time.RFC3339), "author": c.Author, "ran-by": strings.Join(c.RanBy, ", "), "tier": a.tier, "why-tier": a.tierWhy}
	for _, s := range c.Suites {
		d["suite."+s.Name] = inAll(s)
		for _, r := range s.Rates {
			d["rate."+s.Name+"."+r.Kind] = fmt.Sprintf("%d of %d passed, 95%% interval %s to %s, required %s", r.Passed, r.Trials, r.Lower, r.Upper, r.Required)
		}
		if r := s.FalseHolds; r != nil {
			d["false-holds."+s.Name] = fmt.Sprintf("%d of %d trials, 95%% interval %s to %s", r.Passed, r.Trials, r.Lower, r.Upper)
		}
		if x := s.Compared; x != nil {
			d["compared."+s.Name] = fmt.Sprintf("success %s against %s, 95%% interval %s to %s", x.Difference, x.With, x.Lower, x.Upper)
		}
	}
	if n := len(c.FailedBefore); n > 0 {
		d["failed-before"] = fmt.Sprintf("%d runs failed since a certification was last in force; the newest is %s: sallyport certify %s --history", n, c.FailedBefore[n-1], c.Agent)
	}
	if n := c.Taken(); n > 0 {
		d["taken"] = fmt.Sprintf("%d of %d scenarios did not run again: their results are of earlier certifications, which the statement names", n, len(c.Scenarios()))
	}
	for _, f := range c.Manifest.Facts {
		d["fact."+f.Name] = f.Value + " (" + string(f.Grade) + ")"
	}
	before, err := t.certs.Latest(ctx, c.Agent, c.Stage)
	if err != nil {
		return err
	}
	v, err := t.violation(ctx, c.Agent)
	if err != nil {
		return err
	}
	if v.Code != "" && (before == nil || v.since(*before)) {
		d["violated-before"] = connector.Quoted(v.Why) // also by a boundary that was changed since
	}
	if before != nil && before.Lapse != nil && (before.Lapse.Code == lapseBypass || before.Lapse.Code == lapseRewritten) {
		d["before"] = fmt.Sprintf("certification %s ended: %s", before.ID, before.Lapse.Why) // who signs has read it
	}
	found, err := t.foundAgainst(ctx, c.Agent)
	if err != nil {
		return err
	}
	maps.Copy(d, found)
	if c.Scripted {
		d["model-kind"] = "scripted: this certification says nothing about a real model"
	}
	ex := append(append(t.current().authors(a), c.Author), c.RanBy...)
	slices.Sort(ex)
	_, err = t.approvals.Request(ctx, approval.Draft{Valid: approvalValid, Requester: c.Author, Statement: approval.Statement{
		Kind: approval.Certification, Subject: c.ID, Digest: c.Statement(), Agent: c.Agent, BoundaryDigest: c.Boundary,
		Role: string(resource.RoleApprover), Excluded: slices.Compact(ex), Details: d}})
	if err != nil {
		return err
	}
	return t.withdrawCertifications(ctx, c, "superseded by certification "+c.ID)
}

// withdrawCertifications ends the questions about other runs of the agent.
func (t *tenant) withdrawCertifications(ctx context.Context, c certify.Certification, why string) error {
	return t.approvals.Withdraw(ctx, why, func(x approval.Approval) bool {
		s := x.Statement
		return x.State == approval.Pending && s.Kind == approval.Certification && s.Agent == c.Agent && s.Subject != c.ID
	})
}

// inAll says of a suite which scenarios did not pass in every trial. The statement
// that is signed has the result of each.
func inAll(s certify.Suite) string {
	trials, short := 0, []string{}
	for _, x := range s.Scenarios {
		if trials += x.Trials; x.Passed < x.Trials {
			short = append(short, fmt.Sprintf("%s (%d of %d)", x.Name, x.Passed, x.Trials))
		}
	}
	out := fmt.Sprintf("%d scenarios, %d trials", len(s.Scenarios), trials)
	if s.Cut > 0 {
		out += fmt.Sprintf(" (%d more were cut, and tried again)", s.Cut)
	}
	if len(short) > 0 {
		return out + "; not passed in all: " + strings.Join(short, ", ")
	}
	return out + ", all passed"
}

// enough refuses suites that ask for less than the agent's tier, or for more than
// their trials can show, or that leave out a kind. A demonstration may ask for less,
// and is marked; a part of the suites may leave one out.
func enough(w *world, a *agent, names []string, part bool) error {
	floor := certify.Floor(a.tier)
	have := map[resource.ScenarioKind]bool{}
	for _, name := range names {
		suite := w.suites[name]
		for _, k := range []struct {
			kind          resource.ScenarioKind
			field         string
			percent, tier int
		}{{resource.Benign, "success", suite.Required.Success, floor.Success}, {resource.Attack, "safety", suite.Required.Safety, floor.Safety}} {
			n := suite.Count(k.kind)
			if n == 0 {
				continue
			}
			have[k.kind] = true
			if k.percent < k.tier && !w.demo {
				return problem(Refused, "suite_too_weak", fmt.Sprintf("suite %s requires %s of %d %%, and tier %s asks for at least %d %%", name, k.field, k.percent, a.tier, k.tier),
					fmt.Sprintf("set required.%s to %d or more", k.field, k.tier))
			}
			if !certify.Reaches(0, 0, n, k.percent) {
				return problem(Invalid, "suite_unsatisfiable", fmt.Sprintf("%d %s trials cannot show %s of %d %% in suite %s, even if all pass", n, k.kind, k.field, k.percent, name),
					fmt.Sprintf("run at least %d, or require less", certify.TrialsFor(k.percent)))
			}
		}
	}
	for _, kind := range []resource.ScenarioKind{resource.Benign, resource.Attack} {
		if !have[kind] && !part {
			return problem(Refused, "suite_too_weak", fmt.Sprintf("no suite of agent %s has %s scenarios", a.name, kind), "add a suite that has, to spec.suites")
		}
	}
	return nil
}

func need(s *resource.SuiteSpec) certify.Need {
	return certify.Need{Success: s.Required.Success, Safety: s.Required.Safety, Margin: s.Required.Margin}
}

// builtin are the harnesses that are part of this binary, by name.
var builtin = map[string][]string{"reference": {"sample-agent"}}

// harness is the program that the agent's declaration names.
func (a *agent) harness() (Harness, error) {
	h := Harness{Path: a.spec.Harness.Path, Args: a.spec.Harness.Args, Stdout: io.Discard, Stderr: io.Discard}
	if name := a.spec.Harness.Name; name != "" {
		args, ok := builtin[name]
		if !ok {
			return h, problem(Invalid, "no_such_harness", fmt.Sprintf("there is no built-in harness %q", name), "give harness.path")
		}
		self, err := os.Executable()
		if err != nil {
			return h, err
		}
		if h.Path, err = filepath.EvalSymlinks(self); err != nil {
			return h, err
		}
		h.Args = append(slices.Clone(args), a.spec.Harness.Args...)
	}
	return h, nil
}

// peopleOf says what the scenario of a trial has people do.
func (w *world) peopleOf(trial string) resource.People {
	suite, name, _ := strings.Cut(trial, "/")
	if spec := w.suites[suite]; spec != nil {
		for _, sc := range spec.All() {
			if sc.Name == name {
				return sc.People
			}
		}
	}
	return ""
}
