package approval

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/receipt"
)

// Person is someone who may approve, as the directory knows them now.
type Person struct {
	Name  string
	Roles []string
	// Keys are lines that receipt.ParseApprovalKey reads: SSH keys as in
	// authorized_keys, and passkeys. A line that it refuses is no key.
	Keys []string
	// Accounts are the other names by which this person signs in (local user,
	// OIDC subject). Two people who share one are taken for the same person.
	Accounts []string
	// Barred is when a security event took from them what they had been asked
	// until then; Locked says that they are nobody until they are reinstated.
	Barred time.Time
	Locked bool
}

// Directory is the tenant's people. It reads from the transaction it is given
// and from nothing else, so that a person or key removed before the commit is
// removed for the commit.
type Directory interface {
	People(record.Tx) ([]Person, error)
}

// Currency is what a Directory may be as well: it refuses a statement that names
// a policy, a boundary or resources that are not in force in the transaction any
// more. Its error is best a *Refusal.
type Currency interface {
	Current(record.Tx, Statement) error
}

func (e *Engine) read(tx record.Tx) (people, error) {
	all, err := e.people.People(tx)
	return all, err
}

// current asks the directory whether the statement still says what is in force.
func (e *Engine) current(tx record.Tx, s Statement) error {
	if c, ok := e.people.(Currency); ok {
		return c.Current(tx, s)
	}
	return nil
}

// people answers questions about one reading of the directory.
type people []Person

func (p people) named(name string) (Person, bool) {
	for _, q := range p {
		if q.Name == name {
			return q, true
		}
	}
	return Person{}, false
}

// verify checks a stored signature over the statement by any key that is
// registered now. Whose key it is, and whether that person may approve, is for
// eligible to say.
func (p people) verify(s Statement, signature string) (receipt.Signer, error) {
	msg, err := s.Bytes()
	if err != nil {
		return receipt.Signer{}, err
	}
	var keys []string
	for _, q := range p {
		for _, line := range q.Keys {
			if k, err := receipt.ParseApprovalKey(line); err == nil {
				keys = append(keys, k)
			}
		}
	}
	sig, err := receipt.VerifyApproval(msg, signature, keys, receipt.SSHPolicy{})
	if err != nil {
		return sig, refuse("signature_invalid", "this is not an approval of this statement by a key that is registered now: "+err.Error())
	}
	return sig, nil
}

// holders returns the names of the people to whom the key is registered, in
// whatever form.
func (p people) holders(key string) (names []string) {
	want, err := receipt.KeyDigest(key)
	if err != nil {
		return nil
	}
	for _, q := range p {
		for _, line := range q.Keys {
			if k, err := receipt.KeyDigest(line); err == nil && k == want && !slices.Contains(names, q.Name) {
				names = append(names, q.Name)
			}
		}
	}
	return names
}

// same reports whether two names stand for the same person: the same name in
// any case, or a shared account.
func (p people) same(a, b string) bool {
	if strings.EqualFold(a, b) {
		return true
	}
	pa, okA := p.named(a)
	pb, okB := p.named(b)
	if !okA || !okB {
		return false
	}
	return slices.ContainsFunc(pa.Accounts, func(x string) bool {
		return slices.ContainsFunc(pb.Accounts, func(y string) bool { return x != "" && strings.EqualFold(x, y) })
	})
}

// eligible decides whether a verified signature by the named person counts for
// the statement now.
func (p people) eligible(s Statement, name string, sig receipt.Signer) error {
	person, ok := p.named(name)
	if !ok {
		return refuse("unknown_person", "no such person is known")
	}
	switch names := p.holders(sig.Key); {
	case len(names) > 1:
		return refuse("key_shared", "the key is registered to more than one person, so it counts for none")
	case len(names) == 0 || names[0] != name:
		return refuse("key_not_theirs", "the key is not registered to this person now")
	}
	if err := p.asked(s, person); err != nil {
		return err
	}
	if s.UserVerification && !sig.Verified {
		return refuse("user_verification", "a key that verifies its user is required")
	}
	return nil
}

// asked reports whether a statement asks this person, whatever they sign with.
func (p people) asked(s Statement, person Person) error {
	for _, x := range s.Excluded {
		if p.same(x, person.Name) || slices.ContainsFunc(person.Accounts, func(a string) bool { return strings.EqualFold(a, x) }) {
			return refuse("excluded", "this person asked for it, wrote it or owns it, and cannot approve it")
		}
	}
	switch {
	case person.Locked:
		return refuse("person_locked", "a security event locked this person; an identity administrator reinstates them")
	case !person.Barred.IsZero() && !s.NotBefore.After(person.Barred):
		return refuse("asked_before", "a security event about this person came after it was asked: somebody else answers it")
	}
	if !slices.Contains(person.Roles, s.Role) {
		return refuse("role_missing", "this person does not have the role that must approve")
	}
	return nil
}

// Asked are the people who may still answer: nobody, of what is not pending.
func (e *Engine) Asked(ctx context.Context, id string) (names []string, err error) {
	err = e.log.View(ctx, func(tx record.Tx) error {
		names = nil
		a, err := get(tx, id)
		if err != nil || a.State != Pending {
			return err
		}
		p, err := e.read(tx)
		if err != nil {
			return err
		}
		signed := p.counted(a)
		for _, x := range p {
			if len(x.Keys) > 0 && !slices.Contains(signed, x.Name) && p.asked(a.Statement, x) == nil {
				names = append(names, x.Name)
			}
		}
		return nil
	})
	return names, err
}

// counted returns the people whose signatures count now: verified again,
// eligible now, each person once.
func (p people) counted(a Approval) []string {
	var names []string
	for _, s := range a.Signatures {
		sig, err := p.verify(a.Statement, s.Signature)
		if err != nil || p.eligible(a.Statement, s.Person, sig) != nil {
			continue
		}
		if !slices.ContainsFunc(names, func(n string) bool { return p.same(n, s.Person) }) {
			names = append(names, s.Person)
		}
	}
	return names
}
