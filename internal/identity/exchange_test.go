package identity_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

const (
	api      = "https://api.example"
	other    = "https://other.example"
	access   = "urn:ietf:params:oauth:token-type:access_token"
	jwtType  = "urn:ietf:params:oauth:token-type:jwt"
	txnType  = "urn:ietf:params:oauth:token-type:txn_token"
	asserts  = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	spiffeBy = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"
	exchange = "urn:ietf:params:oauth:grant-type:token-exchange"
)

// desk is an authorization server over TLS, whose tasks t-1 and t-2 run.
type desk struct {
	*fixture
	t    *testing.T
	srv  *httptest.Server
	url  string // of the issuer
	now  func() time.Time
	more []identity.Elsewhere
	mine map[string]string // an SVID of each task that asks
}

func newDesk(t *testing.T, cfg identity.Config) *desk {
	t.Helper()
	d := &desk{t: t, mine: map[string]string{}}
	mux := http.NewServeMux()
	d.srv = httptest.NewUnstartedServer(mux)
	d.srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	d.srv.StartTLS()
	t.Cleanup(d.srv.Close)
	d.url = d.srv.URL + "/t/acme"
	cfg.IssuerURL = d.url
	cfg.Grants = func(_ context.Context, task string) (identity.Grant, error) {
		if task != "t-1" && task != "t-2" {
			return identity.Grant{}, errors.New("no such task")
		}
		return identity.Grant{Agent: "helpdesk", Capability: "reset-mfa", CapabilityDigest: "sha256:c", GrantDigest: "sha256:d", Purpose: "resets second factors",
			Scopes: []string{"iam.user.mfa.reset", "tickets.ticket.comment"}, Audiences: []string{api, other, wantID, "spiffe://acme.example/agent/helpdesk/task/t-2"},
			Until: d.clock().Add(time.Hour), Elsewhere: d.more}, nil
	}
	d.now = cfg.Now
	d.fixture = newFixture(t, cfg)
	for path, h := range map[string]http.Handler{"/token": d.issuer.TokenHandler(), "/x509-svid": d.issuer.X509SVIDHandler(), "/introspect": d.issuer.IntrospectionHandler(), "/revoke": d.issuer.RevocationHandler(),
		"/keys": d.issuer.Keys(), "/.well-known/openid-configuration": d.issuer.Discovery()} {
		mux.Handle("/t/acme"+path, h)
	}
	return d
}

func (d *desk) clock() time.Time {
	if d.now != nil {
		return d.now()
	}
	return time.Now()
}

func (d *desk) svid(task string) string {
	d.t.Helper()
	w := aWorkload()
	w.Task = task
	tok, err := d.issuer.IssueJWT(d.t.Context(), w, d.url)
	if err != nil {
		d.t.Fatal(err)
	}
	return tok.Reveal()
}

// answer of any endpoint.
type answer struct {
	status int
	m      map[string]any
}

func (a answer) token() string { s, _ := a.m["access_token"].(string); return s }

// post sends a form; edit may change the request.
func (d *desk) post(path string, f url.Values, edit ...func(*http.Request)) answer {
	d.t.Helper()
	r, err := http.NewRequest("POST", d.url+path, strings.NewReader(f.Encode()))
	if err != nil {
		d.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for _, e := range edit {
		e(r)
	}
	return d.send(d.srv.Client(), r)
}

func (d *desk) send(c *http.Client, r *http.Request) answer {
	d.t.Helper()
	resp, err := c.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode}
	json.NewDecoder(resp.Body).Decode(&a.m)
	return a
}

func form(kv ...string) url.Values {
	f := url.Values{}
	for n := 0; n < len(kv); n += 2 {
		f.Add(kv[n], kv[n+1])
	}
	return f
}

// first is the exchange of a task's own JWT-SVID.
func (d *desk) first(more ...string) url.Values {
	return form(append([]string{"grant_type", exchange, "subject_token", d.svid("t-1"), "subject_token_type", jwtType}, more...)...)
}

