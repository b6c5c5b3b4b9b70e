package resource

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/receipt"
)

// Provenance says who built a harness: an in-toto Statement v1 with SLSA
// provenance v1, in a DSSE envelope. Only a program that is one of its subjects is
// started.
type Provenance struct {
	// Statement is the envelope; File is a path that the client resolves into it.
	Statement string `json:"statement,omitempty"`
	File      string `json:"file,omitempty"`
	// Key is PEM of the public key (PKIX; Ed25519, or ECDSA on P-256, P-384 or
	// P-521); KeyFile is a path that the client resolves into it.
	Key     string `json:"key,omitempty"`
	KeyFile string `json:"keyFile,omitempty"`
	// Builder is who must have built it: runDetails.builder.id.
	Builder string `json:"builder"`
}

// ModelSignature says which files a model is: a bundle of OpenSSF Model Signing
// 1.0, signed with a key. Nothing here sees the files, so it is the publisher's
// word for what is declared, and no measurement.
type ModelSignature struct {
	// As in Provenance; Statement is the bundle.
	Statement string `json:"statement,omitempty"`
	File      string `json:"file,omitempty"`
	Key       string `json:"key,omitempty"`
	KeyFile   string `json:"keyFile,omitempty"`
}

const (
	maxSigned     = 4 << 20
	inTotoPayload = "application/vnd.in-toto+json"
	inTotoV1      = "https://in-toto.io/Statement/v1"
	slsaV1        = "https://slsa.dev/provenance/v1"
	omsV1         = "https://model_signing/signature/v1.0"
	bundleType    = `^application/vnd\.dev\.sigstore\.bundle(\.v0\.[1-9]\+json|\+json;version=0\.[1-9])$`
)

var (
	bundleForm = regexp.MustCompile(bundleType)
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

// openStatement verifies a DSSE envelope and reads the in-toto statement in it.
// key is the SHA-256 of the key's PKIX form.
func openStatement(envelope []byte, keyPEM, kind string) (st statement, key action.Digest, err error) {
	block, rest := pem.Decode([]byte(keyPEM))
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return st, "", errors.New("key: want one public key in PEM")
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return st, "", fmt.Errorf("key: %w", err)
	}
	v, err := receipt.VerifyDSSE(envelope, []crypto.PublicKey{k})
	if err != nil {
		return st, "", err
	}
	if v.Type != inTotoPayload {
		return st, "", fmt.Errorf("payload type %q, want %s", v.Type, inTotoPayload)
	}
	if err := canon.UnmarshalOpen(v.Payload, maxSigned, &st); err != nil {
		return st, "", err
	}
	if st.Type != inTotoV1 || st.Kind != kind {
		return st, "", fmt.Errorf("%q with predicate %q, want %s with %s", st.Type, st.Kind, inTotoV1, kind)
	}
	return st, canon.Digest(block.Bytes), nil
}

// Built is what a verified provenance says.
type Built struct {
	Builder string
	Key     action.Digest // of the key that signed
	// Programs are the digests of what was built.
	Programs map[action.Digest]bool
}

// Verify verifies the provenance. It must be by the key, of the builder, and name
// at least one subject by SHA-256.
func (p *Provenance) Verify() (Built, error) {
	if len(p.Statement) > maxSigned {
		return Built{}, fmt.Errorf("larger than %d bytes", maxSigned)
	}
	st, key, err := openStatement([]byte(p.Statement), p.Key, slsaV1)
	if err != nil {
		return Built{}, err
	}
	var pred struct {
		RunDetails struct {
			Builder struct {
				ID string `json:"id"`
			} `json:"builder"`
		} `json:"runDetails"`
	}
	if err := canon.UnmarshalOpen(st.Predicate, maxSigned, &pred); err != nil {
		return Built{}, fmt.Errorf("predicate: %w", err)
	}
	b := Built{Builder: pred.RunDetails.Builder.ID, Key: key, Programs: map[action.Digest]bool{}}
	if b.Builder != p.Builder || b.Builder == "" {
		return Built{}, fmt.Errorf("built by %q, want %q", b.Builder, p.Builder)
	}
	for _, s := range st.Subject {
		if d := s.Digest["sha256"]; sha256Hex.MatchString(d) {
			b.Programs["sha256:"+action.Digest(d)] = true
		}
	}
	if len(b.Programs) == 0 {
		return Built{}, errors.New("no subject has a sha256 digest")
	}
	return b, nil
}

// Verify verifies the bundle and returns the digest over the model's files, and
// that of the key which signed it.
func (m *ModelSignature) Verify() (files, key action.Digest, err error) {
	var b struct {
		MediaType    string      `json:"mediaType"`
		DSSEEnvelope canon.Value `json:"dsseEnvelope"`
	}
	if err := canon.UnmarshalOpen([]byte(m.Statement), maxSigned, &b); err != nil {
		return "", "", err
	}
	if !bundleForm.MatchString(b.MediaType) || len(b.DSSEEnvelope) == 0 {
		return "", "", fmt.Errorf("media type %q without a DSSE envelope is no bundle of a model signature", b.MediaType)
	}
	st, key, err := openStatement(b.DSSEEnvelope, m.Key, omsV1)
	if err != nil {
		return "", "", err
	}
	var pred struct {
		Resources []struct {
			Name      string `json:"name"`
			Algorithm string `json:"algorithm"`
			Digest    string `json:"digest"`
		} `json:"resources"`
	}
	if err := canon.UnmarshalOpen(st.Predicate, maxSigned, &pred); err != nil {
		return "", "", fmt.Errorf("predicate: %w", err)
	}
	all := sha256.New()
	for i, r := range pred.Resources {
		d, err := hex.DecodeString(r.Digest)
		if err != nil || r.Name == "" || len(d) == 0 {
			return "", "", fmt.Errorf("predicate: resources[%d] has no name, or no digest in hexadecimal", i)
		}
		all.Write(d)
	}
	if len(pred.Resources) == 0 || len(st.Subject) != 1 || st.Subject[0].Digest["sha256"] != hex.EncodeToString(all.Sum(nil)) {
		return "", "", errors.New("the subject is not the SHA-256 over the digests of the resources")
	}
	return "sha256:" + action.Digest(st.Subject[0].Digest["sha256"]), key, nil
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
