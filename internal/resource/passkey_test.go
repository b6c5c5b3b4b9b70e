package resource_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/receipt"
)

func passkeyYAML(id, public, rpID, origins string) string {
	return person + "  displayName: I\n  roles: [approver]\n  passkeys:\n  - {id: '" + id + "', publicKey: \"" + strings.ReplaceAll(public, "\n", `\n`) + "\", rpId: '" + rpID + "', origins: " + origins + "}\n"
}

func TestPasskeys(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := x509.MarshalPKIXPublicKey(&p384.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	std := base64.StdEncoding.EncodeToString(der)
	want, err := receipt.PasskeyLine("acme.example", []string{"https://acme.example", "https://sp.acme.example"}, "AAAA", der)
	if err != nil {
		t.Fatal(err)
	}
	for name, public := range map[string]string{
		"base64": std, "base64url": base64.RawURLEncoding.EncodeToString(der),
		"pem": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
	} {
		rs, err := decode(passkeyYAML("AAAA", public, "acme.example", "['https://sp.acme.example', 'https://acme.example']"))
		if err != nil {
			t.Fatalf("%s: got %v", name, err)
		}
		if got := rs[0].Spec.(*resource.PersonSpec).ApprovalKeys(); len(got) != 1 || got[0] != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	for name, text := range map[string]string{
		"no_id":            passkeyYAML("", std, "acme.example", "['https://acme.example']"),
		"no_key":           passkeyYAML("AAAA", "", "acme.example", "['https://acme.example']"),
		"private_key":      passkeyYAML("AAAA", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), "acme.example", "['https://acme.example']"),
		"curve_P384":       passkeyYAML("AAAA", base64.StdEncoding.EncodeToString(weak), "acme.example", "['https://acme.example']"),
		"no_origin":        passkeyYAML("AAAA", std, "acme.example", "[]"),
		"origin_of_others": passkeyYAML("AAAA", std, "acme.example", "['https://evil.example']"),
		"origin_http":      passkeyYAML("AAAA", std, "acme.example", "['http://acme.example']"),
		"unknown_field":    strings.Replace(passkeyYAML("AAAA", std, "acme.example", "['https://acme.example']"), "rpId", "rpID", 1),
	} {
		if _, err := decode(text); err == nil || !strings.Contains(err.Error(), "passkeys[0]") {
			t.Errorf("%s: got %v, want a refusal that names the field", name, err)
		}
	}
}

// One private key belongs to one person, in whatever form it is declared.
func TestPasskeyOfTwoPeople(t *testing.T) {
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	line, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	text := "apiVersion: sallyport/v1\nkind: Tenant\nmetadata: {name: acme}\nspec: {displayName: A, trustDomain: acme.example}\n---\n" +
		passkeyYAML("AAAA", base64.StdEncoding.EncodeToString(der), "acme.example", "['https://acme.example']") + "---\n" +
		strings.Replace(person, "ines", "felix", 1) + "  displayName: F\n  roles: [approver]\n  sshKeys: ['" + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(line))) + "']\n"
	rs, err := decode(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := resource.Validate(rs); err == nil || !strings.Contains(err.Error(), "is the key of ines already") {
		t.Errorf("got %v, want the key refused", err)
	}
}

// A security key may be asked to verify its user; nothing else may be asked.
func TestKeyOptions(t *testing.T) {
	raw := ssh.Marshal(struct{ Type, Key, App string }{ssh.KeyAlgoSKED25519, strings.Repeat("k", 32), "ssh:"})
	sk := ssh.KeyAlgoSKED25519 + " " + base64.StdEncoding.EncodeToString(raw)
	for key, ok := range map[string]bool{
		sk: true, "verify-required " + sk: true, "no-touch-required " + sk: false, "verify-required,no-touch-required " + sk: false,
		`command="x" ` + sk: false,
		"verify-required ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS": false,
	} {
		if _, err := decode(person + "  displayName: I\n  roles: [owner]\n  sshKeys: ['" + key + "']\n"); (err == nil) != ok {
			t.Errorf("%.40s: got %v, want ok %v", key, err, ok)
		}
	}
}
