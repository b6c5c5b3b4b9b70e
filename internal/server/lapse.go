package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// Codes of a lapse.
const (
	lapseDrift        = "drift"         // something was measured otherwise than it was certified
	lapseChanged      = "changed"       // something is declared otherwise than it was certified
	lapseExpired      = "expired"       // its time is over
	lapseOwnerGone    = "owner_gone"    // who answers for the agent cannot any more
	lapseApproverGone = "approver_gone" // who approved it may not approve any more
	lapseBypass       = "bypass"        // an application's audit log shows what nothing on record explains
	lapseCanary       = "canary_failed" // a canary did what must never happen, or failed too often
	lapseMissed       = "canary_missed" // a canary did not come about, again and again
	lapseRun          = "run_violated"  // a trial of a run did what must never happen
	lapseRewritten    = "rewritten"     // an application's audit log is not the one that was read before
)

// lapse ends the production certification of an agent, for whatever reason. Order:
// the certification in memory; the gate of every task that runs under it; the record
// of the lapse, of which people are told, and of the drift; the tasks, each with its
// sessions and leases. When it returns nothing of the agent is dispatched any more; what
// was in flight is cut and the tasks are being taken down. After a crash in between
// nothing runs, and what made it lapse is found again at the start. Who found it may
// be gone: what is begun here is done.
//
// The caller holds no lock of the tenant.
func (t *tenant) lapse(ctx context.Context, agent string, l certify.Lapse) {
	ctx = context.WithoutCancel(ctx)
	text := l.Why
	if all := len(l.Changes); all > 0 {
		l.Changes = boundary.Brief(l.Changes)
		text = describe(l.Changes)
		if all > len(l.Changes) {
			text = fmt.Sprintf("%d changes, with %s", all, text)
		}
		l.Why = text
	}
	why := "the certification lapsed: " + text
	var ending []string
	err := t.certs.Lapse(ctx, agent, action.Production, l, func() {
		ending = t.underCertification(agent, "")
		// Not End: the drift may have been seen inside a dispatch of such a task.
		t.srv.gate.Shut(func(a gate.Admission) bool {
			return a.Tenant == t.name && a.Agent == agent && a.Stage == action.Production
		}, "lapsed", why)
	})
	if err != nil {
		t.srv.log.Error("the lapse could not be recorded yet; nothing passes", "agent", agent, "err", err)
	}
	if len(l.Changes) > 0 {
		t.recordDrift(ctx, agent, "", l.Changes)
	}
	t.takeDown(ending, why)
}

// replaced ends what runs of an agent under a certification before the one that is in
// force now: nothing of it passes any more, and its credentials are for nothing.
func (t *tenant) replaced(agent, now string) {
	why := "its certification was replaced by " + now
	ending := t.underCertification(agent, now)
	t.srv.gate.Shut(func(a gate.Admission) bool { return a.Tenant == t.name && slices.Contains(ending, a.Task) }, "lapsed", why)
	t.takeDown(ending, why)
}

func (t *tenant) takeDown(tasks []string, why string) {
	for _, id := range tasks {
		go t.endTask(id, task.Revoked, "lapsed", why)
	}
}

// underCertification are the tasks of an agent that run in production, but for those
// under one certification, and those that are being ended for a reason of their own.
func (t *tenant) underCertification(agent, but string) (out []string) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for id, s := range t.sessions {
		if s.task.Agent != agent || s.task.Stage != action.Production || but != "" && s.task.Certification == but {
			continue
		}
		select {
		case <-t.srv.gate.Done(t.name, id):
			if s.admitted.Load() {
				continue
			}
		default:
		}
		out = append(out, id)
	}
	return out
}

func (t *tenant) recordDrift(ctx context.Context, agent, task string, changes []boundary.Change) {
	if _, err := t.log.Append(ctx, record.Draft{Type: "boundary.drift", Task: task, Agent: agent, Actor: "sallyport",
		Body: map[string]any{"agent": agent, "changes": boundary.Brief(changes)}}); err != nil {
		t.srv.log.Error("the drift could not be recorded; nothing passes", "agent", agent, "err", err)
	}
}

// material are the changes that end a certification by the agent's rules, and the
// rest, which are graded.
func (a *agent) material(certified boundary.Manifest, changes []boundary.Change) (material, graded []boundary.Change) {
	for _, c := range changes {
		_, known := certified.Get(c.Name)
		if a.spec.Consequence(c.Name, known) == resource.HoldPrivileged {
			graded = append(graded, c)
		} else {
			material = append(material, c)
		}
	}
	return material, graded
}

// drift is what follows from changes in production: one that is material ends the
// certification, with all that were seen; graded ones stay with it. It returns the
// material ones.
func (t *tenant) drift(ctx context.Context, a *agent, certified boundary.Manifest, code string, changes []boundary.Change) []boundary.Change {
	material, graded := a.material(certified, changes)
	if len(material) > 0 {
		t.lapse(ctx, a.name, certify.Lapse{Code: code, Changes: changes})
		return material
	}
	if len(graded) > 0 {
		brief := boundary.Brief(graded)
		fresh, err := t.certs.Grade(ctx, a.name, action.Production, brief)
		if errors.Is(err, certify.ErrGraded) || len(brief) < len(graded) {
			t.lapse(ctx, a.name, certify.Lapse{Code: code, Changes: changes})
			return graded
		}
		if err != nil {
			t.srv.log.Error("the drift could not be recorded; nothing passes", "agent", a.name, "err", err)
		}
		if len(fresh) > 0 {
			t.srv.log.Warn("graded drift: what is privileged is held for people", "agent", a.name, "changes", describe(fresh))
		}
	}
	return nil
}

