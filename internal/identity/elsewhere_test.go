package identity_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// cloud is an OpenID Connect issuer, over TLS.
type cloud struct {
	t     *testing.T
	srv   *httptest.Server
	keys  atomic.Value // []byte, JWK set
	disc  atomic.Value // []byte
	reads atomic.Int32
}

func newCloud(t *testing.T, key any, kid string) *cloud {
	t.Helper()
	c := &cloud{t: t}
	c.srv = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			w.Write(c.disc.Load().([]byte))
		case "/keys":
			c.reads.Add(1)
			w.Write(c.keys.Load().([]byte))
		default:
			http.Redirect(w, r, "/keys", http.StatusFound)
		}
	}))
	t.Cleanup(c.srv.Close)
	c.disc.Store([]byte(`{"issuer":"` + c.srv.URL + `","jwks_uri":"` + c.srv.URL + `/keys"}`))
	c.publish(key, kid)
	return c
}

func (c *cloud) publish(key any, kid string) {
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.(crypto.Signer).Public(), KeyID: kid, Use: "sig"}}})
	if err != nil {
		c.t.Fatal(err)
	}
	c.keys.Store(b)
}

func (c *cloud) roots() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.srv.Certificate().Raw}))
}

// signAs makes a token as an issuer would.
func signAs(t *testing.T, alg jose.SignatureAlgorithm, key any, kid string, claims map[string]any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	o, err := s.Sign(b)
	if err != nil {
		t.Fatal(err)
	}
	out, err := o.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Workloads elsewhere prove themselves and get a token for a running task whose
// agent declares them: a job of a CI system by its claims, a pod by its projected
// token and a key set brought by hand, a workload of a federated trust domain by
// its JWT-SVID. They act for the task and are not the task.
func TestWorkloadsElsewhere(t *testing.T) {
	d := newDesk(t, identity.Config{})
	ciKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	podKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ci := newCloud(t, ciKey, "ci-1")
	podKeys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: podKey.Public(), KeyID: "pod-1", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	const cluster = "https://kubernetes.default.svc.cluster.local"
	if err := d.issuer.Trust([]identity.OIDC{{Issuer: ci.srv.URL, Roots: ci.roots()}, {Issuer: cluster, Keys: string(podKeys)}}); err != nil {
		t.Fatal(err)
	}
	partner := newFixture(t, identity.Config{TrustDomain: "partner.example", IssuerURL: "https://partner.example/t/p"})
	if err := d.issuer.Federate(t.Context(), []identity.Federation{{TrustDomain: "partner.example", Endpoint: "https://127.0.0.1:1/b",
		Profile: identity.ProfileWeb, Bundle: string(get(t, partner.issuer.BundleEndpoint()))}}); err != nil {
		t.Fatal(err)
	}
	const partnerID = "spiffe://partner.example/agent/helpdesk/task/t-1"
	d.more = []identity.Elsewhere{
		{Issuer: ci.srv.URL, Claims: map[string]string{"sub": "repo:acme/desk:ref:refs/heads/main", "environment": "production"}},
		{Issuer: cluster, Claims: map[string]string{"sub": "system:serviceaccount:desk:agent", "/kubernetes.io/namespace": "desk"}},
		{SPIFFEID: partnerID},
	}
	now := time.Now().Unix()
	job := func(edit func(map[string]any)) string {
		c := map[string]any{"iss": ci.srv.URL, "sub": "repo:acme/desk:ref:refs/heads/main", "aud": d.url, "exp": now + 300, "iat": now, "nbf": now, "environment": "production", "run_id": "9"}
		edit(c)
		return signAs(t, jose.RS256, ciKey, "ci-1", c)
	}
	pod := func(edit func(map[string]any)) string {
		c := map[string]any{"iss": cluster, "sub": "system:serviceaccount:desk:agent", "aud": []string{d.url}, "exp": now + 3600, "iat": now,
			"kubernetes.io": map[string]any{"namespace": "desk", "serviceaccount": map[string]any{"name": "agent", "uid": "u"}}}
		edit(c)
		return signAs(t, jose.ES256, podKey, "pod-1", c)
	}
	same := func(map[string]any) {}
	set := func(k string, v any) func(map[string]any) { return func(m map[string]any) { m[k] = v } }
	svid, err := partner.issuer.IssueJWT(t.Context(), aWorkload(), d.url)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(token string, more ...string) answer {
		t.Helper()
		return d.post("/token", form(append([]string{"grant_type", exchange, "subject_token", token, "subject_token_type", jwtType, "resource", api, "task", "t-1"}, more...)...))
	}
	for name, c := range map[string]struct{ token, who string }{
		"ci":      {job(same), ci.srv.URL + "#repo:acme/desk:ref:refs/heads/main"},
		"pod":     {pod(same), cluster + "#system:serviceaccount:desk:agent"},
		"partner": {svid.Reveal(), partnerID},
	} {
		a := ask(c.token, "scope", "tickets.ticket.comment")
		if a.status != 200 {
			t.Errorf("%s: got %d %v", name, a.status, a.m)
			continue
		}
		_, body := claimsOf(t, a.token())
		if body["sub"] != wantID || body["act"].(map[string]any)["sub"] != c.who || body["client_id"] != c.who || body["scope"] != "tickets.ticket.comment" {
			t.Errorf("%s: got %v", name, body)
		}
	}
	issued := d.entries(t, "identity.issued")
	if last := issued[len(issued)-1]; last["attestedBy"] != "elsewhere" || len(last["actors"].([]any)) != 1 {
		t.Errorf("record: got %v", last)
	}
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ token, code string }{
		"other_branch":       {job(set("sub", "repo:acme/desk:ref:refs/heads/evil")), "invalid_grant not_declared"},
		"sub_prefix":         {job(set("sub", "repo:acme/desk:ref:refs/heads/main2")), "invalid_grant not_declared"},
		"sub_case":           {job(set("sub", "repo:Acme/desk:ref:refs/heads/main")), "invalid_grant not_declared"},
		"no_environment":     {job(func(m map[string]any) { delete(m, "environment") }), "invalid_grant not_declared"},
		"environment_list":   {job(set("environment", []string{"production"})), "invalid_grant not_declared"},
		"other_audience":     {job(set("aud", "https://vault.example")), "invalid_grant wrong_audience"},
		"no_audience":        {job(func(m map[string]any) { delete(m, "aud") }), "invalid_target bad_audience"},
		"audience_slash":     {job(set("aud", d.url+"/")), "invalid_grant wrong_audience"},
		"expired":            {job(set("exp", now-20)), "invalid_grant expired"},
		"no_exp":             {job(func(m map[string]any) { delete(m, "exp") }), "invalid_grant bad_claims"},
		"exp_string":         {job(set("exp", "9999999999")), "invalid_grant bad_claims"},
		"exp_float":          {job(set("exp", float64(now)+300.5)), "invalid_grant bad_claims"},
		"lives_a_week":       {job(set("exp", now+7*86400)), "invalid_grant bad_claims"},
		"nbf_beyond_skew":    {job(set("nbf", now+60)), "invalid_grant not_yet_valid"},
		"iat_beyond_skew":    {job(set("iat", now+60)), "invalid_grant not_yet_valid"},
		"issuer_slash":       {job(set("iss", ci.srv.URL+"/")), "invalid_grant unknown_issuer"},
		"issuer_case":        {job(set("iss", strings.ToUpper(ci.srv.URL))), "invalid_grant unknown_issuer"},
		"issuer_of_the_pod":  {job(set("iss", cluster)), "invalid_grant unknown_key"},
		"other_key":          {signAs(t, jose.RS256, stranger, "ci-1", map[string]any{"iss": ci.srv.URL, "sub": "repo:acme/desk:ref:refs/heads/main", "aud": d.url, "exp": now + 300, "environment": "production"}), "invalid_grant bad_signature"},
		"hs256_with_the_key": {signAs(t, jose.HS256, []byte(ci.keys.Load().([]byte)), "ci-1", map[string]any{"iss": ci.srv.URL, "sub": "x", "aud": d.url, "exp": now + 300}), "invalid_grant bad_algorithm"},
		"alg_of_another":     {signAs(t, jose.ES256, podKey, "ci-1", map[string]any{"iss": ci.srv.URL, "sub": "x", "aud": d.url, "exp": now + 300}), "invalid_grant bad_signature"},
		"pod_elsewhere":      {pod(set("kubernetes.io", map[string]any{"namespace": "other"})), "invalid_grant not_declared"},
		"pod_flat_claim":     {pod(func(m map[string]any) { delete(m, "kubernetes.io"); m["/kubernetes.io/namespace"] = "desk" }), "invalid_grant not_declared"},
		"spiffe_by_ci":       {job(set("sub", partnerID)), "invalid_grant unknown_key"},
		"own_svid":           {d.svid("t-1"), "invalid_grant not_federated"},
	} {
		t.Run(name, func(t *testing.T) { d.wantIn(t, ask(c.token), c.code) })
	}
	other := func(task string) answer {
		return d.post("/token", form("grant_type", exchange, "subject_token", job(same), "subject_token_type", jwtType, "resource", api, "task", task))
	}
	t.Run("unknown_task", func(t *testing.T) { d.wantIn(t, other("t-9"), "invalid_grant not_declared") })
	d.issuer.Revoke("t-1")
	t.Run("task_that_ended", func(t *testing.T) { d.wantIn(t, ask(job(same)), "invalid_grant not_declared") })
	if err := d.issuer.Trust(nil); err != nil {
		t.Fatal(err)
	}
	t.Run("trust_taken_back", func(t *testing.T) { d.wantIn(t, other("t-2"), "invalid_grant unknown_issuer") })
}

