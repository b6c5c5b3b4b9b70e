package identity_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/record"
)

func get(t testing.TB, h http.Handler) []byte {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("GET: got %d %s", w.Code, w.Body)
	}
	return w.Body.Bytes()
}

func TestRestartKeepsKeys(t *testing.T) {
	f := newFixture(t, identity.Config{})
	before := get(t, f.issuer.BundleEndpoint())
	tok, err := f.issuer.IssueJWT(t.Context(), aWorkload(), aud)
	if err != nil {
		t.Fatal(err)
	}
	again := f.open(t, identity.Config{})
	if after := get(t, again.BundleEndpoint()); !bytes.Equal(before, after) {
		t.Errorf("bundle after restart: got %s, want %s", after, before)
	}
	if _, err := again.VerifyJWT(t.Context(), tok.Reveal(), aud); err != nil {
		t.Errorf("token of before the restart: got %v", err)
	}
	if n := len(f.entries(t, "identity.authority")); n != 1 {
		t.Errorf("authority records: got %d, want 1", n)
	}
}

// Several nodes start on an empty store at once: one authority comes to be.
func TestConcurrentOpen(t *testing.T) {
	f := newFixture(t, identity.Config{})
	err := f.log.View(t.Context(), func(record.Tx) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.log.Append(t.Context(), record.Draft{Type: "test.reset", Change: func(tx record.Tx) error {
		return tx.Delete("identity-authority", "current")
	}}); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 8)
	for range cap(got) {
		go func() {
			i, err := identity.Open(t.Context(), f.log, f.seal, f.live, identity.Config{TrustDomain: "acme.example", IssuerURL: issuerURL})
			if err != nil {
				got <- err.Error()
				return
			}
			defer i.Close()
			got <- i.KID()
		}()
	}
	kids := map[string]bool{}
	for range cap(got) {
		kids[<-got] = true
	}
	if len(kids) != 1 {
		t.Errorf("authorities: got %v, want one", kids)
	}
}

// Keys are at rest only sealed, and a sealed key cannot stand in the place of
// another or be joined to another public key.
func TestStoreThief(t *testing.T) { storeThief(t, identity.Config{}) }

func storeThief(t *testing.T, cfg identity.Config) {
	t.Helper()
	f := newFixture(t, cfg)
	cfg.TrustDomain, cfg.IssuerURL = "acme.example", issuerURL
	var o map[string]any
	if err := f.log.View(t.Context(), func(tx record.Tx) error { return tx.Get("identity-authority", "current", &o) }); err != nil {
		t.Fatal(err)
	}
	edit := func(name string, change func(a map[string]any)) {
		raw, _ := json.Marshal(o)
		var c map[string]any
		json.Unmarshal(raw, &c)
		change(c["authorities"].([]any)[0].(map[string]any))
		if _, err := f.log.Append(t.Context(), record.Draft{Type: "test.edit", Change: func(tx record.Tx) error {
			return tx.Put("identity-authority", "current", c)
		}}); err != nil {
			t.Fatal(err)
		}
		if _, err := identity.Open(t.Context(), f.log, f.seal, f.live, cfg); err == nil {
			t.Errorf("%s: opened, want an error", name)
		}
	}
	edit("swapped_keys", func(a map[string]any) { a["x509Key"], a["jwtKey"] = a["jwtKey"], a["x509Key"] })
	edit("changed_key", func(a map[string]any) { a["jwtKey"] = "AAAA" + a["jwtKey"].(string)[4:] })
	edit("no_key", func(a map[string]any) { a["x509Key"] = "" })
	other := newFixture(t, identity.Config{})
	var oo map[string]any
	if err := other.log.View(t.Context(), func(tx record.Tx) error { return tx.Get("identity-authority", "current", &oo) }); err != nil {
		t.Fatal(err)
	}
	theirs := oo["authorities"].([]any)[0].(map[string]any)
	edit("foreign_public_key", func(a map[string]any) { a["jwtPublic"] = theirs["jwtPublic"] })
	edit("foreign_certificate", func(a map[string]any) { a["cert"] = theirs["cert"] })
	edit("whole_foreign_authority", func(a map[string]any) {
		id := a["id"]
		for k, v := range theirs {
			a[k] = v
		}
		a["id"] = id
	})

	if _, err := identity.Open(t.Context(), f.log, f.seal, f.live, identity.Config{TrustDomain: "other.example", IssuerURL: issuerURL}); err == nil {
		t.Error("trust domain changed under the authority: opened, want an error")
	}
}

