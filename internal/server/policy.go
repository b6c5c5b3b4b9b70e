package server

import (
	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/capability"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/policy"
	"github.com/sallyport-dev/sallyport/internal/resource"
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

// decider is what decides about a task of the agent that has the grant.
func (w *world) decider(a *agent, grant *policy.Set) decider {
	return decider{guardrails: a.guardrails, grant: grant, demo: w.demo, endpoint: a.messages(), model: a.model}
}

// compile turns a filled-in capability into the task's own grant.
func compile(tenant, agent, task string, in *capability.Instance, w *world) (*policy.Set, error) {
	return policy.CompileGrant(resource.Grant(in, tenant, agent, task, resource.Declared{
		Source:    func(name string) (*resource.CredentialSourceSpec, bool) { s, ok := w.sources[name]; return s, ok },
		Connector: func(name string) (*connector.Spec, bool) { s := w.connectors.Spec(name); return s, s != nil }}))
}
