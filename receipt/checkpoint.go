package receipt

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// ErrProof is wrapped when a proof does not prove what it is for.
var ErrProof = errors.New("proof is not valid")

// Checkpoint is a verified C2SP tlog-checkpoint.
type Checkpoint struct {
	Origin string
	Size   int64 // records
	Root   tlog.Hash
}

// ParseCheckpoint verifies that note is a checkpoint of the log that owns key,
// a C2SP signed-note verifier key, whose name must be the log's origin.
// Signatures of others (witnesses) may follow; they are not looked at.
func ParseCheckpoint(signed []byte, key string) (Checkpoint, error) {
	c, err := parseCheckpoint(signed, key)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	return c, nil
}

func parseCheckpoint(signed []byte, key string) (Checkpoint, error) {
	v, _, err := parseKey(key)
	if err != nil {
		return Checkpoint{}, err
	}
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) != 4 || lines[0] != v.Name() || lines[3] != "" {
		return Checkpoint{}, fmt.Errorf("not of log %s", v.Name())
	}
	c := Checkpoint{Origin: lines[0]}
	if c.Size, err = strconv.ParseInt(lines[1], 10, 64); err != nil || c.Size < 0 {
		return Checkpoint{}, fmt.Errorf("size %.40q", lines[1])
	}
	if c.Root, err = parseHash(lines[2]); err != nil {
		return Checkpoint{}, err
	}
	if c.text() != n.Text {
		return Checkpoint{}, errors.New("not in canonical form")
	}
	return c, nil
}

func (c Checkpoint) text() string { return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, c.Root) }

func parseHash(s string) (h tlog.Hash, err error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != tlog.HashSize {
		return h, fmt.Errorf("hash %.60q: want 32 bytes in base64", s)
	}
	return tlog.Hash(b), nil
}

// parseKey reads a verifier key of the Ed25519 kind.
func parseKey(key string) (note.Verifier, ed25519.PublicKey, error) {
	v, err := note.NewVerifier(key)
	if err != nil {
		return nil, nil, fmt.Errorf("verifier key: %w", err)
	}
	// "name+hash+base64(1 || public key)"
	parts := strings.SplitN(key, "+", 3)
	b, err := base64.StdEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(b) != 1+ed25519.PublicKeySize {
		return nil, nil, errors.New("verifier key: not an Ed25519 key")
	}
	return v, ed25519.PublicKey(b[1:]), nil
}

// VerifyInclusion verifies that record, canonical bytes, is number seq of the
// tree that c covers (RFC 9162 section 2.1.3.2).
func VerifyInclusion(c Checkpoint, seq int64, record []byte, proof []tlog.Hash) error {
	if seq < 0 || seq >= c.Size {
		return fmt.Errorf("%w: record %d is not under a checkpoint of %d", ErrProof, seq, c.Size)
	}
	if err := tlog.CheckRecord(proof, c.Size, c.Root, seq, tlog.RecordHash(record)); err != nil {
		return fmt.Errorf("%w: record %d: %w", ErrProof, seq, err)
	}
	return nil
}

// VerifyConsistency verifies that the log at c extends the log at old
// (RFC 9162 section 2.1.4.2): nothing that old covers was changed.
func VerifyConsistency(old, c Checkpoint, proof []tlog.Hash) error {
	if old.Origin != c.Origin {
		return fmt.Errorf("%w: %s is not %s", ErrProof, old.Origin, c.Origin)
	}
	if old.Size == 0 {
		return nil // every log extends the empty one
	}
	if old.Size > c.Size {
		return fmt.Errorf("%w: the log went back from %d to %d records", ErrProof, old.Size, c.Size)
	}
	if err := tlog.CheckTree(proof, c.Size, c.Root, old.Size, old.Root); err != nil {
		return fmt.Errorf("%w: %w", ErrProof, err)
	}
	return nil
}

const proofHeader = "c2sp.org/tlog-proof@v1"

// FormatProof writes a C2SP tlog-proof.
func FormatProof(seq int64, proof []tlog.Hash, checkpoint []byte) []byte {
	b := fmt.Appendf(nil, "%s\nindex %d\n", proofHeader, seq)
	for _, h := range proof {
		b = fmt.Appendf(b, "%s\n", h)
	}
	return append(append(b, '\n'), checkpoint...)
}

// VerifyProof verifies a C2SP tlog-proof that record is in the log that owns
// key, and returns the position and the checkpoint. A proof with extra data is
// refused: we give none a meaning.
func VerifyProof(proof, record []byte, key string) (int64, Checkpoint, error) {
	head, signed, ok := bytes.Cut(proof, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if !ok || len(lines) < 2 || len(lines) > 2+64 || lines[0] != proofHeader {
		return 0, Checkpoint{}, fmt.Errorf("%w: not a %s", ErrProof, proofHeader)
	}
	index, ok := strings.CutPrefix(lines[1], "index ")
	seq, err := strconv.ParseInt(index, 10, 64)
	if !ok || err != nil || strconv.FormatInt(seq, 10) != index {
		return 0, Checkpoint{}, fmt.Errorf("%w: line %.40q", ErrProof, lines[1])
	}
	hashes := make([]tlog.Hash, len(lines)-2)
	for i, l := range lines[2:] {
		if hashes[i], err = parseHash(l); err != nil {
			return 0, Checkpoint{}, fmt.Errorf("%w: %w", ErrProof, err)
		}
	}
	c, err := ParseCheckpoint(signed, key)
	if err != nil {
		return 0, Checkpoint{}, err
	}
	return seq, c, VerifyInclusion(c, seq, record, hashes)
}
