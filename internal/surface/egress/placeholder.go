package egress

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"html"
	"io"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// marker begins every placeholder of a secret, in whatever case it is sent.
const marker = action.PlaceholderPrefix

// Slot is one place of a request's body where a secret is put in: the bytes
// from Start to End are its placeholder.
type Slot struct {
	Secret, Field string
	Start, End    int
	// Encode spells a secret as the body does. Its error repeats nothing of it.
	Encode func(secret string) ([]byte, error)
}

// Secrets are the sealed secrets that the session's task holds leases of. It is
// called concurrently.
type Secrets interface {
	// Leased reports whether the task may use the secret at the origin.
	Leased(origin, name string) bool
	// Use puts the use on record and gives the values, by name. An error stops
	// the request before anything of it is sent; its text is not shown.
	Use(ctx context.Context, origin, action string, names []string) (map[string]string, error)
}

// checkPlaceholders refuses a request with a placeholder in any place that is no
// slot, and one with a slot whose secret the task does not hold. (What names a Take
// is gone from the header by then.) A placeholder in another place would be sent as what it is, a name, and no secret would leave;
// but whoever put it there expects the secret to go there.
func (p *Proxy) checkPlaceholders(req action.Request, header http.Header, body []byte, slots []Slot) string {
	rest, at := []byte(nil), 0
	for _, s := range slots {
		if s.Start < at || s.End < s.Start || s.End > len(body) {
			return "placeholder_misplaced"
		}
		// What stands on both sides of a slot is not one text.
		rest = append(append(rest, body[at:s.Start]...), '\n')
		at = s.End
	}
	if rest != nil {
		body = append(rest, body[at:]...)
	}
	if namesSecret([]byte(req.Path)) || namesSecret([]byte(req.Query)) || namesSecret(body) || namesSecret(joined(req.BodyType, body)) {
		return "placeholder_misplaced"
	}
	for name, values := range header {
		if namesSecret([]byte(name)) || namesSecret([]byte(strings.Join(values, "\n"))) || len(values) > 1 && namesSecret([]byte(strings.Join(values, ""))) {
			return "placeholder_misplaced"
		}
	}
	for _, s := range slots {
		if p.cfg.Secrets == nil || !p.cfg.Secrets.Leased(req.Origin, s.Secret) {
			return "secret_not_leased"
		}
	}
	return ""
}

// substitute puts the secrets into the body of the outgoing request, and returns
// it. It comes after the digest was compared, the permit used and the use of each
// secret recorded: the records hold the placeholders, and the bytes that are sent
// differ from the decided ones in the slots alone.
func (x *exchange) substitute() ([]byte, error) {
	if len(x.rec.Secrets) == 0 {
		return x.in.body, nil
	}
	var out []byte
	at := 0
	for _, s := range x.rec.Secrets {
		spelled, err := s.Encode(x.values[s.Secret])
		if err != nil {
			return nil, err
		}
		out = append(append(out, x.in.body[at:s.Start]...), spelled...)
		at = s.End
	}
	out = append(out, x.in.body[at:]...)
	x.out.Body, x.out.ContentLength = io.NopCloser(bytes.NewReader(out)), int64(len(out))
	return out, nil
}

var errNoSecrets = errors.New("the task holds no such secret")

// Bounds of namesSecret: how many encodings inside each other are undone.
const (
	maxSpelled = 6 // percent, backslash, entity, equals sign
	maxPacked  = 2 // base64, hexadecimal
)

// namesSecret reports whether text has a placeholder in it, in any case and
// under any of the encodings that applications undo: percent, JSON and HTML
// escapes, quoted-printable, base64, hexadecimal, UTF-16, and with invisible or
// white characters in between. Not found: what is compressed or encrypted.
func namesSecret(b []byte) bool { return named(b, maxPacked) }

