package identity_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
)

const aud = "vault.example"

// goodClaims is what the issuer itself would sign.
func goodClaims() map[string]any {
	now := time.Now().Unix()
	return map[string]any{"iss": issuerURL, "sub": wantID, "aud": aud, "iat": now, "exp": now + 300, "jti": "j"}
}

func encode(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// Tokens signed with the tenant's own key, which differ from a good one in one
// thing each.
func TestJWTClaimAttacks(t *testing.T) {
	f := newFixture(t, identity.Config{})
	header := encode(t, map[string]any{"alg": "ES256", "kid": f.issuer.KID(), "typ": "JWT"})
	now := time.Now().Unix()
	set := func(k string, v any) string {
		c := goodClaims()
		if v == nil {
			delete(c, k)
		} else {
			c[k] = v
		}
		return encode(t, c)
	}
	good := encode(t, goodClaims())
	if _, err := f.issuer.VerifyJWT(t.Context(), f.issuer.SignRaw(header, good), aud); err != nil {
		t.Fatalf("the good token: got %v", err)
	}
	if _, err := f.issuer.VerifyJWT(t.Context(), f.issuer.SignRaw(header, set("aud", []string{"x", aud})), aud); err != nil {
		t.Fatalf("the good token with two audiences: got %v", err)
	}
	for name, c := range map[string]struct{ payload, code string }{
		"wrong_audience":             {set("aud", "other.example"), "wrong_audience"},
		"audience_prefix":            {set("aud", aud+".evil"), "wrong_audience"},
		"audience_case":              {set("aud", "Vault.example"), "wrong_audience"},
		"audience_joined_by_comma":   {set("aud", "x,"+aud), "wrong_audience"},
		"audience_joined_by_space":   {set("aud", "x "+aud), "bad_audience"},
		"audience_missing":           {set("aud", nil), "wrong_audience"},
		"audience_null":              {strings.Replace(good, `"`+aud+`"`, "null", 1), "bad_claims"},
		"audience_empty_array":       {set("aud", []string{}), "wrong_audience"},
		"audience_nested_array":      {set("aud", [][]string{{aud}}), "bad_claims"},
		"audience_object":            {set("aud", map[string]string{"0": aud}), "bad_claims"},
		"audience_array_with_null":   {set("aud", []any{aud, nil}), "bad_claims"},
		"audience_array_with_number": {set("aud", []any{aud, 1}), "bad_claims"},
		"audience_zero_width":        {set("aud", []string{aud, aud + "\u200b"}), "bad_audience"},
		"duplicate_audience_claim":   {strings.Replace(good, `"exp"`, `"aud":"x","exp"`, 1), "bad_claims"},
		"duplicate_sub":              {strings.Replace(good, `"exp"`, `"sub":"spiffe://acme.example/agent/b/task/t","exp"`, 1), "bad_claims"},
		"claim_in_other_case":        {strings.Replace(good, `"exp"`, `"EXP"`, 1), "bad_claims"},
		"no_exp":                     {set("exp", nil), "bad_claims"},
		"exp_string":                 {set("exp", fmt.Sprint(now+300)), "bad_claims"},
		"exp_float":                  {set("exp", float64(now)+0.5), "bad_claims"},
		"exp_exponent":               {strings.Replace(set("exp", 12345678), "12345678", "9e99", 1), "bad_claims"},
		"exp_overflow":               {strings.Replace(set("exp", 12345678), "12345678", "18446744073709551615", 1), "bad_claims"},
		"exp_negative":               {set("exp", -1), "bad_claims"},
		"exp_far":                    {set("exp", now+86400), "bad_claims"},
		"expired":                    {encode(t, merge(goodClaims(), map[string]any{"iat": now - 400, "exp": now - 1})), "expired"},
		"nbf_future":                 {set("nbf", now+120), "not_yet_valid"},
		"iat_future":                 {encode(t, merge(goodClaims(), map[string]any{"iat": now + 120, "exp": now + 300})), "not_yet_valid"},
		"iat_missing":                {set("iat", nil), "bad_claims"},
		"jti_missing":                {set("jti", nil), "bad_claims"},
		"issuer_slash":               {set("iss", issuerURL+"/"), "wrong_issuer"},
		"issuer_case":                {set("iss", strings.ToUpper(issuerURL)), "wrong_issuer"},
		"issuer_missing":             {set("iss", nil), "wrong_issuer"},
		"unknown_claim":              {set("act", map[string]any{"sub": "x"}), "bad_claims"},
		"subject_other_domain":       {set("sub", "spiffe://evil.example/agent/helpdesk/task/t-1"), "wrong_trust_domain"},
		"subject_domain_case":        {set("sub", "spiffe://ACME.example/agent/helpdesk/task/t-1"), "bad_subject"},
		"subject_scheme_case":        {set("sub", "SPIFFE://acme.example/agent/helpdesk/task/t-1"), "bad_subject"},
		"subject_domain_percent":     {set("sub", "spiffe://%61cme.example/agent/helpdesk/task/t-1"), "bad_subject"},
		"subject_path_percent":       {set("sub", "spiffe://acme.example/agent/helpdesk/task/t%2d1"), "bad_subject"},
		"subject_port":               {set("sub", "spiffe://acme.example:443/agent/helpdesk/task/t-1"), "bad_subject"},
		"subject_user":               {set("sub", "spiffe://x@acme.example/agent/helpdesk/task/t-1"), "bad_subject"},
		"subject_trailing_dot":       {set("sub", "spiffe://acme.example./agent/helpdesk/task/t-1"), "wrong_trust_domain"},
		"subject_dot_dot":            {set("sub", "spiffe://acme.example/agent/x/../helpdesk/task/t-1"), "bad_subject"},
		"subject_trailing_slash":     {set("sub", wantID+"/"), "bad_subject"},
		"subject_query":              {set("sub", wantID+"?x"), "bad_subject"},
		"subject_idn":                {set("sub", "spiffe://аcme.example/agent/helpdesk/task/t-1"), "bad_subject"},
		"subject_trust_domain_alone": {set("sub", "spiffe://acme.example"), "bad_subject"},
		"subject_other_shape":        {set("sub", "spiffe://acme.example/server"), "bad_subject"},
		"subject_missing":            {set("sub", nil), "bad_subject"},
		"not_json":                   {"[]", "bad_claims"},
		"trailing_data":              {good + "{}", "bad_claims"},
	} {
		_, err := f.issuer.VerifyJWT(t.Context(), f.issuer.SignRaw(header, c.payload), aud)
		if r, ok := errors.AsType[*identity.Refusal](err); !ok || r.Code != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
	}
	for _, a := range []string{"", " ", "a b", strings.Repeat("a", 256), "a\x00", "\u202ea"} {
		_, err := f.issuer.VerifyJWT(t.Context(), f.issuer.SignRaw(header, good), a)
		wantCode(t, err, "bad_audience")
		_, err = f.issuer.IssueJWT(t.Context(), aWorkload(), a)
		wantCode(t, err, "bad_audience")
	}
	_, err := f.issuer.IssueJWT(t.Context(), aWorkload())
	wantCode(t, err, "bad_audience")
}

func merge(a, b map[string]any) map[string]any { maps.Copy(a, b); return a }

// Headers that bring one's own algorithm, key or rules.
//
// Threats: F1, F2, F3, F5, F7, F10 (door)
func TestJWTHeaderAttacks(t *testing.T) {
	f := newFixture(t, identity.Config{})
	kid, payload := f.issuer.KID(), encode(t, goodClaims())
	h := func(more string) string { return `{"alg":"ES256","kid":"` + kid + `"` + more + `}` }
	tok := f.issuer.SignRaw(h(""), payload)
	part := strings.Split(tok, ".")

	hs256 := func(key []byte) string {
		in := b64(`{"alg":"HS256","kid":"`+kid+`"}`) + "." + b64(payload)
		m := hmac.New(sha256.New, key)
		m.Write([]byte(in))
		return in + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
	}
	der := f.issuer.JWTPublicDER()
	for name, c := range map[string]struct{ token, code string }{
		"alg_none":                  {b64(`{"alg":"none"}`) + "." + b64(payload) + ".", "bad_algorithm"},
		"alg_None":                  {b64(`{"alg":"None","kid":"`+kid+`"}`) + "." + b64(payload) + ".", "bad_algorithm"},
		"alg_missing":               {f.issuer.SignRaw(`{"kid":"`+kid+`"}`, payload), "bad_algorithm"},
		"alg_array":                 {f.issuer.SignRaw(`{"alg":["ES256"],"kid":"`+kid+`"}`, payload), "bad_token"},
		"alg_twice":                 {f.issuer.SignRaw(h(`,"alg":"none"`), payload), "bad_token"},
		"alg_ES384":                 {f.issuer.SignRaw(`{"alg":"ES384","kid":"`+kid+`"}`, payload), "bad_algorithm"},
		"alg_EdDSA":                 {f.issuer.SignRaw(`{"alg":"EdDSA","kid":"`+kid+`"}`, payload), "bad_algorithm"},
		"hs256_with_public_der":     {hs256(der), "bad_algorithm"},
		"hs256_with_public_pem":     {hs256(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), "bad_algorithm"},
		"kid_missing":               {f.issuer.SignRaw(`{"alg":"ES256"}`, payload), "unknown_key"},
		"kid_path_traversal":        {f.issuer.SignRaw(`{"alg":"ES256","kid":"../../../../dev/null"}`, payload), "unknown_key"},
		"kid_path_to_key":           {f.issuer.SignRaw(`{"alg":"ES256","kid":"./`+kid+`"}`, payload), "unknown_key"},
		"kid_sql":                   {f.issuer.SignRaw(`{"alg":"ES256","kid":"' OR '1'='1"}`, payload), "unknown_key"},
		"kid_url":                   {f.issuer.SignRaw(`{"alg":"ES256","kid":"http://127.0.0.1/`+kid+`"}`, payload), "unknown_key"},
		"kid_prefix":                {f.issuer.SignRaw(`{"alg":"ES256","kid":"`+kid[:8]+`"}`, payload), "unknown_key"},
		"kid_nul":                   {f.issuer.SignRaw(`{"alg":"ES256","kid":"`+kid+`\u0000"}`, payload), "unknown_key"},
		"embedded_jwk":              {f.issuer.SignRaw(h(`,"jwk":{"kty":"EC"}`), payload), "bad_token"},
		"jku":                       {f.issuer.SignRaw(h(`,"jku":"http://127.0.0.1:1/keys"`), payload), "bad_token"},
		"x5u":                       {f.issuer.SignRaw(h(`,"x5u":"http://127.0.0.1:1/c"`), payload), "bad_token"},
		"crit_b64":                  {f.issuer.SignRaw(h(`,"crit":["b64"],"b64":false`), payload), "bad_token"},
		"typ_at_jwt":                {f.issuer.SignRaw(h(`,"typ":"at+jwt"`), payload), "bad_token"},
		"no_signature":              {part[0] + "." + part[1] + ".", "bad_signature"},
		"payload_changed":           {part[0] + "." + b64(strings.Replace(payload, aud, "other.example", 1)) + "." + part[2], "bad_signature"},
		"signature_zero":            {part[0] + "." + part[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 64)), "bad_signature"},
		"signature_short":           {part[0] + "." + part[1] + "." + part[2][:40], "bad_signature"},
		"json_form":                 {`{"payload":"` + part[1] + `","protected":"` + part[0] + `","signature":"` + part[2] + `"}`, "bad_token"},
		"jwe_five_parts":            {tok + ".x.y", "bad_token"},
		"padding":                   {part[0] + "=." + part[1] + "." + part[2], "bad_token"},
		"white_space":               {" " + tok, "bad_token"},
		"newline_inside":            {part[0] + ".\n" + part[1] + "." + part[2], "bad_token"},
		"newline_after":             {tok + "\n", "bad_token"},
		"too_long":                  {tok + strings.Repeat("A", 9000), "bad_token"},
		"empty":                     {"", "bad_token"},
		"header_with_trailing_data": {f.issuer.SignRaw(h("")+"{}", payload), "bad_token"},
	} {
		_, err := f.issuer.VerifyJWT(t.Context(), c.token, aud)
		if r, ok := errors.AsType[*identity.Refusal](err); !ok || r.Code != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
	}
}

