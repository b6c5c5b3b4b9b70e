package approval

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

// Values longer than foldAt runes are shown by their head and tail, with their
// length and digest.
const (
	foldAt   = 160
	foldHead = 100
	foldTail = 40
)

// Render shows a statement to the person who will sign it, as plain text for a
// terminal. Everything is shown, in one order; each value is quoted, and what
// could move the cursor, hide, or reorder text is shown as \u{...}. Text that
// Sallyport did not write stands apart as a quotation.
func Render(s Statement) string {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "  %-18s %s\n", name, visible(value))
		}
	}
	fields := func(title string, m map[string]string, mark string) {
		if len(m) == 0 {
			return
		}
		b.WriteString(title + "\n")
		for _, k := range slices.Sorted(maps.Keys(m)) {
			fmt.Fprintf(&b, "%s%-18s %s\n", mark, escape(k), visible(m[k]))
		}
	}
	b.WriteString("You are asked to approve:\n")
	line("kind", string(s.Kind))
	line("subject", s.Subject)
	line("operation", s.Operation)
	line("agent", s.Agent)
	line("task", s.Task)
	line("tenant", s.Tenant)
	fields("Parameters:", s.Params, "  ")
	fields("Details, made by Sallyport:", s.Details, "  ")
	fields("Quotation. Written by a page, an agent or a model. Do not rely on it:", s.Quoted, "  | ")
	b.WriteString("Exactly:\n")
	line("digest", string(s.Digest))
	line("request", string(s.RequestDigest))
	line("boundary", string(s.BoundaryDigest))
	line("policy", string(s.PolicyDigest))
	line("declared", string(s.ResourcesDigest))
	if line("screenshot", string(s.Screenshot)); s.Screenshot == "" && s.Kind == Action {
		b.WriteString("  screenshot         none: the agent was given no picture before it\n")
	}
	b.WriteString("Conditions:\n")
	line("role", s.Role)
	line("people needed", strconv.Itoa(s.Quorum))
	for i, x := range s.Excluded {
		line(fmt.Sprintf("must not sign %d", i+1), x)
	}
	if s.UserVerification {
		line("key", "one that verifies its user")
	}
	line("valid from", s.NotBefore.Format(time.RFC3339))
	line("expires", s.Expires.Format(time.RFC3339))
	line("nonce", s.Nonce)
	if msg, err := s.Bytes(); err == nil {
		line("signed bytes", string(canon.Digest(msg)))
	}
	return b.String()
}

// visible quotes a value, folds it if it is long, and says when it holds
// letters that could be mistaken for others.
func visible(v string) string {
	n := utf8.RuneCountInString(v)
	note := foreign(v)
	if n <= foldAt {
		return `"` + escape(v) + `"` + note
	}
	r := []rune(v)
	return fmt.Sprintf(`"%s" ... "%s" (folded: %d characters, %d bytes, %s)%s`,
		escape(string(r[:foldHead])), escape(string(r[n-foldTail:])), n, len(v), canon.Digest([]byte(v)), note)
}

// foreign names the first letters of a value that are not ASCII: a Cyrillic
// letter looks like a Latin one and is another.
func foreign(v string) string {
	var found []string
	for _, r := range v {
		if r <= unicode.MaxASCII || slices.Contains(found, fmt.Sprintf("%U", r)) {
			continue
		}
		if len(found) == 4 {
			found = append(found, "more")
			break
		}
		found = append(found, fmt.Sprintf("%U", r))
	}
	if found == nil {
		return ""
	}
	return " (not only ASCII: " + strings.Join(found, ", ") + ")"
}

// blanks are letters and symbols that show as nothing.
const blanks = "\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"

// escape makes a text safe and unambiguous to show: it is one line, and two
// different texts never look the same because of something invisible.
func escape(s string) string {
	var b strings.Builder
	for i, w := 0, 0; i < len(s); i += w {
		var r rune
		r, w = utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && w <= 1:
			fmt.Fprintf(&b, `\x{%02x}`, s[i])
		case r == '\\' || r == '"':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case !unicode.IsPrint(r) || unicode.Is(unicode.M, r) || strings.ContainsRune(blanks, r):
			fmt.Fprintf(&b, `\u{%04x}`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
