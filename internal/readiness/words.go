package readiness

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/receipt"
)

func digest(s string) action.Digest { return action.Digest(s) }

// keyOf is the form in which keys are compared: who holds one private key is one
// signer, whatever form the line has. A line that is no key matches nothing.
func keyOf(line string) string {
	k, err := receipt.KeyDigest(line)
	if err != nil {
		return "\x00"
	}
	return k
}

func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

func list(names []string, word string) string {
	switch n := len(names); n {
	case 0:
		return "nobody"
	case 1:
		return names[0]
	default:
		return strings.Join(names[:n-1], ", ") + " " + word + " " + names[n-1]
	}
}

// sentence starts with a capital and ends with a full stop.
func sentence(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return ""
	}
	s = string(unicode.ToUpper(r)) + s[n:]
	if !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}

// plain makes text fit for a terminal: no control characters, no characters
// that turn the direction of writing, no line breaks.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r) {
			return '�'
		}
		return r
	}, strings.ToValidUTF8(s, "�"))
}
