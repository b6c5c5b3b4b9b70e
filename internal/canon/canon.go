// Package canon makes canonical bytes and reads JSON strictly.
//
// Canonical form is RFC 8785 (JSON Canonicalization Scheme). Reading refuses
// what two readers could understand differently: duplicate names, invalid
// UTF-8, trailing data, unknown members, depth over MaxDepth, input over the
// caller's limit. Numbers in our own documents are integers within ±2^53.
package canon

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// MaxDepth bounds the nesting of any JSON document that is read.
const MaxDepth = 64

// ErrTooLarge is returned for input over the limit. The caller should refuse
// the message, not cut it.
var ErrTooLarge = errors.New("document is larger than allowed")

// Marshal returns v as RFC 8785 canonical JSON.
func Marshal(v any) ([]byte, error) {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	val := jsontext.Value(b)
	if err := val.Canonicalize(); err != nil {
		return nil, err
	}
	return val, nil
}

// Unmarshal reads one JSON document of at most limit bytes into v, strictly:
// unknown members are errors.
func Unmarshal(data []byte, limit int, v any) error {
	if err := Check(data, limit); err != nil {
		return err
	}
	return json.Unmarshal(data, v, json.RejectUnknownMembers(true))
}

// UnmarshalOpen is Unmarshal for documents of other people's formats: members
// that v does not name are left out, all other refusals stand.
func UnmarshalOpen(data []byte, limit int, v any) error {
	if err := Check(data, limit); err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// Check reports whether data is exactly one strict JSON document.
func Check(data []byte, limit int) error {
	if len(data) > limit {
		return fmt.Errorf("%w: %d bytes, limit %d", ErrTooLarge, len(data), limit)
	}
	d := jsontext.NewDecoder(bytes.NewReader(data))
	for {
		if _, err := d.ReadToken(); err != nil {
			return fmt.Errorf("json: %w", err)
		}
		if d.StackDepth() > MaxDepth {
			return fmt.Errorf("json: nested deeper than %d", MaxDepth)
		}
		if d.StackDepth() == 0 {
			break
		}
	}
	if rest := bytes.TrimLeft(data[d.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return errors.New("json: data after the document")
	}
	return nil
}

// Digest is the digest of raw bytes.
func Digest(b []byte) action.Digest {
	h := sha256.Sum256(b)
	return action.Digest("sha256:" + hex.EncodeToString(h[:]))
}

// DigestOf is the digest of the canonical form of v.
func DigestOf(v any) (action.Digest, error) {
	b, err := Marshal(v)
	if err != nil {
		return "", err
	}
	return Digest(b), nil
}