// What tenant A issued is worth nothing at tenant B, and the other way round,
// with the same agent and task names.
//
// Threats: E2, E5, F8 (door)
func TestOtherTenantsSVID(t *testing.T) {
	l, root := ledgertest.NewLedger(t)
	issuer := func(tenant string) *identity.Issuer {
		log, err := l.Create(t.Context(), tenant, tenant+".example/log")
		if err != nil {
			t.Fatal(err)
		}
		seal, err := root.Sealer(tenant)
		if err != nil {
			t.Fatal(err)
		}
		i, err := identity.Open(t.Context(), log, seal, &authority{}, identity.Config{
			TrustDomain: tenant + ".example", IssuerURL: "https://sallyport.example/t/" + tenant,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(i.Close)
		return i
	}
	a, b := issuer("a"), issuer("b")
	w := aWorkload()
	w.Tenant = "a"
	tok, err := a.IssueJWT(t.Context(), w, aud)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.IssueX509(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.VerifyJWT(t.Context(), tok.Reveal(), aud)
	wantCode(t, err, "unknown_key")
	_, err = b.VerifyX509(t.Context(), cert)
	wantCode(t, err, "bad_certificate")
	_, err = b.IssueJWT(t.Context(), w, aud)
	wantCode(t, err, "wrong_tenant")
	_, err = b.IssueX509(t.Context(), w)
	wantCode(t, err, "wrong_tenant")

	// A's CA signs a name of B's trust domain: neither accepts it, the
	// standard library (name constraint) included.
	forged, _ := a.SignCert(leaf("spiffe://b.example/agent/helpdesk/task/t-1"))
	_, err = b.VerifyX509(t.Context(), forged)
	wantCode(t, err, "bad_certificate")
	_, err = a.VerifyX509(t.Context(), forged)
	wantCode(t, err, "bad_certificate")
	if err := verifyStd(a, forged); err == nil {
		t.Error("name of another trust domain: crypto/x509 accepts it, want the name constraint")
	}
}

func leaf(uris ...string) *x509.Certificate {
	t := &x509.Certificate{
		SerialNumber: big.NewInt(7), NotBefore: time.Now().Add(-time.Second), NotAfter: time.Now().Add(5 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			panic(err)
		}
		t.URIs = append(t.URIs, u)
	}
	return t
}

func verifyStd(i *identity.Issuer, c *x509.Certificate, inter ...*x509.Certificate) error {
	roots, in := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(i.CACert())
	for _, c := range inter {
		in.AddCert(c)
	}
	_, err := c.Verify(x509.VerifyOptions{Roots: roots, Intermediates: in, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err
}

// Certificates signed with the tenant's own CA, which differ from a good one
// in one thing each. std says that crypto/x509 refuses as well.
//
// Threats: E1, E5 (door)
func TestX509Attacks(t *testing.T) {
	f := newFixture(t, identity.Config{})
	good, _ := f.issuer.SignCert(leaf(wantID))
	if _, err := f.issuer.VerifyX509(t.Context(), good); err != nil {
		t.Fatalf("the good certificate: got %v", err)
	}
	for name, c := range map[string]struct {
		edit func(*x509.Certificate)
		code string
		std  bool
	}{
		"ca_flag": {func(c *x509.Certificate) { c.IsCA = true }, "bad_certificate", false},
		"ca_flag_and_cert_sign": {func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage = true, x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign
		}, "bad_certificate", false},
		"crl_sign":             {func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }, "bad_certificate", false},
		"two_uri_sans":         {func(c *x509.Certificate) { c.URIs = leaf(wantID, wantID+"2").URIs }, "bad_certificate", false},
		"no_uri_san":           {func(c *x509.Certificate) { c.URIs = nil }, "bad_certificate", false},
		"second_san_dns":       {func(c *x509.Certificate) { c.DNSNames = []string{"vault.example"} }, "bad_certificate", true},
		"second_san_ip":        {func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }, "bad_certificate", true},
		"second_san_email":     {func(c *x509.Certificate) { c.EmailAddresses = []string{"a@acme.example"} }, "bad_certificate", false},
		"https_uri":            {func(c *x509.Certificate) { c.URIs = leaf("https://acme.example/agent/a/task/t").URIs }, "bad_certificate", false},
		"other_trust_domain":   {func(c *x509.Certificate) { c.URIs = leaf("spiffe://evil.example/agent/a/task/t").URIs }, "bad_certificate", true},
		"sub_domain":           {func(c *x509.Certificate) { c.URIs = leaf("spiffe://x.acme.example/agent/a/task/t").URIs }, "bad_certificate", false},
		"upper_case_domain":    {func(c *x509.Certificate) { c.URIs = leaf("spiffe://ACME.example/agent/a/task/t").URIs }, "bad_certificate", false},
		"percent_path":         {func(c *x509.Certificate) { c.URIs = leaf("spiffe://acme.example/agent/%61/task/t").URIs }, "bad_certificate", false},
		"port":                 {func(c *x509.Certificate) { c.URIs = leaf("spiffe://acme.example:1/agent/a/task/t").URIs }, "bad_certificate", false},
		"user":                 {func(c *x509.Certificate) { c.URIs = leaf("spiffe://u@acme.example/agent/a/task/t").URIs }, "bad_certificate", false},
		"trust_domain_as_leaf": {func(c *x509.Certificate) { c.URIs = leaf("spiffe://acme.example").URIs }, "bad_subject", false},
		"other_shape":          {func(c *x509.Certificate) { c.URIs = leaf("spiffe://acme.example/agent/a").URIs }, "bad_subject", false},
		"expired":              {func(c *x509.Certificate) { c.NotBefore, c.NotAfter = ago(6), ago(1) }, "bad_certificate", true},
		"not_yet_valid":        {func(c *x509.Certificate) { c.NotBefore, c.NotAfter = ago(-2), ago(-6) }, "bad_certificate", true},
		"lives_a_day":          {func(c *x509.Certificate) { c.NotAfter = ago(-24 * 60) }, "bad_certificate", false},
	} {
		tmpl := leaf(wantID)
		c.edit(tmpl)
		cert, _ := f.issuer.SignCert(tmpl)
		_, err := f.issuer.VerifyX509(t.Context(), cert)
		if r, ok := errors.AsType[*identity.Refusal](err); !ok || r.Code != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
		if err := verifyStd(f.issuer, cert); c.std && err == nil {
			t.Errorf("%s: crypto/x509 accepts it", name)
		}
	}
}

func ago(minutes int) time.Time { return time.Now().Add(-time.Duration(minutes) * time.Minute) }

// A leaf signs another leaf; a sub-CA signs a leaf; a stranger's CA copies the
// names of ours.
func TestX509Chains(t *testing.T) {
	f := newFixture(t, identity.Config{})
	l, lk := f.issuer.SignCert(leaf(wantID))
	under, _ := identity.SignWith(leaf(wantID), l, lk)
	_, err := f.issuer.VerifyX509(t.Context(), under, l)
	wantCode(t, err, "bad_chain")
	_, err = f.issuer.VerifyX509(t.Context(), under)
	wantCode(t, err, "bad_certificate")

	sub := leaf("spiffe://acme.example")
	sub.IsCA, sub.KeyUsage = true, x509.KeyUsageCertSign
	subCert, subKey := f.issuer.SignCert(sub)
	under, _ = identity.SignWith(leaf(wantID), subCert, subKey)
	if err := verifyStd(f.issuer, under, subCert); err == nil {
		t.Error("leaf under a sub-CA: crypto/x509 accepts it, want the path length")
	}

	ca := *f.issuer.CACert()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca.PublicKey = key.Public()
	fake, _ := identity.SignWith(leaf(wantID), &ca, key)
	_, err = f.issuer.VerifyX509(t.Context(), fake)
	wantCode(t, err, "bad_certificate")
	_, err = f.issuer.VerifyX509(context.Background())
	wantCode(t, err, "bad_chain")
}

// Whatever is done to a token, only what was signed is accepted.
func FuzzVerifyJWT(f *testing.F) {
	fx := newFixture(f, identity.Config{})
	kid := fx.issuer.KID()
	claims, err := json.Marshal(goodClaims())
	if err != nil {
		f.Fatal(err)
	}
	good := fx.issuer.SignRaw(`{"alg":"ES256","kid":"`+kid+`","typ":"JWT"}`, string(claims))
	signed := good[:strings.LastIndexByte(good, '.')]
	f.Add(good)
	f.Add(signed + ".")
	f.Add(b64(`{"alg":"none"}`) + "." + b64(string(claims)) + ".")
	f.Fuzz(func(t *testing.T, tok string) {
		if _, err := fx.issuer.VerifyJWT(t.Context(), tok, aud); err == nil && !strings.HasPrefix(tok, signed+".") {
			t.Errorf("accepted %q", tok)
		}
	})
}
