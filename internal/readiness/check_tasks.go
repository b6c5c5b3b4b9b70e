package readiness

import (
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/task"
)

// Limits of an identity's life by tier (control SP-ID-01, our own numbers).
var maxIdentity = map[string]time.Duration{"light": time.Hour, "standard": 30 * time.Minute, "privileged": 10 * time.Minute}

// backdated is how far an identity may start before it was issued.
const backdated = 10 * time.Second

func checkIdentity(k *check) {
	e := k.e
	acted := map[string][]ref{}
	for _, d := range e.h.decided {
		if d.allowed() && d.Action.Source == "harness" {
			acted[d.task] = append(acted[d.task], d.ref)
		}
	}
	var all, attested []ref
	production, longest := 0, time.Duration(0)
	for _, l := range e.h.tasks() {
		if !e.counts(l.opened.time) {
			continue
		}
		if len(acted[l.ID]) > 0 && (len(l.identities) == 0 || len(l.attested) == 0) {
			k.fail("let the harness fetch its identity (SPIFFE_ENDPOINT_SOCKET)", acted[l.ID], "task %s acted without an attested identity", l.ID)
		}
		for _, r := range l.attested {
			attested = append(attested, r.ref)
		}
		for _, r := range l.identities {
			if why := e.identity(l, r); why != "" {
				k.fail("revoke the agent and find out why: sallyport revoke agent/"+e.w.Agent, []ref{r.ref}, "an identity of task %s %s", l.ID, why)
				continue
			}
			all = append(all, r.ref)
			longest = max(longest, r.Expires.Sub(r.NotBefore))
		}
		if len(l.identities) > 0 && l.Stage == stage {
			production++
		}
	}
	k.environment()
	if len(all) == 0 || len(attested) == 0 {
		k.unknown("run the agent once: sallyport certify "+e.w.Agent, nil, "no task has run yet with an identity of its own")
		return
	}
	if e.w.SPIFFEID != "" {
		// Said whatever else is right: this is what SPIRE cannot do for a task.
		k.ok(all, "SVIDs are SPIRE's, of the agent and not of one task: one that was sent away is good for up to %s after the end of its task", age(longest))
	}
	k.ok(attested, "%s by launch: the kernel says which process asked", count(len(attested), "attestation"))
	k.ok(all, "%s, each for one task and for at most %s (the %s tier allows %s); %s in production", issuedText(len(all)),
		age(longest), e.tier(), age(maxIdentity[e.tier()]), count(production, "task"))
	k.pass("every task that acted was attested by launch and had identities of its own, for at most %s", age(longest))
}

func issuedText(n int) string {
	if n == 1 {
		return "1 identity was issued"
	}
	return count(n, "identitie") + " were issued"
}

// identity says what is wrong with one issued identity.
func (e *evaluation) identity(l *life, r identityRecord) string {
	td, path, _ := strings.Cut(strings.TrimPrefix(r.Subject, "spiffe://"), "/")
	binary, _ := selector(r.Selectors, "launch:binary:")
	of, _ := selector(r.Selectors, "launch:task:")
	// A token was exchanged for an SVID of the task, or for the identity of a
	// workload elsewhere that the boundary declares (package identity).
	_, exchanged := selector(r.Selectors, "exchange:")
	_, elsewhere := selector(r.Selectors, "elsewhere:")
	derived := exchanged || elsewhere
	if elsewhere { // its SVIDs name it below the task
		path, _, _ = strings.Cut(path, "/workload/")
	}
	own := path == "agent/"+e.w.Agent+"/task/"+l.ID || r.Kind == "assertion" && path == "agent/"+e.w.Agent
	switch {
	case e.w.SPIFFEID != "" && (r.By == "spire" || derived) && r.Subject == e.w.SPIFFEID: // as SPIRE knows it
	case td == "" || !own:
		return "names " + short(r.Subject)
	}
	switch {
	case r.Expires.Sub(r.NotBefore) > maxIdentity[e.tier()]+backdated || !r.Expires.After(r.NotBefore):
		return "lives for " + age(r.Expires.Sub(r.NotBefore)) + "; the " + e.tier() + " tier allows " + age(maxIdentity[e.tier()])
	case of != l.ID || binary == "" && !derived:
		return "was issued without attestation by launch"
	case exchanged && !slices.ContainsFunc(l.identities, func(o identityRecord) bool {
		_, own := selector(o.Selectors, "launch:binary:")
		return own && o.seq < r.seq
	}):
		return "was exchanged for an identity that is not on record"
	case len(l.attested) == 0 || l.attested[0].seq > r.seq:
		return "was issued before the process was attested"
	case !l.over.time.IsZero() && r.seq > l.over.seq:
		return "was issued after the task had ended"
	}
	if e.current(l) && !derived {
		if f, _ := e.w.Live.Manifest.Get("harness.binary"); f.Value != binary {
			return "was issued to another program than was certified"
		}
	}
	return ""
}

