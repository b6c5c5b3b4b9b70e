package vault_test

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/internal/lease/postgres"
	"github.com/sallyport-dev/sallyport/internal/lease/rest"
	"github.com/sallyport-dev/sallyport/internal/lease/vault"
)

// live is a real server, with mounts and roles of this test alone.
type live struct {
	t      *testing.T
	issuer *leasetest.Issuer
	admin  rest.Client
	token  string
	name   string // of every mount, role and policy, as a prefix
	host   string // its name, for TLS
	roots  *x509.CertPool
}

// TestLive asks a real OpenBao or Vault server what the contract's server is asked:
// the whole suite with certificates, then a text, then an account of a database.
//
//	OPENBAO_ADDR      https://HOST:PORT; without it there is no such test
//	OPENBAO_TOKEN     may make mounts, policies and roles
//	OPENBAO_CACERT    a file with its roots, if they are not the machine's
//	OPENBAO_POSTGRES  HOST:PORT/DATABASE/ROLE/PASSWORD of a database without TLS, as the server
//	                  reaches it; without it accounts are not tested
//
// The server needs no way back to here: it is given the issuer's key.
func TestLive(t *testing.T) {
	addr := os.Getenv("OPENBAO_ADDR")
	if addr == "" {
		t.Skip("no real OpenBao or Vault server: OPENBAO_ADDR names none")
	}
	u, err := url.Parse(addr)
	if err != nil {
		t.Fatal(err)
	}
	x := &live{t: t, issuer: leasetest.NewIssuer(t), token: os.Getenv("OPENBAO_TOKEN"), name: "sallyport-test-" + strings.ToLower(rand.Text()[:8]), host: u.Hostname()}
	if file := os.Getenv("OPENBAO_CACERT"); file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		x.roots = x509.NewCertPool()
		x.roots.AppendCertsFromPEM(b)
	}
	x.admin = rest.Client{Origin: addr, HTTP: x.client(false)}
	x.setUp()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	wire := leasetest.NewWire(t, l, "tcp", u.Host)
	t.Run("certificates", func(t *testing.T) {
		s := x.source("https://"+l.Addr().String(), func(c *vault.Config) {
			c.Kind, c.Path, c.CommonName = vault.PKI, x.name+"-pki/issue/desk", "desk.example"
		})
		leasetest.Run(t, &leasetest.Peer{Source: s, Wire: wire, Labels: x.labels, Works: x.works})
	})
	t.Run("text", func(t *testing.T) {
		s := x.source(addr, func(c *vault.Config) { c.Kind, c.Path, c.Field = vault.KV, x.name+"-kv/data/desk", "token" })
		o := order("l-kv")
		secret, err := s.Issue(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := vault.Parse(secret); err != nil || c.Value != "kept-in-the-vault" {
			t.Errorf("got %v", err)
		}
		c := lease.Credential{Label: o.Label, Secret: secret}
		if err := errors.Join(s.Revoke(t.Context(), c), s.Confirm(t.Context(), c)); err != nil {
			t.Error(err)
		}
	})
	if at := strings.Split(os.Getenv("OPENBAO_POSTGRES"), "/"); len(at) == 4 {
		t.Run("account", func(t *testing.T) { x.account(t, addr, at) })
	}
	if got := x.labels(); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
}