// The issuer's keys change: the new one is found, the old one is refused; and an
// unknown kid does not make us ask without end. A document that leads elsewhere is
// not followed.
//
// Threats: B6 (door)
func TestIssuerKeysSwapped(t *testing.T) {
	now := time.Now()
	d := newDesk(t, identity.Config{Now: func() time.Time { return now }})
	k1, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	k2, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ci := newCloud(t, k1, "1")
	d.more = []identity.Elsewhere{{Issuer: ci.srv.URL, Claims: map[string]string{"sub": "job"}}}
	trust := func() {
		t.Helper()
		if err := d.issuer.Trust(nil); err != nil {
			t.Fatal(err)
		}
		if err := d.issuer.Trust([]identity.OIDC{{Issuer: ci.srv.URL, Roots: ci.roots()}}); err != nil {
			t.Fatal(err)
		}
	}
	trust()
	ask := func(k *ecdsa.PrivateKey, kid string) answer {
		t.Helper()
		return d.post("/token", form("grant_type", exchange, "subject_token_type", jwtType, "resource", api, "task", "t-1", "subject_token",
			signAs(t, jose.ES256, k, kid, map[string]any{"iss": ci.srv.URL, "sub": "job", "aud": d.url, "exp": now.Unix() + 300})))
	}
	if a := ask(k1, "1"); a.status != 200 {
		t.Fatalf("first key: got %d %v", a.status, a.m)
	}
	ci.publish(k2, "2")
	d.wantIn(t, ask(k2, "2"), "invalid_grant unknown_key") // asked less than 30 s ago
	for range 20 {
		ask(k2, "x")
	}
	if n := ci.reads.Load(); n != 1 {
		t.Errorf("the keys were read %d times, want once", n)
	}
	now = now.Add(time.Minute)
	if a := ask(k2, "2"); a.status != 200 {
		t.Errorf("second key: got %d %v", a.status, a.m)
	}
	d.wantIn(t, ask(k1, "1"), "invalid_grant unknown_key")
	d.wantIn(t, ask(k1, "2"), "invalid_grant bad_signature")

	other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(ci.keys.Load().([]byte)) }))
	defer other.Close()
	for name, doc := range map[string]string{
		"other_issuer":  `{"issuer":"https://evil.example","jwks_uri":"` + ci.srv.URL + `/keys"}`,
		"other_host":    `{"issuer":"` + ci.srv.URL + `","jwks_uri":"` + other.URL + `/keys"}`,
		"metadata":      `{"issuer":"` + ci.srv.URL + `","jwks_uri":"http://169.254.169.254/keys"}`,
		"plain_http":    `{"issuer":"` + ci.srv.URL + `","jwks_uri":"` + strings.Replace(ci.srv.URL, "https", "http", 1) + `/keys"}`,
		"redirect":      `{"issuer":"` + ci.srv.URL + `","jwks_uri":"` + ci.srv.URL + `/away"}`,
		"twice":         `{"issuer":"x","issuer":"` + ci.srv.URL + `","jwks_uri":"` + ci.srv.URL + `/keys"}`,
		"no_keys_named": `{"issuer":"` + ci.srv.URL + `"}`,
	} {
		ci.disc.Store([]byte(doc))
		trust() // forgets what was fetched
		t.Run(name, func(t *testing.T) { d.wantIn(t, ask(k2, "2"), "invalid_grant unknown_key") })
	}
	ci.disc.Store([]byte(`{"issuer":"` + ci.srv.URL + `","jwks_uri":"` + ci.srv.URL + `/keys"}`))
	for name, keys := range map[string]string{
		"symmetric":   `{"keys":[{"kty":"oct","kid":"2","k":"AAAA"}]}`,
		"kid_twice":   strings.Replace(string(ci.keys.Load().([]byte)), `[`, `[`+strings.Trim(strings.TrimPrefix(string(ci.keys.Load().([]byte)), `{"keys":`), "[]}")+`},`, 1),
		"no_keys":     `{"keys":[]}`,
		"not_json":    `<html>`,
		"encryption":  strings.Replace(string(ci.keys.Load().([]byte)), `"use":"sig"`, `"use":"enc"`, 1),
		"endless":     strings.Repeat(" ", 2<<20),
		"no_kid":      strings.Replace(string(ci.keys.Load().([]byte)), `"kid":"2"`, `"kid":""`, 1),
		"keys_object": `{"keys":{}}`,
	} {
		ci.keys.Store([]byte(keys))
		trust()
		t.Run(name, func(t *testing.T) { d.wantIn(t, ask(k2, "2"), "invalid_grant unknown_key") })
	}
}
