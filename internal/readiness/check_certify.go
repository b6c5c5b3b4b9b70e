package readiness

import (
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/receipt"
)

func checkCertification(k *check) {
	e := k.e
	again := "certify the agent again: sallyport certify " + e.w.Agent
	live := e.w.Live
	if live == nil {
		k.noCertification(again)
	} else {
		k.chain(again, *live)
		k.grades(live.Manifest, e.measured())
		for _, name := range e.w.Tools {
			if _, ok := live.Manifest.Get(name); !ok {
				k.add(Unknown, "let a scenario of a suite call a tool of that server, with production's in reach, and "+again, e.measured(),
					Finding{Saw: "fact " + name + " was not measured: the first call of a tool in production would end the certification", Fact: name})
			}
		}
		for _, c := range boundary.Diff(live.Manifest, e.w.Declared) {
			// What is measured and not declared is not in the declaration.
			if c.New != "" {
				k.fail(again, e.measured(), "declared now is not what was certified: %s", change(c))
			}
		}
	}
	k.drifts()
	k.underCertification()
	if live != nil {
		k.behaviour(again)
		k.pass("certification %s: %s passed on exactly this boundary, approved by others, in force until %s", live.ID, count(trials(*live), "trial"), live.Expires.UTC().Format("2006-01-02 15:04 MST"))
	}
}

func change(c boundary.Change) string {
	c.Old, c.New = short(c.Old), short(c.New)
	return c.String()
}

func trials(c certify.Certification) (n int) {
	for _, s := range c.Scenarios() {
		n += s.Trials
	}
	return n
}

// noCertification says why there is none.
func (k *check) noCertification(next string) {
	if len(k.e.h.issues) == 0 {
		k.fail(next, nil, "the agent was never certified for production")
		return
	}
	c := k.e.h.issues[len(k.e.h.issues)-1]
	if l, ok := k.e.h.lapsed[c.ID]; ok {
		k.fail(next, []ref{c.ref, l.ref}, "certification %s lapsed at %s: %s", c.ID, l.time.UTC().Format(time.RFC3339), lapseText(l.Lapse))
		return
	}
	if k.e.now.Before(c.Expires) {
		k.fail(next, []ref{c.ref}, "certification %s is on record, and the running system does not hold it in force", c.ID)
		return
	}
	k.fail(next, []ref{c.ref}, "certification %s is not in force (it ran out at %s)", c.ID, c.Expires.UTC().Format(time.RFC3339))
}

func lapseText(l certify.Lapse) string {
	if len(l.Changes) == 0 {
		return l.Why
	}
	var out []string
	for _, c := range l.Changes {
		out = append(out, change(c))
	}
	return strings.Join(out, "; ")
}

// chain checks run → approval → issued of the certification in force.
func (k *check) chain(next string, c certify.Certification) {
	e := k.e
	run, ok := e.h.runs[c.ID]
	if !ok {
		k.fail(next, nil, "no record shows the run of certification %s", c.ID)
		return
	}
	refs := []ref{run.ref}
	bad := func(format string, args ...any) { k.fail(next, refs, format, args...) }
	switch {
	case c.Agent != e.w.Agent || run.Agent != e.w.Agent:
		bad("certification %s is of another agent", c.ID)
	case c.Stage != stage || run.Stage != stage:
		bad("certification %s is for stage %s", c.ID, c.Stage)
	case c.Scripted != run.Scripted || e.w.Scripted && !run.Scripted:
		bad("the record of certification %s does not say that its model is scripted", c.ID)
	case run.Scripted && !e.w.Demo:
		bad("certification %s was run with a scripted model, which only a demonstration accepts", c.ID)
	case !run.Passed():
		bad("the suites did not pass in the run of certification %s", c.ID)
	case len(run.Left()) > 0:
		bad("the run of certification %s was not by suite %s of its boundary", c.ID, list(run.Left(), "and"))
	case run.Manifest.Digest() != run.Boundary || c.Manifest.Digest() != run.Boundary || c.Boundary != run.Boundary:
		bad("the boundary in force is not the one that the run measured")
	case !c.Expires.Equal(run.Expires):
		bad("certification %s is in force until another time than was run and approved", c.ID)
	case !e.now.Before(run.Expires):
		bad("certification %s expired at %s", c.ID, run.Expires.UTC().Format(time.RFC3339))
	}
	if why := e.statement(run); why != "" {
		bad("the signed statement of certification %s: %s", c.ID, why)
	} else {
		k.ok(refs, "suite %s passed in the run of certification %s; its signed statement names boundary %s", run.SuiteNames(), c.ID, short(string(run.Boundary)))
	}
	if trial := e.missingTrial(run); trial != "" {
		bad("%s of the run of certification %s is not on record", trial, c.ID)
	}
	issued, ok := e.h.issued[c.ID]
	if !ok || issued.seq < run.seq || issued.Boundary != run.Boundary {
		bad("no record shows that certification %s was issued for this boundary after its run", c.ID)
		return
	}
	refs = append(refs, issued.ref)
	grants, people, st, why := e.quorum(issued.Approval, issued.seq)
	refs = append(refs, grants...)
	switch {
	case why != "":
		bad("the approval of certification %s: %s", c.ID, why)
	case st.Subject != c.ID || st.Digest != run.Statement() || st.Kind != "certification" || len(grants) > 0 && grants[0].seq < run.seq:
		bad("certification %s was issued on an approval of something else", c.ID)
	default:
		k.ok(refs, "before it was issued it was approved by %s", list(people, "and"))
	}
	if l, ok := e.h.lapsed[c.ID]; ok {
		k.fail(next, []ref{l.ref}, "certification %s lapsed: %s", c.ID, lapseText(l.Lapse))
	}
	if last := e.h.issues[len(e.h.issues)-1]; last.ID != c.ID {
		k.fail(next, []ref{last.ref}, "certification %s was issued after %s", last.ID, c.ID)
	}
}

