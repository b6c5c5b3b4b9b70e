package readiness

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
)

const investigate = "revoke the agent and find out why: sallyport revoke agent/"

func checkDecisions(k *check) {
	e := k.e
	next := investigate + e.w.Agent
	for _, o := range e.h.loose {
		if e.counts(o.time) {
			k.fail(next, []ref{o.ref}, "an effect is on record that nobody let through before (action %s)", short(o.Action))
		}
	}
	var allowed, changed, denied, unexplained, nameless, open, shadows []ref
	for _, d := range e.h.decided {
		if !e.counts(d.time) {
			continue
		}
		if !d.allowed() {
			if d.Decision.Layer == action.LayerGuardrail || d.Decision.Layer == action.LayerGrant {
				denied = append(denied, d.ref)
			}
			continue
		}
		allowed = append(allowed, d.ref)
		_, known := e.h.outcomes[d.Action.ID]
		if l := e.h.lives[d.task]; !known && e.current(l) && !l.over.time.IsZero() {
			open = append(open, d.ref)
		}
		if len(d.Decision.Policies) == 0 && (d.Action.Surface == action.Egress || d.Action.Effect.Changes()) {
			nameless = append(nameless, d.ref)
		}
		if d.Stage == action.Shadow && d.changes() {
			shadows = append(shadows, d.ref)
		}
		if d.Action.Surface != action.Egress || !d.Action.Effect.Changes() {
			continue
		}
		changed = append(changed, d.ref)
		byItself := d.Action.Source != "harness" && d.Action.Source != "boundary" && d.Action.Explained == ""
		if byItself && d.Approval == "" && e.tookEffect(d) {
			unexplained = append(unexplained, d.ref)
		}
	}
	for _, x := range []struct {
		refs []ref
		what string
	}{
		{nameless, "let through without naming the policy that allows it"},
		{unexplained, "changed an application, and no input of the agent explains it"},
		{shadows, "let through in shadow, where nothing takes effect"},
		{open, "let through, and what became of it is not on record"},
	} {
		if len(x.refs) > 0 {
			k.fail(next, x.refs, "%s %s", count(len(x.refs), "action"), x.what)
		}
	}
	e.decisionsByPolicy(k, allowed, changed, denied, k.reconciled())
}

func (e *evaluation) decisionsByPolicy(k *check, allowed, changed, denied []ref, reconciled string) {
	if len(allowed) == 0 {
		k.unknown("run the agent once: sallyport certify "+e.w.Agent, nil, "no action was let through yet")
		return
	}
	k.ok(allowed, "%s let through, each decided before its outcome", count(len(allowed), "action"))
	if len(changed) > 0 {
		k.ok(changed, "%s of applications, each by a named policy and explained by input or approved", count(len(changed), "change"))
	}
	if len(denied) == 0 {
		k.unknown("certify with a suite that attacks: sallyport certify "+e.w.Agent, nil, "no refusal by policy is on record, so nothing shows that it can say no")
		return
	}
	k.ok(denied, "%s refused by policy", count(len(denied), "action"))
	k.pass("%s decided by policy before they took effect, %s refused; no effect without a decision, no unexplained change%s", count(len(allowed), "action"), count(len(denied), "attempt"), reconciled)
}

func checkPrivileged(k *check) {
	e := k.e
	next := investigate + e.w.Agent
	var good, signed []ref
	production := 0
	uses := map[string][]ref{}
	for _, d := range e.h.decided {
		if d.allowed() && d.Approval != "" {
			uses[d.Approval] = append(uses[d.Approval], d.ref)
		}
	}
	for _, d := range e.h.decided {
		if !d.allowed() || !e.counts(d.time) || !d.Action.Effect.AtLeast(action.Privileged) {
			continue
		}
		refs, why := e.approved(d)
		if why == "" && len(uses[d.Approval]) > 1 {
			why = "its approval was used more than once"
		}
		if why != "" {
			k.fail(next, append(refs, d.ref), "%s was let through, but %s", d.Action.Operation, why)
			continue
		}
		if d.Stage != action.Sandbox {
			production++
		}
		good = append(good, d.ref)
		signed = append(signed, refs...)
	}
	k.bound()
	if len(good) > 0 {
		k.ok(good, "%s let through, each with its task, its context and its approved capability; %d of them in production, each with the certified boundary", count(len(good), "privileged operation"), production)
		k.ok(signed, "their approvals name the person and verify again from the record alone")
	}
	switch {
	case len(good) == 0 && e.tier() == "privileged":
		k.unknown("run the agent once, with an approver at hand: sallyport certify "+e.w.Agent, nil, "no privileged operation went through yet, so nothing shows what its record holds")
	case len(good) > 0:
		k.pass("%s let through (%d in production, under a certification), each with its context and a signed approval of exactly that request", count(len(good), "privileged operation"), production)
	default:
		k.pass("no privileged operation is reachable; every task on record names its requester, capability and certification")
	}
}