// next is the exchange of an access token by a task.
func (d *desk) next(token, task string, more ...string) url.Values {
	return form(append([]string{"grant_type", exchange, "subject_token", token, "subject_token_type", access, "actor_token", d.svid(task), "actor_token_type", jwtType}, more...)...)
}

func (d *desk) want(a answer, status int, code string) {
	d.t.Helper()
	text, _ := a.m["error"].(string)
	desc, _ := a.m["error_description"].(string)
	if a.status != status || text+" "+desc != code && !strings.HasPrefix(text+" "+desc, code) {
		d.t.Errorf("got %d %v, want %d %s", a.status, a.m, status, code)
	}
}

func (d *desk) introspect(token, task string) map[string]any {
	d.t.Helper()
	if d.mine[task] == "" { // once: the rate of issues is bounded
		d.mine[task] = d.svid(task)
	}
	a := d.post("/introspect", form("token", token, "client_assertion_type", spiffeBy, "client_assertion", d.mine[task]))
	if a.status != 200 {
		d.t.Fatalf("introspect: got %d %v", a.status, a.m)
	}
	return a.m
}

func claimsOf(t *testing.T, token string) (head, body map[string]any) {
	t.Helper()
	for n, to := range []*map[string]any{&head, &body} {
		b, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[n])
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, to); err != nil {
			t.Fatal(err)
		}
	}
	return head, body
}