func (x *live) account(t *testing.T, addr string, at []string) {
	host, port, err := net.SplitHostPort(at[0])
	if err != nil {
		t.Fatal(err)
	}
	n := uint16(0)
	fmt.Sscan(port, &n)
	db := postgres.New(postgres.Config{Host: host, Port: n, Database: at[1]})
	defer db.Close()
	x.bao("POST", "sys/mounts/"+x.name+"-db", map[string]any{"type": "database"}, nil)
	x.bao("POST", x.name+"-db/config/pg", map[string]any{"plugin_name": "postgresql-database-plugin", "allowed_roles": "desk", "username": at[2], "password": at[3],
		"connection_url": "postgresql://{{username}}:{{password}}@" + at[0] + "/" + at[1] + "?sslmode=disable"}, nil)
	x.bao("POST", x.name+"-db/roles/desk", map[string]any{"db_name": "pg", "default_ttl": "5m", "max_ttl": "10m",
		"creation_statements": `CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';`}, nil)
	tries := func(ctx context.Context, username, password string) (bool, error) {
		secret, err := postgres.Password(username, password)
		if err != nil {
			return false, err
		}
		return db.SignsIn(ctx, secret)
	}
	s := x.source(addr, func(c *vault.Config) { c.Kind, c.Path, c.SignsIn = vault.Database, x.name+"-db/creds/desk", tries })
	o := order("l-db")
	secret, err := s.Issue(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	c := lease.Credential{Label: o.Label, Secret: secret}
	if err := s.Renew(t.Context(), c, time.Now().Add(2*time.Minute)); err != nil {
		t.Error(err)
	}
	if s.Confirm(t.Context(), c) == nil {
		t.Error("it was confirmed while it lived")
	}
	if err := errors.Join(s.Revoke(t.Context(), c), s.Confirm(t.Context(), c)); err != nil {
		t.Error(err)
	}
	got, err := vault.Parse(secret)
	if err != nil {
		t.Fatal(err)
	}
	if taken, err := tries(t.Context(), got.Username, got.Password); taken || err != nil {
		t.Errorf("the database takes it: %v %v", taken, err)
	}
}

func (x *live) client(fresh bool) *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: x.roots, ServerName: x.host}, DisableKeepAlives: fresh}}
}

func (x *live) source(origin string, edit func(*vault.Config)) *vault.Source {
	c := vault.Config{Client: rest.Client{Origin: origin, HTTP: x.client(true)}, Mount: x.name, Role: "desk", SweepRole: "sallyport", TTL: time.Minute,
		Task: func(_ context.Context, o lease.Order) (string, error) {
			return x.issuer.Token("spiffe://acme.example/agent/desk/task/"+o.Task, leasetest.Audience, o.Label+"."+rand.Text()), nil
		},
		Boundary: func(context.Context) (string, error) {
			return x.issuer.Token("spiffe://acme.example/boundary", leasetest.Audience, rand.Text()), nil
		}}
	edit(&c)
	return vault.New(c)
}

// bao asks as administrator.
func (x *live) bao(method, path string, in, out any) {
	x.t.Helper()
	err := x.admin.Do(context.Background(), method, "/v1/"+path, http.Header{"X-Vault-Token": {x.token}}, in, out, func(b []byte) []string { return []string{string(b)} })
	if err != nil {
		x.t.Fatalf("%s %s: %v", method, path, err)
	}
}

