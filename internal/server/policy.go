package server

import (
	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/capability"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// decider speaks policy to the gate, for one task.
type decider struct {
	guardrails *policy.Set
	grant      *policy.Set
	demo       bool
	// endpoint and model are what inference is pinned to.
	endpoint, model string
}

// Decide implements gate.Policy.
func (d decider) Decide(f gate.Facts) action.Decision {
	a := f.Action
	return policy.Evaluate(d.guardrails, d.grant, policy.Input{
		Action: a, Stage: f.Stage, Tier: f.Tier, TaskParams: f.Params, Labels: f.Labels, Counts: f.Counts,
		Certified: f.Certified, Demo: d.demo, Source: a.Source,
		Pinned: a.Surface == action.Inference && a.Params["endpoint"] == d.endpoint && a.Params["model"] == d.model,
	})
}

// compile turns a filled-in capability into the task's own grant.
func compile(tenant, agent, task string, in *capability.Instance) (*policy.Set, error) {
	g := policy.Grant{Tenant: tenant, Agent: agent, Task: task, Capability: in.Capability, Reads: in.Reads,
		Computer: in.Computer, Inference: in.Inference, Control: true}
	for _, r := range in.Rules {
		rule := policy.Rule{Operation: r.Operation, App: r.App, Max: r.Max, Params: map[string]policy.Constraint{}}
		for name, v := range r.Params {
			rule.Params[name] = policy.Constraint{Any: v.Any, Equals: v.Equals}
		}
		if r.Hold != nil {
			rule.Hold = r.Hold.Approvers
		}
		g.Rules = append(g.Rules, rule)
	}
	return policy.CompileGrant(g)
}
