package identity_test

import (
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// Whatever is sent as a DPoP proof passes once at most, and for one method and
// address.
func FuzzProof(f *testing.F) {
	fx := newFixture(f, identity.Config{})
	const htu = "https://sallyport.example/t/acme/token"
	k := newDPoP(f)
	good := k.proof(f, htu, nil, nil)
	for _, s := range []string{good, good[:len(good)-1], strings.Replace(good, ".", "..", 1), "", "..", k.proof(f, htu+"/", nil, nil)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := fx.issuer.CheckProof(s, "POST", htu); err != nil {
			return
		}
		for _, other := range [][2]string{{"POST", htu}, {"GET", htu}, {"POST", htu + "/"}} {
			if _, err := fx.issuer.CheckProof(s, other[0], other[1]); err == nil {
				t.Errorf("accepted again for %v: %q", other, s)
			}
		}
	})
}

// Whatever an endpoint serves, it is refused or is a bundle with keys.
func FuzzBundle(f *testing.F) {
	fx := newFixture(f, identity.Config{})
	for _, s := range []string{string(get(f, fx.issuer.BundleEndpoint())), `{"keys":[]}`, `{"keys":null}`, `{"keys":[{"kty":"oct","k":"AA","use":"jwt-svid","kid":"a"}]}`, "[]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, j, err := identity.ParseBundle("acme.example", b); err == nil && x+j == 0 {
			t.Errorf("a bundle of nothing: %q", b)
		}
	})
}
