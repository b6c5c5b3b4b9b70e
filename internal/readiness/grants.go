package readiness

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/receipt"
)

// person finds somebody who is declared now.
func (e *evaluation) person(name string) (approval.Person, bool) {
	i := slices.IndexFunc(e.w.People, func(p approval.Person) bool { return p.Name == name })
	if i < 0 {
		return approval.Person{}, false
	}
	return e.w.People[i], true
}

// same reports whether two names are the same person: the same name in any
// case, or a shared account.
func (e *evaluation) same(a, b string) bool {
	if a == "" || b == "" {
		return false
	}
	if strings.EqualFold(a, b) {
		return true
	}
	pa, _ := e.person(a)
	pb, _ := e.person(b)
	for _, x := range pa.Accounts {
		if x != "" && slices.ContainsFunc(pb.Accounts, func(y string) bool { return strings.EqualFold(x, y) }) {
			return true
		}
	}
	return false
}

// holds reports whether the person has a usable key, and whether it is key.
func holds(p approval.Person, key string) (usable, this bool) {
	for _, line := range p.Keys {
		if k, err := receipt.KeyDigest(line); err == nil {
			usable = true
			this = this || k == keyOf(key)
		}
	}
	return usable, this
}

// verify checks one signature again from its record alone, and returns what is
// wrong with it, or nothing.
func (e *evaluation) verify(g granted) string {
	st := g.Statement
	msg, err := st.Bytes()
	if err != nil {
		return "its statement has no canonical form"
	}
	if _, err := approval.ParseStatement(msg); err != nil {
		return "its statement is not valid: " + err.Error()
	}
	signer, err := receipt.VerifyApproval(msg, g.Signature, []string{g.Key}, receipt.SSHPolicy{RequireVerification: st.UserVerification})
	switch {
	case err != nil:
		return "the signature does not verify"
	case signer.Key != g.Key:
		return "the signature is by another key than recorded"
	case st.Tenant != e.w.Tenant:
		return "it was signed for another tenant"
	case g.ID != st.Nonce:
		return "the record names another approval than was signed"
	case g.Person == "" || g.actor != "person:"+g.Person:
		return "the record does not name who signed"
	case g.time.Before(st.NotBefore) || !g.time.Before(st.Expires):
		return "it was signed outside its time"
	}
	for _, x := range st.Excluded {
		if e.same(x, g.Person) {
			return g.Person + " was excluded from approving it"
		}
	}
	for _, p := range e.w.People {
		if _, theirs := holds(p, g.Key); theirs && p.Name != g.Person {
			return "the key belongs to " + p.Name + ", not to " + g.Person
		}
	}
	return ""
}

// quorum checks every signature under an approval id before seq, and returns the
// records, the people, and what is wrong.
func (e *evaluation) quorum(id string, before int64) (refs []ref, people []string, st approval.Statement, why string) {
	complete := false
	var first []byte
	for _, g := range e.h.granted {
		if g.ID != id || g.seq >= before {
			continue
		}
		refs = append(refs, g.ref)
		if w := e.verify(g); w != "" {
			return refs, people, g.Statement, w
		}
		b, _ := g.Statement.Bytes()
		if first == nil {
			first, st = b, g.Statement
		} else if string(first) != string(b) {
			return refs, people, st, "its signatures are over different statements"
		}
		if !slices.ContainsFunc(people, func(n string) bool { return e.same(n, g.Person) }) {
			people = append(people, g.Person)
		}
		complete = complete || g.Complete
	}
	switch {
	case len(refs) == 0:
		why = "there is no record of it"
	case !complete || len(people) < st.Quorum:
		why = fmt.Sprintf("%d of %d people signed", len(people), max(1, st.Quorum))
	}
	return refs, people, st, why
}

// inForce finds the newest valid approval of exactly this version of a thing.
func (e *evaluation) inForce(kind approval.Kind, subject string, d action.Digest) (refs []ref, people []string, why string) {
	why = "nobody approved it as it is now"
	for _, g := range slices.Backward(e.h.granted) {
		st := g.Statement
		if st.Kind != kind || st.Subject != subject || st.Digest != d || d == "" || !g.Complete {
			continue
		}
		refs, people, _, why = e.quorum(g.ID, e.h.size)
		if why == "" {
			why = e.registered(g.ID)
		}
		if why == "" {
			why = e.selfApproved(g)
		}
		return refs, people, why
	}
	return nil, nil, why
}

// registered: what is in force was signed by people who have the role today,
// with keys that are theirs today.
func (e *evaluation) registered(id string) string {
	for _, g := range e.h.granted {
		if g.ID != id {
			continue
		}
		p, ok := e.person(g.Person)
		if !ok {
			return g.Person + ", who signed, is not declared any more"
		}
		if _, theirs := holds(p, g.Key); !theirs {
			return "it was signed with a key that is not registered to " + g.Person + " now"
		}
		if !slices.Contains(p.Roles, g.Statement.Role) {
			return g.Person + ", who signed, does not have the role " + g.Statement.Role + " now"
		}
	}
	return ""
}

// authors are those who must not approve the thing: who wrote this version of
// it, who asked for it, who owns the agent.
func (e *evaluation) authors(g granted) []string {
	st := g.Statement
	out := []string{}
	if st.Agent != "" {
		out = append(out, e.w.Owner, e.w.Deputy)
	}
	written := func(id string, d action.Digest) {
		for _, a := range slices.Backward(e.h.applied[id]) {
			if a.seq < g.seq && (d == "" || a.digest == d) {
				out = append(out, a.author)
				return
			}
		}
	}
	switch st.Kind {
	case approval.Capability:
		written("Capability/"+st.Subject, st.Digest)
	case approval.Boundary:
		written("Agent/"+st.Subject, "") // the digest is of the manifest
	case approval.Certification:
		out = append(out, e.h.runs[st.Subject].Author)
	case approval.Action:
		if l := e.h.lives[st.Task]; l != nil {
			out = append(out, l.Requester)
		}
	}
	return out
}

func (e *evaluation) selfApproved(g granted) string {
	for _, a := range e.authors(g) {
		if e.same(a, g.Person) {
			return g.Person + " approved what " + a + " wrote, asked for or owns"
		}
	}
	return ""
}

// approvers are the people who could approve a change of this agent now.
func (e *evaluation) approvers() (names []string) {
	for _, p := range e.w.People {
		usable, _ := holds(p, "")
		if slices.Contains(p.Roles, "approver") && usable && !e.same(p.Name, e.w.Owner) && !e.same(p.Name, e.w.Deputy) {
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	return names
}