func named(b []byte, depth int) bool {
	if len(b) < len(marker) {
		return false
	}
	text := b
	for range maxSpelled {
		folded, escapes := fold(text)
		if bytes.Contains(folded, []byte(marker)) {
			return true
		}
		if !escapes {
			break
		}
		text = undo(text)
	}
	return depth > 0 && packed(b, depth)
}

// fold lowers the case and takes out what is not seen. escapes says that
// something could be an escape.
func fold(b []byte) (out []byte, escapes bool) {
	out = make([]byte, 0, len(b))
	for i := 0; i < len(b); {
		c := b[i]
		if c < utf8.RuneSelf {
			i++
			switch {
			case c == '%', c == '\\', c == '&', c == '=':
				escapes = true
				out = append(out, c)
			case 'A' <= c && c <= 'Z':
				out = append(out, c+'a'-'A')
			case c > ' ' && c != 0x7f && c != '+': // which is a blank in forms
				out = append(out, c)
			}
			continue
		}
		r, n := utf8.DecodeRune(b[i:])
		i += n
		switch {
		case unicode.In(r, unicode.Cf, unicode.Cc, unicode.Z, unicode.Mn):
		case r >= 0xff01 && r <= 0xff5e: // the wide forms of ASCII
			out = append(out, byte(unicode.ToLower(r-0xff01+'!')))
		case r == 0x2010 || r == 0x2011 || r == 0x2212 || r == 0xfe63:
			out = append(out, '-')
		case r == 0xfe55 || r == 0xa789 || r == 0x2236:
			out = append(out, ':')
		case r == 0x017f: // the long s, which is an s without case
			out = append(out, 's')
		default:
			out = utf8.AppendRune(out, unicode.ToLower(r))
		}
	}
	return out, escapes
}

// undo undoes one layer of every escape that it knows.
func undo(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); {
		if r, n := escaped(b[i:]); n > 0 {
			if r < 0x100 && b[i] != '&' && b[i] != '\\' {
				out = append(out, byte(r))
			} else {
				out = utf8.AppendRune(out, r)
			}
			i += n
			continue
		}
		out = append(out, b[i])
		i++
	}
	return out
}

// escaped reads one escape at the start of b: %41, =41, \x41, \u0041, \u{41},
// \n and the like, &#65; &#x41; &colon;. n is 0 where there is none.
func escaped(b []byte) (r rune, n int) {
	digits := func(s []byte, base, most int) (v rune, n int) {
		for n < len(s) && n < most {
			if !isHex(s[n]) || int(unhex(s[n])) >= base {
				break
			}
			v, n = v*rune(base)+rune(unhex(s[n])), n+1
		}
		return v, n
	}
	switch {
	case len(b) < 2:
		return 0, 0
	case b[0] == '%' && (b[1] == 'u' || b[1] == 'U'): // as IIS and escape() have it
		if v, n := digits(b[2:], 16, 4); n == 4 {
			return v, 6
		}
	case b[0] == '%', b[0] == '=':
		if v, n := digits(b[1:], 16, 2); n == 2 {
			return v, 3
		}
		if b[0] == '=' && b[1] == '\r' && len(b) > 2 && b[2] == '\n' { // a soft line break
			return ' ', 3
		}
	case b[0] == '\\':
		switch b[1] {
		case 'x':
			if v, n := digits(b[2:], 16, 2); n == 2 {
				return v, 4
			}
		case 'u':
			if len(b) > 2 && b[2] == '{' {
				if v, n := digits(b[3:], 16, 6); n > 0 && len(b) > 3+n && b[3+n] == '}' {
					return v, 4 + n
				}
			}
			if v, n := digits(b[2:], 16, 4); n == 4 {
				return v, 6
			}
		case '/', '\\', '"', '\'', '-', ':':
			return rune(b[1]), 2
		case 'b', 'f', 'n', 'r', 't':
			return rune("\b\f\n\r\t"[strings.IndexByte("bfnrt", b[1])]), 2
		}
		if v, n := digits(b[1:], 8, 3); n == 3 {
			return v, 4
		}
	case b[0] == '&' && b[1] == '#':
		s, base := b[2:], 10
		if len(s) > 0 && (s[0] == 'x' || s[0] == 'X') {
			s, base = s[1:], 16
		}
		if v, n := digits(s, base, 8); n > 0 {
			at := len(b) - len(s) + n
			if at < len(b) && b[at] == ';' {
				at++
			}
			return v, at
		}
	case b[0] == '&':
		if end := bytes.IndexByte(b[:min(len(b), 12)], ';'); end > 0 {
			if t := []rune(html.UnescapeString(string(b[:end+1]))); len(t) == 1 {
				return t[0], end + 1
			}
		}
	}
	return 0, 0
}

