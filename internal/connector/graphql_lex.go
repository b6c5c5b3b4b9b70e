package connector

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Limits of a GraphQL document.
const (
	maxDocument = 256 << 10 // bytes
	maxTokens   = 20000
	maxNesting  = 40
)

// token of the executable subset of GraphQL (October 2021, section 2.1).
type token struct {
	kind byte   // a punctuator, or one of the below; '.' stands for "..."
	text string // of names and numbers; the decoded text of strings
}

const (
	tokenEnd    byte = 0
	tokenName   byte = 'n'
	tokenInt    byte = 'i'
	tokenFloat  byte = 'f'
	tokenString byte = 's'
)

// lexGraphQL splits a document. Comments, block strings, byte order marks and
// anything but ASCII outside of strings are refused: clients do not send them,
// and readers differ about where they end.
func lexGraphQL(src string) ([]token, bool) {
	if len(src) > maxDocument {
		return nil, false
	}
	var out []token
	for i := 0; i < len(src); {
		c := src[i]
		var t token
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == ',':
			i++
			continue
		case strings.IndexByte("!$():=@[]{}", c) >= 0:
			t.kind = c
			i++
		case strings.HasPrefix(src[i:], "..."):
			t.kind = '.'
			i += 3
		case nameStart(c):
			end := i + 1
			for end < len(src) && (nameStart(src[end]) || digit(src[end])) {
				end++
			}
			t = token{tokenName, src[i:end]}
			i = end
		case c == '-' || digit(c):
			n, kind := lexNumber(src[i:])
			if n == 0 {
				return nil, false
			}
			t = token{kind, src[i : i+n]}
			i += n
		case c == '"':
			n, text, ok := lexString(src[i:])
			if !ok {
				return nil, false
			}
			t = token{tokenString, text}
			i += n
		default:
			return nil, false
		}
		if out = append(out, t); len(out) > maxTokens {
			return nil, false
		}
	}
	return append(out, token{}), true
}

func nameStart(c byte) bool { return c == '_' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' }
func digit(c byte) bool     { return c >= '0' && c <= '9' }

// lexNumber returns 0 for what is no number, or one that runs into a name.
func lexNumber(s string) (n int, kind byte) {
	digits := func() bool {
		start := n
		for n < len(s) && digit(s[n]) {
			n++
		}
		return n > start
	}
	kind = tokenInt
	if s[0] == '-' {
		n++
	}
	start := n
	if !digits() || s[start] == '0' && n > start+1 {
		return 0, 0
	}
	if n < len(s) && s[n] == '.' {
		n++
		kind = tokenFloat
		if !digits() {
			return 0, 0
		}
	}
	if n < len(s) && (s[n] == 'e' || s[n] == 'E') {
		n++
		kind = tokenFloat
		if n < len(s) && (s[n] == '+' || s[n] == '-') {
			n++
		}
		if !digits() {
			return 0, 0
		}
	}
	if n < len(s) && (nameStart(s[n]) || s[n] == '.') {
		return 0, 0
	}
	return n, kind
}

// lexString reads a quoted string on one line.
func lexString(s string) (n int, text string, ok bool) {
	if strings.HasPrefix(s, `"""`) {
		return 0, "", false
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return i + 1, b.String(), utf8.ValidString(b.String())
		case c < ' ' || c == 0x7f:
			return 0, "", false
		case c != '\\':
			b.WriteByte(c)
		default:
			n, r := lexEscape(s[i:])
			if n == 0 {
				return 0, "", false
			}
			b.WriteRune(r)
			i += n - 1
		}
	}
	return 0, "", false
}

// lexEscape reads one escape; NUL, lone surrogates and "\u{}" are refused.
func lexEscape(s string) (n int, r rune) {
	if len(s) < 2 {
		return 0, 0
	}
	if k := strings.IndexByte(`"\/bfnrt`, s[1]); k >= 0 {
		return 2, rune("\"\\/\b\f\n\r\t"[k])
	}
	r, ok := lexHex(s)
	switch {
	case !ok || r == 0:
		return 0, 0
	case !utf16.IsSurrogate(r):
		return 6, r
	}
	low, ok := lexHex(s[6:])
	if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
		return 0, 0
	}
	return 12, r
}

func lexHex(s string) (rune, bool) {
	if len(s) < 6 || s[:2] != `\u` || strings.ContainsAny(s[2:6], "+-_") {
		return 0, false
	}
	v, err := strconv.ParseUint(s[2:6], 16, 16)
	return rune(v), err == nil
}
