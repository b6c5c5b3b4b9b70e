package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/cli"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// event makes a security event token.
func event(t *testing.T, alg jose.SignatureAlgorithm, key any, kid, typ string, claims map[string]any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, (&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
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

// provider is an identity provider that transmits security events.
type provider struct {
	*testing.T
	*httptest.Server
	key      *ecdsa.PrivateKey
	audience string
	client   *http.Client
	n        int
}

func newProvider(t *testing.T) *provider {
	p := &provider{T: t, key: newKey(t)}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/keys":
			json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.key.Public(), KeyID: "idp", Use: "sig"}}})
		case "/.well-known/ssf-configuration", "/.well-known/openid-configuration":
			fmt.Fprintf(w, `{"spec_version":"1_0","issuer":"https://%s","jwks_uri":"https://%[1]s/keys"}`, r.Host)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

// about are the claims of an event about somebody.
func (p *provider) about(kind string, subject, payload map[string]any) map[string]any {
	p.n++
	return map[string]any{"iss": p.URL, "jti": fmt.Sprintf("event-%d", p.n), "iat": time.Now().Unix(), "aud": p.audience, "txn": fmt.Sprintf("txn-%d", p.n),
		"sub_id": subject, "events": map[string]any{"https://schemas.openid.net/secevent/" + kind: payload}}
}

func (p *provider) signed(claims map[string]any) string {
	return event(p.T, jose.ES256, p.key, "idp", "secevent+jwt", claims)
}

