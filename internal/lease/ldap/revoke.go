package ldap

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/go-ldap/ldap/v3"

	"github.com/sallyport-dev/sallyport/internal/lease"
)

// found is what a directory holds of one credential.
type found struct {
	accounts []string // ours, to be deleted
	others   []string // carry the label or the entryUUID elsewhere
	groups   [][2]string
}

// find looks through the naming contexts of the base and of the groups. Who is
// asked, Admin, has to be able to read them.
func (s *Source) find(c *conn, cred lease.Credential) (found, error) {
	var f found
	dn, err := s.dn(cred.Label)
	if err != nil {
		return f, err
	}
	uuid := ""
	if cred.Secret != nil {
		made, err := parse(cred.Secret)
		if err != nil {
			return f, err
		}
		uuid = made.UUID
	}
	contexts, err := s.contexts(c)
	if err != nil {
		return f, err
	}
	// Apart from any index: the name itself.
	there, err := read(c, dn)
	if err != nil {
		return f, err
	}
	names := []string{dn}
	if there != nil {
		f.accounts = append(f.accounts, there.DN)
	}
	want := filter("uid", cred.Label)
	if uuid != "" {
		want = "(|" + want + filter("entryUUID", uuid) + ")"
	}
	for _, at := range contexts {
		r, err := c.Search(search(at, ldap.ScopeWholeSubtree, want))
		if err != nil {
			return f, fmt.Errorf("look for the account in %s: %w", at, err)
		}
		for _, e := range r.Entries {
			switch {
			case there != nil && e.DN == there.DN:
			case uuid != "" && e.GetAttributeValue("entryUUID") == uuid: // it was renamed or moved
				f.accounts, names = append(f.accounts, e.DN), append(names, e.DN)
			default:
				f.others = append(f.others, e.DN)
			}
		}
	}
	for _, at := range contexts {
		for _, name := range names {
			r, err := c.Search(search(at, ldap.ScopeWholeSubtree, "(|"+filter("member", name)+filter("uniqueMember", name)+filter("memberUid", cred.Label)+")"))
			if err != nil {
				return f, fmt.Errorf("look for groups in %s: %w", at, err)
			}
			for _, e := range r.Entries {
				f.groups = append(f.groups, [2]string{e.DN, name})
			}
		}
	}
	return f, nil
}

// contexts are the naming contexts (RFC 4512 section 5.1) that hold the base and
// the groups. A base that Admin cannot read would look empty, whatever is in it.
func (s *Source) contexts(c *conn) ([]string, error) {
	base, err := read(c, s.c.Base)
	if err != nil {
		return nil, err
	}
	if base == nil {
		return nil, fmt.Errorf("there is no entry %q, or %s may not read it", s.c.Base, s.c.Admin)
	}
	root := search("", ldap.ScopeBaseObject, "(objectClass=*)")
	root.Attributes = []string{"namingContexts"}
	r, err := c.Search(root)
	if err != nil {
		return nil, fmt.Errorf("read which naming contexts the directory has: %w", err)
	}
	if len(r.Entries) != 1 {
		return nil, errors.New("the directory does not say which naming contexts it has")
	}
	all := r.Entries[0].GetAttributeValues("namingContexts")
	var out []string
	for _, name := range append([]string{s.c.Base}, s.c.Groups...) {
		dn, err := ldap.ParseDN(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		i := slices.IndexFunc(all, func(at string) bool {
			suffix, err := ldap.ParseDN(at)
			return err == nil && (suffix.AncestorOfFold(dn) || suffix.EqualFold(dn))
		})
		if i < 0 {
			return nil, fmt.Errorf("no naming context of the directory holds %s", name)
		}
		if !slices.Contains(out, all[i]) {
			out = append(out, all[i])
		}
	}
	return out, nil
}

// Revoke takes the account out of every group and deletes it. A group that keeps
// it, as one must of which it is the last member, does not keep it alive.
func (s *Source) Revoke(ctx context.Context, cred lease.Credential) error {
	c, err := s.admin(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	f, err := s.find(c, cred)
	if err != nil {
		return err
	}
	var errs []error
	for _, g := range f.groups {
		if err := out(c, g[0], g[1], cred.Label); err != nil {
			errs = append(errs, fmt.Errorf("take the account out of %s: %w", g[0], err))
		}
	}
	own, err := s.dn(cred.Label)
	if err != nil {
		return err
	}
	if !slices.Contains(f.accounts, own) { // unread is not gone
		f.accounts = append(f.accounts, own)
	}
	for _, dn := range f.accounts {
		err := c.Del(ldap.NewDelRequest(dn, nil))
		if err != nil && !ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) {
			errs = append(errs, fmt.Errorf("delete %s: %w", dn, err))
		}
	}
	return errors.Join(errs...)
}

// out takes an account out of a group that somebody may have put it into by
// another attribute than Issue does.
func out(c *conn, group, dn, uid string) error {
	for attribute, value := range map[string]string{"member": dn, "uniqueMember": dn, "memberUid": uid} {
		r, err := c.Search(search(group, ldap.ScopeBaseObject, filter(attribute, value)))
		if err != nil {
			return err
		}
		if len(r.Entries) == 0 {
			continue
		}
		m := ldap.NewModifyRequest(group, nil)
		m.Delete(attribute, []string{value})
		if err := c.Modify(m); err != nil && !ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchAttribute) {
			return err
		}
	}
	return nil
}

// Confirm reads back that nothing of the account is left, and that its password is
// refused.
func (s *Source) Confirm(ctx context.Context, cred lease.Credential) error {
	c, err := s.admin(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	f, err := s.find(c, cred)
	if err != nil {
		return err
	}
	switch {
	case len(f.accounts) > 0:
		return s.stays(c, f.accounts[0], cred)
	case len(f.others) > 0:
		return fmt.Errorf("another entry carries the label: %s: look who made it, and delete it", f.others[0])
	case len(f.groups) > 0:
		return fmt.Errorf("the account is still a member of %s", f.groups[0][0])
	case cred.Secret == nil:
		return nil
	}
	return s.refuses(ctx, cred.Secret)
}

// stays says which entry it is that is still there.
func (s *Source) stays(c *conn, dn string, cred lease.Credential) error {
	e, err := read(c, dn)
	if err != nil {
		return err
	}
	if made, err := parse(cred.Secret); err == nil && e != nil && made.UUID != "" && e.GetAttributeValue("entryUUID") != made.UUID {
		return fmt.Errorf("%s was made again by somebody else", dn)
	}
	return fmt.Errorf("the account is still there: %s", dn)
}

// refuses binds with the credential on a connection of its own and wants to be
// refused: by the one result that says so, or by those servers that say that there
// is no such entry.
func (s *Source) refuses(ctx context.Context, secret []byte) error {
	made, err := parse(secret)
	if err != nil {
		return err
	}
	c, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	err = c.Bind(made.DN, made.Password)
	switch {
	case err == nil:
		return errors.New("the directory still takes the password")
	case ldap.IsErrorWithCode(err, ldap.LDAPResultInvalidCredentials), ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject):
		return nil
	}
	return fmt.Errorf("a bind with the password was not refused: %w", err)
}