// missingTrial names a trial that no task in the sandbox before the run shows.
func (e *evaluation) missingTrial(run certRun) string {
	for _, s := range run.Scenarios() {
		if len(s.Tasks) != s.Trials {
			return fmt.Sprintf("%d of %s of scenario %s", s.Trials-len(s.Tasks), count(s.Trials, "trial"), s.Name)
		}
		for _, id := range s.Tasks {
			l := e.h.lives[id]
			if l == nil || l.opened.time.IsZero() || l.Stage != action.Sandbox || l.opened.seq > run.seq {
				return "trial " + id + " of scenario " + s.Name
			}
		}
	}
	return ""
}

// statement verifies the in-toto statement of a run with the keys on record
// before it, and returns what is wrong.
func (e *evaluation) statement(run certRun) string {
	var keys []crypto.PublicKey
	for _, k := range e.h.certKeys {
		if k.seq < run.seq && len(k.public) == ed25519.PublicKeySize {
			keys = append(keys, ed25519.PublicKey(k.public))
		}
	}
	data, err := json.Marshal(run.Envelope)
	if err != nil {
		return err.Error()
	}
	st, err := receipt.VerifyDSSE(data, keys)
	if err != nil {
		return "it does not verify with a key on record"
	}
	var said struct {
		Subject []struct {
			Name        string            `json:"name"`
			Digest      map[string]string `json:"digest"`
			Annotations struct {
				Certification string `json:"certification"`
				Expires       string `json:"expires"`
			} `json:"annotations"`
		} `json:"subject"`
		Predicate struct {
			Result string `json:"result"`
			Suites []struct {
				Name   string            `json:"name"`
				Digest map[string]string `json:"digest"`
			} `json:"configuration"`
		} `json:"predicate"`
	}
	if err := json.Unmarshal(st.Payload, &said); err != nil {
		return "it cannot be read"
	}
	p := said.Predicate
	switch {
	case len(said.Subject) != 1 || said.Subject[0].Name != "agent/"+e.w.Agent ||
		"sha256:"+said.Subject[0].Digest["sha256"] != string(run.Boundary):
		return "it is about another boundary"
	case p.Result != "PASSED":
		return "it does not say that the suite passed"
	case said.Subject[0].Annotations.Certification != run.ID || said.Subject[0].Annotations.Expires != run.Expires.Format(time.RFC3339):
		return "it is about another certification"
	case len(p.Suites) != len(run.Suites):
		return "it is by other suites"
	}
	for i, s := range p.Suites {
		if s.Name != "suite/"+run.Suites[i].Name || "sha256:"+s.Digest["sha256"] != string(run.Suites[i].Digest) {
			return "it is by other suites"
		}
	}
	return ""
}

