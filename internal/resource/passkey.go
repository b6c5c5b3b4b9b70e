package resource

import (
	"encoding/base64"
	"encoding/pem"
	"errors"
	"strings"

	"github.com/sallyport-dev/sallyport/receipt"
)

// Passkey is a WebAuthn credential of a person, as registration gave it.
type Passkey struct {
	ID string `json:"id"` // of the credential, base64url
	// PublicKey is the SubjectPublicKeyInfo that getPublicKey() gives (WebAuthn
	// level 3, section 5.2.1), in base64, base64url or PEM.
	PublicKey string `json:"publicKey"`
	RPID      string `json:"rpId"`
	// Origins are the pages on which an approval with it counts.
	Origins []string `json:"origins"`
}

// Line is the credential as approvals are verified with it (receipt.PasskeyLine).
func (k Passkey) Line() (string, error) {
	der, err := publicKey(k.PublicKey)
	if err != nil {
		return "", err
	}
	return receipt.PasskeyLine(k.RPID, k.Origins, k.ID, der)
}

func publicKey(text string) ([]byte, error) {
	text = strings.TrimSpace(text)
	if b, rest := pem.Decode([]byte(text)); b != nil {
		if b.Type != "PUBLIC KEY" || len(rest) > 0 {
			return nil, errors.New("want one PEM block PUBLIC KEY")
		}
		return b.Bytes, nil
	}
	text = strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(text), "=")
	der, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("want base64 or PEM")
	}
	return der, nil
}

// ApprovalKeys are all keys that the person approves with, as lines that
// receipt.ParseApprovalKey reads.
func (s *PersonSpec) ApprovalKeys() []string {
	return append(append([]string(nil), s.SSHKeys...), s.passkeyLines()...)
}

func (s *PersonSpec) passkeyLines() (out []string) {
	for _, k := range s.Passkeys {
		if l, err := k.Line(); err == nil {
			out = append(out, l)
		}
	}
	return out
}
