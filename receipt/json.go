package receipt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds the nesting of JSON.
const maxDepth = 64

// canonical returns the RFC 8785 form of one JSON document. It refuses what two
// readers could understand differently: duplicate names, invalid UTF-8,
// trailing data, integers that a double cannot hold.
func canonical(data []byte) ([]byte, error) {
	if !utf8.Valid(data) || halfPair(data) {
		return nil, errors.New("json: invalid UTF-8, or half a surrogate pair")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	v, err := readValue(d, 0)
	if err != nil {
		return nil, fmt.Errorf("json: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("json: data after the document")
	}
	return appendValue(nil, v)
}

// halfPair looks for an escape that is one half of a surrogate pair, which
// encoding/json reads as U+FFFD. In JSON a backslash stands in strings alone.
func halfPair(data []byte) bool {
	unit := func(i int) rune { // of the escape at i, or -1
		if i+6 > len(data) || data[i] != '\\' || data[i+1] != 'u' {
			return -1
		}
		n, err := strconv.ParseUint(string(data[i+2:i+6]), 16, 16)
		if err != nil {
			return -1
		}
		return rune(n)
	}
	for i := 0; i < len(data); i++ {
		if data[i] != '\\' {
			continue
		}
		if r := unit(i); utf16.IsSurrogate(r) {
			if utf16.DecodeRune(r, unit(i+6)) == utf8.RuneError {
				return true
			}
			i += 6
		}
		i++ // what is escaped
	}
	return false
}

func readValue(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	delim, ok := t.(json.Delim)
	if !ok {
		return t, nil
	}
	if depth >= maxDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	if delim == '[' {
		list := []any{}
		for d.More() {
			v, err := readValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := d.Token()
		return list, err
	}
	object := map[string]any{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, ok := t.(string)
		if !ok {
			return nil, errors.New("name is not a string")
		}
		if _, ok := object[name]; ok {
			return nil, fmt.Errorf("duplicate name %q", name)
		}
		if object[name], err = readValue(d, depth+1); err != nil {
			return nil, err
		}
	}
	_, err = d.Token()
	return object, err
}

func appendValue(b []byte, v any) (_ []byte, err error) {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case string:
		return appendString(b, v), nil
	case json.Number:
		return appendNumber(b, v.String())
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendValue(b, e); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case map[string]any:
		b = append(b, '{')
		for i, name := range slices.SortedFunc(maps.Keys(v), compareUTF16) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendString(b, name), ':')
			if b, err = appendValue(b, v[name]); err != nil {
				return nil, err
			}
		}
		return append(b, '}'), nil
	}
	return nil, fmt.Errorf("sallyport: internal error: JSON value of type %T", v)
}

// compareUTF16 orders names by UTF-16 code units (RFC 8785 section 3.2.3).
func compareUTF16(a, b string) int {
	return slices.Compare(utf16.Encode([]rune(a)), utf16.Encode([]rune(b)))
}

// appendString follows RFC 8785 section 3.2.2.2.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < 0x20:
			if i := strings.IndexRune("\b\t\n\f\r", r); i >= 0 {
				b = append(b, '\\', "btnfr"[i])
			} else {
				b = fmt.Appendf(b, `\u%04x`, r)
			}
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}

// appendNumber follows RFC 8785 section 3.2.2.3: encoding/json writes doubles
// as ECMAScript does, but for the sign of zero.
func appendNumber(b []byte, s string) ([]byte, error) {
	if !strings.ContainsAny(s, ".eE") {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n > 1<<53 || n < -1<<53 {
			return nil, fmt.Errorf("json: integer %.40s is beyond ±2^53", s)
		}
		return strconv.AppendInt(b, n, 10), nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return nil, fmt.Errorf("json: number %.40s: out of range", s)
	}
	if f == 0 {
		return append(b, '0'), nil
	}
	out, err := json.Marshal(f)
	return append(b, out...), err
}

// marshal returns v as RFC 8785 canonical JSON.
func marshal(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return canonical(b)
}

// unmarshalOpen reads what v names from canonical JSON, by exactly these names:
// encoding/json alone would take others, that differ by case, for them.
func unmarshalOpen(form []byte, v any) error {
	if err := json.Unmarshal(form, v); err != nil {
		return err
	}
	again, err := marshal(v)
	if err != nil {
		return err
	}
	var read, all any
	if err := errors.Join(json.Unmarshal(again, &read), json.Unmarshal(form, &all)); err != nil {
		return err
	}
	if !within(read, all) {
		return errors.New("json: a name is not spelled as it should be")
	}
	return nil
}

// within reports whether all that was read is there.
func within(read, all any) bool {
	switch x := read.(type) {
	case map[string]any:
		there, ok := all.(map[string]any)
		for name, v := range x {
			y, has := there[name]
			if has && y != nil && !within(v, y) || (!has || y == nil) && !empty(v) {
				return false
			}
		}
		return ok || empty(read)
	case []any:
		there, ok := all.([]any)
		if !ok || len(x) != len(there) {
			return false
		}
		for i := range x {
			if !within(x[i], there[i]) {
				return false
			}
		}
		return true
	}
	return read == all
}

// empty is what encoding/json leaves where nothing is read.
func empty(v any) bool {
	switch x := v.(type) {
	case map[string]any:
		for _, e := range x {
			if !empty(e) {
				return false
			}
		}
		return true
	case []any:
		return len(x) == 0
	}
	return v == nil || v == "" || v == false || v == 0.0
}

// unmarshal reads data, which must be the canonical form of what is read from
// it, to the byte: no member is left out, no spelling of it differs.
func unmarshal(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return err
	}
	again, err := marshal(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, data) {
		return errors.New("json: not in canonical form, or with unknown members")
	}
	return nil
}