// approved follows one privileged operation back to the people, the task, the
// capability and the certification, and says what is missing.
func (e *evaluation) approved(d decided) (refs []ref, why string) {
	if d.Approval == "" {
		return nil, "nobody approved it"
	}
	refs, _, st, why := e.quorum(d.Approval, d.seq)
	if why != "" {
		return refs, "its approval: " + why
	}
	l := e.h.lives[d.task]
	switch {
	case st.Kind != approval.Action || st.Digest != d.Action.Digest || st.Task != d.task || st.Agent != e.w.Agent || st.Operation != d.Action.Operation:
		return refs, "something else was approved"
	case l == nil || l.opened.time.IsZero() || l.Requester == "":
		return refs, "its task and requester are not on record"
	}
	for _, g := range e.h.granted {
		if g.ID == d.Approval {
			if why := e.selfApproved(g); why != "" {
				return refs, why
			}
		}
	}
	cap, why := e.capability(l, d.seq)
	if why != "" {
		return append(refs, cap...), why
	}
	refs = append(refs, cap...)
	if l.Stage == action.Sandbox && d.Stage == action.Sandbox {
		return refs, ""
	}
	c, ok := e.h.issued[l.Certification]
	switch {
	case !ok || c.seq > d.seq:
		return refs, "the certification under which it ran is not on record"
	case l.BoundaryDigest != c.Boundary || st.BoundaryDigest != c.Boundary:
		return refs, "its approval is for another boundary than was certified"
	}
	return append(refs, c.ref), ""
}

// capability: the version that the task was opened with was approved before.
func (e *evaluation) capability(l *life, before int64) (refs []ref, why string) {
	why = fmt.Sprintf("capability %s was not approved as the task used it", l.Capability)
	for _, g := range e.h.granted {
		st := g.Statement
		if g.seq >= before || st.Kind != approval.Capability || st.Subject != l.Capability || st.Digest != l.CapabilityDigest || l.CapabilityDigest == "" {
			continue
		}
		var w string
		if refs, _, _, w = e.quorum(g.ID, before); w == "" {
			w = e.selfApproved(g)
		}
		if w == "" {
			return refs, ""
		}
		why = fmt.Sprintf("the approval of capability %s: %s", l.Capability, w)
	}
	return refs, why
}

// bound: every task in production names who asked for it, under which version of
// its capability, and under which certification of which boundary.
func (k *check) bound() {
	e := k.e
	var good []ref
	for _, l := range e.h.tasks() {
		if l.opened.time.IsZero() || !e.counts(l.opened.time) {
			continue
		}
		var missing []string
		for name, v := range map[string]string{"requester": l.Requester, "capability": string(l.CapabilityDigest), "grant": string(l.GrantDigest)} {
			if v == "" {
				missing = append(missing, name)
			}
		}
		if needsCertification(l.Stage) && (l.Certification == "" || l.BoundaryDigest == "") {
			missing = append(missing, "certification")
		}
		if len(missing) > 0 {
			slices.Sort(missing)
			k.fail(investigate+e.w.Agent, []ref{l.opened}, "task %s was opened without: %s", l.ID, strings.Join(missing, ", "))
			continue
		}
		good = append(good, l.opened)
	}
	if len(good) == 0 {
		k.unknown("run the agent once: sallyport certify "+e.w.Agent, nil, "no task is on record")
		return
	}
	k.ok(good, "%s on record with requester and the digests of capability and grant", count(len(good), "task"))
}
