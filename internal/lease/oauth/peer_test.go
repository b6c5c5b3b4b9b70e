package oauth_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
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

func (always) Live(context.Context, string, string) error { return nil }

// life of the peers' tokens.
const life = time.Minute

// provider is oidc-provider, and an issuer whose keys it knows.
type provider struct {
	issuer string // of oidc-provider, through the wire
	direct string // past it
	ours   *identity.Issuer
	wire   *leasetest.Wire
	passed atomic.Int64 // seconds that both clocks are ahead
	client *http.Client
}

func (p *provider) now() time.Time {
	return time.Now().Add(time.Duration(p.passed.Load()) * time.Second)
}

func startProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
	mux := http.NewServeMux()
	srv := httptest.NewTLSServer(mux)
	t.Cleanup(srv.Close)
	var err error
	p.ours, err = identity.Open(t.Context(), gatetest.NewLog("acme"), leasetest.Plain{}, always{}, identity.Config{TrustDomain: "acme.example", IssuerURL: srv.URL + "/t/acme", Now: p.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.ours.Close)
	mux.Handle("/t/acme/keys", p.ours.Keys())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.issuer = "http://" + l.Addr().String()
	addr := leasetest.StartNode(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}),
		"oauth.mjs", p.issuer, "spiffe://acme.example/agent/helper", srv.URL+"/t/acme/keys", srv.URL+"/t/acme", fmt.Sprint(int(life/time.Second)))
	p.direct = "http://" + addr
	p.wire = leasetest.NewWire(t, l, "tcp", addr)
	return p
}

// get asks the peer apart from the source.
func (p *provider) get(t testing.TB, path string, out any) {
	t.Helper()
	resp, err := p.client.Get(p.direct + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		t.Fatal(err)
	}
}

// active asks as the application would, which is another client.
func (p *provider) active(t testing.TB, token string) bool {
	t.Helper()
	r, _ := http.NewRequest("POST", p.direct+"/token/introspection", strings.NewReader(url.Values{"token": {token}}.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth("rs", "rs-secret")
	resp, err := p.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var says struct {
		Active bool `json:"active"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&says); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp.Status, err)
	}
	return says.Active
}

func (p *provider) config(t testing.TB) oauth.Config {
	t.Helper()
	server, err := oauth.NewServer(p.issuer, p.client)
	if err != nil {
		t.Fatal(err)
	}
	c := identity.Client{Agent: "helper"}
	return oauth.Config{Server: server, Grant: oauth.ClientCredentials, ClientID: "spiffe://acme.example/agent/helper", Life: life, Now: p.now,
		Assertion: func(ctx context.Context, label string) (string, error) {
			c.Lease = label
			a, err := p.ours.AssertClient(ctx, c, p.issuer)
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

func (p *provider) peer(t testing.TB, c oauth.Config) *leasetest.Peer {
	return &leasetest.Peer{Source: &ahead{Source: oauth.New(c), passed: func() time.Duration { return time.Duration(p.passed.Load()) * time.Second }, then: map[string]time.Duration{}}, Wire: p.wire,
		Works: func(secret []byte) error {
			token, _, err := oauth.Token(secret)
			if err == nil && !p.active(t, token) {
				err = fmt.Errorf("not active")
			}
			return err
		},
		Labels: func() []string {
			var agents []string
			p.get(t, "/test/labels", &agents)
			return labelsOf(agents)
		},
		Pass: func() {
			n := int64((life + 2*time.Minute) / time.Second)
			p.passed.Add(n)
			p.get(t, fmt.Sprintf("/test/pass?seconds=%d", n), new(struct{}))
		}}
}

// labelsOf are the labels in user agents.
func labelsOf(agents []string) []string {
	out := []string{}
	for _, a := range agents {
		a, _ = strings.CutPrefix(a, "sallyport (")
		out = append(out, strings.TrimSuffix(a, ")"))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// The suite with oidc-provider, for each grant and each way to authenticate.
//
// Threats: K2, K4, K7, K23 (lease)
func TestSuiteOIDCProvider(t *testing.T) {
	p := startProvider(t)
	base := p.config(t)
	exchange := base
	exchange.Grant, exchange.Scope, exchange.Resource = oauth.TokenExchange, []string{"read"}, []string{"https://api.example"}
	var n atomic.Int64 // one task of the suite asks for more identities than any may
	exchange.Subject = func(ctx context.Context, task, agent string) (string, error) {
		svid, err := p.ours.IssueJWT(ctx, identity.Workload{Tenant: "acme", Agent: agent, Task: fmt.Sprintf("%s-%d", task, n.Add(1))}, p.issuer)
		return svid.Reveal(), err
	}
	secret := base
	secret.Assertion, secret.ClientID, secret.Scope, secret.Resource = nil, "basic client", []string{"read", "write"}, []string{"https://api.example"}
	secret.Secret = func(context.Context) ([]byte, error) { return bytes.Clone([]byte("a basic secret %&+")), nil }
	for name, c := range map[string]oauth.Config{"private_key_jwt": base, "token_exchange": exchange, "client_secret_basic": secret} {
		t.Run(name, func(t *testing.T) { leasetest.Run(t, p.peer(t, c)) })
	}
}
