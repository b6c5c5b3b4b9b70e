package resource

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sallyport-dev/sallyport/internal/capability"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// Find is a resource by tenant, kind and name, or nil.
func Find(all []Resource, tenant, kind, name string) *Resource {
	for i := range all {
		r := &all[i]
		if r.Metadata.Tenant == tenant && r.Kind == kind && r.Metadata.Name == name {
			return r
		}
	}
	return nil
}

// Of is the spec of a resource by tenant and name: T chooses the kind.
func Of[T any](all []Resource, tenant, name string) (*T, bool) {
	for i := range all {
		if s, ok := all[i].Spec.(*T); ok && all[i].Metadata.Tenant == tenant && all[i].Metadata.Name == name {
			return s, true
		}
	}
	return nil, false
}

// Connectors makes the set that recognises the requests of a tenant. With names
// it is of those only: an agent reaches no other application.
func Connectors(all []Resource, tenant string, names ...string) (*connector.Set, error) {
	specs := map[string]*connector.Spec{}
	for _, n := range names {
		s, ok := Of[connector.Spec](all, tenant, n)
		if !ok {
			return nil, fmt.Errorf("tenant %s has no connector %q", tenant, n)
		}
		specs[n] = s
	}
	if len(names) == 0 {
		for _, r := range all {
			if s, ok := r.Spec.(*connector.Spec); ok && r.Metadata.Tenant == tenant {
				specs[r.Metadata.Name] = s
			}
		}
	}
	return connector.NewSet(specs)
}

// Guardrails makes the guardrails of a tenant from policy sets, with the
// shipped ones. File names get their set's name in front.
func Guardrails(all []Resource, tenant string, sets ...string) (*policy.Set, error) {
	files := map[string][]byte{}
	for _, n := range sets {
		s, ok := Of[policy.SetSpec](all, tenant, n)
		if !ok {
			return nil, fmt.Errorf("tenant %s has no policy set %q", tenant, n)
		}
		for _, p := range s.Policies {
			if p.File != "" {
				return nil, fmt.Errorf("policy set %s: %s is not resolved", n, p.Name)
			}
		}
		for name, text := range s.Files() {
			files[n+"/"+name] = text
		}
	}
	return policy.Parse(files)
}

// Declared finds what a capability names.
type Declared struct {
	Source    func(name string) (*CredentialSourceSpec, bool)
	Connector func(name string) (*connector.Spec, bool)
}

// DeclaredIn finds it among resources.
func DeclaredIn(all []Resource, tenant string) Declared {
	return Declared{func(name string) (*CredentialSourceSpec, bool) { return Of[CredentialSourceSpec](all, tenant, name) },
		func(name string) (*connector.Spec, bool) { return Of[connector.Spec](all, tenant, name) }}
}

// Grant is an instance of a capability as policy compiles it, for one task.
func Grant(in *capability.Instance, tenant, agent, task string, find Declared) policy.Grant {
	g := policy.Grant{
		Tenant: tenant, Agent: agent, Task: task, Capability: in.Capability,
		Reads: in.Reads, Computer: in.Computer, Inference: in.Inference,
		Control: len(in.Credentials) > 0, Caps: in.Budgets.PerOperation,
	}
	for _, name := range in.Credentials {
		switch s, ok := find.Source(name); {
		case ok && s.Database() != "":
			g.Databases = append(g.Databases, name)
		case ok && s.SSH != nil:
			g.Hosts = append(g.Hosts, name)
		}
	}
	for _, r := range in.Rules {
		rule := policy.Rule{Operation: r.Operation, App: r.App, Max: r.Max, Params: map[string]policy.Constraint{}}
		for name, v := range r.Params {
			rule.Params[name] = policy.Constraint{Any: v.Any, Equals: v.Equals, Optional: v.Optional}
		}
		if r.Hold != nil {
			rule.Hold = r.Hold.Approvers
		}
		if c, ok := find.Connector(r.App); ok && c.HasTool(r.Operation) {
			g.ToolServers = append(g.ToolServers, r.App)
		}
		g.Rules = append(g.Rules, rule)
	}
	for _, l := range in.Labels {
		g.Labels = append(g.Labels, policy.LabelRule{Label: l.Label, Reach: l.Reach, Hold: l.Hold})
	}
	return g
}

// TestPolicies runs the cases of policy sets of a tenant.
func TestPolicies(all []Resource, tenant string, sets ...string) (policy.Report, error) {
	guardrails, err := Guardrails(all, tenant, sets...)
	if err != nil {
		return policy.Report{}, err
	}
	var cases []policy.Case
	var errs []error
	for _, n := range sets {
		s, _ := Of[policy.SetSpec](all, tenant, n)
		for _, t := range s.Tests {
			var file policy.Cases
			if err := DecodeInto(Source{Name: n + "/" + t.Name, Data: []byte(t.Text)}, &file); err != nil {
				errs = append(errs, err)
			}
			cases = append(cases, file.Cases...)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return policy.Report{}, err
	}
	return policy.Test(guardrails, cases, func(name, agent string, params map[string]string) (*policy.Set, error) {
		c, ok := Of[capability.Spec](all, tenant, name)
		if !ok {
			return nil, fmt.Errorf("tenant %s has no capability %q", tenant, name)
		}
		in, err := c.Instantiate(name, params)
		if err != nil {
			return nil, err
		}
		return policy.CompileGrant(Grant(in, "test", agent, "test", DeclaredIn(all, tenant)))
	}), nil
}

// Vocabulary is what a tenant's connectors declare, for policy.Check.
func Vocabulary(all []Resource, tenant string) *policy.Vocabulary {
	v := &policy.Vocabulary{Operations: map[string][]string{}}
	var specs []*connector.Spec
	v.Decides = func(param, value string) (spelling, folded bool) {
		for _, s := range specs {
			if s.HasParam(param) {
				spelling = spelling || s.Decides(param, value)
				folded = folded || slices.Contains(s.Fold, param) || slices.Contains(s.Numbers, param)
			}
		}
		return spelling, folded
	}
	for _, r := range all {
		s, ok := r.Spec.(*connector.Spec)
		if !ok || r.Metadata.Tenant != tenant {
			continue
		}
		v.Apps, specs = append(v.Apps, r.Metadata.Name), append(specs, s)
		for _, op := range s.Operations {
			v.Operations[op.Name], _ = op.Params()
		}
		for _, made := range []string{"read", "asset", "preflight"} {
			v.Operations[r.Metadata.Name+"."+made] = nil
		}
	}
	return v
}