// push delivers a token and returns the status and the error code.
func (p *provider) push(set, contentType, authorization string) (int, string) {
	p.Helper()
	r, err := http.NewRequestWithContext(p.Context(), "POST", p.audience+"/ssf/events", strings.NewReader(set))
	if err != nil {
		p.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	resp, err := p.client.Do(r)
	if err != nil {
		p.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.Fatal(err)
	}
	var m map[string]string
	json.Unmarshal(b, &m)
	return resp.StatusCode, m["err"]
}

const agreed = "Bearer of-events"

// send delivers what must be taken.
func (p *provider) send(claims map[string]any) {
	p.Helper()
	if status, err := p.push(p.signed(claims), "application/secevent+jwt", agreed); status != http.StatusAccepted {
		p.Fatalf("%v: got %d %s, want it taken", claims["events"], status, err)
	}
}

func email(who string) map[string]any {
	return map[string]any{"format": "email", "email": who + "@brightwell.example"}
}

// What docs/operate/identity.md says of signals is what works. An identity
// provider's event ends what runs for a person, whatever is forged, replayed or
// late ends nothing, and no event gives anything back; what ended is heard by a
// receiver that verifies it with another's library.
//
// Threats: S1, S2, S3 (door); S3 (approval); S4 (ledger)
func TestSignals(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	p := newProvider(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := l.Addr().String()
	l.Close()
	p.audience = "https://" + listen + "/t/brightwell"
	blocks := page(t, strings.NewReplacer("https://ci.example", p.URL, "https://idp.example", p.URL, "https://sallyport.example", "https://"+listen))
	after := func(file, line, name string) func(map[string][]byte) {
		return rig.Replace(file, line, line+strings.TrimRight(blocks[name], "\n")+"\n")
	}
	r := rig.New(t, rig.Options{Issuer: "https://" + listen, Edit: func(f map[string][]byte) {
		ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})
		f["idp-ca.pem"], f["ci-ca.pem"] = ca, ca
		for _, b := range []string{"tenant-transmitters", "tenant-issuers", "tenant-receivers"} {
			after("tenant.yaml", "  reviewers: [lin]\n", b)(f)
		}
		after("people.yaml", "  roles: [requester]\n", "person-subjects")(f)
		after("credentials.yaml", "  secret: {sealed: iam-helpdesk}\n", "source-roles")(f)
	}})
	if err := r.Server.PutSecret(t.Context(), "", rig.As("sven"), "signals/idp", []byte(agreed)); err != nil {
		t.Fatal(err)
	}
	web, dir := newCA(t, spiffeid.TrustDomain{}), t.TempDir()
	cert := web.leaf(spiffeid.ID{})
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"ca.pem": web.pem(), "cert.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}),
		"key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var faces *api.Faces
	serve := func() {
		t.Helper()
		if faces, err = api.Serve(r.Server, api.Config{Data: r.Dir, Listen: listen, Issuer: "https://" + listen, TLSCert: filepath.Join(dir, "cert.pem"), TLSKey: filepath.Join(dir, "key.pem")}); err != nil {
			t.Fatal(err)
		}
	}
	serve()
	defer func() { faces.Close() }()
	roots := x509.NewCertPool()
	roots.AddCert(web.cert)
	p.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	sh := func(name, token string) (string, int) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", blocks[name])
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "TOKEN="+token, "no_proxy=*")
		out, err := cmd.Output()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	// sallyport runs a command line of the page.
	sallyport := func(name string) (string, int) {
		t.Helper()
		words, quoted := []string{}, strings.Split(strings.TrimSpace(blocks[name]), "'")
		for i, part := range quoted {
			if i%2 == 1 {
				words = append(words, part)
			} else {
				words = append(words, strings.Fields(part)...)
			}
		}
		var out bytes.Buffer
		exit := cli.Run(t.Context(), append(words[1:], "--data", r.Dir), strings.NewReader(""), &out, &out)
		return out.String(), exit
	}

	siem := signed(t, p.key, "idp", map[string]any{"iss": p.URL, "sub": "service:siem", "aud": p.audience, "exp": time.Now().Unix() + 600, "iat": time.Now().Unix()})
	thief := signed(t, p.key, "idp", map[string]any{"iss": p.URL, "sub": "service:other", "aud": p.audience, "exp": time.Now().Unix() + 600, "iat": time.Now().Unix()})
	if out, _ := sh("stream", thief); !strings.Contains(out, "Unauthorized") {
		t.Errorf("a workload that is no receiver: got %s", out)
	}
	if out, _ := sh("stream", siem); !strings.Contains(out, `"stream_id"`) || !strings.Contains(out, `"aud":"siem"`) {
		t.Fatalf("the page's stream: got %s", out)
	}

	r.Ready(t)
	proposed := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	var out rig.Output
	running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, "program", "svids", "stay"))
	if err != nil {
		t.Fatal(err)
	}
	forged(t, p)
	quiet := map[string]map[string]any{
		"nobody here":                 p.about("caep/event-type/session-revoked", email("nobody"), map[string]any{}),
		"another issuer's subject":    p.about("caep/event-type/session-revoked", map[string]any{"format": "iss_sub", "iss": "https://other.example", "sub": "00u1dana"}, map[string]any{}),
		"a format not declared":       p.about("caep/event-type/session-revoked", map[string]any{"format": "opaque", "id": "00u1dana"}, map[string]any{}),
		"a key that was added":        p.about("caep/event-type/credential-change", email("dana"), map[string]any{"change_type": "create", "credential_type": "fido2-roaming"}),
		"a risk":                      p.about("caep/event-type/risk-level-change", email("dana"), map[string]any{"current_level": "HIGH", "principal": "USER"}),
		"a type that nobody knows":    p.about("example/event-type/unknown", email("dana"), map[string]any{}),
		"a verification":              p.about("ssf/event-type/verification", map[string]any{"format": "opaque", "id": "stream-1"}, map[string]any{"state": "x"}),
		"an auditor, who has no task": p.about("caep/event-type/session-revoked", email("lin"), map[string]any{}),
	}
	for _, c := range quiet {
		p.send(c)
	}
	if y, err := r.Server.Task(t.Context(), "", x.ID); err != nil || y.State != task.Active {
		t.Fatalf("after what ends nothing, the task is %s, %v", y.State, err)
	}

	ended := p.about("caep/event-type/session-revoked", map[string]any{"format": "complex", "user": map[string]any{"format": "iss_sub", "iss": p.URL, "sub": "00u1dana"},
		"session": map[string]any{"format": "opaque", "id": "s1"}}, map[string]any{"reason_admin": map[string]string{"en": "Landspeed policy"}, "event_timestamp": time.Now().Unix()})
	p.send(ended)
	rig.Wait(t, running)
	for _, id := range []string{x.ID, proposed.ID} {
		rig.Await(t, "the end of "+id, func() bool {
			y, err := r.Server.Task(t.Context(), "", id)
			return err == nil && y.State == task.Revoked && y.Code == "barred"
		})
	}
	leases, err := r.Server.Leases(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, y := range leases {
		if y.State != "revoked" {
			t.Errorf("lease %s is %s", y.ID, y.State)
		}
	}
	p.send(ended) // again: taken, and on record once
	var body struct {
		JTI, Txn, Issuer, Reason, Effect string
		People, Tasks                    []string
	}
	times := 0
	for _, e := range r.Records(t, 0) {
		if e.Type == "signal.received" && strings.Contains(string(e.Body), ended["jti"].(string)+`"`) {
			times++
			if err := json.Unmarshal(e.Body, &body); err != nil {
				t.Fatal(err)
			}
		}
	}
	if slices.Sort(body.Tasks); times != 1 || body.Txn != ended["txn"] || body.Issuer != p.URL || body.Reason != "Landspeed policy" || !slices.Equal(body.People, []string{"dana"}) || len(body.Tasks) != 2 {
		t.Errorf("on record %d times: %+v", times, body)
	}
	again, owned := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711")), r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711")) // she signed in again
	if running, err = r.Server.Run(t.Context(), "", again.ID, rig.Harness(t, &out, "program", "svids", "stay")); err != nil {
		t.Fatal(err)
	}
	rig.Await(t, "tom to have the session", func() bool {
		_, err := r.Server.Take(t.Context(), "", rig.As("tom"), again.ID, "to look", time.Minute)
		return err == nil
	})
	p.send(p.about("caep/event-type/session-revoked", email("tom"), map[string]any{}))
	if y := rig.Wait(t, running); y.State != task.Revoked || y.Code != "barred" {
		t.Errorf("the session that he had: %s %s", y.State, y.Code)
	}
	p.send(p.about("risc/event-type/sessions-revoked", email("mara"), map[string]any{}))
	rig.Await(t, "the end of a task of her agent", func() bool {
		y, err := r.Server.Task(t.Context(), "", owned.ID)
		return err == nil && y.State == task.Revoked && y.Code == "barred"
	})

	locks(t, r, p, func() {
		faces.Close()
		if err := r.CloseServer(); err != nil {
			t.Fatal(err)
		}
		if err := r.Open(); err != nil {
			t.Fatal(err)
		}
		serve()
	}, sallyport)
	if out, exit := sallyport("separation"); exit != 1 || !strings.Contains(out, "noor is database administrator of CredentialSource/") || !strings.Contains(out, "needs the approval of felix or ines") {
		t.Errorf("separation: exit %d\n%s", exit, out)
	}
	report, err := r.Server.Readiness(t.Context(), "", "helpdesk", false)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := json.Marshal(report); err != nil || !strings.Contains(string(b), "noor can reach rules and secrets: noor has the role policy-author; noor is database administrator of CredentialSource/iam-helpdesk") {
		t.Errorf("readiness does not say the way: %v\n%s", err, b)
	}
	heard(t, web.pem(), p.audience, siem, x.ID)
}

