package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// A transmitter does not send an event again that was refused. So one whose key
// cannot be looked for, or was not looked for on its account, is not refused: anybody
// can ask for a key that there is none of, just before a key is exchanged.
//
// Threats: S4 (door)
func TestEventWhoseKeyCannotBeSeen(t *testing.T) {
	var keys [2]*ecdsa.PrivateKey
	for n := range keys {
		var err error
		if keys[n], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	event := func(key *ecdsa.PrivateKey, kid string) string {
		t.Helper()
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, (&jose.SignerOptions{}).WithType("secevent+jwt"))
		if err != nil {
			t.Fatal(err)
		}
		o, err := s.Sign([]byte(`{"iss":"https://idp.example","jti":"x"}`))
		if err != nil {
			t.Fatal(err)
		}
		out, err := o.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	status := http.StatusOK
	set := func(n int) (out jose.JSONWebKeySet) {
		for i, k := range keys[:n] {
			out.Keys = append(out.Keys, jose.JSONWebKey{Key: &k.PublicKey, KeyID: []string{"k1", "k2"}[i], Use: "sig", Algorithm: "ES256"})
		}
		return out
	}
	published := set(1)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(published)
	}))
	defer srv.Close()
	declared := identity.OIDC{Issuer: "https://idp.example", KeysURL: srv.URL + "/keys", Roots: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))}
	fresh := func(o identity.OIDC) *identity.EventKeys {
		t.Helper()
		k, err := identity.NewEventKeys(o)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	open := func(k *identity.EventKeys, token string) error {
		_, err := identity.OpenEvent(t.Context(), token, func(string) *identity.EventKeys { return k })
		return err
	}
	later := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, identity.ErrUnavailable) {
			t.Errorf("%s: got %v, want ErrUnavailable", what, err)
		}
	}

	wantCode(t, open(fresh(declared), event(keys[1], "junk")), "unknown_key") // the first look, for it
	k := fresh(declared)
	if err := open(k, event(keys[0], "k1")); err != nil {
		t.Fatal(err)
	}
	published = set(2)
	later("a key that is new", open(k, event(keys[1], "k2")))
	wantCode(t, open(k, event(keys[1], "k1")), "bad_signature")

	status = http.StatusBadGateway
	k = fresh(declared)
	later("keys that do not come", open(k, event(keys[0], "k1")))
	status = http.StatusOK
	later("and were asked for a moment ago", open(k, event(keys[0], "k1")))

	b, err := json.Marshal(set(1))
	if err != nil {
		t.Fatal(err)
	}
	declared.Keys, declared.KeysURL = string(b), ""
	wantCode(t, open(fresh(declared), event(keys[1], "k2")), "unknown_key") // there is nowhere to look
}