// drifts: every drift in production ended the certification, and nothing was let
// through after it.
func (k *check) drifts() {
	e := k.e
	for _, d := range e.h.drifts {
		if l := e.h.lives[d.task]; d.task != "" && l != nil && !needsCertification(l.Stage) || !e.counts(d.time) {
			continue
		}
		c := e.inForceAt(d.seq)
		if c == nil {
			continue // nothing was in force: no action can have been certified
		}
		if d.Graded != "" {
			k.graded(d, c)
			continue
		}
		l, ok := e.h.lapsed[c.ID]
		if !ok {
			k.fail("revoke the agent and find out why: sallyport revoke agent/"+e.w.Agent, []ref{d.ref}, "a drift did not end certification %s: %s", c.ID, changes(d.Changes))
			continue
		}
		from := min(d.seq, l.seq)
		var after []ref
		for _, a := range e.h.decided {
			if a.seq > from && a.Stage == stage && a.allowed() && e.tookEffect(a) && e.certificationOf(a) == c.ID {
				after = append(after, a.ref)
			}
		}
		if len(after) > 0 {
			k.fail("revoke the agent and find out why: sallyport revoke agent/"+e.w.Agent, append([]ref{d.ref, l.ref}, after...), "%s let through after the drift %s", count(len(after), "action"), changes(d.Changes))
			continue
		}
		k.ok([]ref{d.ref, l.ref}, "the drift %s ended certification %s, and no action was let through after it", changes(d.Changes), c.ID)
	}
}

// graded: while a certification stood in spite of a drift, people approved each
// privileged action before it took effect; and the agent is certified again.
func (k *check) graded(d drift, c *certRun) {
	e := k.e
	var alone []ref
	for _, a := range e.h.decided {
		if a.seq > d.seq && a.Stage == stage && e.tookEffect(a) && e.certificationOf(a) == c.ID && a.Action.Effect.AtLeast(action.Privileged) && a.Approval == "" {
			alone = append(alone, a.ref)
		}
	}
	if len(alone) > 0 {
		k.fail("revoke the agent and find out why: sallyport revoke agent/"+e.w.Agent, append([]ref{d.ref}, alone...), "%s let through with nobody's approval after the drift %s", count(len(alone), "privileged action"), changes(d.Changes))
	}
	if e.w.Live != nil && e.w.Live.ID == c.ID {
		k.fail("certify the agent again: sallyport certify "+e.w.Agent, []ref{d.ref}, "the boundary drifted, and what is privileged is held for people: %s", changes(d.Changes))
	}
}

func changes(all []boundary.Change) string {
	var out []string
	for _, c := range all {
		out = append(out, change(c))
	}
	return strings.Join(out, "; ")
}

// inForceAt is the certification that was issued last before a position.
func (e *evaluation) inForceAt(seq int64) *certRun {
	for _, c := range slices.Backward(e.h.issues) {
		if c.seq < seq {
			return &c
		}
	}
	return nil
}

func (e *evaluation) certificationOf(d decided) string {
	if l := e.h.lives[d.task]; l != nil {
		return l.Certification
	}
	return ""
}

// tookEffect: it was let through, and it is not on record that nothing happened.
func (e *evaluation) tookEffect(d decided) bool {
	o, ok := e.h.outcomes[d.Action.ID]
	return d.allowed() && (!ok || o.Outcome.State != action.Failed)
}

// underCertification: every action in production was let through under the
// certification that was in force at that moment.
func (k *check) underCertification() {
	e := k.e
	var good []ref
	for _, d := range e.h.decided {
		if !needsCertification(d.Stage) || !e.tookEffect(d) || !e.counts(d.time) {
			continue
		}
		if why := e.uncertified(d); why != "" {
			k.fail("revoke the agent and find out why: sallyport revoke agent/"+e.w.Agent, []ref{d.ref}, "%s was let through in production, but %s", d.Action.Operation, why)
			continue
		}
		good = append(good, d.ref)
	}
	if len(good) > 0 {
		k.ok(good, "%s in production, each under the certification in force at that moment", count(len(good), "action"))
	}
}

func (e *evaluation) uncertified(d decided) string {
	id := e.certificationOf(d)
	c, ok := e.h.issued[id]
	last := e.inForceAt(d.seq)
	l, lapsed := e.h.lapsed[id]
	switch {
	case id == "" || !ok || c.seq > d.seq:
		return "its task names no certification that had been issued"
	case lapsed && l.seq < d.seq:
		return fmt.Sprintf("certification %s had lapsed", id)
	case !d.time.Before(c.Expires):
		return fmt.Sprintf("certification %s had expired", id)
	case last == nil || last.ID != id:
		return fmt.Sprintf("certification %s had been replaced", id)
	}
	return ""
}
