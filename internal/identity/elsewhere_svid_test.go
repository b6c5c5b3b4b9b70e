package identity_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// TestSVIDsElsewhere: a workload elsewhere that the agent declares with a name gets
// a JWT-SVID, and an X.509-SVID for a key that it keeps: under a name of its own
// below the task, for minutes, on record with who it is, and nothing more once the
// task has ended.
//
// Threats: E15 (door, authority)
func TestSVIDsElsewhere(t *testing.T) {
	d := newDesk(t, identity.Config{})
	key := newP256(t)
	ci := newCloud(t, key, "ci-1")
	if err := d.issuer.Trust([]identity.OIDC{{Issuer: ci.srv.URL, Roots: ci.roots()}}); err != nil {
		t.Fatal(err)
	}
	d.more = []identity.Elsewhere{{Issuer: ci.srv.URL, Claims: map[string]string{"sub": "job"}, SVID: "desk-job"}, {Issuer: ci.srv.URL, Claims: map[string]string{"sub": "plain"}}}
	now := time.Now().Unix()
	token := func(sub string, life int64) string {
		return signAs(t, jose.ES256, key, "ci-1", map[string]any{"iss": ci.srv.URL, "sub": sub, "aud": d.url, "exp": now + life, "iat": now})
	}
	const id = "spiffe://acme.example/agent/helpdesk/task/t-1/workload/desk-job"
	svid := func(sub string, more ...string) answer {
		return d.post("/token", form(append([]string{"grant_type", exchange, "subject_token", token(sub, 300), "subject_token_type", jwtType, "requested_token_type", jwtType,
			"resource", api, "task", "t-1"}, more...)...))
	}
	cert := func(tok, csr string, more ...string) answer {
		return d.post("/x509-svid", form(append([]string{"subject_token", tok, "subject_token_type", jwtType, "task", "t-1", "csr", csr}, more...)...))
	}

	a := svid("job")
	if a.status != 200 || a.m["token_type"] != "N_A" || a.m["issued_token_type"] != jwtType {
		t.Fatalf("got %d %v", a.status, a.m)
	}
	jwt, _ := a.m["access_token"].(string)
	if _, c := claimsOf(t, jwt); c["sub"] != id || c["scope"] != nil || c["exp"].(float64)-float64(now) > 301 {
		t.Errorf("claims: %v", c)
	}
	// What serves agents takes it for what it is; what stands for a task does not.
	sock := d.serve(t, fixed(aWorkload()))
	c, err := workloadapi.New(t.Context(), workloadapi.WithAddr("unix://"+sock))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if v, err := c.ValidateJWTSVID(t.Context(), jwt, api); err != nil || v.ID.String() != id {
		t.Errorf("got %v, %v", v, err)
	}
	_, err = d.issuer.VerifyJWT(t.Context(), jwt, api)
	wantCode(t, err, "bad_subject")
	if b, err := c.FetchX509Bundles(t.Context()); err != nil {
		t.Fatal(err)
	} else if _, ok := b.Get(spiffeid.RequireTrustDomainFromString("acme.example")); !ok {
		t.Error("there is no bundle")
	}

	mine := newP256(t)
	a = cert(token("job", 120), request(t, mine, &x509.CertificateRequest{}))
	if a.status != 200 || a.m["spiffe_id"] != id {
		t.Fatalf("got %d %v", a.status, a.m)
	}
	leaf := certOf(t, a.m["x509_svid"])
	bundle, err := x509bundle.Parse(spiffeid.RequireTrustDomainFromString("acme.example"), []byte(a.m["bundle"].(string)))
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := x509svid.Verify([]*x509.Certificate{leaf}, bundle); err != nil || got.String() != id {
		t.Errorf("got %v, %v", got, err)
	}
	if !mine.PublicKey.Equal(leaf.PublicKey) || leaf.NotAfter.After(time.Unix(now+121, 0)) || leaf.Subject.String() != "" {
		t.Errorf("the certificate: %v until %v for %q", leaf.PublicKey, leaf.NotAfter, leaf.Subject)
	}
	_, err = d.issuer.VerifyX509(t.Context(), leaf)
	wantCode(t, err, "bad_subject")
	if a := cert(token("job", 120), request(t, mine, &x509.CertificateRequest{URIs: []*url.URL{spiffeid.RequireFromString(id).URL()}})); a.status != 200 {
		t.Errorf("a request that names the ID that it gets: %d %v", a.status, a.m)
	}
	n := 0
	for _, b := range d.entries(t, "identity.issued") {
		if b["attestedBy"] != "elsewhere" {
			continue
		}
		n++
		if acts, _ := b["actors"].([]any); b["subject"] != id || len(acts) != 1 || acts[0] != ci.srv.URL+"#job" {
			t.Errorf("recorded: %v", b)
		}
	}
	if n != 3 {
		t.Errorf("%d issues are on record, want 3", n)
	}

	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := request(t, mine, &x509.CertificateRequest{})
	forged := []byte(good)
	block, _ := pem.Decode(forged)
	block.Bytes[len(block.Bytes)-1] ^= 1
	ca, err := asn1.Marshal(struct{ CA bool }{true})
	if err != nil {
		t.Fatal(err)
	}
	for name, csr := range map[string]string{
		"the_task_itself": request(t, mine, &x509.CertificateRequest{URIs: []*url.URL{spiffeid.RequireFromString(wantID).URL()}}),
		"two_names":       request(t, mine, &x509.CertificateRequest{URIs: []*url.URL{spiffeid.RequireFromString(id).URL(), spiffeid.RequireFromString(wantID).URL()}}),
		"dns_name":        request(t, mine, &x509.CertificateRequest{DNSNames: []string{"api.example"}}),
		"address":         request(t, mine, &x509.CertificateRequest{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}),
		"a_ca":            request(t, mine, &x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: ca}}}),
		"key_not_proved":  string(pem.EncodeToMemory(block)),
		"rsa":             request(t, rsaKey, &x509.CertificateRequest{}),
		"other_curve":     request(t, p384, &x509.CertificateRequest{}),
		"two_blocks":      good + good,
		"der":             "MIIB",
		"a_certificate":   a.m["x509_svid"].(string),
		"nothing":         "",
	} {
		t.Run(name, func(t *testing.T) { d.refuses(t, cert(token("job", 300), csr), "bad_csr") })
	}
	for name, x := range map[string]struct {
		a    answer
		code string
	}{
		"no_name_declared":      {svid("plain"), "no_svid"},
		"no_name_declared_x509": {cert(token("plain", 300), good), "no_svid"},
		"not_declared":          {svid("mallory"), "not_declared"},
		"not_declared_x509":     {cert(token("mallory", 300), good), "not_declared"},
		"task_twice":            {d.post("/x509-svid", url.Values{"subject_token": {token("job", 300)}, "subject_token_type": {jwtType}, "csr": {good}, "task": {"t-1", "t-2"}}), ""},
		"other_task":            {d.post("/x509-svid", form("subject_token", token("job", 300), "subject_token_type", jwtType, "csr", good, "task", "t-9")), "not_declared"},
		"with_a_scope":          {svid("job", "scope", "iam.user.mfa.reset"), "bad_request"},
		"other_audience":        {d.post("/token", form("grant_type", exchange, "subject_token", token("job", 300), "subject_token_type", jwtType, "requested_token_type", jwtType, "resource", "https://evil.example", "task", "t-1")), "audience_grows"},
		"a_task_asks":           {d.post("/token", d.first("requested_token_type", jwtType, "resource", api)), "bad_request"},
		"the_svid_for_itself":   {cert(jwt, good), "not_federated"},
		"without_a_task":        {d.post("/x509-svid", form("subject_token", token("job", 300), "subject_token_type", jwtType, "csr", good)), "bad_request"},
	} {
		t.Run(name, func(t *testing.T) { d.refuses(t, x.a, x.code) })
	}
	d.issuer.Revoke("t-1")
	d.refuses(t, svid("job"), "not_declared")
	d.refuses(t, cert(token("job", 300), good), "not_declared")
}

// refuses wants an error with a refusal's code in its description.
func (d *desk) refuses(t *testing.T, a answer, code string) {
	t.Helper()
	desc, _ := a.m["error_description"].(string)
	if a.status < 400 || a.m["x509_svid"] != nil || a.m["access_token"] != nil || code != "" && !strings.HasPrefix(desc, code+": ") {
		t.Errorf("got %d %v, want %s", a.status, a.m, code)
	}
}

func newP256(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func request(t *testing.T, key crypto.Signer, tmpl *x509.CertificateRequest) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func certOf(t *testing.T, v any) *x509.Certificate {
	t.Helper()
	s, _ := v.(string)
	block, rest := pem.Decode([]byte(s))
	if block == nil || strings.TrimSpace(string(rest)) != "" {
		t.Fatalf("got %q", s)
	}
	return mustCert(t, block.Bytes)
}
