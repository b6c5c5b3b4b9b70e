package approval_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/receipt"
)

// passkey plays browser and authenticator of one credential: what it gives is
// what PublicKeyCredential.toJSON() gives (WebAuthn level 3, section 5.1).
type passkey struct {
	*testing.T
	key          crypto.Signer
	id           string
	rpID, origin string
	flags        byte
	counter      uint32
	crossOrigin  bool
}

func newPasskey(t *testing.T, kind string) *passkey {
	t.Helper()
	k := &passkey{T: t, id: rand.Text(), rpID: "sallyport.example", origin: "https://sallyport.example", flags: 5, counter: 10}
	var err error
	if kind == "EdDSA" {
		_, k.key, err = ed25519.GenerateKey(rand.Reader)
	} else {
		k.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	k.id = base64.RawURLEncoding.EncodeToString([]byte(k.id))
	return k
}

func (k *passkey) line() string {
	k.Helper()
	der, err := x509.MarshalPKIXPublicKey(k.key.Public())
	if err != nil {
		k.Fatal(err)
	}
	l, err := receipt.PasskeyLine("sallyport.example", []string{"https://sallyport.example"}, k.id, der)
	if err != nil {
		k.Fatal(err)
	}
	return l
}

func (k *passkey) approve(s approval.Statement) []byte {
	k.Helper()
	c, err := s.Challenge()
	if err != nil {
		k.Fatal(err)
	}
	return k.get(c)
}

func (k *passkey) get(challenge string) []byte {
	k.Helper()
	k.counter++
	client, err := json.Marshal(map[string]any{"type": "webauthn.get", "challenge": challenge, "origin": k.origin, "crossOrigin": k.crossOrigin})
	if err != nil {
		k.Fatal(err)
	}
	rp, hash := sha256.Sum256([]byte(k.rpID)), sha256.Sum256(client)
	data := binary.BigEndian.AppendUint32(append(rp[:], k.flags), k.counter)
	signed := append(bytes.Clone(data), hash[:]...)
	var opts crypto.SignerOpts = crypto.Hash(0)
	if _, ok := k.key.(*ecdsa.PrivateKey); ok {
		d := sha256.Sum256(signed)
		signed, opts = d[:], crypto.SHA256
	}
	sig, err := k.key.Sign(rand.Reader, signed, opts)
	if err != nil {
		k.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	out, err := json.MarshalIndent(map[string]any{"id": k.id, "rawId": k.id, "type": "public-key", "authenticatorAttachment": "platform",
		"clientExtensionResults": map[string]any{}, "response": map[string]any{
			"clientDataJSON": b64(client), "authenticatorData": b64(data), "signature": b64(sig), "userHandle": b64([]byte("jo"))}}, "", " ")
	if err != nil {
		k.Fatal(err)
	}
	return out
}

func (f *fixture) holder(name string, lines ...string) {
	f.Helper()
	f.put(approval.Person{Name: name, Roles: []string{"approver"}, Keys: lines})
}

// The whole way with a passkey, and the record alone verifies again.
func TestPasskeyGrantAndUse(t *testing.T) {
	for _, kind := range []string{"ES256", "EdDSA"} {
		f := newFixture(t)
		k := newPasskey(t, kind)
		f.holder("jo", k.line())
		d := draft()
		d.Statement.UserVerification = true
		s := f.request(d)
		f.pass(3 * time.Second)
		a, err := f.eng.Grant(t.Context(), s.Nonce, "jo", k.approve(s), nil)
		if err != nil || a.State != approval.Granted || a.TookMillis != 3000 {
			t.Fatalf("%s: got %s after %d ms, %v", kind, a.State, a.TookMillis, err)
		}
		if err := f.use(s.Nonce, s.Digest); err != nil {
			t.Fatalf("%s: use: got %v", kind, err)
		}
		f.want(f.use(s.Nonce, s.Digest), "used")
		g := f.entries("hold.approved")[0]
		msg, err := canon.Marshal(g["statement"])
		if err != nil {
			t.Fatal(err)
		}
		who, err := receipt.VerifyApproval(msg, g["signature"].(string), []string{g["key"].(string)}, receipt.SSHPolicy{RequireVerification: true})
		if err != nil || who.Key != k.line() || who.Counter != 11 || g["counter"] != 11.0 || g["userVerified"] != true {
			t.Errorf("%s: from the record alone: got %+v, %v; record %v", kind, who, err, g)
		}
		if strings.Contains(g["signature"].(string), "userHandle") {
			t.Errorf("%s: the record keeps what was not signed", kind)
		}
	}
}

// Each case differs from a good approval by passkey in one thing. None of them
// releases anything, and the good one still does afterwards.
//
// Threats: T50, I1, I2, I4, I8 (approval)
func TestPasskeyAttacks(t *testing.T) {
	type world struct {
		*fixture
		k *passkey
		s approval.Statement
	}
	by := func(edit func(*passkey)) func(w world) []byte {
		return func(w world) []byte {
			k := *w.k
			edit(&k)
			return k.approve(w.s)
		}
	}
	for name, c := range map[string]struct {
		code string
		sign func(w world) []byte
	}{
		"user_not_verified": {"signature_invalid", by(func(k *passkey) { k.flags = 1 })},
		"user_not_present":  {"signature_invalid", by(func(k *passkey) { k.flags = 4 })},
		"other_rp":          {"signature_invalid", by(func(k *passkey) { k.rpID = "evil.example" })},
		"other_origin":      {"signature_invalid", by(func(k *passkey) { k.origin = "https://evil.example" })},
		"subdomain_origin":  {"signature_invalid", by(func(k *passkey) { k.origin = "https://pages.sallyport.example" })},
		"cross_origin":      {"signature_invalid", by(func(k *passkey) { k.crossOrigin = true })},
		"other_credential":  {"signature_invalid", by(func(k *passkey) { k.id = "AAAA" })},
		"flags_forged_after_signing": {"signature_invalid", func(w world) []byte {
			k := *w.k
			k.flags = 1
			return bytes.Replace(k.approve(w.s), []byte("BAAAAC"), []byte("FAAAAC"), 1) // flags 01 to 05, in base64url
		}},
		"key_of_another_person": {"key_not_theirs", func(w world) []byte {
			eve := newPasskey(w.T, "ES256")
			w.holder("eve", eve.line())
			return eve.approve(w.s)
		}},
		"key_of_nobody": {"signature_invalid", func(w world) []byte { return newPasskey(w.T, "ES256").approve(w.s) }},
		"same_key_as_another_person's_security_key": {"key_shared", func(w world) []byte {
			ed := newSecurityKey(w.T, 5)
			k := newPasskey(w.T, "EdDSA")
			k.key = ed.key
			w.holder("jo", k.line())
			w.holder("eve", line(ed))
			return k.approve(w.s)
		}},
		"approve_A_run_B": {"signature_invalid", func(w world) []byte {
			d := draft()
			d.Statement.Digest, d.Statement.Params = canon.Digest([]byte("another")), map[string]string{"user": "nora"}
			return w.k.approve(w.request(d))
		}},
		"same_request_asked_again": {"signature_invalid", func(w world) []byte { return w.k.approve(w.request(draft())) }},
		"edited_display": {"signature_invalid", func(w world) []byte {
			s := w.s
			s.Details = map[string]string{"application": "harmless"}
			return w.k.approve(s)
		}},
		"reordered_members": {"signature_invalid", func(w world) []byte {
			b, err := w.s.Bytes()
			if err != nil {
				w.Fatal(err)
			}
			other := `{"v":1,` + strings.Replace(strings.TrimPrefix(string(b), "{"), `,"v":1`, "", 1)
			sum := sha256.Sum256([]byte(other))
			return w.k.get(base64.RawURLEncoding.EncodeToString(sum[:]))
		}},
		"digest_of_the_request_alone": {"signature_invalid", func(w world) []byte {
			return w.k.get(base64.RawURLEncoding.EncodeToString([]byte(w.s.Digest)))
		}},
		"an_ssh_signature_inside": {"signature_invalid", func(w world) []byte { return []byte(`{"id":"x","type":"public-key"}`) }},
		"not_json":                {"signature_invalid", func(w world) []byte { return []byte(`{`) }},
		"member_twice": {"signature_invalid", func(w world) []byte {
			return bytes.Replace(w.k.approve(w.s), []byte(`"type"`), []byte(`"type": "public-key", "type"`), 1)
		}},
		"two_ids": {"signature_invalid", func(w world) []byte {
			return bytes.Replace(w.k.approve(w.s), []byte(`"rawId": "`), []byte(`"rawId": "AAAA`), 1)
		}},
		"too_large": {"signature_invalid", func(w world) []byte { return []byte("{" + strings.Repeat(" ", 100<<10) + "}") }},
		"after_expiry": {"expired", func(w world) []byte {
			b := w.k.approve(w.s)
			w.pass(time.Hour)
			return b
		}},
		"self_approval": {"excluded", func(w world) []byte {
			w.put(approval.Person{Name: "rob", Accounts: []string{"oidc:rob"}})
			w.put(approval.Person{Name: "jo", Roles: []string{"approver"}, Keys: []string{w.k.line()}, Accounts: []string{"oidc:rob"}})
			return w.k.approve(w.s)
		}},
		"credential_removed": {"signature_invalid", func(w world) []byte {
			w.holder("jo")
			return w.k.approve(w.s)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.put(approval.Person{Name: "rob", Accounts: []string{"oidc:rob"}})
			k := newPasskey(t, "ES256")
			f.holder("jo", k.line())
			w := world{f, k, f.request(draft())}
			_, err := f.eng.Grant(t.Context(), w.s.Nonce, "jo", c.sign(w), nil)
			f.want(err, c.code)
			if err := f.use(w.s.Nonce, w.s.Digest); err == nil {
				t.Error("it was released")
			}
			if n := len(f.entries("hold.approved")) + len(f.entries("action.decided")); n != 0 {
				t.Errorf("grants and releases on record: got %d, want 0", n)
			}
			if r := f.entries("approval.refused"); len(r) != 1 || r[0]["code"] != c.code {
				t.Errorf("refusal on record: got %v, want one %s", r, c.code)
			}
		})
	}
}

// A copy of a key, or an old signature: the counter does not rise. It is told
// from a key that never counts.
func TestCounterGoesBack(t *testing.T) {
	f := newFixture(t)
	k := newPasskey(t, "ES256")
	f.holder("jo", k.line())
	grant := func(counter uint32) error {
		s := f.request(draft())
		k.counter = counter - 1
		_, err := f.eng.Grant(t.Context(), s.Nonce, "jo", k.approve(s), nil)
		if cerr := f.eng.CancelTask(t.Context(), "t-1", "next"); cerr != nil {
			t.Fatal(cerr)
		}
		return err
	}
	for _, c := range []struct {
		counter uint32
		ok      bool
	}{{5, true}, {5, false}, {4, false}, {0, false}, {6, true}, {1 << 31, true}, {7, false}, {1<<32 - 1, true}, {0, false}} {
		err := grant(c.counter)
		if c.ok && err != nil {
			t.Errorf("counter %d: got %v", c.counter, err)
		}
		if !c.ok {
			f.want(err, "counter_back")
		}
	}
	// The same key declared anew goes on counting.
	f.holder("jo")
	k.id = "bmV3"
	f.holder("jo", k.line())
	f.want(grant(9), "counter_back")

	never := newPasskey(t, "EdDSA")
	f.holder("kim", never.line())
	for range 3 {
		s := f.request(draft())
		never.counter = 1<<32 - 1 // the next is 0
		if _, err := f.eng.Grant(t.Context(), s.Nonce, "kim", never.approve(s), nil); err != nil {
			t.Errorf("key without a counter: got %v", err)
		}
	}
	if n := len(f.entries("approval.refused")); n != 6 {
		t.Errorf("refusals on record: got %d, want 6", n)
	}
}

// The counter of an SSH security key counts as well.
func TestSecurityKeyCounterGoesBack(t *testing.T) {
	f := newFixture(t)
	k := newSecurityKey(t, 5)
	f.person("jo", k)
	if _, err := f.grant(f.request(draft()), "jo", k); err != nil {
		t.Fatal(err)
	}
	k.counter -= 2
	_, err := f.grant(f.request(draft()), "jo", k)
	f.want(err, "counter_back")
}

// A quorum of a passkey and an SSH key.
func TestQuorumOfBothKinds(t *testing.T) {
	f := newFixture(t)
	k, ssh := newPasskey(t, "ES256"), newKey(t)
	f.holder("jo", k.line())
	f.person("kim", ssh)
	d := draft()
	d.Statement.Quorum = 2
	s := f.request(d)
	if _, err := f.eng.Grant(t.Context(), s.Nonce, "jo", k.approve(s), nil); err != nil {
		t.Fatal(err)
	}
	_, err := f.eng.Grant(t.Context(), s.Nonce, "jo", k.approve(s), nil)
	f.want(err, "already_signed")
	if a, err := f.grant(s, "kim", ssh); err != nil || a.State != approval.Granted {
		t.Fatalf("got %s, %v", a.State, err)
	}
	if err := f.use(s.Nonce, s.Digest); err != nil {
		t.Errorf("use: got %v", err)
	}
}

// A person's security key that must verify its user.
func TestVerifyRequiredByTheKey(t *testing.T) {
	for flags, want := range map[byte]string{1: "signature_invalid", 5: ""} {
		f := newFixture(t)
		k := newSecurityKey(t, flags)
		f.holder("jo", "verify-required "+line(k))
		_, err := f.grant(f.request(draft()), "jo", k)
		if want != "" {
			f.want(err, want)
		} else if err != nil {
			t.Errorf("flags %x: got %v", flags, err)
		}
	}
}

// Mutated approvals by the thousand: exactly the legitimate ones release.
//
// Threats: T50, I1 (approval)
func TestMutatedApprovals(t *testing.T) {
	f := newFixture(t)
	k := newPasskey(t, "EdDSA")
	f.holder("jo", k.line())
	n := 600
	if testing.Short() {
		n = 100
	}
	s := f.request(draft())
	good := k.approve(s)
	released := 0
	for i := range n {
		b := bytes.Clone(good)
		at := i * 7919 % len(b)
		b[at] ^= 1 << (i % 7)
		if a, err := f.eng.Grant(t.Context(), s.Nonce, "jo", b, nil); err == nil {
			// A member that decides nothing was changed.
			if a.State != approval.Granted || signedPart(good) != signedPart(b) {
				t.Fatalf("byte %d: released by\n%s", at, b)
			}
			released++
			break
		} else if r, ok := errors.AsType[*approval.Refusal](err); !ok || r.Code != "signature_invalid" {
			t.Fatalf("byte %d: got %v", at, err)
		}
	}
	if released == 0 {
		if _, err := f.eng.Grant(t.Context(), s.Nonce, "jo", good, nil); err != nil {
			t.Errorf("the one that is good: got %v", err)
		}
	}
	f.want(func() error { _, err := f.eng.Grant(t.Context(), s.Nonce, "jo", good, nil); return err }(), "not_pending")
}

// signedPart is what of an answer is verified.
func signedPart(answer []byte) string {
	var a struct {
		ID       string            `json:"id"`
		Response map[string]string `json:"response"`
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return ""
	}
	return fmt.Sprint(a.ID, a.Response["clientDataJSON"], a.Response["authenticatorData"], a.Response["signature"])
}
