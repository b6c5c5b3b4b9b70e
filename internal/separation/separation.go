// Package separation says who could do what must not meet in one person, and by
// which way: roles held together, a second name, the right to give oneself a
// role, a role in a connected system, control of somebody else's account.
//
// Invariants:
//   - It decides nothing and writes nothing. What it finds is refused elsewhere
//     where it can be (resource validation, approval), and shown where it cannot.
//   - Every finding names its whole path, so that a reader can check each step.
//   - A finding without a guard is something that one person can do alone.
//
// Not trusted: names. Two names that share an account, a key, a subject or a
// mailbox are one person. What connected systems say is the word of who declares it.
package separation

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Power is what somebody can reach, by whatever way.
type Power string

// The powers. Identities: who is who, and which roles and keys they have.
const (
	Identities Power = "identities"
	Secrets    Power = "secrets"
	Rules      Power = "rules" // policy, connectors, capabilities
	Approvals  Power = "approvals"
	Agents     Power = "agents"
)

// Powers lists what a role of a connected system can be declared to reach.
var Powers = []Power{Identities, Secrets, Rules, Approvals, Agents}

// roles says what each role of a tenant reaches; the others reach none of them.
var roles = map[string]Power{
	"identity-administrator": Identities, "secrets-administrator": Secrets, "policy-author": Rules, "approver": Approvals, "owner": Agents,
}

// apart are the powers that must not meet, the one that must be kept away last.
var apart = [][2]Power{
	{Identities, Secrets}, {Rules, Secrets}, {Approvals, Secrets},
	{Identities, Approvals}, {Rules, Approvals}, {Agents, Approvals},
}

// Person is one declared name.
type Person struct {
	Name     string
	Roles    []string
	Account  string   // of the machine; "" for none, or where accounts say nothing
	Mail     string   // "" for none
	Keys     []string // digests of what they approve with
	Subjects []string // at identity providers
}

// System is a connected system, through what the tenant declares of it.
type System struct {
	Name string // Kind/name
	// Account is whom an agent with its credential is on the machine; "" for none.
	Account string
	Roles   []SystemRole
}

// SystemRole is a role that a person has there.
type SystemRole struct {
	Person, Role string
	Can          []Power
}

// Agent is who answers for an agent, and what it signs in to.
type Agent struct {
	Name, Owner, Deputy string
	Systems             []string
}

// Quorum is how many people of a role must agree.
type Quorum struct {
	What, Role string
	People     int
}

// Estate is everything that is looked at.
type Estate struct {
	People  []Person
	Systems []System
	Agents  []Agent
	Quorums []Quorum
	// Server is the account that the server runs as; whoever has it, or root,
	// can open the sealed secrets.
	Server string
}

// Finding is one way in which what must be apart meets.
type Finding struct {
	Code   string   `json:"code"` // both-powers, gives-itself, two-names, controls-approver, quorum
	People []string `json:"people"`
	Powers []Power  `json:"powers"`
	Path   []string `json:"path"`
	// Guard is who has to agree, each of them enough; none: they can do it alone.
	Guard []string `json:"guard"`
}

// Open reports whether nobody else has to agree.
func (f Finding) Open() bool { return len(f.Guard) == 0 }

// String is the finding in one line.
func (f Finding) String() string {
	s := strings.Join(f.People, " = ")
	var p []string
	for _, x := range f.Powers {
		p = append(p, string(x))
	}
	s += " can reach " + strings.Join(p, " and ") + ": " + strings.Join(f.Path, "; ")
	if !f.Open() {
		s += "; needs the approval of " + strings.Join(f.Guard, " or ")
	}
	return s
}

// human is one person behind one or more names, with how they reach each power.
type human struct {
	names []string
	why   []string // why the names are one person
	reach map[Power][]string
}

