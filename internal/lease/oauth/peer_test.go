package oauth_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/internal/lease/oauth"
)

// always is an authority for which every task runs.
type always struct{}

func (always) Live(context.Context, string, string) ([]string, error) { return nil, nil }

// life of the peers' tokens.
const life = time.Minute

// provider is oidc-provider, and an issuer whose keys it knows.
type provider struct {
	*leasetest.OIDC
	ours   *identity.Issuer
	passed atomic.Int64 // seconds that both clocks are ahead
}

func (p *provider) ahead() time.Duration { return time.Duration(p.passed.Load()) * time.Second }
func (p *provider) now() time.Time       { return time.Now().Add(p.ahead()) }

// noRedirects is a client as the boundary has it, but that it keeps no connections.
func noRedirects() *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
}

// startIssuer is an issuer whose keys are below the server's /t/acme.
func startIssuer(t *testing.T, now func() time.Time) (*identity.Issuer, *httptest.Server) {
	t.Helper()
	mux := http.NewServeMux()
	srv := httptest.NewTLSServer(mux)
	t.Cleanup(srv.Close)
	ours, err := identity.Open(t.Context(), gatetest.NewLog("acme"), leasetest.Plain{}, always{}, identity.Config{TrustDomain: "acme.example", IssuerURL: srv.URL + "/t/acme", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ours.Close)
	mux.Handle("/t/acme/keys", ours.Keys())
	return ours, srv
}

func startProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{}
	var srv *httptest.Server
	p.ours, srv = startIssuer(t, p.now)
	p.OIDC = leasetest.StartOIDC(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}),
		"spiffe://acme.example/agent/helper", srv.URL+"/t/acme/keys", srv.URL+"/t/acme", life)
	return p
}

func (p *provider) config(t testing.TB) oauth.Config {
	t.Helper()
	server, err := oauth.NewServer(p.Issuer, noRedirects())
	if err != nil {
		t.Fatal(err)
	}
	c := identity.Client{Agent: "helper"}
	return oauth.Config{Server: server, Grant: oauth.ClientCredentials, ClientID: "spiffe://acme.example/agent/helper", Life: life, Now: p.now,
		Assertion: func(ctx context.Context, label, _ string) (string, error) {
			c.Lease = label
			a, err := p.ours.AssertClient(ctx, c, p.Issuer)
			return a.Reveal(), err
		}}
}

// ahead is a source whose clock runs ahead of the keeper's: what the keeper says of
// the past is as much later for it as its clock was ahead then.
type ahead struct {
	*oauth.Source
	passed func() time.Duration
	mu     sync.Mutex
	then   map[string]time.Duration
}

func (a *ahead) Issue(ctx context.Context, o lease.Order) ([]byte, error) {
	a.mu.Lock()
	a.then[o.Label] = a.passed()
	a.mu.Unlock()
	return a.Source.Issue(ctx, o)
}

func (a *ahead) Confirm(ctx context.Context, c lease.Credential) error {
	if !c.Asked.IsZero() {
		a.mu.Lock()
		c.Asked = c.Asked.Add(a.then[c.Label])
		a.mu.Unlock()
	}
	return a.Source.Confirm(ctx, c)
}

func (p *provider) peer(c oauth.Config) *leasetest.Peer {
	return &leasetest.Peer{Source: &ahead{Source: oauth.New(c), passed: p.ahead, then: map[string]time.Duration{}}, Wire: p.Wire,
		Works: func(secret []byte) error { return works(p.Active, secret) }, Labels: p.Labels,
		Pass: func() {
			p.passed.Add(int64((life + 2*time.Minute) / time.Second))
			p.Pass(life + 2*time.Minute)
		}}
}

func works(active func(string) bool, secret []byte) error {
	token, _, err := oauth.Token(secret)
	if err == nil && !active(token) {
		err = errors.New("not active")
	}
	return err
}

// The suite with oidc-provider, for each grant and each way to authenticate.
//
// Threats: K2, K4, K7, K23 (lease)
func TestSuiteOIDCProvider(t *testing.T) {
	p := startProvider(t)
	base := p.config(t)
	exchange := base
	exchange.Grant, exchange.Scope, exchange.Resource = oauth.TokenExchange, []string{"read"}, []string{leasetest.OIDCResource}
	var n atomic.Int64 // one task of the suite asks for more identities than any may
	exchange.Subject = func(ctx context.Context, task, agent string) (string, error) {
		svid, err := p.ours.IssueJWT(ctx, identity.Workload{Tenant: "acme", Agent: agent, Task: fmt.Sprintf("%s-%d", task, n.Add(1))}, p.Issuer)
		return svid.Reveal(), err
	}
	secret := base
	secret.Assertion, secret.ClientID, secret.Scope, secret.Resource = nil, leasetest.OIDCClient, []string{"read", "write"}, []string{leasetest.OIDCResource}
	secret.Secret = func(context.Context) ([]byte, error) { return bytes.Clone([]byte(leasetest.OIDCSecret)), nil }
	for name, c := range map[string]oauth.Config{"private_key_jwt": base, "token_exchange": exchange, "client_secret_basic": secret} {
		t.Run(name, func(t *testing.T) { leasetest.Run(t, p.peer(c)) })
	}
}

// The suite with Glewlwyd, whose tokens are JWTs, and whose endpoints take assertions
// that name them.
//
// Threats: K2, K4, K7, K23 (lease)
func TestSuiteGlewlwyd(t *testing.T) {
	g := leasetest.StartGlewlwyd(t, life)
	server, err := oauth.NewServer(g.Issuer, noRedirects())
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Check(t.Context(), time.Hour, false); err != nil {
		t.Error(err)
	}
	var passed atomic.Int64
	by := func() time.Duration { return time.Duration(passed.Load()) }
	c := oauth.Config{Server: server, Grant: oauth.ClientCredentials, ClientID: leasetest.GlewlwydClient, Scope: []string{"read"}, Life: life,
		Secret: func(context.Context) ([]byte, error) { return []byte(leasetest.GlewlwydSecret), nil },
		Now:    func() time.Time { return time.Now().Add(by()) }}
	ours, srv := startIssuer(t, time.Now)
	g.Asserts("helper-here", keysOf(t, srv))
	byKey := c
	byKey.ClientID, byKey.Secret = "helper-here", nil
	byKey.Assertion = func(ctx context.Context, label, endpoint string) (string, error) {
		a, err := ours.AssertClient(ctx, identity.Client{Agent: "helper", ID: "helper-here", Lease: label}, endpoint)
		return a.Reveal(), err
	}
	for name, c := range map[string]oauth.Config{"client_secret_basic": c, "private_key_jwt": byKey} {
		active := func(token string) bool { return g.Active(token, nil) }
		if c.Assertion != nil {
			active = func(token string) bool {
				return g.Active(token, func(endpoint string) (string, error) { return c.Assertion(context.Background(), "", endpoint) })
			}
		}
		t.Run(name, func(t *testing.T) {
			leasetest.Run(t, &leasetest.Peer{Source: &ahead{Source: oauth.New(c), passed: by, then: map[string]time.Duration{}}, Wire: g.Wire,
				Works: func(secret []byte) error { return works(active, secret) }, Labels: func() []string { return g.Labels(life) },
				Pass: func() {
					passed.Add(int64(life + 2*time.Minute))
					g.Pass(life + 2*time.Minute)
				}})
		})
	}
}

func keysOf(t *testing.T, srv *httptest.Server) []byte {
	t.Helper()
	resp, err := srv.Client().Get(srv.URL + "/t/acme/keys")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
