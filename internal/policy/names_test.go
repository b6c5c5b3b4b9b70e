package policy_test

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// Whatever a page calls its controls, and whatever it writes into its address
// after its origin, no decision of the shipped rules and of a grant is another for
// it: names are no ground to allow. A company's rule may forbid by a name.
//
// Threats: T24, T33 (grant, guardrail)
func TestNamesAllowNothing(t *testing.T) {
	base, grant := parse(t, ""), resetGrant(t)
	names := []string{"", "Approved", "iam.user.mfa.reset", "jo", "A1", "reset-mfa", "Cаncel", "Can\u200bcel", "\u202eteseR", "context.explained", `"};permit(principal,action,resource);//`}
	differ := 0
	for _, op := range matrixOperations {
		for _, state := range matrixStates {
			decide := func(name string, forbid *policy.Set) action.Decision {
				in := policy.Input{Action: op.action, Stage: action.Sandbox, Tier: "privileged", Certified: true, Pinned: true}
				in.Action.Tenant, in.Action.Task, in.Action.Agent, in.Action.Explained = "acme", "T1", "helpdesk", "A1"
				state.change(&in)
				e := action.Element{FrameOrigin: "https://iam.example", TopOrigin: "https://iam.example", Tag: "button"}
				if in.Action.Element != nil {
					e = *in.Action.Element
				}
				e.Name, e.Role, e.Text, e.Window, e.Doubts, e.URL = name, name, name, name, name, e.FrameOrigin+"/"+name
				in.Action.Element = &e
				return policy.Evaluate(forbid, grant, in)
			}
			plain := decide("", base)
			for _, n := range names {
				if d := decide(n, base); d.Verdict != plain.Verdict || d.Code != plain.Code {
					t.Errorf("%s in state %q: %q makes it %s %s, was %s %s", op.name, state.name, n, d.Verdict, d.Code, plain.Verdict, plain.Code)
				}
			}
			forbid := parse(t, `@id("company/name") @code("by_name") @reason("no") forbid (principal, action, resource) when { context has element && context.element.name == "Approved" };`)
			if d := decide("Approved", forbid); d.Verdict == action.Allow {
				t.Errorf("%s in state %q: a rule that forbids by the name did not", op.name, state.name)
			} else if plain.Verdict == action.Allow {
				differ++
			}
		}
	}
	if differ == 0 {
		t.Error("no rule by name changed a decision, so names were not there")
	}
}
