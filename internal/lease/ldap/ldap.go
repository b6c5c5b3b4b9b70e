// Package ldap leases accounts of a directory (LDAPv3, RFC 4511): one for each
// task, made when the task starts and deleted when it ends.
//
// Invariants:
//   - Nothing is said to a directory in the clear: TLS from the first byte (ldaps),
//     StartTLS before anything else (ldap), or a Unix socket (ldapi).
//   - The directory is sent the salted hash of a random password, and sees the
//     password itself only where its holder signs in.
//   - Ended means: no entry has the account's name or its entryUUID, no group of its
//     naming context has it as a member, all read back; and a bind with its password
//     was refused. Without the password, as after a crash, the first two.
//   - Nothing is deleted but an entry directly under the declared base whose uid is
//     a label, and the entry that was made for the lease, wherever it was moved.
//   - Every value in a DN or a filter is escaped (RFC 4514, RFC 4515), and labels
//     have a form that needs none.
//
// Order of issuing: the entry, whole, in one operation; then its groups, one by one.
// A crash in between leaves an account that is found by its label and lacks groups.
// Order of ending: out of every group; the entry. A crash leaves less of the same.
//
// Not trusted: the directory's word that something is deleted. Not reached: a
// connection that is already bound as an account lives on, in most servers, and is
// in no group any more; replicas that lag; and an account cannot end by itself,
// since LDAP has no attribute for it that every server enforces.
package ldap

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"

	"github.com/sallyport-dev/sallyport/internal/lease"
)

// Config says where the directory is, who makes accounts, and what they can do.
type Config struct {
	// URL is ldaps://HOST[:PORT], ldap://HOST[:PORT] (StartTLS is used, always) or
	// ldapi:// and the path of a socket, percent-encoded.
	URL string
	// TLS names the server's roots; nil is the machine's.
	TLS *tls.Config
	// Admin is the DN that makes and deletes the accounts.
	Admin    string
	Password func(ctx context.Context) ([]byte, error)
	// Base is the entry under which accounts are made.
	Base string
	// Groups are the groupOfNames that each account is a member of. Each has
	// another member, since such a group is never empty (RFC 4519 section 3.5).
	Groups []string
	// Dial reaches the server; nil is the network.
	Dial Dial
}

// Source is a lease.Source. It holds nothing between calls.
type Source struct{ c Config }

var _ lease.Accounts = (*Source)(nil)

// New makes a source. It does not touch the network.
func New(c Config) *Source { return &Source{c} }

// credential is what is sealed.
type credential struct {
	UID      string `json:"uid"`
	DN       string `json:"dn"`
	UUID     string `json:"entryUUID"` // RFC 4530: it stays when the entry is renamed
	Password string `json:"password"`
}

// labels are the names that this package makes and deletes; see lease.Config.Prefix.
var labels = regexp.MustCompile(`^sallyport-[0-9a-z-]{8,53}$`)

// dn is where the account of a label is.
func (s *Source) dn(label string) (string, error) {
	if !labels.MatchString(label) {
		return "", errors.New("the account carries no label of ours")
	}
	return "uid=" + ldap.EscapeDN(label) + "," + s.c.Base, nil
}

// Issue makes an inetOrgPerson (RFC 2798) whose uid is the label, and puts it into
// the declared groups.
func (s *Source) Issue(ctx context.Context, o lease.Order) ([]byte, error) {
	dn, err := s.dn(o.Label)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", lease.ErrNotIssued, err)
	}
	about, err := text(fmt.Sprintf("Sallyport: task %s of agent %s, for %s, until %s", o.Task, o.Agent, o.Purpose, o.Expires.UTC().Format(time.RFC3339)))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", lease.ErrNotIssued, err)
	}
	c, err := s.admin(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", lease.ErrNotIssued, err)
	}
	defer c.Close()
	if err := s.ready(c); err != nil {
		return nil, fmt.Errorf("%w: %w", lease.ErrNotIssued, err)
	}
	out := credential{UID: o.Label, DN: dn, Password: rand.Text() + rand.Text()} // 256 bits
	add := ldap.NewAddRequest(dn, nil)
	add.Attribute("objectClass", []string{"inetOrgPerson"})
	for _, name := range []string{"uid", "cn", "sn"} {
		add.Attribute(name, []string{o.Label})
	}
	add.Attribute("description", []string{about})
	add.Attribute("userPassword", []string{hash(out.Password)})
	if err := c.Add(add); err != nil {
		// An operation is done whole or not at all, and a result is the server's own
		// word. Somebody else's entry of that name is looked for by the label.
		if refused(err) && !ldap.IsErrorWithCode(err, ldap.LDAPResultEntryAlreadyExists) {
			err = fmt.Errorf("%w: %w", lease.ErrNotIssued, err)
		}
		return nil, fmt.Errorf("add the account: %w", err)
	}
	there, err := read(c, dn)
	if err != nil {
		return nil, err
	}
	if there == nil {
		return nil, errors.New("the directory took the account and does not show it")
	}
	out.UUID = there.GetAttributeValue("entryUUID")
	for _, g := range s.c.Groups {
		if err := member(c, g, dn, true); err != nil {
			return nil, fmt.Errorf("add the account to %s: %w", g, err)
		}
	}
	return json.Marshal(out)
}

