package readiness

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// Prober may be implemented by a Source: it lets a report try to break the
// running system. Nothing that a probe asks for may have an effect, even if it
// were let through.
type Prober interface {
	// Act asks the real gate about an action. Its dispatch does nothing. The
	// decision is returned.
	Act(ctx context.Context, a action.Action) (action.Decision, error)
	// Identity asks the real issuer for an identity of the agent's task; nil
	// means that one was issued.
	Identity(ctx context.Context, agent, task string) error
	// Open asks for a production task, as a requester would; nil means that it
	// would be opened. It opens none.
	Open(ctx context.Context, agent, capability string) error
	// Approve hands in a signature; nil means that it was taken.
	Approve(ctx context.Context, approval, person string, signature []byte) error
}

// ProbeResult is one attempt to break a condition.
type ProbeResult struct {
	Condition string `json:"condition"`
	Tried     string `json:"tried"`
	Caught    bool   `json:"caught"`
	Saw       string `json:"saw"`
}

// probe is one attempt: it returns whether it was caught and what was seen. ran
// is false when there is nothing to try it on.
type probe struct {
	condition, tried string
	try              func(context.Context, *evaluation, Prober) (caught, ran bool, saw string)
}

var probes = []probe{
	{"change-approval", "hand in an approval that was used before, as the owner, with its old signature", probeReplay},
	{"recertification", "open a task in production while no certification is in force", probeUncertified},
	{"workload-identity", "ask for an identity of a task that has ended", probeIdentity},
	{"just-in-time", "act for a task that has ended", probeClosed},
	{"runtime-policy", "act for a task that does not exist, irreversibly", probeUnknown},
	{"owner-environment", "open a task for an agent that nobody declared", probeUndeclared},
}

// probe runs them all. One that is not caught fails its condition.
func (e *evaluation) probe(ctx context.Context, src Source) {
	e.probes = e.probeLedger(ctx, src)
	if p, ok := src.(Prober); ok {
		for _, x := range probes {
			if caught, ran, saw := x.try(ctx, e, p); ran {
				e.probes = append(e.probes, ProbeResult{x.condition, x.tried, caught, saw})
			}
		}
	}
	for _, r := range e.probes {
		i := slices.IndexFunc(e.results, func(k *check) bool { return k.def.id == r.Condition })
		k := e.results[i]
		if r.Caught {
			k.findings = append(k.findings, Finding{State: Pass, Saw: "probe: tried to " + r.Tried + "; caught: " + r.Saw})
			continue
		}
		k.fail("stop the server: a probe went through", nil, "probe: tried to %s, and it went through: %s", r.Tried, r.Saw)
	}
}

func said(err error) (caught, ran bool, saw string) {
	if err == nil {
		return false, true, "it was accepted"
	}
	saw, _, _ = strings.Cut(err.Error(), "; next:") // not a step for who reads the report
	return true, true, saw
}

// probeLedger changes one byte of one record on the way and wants the root of
// the checkpoint to show it.
func (e *evaluation) probeLedger(ctx context.Context, src Source) []ProbeResult {
	out := []ProbeResult{}
	if !e.checked.covers {
		return out
	}
	var t tree
	err := entriesUntil(ctx, src, e.checked.size, func(seq int64, raw []byte) {
		if seq == e.checked.size/2 {
			raw = slices.Clone(raw)
			raw[len(raw)/2] ^= 1
		}
		t.add(raw)
	})
	root, rerr := t.root()
	r := ProbeResult{Condition: "logs", Tried: fmt.Sprintf("change one bit of record %d", e.checked.size/2), Caught: err == nil && rerr == nil && t.size == e.checked.size && root != e.checked.Root}
	r.Saw = "the records do not give the signed root any more"
	if !r.Caught {
		r.Saw = "the change does not show"
	}
	return append(out, r)
}

// ended is a task of the agent that is over.
func (e *evaluation) ended() *life {
	for _, l := range slices.Backward(e.h.tasks()) {
		if !l.over.time.IsZero() {
			return l
		}
	}
	return nil
}

func (e *evaluation) write(task string, effect action.Effect) action.Action {
	return action.Action{Tenant: e.w.Tenant, Task: task, Agent: e.w.Agent, Surface: action.Egress, Source: "harness", Operation: "readiness.probe",
		Effect: effect, Digest: canon.Digest([]byte("readiness probe"))}
}

func decision(d action.Decision, err error) (caught, ran bool, saw string) {
	if err != nil {
		return false, true, "the gate did not answer: " + err.Error()
	}
	return d.Verdict == action.Deny && d.Code != "", true, string(d.Layer) + "/" + d.Code
}

func probeClosed(ctx context.Context, e *evaluation, p Prober) (caught, ran bool, saw string) {
	l := e.ended()
	if l == nil {
		return false, false, ""
	}
	return decision(p.Act(ctx, e.write(l.ID, action.Write)))
}

func probeUnknown(ctx context.Context, e *evaluation, p Prober) (caught, ran bool, saw string) {
	return decision(p.Act(ctx, e.write("readiness-probe", action.Irreversible)))
}

func probeIdentity(ctx context.Context, e *evaluation, p Prober) (caught, ran bool, saw string) {
	l := e.ended()
	if l == nil {
		return false, false, ""
	}
	return said(p.Identity(ctx, e.w.Agent, l.ID))
}

// probeUncertified needs an agent without a certification: with one in force
// the same request would be right.
func probeUncertified(ctx context.Context, e *evaluation, p Prober) (caught, ran bool, saw string) {
	l := e.ended()
	if l == nil || e.w.Live != nil {
		return false, false, ""
	}
	return said(p.Open(ctx, e.w.Agent, l.Capability))
}

func probeUndeclared(ctx context.Context, e *evaluation, p Prober) (caught, ran bool, saw string) {
	l := e.ended()
	if l == nil {
		return false, false, ""
	}
	return said(p.Open(ctx, e.w.Agent+"-readiness-probe", l.Capability))
}

func probeReplay(ctx context.Context, e *evaluation, p Prober) (caught, ran bool, saw string) {
	if len(e.h.granted) == 0 {
		return false, false, ""
	}
	g := e.h.granted[len(e.h.granted)-1]
	return said(p.Approve(ctx, g.ID, e.w.Owner, []byte(g.Signature)))
}