// watchEvery is how often what nobody has to ask about is looked at again.
const watchEvery = time.Second

// watch holds what this server is and declares, and the people behind it, against each
// certification in force. The first look is that of recover.
func (t *tenant) watch(ctx context.Context) {
	every(ctx, watchEvery, func() { t.lookAgain(ctx) })
}

func (t *tenant) lookAgain(ctx context.Context) {
	if err := t.certs.Settle(ctx); err != nil {
		t.srv.log.Error("what lapsed could not be recorded yet; nothing of it passes", "err", err)
	}
	if t.cutOwed.Load() {
		if err := t.settleCut(ctx); err != nil {
			t.srv.log.Error("what was under way when the server ended could not be judged yet", "tenant", t.name, "err", err)
		}
	}
	w := t.current()
	for _, name := range slices.Sorted(maps.Keys(w.agents)) {
		a := w.agents[name]
		c, err := t.certs.Live(name, action.Production)
		if err != nil {
			continue
		}
		// What a crash left undone, or was recorded while this one was being issued.
		if v, err := t.violation(ctx, name); err == nil && v.against(a, c) {
			t.lapse(ctx, name, certify.Lapse{Code: v.Code, Why: v.Why})
			continue
		}
		if code, why := t.unsupported(ctx, w, a, c); code != "" {
			t.lapse(ctx, name, certify.Lapse{Code: code, Why: why})
			continue
		}
		t.drift(ctx, a, c.Manifest, lapseDrift, append(drifted(a, c.Manifest), c.Manifest.Drift(t.onMachine(a, c.Manifest))...))
		for _, s := range t.sessionsOf(name) {
			s.remeasure(ctx)
		}
	}
}

func (t *tenant) sessionsOf(agent string) (out []*session) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, s := range t.sessions {
		if s.task.Agent == agent && s.task.Stage == action.Production && s.up.Load() {
			out = append(out, s)
		}
	}
	return out
}

// unsupported says why nobody stands behind a certification any more: who answers for
// the agent, and who approved it, must be able to today.
func (t *tenant) unsupported(ctx context.Context, w *world, a *agent, c certify.Certification) (code, why string) {
	missing := func(person string, role resource.Role) string {
		p, b := w.people[person], t.bar(person)
		switch {
		case p == nil:
			return person + " is not declared any more"
		case !slices.Contains(p.Roles, role):
			return person + " has not the role " + string(role) + " any more"
		case b.Locked:
			return "a security event of " + b.Issuer + " locked " + person
		}
		return ""
	}
	if why := missing(a.owner, resource.RoleOwner); why != "" {
		return lapseOwnerGone, "its owner cannot answer for it: " + why
	}
	if c.Approval == "" {
		return "", ""
	}
	x, err := t.approvals.Get(ctx, c.Approval)
	var gone *approval.Refusal
	switch {
	case errors.As(err, &gone):
		return lapseApproverGone, "its approval is not there: " + gone.Reason
	case err != nil:
		return "", "" // nothing passes while the store cannot be read; looked at again when it can
	}
	for _, s := range x.Signatures {
		if why := missing(s.Person, resource.RoleApprover); why != "" {
			return lapseApproverGone, "who approved it may not any more: " + why
		}
	}
	return "", ""
}

// onMachine is what this machine would launch the agent with now, as far as it was
// certified.
func (t *tenant) onMachine(a *agent, certified boundary.Manifest) boundary.Measure {
	h, err := a.harness()
	var harness action.Digest
	if err == nil {
		harness, err = onDisk.file(h.Path)
	}
	now := boundary.Measure{"sallyport.binary": string(t.srv.self), "containment": t.srv.containment(),
		"browser.binary": said(onDisk.browser(a.browserKind)), "harness.binary": said(harness, err)}
	maps.DeleteFunc(now, func(name, _ string) bool { _, ok := certified.Get(name); return !ok })
	return now
}

// said is a digest, or that there is none, which no certified fact is.
func said(d action.Digest, err error) string {
	if err != nil {
		return "unreadable"
	}
	return string(d)
}

// remeasure looks again at what a session in production was started from. That its
// program is mostly a copy (takeProgram) makes no difference: what is there is what the
// next task would run. While a session starts it was measured just now.
func (s *session) remeasure(ctx context.Context) {
	if !s.up.Load() {
		return
	}
	now := boundary.Measure{"browser.binary": said(onDisk.browser(s.agent.browserKind)), "harness.files": said(onDisk.tree(s.bound)), "harness.binary": said(onDisk.file(s.path))}
	var changes []boundary.Change
	for name, v := range now {
		if old := s.seen.get(name); old != "" && old != v {
			changes = append(changes, boundary.Change{Name: name, Old: old, New: v})
		}
	}
	if len(changes) == 0 {
		return
	}
	c, err := s.t.certs.Live(s.task.Agent, s.task.Stage)
	if err != nil {
		return // nothing of it passes
	}
	s.t.drift(context.WithoutCancel(ctx), s.agent, c.Manifest, lapseDrift, changes)
}
