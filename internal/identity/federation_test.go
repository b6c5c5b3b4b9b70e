package identity_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
)

// as attests every caller of a socket as one workload.
type as identity.Workload

func (w as) Attest(context.Context, identity.Peer) (identity.Workload, error) {
	return identity.Workload(w), nil
}

// spiffeEndpoint serves an issuer's bundle under https_spiffe.
func spiffeEndpoint(t *testing.T, i *identity.Issuer) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: i.BundleEndpoint(), ReadHeaderTimeout: 10 * time.Second}
	go s.Serve(tls.NewListener(l, i.EndpointTLS()))
	t.Cleanup(func() { s.Close() })
	return "https://" + l.Addr().String() + "/bundle"
}

// webEndpoint serves a handler under https_web, with the roots to verify it.
func webEndpoint(t *testing.T, h http.Handler) (url, roots string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// partners are two trust domains that federate with each other, one by each
// profile, and a go-spiffe source for a workload of each.
type partners struct {
	a, b   *fixture
	sa, sb *workloadapi.X509Source
	ja, jb *workloadapi.JWTSource
}

func newPartners(t *testing.T) *partners {
	t.Helper()
	p := &partners{a: newFixture(t, identity.Config{}), b: newFixture(t, identity.Config{TrustDomain: "partner.example", IssuerURL: "https://partner.example/t/p"})}
	webURL, roots := webEndpoint(t, p.a.issuer.BundleEndpoint())
	if err := p.b.issuer.Federate(t.Context(), []identity.Federation{
		{TrustDomain: "acme.example", Endpoint: webURL, Profile: identity.ProfileWeb, Roots: roots}}); err != nil {
		t.Fatal(err)
	}
	if err := p.a.issuer.Federate(t.Context(), []identity.Federation{
		{TrustDomain: "partner.example", Endpoint: spiffeEndpoint(t, p.b.issuer), Profile: identity.ProfileSPIFFE,
			EndpointID: p.b.issuer.EndpointID(), Bundle: string(get(t, p.b.issuer.BundleEndpoint()))}}); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*fixture{p.a, p.b} {
		if err := f.issuer.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	p.sa, p.ja = sources(t, p.a)
	p.sb, p.jb = sources(t, p.b)
	return p
}

func sources(t *testing.T, f *fixture) (*workloadapi.X509Source, *workloadapi.JWTSource) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	o := workloadapi.WithClientOptions(workloadapi.WithAddr("unix://" + f.serve(t, as(aWorkload()))))
	x, err := workloadapi.NewX509Source(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	j, err := workloadapi.NewJWTSource(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return x, j
}

// shake does mutual TLS and says what went wrong on either side.
func shake(server, client *workloadapi.X509Source, serverTD, clientTD string) error {
	td := spiffeid.RequireTrustDomainFromString
	sc, cc := net.Pipe()
	defer sc.Close()
	defer cc.Close()
	deadline := time.Now().Add(10 * time.Second)
	sc.SetDeadline(deadline)
	cc.SetDeadline(deadline)
	done := make(chan error, 1)
	go func() {
		c := tls.Server(sc, tlsconfig.MTLSServerConfig(server, server, tlsconfig.AuthorizeMemberOf(td(clientTD))))
		err := c.Handshake()
		if err == nil {
			_, err = c.Write([]byte("hello"))
		} else {
			sc.Close()
		}
		done <- err
	}()
	c := tls.Client(cc, tlsconfig.MTLSClientConfig(client, client, tlsconfig.AuthorizeMemberOf(td(serverTD))))
	_, err := io.ReadFull(c, make([]byte, 5))
	if err != nil {
		cc.Close()
	}
	return errors.Join(err, <-done)
}

// Two trust domains federate both ways, over both profiles: go-spiffe clients of
// each, which know only their own socket, do mutual TLS and verify each other's
// tokens, also after either rotates its keys; and no more once the federation is
// taken back.
func TestFederation(t *testing.T) {
	p := newPartners(t)
	both := func() error {
		return errors.Join(shake(p.sa, p.sb, "acme.example", "partner.example"), shake(p.sb, p.sa, "partner.example", "acme.example"))
	}
	if err := both(); err != nil {
		t.Fatalf("mutual TLS: %v", err)
	}
	tok, err := p.jb.FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: aud})
	if err != nil {
		t.Fatal(err)
	}
	s, err := jwtsvid.ParseAndValidate(tok.Marshal(), p.ja, []string{aud})
	if err != nil || s.ID.String() != "spiffe://partner.example/agent/helpdesk/task/t-1" {
		t.Errorf("token of the partner: got %v, %v", s, err)
	}
	c, err := workloadapi.New(t.Context(), workloadapi.WithAddr("unix://"+p.a.serve(t, as(aWorkload()))))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if s, err := c.ValidateJWTSVID(t.Context(), tok.Marshal(), aud); err != nil || s.ID.String() != "spiffe://partner.example/agent/helpdesk/task/t-1" {
		t.Errorf("validated over our socket: got %v, %v", s, err)
	}
	if _, err := c.ValidateJWTSVID(t.Context(), tok.Marshal(), "somebody.else"); err == nil {
		t.Error("validated for another audience")
	}
	// The keys change at the partner: its next bundle has them, and the stream of
	// our workload brings them without a new connection.
	if err := p.b.issuer.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.a.issuer.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "the partner's two keys", func() bool {
		b, err := p.sa.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString("partner.example"))
		return err == nil && len(b.X509Authorities()) == 2
	})
	await(t, "our stream to bring our own two keys to the partner", func() bool {
		if err := p.a.issuer.Rotate(t.Context()); err != nil {
			if r, ok := errors.AsType[*identity.Refusal](err); !ok || r.Code != "rotation_pending" {
				t.Fatal(err)
			}
		}
		b, err := p.sa.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString("acme.example"))
		return err == nil && len(b.X509Authorities()) == 2
	})
	if err := both(); err != nil {
		t.Errorf("mutual TLS after rotation: %v", err)
	}
	if err := p.a.issuer.Federate(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	await(t, "the partner to be unknown", func() bool {
		_, err := p.sa.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString("partner.example"))
		return err != nil
	})
	if err := shake(p.sa, p.sb, "acme.example", "partner.example"); err == nil {
		t.Error("mutual TLS after the federation was taken back: it worked")
	}
	if n := len(p.a.entries(t, "identity.federated")); n != 1 {
		t.Errorf("records of the partner's bundle: got %d, want 1: the first came with the declaration", n)
	}
}