// forged is every token that must not be taken: by what it is refused, as RFC 8935
// says it.
func forged(t *testing.T, p *provider) {
	good := func() map[string]any {
		return p.about("caep/event-type/session-revoked", email("dana"), map[string]any{})
	}
	with := func(name string, v any) map[string]any {
		c := good()
		if c[name] = v; v == nil {
			delete(c, name)
		}
		return c
	}
	public, err := x509.MarshalPKIXPublicKey(p.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	mallory := newKey(t)
	raw := func(header string, claims map[string]any) string {
		b, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(p.signed(claims), ".")
		return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString(b) + "." + parts[2]
	}
	const ok = "application/secevent+jwt"
	for _, c := range []struct{ name, set, contentType, authorization, code string }{
		{"no_authorization", p.signed(good()), ok, "", "authentication_failed"},
		{"another_authorization", p.signed(good()), ok, "Bearer of-nothing", "authentication_failed"},
		{"as_json", p.signed(good()), "application/json", agreed, "invalid_request"},
		{"nothing", "", ok, agreed, "invalid_request"},
		{"another_key", event(t, jose.ES256, mallory, "idp", "secevent+jwt", good()), ok, agreed, "invalid_key"},
		{"symmetric_with_the_public_key", event(t, jose.HS256, public, "idp", "secevent+jwt", good()), ok, agreed, "invalid_key"},
		{"alg_none", raw(`{"alg":"none","typ":"secevent+jwt","kid":"idp"}`, good()), ok, agreed, "invalid_key"},
		{"brings_its_key", raw(`{"alg":"ES256","typ":"secevent+jwt","kid":"idp","jwk":{}}`, good()), ok, agreed, "invalid_request"},
		{"says_where_its_key_is", raw(`{"alg":"ES256","typ":"secevent+jwt","kid":"idp","jku":"https://evil.example"}`, good()), ok, agreed, "invalid_request"},
		{"critical_header", raw(`{"alg":"ES256","typ":"secevent+jwt","kid":"idp","crit":["b64"],"b64":false}`, good()), ok, agreed, "invalid_request"},
		{"an_id_token", event(t, jose.ES256, p.key, "idp", "JWT", good()), ok, agreed, "invalid_request"},
		{"a_logout_token", event(t, jose.ES256, p.key, "idp", "logout+jwt", good()), ok, agreed, "invalid_request"},
		{"another_issuer", p.signed(with("iss", "https://other.example")), ok, agreed, "invalid_issuer"},
		{"another_audience", p.signed(with("aud", "https://other.example")), ok, agreed, "invalid_audience"},
		{"no_audience", p.signed(with("aud", nil)), ok, agreed, "invalid_request"},
		{"stale", p.signed(with("iat", time.Now().Add(-25*time.Hour).Unix())), ok, agreed, "invalid_request"},
		{"of_the_future", p.signed(with("iat", time.Now().Add(time.Hour).Unix())), ok, agreed, "invalid_request"},
		{"with_exp", p.signed(with("exp", time.Now().Add(time.Hour).Unix())), ok, agreed, "invalid_request"},
		{"with_sub", p.signed(with("sub", "dana")), ok, agreed, "invalid_request"},
		{"no_subject", p.signed(with("sub_id", nil)), ok, agreed, "invalid_request"},
	} {
		if status, code := p.push(c.set, c.contentType, c.authorization); status != http.StatusBadRequest || code != c.code {
			t.Errorf("%s: got %d %s, want 400 %s", c.name, status, code, c.code)
		}
	}
	// The keys were asked for a moment ago, and this may be a newer one.
	if status, code := p.push(event(t, jose.ES256, p.key, "other", "secevent+jwt", good()), ok, agreed); status != http.StatusServiceUnavailable {
		t.Errorf("a key that was not looked for: got %d %s, want 503: send it again", status, code)
	}
}

// locks: an account that was disabled approves nothing, opens nothing and changes
// nothing, also after a restart, until a person gives it back; an event does not.
func locks(t *testing.T, r *rig.Rig, p *provider, restart func(), sallyport func(string) (string, int)) {
	r.StopApprover()
	all, err := r.Resources(func(f map[string][]byte) {
		rig.Replace("capability.yaml", "  description: Reset", "  description: Again, reset")(f)
	})
	if err != nil {
		t.Fatal(err)
	}
	all = slices.DeleteFunc(all, func(x resource.Resource) bool { return x.Kind != resource.KindCapability })
	if _, err := r.Server.Apply(t.Context(), rig.As("noor"), all); err != nil {
		t.Fatal(err)
	}
	var a approval.Approval
	for _, b := range r.Pending(t) {
		if b.Statement.Kind == approval.Capability {
			a = b
		}
	}
	p.send(p.about("caep/event-type/session-revoked", email("felix"), map[string]any{}))
	wantProblem(t, r.Sign(t.Context(), a, "felix"), "asked_before")
	p.send(p.about("risc/event-type/account-disabled", email("ines"), map[string]any{"reason": "hijacking"}))
	p.send(p.about("risc/event-type/account-enabled", email("ines"), map[string]any{}))
	p.send(p.about("caep/event-type/session-revoked", email("ines"), map[string]any{}))
	for _, when := range []string{"now", "after a restart"} {
		wantProblem(t, r.Sign(t.Context(), a, "ines"), "person_locked")
		_, err = r.Server.Reject(t.Context(), "", rig.As("ines"), a.ID(), "no")
		wantProblem(t, err, "person_locked")
		_, err = r.Server.Reinstate(t.Context(), "", rig.As("ines"), "ines", "it is me", false)
		wantProblem(t, err, "person_locked")
		if when == "now" {
			restart()
		}
	}
	_, err = r.Server.Reinstate(t.Context(), "", rig.As("noor"), "ines", "please", false)
	wantProblem(t, err, "role_missing")
	if out, exit := sallyport("reinstate"); exit != 0 || strings.Contains(out, "ines") {
		t.Fatalf("reinstate: exit %d\n%s", exit, out)
	}
	if err := r.Sign(t.Context(), a, "ines"); err != nil {
		t.Errorf("reinstated, and %v", err)
	}
}

// heard is what another's library verifies of our events.
func heard(t *testing.T, ca []byte, issuer, token, of string) {
	t.Helper()
	line := leasetest.StartNode(t, ca, "receiver.mjs", issuer, token, "2")
	var sets []struct {
		Txn    string
		Sub    struct{ Format, URI string } `json:"sub_id"`
		Events map[string]map[string]any
	}
	if err := json.Unmarshal([]byte(line), &sets); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	verified, revoked := false, false
	for _, set := range sets {
		e := set.Events["https://schemas.openid.net/secevent/caep/event-type/session-revoked"]
		revoked = revoked || e != nil && set.Txn == of && set.Sub.URI == "spiffe://brightwell.example/agent/helpdesk/task/"+of
		v := set.Events["https://schemas.openid.net/secevent/ssf/event-type/verification"]
		verified = verified || v != nil && v["state"] == "abc"
	}
	if !verified || !revoked {
		t.Errorf("verified %v, revoked %v, of:\n%s", verified, revoked, line)
	}
}
