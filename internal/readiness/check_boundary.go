package readiness

import (
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// current reports whether a task ran under the certification in force, or in
// the run that led to it.
func (e *evaluation) current(l *life) bool {
	c := e.w.Live
	if c == nil || l == nil {
		return false
	}
	if l.Certification == c.ID {
		return true
	}
	for _, s := range e.h.runs[c.ID].Scenarios() {
		if slices.Contains(s.Tasks, l.ID) {
			return true
		}
	}
	return false
}

// measured is where the boundary in force was measured: the record of its run.
func (e *evaluation) measured() []ref {
	if e.w.Live == nil {
		return nil
	}
	if r, ok := e.h.runs[e.w.Live.ID]; ok {
		return []ref{r.ref}
	}
	return nil
}

// certified reports a missing certification and whether there is one.
func (k *check) certified() bool {
	if k.e.w.Live == nil {
		k.unknown("certify the agent: sallyport certify "+k.e.w.Agent, nil, "no certification is in force, so nothing that was measured counts")
		return false
	}
	return true
}

func checkInference(k *check) {
	if !k.certified() {
		return
	}
	e, live := k.e, k.e.w.Live
	refs := e.measured()
	k.grades(live.Manifest, refs)
	for _, f := range e.w.Declared.Facts {
		if was, _ := live.Manifest.Get(f.Name); strings.HasPrefix(f.Name, "model.") && was.Value != f.Value {
			k.fact(Fail, "certify the agent again: sallyport certify "+e.w.Agent, refs, f, "fact %s is now declared as %s; certified was %s", f.Name, short(f.Value), short(was.Value))
		}
	}
	endpoint, _ := live.Manifest.Get("model.endpoint")
	id, _ := live.Manifest.Get("model.id")
	place, _ := live.Manifest.Get("model.location")
	var there, elsewhere []ref
	for _, d := range e.h.decided {
		if d.Action.Surface != action.Inference || !d.allowed() || !e.current(e.h.lives[d.task]) {
			continue
		}
		if d.Action.Params["endpoint"] == endpoint.Value && endpoint.Value != "" {
			there = append(there, d.ref)
		} else {
			elsewhere = append(elsewhere, d.ref)
		}
	}
	if len(elsewhere) > 0 {
		k.fail("revoke the agent and find out why: sallyport revoke agent/"+e.w.Agent, elsewhere, "%s of the model went elsewhere than to the certified endpoint", count(len(elsewhere), "call"))
	}
	if len(there) == 0 {
		k.unknown("run the agent, so that a call of its model is on record", nil, "no call of the model is on record under this certification")
		return
	}
	k.ok(there, "%s of the model went to %s, and to nowhere else", count(len(there), "call"), endpoint.Value)
	k.pass("the model %s answers at %s (%s); that this is at %q is declared by the owner, and nothing here can prove it",
		id.Value, endpoint.Value, endpoint.Grade, place.Value)
}

// answers: somebody is named who answers for the agent, and for what.
func (k *check) answers() {
	e := k.e
	const next = "correct the Agent resource and apply it"
	if agents := e.h.applied["Agent/"+e.w.Agent]; len(agents) > 0 {
		last := agents[len(agents)-1]
		k.ok([]ref{last.ref}, "declared by %s, for: %s", last.author, e.w.Purpose)
	} else {
		k.unknown(next, nil, "no record declares this agent")
	}
	if strings.TrimSpace(e.w.Purpose) == "" {
		k.fail(next, nil, "the agent has no purpose")
	}
	for _, x := range []struct{ role, name string }{{"owner", e.w.Owner}, {"deputy", e.w.Deputy}} {
		p, ok := e.person(x.name)
		switch {
		case x.name == "":
			k.fail(next, nil, "the agent has no %s", x.role)
		case !ok:
			k.fail(next, nil, "the %s %s is not a declared person", x.role, x.name)
		case !slices.Contains(p.Roles, "owner"):
			k.fail(next, nil, "%s, the %s, does not have the role owner", x.name, x.role)
		}
	}
	if e.same(e.w.Owner, e.w.Deputy) {
		k.fail(next, nil, "owner and deputy are the same person")
	}
	if by, err := time.Parse(time.DateOnly, e.w.ReviewBy); err != nil {
		k.fail(next, nil, "the agent has no date of review")
	} else if !e.now.Before(by.Add(day)) {
		k.fail("review the agent and set reviewBy anew", nil, "the review was due on %s", e.w.ReviewBy)
	}
	if _, ok := maxAge[e.w.Tier]; !ok {
		k.fail(next, nil, "the tier %q is not known", e.w.Tier)
	}
}

func checkOwner(k *check) {
	e := k.e
	k.answers()
	if !k.certified() {
		return
	}
	k.grades(e.w.Live.Manifest, e.measured())
	was, _ := e.w.Live.Manifest.Get("containment")
	switch {
	case e.w.Containment != was.Value:
		k.fact(Fail, "see: sallyport doctor", e.measured(), was, "this machine gives containment %q; certified was %q", e.w.Containment, was.Value)
	case e.tier() != "light" && was.Value != "contained":
		k.fact(Fail, "see: sallyport doctor", e.measured(), was, "containment is %q; the %s tier requires contained", was.Value, e.tier())
	}
	k.pass("owner is %s, deputy is %s, review is due on %s; harness, browser and connectors are pinned, and it runs %s", e.w.Owner, e.w.Deputy, e.w.ReviewBy, was.Value)
}
