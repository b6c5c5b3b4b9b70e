package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

var block = regexp.MustCompile("(?ms)^<!-- block: ([a-z-]+) -->\n```[a-z]+\n(.*?)^```")

// page are the named blocks of docs/operate/identity.md.
func page(t *testing.T, replace *strings.Replacer) map[string]string {
	t.Helper()
	b, err := os.ReadFile("../../docs/operate/identity.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, m := range block.FindAllStringSubmatch(string(b), -1) {
		out[m[1]] = replace.Replace(m[2])
		if n := strings.Count(m[2], "\n"); n > 10 {
			t.Errorf("block %s has %d lines, want at most 10", m[1], n)
		}
	}
	return out
}

// ca is a CA with SPIFFE's or the web's certificates.
type ca struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newCA(t *testing.T, td spiffeid.TrustDomain) *ca {
	t.Helper()
	c := &ca{t: t, key: newKey(t)}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the other side"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	if !td.IsZero() {
		tmpl.URIs = append(tmpl.URIs, td.ID().URL())
	}
	c.cert = c.sign(tmpl, tmpl, c.key)
	return c
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (c *ca) sign(tmpl, parent *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	c.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	return cert
}

// leaf is a server's certificate: for an ID, or for 127.0.0.1.
func (c *ca) leaf(id spiffeid.ID) tls.Certificate {
	c.t.Helper()
	key := newKey(c.t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true}
	if id.IsZero() {
		tmpl.IPAddresses = append(tmpl.IPAddresses, net.IPv4(127, 0, 0, 1))
	} else {
		tmpl.URIs = append(tmpl.URIs, id.URL())
	}
	return tls.Certificate{Certificate: [][]byte{c.sign(tmpl, c.cert, key).Raw}, PrivateKey: key}
}

func (c *ca) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})
}

// signed makes a token.
func signed(t *testing.T, key *ecdsa.PrivateKey, kid string, claims map[string]any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, nil)
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