func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 20 s for %s", what)
		}
	}
}

// An endpoint that was verified, and whose clients get tickets to come back
// with, is verified anew each time: once its roots are others, nothing that was
// agreed under the old ones goes on. So it is for both profiles.
//
// Threats: E3 (door)
func TestRootsThatChangedEndSessions(t *testing.T) {
	partner := newFixture(t, identity.Config{TrustDomain: "partner.example", IssuerURL: "https://partner.example/t/p"})
	// another is the trust domain after all its keys were replaced.
	another := newFixture(t, identity.Config{TrustDomain: "partner.example", IssuerURL: "https://partner.example/t/p"})
	oldBundle, newBundle := string(get(t, partner.issuer.BundleEndpoint())), string(get(t, another.issuer.BundleEndpoint()))
	var shakes, resumed atomic.Int64
	count := func(c *tls.Config) *tls.Config {
		c.VerifyConnection = func(s tls.ConnectionState) error {
			shakes.Add(1)
			if s.DidResume {
				resumed.Add(1)
			}
			return nil
		}
		return c
	}
	serve := func(c *tls.Config) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: partner.issuer.BundleEndpoint(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
		go s.Serve(tls.NewListener(l, count(c)))
		t.Cleanup(func() { s.Close() })
		return "https://" + l.Addr().String() + "/bundle"
	}
	proof := httptest.NewTLSServer(nil)
	t.Cleanup(proof.Close)
	roots := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: proof.Certificate().Raw}))
	// Of the trust domain's new keys, which never signed for this endpoint.
	next, err := spiffebundle.Parse(spiffeid.RequireTrustDomainFromString("partner.example"), []byte(newBundle))
	if err != nil {
		t.Fatal(err)
	}
	otherRoots := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: next.X509Authorities()[0].Raw}))
	spiffe, web := serve(partner.issuer.EndpointTLS()), serve(&tls.Config{Certificates: proof.TLS.Certificates})
	for name, c := range map[string]struct{ before, after identity.Federation }{
		"https_spiffe": {identity.Federation{TrustDomain: "partner.example", Endpoint: spiffe, Profile: identity.ProfileSPIFFE, EndpointID: partner.issuer.EndpointID(), Bundle: oldBundle},
			identity.Federation{TrustDomain: "partner.example", Endpoint: spiffe, Profile: identity.ProfileSPIFFE, EndpointID: partner.issuer.EndpointID(), Bundle: newBundle}},
		"https_web": {identity.Federation{TrustDomain: "partner.example", Endpoint: web, Profile: identity.ProfileWeb, Roots: roots},
			identity.Federation{TrustDomain: "partner.example", Endpoint: web, Profile: identity.ProfileWeb, Roots: otherRoots}},
	} {
		t.Run(name, func(t *testing.T) {
			mine := newFixture(t, identity.Config{})
			shakes.Store(0)
			if err := mine.issuer.Federate(t.Context(), []identity.Federation{c.before}); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := mine.issuer.Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if shakes.Load() != 2 || resumed.Load() != 0 {
				t.Errorf("%d handshakes, %d resumed; want 2 whole ones", shakes.Load(), resumed.Load())
			}
			if err := mine.issuer.Federate(t.Context(), []identity.Federation{c.after}); err != nil {
				t.Fatal(err)
			}
			if err := mine.issuer.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
				t.Errorf("after the roots changed: %v", err)
			}
		})
	}
}

