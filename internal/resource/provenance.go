package resource

import (
	"errors"
	"fmt"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// Provenance says who built a harness: an in-toto statement with SLSA provenance
// v1, signed with a key, in a DSSE envelope or a Sigstore bundle of one.
// Only a program that is one of its subjects is started.
type Provenance struct {
	// Statement is the envelope or the bundle; File is a path that the client resolves into it.
	Statement string `json:"statement,omitempty"`
	File      string `json:"file,omitempty"`
	// Key is PEM of the public key (PKIX; Ed25519, or ECDSA on P-256, P-384 or
	// P-521); KeyFile is a path that the client resolves into it.
	Key     string `json:"key,omitempty"`
	KeyFile string `json:"keyFile,omitempty"`
	// Builder is who must have built it: runDetails.builder.id.
	Builder string `json:"builder"`
}

const slsaV1 = "https://slsa.dev/provenance/v1"

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
	e, err := openEither([]byte(p.Statement))
	if err != nil {
		return Built{}, err
	}
	st, key, err := openStatement(e, p.Key, slsaV1, inTotoV1, inTotoV01) // cosign writes the second
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