// What docs/operate/identity.md says is what works: a CI system and a trust domain
// of its own are declared with the lines of the page, a task runs, and a job and a
// workload elsewhere get tokens for it with the page's command; when the task ends,
// they do not. The task has a token of an OAuth server, and it ends too. A part of the task is opened meanwhile, no wider than it, and ends with it.
func TestIdentityPage(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	ciKey, spireKey := newKey(t), newKey(t)
	ci := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/keys" {
			json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: ciKey.Public(), KeyID: "ci", Use: "sig"}}})
			return
		}
		fmt.Fprintf(w, `{"issuer":"https://%s","jwks_uri":"https://%[1]s/keys"}`, r.Host)
	}))
	defer ci.Close()
	// The other trust domain: go-spiffe serves its bundle, as SPIRE does.
	td := spiffeid.RequireTrustDomainFromString("partner.example")
	spire := newCA(t, td)
	bundle := spiffebundle.FromX509Authorities(td, []*x509.Certificate{spire.cert})
	if err := bundle.AddJWTAuthority("spire", spireKey.Public()); err != nil {
		t.Fatal(err)
	}
	doc, err := bundle.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	served, err := federation.NewHandler(td, bundle)
	if err != nil {
		t.Fatal(err)
	}
	endpoint := httptest.NewUnstartedServer(served)
	endpoint.TLS = &tls.Config{Certificates: []tls.Certificate{spire.leaf(spiffeid.RequireFromString("spiffe://partner.example/spire/server"))}}
	endpoint.StartTLS()
	defer endpoint.Close()

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := l.Addr().String()
	l.Close()
	web := newCA(t, spiffeid.TrustDomain{})
	login := leasetest.StartOIDC(t, web.pem(), "spiffe://brightwell.example/agent/helpdesk", "https://"+listen+"/t/brightwell/keys", "https://"+listen+"/t/brightwell", time.Minute)
	var shown atomic.Value // the token that the application was shown last
	orders := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		shown.Store(token)
		if !login.Active(token) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer orders.Close()
	blocks := page(t, strings.NewReplacer("https://ci.example", ci.URL, "https://spire.partner.example:8443/", endpoint.URL+"/", "https://sallyport.example", "https://"+listen, "https://login.example", login.Issuer))
	after := func(file, line, name string) func(map[string][]byte) {
		return rig.Replace(file, line, line+strings.TrimRight(blocks[name], "\n")+"\n")
	}
	r := rig.New(t, rig.Options{Issuer: "https://" + listen, Edit: func(f map[string][]byte) {
		f["ci-ca.pem"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ci.Certificate().Raw})
		f["partner.bundle"] = doc
		after("tenant.yaml", "  reviewers: [lin]\n", "tenant-issuers")(f)
		after("tenant.yaml", "  reviewers: [lin]\n", "tenant-federation")(f)
		after("agent.yaml", "  reviewBy: \"2027-05-31\"\n", "agent-workloads")(f)
		after("capability.yaml", "  credentials: [iam-helpdesk, tickets-helpdesk]\n", "capability-audiences")(f)
		rig.Replace("capability.yaml", "credentials: [iam-helpdesk, tickets-helpdesk]", "credentials: [iam-helpdesk, orders-token, tickets-helpdesk]")(f)
		rig.Replace("capability.yaml", "reads: [iam, tickets]", "reads: [iam, tickets, orders]")(f)
		rig.Replace("agent.yaml", "connectors: [iam, tickets]", "connectors: [iam, tickets, orders]")(f)
		f["orders-ca.pem"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: orders.Certificate().Raw})
		f["orders.yaml"] = fmt.Appendf(nil, "%s---\napiVersion: sallyport/v1\nkind: Connector\nmetadata: {name: orders, tenant: brightwell}\nspec:\n  reads: allow\n"+
			"  stages: {sandbox: {origins: [{name: main, url: %q, local: true, caFile: orders-ca.pem}]}}\n%s", blocks["oauth-source"], orders.URL, blocks["connector-takes"])
	}})
	dir := t.TempDir()
	files := map[string][]byte{"ca.pem": web.pem()}
	cert := web.leaf(spiffeid.ID{})
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	files["cert.pem"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})
	files["key.pem"] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	faces, err := api.Serve(r.Server, api.Config{Data: r.Dir, Listen: listen, Issuer: "https://" + listen,
		TLSCert: filepath.Join(dir, "cert.pem"), TLSKey: filepath.Join(dir, "key.pem"), Bundles: map[string]string{"brightwell": "127.0.0.1:0"}})
	if err != nil {
		t.Fatal(err)
	}
	defer faces.Close()
	rig.Await(t, "the partner's bundle", func() bool {
		id, err := r.Server.Identity(t.Context(), "brightwell")
		return err == nil && len(id.Federations) == 1 && id.Federations[0].Usable && id.Federations[0].Failures == 0
	})
	r.Ready(t)
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	var out rig.Output
	running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, "program", "svids", "stay", orders.URL+"/mine"))
	if err != nil {
		t.Fatal(err)
	}
	rig.Await(t, "the harness's own identity and token", func() bool {
		return strings.Contains(out.String(), "exchanged Bearer iam.user.mfa.reset tickets.ticket.close tickets.ticket.comment")
	})
	rig.Await(t, "the call of an application with the task's token", func() bool { return strings.Contains(out.String(), "called ") })
	if token, _ := shown.Load().(string); !strings.Contains(out.String(), "called 200") || strings.Contains(out.String(), token) || len(login.Labels()) != 1 {
		t.Errorf("the application answers the token wrongly, or the harness has it: %s", out.String())
	}

	now, issuer := time.Now().Unix(), "https://"+listen+"/t/brightwell"
	job := signed(t, ciKey, "ci", map[string]any{"iss": ci.URL, "sub": "repo:acme/desk:ref:refs/heads/main", "aud": issuer, "exp": now + 600, "iat": now})
	fork := signed(t, ciKey, "ci", map[string]any{"iss": ci.URL, "sub": "repo:mallory/desk:ref:refs/heads/main", "aud": issuer, "exp": now + 600, "iat": now})
	svid := signed(t, spireKey, "spire", map[string]any{"sub": "spiffe://partner.example/desk", "aud": []string{issuer}, "exp": now + 600, "iat": now})
	run := func(block, token string) map[string]any {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", blocks[block])
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "TOKEN="+token, "TASK="+x.ID, "no_proxy=*")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		b, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %s", err, stderr.String())
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		return m
	}
	for who, token := range map[string]string{ci.URL + "#repo:acme/desk:ref:refs/heads/main": job, "spiffe://partner.example/desk": svid} {
		m := run("exchange", token)
		tok, _ := m["access_token"].(string)
		if tok == "" {
			t.Errorf("%s: got %v", who, m)
			continue
		}
		b, err := base64.RawURLEncoding.DecodeString(strings.Split(tok, ".")[1])
		if err != nil {
			t.Fatal(err)
		}
		var c struct {
			Sub, Scope string
			Act        struct{ Sub string }
		}
		if err := json.Unmarshal(b, &c); err != nil {
			t.Fatal(err)
		}
		if c.Sub != "spiffe://brightwell.example/agent/helpdesk/task/"+x.ID || c.Act.Sub != who || c.Scope != "tickets.ticket.comment" {
			t.Errorf("%s: got %+v", who, c)
		}
	}
	own := newKey(t)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, own)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "svid.csr"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), 0o600); err != nil {
		t.Fatal(err)
	}
	m := run("certificate", job)
	given, _ := m["x509_svid"].(string)
	if b, _ := pem.Decode([]byte(given)); b == nil || m["spiffe_id"] != "spiffe://brightwell.example/agent/helpdesk/task/"+x.ID+"/workload/ci" {
		t.Errorf("an X.509-SVID for the job: got %v", m)
	} else if c, err := x509.ParseCertificate(b.Bytes); err != nil || !own.PublicKey.Equal(c.PublicKey) {
		t.Errorf("it is for another key: %v", err)
	}
	if m := run("certificate", svid); m["x509_svid"] != nil {
		t.Errorf("a workload that is declared without a name for SVIDs: got %v", m)
	}
	part := rig.Intent(action.Sandbox, "jo", "4711")
	part.Parent = x.ID
	y := r.OpenTask(t, part)
	wide := rig.Intent(action.Sandbox, "ada", "4711")
	wide.Parent = x.ID
	_, err = r.Server.OpenTask(t.Context(), "", rig.As("dana"), wide)
	wantProblem(t, err, "wider_than_parent")
	if m := run("exchange", fork); m["error"] != "invalid_grant" || m["access_token"] != nil {
		t.Errorf("a fork of the repository: got %v", m)
	}
	if _, err := r.Server.Revoke(t.Context(), "", rig.As("ada"), "task/"+x.ID, "the test is over"); err != nil {
		t.Fatal(err)
	}
	if token, _ := shown.Load().(string); login.Active(token) || len(login.Labels()) != 0 {
		t.Error("the token is active after its task")
	}
	rig.Wait(t, running)
	if m := run("exchange", job); m["error"] != "invalid_grant" || m["access_token"] != nil {
		t.Errorf("after the task: got %v", m)
	}
	if y, err = r.Server.Task(t.Context(), "", y.ID); err != nil || y.State != task.Revoked || y.Code != "parent_ended" || len(y.Chain) != 1 {
		t.Errorf("the part of the task: got %s %s %v, %v", y.State, y.Code, y.Chain, err)
	}
	_, err = r.Server.OpenTask(t.Context(), "", rig.As("dana"), part)
	wantProblem(t, err, "parent_not_running")
}

func wantProblem(t *testing.T, err error, code string) {
	t.Helper()
	if p, ok := errors.AsType[*server.Problem](err); !ok || p.Code != code {
		t.Errorf("got %v, want %s", err, code)
	}
}
