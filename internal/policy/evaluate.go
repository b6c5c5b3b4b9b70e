package policy

import (
	"maps"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// Codes of the decisions made here. Programs may match on them. A guardrail
// may name its own with @code.
const (
	CodePermitted    = "permitted"         // the grant covers it
	CodeForm         = "malformed"         // the input has no canonical form
	CodePolicyError  = "policy_error"      // a policy could not be evaluated
	CodeGuardrail    = "forbidden"         // a guardrail without a code of its own
	CodeOutsideGrant = "outside_grant"     // the task's capability does not cover it
	CodeCountSpent   = "count_spent"       // it does, but not once more
	CodeApproval     = "needs_approval"    // a person must approve
	CodeConflict     = "conflicting_holds" // two roles would have to approve one action
)

// outcome is what one set says of one request.
type outcome struct {
	permits, forbids, holds []*entry
	errors                  []string // ids, sorted
}

// Evaluate decides. Guardrails come first: a forbid wins, an error denies,
// holds are collected. Then the grant: what no rule of it permits is denied.
// A nil set denies. The result never depends on the order of anything.
func Evaluate(guardrails, grant *Set, in Input) action.Decision {
	if why := in.malformed(); why != "" {
		return action.Denied(action.LayerForm, CodeForm, why, "send the action in its canonical form")
	}
	if guardrails == nil {
		return action.Denied(action.LayerGuardrail, CodePolicyError, "the tenant has no active policy set", "ask the policy author to apply one")
	}
	r := newRequest(&in)
	guards := guardrails.index.candidates(r)
	var grants []int32
	needs := guardrails.needs(guards)
	if grant != nil {
		grants = grant.index.candidates(r)
		needs |= grant.needs(grants)
	}
	r.within(needs) // once for both
	g := guardrails.collect(r, guards)
	if d, denied := denial(action.LayerGuardrail, g); denied {
		return d
	}
	if grant == nil {
		return outsideGrant(nil, &in)
	}
	t := grant.collect(r, grants)
	if d, denied := denial(action.LayerGrant, t); denied {
		return d
	}
	if len(t.permits) == 0 {
		return outsideGrant(grant, &in)
	}
	return permitted(g, t)
}

// permitted is the decision once nothing forbids and the grant covers it:
// allow, or hold for the one role that every hold names.
func permitted(guardrail, grant outcome) action.Decision {
	layer := action.LayerGrant
	if len(guardrail.holds) > 0 {
		layer = action.LayerGuardrail
	}
	holds := append(slices.Clone(guardrail.holds), grant.holds...)
	if len(holds) == 0 {
		return action.Decision{
			Verdict: action.Allow, Layer: action.LayerGrant, Code: CodePermitted,
			Reason: "the task's capability covers it", Policies: ids(grant.permits),
		}
	}
	roles := map[string]bool{}
	for _, h := range holds {
		roles[h.hold] = true
	}
	if len(roles) > 1 {
		d := action.Denied(layer, CodeConflict,
			"policies ask different roles to approve: "+strings.Join(slices.Sorted(maps.Keys(roles)), ", "),
			"ask the policy author to let one role approve it")
		d.Policies = ids(holds)
		return d
	}
	d := action.Decision{
		Verdict: action.Hold, Layer: layer, Code: CodeApproval,
		Reason: holds[0].reason, Next: holds[0].next,
		Policies: ids(append(holds, grant.permits...)), Approvers: holds[0].hold,
	}
	if d.Reason == "" {
		d.Reason = "a person must approve it"
	}
	if d.Next == "" {
		d.Next = "wait for a person with the role " + d.Approvers
	}
	return d
}

// denial turns errors and forbids of one set into a decision.
func denial(l action.Layer, o outcome) (action.Decision, bool) {
	if len(o.errors) > 0 {
		d := action.Denied(l, CodePolicyError, "a policy could not be evaluated", "ask the policy author to run: sallyport policy check")
		d.Policies = o.errors
		return d, true
	}
	if len(o.forbids) == 0 {
		return action.Decision{}, false
	}
	first := o.forbids[0]
	d := action.Denied(l, first.code, first.reason, first.next)
	if d.Code == "" {
		d.Code = CodeGuardrail
	}
	if d.Reason == "" {
		d.Reason = "policy " + first.id + " forbids it"
	}
	if d.Next == "" {
		d.Next = "leave it undone, or ask the policy author about " + first.id
	}
	d.Policies = ids(o.forbids)
	return d, true
}

// outsideGrant says whether the capability does not know the action at all or
// has only used it up: the next step differs.
func outsideGrant(grant *Set, in *Input) action.Decision {
	if grant == nil {
		return action.Denied(action.LayerGrant, CodeOutsideGrant, "the task has no grant", "open a task with a capability that covers it")
	}
	capability := grant.capability()
	if in.Counts[in.Action.Operation] > 0 && grant.permitsFresh(*in) {
		return action.Denied(action.LayerGrant, CodeCountSpent,
			"capability "+capability+" covers it, but its count is used up",
			"open another task of "+capability+", or ask for a capability with a higher count")
	}
	return action.Denied(action.LayerGrant, CodeOutsideGrant,
		"capability "+capability+" does not cover it",
		"stay within "+capability+", or open a task with a capability that covers it")
}

// permitsFresh reports whether it would be permitted in a task that has done
// nothing yet.
func (s *Set) permitsFresh(in Input) bool {
	in.Counts = nil
	r := newRequest(&in)
	return len(s.collect(r, s.index.candidates(r)).permits) > 0
}

// needs are the attributes that the entries at the given positions look at.
func (s *Set) needs(at []int32) (set attributeSet) {
	for _, i := range at {
		set |= s.uses[i]
	}
	return set
}

// collect asks the entries at the given positions, in order.
func (s *Set) collect(r *request, at []int32) outcome {
	var o outcome
	q := r.within(s.needs(at))
	part := make([]*entry, 0, len(at))
	// Cedar reports only the forbids when there is one, so permits and forbids
	// are asked apart: a hold is a forbid to Cedar and must not hide a permit.
	for _, forbid := range []bool{true, false} {
		part = part[:0]
		for _, i := range at {
			if e := s.entries[i]; e.forbid == forbid {
				part = append(part, e)
			}
		}
		if len(part) == 0 {
			continue
		}
		_, diag := cedar.Authorize(pick(part), r, q)
		for _, e := range diag.Errors {
			o.errors = append(o.errors, string(e.PolicyID))
		}
		for _, reason := range diag.Reasons {
			i := slices.IndexFunc(part, func(e *entry) bool { return e.id == string(reason.PolicyID) })
			switch e := part[i]; {
			case !e.forbid:
				o.permits = append(o.permits, e)
			case e.hold != "":
				o.holds = append(o.holds, e)
			default:
				o.forbids = append(o.forbids, e)
			}
		}
	}
	slices.Sort(o.errors)
	return o
}

func ids(entries []*entry) []string {
	out := make([]string, 0, len(entries))
	for _, e := range entries {
		out = append(out, e.id)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
