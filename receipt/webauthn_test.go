package receipt_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/receipt"
)

// authenticator plays browser and authenticator of one credential: WebAuthn
// level 3, sections 5.8.1 and 6.3.3.
type authenticator struct {
	key     crypto.Signer
	id      string
	rpID    string
	origin  string
	flags   byte
	counter uint32
	client  func(challenge string) []byte // nil: as browsers write it
	pad     []byte                        // after the authenticator data
}

func newAuthenticator(t testing.TB, kind string) *authenticator {
	t.Helper()
	a := &authenticator{id: "Y3JlZGVudGlhbA", rpID: "example.org", origin: "https://approve.example.org", flags: 5, counter: 7}
	var err error
	switch kind {
	case "ES256":
		a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		a.key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "EdDSA":
		_, a.key, err = ed25519.GenerateKey(rand.Reader)
	case "RS256":
		a.key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authenticator) spki(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(a.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (a *authenticator) line(t testing.TB) string {
	t.Helper()
	l, err := receipt.PasskeyLine("example.org", []string{"https://approve.example.org"}, "Y3JlZGVudGlhbA", a.spki(t))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (a *authenticator) get(t testing.TB, message []byte) receipt.Assertion {
	t.Helper()
	sum := sha256.Sum256(message)
	challenge := base64.RawURLEncoding.EncodeToString(sum[:])
	client := []byte(`{"type":"webauthn.get","challenge":"` + challenge + `","origin":"` + a.origin + `","crossOrigin":false}`)
	if a.client != nil {
		client = a.client(challenge)
	}
	rp := sha256.Sum256([]byte(a.rpID))
	data := binary.BigEndian.AppendUint32(append(rp[:], a.flags), a.counter)
	data = append(data, a.pad...)
	hash := sha256.Sum256(client)
	signed := append(bytes.Clone(data), hash[:]...)
	var opts crypto.SignerOpts = crypto.Hash(0)
	if _, ok := a.key.(ed25519.PrivateKey); !ok {
		d := sha256.Sum256(signed)
		signed, opts = d[:], crypto.SHA256
	}
	sig, err := a.key.Sign(rand.Reader, signed, opts)
	if err != nil {
		t.Fatal(err)
	}
	return receipt.Assertion{ID: a.id, AuthenticatorData: data, ClientData: client, Signature: sig}
}

func TestPasskeyApproval(t *testing.T) {
	msg := []byte(`{"v":1}`)
	for _, kind := range []string{"ES256", "EdDSA", "RS256"} {
		t.Run(kind, func(t *testing.T) {
			a, other := newAuthenticator(t, kind), newAuthenticator(t, kind)
			text := a.get(t, msg).String()
			who, err := receipt.VerifyApproval(msg, text, []string{other.line(t), a.line(t)}, receipt.SSHPolicy{RequireVerification: true, RequireHardware: true})
			if err != nil || !who.Verified || !who.Present || !who.Hardware || who.Counter != 7 || who.Key != a.line(t) {
				t.Fatalf("got %+v, %v", who, err)
			}
			for name, keys := range map[string][]string{"no_key": nil, "another_person's_key": {other.line(t)}, "malformed_key": {"webauthn x"}} {
				if _, err := receipt.VerifyApproval(msg, text, keys, receipt.SSHPolicy{}); !errors.Is(err, receipt.ErrSignature) {
					t.Errorf("%s: got %v, want a refusal", name, err)
				}
			}
			if _, err := receipt.VerifyApproval([]byte(`{"v":2}`), text, []string{a.line(t)}, receipt.SSHPolicy{}); !errors.Is(err, receipt.ErrSignature) {
				t.Errorf("other statement: got %v, want a refusal", err)
			}
			// No bit of what was signed, nor of the signature, may differ.
			for _, part := range []func(*receipt.Assertion) []byte{
				func(x *receipt.Assertion) []byte { return x.AuthenticatorData },
				func(x *receipt.Assertion) []byte { return x.ClientData },
				func(x *receipt.Assertion) []byte { return x.Signature },
			} {
				x := a.get(t, msg)
				for i := range part(&x) {
					part(&x)[i] ^= 1
					if _, err := receipt.VerifyApproval(msg, x.String(), []string{a.line(t)}, receipt.SSHPolicy{}); err == nil {
						t.Errorf("flipped bit in byte %d: accepted", i)
					}
					part(&x)[i] ^= 1
				}
			}
		})
	}
}

// Each case is a real assertion by the right key that is wrong in one thing.
func TestPasskeyRefused(t *testing.T) {
	msg := []byte(`{"v":1}`)
	clientData := func(format string) func(*authenticator) {
		return func(a *authenticator) {
			a.client = func(c string) []byte { return []byte(strings.ReplaceAll(format, "CHALLENGE", c)) }
		}
	}
	const good = `"type":"webauthn.get","challenge":"CHALLENGE","origin":"https://approve.example.org"`
	for name, c := range map[string]struct {
		edit func(*authenticator)
		want string // "" means that it counts
	}{
		"as_it_should_be":             {func(*authenticator) {}, ""},
		"without_crossOrigin":         {clientData(`{` + good + `}`), ""},
		"with_members_of_the_future":  {clientData(`{` + good + `,"crossOrigin":false,"other_keys_can_be_added_here":"x"}`), ""},
		"members_in_another_order":    {clientData(`{"origin":"https://approve.example.org","challenge":"CHALLENGE","type":"webauthn.get"}`), ""},
		"user_not_verified":           {func(a *authenticator) { a.flags = 0x01 }, "did not verify its user"},
		"not_touched":                 {func(a *authenticator) { a.flags = 0x04 }, "not touched"},
		"no_flags":                    {func(a *authenticator) { a.flags = 0 }, "not touched"},
		"backed_up_but_not_eligible":  {func(a *authenticator) { a.flags = 0x15 }, "eligible"},
		"attested_data_flag":          {func(a *authenticator) { a.flags = 0x45 }, "not there"},
		"extension_flag":              {func(a *authenticator) { a.flags = 0x85 }, "not there"},
		"extension_data":              {func(a *authenticator) { a.flags = 0x85; a.pad = []byte{0xa0} }, "bytes, want 37"},
		"data_after":                  {func(a *authenticator) { a.pad = []byte{0} }, "bytes, want 37"},
		"other_relying_party":         {func(a *authenticator) { a.rpID = "evil.example" }, "relying party"},
		"parent_relying_party":        {func(a *authenticator) { a.rpID = "org" }, "relying party"},
		"other_origin":                {func(a *authenticator) { a.origin = "https://evil.example" }, "origin"},
		"sibling_origin":              {func(a *authenticator) { a.origin = "https://wiki.example.org" }, "origin"},
		"other_port":                  {func(a *authenticator) { a.origin = "https://approve.example.org:8443" }, "origin"},
		"plain_http":                  {func(a *authenticator) { a.origin = "http://approve.example.org" }, "origin"},
		"origin_with_path":            {func(a *authenticator) { a.origin = "https://approve.example.org/" }, "origin"},
		"origin_that_begins_alike":    {func(a *authenticator) { a.origin = "https://approve.example.org.evil.example" }, "origin"},
		"cross_origin":                {clientData(`{` + good + `,"crossOrigin":true}`), "another origin"},
		"cross_origin_as_text":        {clientData(`{` + good + `,"crossOrigin":"false"}`), "another origin"},
		"top_origin":                  {clientData(`{` + good + `,"crossOrigin":false,"topOrigin":"https://evil.example"}`), "another origin"},
		"registration":                {clientData(strings.ReplaceAll(`{`+good+`}`, "webauthn.get", "webauthn.create")), "type"},
		"payment":                     {clientData(strings.ReplaceAll(`{`+good+`}`, "webauthn.get", "payment.get")), "type"},
		"no_type":                     {clientData(`{"challenge":"CHALLENGE","origin":"https://approve.example.org"}`), "type"},
		"challenge_of_another":        {clientData(strings.ReplaceAll(`{`+good+`}`, "CHALLENGE", "AAAA")), "challenge"},
		"challenge_padded":            {clientData(strings.ReplaceAll(`{`+good+`}`, "CHALLENGE", "CHALLENGE=")), "challenge"},
		"origin_twice":                {clientData(`{` + good + `,"origin":"https://evil.example"}`), "duplicate"},
		"origin_in_other_case":        {clientData(`{"type":"webauthn.get","challenge":"CHALLENGE","origin":"https://evil.example","Origin":"https://approve.example.org"}`), "origin"},
		"challenge_in_other_case":     {clientData(`{"type":"webauthn.get","challenge":"AAAA","CHALLENGE":"CHALLENGE","origin":"https://approve.example.org"}`), "challenge"},
		"byte_order_mark":             {clientData("\ufeff{" + good + "}"), "client data"},
		"data_after_the_client_data":  {clientData(`{` + good + `}{}`), "client data"},
		"client_data_is_a_list":       {clientData(`[{` + good + `}]`), "client data"},
		"client_data_is_null":         {clientData(`null`), "type"},
		"another_credential's_id":     {func(a *authenticator) { a.id = "b3RoZXI" }, "not one of those allowed"},
		"credential_id_spelled_other": {func(a *authenticator) { a.id = "Y3JlZGVudGlhbB" }, "not one of those allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAuthenticator(t, "ES256")
			line := a.line(t)
			c.edit(a)
			who, err := receipt.VerifyApproval(msg, a.get(t, msg).String(), []string{line}, receipt.SSHPolicy{})
			switch {
			case c.want == "" && err != nil:
				t.Errorf("got %v, want it to count", err)
			case c.want != "" && (!errors.Is(err, receipt.ErrSignature) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %+v, %v; want a refusal with %q", who, err, c.want)
			}
		})
	}
	a := newAuthenticator(t, "ES256")
	a.flags = 0x1d // may be, and is, copied to other devices
	if _, err := receipt.VerifyApproval(msg, a.get(t, msg).String(), []string{a.line(t)}, receipt.SSHPolicy{RequireHardware: true}); err == nil {
		t.Error("copied credential where hardware is asked: accepted")
	}
}

// An assertion has one spelling in a record.
func TestAssertionSpelling(t *testing.T) {
	msg := []byte(`{"v":1}`)
	a := newAuthenticator(t, "EdDSA")
	text := a.get(t, msg).String()
	for name, bad := range map[string]string{
		"white_space":     strings.Replace(text, `,"type"`, `, "type"`, 1),
		"unknown_member":  strings.Replace(text, `"type"`, `"also":1,"type"`, 1),
		"member_in_case":  strings.Replace(text, `"type"`, `"Type"`, 1),
		"duplicate":       strings.Replace(text, `"type"`, `"type":"public-key","type"`, 1),
		"other_type":      strings.Replace(text, "public-key", "password", 1),
		"padded":          strings.Replace(text, `","signature"`, `=","signature"`, 1),
		"newline_after":   text + "\n",
		"nothing":         "{}",
		"cut":             text[:len(text)-1],
		"larger":          `{"id":"` + strings.Repeat("A", 40<<10) + `"}`,
		"not_a_signature": "{",
	} {
		if bad == text {
			t.Fatalf("%s: nothing was changed", name)
		}
		if _, err := receipt.VerifyApproval(msg, bad, []string{a.line(t)}, receipt.SSHPolicy{}); !errors.Is(err, receipt.ErrSignature) {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
	var back map[string]any
	if err := json.Unmarshal([]byte(text), &back); err != nil || back["type"] != "public-key" {
		t.Errorf("got %v, %v", back, err)
	}
}

func TestPasskeyLineRefused(t *testing.T) {
	ok := newAuthenticator(t, "ES256")
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Log("no RSA key of 1024 bits is made by this Go version:", err)
	}
	for name, c := range map[string]struct {
		rpID    string
		origins []string
		id      string
		spki    []byte
	}{
		"no_origin":              {"example.org", nil, "AAAA", ok.spki(t)},
		"origin_of_others":       {"example.org", []string{"https://example.com"}, "AAAA", ok.spki(t)},
		"origin_begins_alike":    {"example.org", []string{"https://evilexample.org"}, "AAAA", ok.spki(t)},
		"origin_over_http":       {"example.org", []string{"http://example.org"}, "AAAA", ok.spki(t)},
		"origin_with_path":       {"example.org", []string{"https://example.org/x"}, "AAAA", ok.spki(t)},
		"origin_upper_case":      {"example.org", []string{"https://Example.org"}, "AAAA", ok.spki(t)},
		"origin_with_user":       {"example.org", []string{"https://a@example.org"}, "AAAA", ok.spki(t)},
		"origin_with_comma":      {"example.org", []string{"https://example.org,https://evil.example"}, "AAAA", ok.spki(t)},
		"origin_with_space":      {"example.org", []string{"https://example.org https://x"}, "AAAA", ok.spki(t)},
		"origin_twice":           {"example.org", []string{"https://example.org", "https://example.org"}, "AAAA", ok.spki(t)},
		"rp_upper_case":          {"Example.org", []string{"https://Example.org"}, "AAAA", ok.spki(t)},
		"rp_empty":               {"", []string{"https://example.org"}, "AAAA", ok.spki(t)},
		"rp_with_newline":        {"example.org\nwebauthn", []string{"https://example.org"}, "AAAA", ok.spki(t)},
		"id_empty":               {"example.org", []string{"https://example.org"}, "", ok.spki(t)},
		"id_padded":              {"example.org", []string{"https://example.org"}, "AA==", ok.spki(t)},
		"id_loose_bits":          {"example.org", []string{"https://example.org"}, "AB", ok.spki(t)},
		"curve_P384":             {"example.org", []string{"https://example.org"}, "AAAA", newAuthenticator(t, "ES384").spki(t)},
		"key_is_not_SPKI":        {"example.org", []string{"https://example.org"}, "AAAA", []byte("key")},
		"data_after_the_key":     {"example.org", []string{"https://example.org"}, "AAAA", append(ok.spki(t), 0)},
		"id_longer_than_allowed": {"example.org", []string{"https://example.org"}, strings.Repeat("AAAA", 400), ok.spki(t)},
	} {
		if line, err := receipt.PasskeyLine(c.rpID, c.origins, c.id, c.spki); err == nil {
			t.Errorf("%s: accepted as %q", name, line)
		}
	}
	if weak != nil {
		if _, err := receipt.PasskeyLine("example.org", []string{"https://example.org"}, "AAAA", (&authenticator{key: weak}).spki(t)); err == nil {
			t.Error("RSA of 1024 bits: accepted")
		}
	}
	if _, err := receipt.PasskeyLine("localhost", []string{"http://localhost:8080"}, "AAAA", ok.spki(t)); err != nil {
		t.Errorf("localhost over http, which browsers take for secure: got %v", err)
	}
}

// One private key is one key, in whatever form it is declared.
func TestKeyDigest(t *testing.T) {
	for _, kind := range []string{"ES256", "EdDSA"} {
		a := newAuthenticator(t, kind)
		pub, err := ssh.NewPublicKey(a.key.Public())
		if err != nil {
			t.Fatal(err)
		}
		lines := []string{a.line(t), string(ssh.MarshalAuthorizedKey(pub))}
		if priv, ok := a.key.(ed25519.PrivateKey); ok {
			sk, _ := skSign(t, priv, nil, 5)
			lines = append(lines, sk, "verify-required "+sk)
		}
		want, err := receipt.KeyDigest(lines[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lines {
			if got, err := receipt.KeyDigest(l); err != nil || got != want {
				t.Errorf("%.30s: got %s, %v; want %s", l, got, err, want)
			}
		}
		if got, err := receipt.KeyDigest(newAuthenticator(t, kind).line(t)); err != nil || got == want {
			t.Errorf("another key: got %s, %v", got, err)
		}
	}
	if _, err := receipt.KeyDigest("ssh-rsa AAAA"); err == nil {
		t.Error("no key: got no error")
	}
}

// A security key whose line asks for it counts only when it verified its user.
func TestVerifyRequired(t *testing.T) {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	msg := []byte("statement")
	for flags, ok := range map[byte]bool{1: false, 4: false, 5: true} {
		key, sig := skSign(t, priv, msg, flags)
		who, err := receipt.VerifyApproval(msg, string(sig), []string{"verify-required " + key}, receipt.SSHPolicy{})
		if (err == nil) != ok {
			t.Errorf("flags %x: got %+v, %v; want ok %v", flags, who, err, ok)
		}
		if ok && !strings.HasPrefix(who.Key, "verify-required sk-") {
			t.Errorf("flags %x: the line is %q", flags, who.Key)
		}
	}
	pub, err := ssh.NewPublicKey(priv.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"verify-required " + string(ssh.MarshalAuthorizedKey(pub)), "verify-required,no-touch-required sk", "VERIFY-REQUIRED"} {
		if _, err := receipt.ParseApprovalKey(bad); err == nil {
			t.Errorf("%.40s: accepted", bad)
		}
	}
}

// A bundle with a passkey's approval verifies offline, and not when it is
// somebody else's or over something else.
func TestBundleWithPasskey(t *testing.T) {
	stmt := []byte(`{"v":1}`)
	a, eve := newAuthenticator(t, "ES256"), newAuthenticator(t, "ES256")
	bundle := func(key, sig string) []byte {
		l := newLog(t, 1)
		var out bytes.Buffer
		w := l.writer(t, &out, true)
		must(t, w.Record(l.records[0], nil), w.Person(receipt.Person{Name: "jo", Keys: []string{key}}),
			w.Approval(receipt.Approval{Name: "a1", Person: "jo", Statement: stmt, Signature: sig}), w.Close())
		return out.Bytes()
	}
	rep, err := receipt.Verify(bytes.NewReader(bundle(a.line(t), a.get(t, stmt).String())), receipt.Options{Approvals: receipt.SSHPolicy{RequireVerification: true}})
	if err != nil || len(rep.Approvals) != 1 || rep.Approvals[0].Signer.Key != a.line(t) {
		t.Fatalf("got %+v, %v", rep.Approvals, err)
	}
	for name, b := range map[string][]byte{
		"another_person's_signature": bundle(a.line(t), eve.get(t, stmt).String()),
		"another_statement":          bundle(a.line(t), a.get(t, []byte(`{"v":2}`)).String()),
		"malformed_key":              bundle("webauthn example.org", a.get(t, stmt).String()),
	} {
		if _, err := receipt.Verify(bytes.NewReader(b), receipt.Options{}); !errors.Is(err, receipt.ErrBundle) {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
}

func FuzzAssertion(f *testing.F) {
	a := newAuthenticator(f, "EdDSA")
	msg := []byte("m")
	line := a.line(f)
	f.Add(a.get(f, msg).String(), line)
	f.Fuzz(func(t *testing.T, text, key string) {
		if _, err := receipt.VerifyApproval([]byte("another statement"), text, []string{key, line}, receipt.SSHPolicy{}); err == nil {
			t.Error("a signature over another statement was accepted")
		}
	})
}
