package lease_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/ldap"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
)

// accountRig is a real application that signs people in by a real directory.
type accountRig struct {
	d      *leasetest.Directory
	e      *estate.Estate
	source *lease.AccountForm
	// refuse, if any, is asked in the place of the directory, and takes nobody.
	refuse func()
}

// newAccountRig: the directory is reached by a socket, the application by dial.
func newAccountRig(t *testing.T, socket func(d *leasetest.Directory) string, dial func(e *estate.Estate) string) *accountRig {
	r := &accountRig{d: leasetest.StartLDAP(t)}
	var err error
	r.e, err = estate.Serve(t.Context(), estate.Config{Directory: func(_ estate.Stage, _ estate.App, name, password string) bool {
		if r.refuse != nil {
			r.refuse()
			return false
		}
		dn := "uid=" + goldap.EscapeDN(name) + "," + leasetest.Tasks
		c, err := r.d.Bind(dn, password)
		if err != nil {
			return false
		}
		c.Close()
		return slices.Equal(r.d.Find("(&(objectClass=groupOfNames)(member="+goldap.EscapeFilter(dn)+"))"), []string{leasetest.Operators})
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.e.Close() })
	c := r.e.HTTPClient()
	c.Jar = nil
	tr := c.Transport.(*http.Transport).Clone()
	tr.DisableKeepAlives = true
	addr := dial(r.e)
	tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
	c.Transport = tr
	r.source = &lease.AccountForm{
		Accounts: ldap.New(ldap.Config{URL: r.d.URL(socket(r.d)), Admin: leasetest.Boundary, Base: leasetest.Tasks, Groups: []string{leasetest.Operators},
			Password: func(context.Context) ([]byte, error) { return []byte(leasetest.AdminPassword), nil }}),
		Form: lease.Form{Client: c, Recipe: lease.Recipe{Origin: r.e.URL(estate.Production, estate.IAM), LoginPath: "/login", UserField: "username", PasswordField: "password",
			CSRFField: "_csrf", LogoutPath: "/logout", ConfirmPath: "/api/users", ConfirmStatus: 401,
			SessionsPath: "/account/sessions", RevokePath: "/account/sessions/{id}/revoke"}}}
	return r
}

// works asks the application with the session.
func (r *accountRig) works(t *testing.T, secret []byte) error {
	session, _, err := lease.ParseAccount(secret)
	if err != nil {
		return err
	}
	cookies, err := lease.ParseCookies(session)
	if err != nil {
		return err
	}
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.source.Form.Recipe.Origin+"/api/users", nil)
	if err != nil {
		return err
	}
	for _, c := range cookies {
		q.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
	}
	c := r.e.HTTPClient()
	c.Jar = nil
	a, err := c.Do(q)
	if err != nil {
		return err
	}
	a.Body.Close()
	if a.StatusCode != http.StatusOK {
		return fmt.Errorf("the application answers %d", a.StatusCode)
	}
	return nil
}

// left are accounts, and sessions whose account is gone.
func (r *accountRig) left() (out []string) {
	for _, dn := range r.d.Find("(uid=sallyport-*)") {
		out = append(out, strings.TrimPrefix(strings.SplitN(dn, ",", 2)[0], "uid="))
	}
	slices.SortFunc(out, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	for _, ss := range r.e.Copy(estate.Production).State().Sessions {
		for _, s := range ss {
			if !slices.Contains(out, s.Account) {
				out = append(out, "a session of "+s.Account)
			}
		}
	}
	return out
}

// TestAccountForm: the suite that every source passes, over an account of a real
// directory and its session at a real application, with either of them cut off at
// every message.
//
// Threats: K4, K7, K9 (lease)
func TestAccountForm(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an LDAP server")
	}
	t.Run("directory_is_cut", func(t *testing.T) {
		socket := ""
		var w *leasetest.Wire
		r := newAccountRig(t, func(d *leasetest.Directory) string {
			socket = filepath.Join(filepath.Dir(d.Socket), "wire")
			l, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			w = leasetest.NewWire(t, l, "unix", d.Socket)
			return socket
		}, func(e *estate.Estate) string { return e.Addr(estate.Production) })
		r.run(t, w)
	})
	t.Run("application_is_cut", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var w *leasetest.Wire
		r := newAccountRig(t, func(d *leasetest.Directory) string { return d.Socket }, func(e *estate.Estate) string {
			w = leasetest.NewWire(t, l, "tcp", e.Addr(estate.Production))
			return l.Addr().String()
		})
		r.run(t, w)
	})
}

