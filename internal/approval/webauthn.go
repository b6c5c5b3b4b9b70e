package approval

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/receipt"
)

// Challenge is what a passkey signs for a statement: SHA-256 of its canonical
// bytes, base64url, as PublicKeyCredentialRequestOptionsJSON has it (WebAuthn
// level 3, section 5.1.9).
func (s Statement) Challenge() (string, error) {
	b, err := s.Bytes()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// authentication is what PublicKeyCredential.toJSON() gives for an assertion
// (AuthenticationResponseJSON). Its other members decide nothing.
type authentication struct {
	ID       string `json:"id"`
	RawID    string `json:"rawId"`
	Type     string `json:"type"`
	Response struct {
		AuthenticatorData string `json:"authenticatorData"`
		ClientDataJSON    string `json:"clientDataJSON"`
		Signature         string `json:"signature"`
	} `json:"response"`
}

const maxSignature = 64 << 10 // bytes

// stored is the form in which a signature is verified and kept: an SSHSIG as it
// is, the answer of a browser reduced to what was signed.
func stored(signature []byte) (string, error) {
	if len(signature) > maxSignature {
		return "", fmt.Errorf("signature is larger than %d bytes", maxSignature)
	}
	if !strings.HasPrefix(strings.TrimSpace(string(signature)), "{") {
		return string(signature), nil
	}
	var in authentication
	if err := canon.UnmarshalOpen(signature, maxSignature, &in); err != nil {
		return "", fmt.Errorf("assertion: %w", err)
	}
	if in.Type != "public-key" || in.RawID != "" && in.RawID != in.ID {
		return "", fmt.Errorf("assertion: want type public-key, and one id")
	}
	a := receipt.Assertion{ID: in.ID}
	for _, f := range []struct {
		to   *[]byte
		from string
	}{{&a.AuthenticatorData, in.Response.AuthenticatorData}, {&a.ClientData, in.Response.ClientDataJSON}, {&a.Signature, in.Response.Signature}} {
		b, err := base64.RawURLEncoding.Strict().DecodeString(f.from)
		if err != nil {
			return "", fmt.Errorf("assertion: %w", err)
		}
		*f.to = b
	}
	return a.String(), nil
}
