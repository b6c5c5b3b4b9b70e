package server

import (
	"slices"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/capability"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// A task in the stage shadow works in production's conditions: its applications,
// credentials and rules. The gate lets nothing of it take effect (gate/shadow.go), so
// it needs no certification. It reads production all the same, and therefore only
// under a capability whose approvers said so: one that names the stage.
//
// What it leases can do more at the application than read. Nobody inside holds it,
// and what passes the door with it is what the gate lets through. So it gets what the
// boundary puts into single requests, and nothing whose making is itself a change
// elsewhere, or whose use is not decided one by one.

//
// There is no certification that a change of its rules could end, so the change ends the
// task (endShadows): what people approved is what production is read under.

// stage is where the applications of the session are.
func (s *session) stage() action.Stage { return s.task.Stage.Conditions() }

// leasable reports whether a task in shadow gets a credential of the source.
func leasable(src *resource.CredentialSourceSpec) bool {
	switch src.Type {
	case resource.SourceForm, resource.SourceField, resource.SourceRequest, resource.SourceOAuth, resource.SourceAWS:
		return true
	case resource.SourceVault:
		return src.Vault.KV != nil
	}
	return false // accounts, roles, certificates and tokens that are made for the task, or a password that is changed after it
}

// shadows refuses a task in shadow whose capability leases what no such task gets.
func (w *world) shadows(in *capability.Instance) error {
	i := slices.IndexFunc(in.Credentials, func(name string) bool { return w.sources[name] == nil || !leasable(w.sources[name]) })
	if i < 0 {
		return nil
	}
	return problem(Refused, "not_in_shadow", "the credential source "+in.Credentials[i]+" makes or changes something elsewhere for each task, or opens a session whose steps are not decided",
		"open it for the sandbox, or under a capability without that source")
}

// endShadows ends the tasks in shadow of agents whose boundary was declared otherwise
// before. One that starts meanwhile was admitted before this, or finds the change in
// holdAgainst.
func (t *tenant) endShadows(before *world) {
	now := t.current()
	changed := func(agent string) bool {
		a, b := before.agents[agent], now.agents[agent]
		return a != nil && (b == nil || a.declared.Digest() != b.declared.Digest())
	}
	const why = "the boundary was changed, and nobody certified what reads production here"
	t.srv.gate.Shut(func(a gate.Admission) bool {
		return a.Tenant == t.name && a.Stage == action.Shadow && changed(a.Agent)
	}, "changed", why)
	t.mu.RLock()
	defer t.mu.RUnlock()
	for id, s := range t.sessions {
		if s.task.Stage == action.Shadow && changed(s.task.Agent) {
			go t.endTask(id, task.Revoked, "changed", why)
		}
	}
}
