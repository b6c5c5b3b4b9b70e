package resource

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/receipt"
)

const (
	maxSigned     = 4 << 20 // bytes
	inTotoPayload = "application/vnd.in-toto+json"
	inTotoV1      = "https://in-toto.io/Statement/v1"
	inTotoV01     = "https://in-toto.io/Statement/v0.1" // the same members
)

var (
	bundleForm = regexp.MustCompile(`^application/vnd\.dev\.sigstore\.bundle(\.v0\.[1-9]\+json|\+json;version=0\.[1-9])$`)
	sha256Hex  = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// statement is an in-toto Statement v1.
type statement struct {
	Type      string      `json:"_type"`
	Subject   []subject   `json:"subject"`
	Kind      string      `json:"predicateType"`
	Predicate canon.Value `json:"predicate"`
}

type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// dsse is what a DSSE envelope is read for. Other members, such as keyid, are hints
// that nobody signed; the protocol has them ignored.
type dsse struct {
	Payload     string          `json:"payload"`
	PayloadType string          `json:"payloadType"`
	Signatures  []dsseSignature `json:"signatures"`
}

type dsseSignature struct {
	Sig string `json:"sig"`
}

// sigstoreBundle is what a Sigstore bundle is read for (sigstore_bundle.proto). Of the
// material it matters by what the signature is said to be verified, not with which
// key: that is the declared one, whatever a hint or an entry of a log says.
type sigstoreBundle struct {
	MediaType string `json:"mediaType"`
	Material  struct {
		PublicKey   canon.Value `json:"publicKey"`
		Certificate canon.Value `json:"certificate"`
		Chain       canon.Value `json:"x509CertificateChain"`
	} `json:"verificationMaterial"`
	Envelope canon.Value `json:"dsseEnvelope"`
}

// openBundle reads the envelope in a bundle. A certificate is refused rather than left
// out: who makes one says that its chain and its time are to be checked.
func openBundle(text []byte) (dsse, error) {
	var b sigstoreBundle
	if err := canon.UnmarshalOpen(text, maxSigned, &b); err != nil {
		return dsse{}, err
	}
	m := b.Material
	switch {
	case !bundleForm.MatchString(b.MediaType) || !present(b.Envelope):
		return dsse{}, fmt.Errorf("media type %q without a DSSE envelope is no bundle of a statement", b.MediaType)
	case present(m.Certificate) || present(m.Chain):
		return dsse{}, errors.New("made with a certificate (verificationMaterial); sign with a key, which is all that is verified here")
	case !present(m.PublicKey):
		return dsse{}, errors.New("verificationMaterial has no publicKey")
	}
	e, err := openEnvelope(b.Envelope)
	if err == nil && len(e.Signatures) != 1 {
		err = fmt.Errorf("%d signatures, and a bundle has one", len(e.Signatures))
	}
	return e, err
}

// present reports whether a member is there: null is as if it were not.
func present(v canon.Value) bool { return len(v) > 0 && string(v) != "null" }

// openEither reads a bundle, which says that it is one, or an envelope.
func openEither(text []byte) (dsse, error) {
	var b struct {
		MediaType string `json:"mediaType"`
	}
	if err := canon.UnmarshalOpen(text, maxSigned, &b); err != nil {
		return dsse{}, err
	}
	if b.MediaType != "" {
		return openBundle(text)
	}
	return openEnvelope(text)
}

func openEnvelope(text []byte) (e dsse, err error) {
	err = canon.UnmarshalOpen(text, maxSigned, &e)
	return e, err
}

// openStatement verifies an envelope and reads the in-toto statement in it, of one of
// the types. key is the SHA-256 of the key's PKIX form.
func openStatement(e dsse, keyPEM, kind string, types ...string) (st statement, key action.Digest, err error) {
	block, rest := pem.Decode([]byte(keyPEM))
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return st, "", errors.New("key: want one public key in PEM")
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return st, "", fmt.Errorf("key: %w", err)
	}
	form, err := canon.Marshal(e)
	if err != nil {
		return st, "", err
	}
	v, err := receipt.VerifyDSSE(form, []crypto.PublicKey{k})
	if err != nil {
		return st, "", err
	}
	if v.Type != inTotoPayload {
		return st, "", fmt.Errorf("payload type %q, want %s", v.Type, inTotoPayload)
	}
	if err := canon.UnmarshalOpen(v.Payload, maxSigned, &st); err != nil {
		return st, "", err
	}
	if !slices.Contains(types, st.Type) || st.Kind != kind {
		return st, "", fmt.Errorf("%q with predicate %q, want %s with %s", st.Type, st.Kind, types[0], kind)
	}
	return st, canon.Digest(block.Bytes), nil
}

// resolveText reads a file that the client names into the text that stands for it.
func resolveText(at string, text, file *string, read func(path string) ([]byte, error)) error {
	if *file == "" {
		return nil
	}
	b, err := read(*file)
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	*text, *file = string(b), ""
	return nil
}
