// Package canon makes canonical bytes and reads JSON strictly.
//
// Canonical form is RFC 8785 (JSON Canonicalization Scheme). Reading refuses
// what two readers could understand differently: duplicate names, invalid
// UTF-8, trailing data, unknown members, depth over MaxDepth, input over the
// caller's limit.
//
// Numbers: RFC 8785 gives every number the precision of an IEEE 754 double, so
// an integer beyond ±2^53 would silently become another one, and 1e999 the
// largest double. Marshal and Unmarshal refuse them; carry such values as
// strings. A time.Duration is its
// nanoseconds.
package canon

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	jsonv1 "github.com/go-json-experiment/json/v1"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// MaxDepth bounds the nesting of any JSON document that is read.
const MaxDepth = 64

// ErrTooLarge is returned for input over the limit. The caller should refuse
// the message, not cut it.
var ErrTooLarge = errors.New("document is larger than allowed")

// Value is one JSON document kept as bytes inside a larger one.
type Value = jsontext.Value

// MaxInteger is the largest magnitude of an integer in our own documents:
// every double up to it is exact (RFC 7493 section 2.2 has one less).
const MaxInteger = 1 << 53

// style: time.Duration is integer nanoseconds (the library has no default form
// for it), and omitempty leaves out what encoding/json leaves out.
var style = json.JoinOptions(jsonv1.FormatDurationAsNano(true), jsonv1.OmitEmptyWithLegacySemantics(true))

// Marshal returns v as RFC 8785 canonical JSON.
func Marshal(v any) ([]byte, error) {
	s := sorters.Get().(*sorter)
	defer s.put()
	if err := json.MarshalWrite(&s.in, v, json.Deterministic(true), style); err != nil {
		return nil, err
	}
	if out, ok := s.sorted(); ok {
		return out, nil
	}
	if err := checkNumbers(s.in.Bytes()); err != nil {
		return nil, err
	}
	val := jsontext.Value(bytes.Clone(s.in.Bytes()))
	if err := val.Canonicalize(); err != nil {
		return nil, err
	}
	// Again: a large double without a fraction has become an integer.
	if err := checkNumbers(val); err != nil {
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
	if err := checkNumbers(data); err != nil {
		return err
	}
	return json.Unmarshal(data, v, json.RejectUnknownMembers(true), style)
}

// UnmarshalOpen is Unmarshal for documents of other people's formats: members
// that v does not name are left out, all other refusals stand.
func UnmarshalOpen(data []byte, limit int, v any) error {
	if err := Check(data, limit); err != nil {
		return err
	}
	return json.Unmarshal(data, v, style)
}

// Check reports whether data is exactly one strict JSON document.
func Check(data []byte, limit int) error { return check(data, limit) }

// CheckForeign is Check for documents whose texts are other people's: bytes that are no
// UTF-8, and halves of surrogate pairs, as they are left where a text was cut, are no
// error. Readers have U+FFFD in their place.
func CheckForeign(data []byte, limit int) error {
	return check(data, limit, jsontext.AllowInvalidUTF8(true))
}

func check(data []byte, limit int, o ...jsontext.Options) error {
	if len(data) > limit {
		return fmt.Errorf("%w: %d bytes, limit %d", ErrTooLarge, len(data), limit)
	}
	d := jsontext.NewDecoder(bytes.NewReader(data), o...)
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

// checkNumbers refuses integers that a double cannot hold exactly, and numbers
// beyond its range. b is valid JSON, so a number outside a string starts with a digit or a minus sign.
func checkNumbers(b []byte) error {
	for i := 0; i < len(b); {
		switch c := b[i]; {
		case c == '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			i++
		case c == '-' || c >= '0' && c <= '9':
			start, integer := i, true
			for ; i < len(b) && bytes.IndexByte([]byte("+-.0123456789eE"), b[i]) >= 0; i++ {
				integer = integer && b[i] != '.' && b[i] != 'e' && b[i] != 'E'
			}
			if !integer {
				if _, err := strconv.ParseFloat(string(b[start:i]), 64); err != nil {
					return fmt.Errorf("json: number %.40s is out of range", b[start:i])
				}
				continue
			}
			if i-start < 16 {
				continue
			}
			n, err := strconv.ParseInt(string(b[start:i]), 10, 64)
			if err != nil || n > MaxInteger || n < -MaxInteger {
				return fmt.Errorf("json: integer %.40s is beyond ±2^53", b[start:i])
			}
		default:
			i++
		}
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