func TestSecretsPrintAsLabels(t *testing.T) {
	f := newFixture(t, identity.Config{})
	for _, s := range f.issuer.Secrets() {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			if out := fmt.Sprintf(verb, s); strings.Contains(out, "secret") || strings.Contains(out, "0x73, 0x65") || strings.Contains(out, "115 101") || strings.Contains(out, "736563") {
				t.Errorf("%T with %s: got %s", s, verb, out)
			}
		}
		if b, _ := json.Marshal(s); strings.Contains(string(b), "secret") {
			t.Errorf("%T as JSON: got %s", s, b)
		}
	}
}

// A new authority is published an hour before it signs, and the old one stays
// until it expires: at no time does a fresh SVID fail against a bundle that is
// an hour old.
func TestAuthorityRotation(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	f := newFixture(t, identity.Config{Now: func() time.Time { return now }})
	first := f.issuer.KID()
	keys := func() int {
		b, err := spiffebundle.Parse(spiffeid.RequireTrustDomainFromString("acme.example"), get(t, f.issuer.BundleEndpoint()))
		if err != nil {
			t.Fatal(err)
		}
		if len(b.JWTAuthorities()) != len(b.X509Authorities()) {
			t.Errorf("bundle: got %d JWT keys and %d certificates", len(b.JWTAuthorities()), len(b.X509Authorities()))
		}
		return len(b.JWTAuthorities())
	}
	now = now.Add(15 * 24 * time.Hour)
	if n := keys(); n != 2 || f.issuer.KID() != first {
		t.Errorf("at half life: got %d keys, signer changed %v; want 2 and the old signer", n, f.issuer.KID() != first)
	}
	old, err := f.issuer.IssueJWT(t.Context(), aWorkload(), aud)
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(identity.PublishAhead)
	if f.issuer.KID() == first {
		t.Error("an hour later: the old authority still signs")
	}
	now = now.Add(-identity.PublishAhead + time.Minute)
	if _, err := f.issuer.VerifyJWT(t.Context(), old.Reveal(), aud); err != nil {
		t.Errorf("token of the old authority: got %v", err)
	}
	now = now.Add(16 * 24 * time.Hour)
	if n := keys(); n != 2 { // the first is gone, the second past half life brought a third
		t.Errorf("after the first expired: got %d keys, want 2", n)
	}
	if n := len(f.entries(t, "identity.authority")); n != 3 {
		t.Errorf("authority records: got %d, want 3", n)
	}
	// A restart after years still comes up.
	now = now.Add(3 * 365 * 24 * time.Hour)
	i := f.open(t, identity.Config{Now: func() time.Time { return now }})
	if _, err := i.IssueJWT(t.Context(), aWorkload(), aud); err != nil {
		t.Errorf("after years: got %v", err)
	}
}

