package separation

import (
	"fmt"
	"slices"
	"strings"
)

// humans puts the names together that are one person, and says what they reach.
func (e Estate) humans() []*human {
	of := map[string]*human{} // by name
	var all []*human
	seen := map[string]string{} // trait to the first name that has it
	for _, p := range e.People {
		h := &human{names: []string{p.Name}, reach: map[Power][]string{}}
		of[p.Name], all = h, append(all, h)
		for _, t := range p.traits() {
			first, known := seen[t]
			if !known {
				seen[t] = p.Name
				continue
			}
			if other := of[first]; other != of[p.Name] {
				all = join(&all, of, other, of[p.Name], fmt.Sprintf("%s and %s have the same %s", first, p.Name, t))
			}
		}
	}
	for _, p := range e.People {
		h := of[p.Name]
		for _, r := range p.Roles {
			if power, ok := roles[r]; ok {
				h.reaches(power, fmt.Sprintf("%s has the role %s", p.Name, r))
			}
		}
		if p.Account != "" && (p.Account == e.Server || p.Account == "root") {
			h.reaches(Secrets, fmt.Sprintf("%s signs in as %s, who can open the sealed secrets of this server", p.Name, p.Account))
		}
	}
	for _, s := range e.Systems {
		for _, r := range s.Roles {
			for _, power := range r.Can {
				if h := of[r.Person]; h != nil {
					h.reaches(power, fmt.Sprintf("%s is %s of %s", r.Person, r.Role, s.Name))
				}
			}
		}
	}
	return all
}

func (h *human) reaches(p Power, why string) {
	if h.reach[p] == nil { // the first way is enough to say
		h.reach[p] = []string{why}
	}
}

// traits are what two people cannot share.
func (p Person) traits() (out []string) {
	if p.Account != "" {
		out = append(out, "account "+p.Account)
	}
	if p.Mail != "" {
		out = append(out, "mailbox "+Mailbox(p.Mail))
	}
	for _, k := range p.Keys {
		out = append(out, "key "+k)
	}
	for _, s := range p.Subjects {
		out = append(out, "subject "+s)
	}
	return out
}

// Mailbox is where mail to an address arrives: in any case, and without what
// stands after a plus.
func Mailbox(address string) string {
	local, domain, _ := strings.Cut(strings.ToLower(address), "@")
	local, _, _ = strings.Cut(local, "+")
	return local + "@" + domain
}

func join(all *[]*human, of map[string]*human, into, from *human, why string) []*human {
	into.names = append(into.names, from.names...)
	into.why = append(append(into.why, from.why...), why)
	for _, n := range from.names {
		of[n] = into
	}
	return slices.DeleteFunc(*all, func(h *human) bool { return h == from })
}
