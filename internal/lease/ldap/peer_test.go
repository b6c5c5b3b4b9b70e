package ldap_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/ldap"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
)

func source(d *leasetest.Directory, edit ...func(*ldap.Config)) *ldap.Source {
	c := ldap.Config{URL: d.URL(d.Socket), Admin: leasetest.Boundary, Base: leasetest.Tasks, Groups: []string{leasetest.Operators},
		Password: func(context.Context) ([]byte, error) { return []byte(leasetest.AdminPassword), nil }}
	for _, e := range edit {
		e(&c)
	}
	return ldap.New(c)
}

// works signs in as an account and reads with its group.
func works(d *leasetest.Directory, s *ldap.Source, secret []byte) error {
	name, password, err := s.Account(secret)
	if err != nil {
		return err
	}
	c, err := d.Bind("uid="+name+","+leasetest.Tasks, password)
	if err != nil {
		return err
	}
	defer c.Close()
	if got := d.Find("(&(objectClass=groupOfNames)(member=uid=" + name + "," + leasetest.Tasks + "))"); !slices.Equal(got, []string{leasetest.Operators}) {
		return fmt.Errorf("it is a member of %q", got)
	}
	return nil
}

// left is what a directory holds of us: accounts by their label, and memberships.
func left(d *leasetest.Directory) (out []string) {
	for _, dn := range d.Find("(uid=sallyport-*)") {
		out = append(out, strings.TrimPrefix(strings.SplitN(dn, ",", 2)[0], "uid="))
	}
	slices.SortFunc(out, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	d.As(func(c *goldap.Conn) error {
		r, err := c.Search(goldap.NewSearchRequest(leasetest.Operators, goldap.ScopeBaseObject, goldap.NeverDerefAliases, 0, 10, false, "(objectClass=*)", []string{"member"}, nil))
		if err != nil {
			return err
		}
		for _, m := range r.Entries[0].GetAttributeValues("member") {
			name, _, _ := strings.Cut(strings.TrimPrefix(m, "uid="), ",")
			if strings.HasPrefix(name, "sallyport-") && !slices.Contains(out, name) {
				out = append(out, "a member that is no entry: "+name)
			}
		}
		return nil
	})
	return out
}

// TestSource: the suite that every source passes, against a real server and as an
// administrator who may change the tasks' accounts and the groups alone.
//
// Threats: K4, K7, K9 (lease)
func TestSource(t *testing.T) {
	d := leasetest.StartLDAP(t)
	socket := filepath.Join(filepath.Dir(d.Socket), "wire")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	w := leasetest.NewWire(t, l, "unix", d.Socket)
	s := source(d, func(c *ldap.Config) { c.URL = d.URL(socket) })
	leasetest.Run(t, &leasetest.Peer{Source: s, Wire: w, Labels: func() []string { return left(d) },
		Works: func(secret []byte) error { return works(d, s, secret) }})
}

func order(id string) lease.Order {
	return lease.Order{Label: leasetest.Prefix + id, Task: "t-1", Agent: "helper", Purpose: "p", Expires: time.Now().Add(time.Hour)}
}

func issue(t *testing.T, s *ldap.Source, id string) lease.Credential {
	t.Helper()
	secret, err := s.Issue(t.Context(), order(id))
	if err != nil {
		t.Fatal(err)
	}
	return lease.Credential{Label: leasetest.Prefix + id, Secret: secret}
}

// end revokes and wants it confirmed.
func end(t *testing.T, s *ldap.Source, c lease.Credential) {
	t.Helper()
	if err := errors.Join(s.Revoke(t.Context(), c), s.Confirm(t.Context(), c)); err != nil {
		t.Error(err)
	}
}

// TestConfirmSeesWhatIsLeft: an end that left something, or that was undone before
// it was confirmed, is not confirmed, and the next one ends it.
//
// Threats: K13 (lease)
func TestConfirmSeesWhatIsLeft(t *testing.T) {
	d := leasetest.StartLDAP(t)
	s := source(d)
	dn := "uid=" + leasetest.Prefix + "l-left," + leasetest.Tasks
	del := func(c *goldap.Conn) error { return c.Del(goldap.NewDelRequest(dn, nil)) }
	again := func() { d.Add(dn, "inetOrgPerson", "cn", "x", "sn", "x", "userPassword", "another") }
	rename := func(c *goldap.Conn) error {
		return c.ModifyDN(goldap.NewModifyDNRequest(dn, "uid=somebody", true, ""))
	}
	move := func(c *goldap.Conn) error {
		return c.ModifyDN(goldap.NewModifyDNRequest(dn, "uid="+leasetest.Prefix+"l-left", true, leasetest.Suffix))
	}
	for name, c := range map[string]struct {
		do    func()
		want  string
		stuck bool // the boundary may not end it: it stays in sight
	}{
		"nothing_was_done":           {func() {}, "is still there", false},
		"entry_gone_group_not":       {func() { d.As(del) }, "still a member", false},
		"made_again_with_same_name":  {func() { end(t, s, lease.Credential{Label: leasetest.Prefix + "l-left"}); again() }, "made again", false},
		"made_again_still_in_groups": {func() { d.As(del); again() }, "made again", false},
		"renamed":                    {func() { d.As(rename) }, "is still there", false},
		"moved_out_of_reach":         {func() { d.As(move) }, "is still there", true},
	} {
		t.Run(name, func(t *testing.T) {
			cred := issue(t, s, "l-left")
			c.do()
			if err := s.Confirm(t.Context(), cred); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if c.stuck {
				if errors.Join(s.Revoke(t.Context(), cred), s.Confirm(t.Context(), cred)) == nil {
					t.Error("what could not be ended was confirmed")
				}
				owner := source(d, func(c *ldap.Config) {
					c.Admin, c.Password = "cn=root,"+leasetest.Suffix, func(context.Context) ([]byte, error) { return []byte("root-password"), nil }
				})
				end(t, owner, cred)
			}
			end(t, s, cred)
			if got := left(d); len(got) > 0 {
				t.Errorf("left: %q", got)
			}
		})
	}
}

// TestPasswordThatIsStillTaken: nothing is listed, and the password works: who reads
// alone would confirm it.
func TestPasswordThatIsStillTaken(t *testing.T) {
	d := leasetest.StartLDAP(t)
	s := source(d)
	cred := issue(t, s, "l-taken")
	if err := s.Revoke(t.Context(), cred); err != nil {
		t.Fatal(err)
	}
	alice := lease.Credential{Label: cred.Label, Secret: []byte(`{"uid":"` + cred.Label + `","dn":"cn=alice,dc=test","entryUUID":"00000000-0000-0000-0000-000000000000","password":"alice-password"}`)}
	if err := s.Confirm(t.Context(), alice); err == nil || !strings.Contains(err.Error(), "still takes the password") {
		t.Errorf("got %v", err)
	}
}

// TestEscapedNamesCannotBreakOut: names that read as more than a name, in a DN or in
// a filter, stay names. What they aim at is alice and her membership.
//
// Threats: K5 (lease)
func TestEscapedNamesCannotBreakOut(t *testing.T) {
	d := leasetest.StartLDAP(t)
	for i, evil := range []string{`a,dc=test`, `"quoted"`, `*`, `*)(uid=*`, `)(objectClass=*))(|(a=b`, `#hash`, ` space `, `back\slash`, `a+b=c`, `<a>;b`, "日本 ü", `\2a`, "line\nfeed"} {
		ou, cn := "ou="+goldap.EscapeDN(evil)+","+leasetest.Tasks, "cn="+goldap.EscapeDN(evil)+",ou=groups,"+leasetest.Suffix
		d.Add(ou, "organizationalUnit")
		d.Add(cn, "groupOfNames", "member", "cn=alice,dc=test")
		s := source(d, func(c *ldap.Config) { c.Base, c.Groups = ou, []string{cn, leasetest.Operators} })
		id := fmt.Sprintf("l-evil-%d", i)
		secret, err := s.Issue(t.Context(), lease.Order{Label: leasetest.Prefix + id, Task: "t", Agent: "a", Purpose: strings.ReplaceAll(evil, "\n", "")})
		if err != nil {
			t.Errorf("%q: %v", evil, err)
			continue
		}
		bystander := issue(t, source(d), id+"-by")
		cred := lease.Credential{Label: leasetest.Prefix + id, Secret: secret}
		if got := d.Find("(uid=" + cred.Label + ")"); len(got) != 1 {
			t.Errorf("%q: made %q", evil, got)
		}
		if s.Confirm(t.Context(), cred) == nil {
			t.Errorf("%q: it was confirmed while it lived", evil)
		}
		if labels, err := s.List(t.Context(), leasetest.Prefix); err != nil || !slices.Equal(labels, []string{cred.Label}) {
			t.Errorf("%q: listed %q %v", evil, labels, err)
		}
		end(t, s, cred)
		if err := works(d, s, bystander.Secret); err != nil {
			t.Errorf("%q: another account: %v", evil, err)
		}
		end(t, source(d), bystander)
	}
	if got := d.Find("(&(objectClass=groupOfNames)(member=cn=alice,dc=test))"); len(got) != 14 {
		t.Errorf("alice is a member of %q", got)
	}
	s := source(d)
	for _, bad := range []string{"", "alice", "*", "sallyport-*", "sallyport-00112233-*)(uid=*", "sallyport-00112233-l,dc=test", "sallyport-00112233-\x00", "SALLYPORT-00112233-l-1", " sallyport-00112233-l", "#sallyport-00112233-l", "sallyport-00112233-ü"} {
		if _, err := s.Issue(t.Context(), lease.Order{Label: bad}); !errors.Is(err, lease.ErrNotIssued) {
			t.Errorf("label %q: %v", bad, err)
		}
		if s.Revoke(t.Context(), lease.Credential{Label: bad}) == nil || s.Confirm(t.Context(), lease.Credential{Label: bad}) == nil {
			t.Errorf("label %q was revoked", bad)
		}
	}
	for _, bad := range []string{"a\x00b", "a\nb", "\xff"} {
		o := order("l-bad")
		o.Purpose = bad
		if _, err := s.Issue(t.Context(), o); !errors.Is(err, lease.ErrNotIssued) {
			t.Errorf("purpose %q: %v", bad, err)
		}
	}
	if got := left(d); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
}

// TestNothingInTheClear: TLS from the first byte or by StartTLS, with the declared
// roots; and nothing else.
func TestNothingInTheClear(t *testing.T) {
	d := leasetest.StartLDAP(t)
	roots := func(c *ldap.Config) { c.TLS = &tls.Config{RootCAs: d.CA} }
	for name, url := range map[string]string{"ldaps": d.TLS, "starttls": d.LDAP} {
		s := source(d, roots, func(c *ldap.Config) { c.URL = url })
		cred := issue(t, s, "l-tls")
		if err := works(d, s, cred.Secret); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		end(t, s, cred)
		asked := false
		other := source(d, func(c *ldap.Config) {
			c.URL, c.Password = url, func(context.Context) ([]byte, error) { asked = true; return []byte(leasetest.AdminPassword), nil }
		})
		if _, err := other.Issue(t.Context(), order("l-tls")); !errors.Is(err, lease.ErrNotIssued) || !asked || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s with other roots: %v", name, err)
		}
	}
	for _, bad := range []string{"", "http://127.0.0.1", "127.0.0.1:389", "ldap://", "ldapi://", "ldapi:///var/run/ldapi", "ldapi://relative", "ldap://u:p@h", "ldaps://h/dc=test", "ldap://h?x", "cldap://h"} {
		if _, _, _, _, err := ldap.Endpoint(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	// A peer that does not speak TLS, or refuses StartTLS, hears no password.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 4096)
		n, _ := c.Read(buf)
		// ExtendedResponse of message 1: protocolError (RFC 4511 section 4.14.2).
		c.Write([]byte{0x30, 0x0c, 0x02, 0x01, 0x01, 0x78, 0x07, 0x0a, 0x01, 0x02, 0x04, 0x00, 0x04, 0x00})
		m, _ := c.Read(buf[n:])
		heard <- string(buf[:n+m])
	}()
	defer l.Close()
	s := source(d, roots, func(c *ldap.Config) { c.URL = "ldap://" + l.Addr().String() })
	if _, err := s.Issue(t.Context(), order("l-clear")); !errors.Is(err, lease.ErrNotIssued) {
		t.Errorf("got %v", err)
	}
	if got := <-heard; strings.Contains(got, leasetest.AdminPassword) || strings.Contains(got, "boundary") || got == "" {
		t.Errorf("it heard %q", got)
	}
}

// TestAccountIsTight: what a task's account may not do for itself, and what a
// directory shows of its password.
func TestAccountIsTight(t *testing.T) {
	d := leasetest.StartLDAP(t)
	s := source(d)
	cred := issue(t, s, "l-tight")
	name, password, err := s.Account(cred.Secret)
	if err != nil {
		t.Fatal(err)
	}
	d.As(func(c *goldap.Conn) error {
		r, err := c.Search(goldap.NewSearchRequest("uid="+name+","+leasetest.Tasks, goldap.ScopeBaseObject, 0, 0, 10, false, "(objectClass=*)", nil, nil))
		if err == nil {
			if got := r.Entries[0].GetAttributeValue("userPassword"); !strings.HasPrefix(got, "{SSHA}") || strings.Contains(got, password) {
				t.Errorf("the directory keeps %q", got)
			}
		}
		return err
	})
	// A declared group that takes no members, and what was made goes.
	bad := source(d, func(c *ldap.Config) { c.Groups = []string{leasetest.Operators, "cn=alice,dc=test"} })
	if _, err := bad.Issue(t.Context(), order("l-none")); err == nil || errors.Is(err, lease.ErrNotIssued) {
		t.Errorf("got %v, want an error that leaves open what exists", err)
	}
	end(t, bad, lease.Credential{Label: leasetest.Prefix + "l-none"})
	// What could not be ended is not made.
	for _, edit := range []func(*ldap.Config){
		func(c *ldap.Config) { c.Base = "ou=tasks,dc=elsewhere" }, func(c *ldap.Config) { c.Base = "no DN" }, func(c *ldap.Config) { c.Base = "" },
		func(c *ldap.Config) { c.Base = "ou=none,dc=test" }, func(c *ldap.Config) { c.Groups = []string{"cn=none,ou=groups,dc=test"} },
		func(c *ldap.Config) { c.Groups = []string{"cn=g,dc=elsewhere"} }, func(c *ldap.Config) { c.Groups = []string{"cn=\\"} },
		func(c *ldap.Config) { c.Password = func(context.Context) ([]byte, error) { return nil, nil } },
		func(c *ldap.Config) { c.Admin = "cn=alice,dc=test" },
	} {
		if _, err := source(d, edit).Issue(t.Context(), order("l-none")); !errors.Is(err, lease.ErrNotIssued) {
			t.Errorf("got %v", err)
		}
	}
	blind := source(d, func(c *ldap.Config) { c.Base = "ou=none,dc=test" })
	if blind.Revoke(t.Context(), lease.Credential{Label: cred.Label}) == nil || blind.Confirm(t.Context(), lease.Credential{Label: cred.Label}) == nil {
		t.Error("an end was confirmed by who cannot look")
	}
	if got := left(d); !slices.Equal(got, []string{cred.Label}) {
		t.Errorf("left: %q", got)
	}
	end(t, s, cred)
}
