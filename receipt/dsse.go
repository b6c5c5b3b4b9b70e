package receipt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	_ "crypto/sha256" // of curveHash
	_ "crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
)

// Statement is the verified content of a DSSE envelope.
type Statement struct {
	Type    string // payloadType
	Payload []byte
	// Signers are the indexes of the keys that signed, rising.
	Signers []int
}

// envelope is DSSE 1.0.2 (secure-systems-lab/dsse, envelope.md).
type envelope struct {
	Payload     string `json:"payload"`
	PayloadType string `json:"payloadType"`
	Signatures  []struct {
		KeyID *string `json:"keyid,omitempty"` // a hint: not authenticated, not used
		Sig   string  `json:"sig"`
	} `json:"signatures"`
}

const maxSignatures = 32

// PAE is the pre-authentication encoding of DSSE: what is signed.
func PAE(payloadType string, payload []byte) []byte {
	b := fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(payloadType), payloadType, len(payload))
	return append(b, payload...)
}

// VerifyDSSE verifies a DSSE envelope. At least one signature must be by one of
// the keys, which are ed25519.PublicKey or *ecdsa.PublicKey on P-256, P-384 or
// P-521 (ASN.1 signatures over SHA-256, SHA-384 and SHA-512). Signatures by others are left out, as the protocol
// says; every malformed one is a refusal.
func VerifyDSSE(data []byte, keys []crypto.PublicKey) (Statement, error) {
	s, err := verifyDSSE(data, keys)
	if err != nil {
		return Statement{}, fmt.Errorf("DSSE envelope: %w", err)
	}
	return s, nil
}

func verifyDSSE(data []byte, keys []crypto.PublicKey) (Statement, error) {
	// Others' envelopes need not be in canonical form, but must have one
	// meaning: their canonical form holds what we read, and nothing else.
	form, err := canonical(data)
	if err != nil {
		return Statement{}, err
	}
	var e envelope
	if err := unmarshal(form, &e); err != nil {
		return Statement{}, err
	}
	payload, err := decode64(e.Payload)
	if err != nil {
		return Statement{}, fmt.Errorf("payload: %w", err)
	}
	if e.PayloadType == "" || len(e.Signatures) == 0 || len(e.Signatures) > maxSignatures {
		return Statement{}, errors.New("no payload type, or no or too many signatures")
	}
	sigs := make([][]byte, len(e.Signatures))
	for i, s := range e.Signatures {
		if sigs[i], err = decode64(s.Sig); err != nil {
			return Statement{}, fmt.Errorf("signature: %w", err)
		}
	}
	s := Statement{Type: e.PayloadType, Payload: payload}
	signed := PAE(e.PayloadType, payload)
	for i, k := range keys {
		for _, sig := range sigs {
			ok, err := verifyOne(k, signed, sig)
			if err != nil {
				return Statement{}, err
			}
			if ok {
				s.Signers = append(s.Signers, i)
				break
			}
		}
	}
	if len(s.Signers) == 0 {
		return Statement{}, fmt.Errorf("%w: not by any of the %d keys", ErrSignature, len(keys))
	}
	return s, nil
}

// curveHash is the digest that goes with a curve.
var curveHash = map[elliptic.Curve]crypto.Hash{elliptic.P256(): crypto.SHA256, elliptic.P384(): crypto.SHA384, elliptic.P521(): crypto.SHA512}

func verifyOne(key crypto.PublicKey, signed, sig []byte) (bool, error) {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return len(k) == ed25519.PublicKeySize && ed25519.Verify(k, signed, sig), nil
	case *ecdsa.PublicKey:
		h := curveHash[k.Curve]
		if h == 0 {
			return false, errors.New("ECDSA key is not on P-256, P-384 or P-521")
		}
		sum := h.New()
		sum.Write(signed)
		return ecdsa.VerifyASN1(k, sum.Sum(nil), sig), nil
	}
	return false, fmt.Errorf("key of type %T does not count", key)
}

// decode64 reads standard or URL-safe base64, as DSSE asks, strictly.
func decode64(s string) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		b, err = base64.URLEncoding.Strict().DecodeString(s)
	}
	return b, err
}