// ready refuses to make what could not be ended, or would lack a group.
func (s *Source) ready(c *conn) error {
	if _, err := s.contexts(c); err != nil {
		return err
	}
	for _, g := range s.c.Groups {
		there, err := read(c, g)
		if err != nil {
			return err
		}
		if there == nil {
			return fmt.Errorf("there is no group %s", g)
		}
	}
	return nil
}

// Reset gives the account of a label a new password, for who must sign in as it to
// end what it left. nil says that nobody ever could sign in with all of its groups,
// or that it is gone: it is the last thing that Issue makes whole, and the first
// thing that Revoke takes apart.
func (s *Source) Reset(ctx context.Context, label string) ([]byte, error) {
	dn, err := s.dn(label)
	if err != nil {
		return nil, err
	}
	c, err := s.admin(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	there, err := read(c, dn)
	if err != nil || there == nil {
		return nil, err
	}
	for _, g := range s.c.Groups {
		in, err := c.Search(search(g, ldap.ScopeBaseObject, filter("member", dn)))
		if err != nil || len(in.Entries) == 0 {
			return nil, err
		}
	}
	out := credential{UID: label, DN: dn, UUID: there.GetAttributeValue("entryUUID"), Password: rand.Text() + rand.Text()}
	m := ldap.NewModifyRequest(dn, nil)
	m.Replace("userPassword", []string{hash(out.Password)})
	if err := c.Modify(m); err != nil {
		return nil, fmt.Errorf("set a password: %w", err)
	}
	return json.Marshal(out)
}

// List says which accounts under the base carry the prefix.
func (s *Source) List(ctx context.Context, prefix string) ([]string, error) {
	c, err := s.admin(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	// In pages (RFC 2696): a directory answers so many entries at once.
	r, err := c.SearchWithPaging(search(s.c.Base, ldap.ScopeSingleLevel, "(uid="+ldap.EscapeFilter(prefix)+"*)"), pageSize)
	if err != nil {
		return nil, fmt.Errorf("list accounts: %w", err)
	}
	var out []string
	for _, e := range r.Entries {
		for _, uid := range e.GetAttributeValues("uid") {
			if strings.HasPrefix(uid, prefix) && labels.MatchString(uid) {
				out = append(out, uid)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// Account is the name and the password that an issued credential signs in with.
func (s *Source) Account(secret []byte) (name, password string, err error) { return Account(secret) }

// Account is Source.Account, which needs no source.
func Account(secret []byte) (name, password string, err error) {
	c, err := parse(secret)
	return c.UID, c.Password, err
}

func parse(secret []byte) (c credential, err error) {
	if err := json.Unmarshal(secret, &c); err != nil || c.DN == "" {
		return c, errors.New("not an account's credential")
	}
	return c, nil
}

// hash is userPassword in the one form that every directory reads. SHA-1 is no
// weakness here: a password of 256 random bits is guessed from no hash.
func hash(password string) string {
	salt := make([]byte, 16)
	rand.Read(salt)
	sum := sha1.Sum(append([]byte(password), salt...))
	return "{SSHA}" + base64.StdEncoding.EncodeToString(append(sum[:], salt...))
}

// text refuses what a Directory String cannot hold, or shows as something else.
func text(s string) (string, error) {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return "", errors.New("a text holds a control character or is not UTF-8")
	}
	return s, nil
}