func selector(all []string, prefix string) (string, bool) {
	for _, s := range all {
		if v, ok := strings.CutPrefix(s, prefix); ok {
			return v, true
		}
	}
	return "", false
}

// environment looks for static secrets in what the harness gets. It names
// variables and never shows a value.
func (k *check) environment() {
	env := k.e.w.Environment
	if env == nil {
		k.unknown("start the server: what the harness gets is known only to it", nil, "what the harness gets is not known")
		return
	}
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		if secretName(name) && value != "" && !strings.HasPrefix(value, "placeholder") {
			k.fail("take it out of the harness: the boundary puts in the real one", nil, "the harness gets a static secret in %s", name)
		}
	}
	k.ok(nil, "keys in what the harness gets are placeholders")
}

func secretName(n string) bool {
	n = strings.ToUpper(n)
	return slices.ContainsFunc([]string{"KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL"}, func(w string) bool { return strings.Contains(n, w) })
}

func checkLeases(k *check) {
	e := k.e
	over := 0
	for _, l := range e.h.lives {
		if !l.over.time.IsZero() {
			over++
		}
	}
	const next = "restore the application; the revocation is tried again by itself"
	k.overdue()
	var ended, used []ref
	for _, id := range e.h.order {
		x := e.h.leases[id]
		l := e.h.lives[x.Task]
		running := l != nil && l.State == task.Active && !l.closing
		switch {
		case !x.issued.time.IsZero() && (x.requested.time.IsZero() || x.requested.seq > x.issued.seq):
			k.fail("find out why: sallyport ledger show", []ref{x.issued}, "lease %s was issued without a request on record", id)
		case x.Audience == "" || l == nil || l.opened.time.IsZero():
			k.fail("find out why: sallyport ledger show", []ref{x.last}, "lease %s is not bound to a task and an audience", id)
		case !x.issued.time.IsZero() && !l.over.time.IsZero() && x.issued.seq > l.over.seq:
			k.fail("find out why: sallyport ledger show", []ref{x.issued, l.over}, "lease %s was issued after its task had ended", id)
		case x.typ == "lease.revoked" && !l.over.time.IsZero() && l.over.seq < x.revoked.seq && e.counts(x.revoked.time):
			k.fail("find out why: sallyport ledger show", []ref{l.over, x.revoked}, "task %s ended before its lease %s was confirmed revoked", x.Task, id)
		case x.typ == "lease.revoked":
			if !x.issued.time.IsZero() {
				ended = append(ended, x.issued, x.revoked)
			}
		case running:
			used = append(used, x.last)
		default:
			k.fail(next, []ref{x.last}, "lease %s of task %s is not confirmed revoked (%s)", id, x.Task, strings.TrimPrefix(x.typ, "lease."))
		}
	}
	for _, o := range e.w.Open {
		l := e.h.lives[o.Task]
		if e.h.leases[o.ID] == nil || l == nil || !l.over.time.IsZero() {
			k.fail(next, nil, "lease %s of task %s is open, and its task is not running", o.ID, o.Task)
		}
	}
	switch {
	case over == 0:
		k.unknown("run the agent once: sallyport certify "+e.w.Agent, nil, "no task has run yet")
		return
	case len(ended) == 0:
		k.unknown("run the agent once: sallyport certify "+e.w.Agent, nil, "no credential has been issued and taken back yet")
		return
	}
	if len(used) > 0 {
		k.ok(used, "%s in use by a task that is running", count(len(used), "lease"))
	}
	k.ok(ended, "%s, each for one task and one audience, each seen to be refused afterwards", count(len(ended)/2, "lease"))
	k.pass("%s issued for single tasks and confirmed revoked before the task ended; none is left", count(len(ended)/2, "credential"))
	if len(used) > 0 {
		k.pass("%s confirmed revoked, and %s in use by running tasks", count(len(ended)/2, "credential"), count(len(used), "lease"))
	}
}

// late is how long a task may take to end.
const late = time.Minute

// overdue: no task outlives its time, and none stays on its way out.
func (k *check) overdue() {
	e := k.e
	for _, l := range e.h.tasks() {
		switch {
		case !l.over.time.IsZero():
		case l.closing && e.now.Sub(l.closingAt.time) > late:
			k.fail("see why it does not close: sallyport task show "+l.ID, []ref{l.closingAt}, "task %s is still closing after %s", l.ID, age(e.now.Sub(l.closingAt.time)))
		case !l.closing && !l.started.time.IsZero() && e.now.Sub(l.started.time) > time.Duration(l.Seconds)*time.Second+late:
			k.fail("revoke it: sallyport revoke task/"+l.ID, []ref{l.started}, "task %s has outlived its %d seconds", l.ID, l.Seconds)
		}
	}
}
