package egress

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"html"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// redacted stands in the place of a secret.
const redacted = "[sallyport:redacted]"

// minSecret is the shortest value or form, in bytes, that is searched for:
// shorter ones are everywhere.
const minSecret = 6

// errReflected ends a stream that carries a secret and cannot be rewritten.
var errReflected = errors.New("a secret came back")

// scrubber finds every form of every secret in a stream. It is immutable.
//
// Forms: as it is, URL-encoded, JSON-escaped, HTML-escaped, hexadecimal, and
// base64 (both alphabets) at any alignment. Not found: a secret that the origin
// encrypted, compressed inside the body, or cut into pieces.
type scrubber struct {
	forms map[[2]byte][][]byte // by the first two bytes, longest first
	first [256]bool
	pairs [1 << 13]byte // bit set of the first two bytes, so that most positions cost one look
}

// scrubCache keeps the scrubber of the secrets that were known last.
type scrubCache struct {
	mu      sync.Mutex
	secrets []Secret
	s       *scrubber
}

func (p *Proxy) scrubber() *scrubber {
	var now []Secret
	if p.cfg.Redactor != nil {
		now = p.cfg.Redactor.Secrets()
	}
	c := &p.scrub
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.s == nil || !slices.Equal(c.secrets, now) {
		c.secrets, c.s = slices.Clone(now), newScrubber(now)
	}
	return c.s
}

func newScrubber(secrets []Secret) *scrubber {
	s := &scrubber{forms: map[[2]byte][][]byte{}}
	seen := map[string]bool{}
	for _, secret := range secrets {
		if len(secret) < minSecret {
			continue
		}
		for _, f := range forms(string(secret)) {
			if len(f) < minSecret || seen[f] {
				continue
			}
			seen[f] = true
			k := [2]byte{f[0], f[1]}
			s.forms[k] = append(s.forms[k], []byte(f))
			s.first[f[0]] = true
			i := int(f[0])<<8 | int(f[1])
			s.pairs[i>>3] |= 1 << (i & 7)
		}
	}
	for _, l := range s.forms {
		slices.SortFunc(l, func(a, b []byte) int { return cmp.Compare(len(b), len(a)) })
	}
	return s
}

func (s *scrubber) active() bool { return len(s.forms) > 0 }

// forms lists the spellings of one secret.
func forms(s string) []string {
	q, path := url.QueryEscape(s), url.PathEscape(s)
	all := []string{s, q, path, lowerHex(q), lowerHex(path), percentAll(s), lowerHex(percentAll(s)),
		html.EscapeString(s), strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&#x27;").Replace(s),
		hex.EncodeToString([]byte(s)), strings.ToUpper(hex.EncodeToString([]byte(s)))}
	all = append(all, jsonForms(s)...)
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for pad := range 3 {
			// Only the characters that depend on nothing but the secret.
			e := enc.EncodeToString(append(make([]byte, pad), s...))
			e = e[(pad*8+5)/6 : (pad+len(s))*8/6]
			all = append(all, e, strings.ReplaceAll(e, "/", `\/`), url.QueryEscape(e))
		}
	}
	return all
}

func jsonForms(s string) []string {
	var plain bytes.Buffer
	e := json.NewEncoder(&plain)
	e.SetEscapeHTML(false)
	e.Encode(s) // a string always encodes
	escaped, _ := json.Marshal(s)
	trim := func(s string) string { return strings.TrimSuffix(strings.TrimPrefix(s, `"`), `"`) }
	a, b := trim(strings.TrimSpace(plain.String())), trim(string(escaped))
	slash := func(s string) string { return strings.ReplaceAll(s, "/", `\/`) }
	// JSON inside JSON, as logs and error messages carry it.
	twice, _ := json.Marshal(b)
	return []string{a, b, slash(a), slash(b), trim(string(twice))}
}

func percentAll(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteString("%" + strings.ToUpper(hex.EncodeToString([]byte{s[i]})))
	}
	return b.String()
}

// lowerHex lowers the digits of percent escapes.
func lowerHex(s string) string {
	b := []byte(s)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:], bytes.ToLower(b[i+1:i+3]))
			i += 2
		}
	}
	return string(b)
}

// text replaces secrets in a whole string.
func (s *scrubber) text(v string) string {
	if !s.active() {
		return v
	}
	out, _, hit := s.step([]byte(v), true)
	if !hit {
		return v
	}
	return string(out)
}

// step replaces what is found in in. Unless final, rest is a tail that could be
// the start of a secret and must be given again with more bytes after it.
func (s *scrubber) step(in []byte, final bool) (out, rest []byte, hit bool) {
	copied := 0 // in[:copied] is in out, once out is not nil
	i := 0
	for ; i < len(in); i++ {
		if i+1 == len(in) {
			if !final && s.first[in[i]] {
				break
			}
			continue
		}
		k := int(in[i])<<8 | int(in[i+1])
		if s.pairs[k>>3]&(1<<(k&7)) == 0 {
			continue
		}
		n, wait := s.match(in[i:], final)
		if wait {
			break
		}
		if n > 0 {
			out = append(append(out, in[copied:i]...), redacted...)
			i += n - 1
			copied, hit = i+1, true
		}
	}
	if !hit {
		return in[:i], in[i:], false
	}
	return append(out, in[copied:i]...), in[i:], true
}

// match returns the length of the longest form at the start of b. wait says
// that a longer one may follow.
func (s *scrubber) match(b []byte, final bool) (n int, wait bool) {
	for _, f := range s.forms[[2]byte{b[0], b[1]}] {
		if bytes.HasPrefix(b, f) {
			return len(f), false
		}
		if !final && len(b) < len(f) && bytes.HasPrefix(f, b) {
			return 0, true
		}
	}
	return 0, false
}

// reader replaces secrets in a stream. What it holds back is at most the start
// of one form, so events of a live stream are not delayed.
func (s *scrubber) reader(src io.Reader) io.Reader {
	if !s.active() {
		return src
	}
	return &scrubReader{s: s, src: src}
}

type scrubReader struct {
	s      *scrubber
	src    io.Reader
	refuse bool   // fail instead of replacing
	rest   []byte // read and held back
	out    []byte // ready
	err    error  // of src
}

func (r *scrubReader) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		buf := make([]byte, len(r.rest)+max(len(p), 512))
		held := copy(buf, r.rest)
		n, err := r.src.Read(buf[held:])
		r.err = err
		var hit bool
		r.out, r.rest, hit = r.s.step(buf[:held+n], err != nil)
		if hit && r.refuse {
			r.out, r.err = nil, errReflected
		}
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}
