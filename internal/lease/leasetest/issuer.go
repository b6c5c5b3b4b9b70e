package leasetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// Issuer stands for the boundary's issuer where a source is tested alone: OpenID
// discovery, keys, and JWT-SVIDs of the same form.
type Issuer struct {
	*httptest.Server
	key *ecdsa.PrivateKey
}

// NewIssuer starts one.
func NewIssuer(t testing.TB) *Issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &Issuer{key: key}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/keys", "id_token_signing_alg_values_supported": []string{"ES256"}})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		pub, _ := key.PublicKey.Bytes()
		b64 := base64.RawURLEncoding.EncodeToString
		json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]any{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "k", "x": b64(pub[1:33]), "y": b64(pub[33:])}}})
	})
	i.Server = httptest.NewTLSServer(mux)
	t.Cleanup(i.Close)
	return i
}

// Token signs a JWT-SVID.
func (i *Issuer) Token(subject, audience, id string) string {
	b64 := base64.RawURLEncoding.EncodeToString
	now := time.Now().Unix()
	claims, _ := json.Marshal(map[string]any{"iss": i.URL, "sub": subject, "aud": []string{audience}, "exp": now + 300, "iat": now, "jti": id})
	in := b64([]byte(`{"alg":"ES256","kid":"k","typ":"JWT"}`)) + "." + b64(claims)
	sum := sha256.Sum256([]byte(in))
	r, s, err := ecdsa.Sign(rand.Reader, i.key, sum[:])
	if err != nil {
		panic(err)
	}
	var sig [64]byte
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return in + "." + b64(sig[:])
}

// PublicKey is the key in PEM, for who is given it instead of a way to find it.
func (i *Issuer) PublicKey() string {
	der, err := x509.MarshalPKIXPublicKey(i.key.Public())
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// CA is the issuer's own root.
func (i *Issuer) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw})
}

// Trust says whose tokens a server of the tests believes: what it finds by
// discovery, as a server of somebody else would.
type Trust struct {
	Issuer string
	CA     []byte // PEM of the only roots

	mu       sync.Mutex
	provider *oidc.Provider
}

// verified are the claims of a token that a server of the tests believes.
type verified struct {
	Subject string `json:"sub"`
	ID      string `json:"jti"`
}

func (x *Trust) verify(token, audience string) (c verified, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	ctx := context.Background() // of the keys, which outlive one request
	if x.provider == nil {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(x.CA)
		tr := http.DefaultTransport.(*http.Transport).Clone()
		tr.TLSClientConfig.RootCAs = pool
		if x.provider, err = oidc.NewProvider(oidc.ClientContext(ctx, &http.Client{Transport: tr}), x.Issuer); err != nil {
			return c, err
		}
	}
	t, err := x.provider.Verifier(&oidc.Config{ClientID: audience, SupportedSigningAlgs: []string{"ES256"}}).Verify(ctx, token)
	if err != nil {
		return c, err
	}
	if err := t.Claims(&c); err != nil {
		return c, fmt.Errorf("claims: %w", err)
	}
	return c, nil
}