// go-spiffe's own federation client reads our endpoint by both profiles.
func TestGoSPIFFEFetchesOurBundle(t *testing.T) {
	f := newFixture(t, identity.Config{})
	td := spiffeid.RequireTrustDomainFromString("acme.example")
	own, err := spiffebundle.Parse(td, get(t, f.issuer.BundleEndpoint()))
	if err != nil {
		t.Fatal(err)
	}
	url := spiffeEndpoint(t, f.issuer)
	got, err := federation.FetchBundle(t.Context(), td, url, federation.WithSPIFFEAuth(own, spiffeid.RequireFromString(f.issuer.EndpointID())))
	if err != nil || !got.Equal(own) {
		t.Errorf("https_spiffe: got %v, %v", got, err)
	}
	if _, err := federation.FetchBundle(t.Context(), td, url, federation.WithSPIFFEAuth(own, spiffeid.RequireFromString(wantID))); err == nil {
		t.Error("another endpoint id than ours: accepted")
	}
	issued := f.entries(t, "identity.issued")
	if len(issued) != 1 || issued[0]["subject"] != "spiffe://acme.example/bundle-endpoint" {
		t.Errorf("records of the endpoint's certificate: got %v", issued)
	}
}

// What an endpoint serves is refused when anything is wrong with it, and the
// bundle before it stays in use.
//
// Threats: E2 (door)
func TestFederatedBundleAttacks(t *testing.T) {
	other := newFixture(t, identity.Config{TrustDomain: "partner.example", IssuerURL: "https://partner.example/t/p"})
	good := string(get(t, other.issuer.BundleEndpoint()))
	var doc map[string]any
	if err := json.Unmarshal([]byte(good), &doc); err != nil {
		t.Fatal(err)
	}
	edit := func(f func(map[string]any)) string {
		var c map[string]any
		json.Unmarshal([]byte(good), &c)
		f(c)
		return encode(t, c)
	}
	mine := newFixture(t, identity.Config{})
	var body, status atomic.Value
	status.Store(200)
	url, roots := webEndpoint(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/other" {
			io.WriteString(w, good)
			return
		}
		w.Header().Set("Location", "/other")
		w.WriteHeader(status.Load().(int))
		io.WriteString(w, body.Load().(string))
	}))
	first := edit(func(c map[string]any) { c["spiffe_sequence"] = 7 })
	declare := identity.Federation{TrustDomain: "partner.example", Endpoint: url, Profile: identity.ProfileWeb, Roots: roots, Bundle: first}
	if err := mine.issuer.Federate(t.Context(), []identity.Federation{declare}); err != nil {
		t.Fatal(err)
	}
	key := func(c map[string]any, n int) map[string]any { return c["keys"].([]any)[n].(map[string]any) }
	foreignCA := json.RawMessage(get(t, mine.issuer.BundleEndpoint()))
	for name, c := range map[string]struct {
		body   string
		status int
	}{
		"older_sequence":     {edit(func(c map[string]any) { c["spiffe_sequence"] = 6 }), 200},
		"redirect":           {"", 302},
		"error_with_a_body":  {first, 500},
		"empty":              {"", 200},
		"no_keys":            {`{"keys":[],"spiffe_sequence":8}`, 200},
		"duplicate_keys":     {strings.Replace(first, `"keys":`, `"keys":[],"keys":`, 1), 200},
		"ca_of_another":      {string(foreignCA), 200},
		"too_large":          {strings.Repeat(" ", 1<<20) + first, 200},
		"not_json":           {"<html>", 200},
		"private_key":        {edit(func(c map[string]any) { key(c, 1)["d"] = "AQAB"; c["spiffe_sequence"] = 8 }), 200},
		"symmetric_key":      {`{"keys":[{"kty":"oct","use":"jwt-svid","kid":"x","k":"AAAA"}],"spiffe_sequence":8}`, 200},
		"key_without_kid":    {edit(func(c map[string]any) { delete(key(c, 1), "kid"); c["spiffe_sequence"] = 8 }), 200},
		"short_rsa":          {`{"keys":[{"kty":"RSA","use":"jwt-svid","kid":"x","n":"` + strings.Repeat("w", 86) + `","e":"AQAB"}],"spiffe_sequence":8}`, 200},
		"more_than_32_keys":  {`{"keys":[` + strings.Repeat(encode(t, key(doc, 0))+",", 40) + encode(t, key(doc, 1)) + `]}`, 200},
		"deep":               {strings.Repeat("[", 100000), 200},
		"sequence_as_string": {strings.Replace(first, `"spiffe_sequence":7`, `"spiffe_sequence":"9"`, 1), 200},
	} {
		body.Store(c.body)
		status.Store(c.status)
		if err := mine.issuer.Refresh(t.Context()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	tok, err := other.issuer.IssueJWT(t.Context(), aWorkload(), aud)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mine.issuer.VerifyForeignJWT(t.Context(), tok.Reveal(), aud); err != nil {
		t.Errorf("the bundle before: got %v", err)
	}
	recs := mine.entries(t, "identity.federated")
	if len(recs) != 1 || recs[0]["change"] != "failing" {
		t.Errorf("records: got %v, want one of the first failure", recs)
	}
	status.Store(200)
	body.Store(edit(func(c map[string]any) { c["spiffe_sequence"] = 8 }))
	if err := mine.issuer.Refresh(t.Context()); err != nil {
		t.Errorf("the good bundle: got %v", err)
	}
}

// A bundle that cannot be confirmed for a day is not used any more.
func TestStaleBundle(t *testing.T) {
	now := time.Now()
	other := newFixture(t, identity.Config{TrustDomain: "partner.example", IssuerURL: "https://partner.example/t/p"})
	mine := newFixture(t, identity.Config{Now: func() time.Time { return now }})
	if err := mine.issuer.Federate(t.Context(), []identity.Federation{{TrustDomain: "partner.example", Endpoint: "https://127.0.0.1:1/b",
		Profile: identity.ProfileWeb, Bundle: string(get(t, other.issuer.BundleEndpoint()))}}); err != nil {
		t.Fatal(err)
	}
	tok, err := other.issuer.IssueJWT(t.Context(), aWorkload(), aud)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mine.issuer.VerifyForeignJWT(t.Context(), tok.Reveal(), aud); err != nil {
		t.Errorf("fresh: got %v", err)
	}
	now = now.Add(25 * time.Hour)
	_, err = mine.issuer.VerifyForeignJWT(t.Context(), tok.Reveal(), aud)
	wantCode(t, err, "stale_bundle")
}

func TestFederationRefused(t *testing.T) {
	f := newFixture(t, identity.Config{})
	bundle := string(get(t, newFixture(t, identity.Config{TrustDomain: "p.example", IssuerURL: "https://p.example/t/p"}).issuer.BundleEndpoint()))
	good := identity.Federation{TrustDomain: "p.example", Endpoint: "https://p.example/b", Profile: identity.ProfileSPIFFE, EndpointID: "spiffe://p.example/e", Bundle: bundle}
	if err := f.issuer.Federate(t.Context(), []identity.Federation{good}); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*identity.Federation){
		"own_trust_domain":  func(x *identity.Federation) { x.TrustDomain = "acme.example" },
		"no_trust_domain":   func(x *identity.Federation) { x.TrustDomain = "" },
		"upper_case":        func(x *identity.Federation) { x.TrustDomain = "P.example" },
		"plain_http":        func(x *identity.Federation) { x.Endpoint = "http://p.example/b" },
		"user_in_url":       func(x *identity.Federation) { x.Endpoint = "https://u@p.example/b" },
		"file":              func(x *identity.Federation) { x.Endpoint = "file:///etc/passwd" },
		"unknown_profile":   func(x *identity.Federation) { x.Profile = "http" },
		"no_endpoint_id":    func(x *identity.Federation) { x.EndpointID = "" },
		"our_endpoint_id":   func(x *identity.Federation) { x.EndpointID = f.issuer.EndpointID() },
		"no_first_bundle":   func(x *identity.Federation) { x.Bundle = "" },
		"id_with_https_web": func(x *identity.Federation) { x.Profile = identity.ProfileWeb },
		"ca_with_spiffe":    func(x *identity.Federation) { x.Roots = "x" },
		"bundle_of_another": func(x *identity.Federation) { x.Bundle = string(get(t, f.issuer.BundleEndpoint())) },
	} {
		bad := good
		edit(&bad)
		if err := f.issuer.Federate(t.Context(), []identity.Federation{bad}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A validator that fetches the bundle every five minutes, as the bundle asks for,
// verifies everything that is alive at any minute of two months, in which the
// keys change by age and by hand.
func TestNoValidationFailsThroughRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := gatetest.NewLog("acme")
		seal, err := ledgertest.Root(t).Sealer("acme")
		if err != nil {
			t.Fatal(err)
		}
		i, err := identity.Open(t.Context(), log, seal, &authority{}, identity.Config{TrustDomain: "acme.example", IssuerURL: issuerURL})
		if err != nil {
			t.Fatal(err)
		}
		defer i.Close()
		td := spiffeid.RequireTrustDomainFromString("acme.example")
		const steps, minutes = 60, 60 * 24 * 60
		var bundle *spiffebundle.Bundle
		var token string
		var cert [][]byte
		kids := map[string]bool{}
		most := 0
		begin := time.Now()
		// An hour of single minutes after each of these, and leaps between them.
		leap := time.Duration(minutes) * time.Minute / steps
		for n := range steps {
			if n == 7 || n == 8 || n == 31 {
				if err := i.Rotate(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for m := range 80 {
				if m%5 == 0 {
					doc := get(t, i.BundleEndpoint())
					if bundle, err = spiffebundle.Parse(td, doc); err != nil {
						t.Fatal(err)
					}
					most = max(most, len(bundle.X509Authorities()))
				}
				w := aWorkload()
				w.Task = fmt.Sprint("t-", n)
				if m%4 == 0 {
					j, err := i.IssueJWT(t.Context(), w, aud)
					if err != nil {
						t.Fatal(err)
					}
					c, err := i.IssueX509(t.Context(), w)
					if err != nil {
						t.Fatal(err)
					}
					token, cert = j.Reveal(), [][]byte{c.Raw}
				}
				s, err := jwtsvid.ParseAndValidate(token, bundle, []string{aud})
				if err != nil {
					t.Fatalf("token after %v: %v", time.Since(begin), err)
				}
				_ = s
				if _, _, err := x509svid.ParseAndVerify(cert, bundle); err != nil {
					t.Fatalf("certificate after %v: %v", time.Since(begin), err)
				}
				kids[i.KID()] = true
				time.Sleep(time.Minute)
			}
			time.Sleep(leap - 80*time.Minute)
		}
		if len(kids) < 5 || most > 3 {
			t.Errorf("got %d signing keys in %v and at most %d in the bundle, want at least 5 and at most 3", len(kids), time.Since(begin), most)
		}
	})
}

// Keys that were rotated out leave the bundle soon after their last SVID, and
// what they sign is refused from then on.
func TestRetiredKeyIsRefused(t *testing.T) {
	now := time.Now()
	f := newFixture(t, identity.Config{Now: func() time.Time { return now }})
	before := get(t, f.issuer.BundleEndpoint())
	kid := f.issuer.KID()
	if err := f.issuer.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := f.issuer.Rotate(t.Context())
	wantCode(t, err, "rotation_pending")
	thief := f.issuer.SignRaw(`{"alg":"ES256","kid":"`+kid+`"}`, encode(t, goodClaims()))
	if _, err := f.issuer.VerifyJWT(t.Context(), thief, aud); err != nil {
		t.Errorf("while it signs: got %v", err)
	}
	now = now.Add(2 * time.Hour)
	if bytes.Contains(get(t, f.issuer.BundleEndpoint()), []byte(kid)) {
		t.Error("the old key is in the bundle after two hours")
	}
	_, err = f.issuer.VerifyJWT(t.Context(), thief, aud)
	wantCode(t, err, "unknown_key")
	if after := get(t, f.issuer.BundleEndpoint()); bytes.Equal(before, after) || !bytes.Contains(after, []byte(`"spiffe_sequence":3`)) {
		t.Errorf("bundle: got %s, want sequence 3: made, rotated, retired", after)
	}
}