func (r *accountRig) run(t *testing.T, w *leasetest.Wire) {
	leasetest.Run(t, &leasetest.Peer{Source: r.source, Wire: w, Labels: r.left, Works: func(secret []byte) error { return r.works(t, secret) }})
}

// TestAccountEndsWithoutItsApplication: an application that is away keeps the lease
// in sight, and not the account alive.
func TestAccountEndsWithoutItsApplication(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an LDAP server")
	}
	r := newAccountRig(t, func(d *leasetest.Directory) string { return d.Socket }, func(e *estate.Estate) string { return e.Addr(estate.Production) })
	label := leasetest.Prefix + "l-away"
	secret, err := r.source.Issue(t.Context(), lease.Order{Label: label})
	if err != nil {
		t.Fatal(err)
	}
	cred := lease.Credential{Label: label, Secret: secret}
	online := r.source.Form.Client.Transport
	r.source.Form.Client.Transport = away{}
	if r.source.Revoke(t.Context(), cred) == nil || r.source.Confirm(t.Context(), cred) == nil {
		t.Error("an application that is away confirmed the end of its session")
	}
	if got := r.d.Find("(uid=sallyport-*)"); len(got) > 0 {
		t.Errorf("the account lives: %q", got)
	}
	r.source.Form.Client.Transport = online
	if err := errors.Join(r.source.Revoke(t.Context(), cred), r.source.Confirm(t.Context(), cred)); err != nil {
		t.Error(err)
	}
	if got := r.left(); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
	for _, bad := range []string{"", "{}", "[]", `{"account":{},"session":[]}`, `{"session":[]}`} {
		if json.Valid([]byte(bad)) && r.source.Revoke(t.Context(), lease.Credential{Label: label, Secret: []byte(bad)}) == nil {
			t.Errorf("credential %q was revoked", bad)
		}
	}
}

// TestApplicationRefusesTheAccount: an account that nobody can sign in with is not
// left, also when the directory goes away just then.
func TestApplicationRefusesTheAccount(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an LDAP server")
	}
	var w *leasetest.Wire
	r := newAccountRig(t, func(d *leasetest.Directory) string {
		socket := filepath.Join(filepath.Dir(d.Socket), "wire")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		w = leasetest.NewWire(t, l, "unix", d.Socket)
		return socket
	}, func(e *estate.Estate) string { return e.Addr(estate.Production) })
	log, n := gatetest.NewLog("acme"), 0
	k := lease.New(lease.Config{Log: log, Seal: leasetest.Plain{}, Prefix: leasetest.Prefix, IDs: func() string { n++; return fmt.Sprintf("l-%d", n) },
		Find: func(context.Context, lease.Lease) (lease.Source, error) { return r.source, nil }})
	for name, refuse := range map[string]func(){"refuses": func() {}, "refuses_and_directory_is_gone": func() { w.Down() }} {
		r.refuse = refuse
		_, _, err := k.Issue(t.Context(), lease.Request{Task: "t-1", Agent: "helper", Source: "s", Audience: "a", Until: time.Now().Add(time.Hour)})
		if err == nil || !strings.Contains(err.Error(), "refused with 401") {
			t.Errorf("%s: got %v", name, err)
		}
		down := w.Restore()
		if got := len(r.left()); got != 0 != down {
			t.Errorf("%s: left: %q", name, r.left())
		}
		r.refuse = nil
		if err := k.End(t.Context(), "t-1"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := r.left(); len(got) > 0 {
			t.Errorf("%s: left: %q", name, got)
		}
	}
}

type away struct{}

func (away) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("the application is away")
}
