package server

import (
	"maps"
	"os"
	"os/user"
	"slices"
	"strconv"

	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/separation"
	"github.com/sallyport-dev/sallyport/receipt"
)

// Separation lists everybody who could do what must not meet in one person, by
// whatever way, with the path.
func (s *Server) Separation(tenantName string) ([]separation.Finding, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	return separation.Analyse(t.current().estate()), nil
}

// estate is a tenant as the analysis of separation sees it. In a demonstration
// one local user plays everybody, so accounts say nothing there.
func (w *world) estate() separation.Estate {
	e := separation.Estate{}
	if !w.demo {
		e.Server = "uid " + strconv.Itoa(os.Getuid())
		if u, err := user.LookupId(strconv.Itoa(os.Getuid())); err == nil {
			e.Server = u.Username
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.people)) {
		e.People = append(e.People, w.human(name, w.people[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(w.sources)) {
		src := w.sources[name]
		y := separation.System{Name: resource.KindCredentialSource + "/" + name, Roles: systemRoles(src.DeclaredRoles)}
		if src.SSH != nil && !w.demo {
			y.Account = src.SSH.User
		}
		e.Systems = append(e.Systems, y)
	}
	for _, id := range slices.Sorted(maps.Keys(w.resources)) {
		r := w.resources[id]
		if r.Kind != resource.KindConnector {
			continue
		}
		if c := w.connectors.Spec(r.Name); c != nil && len(c.DeclaredRoles) > 0 {
			e.Systems = append(e.Systems, separation.System{Name: id, Roles: systemRoles(c.DeclaredRoles)})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.agents)) {
		a := w.agents[name]
		x := separation.Agent{Name: name, Owner: a.owner, Deputy: a.deputy}
		for _, n := range w.credentialsOf(a) {
			x.Systems = append(x.Systems, resource.KindCredentialSource+"/"+n)
		}
		e.Agents = append(e.Agents, x)
	}
	for _, name := range slices.Sorted(maps.Keys(w.capabilities)) {
		for _, h := range w.capabilities[name].Holds {
			e.Quorums = append(e.Quorums, separation.Quorum{What: resource.KindCapability + "/" + name + " (" + h.Operation + ")", Role: h.Approvers, People: h.Count})
		}
	}
	return e
}

func (w *world) human(name string, p *resource.PersonSpec) separation.Person {
	x := separation.Person{Name: name, Mail: p.Email}
	if !w.demo {
		x.Account = p.UnixUser
	}
	for _, r := range p.Roles {
		x.Roles = append(x.Roles, string(r))
	}
	for _, line := range p.ApprovalKeys() {
		if d, err := receipt.KeyDigest(line); err == nil {
			x.Keys = append(x.Keys, d)
		}
	}
	for _, s := range p.Subjects {
		x.Subjects = append(x.Subjects, s.Issuer+" "+s.Subject)
	}
	return x
}

func systemRoles(all []connector.DeclaredRole) (out []separation.SystemRole) {
	for _, d := range all {
		r := separation.SystemRole{Person: d.Person, Role: d.Role}
		for _, c := range d.Can {
			r.Can = append(r.Can, separation.Power(c))
		}
		out = append(out, r)
	}
	return out
}
