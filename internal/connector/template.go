package connector

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// segment of a path template: a literal or a parameter. A slash at the end is
// an empty literal, the only one, so that "/users/" and "/users" are two paths.
type segment struct {
	literal string
	param   string
}

var paramName = regexp.MustCompile(`^[a-z][A-Za-z0-9]*$`)

// parseTemplate reads "/users/{user}/reset".
func parseTemplate(path string) ([]segment, error) {
	if !strings.HasPrefix(path, "/") {
		return nil, errors.New("path must begin with /")
	}
	if path == "/" {
		return nil, nil
	}
	var out []segment
	seen := map[string]bool{}
	parts := strings.Split(path[1:], "/")
	for i, part := range parts {
		if name, ok := strings.CutPrefix(part, "{"); ok {
			name, ok = strings.CutSuffix(name, "}")
			if !ok || !paramName.MatchString(name) {
				return nil, fmt.Errorf("segment %q: want {name} and nothing else", part)
			}
			if seen[name] {
				return nil, fmt.Errorf("parameter {%s} is used twice", name)
			}
			seen[name] = true
			out = append(out, segment{param: name})
			continue
		}
		if strings.ContainsAny(part, "{}") {
			return nil, fmt.Errorf("segment %q: a parameter is a whole segment", part)
		}
		lit, err := decodeSegment(part)
		if err != nil && (part != "" || i == 0 || i < len(parts)-1) {
			return nil, fmt.Errorf("segment %q: %w", part, err)
		}
		out = append(out, segment{literal: lit})
	}
	return out, nil
}

var errAmbiguous = errors.New("two readers could understand it differently")

// splitPath reads a path as sent. It refuses every path that has a second
// reading: empty segments but the one behind a slash at the end, dot segments,
// matrix parameters, backslashes, raw non-ASCII, and percent encodings of what
// need not or must not be encoded.
func splitPath(path string) ([]string, error) {
	if path == "/" {
		return nil, nil
	}
	if !strings.HasPrefix(path, "/") || len(path) > 8<<10 {
		return nil, errAmbiguous
	}
	parts := strings.Split(path[1:], "/")
	for i, p := range parts {
		if p == "" && i > 0 && i == len(parts)-1 {
			break // a slash at the end
		}
		d, err := decodeSegment(p)
		if err != nil {
			return nil, err
		}
		parts[i] = d
	}
	return parts, nil
}

// decodeSegment decodes one path segment (RFC 3986 section 3.3).
func decodeSegment(s string) (string, error) {
	if s == "" || s == "." || s == ".." {
		return "", errAmbiguous
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if i+2 >= len(s) {
				return "", errAmbiguous
			}
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if hi > 15 || lo > 15 {
				return "", errAmbiguous
			}
			c = hi<<4 | lo
			i += 2
			// Unreserved characters are never encoded by a browser; separators
			// and percent signs would be decoded again by some servers.
			if unreserved(c) || c < ' ' || c == 0x7f || strings.IndexByte(`/\%;?#`, c) >= 0 {
				return "", errAmbiguous
			}
		} else if c <= ' ' || c >= 0x7f || strings.IndexByte(`\;?#"<>^{}|`+"`", c) >= 0 {
			return "", errAmbiguous
		}
		b.WriteByte(c)
	}
	if !utf8.ValidString(b.String()) {
		return "", errAmbiguous
	}
	return b.String(), nil
}

func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}

// matchPath compares decoded segments, by case.
func matchPath(t []segment, parts []string) (map[string]string, bool) {
	if len(t) != len(parts) {
		return nil, false
	}
	params := map[string]string{}
	for i, s := range t {
		switch {
		case s.param != "":
			if parts[i] == "" {
				return nil, false
			}
			params[s.param] = parts[i]
		case s.literal != parts[i]:
			return nil, false
		}
	}
	return params, true
}

// resembles reports whether parts could be a path of t for a server that does
// not mind case or a slash at the end.
func resembles(t []segment, parts []string) bool {
	t = withoutSlash(t)
	if n := len(parts); n > 0 && parts[n-1] == "" {
		parts = parts[:n-1]
	}
	if len(t) != len(parts) {
		return false
	}
	for i, s := range t {
		if s.param == "" && !strings.EqualFold(s.literal, parts[i]) {
			return false
		}
	}
	return true
}

func withoutSlash(t []segment) []segment {
	if n := len(t); n > 0 && t[n-1] == (segment{}) {
		return t[:n-1]
	}
	return t
}

// relation of two templates by the paths that both match.
type relation int

const (
	disjoint relation = iota
	equal
	narrower // a matches only paths that b matches
	wider
	crossing
)

func relate(a, b []segment) relation {
	if len(a) != len(b) {
		return disjoint
	}
	var an, bn bool // a, b is a literal where the other is a parameter
	for i := range a {
		al, bl := a[i].param == "", b[i].param == ""
		switch {
		case al && bl && a[i].literal != b[i].literal:
			return disjoint
		case al != bl && a[i].literal == b[i].literal: // no parameter is empty
			return disjoint
		case al && !bl:
			an = true
		case bl && !al:
			bn = true
		}
	}
	switch {
	case an && bn:
		return crossing
	case an:
		return narrower
	case bn:
		return wider
	}
	return equal
}

// expand fills a template with parameters, encoding each as one segment.
func expand(t []segment, params map[string]string) (string, bool) {
	if len(t) == 0 {
		return "/", true
	}
	var b strings.Builder
	for i, s := range t {
		b.WriteByte('/')
		if s == (segment{}) && i == len(t)-1 {
			break
		}
		text := s.literal
		if s.param != "" {
			v, ok := params[s.param]
			if !ok {
				return "", false
			}
			text = v
		}
		enc := encodeSegment(text)
		if d, err := decodeSegment(enc); err != nil || d != text {
			return "", false // "..", a slash: no segment can say it
		}
		b.WriteString(enc)
	}
	return b.String(), true
}

func encodeSegment(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; unreserved(c) || strings.IndexByte("!$&'()*+,:=@", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