// The chain from a task's SVID to a narrower token in other hands: each has less
// than the one before, says who acts for whom, is on record before it is out,
// and ends with the one that it came from.
func TestTokenExchange(t *testing.T) {
	d := newDesk(t, identity.Config{})
	a := d.post("/token", d.first("resource", api, "audience", wantID[:len(wantID)-1]+"2"))
	if a.status != 200 || a.m["token_type"] != "Bearer" || a.m["issued_token_type"] != access || a.m["scope"] != "iam.user.mfa.reset tickets.ticket.comment" {
		t.Fatalf("first: got %d %v", a.status, a.m)
	}
	head, body := claimsOf(t, a.token())
	ctx := body["tctx"].(map[string]any)
	if head["typ"] != "at+jwt" || body["sub"] != wantID || body["act"] != nil || body["txn"] != "t-1" || ctx["capability_digest"] != "sha256:c" || ctx["purpose"] == "" {
		t.Errorf("first token: got %v %v", head, body)
	}
	// The second task was named as an audience, so it may go on with it.
	b := d.post("/token", d.next(a.token(), "t-2", "resource", api, "scope", "tickets.ticket.comment"))
	if b.status != 200 || b.m["scope"] != "tickets.ticket.comment" {
		t.Fatalf("second: got %d %v", b.status, b.m)
	}
	_, body = claimsOf(t, b.token())
	if act := body["act"].(map[string]any); body["sub"] != wantID || act["sub"] != "spiffe://acme.example/agent/helpdesk/task/t-2" || body["txn"] != "t-1" {
		t.Errorf("second token: got %v", body)
	}
	issued := d.entries(t, "identity.issued")
	last := issued[len(issued)-1]
	if last["kind"] != "access" || len(last["actors"].([]any)) != 1 || len(last["parents"].([]any)) != 1 || last["jtiDigest"] == nil {
		t.Errorf("record of the second: got %v", last)
	}
	if m := d.introspect(b.token(), "t-2"); m["active"] != true || m["scope"] != "tickets.ticket.comment" || m["act"] == nil {
		t.Errorf("introspection by the holder: got %v", m)
	}
	// The holder of the first ends it, and the second ends with it.
	if r := d.post("/revoke", form("token", a.token(), "client_assertion_type", spiffeBy, "client_assertion", d.svid("t-1"))); r.status != 200 {
		t.Errorf("revoke: got %d %v", r.status, r.m)
	}
	for name, tok := range map[string]string{"first": a.token(), "second": b.token()} {
		if m := d.introspect(tok, "t-2"); m["active"] != false || len(m) != 1 {
			t.Errorf("%s after the revocation: got %v", name, m)
		}
	}
	d.want(d.post("/token", d.next(b.token(), "t-2", "resource", api)), 400, "invalid_grant revoked")
	again := d.open(t, identity.Config{IssuerURL: d.url})
	w := httptest.NewRecorder()
	r := httptest.NewRequest("POST", "/", strings.NewReader(form("token", b.token(), "client_assertion_type", spiffeBy, "client_assertion", d.svid("t-2")).Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if again.IntrospectionHandler().ServeHTTP(w, r); strings.TrimSpace(w.Body.String()) != `{"active":false}` {
		t.Errorf("after a restart: got %s", w.Body)
	}
	if n := len(d.entries(t, "identity.revoked")); n != 1 {
		t.Errorf("revoked records: got %d, want 1", n)
	}
}

// With the task its tokens end, at once and whatever their exp says.
func TestTokensEndWithTheTask(t *testing.T) {
	d := newDesk(t, identity.Config{})
	a := d.post("/token", d.first("resource", api, "audience", "spiffe://acme.example/agent/helpdesk/task/t-2"))
	if m := d.introspect(a.token(), "t-2"); m["active"] != true {
		t.Fatalf("while it runs: got %v", m)
	}
	d.issuer.Revoke("t-1")
	if m := d.introspect(a.token(), "t-2"); m["active"] != false {
		t.Errorf("after the end: got %v", m)
	}
	d.want(d.post("/token", d.next(a.token(), "t-2", "resource", api)), 400, "invalid_grant task_ended")
}

// The ledger cannot write: no token.
func TestNoRecordNoToken(t *testing.T) {
	d := newDesk(t, identity.Config{})
	f := d.first("resource", api)
	d.log.down.Store(true)
	a := d.post("/token", f)
	if d.want(a, 503, "temporarily_unavailable"); a.token() != "" {
		t.Error("a token came out")
	}
	d.log.down.Store(false)
}

// What an exchange must not give. Each case differs from a good one in one thing.
//
// Threats: F4, F7, F8, F10 (authority, door)
func TestExchangeAttacks(t *testing.T) {
	d := newDesk(t, identity.Config{})
	svid := d.svid("t-1")
	narrow := d.post("/token", d.first("resource", api, "scope", "tickets.ticket.comment")).token()
	if narrow == "" {
		t.Fatal("no first token")
	}
	set := func(kv ...string) func(url.Values) {
		return func(f url.Values) {
			for n := 0; n < len(kv); n += 2 {
				f.Set(kv[n], kv[n+1])
			}
		}
	}
	add := func(k, v string) func(url.Values) { return func(f url.Values) { f.Add(k, v) } }
	elsewhere := newDesk(t, identity.Config{})
	own := map[string]struct {
		edit func(url.Values)
		code string
	}{
		"other_grant":               {set("grant_type", "client_credentials"), "unsupported_grant_type"},
		"no_subject":                {func(f url.Values) { f.Del("subject_token") }, "invalid_grant bad_token"},
		"subject_twice":             {add("subject_token", svid), "invalid_request"},
		"grant_twice":               {add("grant_type", exchange), "invalid_request"},
		"unknown_parameter":         {set("client_secret", "x"), "invalid_request"},
		"saml":                      {set("subject_token_type", "urn:ietf:params:oauth:token-type:saml2"), "invalid_request"},
		"svid_as_access_token":      {set("subject_token_type", access), "invalid_grant bad_token"},
		"access_token_as_svid":      {set("subject_token", narrow), "invalid_grant bad_token"},
		"svid_for_somebody_else":    {set("subject_token", mustJWT(t, d, api)), "invalid_grant wrong_audience"},
		"svid_for_the_issuer_slash": {set("subject_token", mustJWT(t, d, d.url+"/")), "invalid_grant wrong_audience"},
		"svid_of_another_tenant":    {set("subject_token", elsewhere.svid("t-1")), "invalid_grant unknown_key"},
		"scope_not_of_the_task":     {set("scope", "iam.user.delete"), "invalid_scope"},
		"scope_prefix":              {set("scope", "iam.user.mfa"), "invalid_scope"},
		"scope_case":                {set("scope", "IAM.user.mfa.reset"), "invalid_scope"},
		"scope_wildcard":            {set("scope", "*"), "invalid_scope"},
		"audience_not_of_the_task":  {set("resource", "https://bank.example"), "invalid_target audience_grows"},
		"audience_slash":            {set("resource", api+"/"), "invalid_target audience_grows"},
		"audience_case":             {set("resource", "https://API.example"), "invalid_target audience_grows"},
		"audience_added":            {add("audience", "https://bank.example"), "invalid_target audience_grows"},
		"audience_nul":              {set("resource", api+"\x00"), "invalid_target"},
		"resource_fragment":         {set("resource", api+"#x"), "invalid_target bad_audience"},
		"resource_relative":         {set("resource", "/api"), "invalid_target bad_audience"},
		"no_audience":               {func(f url.Values) { f.Del("resource") }, "invalid_target no_audience"},
		"unknown_type_wanted":       {set("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"), "invalid_request"},
		"txn_for_somebody_else":     {set("requested_token_type", txnType), "invalid_target audience_grows"},
		"actor_with_an_svid":        {set("actor_token", svid, "actor_token_type", jwtType), "invalid_request"},
		"other_task":                {set("task", "t-2"), "invalid_grant"},
	}
	for name, c := range own {
		f := form("grant_type", exchange, "subject_token", svid, "subject_token_type", jwtType, "resource", api)
		c.edit(f)
		t.Run(name, func(t *testing.T) { d.wantIn(t, d.post("/token", f), c.code) })
	}
	actor := d.svid("t-1")
	foreign := d.svid("t-2")
	for name, c := range map[string]struct {
		edit func(url.Values)
		code string
	}{
		"scope_back":           {set("scope", "iam.user.mfa.reset"), "invalid_scope"},
		"audience_back":        {set("resource", other), "invalid_target audience_grows"},
		"no_actor":             {func(f url.Values) { f.Del("actor_token") }, "invalid_client"},
		"actor_of_no_type":     {func(f url.Values) { f.Del("actor_token_type") }, "invalid_client"},
		"stolen_by_a_neighbor": {set("actor_token", foreign), "invalid_grant not_the_holder"},
		"actor_is_the_token":   {set("actor_token", narrow), "invalid_grant"},
		"assertion_from_token": {set("requested_token_type", asserts), "invalid_request"},
		"truncated":            {set("subject_token", narrow[:len(narrow)-4]), "invalid_grant bad_signature"},
		"payload_of_another":   {set("subject_token", swapPayload(narrow, svid)), "invalid_grant bad_signature"},
		"dots":                 {set("subject_token", strings.Repeat(".", 5000)), "invalid_grant bad_token"},
	} {
		f := form("grant_type", exchange, "subject_token", narrow, "subject_token_type", access, "actor_token", actor, "actor_token_type", jwtType, "resource", api)
		c.edit(f)
		t.Run(name, func(t *testing.T) { d.wantIn(t, d.post("/token", f), c.code) })
	}
	t.Run("get", func(t *testing.T) {
		r, _ := http.NewRequest("GET", d.url+"/token?"+d.first("resource", api).Encode(), nil)
		d.wantIn(t, d.send(d.srv.Client(), r), "invalid_request")
	})
	t.Run("query", func(t *testing.T) {
		d.wantIn(t, d.post("/token", d.first("resource", api), func(r *http.Request) { r.URL.RawQuery = "scope=x" }), "invalid_request")
	})
	t.Run("json", func(t *testing.T) {
		d.wantIn(t, d.post("/token", d.first("resource", api), func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }), "invalid_request")
	})
	if n := len(d.entries(t, "identity.refused")); n == 0 {
		t.Error("no refusal is on record")
	}
}

func (d *desk) wantIn(t *testing.T, a answer, code string) {
	t.Helper()
	text, _ := a.m["error"].(string)
	desc, _ := a.m["error_description"].(string)
	if a.status < 400 || a.token() != "" || !strings.HasPrefix(text+" "+desc, code) {
		t.Errorf("got %d %v, want %s", a.status, a.m, code)
	}
}

func mustJWT(t *testing.T, d *desk, audience string) string {
	t.Helper()
	tok, err := d.issuer.IssueJWT(t.Context(), aWorkload(), audience)
	if err != nil {
		t.Fatal(err)
	}
	return tok.Reveal()
}

func swapPayload(a, b string) string {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	return x[0] + "." + y[1] + "." + x[2]
}

// Claims that a thief of the signing key's use could try, and no more: the
// signature is good in all of them.
//
// Threats: E4, F1, F2, F4, F6, F9 (door)
func TestAccessTokenClaimAttacks(t *testing.T) {
	d := newDesk(t, identity.Config{})
	now := time.Now().Unix()
	good := func() map[string]any {
		return map[string]any{"iss": d.url, "sub": wantID, "aud": []string{api}, "exp": now + 200, "iat": now, "jti": "j", "client_id": wantID, "scope": "iam.user.mfa.reset",
			"txn": "t-1", "tctx": map[string]any{"task": "t-1", "agent": "helpdesk", "capability": "reset-mfa", "capability_digest": "sha256:c", "grant_digest": "sha256:d"}}
	}
	head := `{"alg":"ES256","kid":"` + d.issuer.KID() + `","typ":"at+jwt"}`
	active := func(token string) bool { return d.introspect(token, "t-1")["active"] == true }
	if !active(d.issuer.SignRaw(head, encode(t, good()))) {
		t.Fatal("the good token is not active")
	}
	set := func(k string, v any) string {
		c := good()
		if c[k] = v; v == nil {
			delete(c, k)
		}
		return encode(t, c)
	}
	long := map[string]any{"sub": "a"}
	for range 4 {
		long = map[string]any{"sub": "a", "act": long}
	}
	for name, payload := range map[string]string{
		"exp_string": set("exp", "9999999999"), "exp_float": set("exp", float64(now)+200.5), "exp_overflow": strings.Replace(encode(t, good()), `"exp":`, `"exp":1e400,"x":`, 1),
		"exp_huge": set("exp", int64(1)<<60), "exp_negative": set("exp", -1), "exp_missing": set("exp", nil), "exp_over": set("exp", now-1), "lives_long": set("exp", now+3600),
		"iat_future": set("iat", now+60), "iat_missing": set("iat", nil), "issuer_slash": set("iss", d.url+"/"), "issuer_case": set("iss", strings.ToUpper(d.url)),
		"issuer_other": set("iss", "https://evil.example"), "aud_empty": set("aud", []string{}), "aud_number": set("aud", 1), "aud_nested": set("aud", []any{[]string{api}}),
		"aud_null": set("aud", []any{nil}), "sub_other_task": set("sub", "spiffe://acme.example/agent/helpdesk/task/t-2"), "sub_other_domain": set("sub", "spiffe://evil.example/agent/helpdesk/task/t-1"),
		"task_unknown": set("txn", "t-9"), "no_context": set("tctx", nil), "no_jti": set("jti", nil), "unknown_claim": set("admin", true),
		"act_too_deep": set("act", long), "duplicate": strings.Replace(encode(t, good()), `"scope":`, `"scope":"all","scope":`, 1), "trailing": encode(t, good()) + "{}",
		"case": strings.Replace(encode(t, good()), `"scope"`, `"Scope"`, 1),
	} {
		if active(d.issuer.SignRaw(head, payload)) {
			t.Errorf("%s: active", name)
		}
	}
	for name, h := range map[string]string{
		"typ_jwt": `"typ":"JWT"`, "typ_missing": `"cty":"x"`, "typ_case": `"typ":"AT+JWT"`, "jwk": `"typ":"at+jwt","jwk":{}`, "jku": `"typ":"at+jwt","jku":"https://127.0.0.1/k"`,
		"x5u": `"typ":"at+jwt","x5u":"https://127.0.0.1/k"`, "crit": `"typ":"at+jwt","crit":["exp"]`, "dpop": `"typ":"dpop+jwt"`,
	} {
		if active(d.issuer.SignRaw(`{"alg":"ES256","kid":"`+d.issuer.KID()+`",`+h+`}`, encode(t, good()))) {
			t.Errorf("%s: active", name)
		}
	}
	tok := d.issuer.SignRaw(head, encode(t, good()))
	for name, alg := range map[string]string{"none": "none", "nOnE": "nOnE", "hs256": "HS256"} {
		p := strings.Split(tok, ".")
		if active(b64(`{"alg":"`+alg+`","kid":"`+d.issuer.KID()+`","typ":"at+jwt"}`) + "." + p[1] + "." + p[2]) {
			t.Errorf("alg_%s: active", name)
		}
	}
	// Its reader asks every time whether it is the reader's business.
	if m := d.introspect(tok, "t-2"); m["active"] != false {
		t.Errorf("a stranger's introspection: got %v", m)
	}
	d.want(d.post("/introspect", form("token", tok)), 401, "invalid_client")
	d.want(d.post("/introspect", form("token", tok, "client_assertion_type", spiffeBy, "client_assertion", tok)), 401, "invalid_client")
}

// dpopKey makes proofs.
type dpopKey struct{ k *ecdsa.PrivateKey }

func newDPoP(t testing.TB) dpopKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return dpopKey{k}
}

