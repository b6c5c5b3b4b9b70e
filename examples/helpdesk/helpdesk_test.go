package helpdesk_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"math/big"
	"path"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/examples/helpdesk"
	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/capability"
	"github.com/sallyport-dev/sallyport/internal/estate/agent"
	"github.com/sallyport-dev/sallyport/internal/policy"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// beside stands for the folder that the client reads from: the embedded files,
// and what the demo makes anew: keys and a certificate.
func beside(t *testing.T) func(from, name string) ([]byte, error) {
	keys := map[string][]byte{}
	return func(from, name string) ([]byte, error) {
		switch {
		case strings.HasPrefix(name, "keys/"):
			if keys[name] == nil {
				pub, _, err := ed25519.GenerateKey(rand.Reader)
				if err != nil {
					return nil, err
				}
				k, err := ssh.NewPublicKey(pub)
				if err != nil {
					return nil, err
				}
				keys[name] = ssh.MarshalAuthorizedKey(k)
			}
			return keys[name], nil
		case strings.HasSuffix(name, "-ca.pem"):
			return certificate(t), nil
		}
		return fs.ReadFile(helpdesk.Files, path.Join(path.Dir(from), name))
	}
}

func certificate(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func load(t *testing.T) []resource.Resource {
	t.Helper()
	names, err := fs.Glob(helpdesk.Files, "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var sources []resource.Source
	for _, n := range names {
		b, err := fs.ReadFile(helpdesk.Files, n)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, resource.Source{Name: n, Data: b})
	}
	all, err := resource.Decode(sources)
	if err != nil {
		t.Fatalf("decode:\n%v", err)
	}
	if err := resource.Inline(all, beside(t)); err != nil {
		t.Fatalf("inline:\n%v", err)
	}
	return all
}

func TestExamplesAreValid(t *testing.T) {
	all := load(t)
	if err := resource.Validate(all); err != nil {
		t.Fatalf("validate:\n%v", err)
	}
	for _, r := range all {
		b, err := r.Canonical()
		if err != nil {
			t.Fatal(err)
		}
		back, err := resource.FromCanonical(b)
		if err != nil {
			t.Fatalf("%s %s: read back: %v", r.Kind, r.Metadata.Name, err)
		}
		sent, err := resource.Receive([][]byte{b})
		if err != nil || sent[0].Digest != r.Digest {
			t.Errorf("%s %s: received as %v, %v", r.Kind, r.Metadata.Name, sent, err)
		}
		if back.Digest != r.Digest {
			t.Errorf("%s %s: digest %s after reading back, want %s", r.Kind, r.Metadata.Name, back.Digest, r.Digest)
		}
	}
	if _, err := resource.Connectors(all, "brightwell"); err != nil {
		t.Error(err)
	}
}

// TestPromptIsTheHarness: the declared prompt is the one that the built-in
// harness sends; another one would be drift from the first call on.
func TestPromptIsTheHarness(t *testing.T) {
	a, _ := resource.Of[resource.AgentSpec](load(t), "brightwell", "helpdesk")
	if got, want := a.SystemPrompt.Text, agent.SystemPrompt(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPoliciesPassTheirOwnCases(t *testing.T) {
	all := load(t)
	set, _ := resource.Of[policy.SetSpec](all, "brightwell", "company")
	for _, p := range policy.Check(set.Files(), resource.Vocabulary(all, "brightwell")) {
		t.Errorf("%s: %s", p.Severity, p)
	}
	rep, err := resource.TestPolicies(all, "brightwell", "company")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rep.Results {
		if r.Problem != "" {
			t.Errorf("%s: %s", r.Name, r.Problem)
		}
	}
	for _, id := range rep.Untested {
		t.Errorf("no case is decided by %s", id)
	}
}

// TestFromRequestToDecision goes the whole way: the bytes that the estate's own
// pages send, the connector, the capability, the policy.
func TestFromRequestToDecision(t *testing.T) {
	all := load(t)
	set, err := resource.Connectors(all, "brightwell")
	if err != nil {
		t.Fatal(err)
	}
	guardrails, err := resource.Guardrails(all, "brightwell", "company")
	if err != nil {
		t.Fatal(err)
	}
	c, _ := resource.Of[capability.Spec](all, "brightwell", "reset-mfa")
	in, err := c.Instantiate("reset-mfa", map[string]string{"user": "jo", "ticket": "4711"})
	if err != nil {
		t.Fatal(err)
	}
	grant, err := policy.CompileGrant(resource.Grant(in, "brightwell", "helpdesk", "T1", resource.DeclaredIn(all, "brightwell")))
	if err != nil {
		t.Fatal(err)
	}
	const iam, tickets = "https://iam.brightwell.localhost:8643", "https://tickets.brightwell.localhost:8643"
	const form = "application/x-www-form-urlencoded"
	for _, tt := range []struct {
		name, method, origin, path, typ, body string
		unexplained                           bool
		want                                  action.Verdict
		code                                  string
	}{
		{name: "user page", method: "GET", origin: iam, path: "/users/jo", want: action.Allow, code: "permitted"},
		{name: "stylesheet", method: "GET", origin: iam, path: "/static/app.css", want: action.Allow, code: "permitted"},
		{name: "reset", method: "POST", origin: iam, path: "/users/jo/mfa/reset", typ: form, body: "_csrf=abc", want: action.Hold, code: "needs_approval"},
		{name: "reset of another", method: "POST", origin: iam, path: "/users/ana/mfa/reset", typ: form, body: "_csrf=abc", want: action.Deny, code: "outside_grant"},
		{name: "reset by another spelling", method: "POST", origin: iam, path: "/users/%6ao/mfa/reset", typ: form, body: "_csrf=abc", want: action.Deny, code: "unmatched_write"},
		{name: "admin by form", method: "POST", origin: iam, path: "/groups/global-administrators/members", typ: form, body: "_csrf=a&user=svc-helpdesk", want: action.Deny, code: "global_administrators"},
		{name: "admin by API", method: "POST", origin: iam, path: "/api/groups/global-administrators/members", typ: "application/json", body: `{"user":"jo"}`, want: action.Deny, code: "global_administrators"},
		{name: "comment", method: "POST", origin: tickets, path: "/tickets/4711/comments", typ: form, body: "_csrf=a&body=Done.%0D%0AThanks", want: action.Allow, code: "permitted"},
		{name: "comment elsewhere", method: "POST", origin: tickets, path: "/tickets/4712/comments", typ: form, body: "_csrf=a&body=x", want: action.Deny, code: "outside_grant"},
		{name: "close", method: "POST", origin: tickets, path: "/tickets/4711/close", typ: form, body: "_csrf=a", want: action.Allow, code: "permitted"},
		{name: "close by script", method: "POST", origin: tickets, path: "/tickets/4711/close", typ: form, body: "_csrf=a", unexplained: true, want: action.Hold, code: "needs_approval"},
		{name: "delete", method: "POST", origin: tickets, path: "/tickets/4711/delete", typ: form, body: "_csrf=a", want: action.Deny, code: "outside_grant"},
		{name: "sign out", method: "POST", origin: iam, path: "/logout", typ: form, body: "_csrf=a", want: action.Deny, code: "unmatched_write"},
		{name: "mail", method: "GET", origin: "https://mail.brightwell.localhost:8643", path: "/inbox", want: action.Deny, code: "ungoverned_origin"},
		{name: "collector", method: "POST", origin: "https://evil.localhost:8643", path: "/collect", body: "x", want: action.Deny, code: "ungoverned_origin"},
		{name: "sandbox from production", method: "GET", origin: "https://iam.sandbox.brightwell.localhost:8644", path: "/users/jo", want: action.Deny, code: "ungoverned_origin"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			r := action.Request{Method: tt.method, Origin: tt.origin, Path: tt.path, BodyType: tt.typ, BodySize: int64(len(tt.body)), BodyDigest: canon.Digest([]byte(tt.body))}
			m, err := set.Recognize(action.Production, r, []byte(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			a := action.Action{Tenant: "brightwell", Task: "T1", Agent: "helpdesk", Surface: action.Egress, Operation: m.Operation,
				Effect: m.Effect, App: m.Connector, Params: m.Params, Labels: m.Labels, Request: &r, Explained: "A1"}
			if tt.unexplained {
				a.Explained = ""
			}
			input := policy.Input{Action: a, Stage: action.Production, Tier: "privileged", TaskParams: in.Params, Certified: true}
			d := policy.Evaluate(guardrails, grant, input)
			if d.Verdict != tt.want || d.Code != tt.code {
				t.Errorf("got %s %s, want %s %s\n%s", d.Verdict, d.Code, tt.want, tt.code, policy.Explain(input, d))
			}
		})
	}
}
