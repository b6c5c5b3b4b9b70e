package vault_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/internal/lease/rest"
	"github.com/sallyport-dev/sallyport/internal/lease/vault"
)

// rig is a server and the issuer that it believes.
type rig struct {
	*leasetest.Vault
	t      testing.TB
	issuer *leasetest.Issuer
}

func newRig(t testing.TB) *rig {
	i := leasetest.NewIssuer(t)
	return &rig{leasetest.StartVault(t, &leasetest.Trust{Issuer: i.URL, CA: i.CA()}), t, i}
}

// client is what the boundary asks with: a connection for each request.
func client(ca []byte) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "example.com"}, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (r *rig) source(origin string, edit ...func(*vault.Config)) *vault.Source {
	c := vault.Config{Client: rest.Client{Origin: origin, HTTP: client(r.CA())}, Mount: "jwt", Role: "desk", SweepRole: "sallyport", TTL: time.Minute, Kind: vault.Database, Path: "database/creds/desk",
		Task: func(_ context.Context, o lease.Order) (string, error) {
			return r.issuer.Token("spiffe://acme.example/agent/desk/task/"+o.Task, leasetest.Audience, o.Label+"."+rand.Text()), nil
		},
		Boundary: func(context.Context) (string, error) {
			return r.issuer.Token("spiffe://acme.example/boundary", leasetest.Audience, rand.Text()), nil
		}}
	for _, e := range edit {
		e(&c)
	}
	return vault.New(c)
}

func (r *rig) works(secret []byte) error {
	c, err := vault.Parse(secret)
	if err != nil {
		return err
	}
	return r.SignIn(c.Username, c.Password)
}

func order(id string) lease.Order {
	return lease.Order{Label: leasetest.Prefix + id, Task: "t-1", Agent: "desk", Purpose: "test", Expires: time.Now().Add(time.Minute)}
}

func (r *rig) issue(s *vault.Source, id string) lease.Credential {
	r.t.Helper()
	o := order(id)
	secret, err := s.Issue(r.t.Context(), o)
	if err != nil {
		r.t.Fatal(err)
	}
	return lease.Credential{Label: o.Label, Secret: secret}
}

func (r *rig) end(s *vault.Source, c lease.Credential) {
	r.t.Helper()
	if err := errors.Join(s.Revoke(r.t.Context(), c), s.Confirm(r.t.Context(), c)); err != nil {
		r.t.Error(err)
	}
	if got := r.Labels(); len(got) > 0 {
		r.t.Errorf("left: %q", got)
	}
}

// TestSource: the suite that every source passes, against the contract's server,
// which verifies the JWT-SVIDs by discovery. Between the two there is no TLS, which
// the other tests have: each message that can be cut is one of the protocol.
//
// Threats: K4, K7, K9 (lease)
func TestSource(t *testing.T) {
	r := newRig(t)
	plain := httptest.NewServer(r.Vault)
	defer plain.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := leasetest.NewWire(t, l, "tcp", plain.Listener.Addr().String())
	leasetest.Run(t, &leasetest.Peer{Source: r.source("http://" + l.Addr().String()), Wire: w, Labels: r.Labels, Works: r.works})
}

// TestKinds: a text and a certificate, from login to end. The text's token has
// ended before the text is used.
func TestKinds(t *testing.T) {
	r := newRig(t)
	kv := r.source(r.URL, func(c *vault.Config) { c.Kind, c.Path, c.Field = vault.KV, "secret/data/desk", "token" })
	c := r.issue(kv, "l-kv")
	if got, err := vault.Parse(c.Secret); err != nil || got.Value != "kept-in-the-vault" {
		t.Errorf("got %v", err)
	}
	if got := r.Labels(); len(got) > 0 {
		t.Errorf("the token is left: %q", got)
	}
	r.end(kv, c)
	pki := r.source(r.URL, func(c *vault.Config) { c.Kind, c.Path, c.CommonName = vault.PKI, "pki/issue/desk", "desk.example" })
	c = r.issue(pki, "l-pki")
	if err := pki.Confirm(t.Context(), c); err == nil {
		t.Error("it was confirmed while it lived")
	}
	if err := pki.Renew(t.Context(), c, time.Now().Add(time.Minute)); err != nil {
		t.Error(err)
	}
	r.end(pki, c)
}

// TestSaysRevokedAndIsNot: what a server says about its leases and does not do. Each
// of these answers has been taken for an end by somebody.
//
// Threats: K4 (lease)
func TestSaysRevokedAndIsNot(t *testing.T) {
	for name, lie := range map[string]func(*rig){
		"queued":      func(r *rig) { r.Lazy = true },
		"irrevocable": func(r *rig) { r.Stuck = true },
		"forced":      func(r *rig) { r.Forgets = true },
		"sealed": func(r *rig) {
			r.Answer = func(w http.ResponseWriter, _ *http.Request) bool {
				http.Error(w, `{"errors":["Vault is sealed"]}`, 503)
				return true
			}
		},
		"proxy_forbids": func(r *rig) {
			r.Answer = func(w http.ResponseWriter, q *http.Request) bool {
				hit := strings.HasSuffix(q.URL.Path, "lookup-self") || strings.HasSuffix(q.URL.Path, "lookup-accessor")
				if hit {
					http.Error(w, "<html>Forbidden", 403)
				}
				return hit
			}
		},
		"all_is_done": func(r *rig) {
			r.Answer = func(w http.ResponseWriter, q *http.Request) bool {
				hit := strings.Contains(q.URL.Path, "revoke")
				if hit {
					w.WriteHeader(204)
				}
				return hit
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			s := r.source(r.URL, func(c *vault.Config) {
				c.SignsIn = func(_ context.Context, name, password string) (bool, error) {
					return r.SignIn(name, password) == nil, nil
				}
			})
			c := r.issue(s, "l-lie")
			lie(r)
			if errors.Join(s.Revoke(t.Context(), c), s.Confirm(t.Context(), c)) == nil {
				t.Fatal("it was confirmed")
			}
			if err := r.works(c.Secret); err != nil && name != "proxy_forbids" {
				t.Fatalf("the case tests nothing: %v", err)
			}
		})
	}
}

