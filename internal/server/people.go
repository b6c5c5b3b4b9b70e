package server

import (
	"os"
	"os/user"
	"slices"
	"strconv"

	"github.com/sallyport-dev/sallyport/internal/resource"
)

// Caller is who asks, as the socket saw it. Only the local socket exists, so a
// caller always has a user of this machine.
type Caller struct {
	UID int
	// Person is who the caller says to be. It is believed if the person's
	// unixUser is the caller, or, in a demonstration tenant, if the caller is the
	// user that the server runs as.
	Person string
}

// operator reports whether the caller is the user that the server runs as, or
// root: they could read the store anyway.
func (c Caller) operator() bool { return c.UID == os.Getuid() || c.UID == 0 }

// account names the caller in records where they act as nobody of the tenant.
func (c Caller) account() string {
	id := strconv.Itoa(c.UID)
	if u, err := user.LookupId(id); err == nil {
		return "unix:" + u.Username
	}
	return "uid:" + id
}

// identify returns the person behind a call, and their roles.
func (t *tenant) identify(c Caller) (string, []resource.Role, error) {
	w := t.current()
	if c.Person == "" {
		for name, p := range w.people {
			if uidOf(p.UnixUser) == c.UID {
				if c.Person != "" {
					return "", nil, problem(Refused, "person_unclear", "several people share this local user", "name one with --as")
				}
				c.Person = name
			}
		}
		if c.Person == "" {
			return "", nil, problem(Refused, "person_unknown", "no person is declared for this local user", "name one with --as, or declare a Person with unixUser")
		}
	}
	p := w.people[c.Person]
	if p == nil {
		return "", nil, problem(Refused, "person_unknown", "there is no person "+strconv.Quote(c.Person), "see: sallyport get Person")
	}
	if uidOf(p.UnixUser) == c.UID || w.demo && c.operator() {
		if b := t.bar(c.Person); b.Locked {
			return "", nil, problem(Refused, "person_locked", "a security event of "+b.Issuer+" locked "+c.Person, "ask an identity administrator: sallyport identity reinstate "+c.Person)
		}
		return c.Person, p.Roles, nil
	}
	return "", nil, problem(Refused, "not_this_person", "this local user is not "+c.Person, "sign in as the unixUser of the Person")
}

// Member returns nil if the caller is one of the tenant's people, or the operator.
// Everything but what is public asks for it.
func (s *Server) Member(c Caller, tenantName string) error {
	if c.operator() {
		return nil
	}
	t, err := s.tenant(tenantName)
	if err != nil {
		// Who belongs to no tenant learns nothing of which there are.
		return problem(Refused, "not_a_person", "no tenant knows this local user", "ask for a Person with your user name as unixUser")
	}
	for name, p := range t.current().people {
		if uidOf(p.UnixUser) == c.UID && !t.bar(name).Locked {
			return nil
		}
	}
	return problem(Refused, "not_a_person", "no tenant knows this local user", "ask for a Person with your user name as unixUser")
}

// require returns the person if they have one of the roles.
func (t *tenant) require(c Caller, what string, roles ...resource.Role) (string, error) {
	name, has, err := t.identify(c)
	if err != nil {
		return "", err
	}
	for _, r := range roles {
		if slices.Contains(has, r) {
			return name, nil
		}
	}
	want := ""
	for i, r := range roles {
		if i > 0 {
			want += " or "
		}
		want += string(r)
	}
	return "", problem(Refused, "role_missing", name+" may not "+what+": it takes the role "+want, "ask somebody who has it: sallyport get Person")
}

func uidOf(name string) int {
	if name == "" {
		return -1
	}
	u, err := user.Lookup(name)
	if err != nil {
		return -1
	}
	id, err := strconv.Atoi(u.Uid)
	if err != nil {
		return -1
	}
	return id
}

// writers says who may apply each kind.
var writers = map[string][]resource.Role{
	resource.KindTenant:           {resource.RoleOperations},
	resource.KindPerson:           {resource.RoleIdentity},
	resource.KindConnector:        {resource.RolePolicy},
	resource.KindPolicySet:        {resource.RolePolicy},
	resource.KindCapability:       {resource.RolePolicy},
	resource.KindSuite:            {resource.RolePolicy},
	resource.KindAgent:            {resource.RoleOwner},
	resource.KindCredentialSource: {resource.RoleSecrets},
	resource.KindRetention:        {resource.RoleOperations},
	resource.KindWitness:          {resource.RoleOperations},
}