func (x *live) setUp() {
	n := x.name
	x.t.Cleanup(func() {
		for _, p := range []string{"sys/auth/" + n, "sys/mounts/" + n + "-kv", "sys/mounts/" + n + "-pki", "sys/mounts/" + n + "-db", "sys/policies/acl/" + n + "-desk", "sys/policies/acl/" + n + "-sallyport"} {
			x.bao("DELETE", p, nil, nil)
		}
	})
	x.bao("POST", "sys/auth/"+n, map[string]any{"type": "jwt"}, nil)
	x.bao("POST", "auth/"+n+"/config", map[string]any{"jwt_validation_pubkeys": []string{x.issuer.PublicKey()}, "bound_issuer": x.issuer.URL}, nil)
	x.bao("POST", "sys/policies/acl/"+n+"-desk", map[string]any{"policy": fmt.Sprintf(`path "%s-kv/data/desk" { capabilities = ["read"] }
path "%[1]s-pki/issue/desk" { capabilities = ["update"] }
path "%[1]s-db/creds/desk" { capabilities = ["read"] }`, n)}, nil)
	x.bao("POST", "sys/policies/acl/"+n+"-sallyport", map[string]any{"policy": fmt.Sprintf(`path "sys/leases/revoke" { capabilities = ["update"] }
path "sys/leases/lookup" { capabilities = ["update"] }
path "auth/token/lookup-accessor" { capabilities = ["update"] }
path "auth/token/revoke-accessor" { capabilities = ["update"] }
path "auth/token/accessors" { capabilities = ["list", "sudo"] }
path "auth/token/accessors/" { capabilities = ["list", "sudo"] }
path "%s-pki/revoke" { capabilities = ["update"] }`, n)}, nil)
	x.bao("POST", "auth/"+n+"/role/desk", map[string]any{"role_type": "jwt", "user_claim": "sub", "bound_audiences": leasetest.Audience, "bound_claims_type": "glob",
		"bound_claims": map[string]any{"sub": "spiffe://acme.example/agent/desk/task/*"}, "claim_mappings": map[string]any{"jti": vault.Metadata}, "token_policies": n + "-desk", "token_ttl": "5m"}, nil)
	x.bao("POST", "auth/"+n+"/role/sallyport", map[string]any{"role_type": "jwt", "user_claim": "sub", "bound_audiences": leasetest.Audience,
		"bound_subject": "spiffe://acme.example/boundary", "token_policies": n + "-sallyport", "token_ttl": "1m"}, nil)
	x.bao("POST", "sys/mounts/"+n+"-kv", map[string]any{"type": "kv", "options": map[string]any{"version": "2"}}, nil)
	// A new KV mount upgrades itself for a moment.
	for range 100 {
		err := x.admin.Do(x.t.Context(), "POST", "/v1/"+n+"-kv/data/desk", http.Header{"X-Vault-Token": {x.token}}, map[string]any{"data": map[string]any{"token": "kept-in-the-vault"}}, nil, func([]byte) []string { return nil })
		if err == nil {
			break
		}
	}
	x.bao("POST", "sys/mounts/"+n+"-pki", map[string]any{"type": "pki"}, nil)
	x.bao("POST", n+"-pki/root/generate/internal", map[string]any{"common_name": "test", "ttl": "24h"}, nil)
	x.bao("POST", n+"-pki/roles/desk", map[string]any{"allow_any_name": true, "max_ttl": "2h", "generate_lease": true, "key_type": "ec", "key_bits": 256}, nil)
}

// labels are those of tokens, as the administrator sees them.
func (x *live) labels() (out []string) {
	var all struct{ Data struct{ Keys []string } }
	x.bao("LIST", "auth/token/accessors", nil, &all)
	for _, a := range all.Data.Keys {
		var t struct {
			Data struct{ Meta map[string]string }
		}
		err := x.admin.Do(context.Background(), "POST", "/v1/auth/token/lookup-accessor", http.Header{"X-Vault-Token": {x.token}}, map[string]any{"accessor": a}, &t, func([]byte) []string { return nil })
		if label, _, _ := strings.Cut(t.Data.Meta[vault.Metadata], "."); err == nil && strings.HasPrefix(label, leasetest.Prefix) {
			out = append(out, label)
		}
	}
	slices.SortFunc(out, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	return out
}

// works: the token is taken, and the certificate is not revoked.
func (x *live) works(secret []byte) error {
	c, err := vault.Parse(secret)
	if err != nil {
		return err
	}
	none := func(b []byte) []string { return []string{string(b)} }
	if err := x.admin.Do(context.Background(), "GET", "/v1/auth/token/lookup-self", http.Header{"X-Vault-Token": {c.Token}}, nil, nil, none); err != nil {
		return err
	}
	var cert struct {
		Data struct {
			Time json.Number `json:"revocation_time"`
		}
	}
	x.bao("GET", x.name+"-pki/cert/"+c.Serial, nil, &cert)
	if cert.Data.Time != "0" {
		return errors.New("the certificate is revoked")
	}
	return nil
}