func (k dpopKey) jwk() map[string]any {
	p, _ := k.k.PublicKey.Bytes()
	b := base64.RawURLEncoding.EncodeToString
	return map[string]any{"kty": "EC", "crv": "P-256", "x": b(p[1:33]), "y": b(p[33:])}
}

func (k dpopKey) sign(t testing.TB, head, claims map[string]any) string {
	t.Helper()
	in := b64(encode(t, head)) + "." + b64(encode(t, claims))
	sum := sha256.Sum256([]byte(in))
	r, s, err := ecdsa.Sign(rand.Reader, k.k, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return in + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func (k dpopKey) proof(t testing.TB, htu string, change map[string]any, head map[string]any) string {
	h := map[string]any{"typ": "dpop+jwt", "alg": "ES256", "jwk": k.jwk()}
	maps.Copy(h, head)
	c := map[string]any{"jti": rand.Text(), "htm": "POST", "htu": htu, "iat": time.Now().Unix()}
	maps.Copy(c, change)
	return k.sign(t, h, c)
}

func with(proof ...string) func(*http.Request) {
	return func(r *http.Request) { r.Header["Dpop"] = proof }
}

// A token that is bound to a key is worth nothing without it, and what is
// exchanged from it stays bound (RFC 9449).
//
// Threats: E6, F2, F3, F6 (door)
func TestDPoP(t *testing.T) {
	d := newDesk(t, identity.Config{})
	k, thief := newDPoP(t), newDPoP(t)
	htu := d.url + "/token"
	used := k.proof(t, htu, nil, nil)
	a := d.post("/token", d.first("resource", api), with(used))
	if a.status != 200 || a.m["token_type"] != "DPoP" {
		t.Fatalf("got %d %v", a.status, a.m)
	}
	_, body := claimsOf(t, a.token())
	jkt := body["cnf"].(map[string]any)["jkt"]
	d.want(d.post("/token", d.first("resource", api), with(used)), 400, "invalid_dpop_proof proof_replayed")
	d.want(d.post("/token", d.next(a.token(), "t-1", "resource", api)), 400, "invalid_grant not_bound")
	d.want(d.post("/token", d.next(a.token(), "t-1", "resource", api), with(thief.proof(t, htu, nil, nil))), 400, "invalid_grant not_bound")
	b := d.post("/token", d.next(a.token(), "t-2", "resource", api), with(k.proof(t, htu, nil, nil)))
	if b.status != 200 {
		t.Fatalf("delegation by the holder: got %d %v", b.status, b.m)
	}
	if _, body := claimsOf(t, b.token()); body["cnf"].(map[string]any)["jkt"] != jkt || body["act"].(map[string]any)["sub"] != "spiffe://acme.example/agent/helpdesk/task/t-2" {
		t.Errorf("delegated: got %v", body)
	}
	jwkWith := func(change map[string]any) map[string]any {
		j := k.jwk()
		maps.Copy(j, change)
		return map[string]any{"jwk": j}
	}
	subject := d.svid("t-1")
	now := time.Now().Unix()
	for name, proof := range map[string]string{
		"other_method": k.proof(t, htu, map[string]any{"htm": "GET"}, nil), "method_case": k.proof(t, htu, map[string]any{"htm": "post"}, nil),
		"other_path": k.proof(t, d.url+"/revoke", nil, nil), "other_host": k.proof(t, "https://evil.example/t/acme/token", nil, nil), "http": k.proof(t, strings.Replace(htu, "https", "http", 1), nil, nil),
		"path_case": k.proof(t, strings.Replace(htu, "/token", "/Token", 1), nil, nil), "path_slash": k.proof(t, htu+"/", nil, nil), "path_dots": k.proof(t, d.url+"/x/../token", nil, nil),
		"path_percent": k.proof(t, d.url+"/%74oken", nil, nil), "user": k.proof(t, strings.Replace(htu, "://", "://u@", 1), nil, nil),
		"too_old": k.proof(t, htu, map[string]any{"iat": now - 120}, nil), "future": k.proof(t, htu, map[string]any{"iat": now + 60}, nil), "iat_string": k.proof(t, htu, map[string]any{"iat": "1"}, nil),
		"iat_missing": k.proof(t, htu, map[string]any{"iat": nil}, nil), "no_jti": k.proof(t, htu, map[string]any{"jti": ""}, nil), "long_jti": k.proof(t, htu, map[string]any{"jti": strings.Repeat("j", 300)}, nil),
		"typ_jwt": k.proof(t, htu, nil, map[string]any{"typ": "JWT"}), "alg_none": k.proof(t, htu, nil, map[string]any{"alg": "none"}), "alg_hs256": k.proof(t, htu, nil, map[string]any{"alg": "HS256"}),
		"kid": k.proof(t, htu, nil, map[string]any{"kid": "x"}), "jku": k.proof(t, htu, nil, map[string]any{"jku": "https://127.0.0.1/k"}),
		"private_key": k.proof(t, htu, nil, jwkWith(map[string]any{"d": "AQAB"})), "symmetric": k.proof(t, htu, nil, jwkWith(map[string]any{"kty": "oct", "k": "AA"})),
		"not_on_the_curve": k.proof(t, htu, nil, jwkWith(map[string]any{"y": k.jwk()["x"]})), "short_coordinate": k.proof(t, htu, nil, jwkWith(map[string]any{"x": "AQ"})),
		"another_key": k.proof(t, htu, nil, map[string]any{"jwk": thief.jwk()}), "empty": "", "dots": "..", "too_long": strings.Repeat("a", 5000),
		"zero_signature": strings.Join(append(strings.Split(k.proof(t, htu, nil, nil), ".")[:2], base64.RawURLEncoding.EncodeToString(make([]byte, 64))), "."),
	} {
		f := form("grant_type", exchange, "subject_token", subject, "subject_token_type", jwtType, "resource", api)
		t.Run(name, func(t *testing.T) { d.wantIn(t, d.post("/token", f, with(proof)), "invalid_dpop_proof bad_proof") })
	}
	t.Run("two_proofs", func(t *testing.T) {
		d.wantIn(t, d.post("/token", d.first("resource", api), with(k.proof(t, htu, nil, nil), k.proof(t, htu, nil, nil))), "invalid_dpop_proof bad_proof")
	})
}

// The same with a certificate of mutual TLS (RFC 8705). A proxy that drops it, or
// a header that claims it, binds nothing and opens nothing.
//
// Threats: E6, E9 (door)
func TestMutualTLSBinding(t *testing.T) {
	d := newDesk(t, identity.Config{})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	tr := d.srv.Client().Transport.(*http.Transport).Clone()
	tr.TLSClientConfig.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	holder := &http.Client{Transport: tr}
	defer tr.CloseIdleConnections()
	send := func(f url.Values) answer {
		r, _ := http.NewRequest("POST", d.url+"/token", strings.NewReader(f.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return d.send(holder, r)
	}
	a := send(d.first("resource", api))
	_, body := claimsOf(t, a.token())
	if sum := sha256.Sum256(der); body["cnf"].(map[string]any)["x5t#S256"] != base64.RawURLEncoding.EncodeToString(sum[:]) {
		t.Fatalf("got %v", body)
	}
	d.want(d.post("/token", d.next(a.token(), "t-1", "resource", api)), 400, "invalid_grant not_bound")
	d.want(d.post("/token", d.next(a.token(), "t-1", "resource", api), func(r *http.Request) {
		r.Header.Set("X-Forwarded-Client-Cert", "Hash=00")
		r.Header.Set("Client-Cert", ":"+base64.StdEncoding.EncodeToString(der)+":")
	}), 400, "invalid_grant not_bound")
	if b := send(d.next(a.token(), "t-1", "resource", api)); b.status != 200 {
		t.Errorf("with the certificate: got %d %v", b.status, b.m)
	}
}

// A chain of hands has an end.
func TestChainHasAnEnd(t *testing.T) {
	d := newDesk(t, identity.Config{})
	aud := []string{"audience", wantID, "audience", "spiffe://acme.example/agent/helpdesk/task/t-2"}
	tok := d.post("/token", d.first(aud...)).token()
	hands := 0
	for ; hands < 10; hands++ {
		task := []string{"t-2", "t-1"}[hands%2]
		a := d.post("/token", d.next(tok, task, aud...))
		if a.status != 200 {
			d.want(a, 400, "invalid_grant chain_too_long")
			break
		}
		tok = a.token()
	}
	if hands != 4 {
		t.Errorf("went through %d hands, want 4", hands)
	}
}

// A transaction token says for which task, capability and purpose something is
// done; it is for the trust domain and is no access token.
func TestTransactionToken(t *testing.T) {
	d := newDesk(t, identity.Config{})
	a := d.post("/token", d.first("requested_token_type", txnType, "scope", "iam.user.mfa.reset"))
	if a.status != 200 || a.m["token_type"] != "N_A" {
		t.Fatalf("got %d %v", a.status, a.m)
	}
	head, body := claimsOf(t, a.token())
	ctx := body["tctx"].(map[string]any)
	if head["typ"] != "txntoken+jwt" || body["aud"] == nil || body["txn"] != "t-1" || body["req_wl"] != wantID || ctx["grant_digest"] != "sha256:d" || ctx["task"] != "t-1" {
		t.Errorf("got %v %v", head, body)
	}
	d.want(d.post("/token", d.next(a.token(), "t-1", "resource", api)), 400, "invalid_grant bad_token")
	if m := d.introspect(a.token(), "t-1"); m["active"] != true {
		t.Errorf("introspection: got %v", m)
	}
}

// coreos/go-oidc, which knows the issuer's address and nothing else, verifies
// what we issue, and refuses it for somebody else.
func TestGoOIDCVerifies(t *testing.T) {
	d := newDesk(t, identity.Config{})
	ctx := oidc.ClientContext(t.Context(), d.srv.Client())
	p, err := oidc.NewProvider(ctx, d.url)
	if err != nil {
		t.Fatal(err)
	}
	v := p.Verifier(&oidc.Config{ClientID: api, SupportedSigningAlgs: []string{"ES256"}})
	for name, tok := range map[string]string{"jwt_svid": mustJWT(t, d, api), "access_token": d.post("/token", d.first("resource", api)).token()} {
		got, err := v.Verify(ctx, tok)
		if err != nil || got.Subject != wantID || got.Issuer != d.url {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
		if _, err := p.Verifier(&oidc.Config{ClientID: other}).Verify(ctx, tok); err == nil {
			t.Errorf("%s for another audience: accepted", name)
		}
	}
	if p.Endpoint().TokenURL != d.url+"/token" {
		t.Errorf("token endpoint: got %s", p.Endpoint().TokenURL)
	}
}