// While the ledger cannot write, no new authority comes to be and nothing is
// issued; what was issued still verifies, and the bundle is still served.
func TestRotationLedgerDown(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	f := newFixture(t, identity.Config{Now: func() time.Time { return now }})
	now = now.Add(15*24*time.Hour - time.Second)
	tok, err := f.issuer.IssueJWT(t.Context(), aWorkload(), aud)
	if err != nil {
		t.Fatal(err)
	}
	f.log.down.Store(true)
	now = now.Add(time.Minute)
	get(t, f.issuer.BundleEndpoint())
	if _, err := f.issuer.VerifyJWT(t.Context(), tok.Reveal(), aud); err != nil {
		t.Errorf("verify: got %v", err)
	}
	if n := len(f.entries(t, "identity.authority")); n != 1 {
		t.Errorf("authority records: got %d, want 1", n)
	}
	if _, err := f.issuer.IssueJWT(t.Context(), aWorkload(), aud); !errors.Is(err, identity.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
}

func TestDocuments(t *testing.T) {
	f := newFixture(t, identity.Config{})
	var d struct {
		Issuer string   `json:"issuer"`
		JWKS   string   `json:"jwks_uri"`
		Algs   []string `json:"id_token_signing_alg_values_supported"`
	}
	if err := json.Unmarshal(get(t, f.issuer.Discovery()), &d); err != nil {
		t.Fatal(err)
	}
	if d.Issuer != issuerURL || d.JWKS != issuerURL+"/keys" || len(d.Algs) != 1 || d.Algs[0] != "ES256" {
		t.Errorf("discovery: got %+v", d)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(get(t, f.issuer.Keys()), &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 1 || set.Keys[0].Use != "sig" || set.Keys[0].KeyID != f.issuer.KID() || !set.Keys[0].IsPublic() {
		t.Errorf("keys: got %+v", set.Keys)
	}
	bundle := string(get(t, f.issuer.BundleEndpoint()))
	for _, want := range []string{`"use":"x509-svid"`, `"use":"jwt-svid"`, `"spiffe_sequence":1`, `"spiffe_refresh_hint":300`} {
		if !strings.Contains(bundle, want) {
			t.Errorf("bundle lacks %s: %s", want, bundle)
		}
	}
	for name, h := range map[string]http.Handler{"discovery": f.issuer.Discovery(), "keys": f.issuer.Keys(), "bundle": f.issuer.BundleEndpoint()} {
		if strings.Contains(string(get(t, h)), `"d":`) {
			t.Errorf("%s: holds a private key", name)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("POST", "/", nil))
		if w.Code != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: got %d", name, w.Code)
		}
	}
}

func TestTrustDomainSpellings(t *testing.T) {
	for _, good := range []string{"acme.example", "a", "acme-1.example", "1.acme"} {
		if got, err := identity.TrustDomain(good); err != nil || got != good {
			t.Errorf("%q: got %q, %v", good, got, err)
		}
	}
	for _, bad := range []string{
		"", "ACME.example", "acme.Example", "%61cme.example", "acme.example.", ".acme.example", "acme..example", "acme.example:443",
		"acme.example/x", "spiffe://acme.example", "user@acme.example", "аcme.example", "acme_1.example", "127.0.0.1", "1", "[::1]", "-a.example", "a-.example",
		"acme example", "acme\x00", strings.Repeat("a.", 130) + "a", strings.Repeat("a", 64) + ".example",
	} {
		if _, err := identity.TrustDomain(bad); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
}

// Names of agents and tasks cannot reach into another part of the identifier.
func TestSubjectInjection(t *testing.T) {
	f := newFixture(t, identity.Config{})
	for _, bad := range []string{"", ".", "..", "a/b", "a/task/t", "%2e", "a b", "é", "a?x", "a#x", "a\n", strings.Repeat("a", 3000)} {
		for _, w := range []identity.Workload{{Tenant: "acme", Agent: bad, Task: "t"}, {Tenant: "acme", Agent: "a", Task: bad}} {
			if _, err := f.issuer.IssueX509(t.Context(), w); err == nil {
				t.Errorf("agent %q task %q: issued", w.Agent, w.Task)
			}
		}
	}
	if n := len(f.entries(t, "identity.issued")); n != 0 {
		t.Errorf("issued records: got %d, want 0", n)
	}
}

func TestConfigRefused(t *testing.T) {
	f := newFixture(t, identity.Config{})
	for name, cfg := range map[string]identity.Config{
		"ttl_long":        {TrustDomain: "acme.example", IssuerURL: issuerURL, X509TTL: time.Hour},
		"ttl_negative":    {TrustDomain: "acme.example", IssuerURL: issuerURL, JWTTTL: -1},
		"issuer_slash":    {TrustDomain: "acme.example", IssuerURL: issuerURL + "/"},
		"issuer_query":    {TrustDomain: "acme.example", IssuerURL: issuerURL + "?x"},
		"issuer_user":     {TrustDomain: "acme.example", IssuerURL: "https://u@h/t"},
		"issuer_relative": {TrustDomain: "acme.example", IssuerURL: "/t/acme"},
		"issuer_empty":    {TrustDomain: "acme.example"},
		"no_trust_domain": {IssuerURL: issuerURL},
	} {
		if _, err := identity.Open(t.Context(), f.log, f.seal, f.live, cfg); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}