// packed looks into every stretch that could be base64 or hexadecimal and is
// long enough to hold a placeholder.
func packed(b []byte, depth int) bool {
	found := false
	stretches(b, base64Digit, (len(marker)*8+5)/6, func(run []byte) {
		found = found || unpack(run, depth)
		stretches(run, isHex, 2*len(marker), func(run []byte) {
			for shift := range 2 {
				out := make([]byte, len(run)/2)
				n, _ := hex.Decode(out, run[shift:shift+(len(run)-shift)/2*2]) // all digits
				found = found || named(out[:n], depth-1)
			}
		})
	})
	return found
}

// stretches calls f with each longest stretch of what is in.
func stretches(b []byte, in func(byte) bool, shortest int, f func([]byte)) {
	start := 0
	for i := 0; i <= len(b); i++ {
		if i < len(b) && in(b[i]) {
			continue
		}
		if i-start >= shortest {
			f(b[start:i])
		}
		start = i + 1
	}
}

func base64Digit(c byte) bool {
	return c == '+' || c == '/' || c == '-' || c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

var toStd = strings.NewReplacer("-", "+", "_", "/")

func unpack(run []byte, depth int) bool {
	std := []byte(toStd.Replace(string(run)))
	out := make([]byte, base64.StdEncoding.DecodedLen(len(std))+4)
	for shift := range 4 {
		if shift >= len(std) {
			break
		}
		s := std[shift:]
		s = s[:len(s)/4*4+map[int]int{0: 0, 1: 0, 2: 2, 3: 3}[len(s)%4]]
		n, _ := base64.RawStdEncoding.Decode(out, s) // all digits, so all of it decodes
		if named(out[:n], depth-1) {
			return true
		}
	}
	return false
}

// joined are the values of a body one after another, so that a placeholder in
// pieces is seen.
func joined(bodyType string, body []byte) []byte {
	var out []byte
	switch mt, _, _ := strings.Cut(strings.ToLower(bodyType), ";"); {
	case strings.TrimSpace(mt) == "application/x-www-form-urlencoded":
		for pair := range bytes.SplitSeq(body, []byte("&")) {
			_, v, _ := bytes.Cut(pair, []byte("="))
			out = append(out, v...)
		}
	case strings.HasPrefix(mt, "multipart/"):
		for i, part := range bytes.Split(body, []byte("\r\n\r\n")) {
			if data := bytes.LastIndex(part, []byte("\r\n--")); i > 0 && data >= 0 {
				out = append(out, part[:data]...)
			}
		}
	case strings.Contains(mt, "json"):
		return jsonStrings(body)
	}
	return out
}

// jsonStrings are the strings of a document that are no names of members.
func jsonStrings(body []byte) (out []byte) {
	var objects []bool // for each open bracket: is it an object
	name := false      // what comes next is the name of a member
	d := json.NewDecoder(bytes.NewReader(body))
	for {
		t, err := d.Token()
		if err != nil {
			return out
		}
		switch t := t.(type) {
		case json.Delim:
			if t == '{' || t == '[' {
				objects = append(objects, t == '{')
			} else {
				objects = objects[:len(objects)-1]
			}
		case string:
			if name {
				name = false
				continue
			}
			out = append(out, t...)
		}
		name = len(objects) > 0 && objects[len(objects)-1]
	}
}
