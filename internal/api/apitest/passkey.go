package apitest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// Passkey is a browser and its authenticator in software: the assertions are
// real ones (WebAuthn level 3, section 6.3.3), by a real P-256 key.
type Passkey struct {
	resource.Passkey
	Flags   byte // user present and verified
	key     *ecdsa.PrivateKey
	counter uint32
}

// NewPasskey makes a credential of relying party sallyport.example.
func NewPasskey(t testing.TB) *Passkey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return &Passkey{key: key, Flags: 5, Passkey: resource.Passkey{ID: base64.RawURLEncoding.EncodeToString([]byte(rand.Text())),
		PublicKey: base64.RawURLEncoding.EncodeToString(der), RPID: "sallyport.example", Origins: []string{"https://sallyport.example"}}}
}

// Get is what PublicKeyCredential.toJSON() gives for the options.
func (p *Passkey) Get(t testing.TB, o api.PasskeyOptions) []byte {
	t.Helper()
	p.counter++
	client, err := json.Marshal(map[string]any{"type": "webauthn.get", "challenge": o.Challenge, "origin": p.Origins[0], "crossOrigin": false})
	if err != nil {
		t.Fatal(err)
	}
	rp, hash := sha256.Sum256([]byte(o.RPID)), sha256.Sum256(client)
	data := binary.BigEndian.AppendUint32(append(rp[:], p.Flags), p.counter)
	sum := sha256.Sum256(append(bytes.Clone(data), hash[:]...))
	sig, err := ecdsa.SignASN1(rand.Reader, p.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	out, err := json.Marshal(map[string]any{"id": p.ID, "rawId": p.ID, "type": "public-key", "clientExtensionResults": map[string]any{},
		"response": map[string]string{"clientDataJSON": b64(client), "authenticatorData": b64(data), "signature": b64(sig)}})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// SetPasskeys declares which passkeys a person has, as the one who administers
// people.
func (r *Rig) SetPasskeys(t testing.TB, person string, keys ...*Passkey) {
	t.Helper()
	all, err := r.As("noor").Resources(t.Context(), resource.KindPerson, person)
	if err != nil {
		t.Fatal(err)
	}
	p, err := resource.FromCanonical(all[0])
	if err != nil {
		t.Fatal(err)
	}
	spec := p.Spec.(*resource.PersonSpec)
	spec.Passkeys = nil
	for _, k := range keys {
		spec.Passkeys = append(spec.Passkeys, k.Passkey)
	}
	r.ApplyPeople(t, p)
}

// ApplyPeople changes people as the one who administers them, and has what they
// gain approved by felix.
func (r *Rig) ApplyPeople(t testing.TB, people ...resource.Resource) {
	t.Helper()
	done, err := r.As("kofi").Apply(t.Context(), people)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range done {
		if d.Pending == "" {
			continue
		}
		a, err := r.As("felix").Approval(t.Context(), d.Pending)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.As("felix").Approve(t.Context(), a, r.Keys["felix"]); err != nil {
			t.Fatal(err)
		}
	}
}
