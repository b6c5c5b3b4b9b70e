package identity_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/identity"
)

// A binding token is worth something for exactly what it was signed over, for
// minutes, and for nothing else that the tenant's key signs.
//
// Threats: I1, I2 (approval)
func TestBindingToken(t *testing.T) {
	now := time.Now()
	f := newFixture(t, identity.Config{Now: func() time.Time { return now }})
	good := identity.Binding{Audience: issuerURL + "/access/v1/requests", Agent: "helpdesk", Task: "t-1", Operation: "iam.user.mfa.reset",
		Request: canon.Digest([]byte("request")), Evaluation: "q-1", Expires: now.Add(time.Hour)}
	token, err := f.issuer.SignBinding(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.issuer.VerifyBinding(t.Context(), token, good); err != nil {
		t.Fatalf("the good token: %v", err)
	}
	for name, edit := range map[string]func(*identity.Binding){
		"audience":   func(b *identity.Binding) { b.Audience += "/x" },
		"agent":      func(b *identity.Binding) { b.Agent = "other" },
		"task":       func(b *identity.Binding) { b.Task = "t-2" },
		"operation":  func(b *identity.Binding) { b.Operation = "iam.user.delete" },
		"request":    func(b *identity.Binding) { b.Request = canon.Digest([]byte("another")) },
		"evaluation": func(b *identity.Binding) { b.Evaluation = "q-2" },
	} {
		b := good
		edit(&b)
		t.Run(name, func(t *testing.T) { wantCode(t, f.issuer.VerifyBinding(t.Context(), token, b), "wrong_binding") })
	}
	svid, err := f.issuer.IssueJWT(t.Context(), aWorkload(), aud)
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, f.issuer.VerifyBinding(t.Context(), svid.Reveal(), good), "bad_token")
	_, err = f.issuer.VerifyJWT(t.Context(), token, good.Audience)
	wantCode(t, err, "bad_token")
	other := newFixture(t, identity.Config{Now: func() time.Time { return now }})
	wantCode(t, other.issuer.VerifyBinding(t.Context(), token, good), "unknown_key")
	parts := strings.Split(token, ".")
	wantCode(t, f.issuer.VerifyBinding(t.Context(), parts[0]+"."+parts[1]+".", good), "bad_signature")
	wantCode(t, f.issuer.VerifyBinding(t.Context(), "", good), "bad_token")
	header := encode(t, map[string]any{"alg": "ES256", "kid": f.issuer.KID(), "typ": "authzen-binding+jwt"})
	wantCode(t, f.issuer.VerifyBinding(t.Context(), f.issuer.SignRaw(header, `{"iss":"`+issuerURL+`","admin":true}`), good), "bad_claims")

	soon := good
	soon.Expires = now.Add(time.Minute) // never past the question
	short, err := f.issuer.SignBinding(t.Context(), soon)
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	wantCode(t, f.issuer.VerifyBinding(t.Context(), short, soon), "expired")
	if err := f.issuer.VerifyBinding(t.Context(), token, good); err != nil {
		t.Errorf("within its time: %v", err)
	}
	now = now.Add(identity.BindingTTL)
	wantCode(t, f.issuer.VerifyBinding(t.Context(), token, good), "expired")
}
