package approval

import (
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/internal/record"
)

// Person is someone who may approve, as the directory knows them now.
type Person struct {
	Name  string
	Roles []string
	// Keys are lines in the form of authorized_keys. A line that cannot be read
	// is no key.
	Keys []string
	// Accounts are the other names by which this person signs in (local user,
	// OIDC subject). Two people who share one are taken for the same person.
	Accounts []string
}

// Directory is the tenant's people. It reads from the transaction it is given
// and from nothing else, so that a person or key removed before the commit is
// removed for the commit.
type Directory interface {
	People(record.Tx) ([]Person, error)
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

// holders returns the names of the people to whom the key is registered, and
// whether the registration asks for user verification.
func (p people) holders(k ssh.PublicKey) (names []string, verify bool) {
	want := k.Marshal()
	for _, q := range p {
		for _, line := range q.Keys {
			key, v, err := parseKey(line)
			if err == nil && string(key.Marshal()) == string(want) {
				if !slices.Contains(names, q.Name) {
					names = append(names, q.Name)
				}
				verify = verify || v
			}
		}
	}
	return names, verify
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
func (p people) eligible(s Statement, name string, sig Signature) error {
	person, ok := p.named(name)
	if !ok {
		return refuse("unknown_person", "no such person is known")
	}
	names, verify := p.holders(sig.Key)
	if len(names) > 1 {
		return refuse("key_shared", "the key is registered to more than one person, so it counts for none")
	}
	if len(names) == 0 || names[0] != name {
		return refuse("key_not_theirs", "the key is not registered to this person now")
	}
	for _, x := range s.Excluded {
		if p.same(x, name) {
			return refuse("excluded", "this person asked for it, wrote it or owns it, and cannot approve it")
		}
	}
	if !slices.Contains(person.Roles, s.Role) {
		return refuse("role_missing", "this person does not have the role that must approve")
	}
	if (s.UserVerification || verify) && !sig.Verified {
		return refuse("user_verification", "a hardware key that verifies its user is required")
	}
	return nil
}