// TestTornToken: a real server left such accessors behind when connections were cut
// while it revoked. Neither the sweep nor a confirmation stops at them, and who may
// not look them up confirms nothing.
//
// Threats: K4 (lease)
func TestTornToken(t *testing.T) {
	r := newRig(t)
	s := r.source(r.URL)
	c := r.issue(s, "l-torn")
	r.Tear()
	r.end(s, c)
	if got, err := s.List(t.Context(), leasetest.Prefix); err != nil || len(got) > 0 {
		t.Errorf("got %q %v", got, err)
	}
	forbid := "lookup-accessor"
	r.Answer = func(w http.ResponseWriter, q *http.Request) bool {
		hit := strings.HasSuffix(q.URL.Path, forbid)
		if hit {
			http.Error(w, `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`, 403)
		}
		return hit
	}
	if s.Confirm(t.Context(), c) == nil || s.Confirm(t.Context(), lease.Credential{Label: c.Label}) == nil {
		t.Error("who may not ask confirmed an end")
	}
}

// TestRolesThatCannotBeEnded: a role whose tokens could not be found or revoked, or
// end before they are renewed, gives none.
func TestRolesThatCannotBeEnded(t *testing.T) {
	for name, bad := range map[string]struct {
		set  func(*rig)
		want string
	}{
		"batch":    {func(r *rig) { r.Batch = true }, "batch"},
		"unmapped": {func(r *rig) { r.Unmapped = true }, "claim_mappings"},
		"short":    {func(r *rig) { r.Life = 10 }, "token_ttl"},
		"other_issuer": {func(r *rig) {
			other := leasetest.NewIssuer(r.t)
			r.issuer = other
		}, "error validating token"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			bad.set(r)
			if _, err := r.source(r.URL).Issue(t.Context(), order("l-bad")); err == nil || !strings.Contains(err.Error(), bad.want) {
				t.Errorf("got %v", err)
			}
			if got := r.Labels(); len(got) > 0 {
				t.Errorf("left: %q", got)
			}
		})
	}
	r := newRig(t)
	s := r.source(r.URL)
	c := r.issue(s, "l-max")
	r.Life = 30
	if err := s.Renew(t.Context(), c, time.Now().Add(time.Minute)); err == nil {
		t.Error("what the server capped was renewed")
	}
	r.end(s, c)
	for _, bad := range []string{"", "admin", "sallyport-*", "sallyport-00112233-../x"} {
		if _, err := s.Issue(t.Context(), lease.Order{Label: bad}); !errors.Is(err, lease.ErrNotIssued) {
			t.Errorf("label %q: %v", bad, err)
		}
	}
}

// TestTaskCannotEndOthers: what a task's token may not do, and whom the server
// takes for the boundary.
//
// Threats: K5 (lease)
func TestTaskCannotEndOthers(t *testing.T) {
	r := newRig(t)
	s := r.source(r.URL, func(c *vault.Config) {
		c.Boundary = func(context.Context) (string, error) {
			return r.issuer.Token("spiffe://acme.example/agent/desk/task/boundary", leasetest.Audience, "x"), nil
		}
	})
	c := r.issue(s, "l-other")
	if s.Revoke(t.Context(), c) == nil || s.Confirm(t.Context(), c) == nil {
		t.Error("a task ended a lease")
	}
	if err := r.works(c.Secret); err != nil {
		t.Error(err)
	}
	r.end(r.source(r.URL), c)
}

// A server that repeats what a login showed, or a token: errors are put on record.
func TestRefusalRepeatsNoSecret(t *testing.T) {
	r := newRig(t)
	for _, at := range []string{"login", "lookup-self"} {
		echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			body, _ := io.ReadAll(q.Body)
			if !strings.HasSuffix(q.URL.Path, at) {
				json.NewEncoder(w).Encode(map[string]any{"auth": map[string]any{"client_token": "hvs.the-token-of-a-task", "accessor": "a", "lease_duration": 60,
					"metadata": map[string]string{vault.Metadata: leasetest.Prefix + "l-1.x"}}})
				return
			}
			w.WriteHeader(http.StatusForbidden)
			json.NewEncoder(w).Encode(map[string]any{"errors": []string{"permission denied", "you sent " + q.Header.Get("X-Vault-Token") + string(body)}})
		}))
		_, err := r.source(echo.URL).Issue(t.Context(), lease.Order{Label: leasetest.Prefix + "l-1", Task: "t-1", Agent: "desk", Expires: time.Now().Add(time.Minute)})
		echo.Close()
		if err == nil || !strings.Contains(err.Error(), "permission denied") || strings.Contains(err.Error(), "you sent") {
			t.Errorf("%s: got %v", at, err)
		}
	}
}