// Analyse lists everything that it finds, what can be done alone first.
func Analyse(e Estate) []Finding {
	all := e.humans()
	var out []Finding
	for _, h := range all {
		out = append(out, h.together()...)
		out = append(out, h.givesItself(e.guards(h))...)
		if len(h.names) > 1 && len(h.reach) > 0 {
			out = append(out, Finding{"two-names", h.names, slices.Sorted(maps.Keys(h.reach)), h.why, nil})
		}
		for _, q := range e.Quorums {
			if f, ok := e.quorum(h, q); ok {
				out = append(out, f)
			}
		}
	}
	out = append(out, e.impersonations(all)...)
	slices.SortStableFunc(out, func(a, b Finding) int {
		switch {
		case a.Open() == b.Open():
			return strings.Compare(a.Code+strings.Join(a.People, " "), b.Code+strings.Join(b.People, " "))
		case a.Open():
			return -1
		}
		return 1
	})
	return out
}

// together: powers that one person reaches already.
func (h *human) together() (out []Finding) {
	for _, p := range apart {
		a, b := h.reach[p[0]], h.reach[p[1]]
		if a == nil || b == nil {
			continue
		}
		path := slices.Clone(h.why)
		for _, step := range slices.Concat(a, b) {
			if !slices.Contains(path, step) {
				path = append(path, step)
			}
		}
		out = append(out, Finding{"both-powers", h.names, p[:], path, nil})
	}
	return out
}

// givesItself: who may say which roles people have may say it of themselves.
// What stands in the way is the approval of somebody else; where nobody could give
// it, what a Person gains is refused, and there is no way.
func (h *human) givesItself(guard []string) (out []Finding) {
	way := h.reach[Identities]
	if way == nil || len(guard) == 0 {
		return nil
	}
	for _, p := range apart {
		if p[0] == Identities && h.reach[p[1]] == nil {
			role := map[Power]string{Secrets: "secrets-administrator", Approvals: "approver"}[p[1]]
			path := append(slices.Clone(way), fmt.Sprintf("may apply Person/%s, or a Person of a new name, with the role %s", h.names[0], role))
			out = append(out, Finding{"gives-itself", h.names, p[:], path, guard})
		}
	}
	return out
}

// quorum: one person has as many names as must agree.
func (e Estate) quorum(h *human, q Quorum) (Finding, bool) {
	var with []string
	for _, p := range e.People {
		if slices.Contains(h.names, p.Name) && slices.Contains(p.Roles, q.Role) {
			with = append(with, p.Name)
		}
	}
	if q.People < 2 || len(with) < q.People {
		return Finding{}, false
	}
	path := append(slices.Clone(h.why), fmt.Sprintf("%s asks %d people with the role %s, and these are %d names", q.What, q.People, q.Role, len(with)))
	return Finding{"quorum", with, []Power{Approvals}, path, nil}, true
}

// impersonations: an agent signs in to a host as the account of an approver, so
// whoever answers for the agent can come to act as them.
func (e Estate) impersonations(all []*human) (out []Finding) {
	for _, a := range e.Agents {
		for _, s := range e.Systems {
			if s.Account == "" || !slices.Contains(a.Systems, s.Name) {
				continue
			}
			for _, p := range e.People {
				if p.Account != s.Account || !slices.Contains(p.Roles, "approver") {
					continue
				}
				for _, who := range []string{a.Owner, a.Deputy} {
					if who != p.Name {
						out = append(out, Finding{"controls-approver", []string{who}, []Power{Agents, Approvals}, []string{
							fmt.Sprintf("%s answers for agent %s", who, a.Name), fmt.Sprintf("it signs in by %s as %s", s.Name, s.Account),
							fmt.Sprintf("%s is the account of %s, who approves", s.Account, p.Name)}, nil})
					}
				}
			}
		}
	}
	return out
}

// guards are who can approve what this person proposes. Without a key nobody
// approves anything.
func (e Estate) guards(h *human) (out []string) {
	for _, p := range e.People {
		if slices.Contains(p.Roles, "approver") && len(p.Keys) > 0 && !slices.Contains(h.names, p.Name) {
			out = append(out, p.Name)
		}
	}
	slices.Sort(out)
	return out
}
