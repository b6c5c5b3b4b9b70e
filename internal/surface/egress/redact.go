package egress

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/binary"
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
	forms map[uint32][][]byte // by their first keyLen bytes, longest first
	first [256]bool
	keys  [1 << 13]byte // bit set of hashed keys, so that most positions cost one look
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

// Spans are where a text has a known secret in it, in any of its forms.
func (p *Proxy) Spans(text []byte) (out [][2]int) {
	s := p.scrubber()
	for i := 0; i+keyLen <= len(text); i++ {
		if j, bit := slot(keyOf(text[i:])); s.keys[j]&bit == 0 {
			continue
		}
		if n, _ := s.match(text[i:], true); n > 0 {
			out = append(out, [2]int{i, i + n})
			i += n - 1
		}
	}
	return out
}

// keyLen is less than minSecret, so that every form has a key.
const keyLen = 4

func keyOf(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }

// slot spreads a key over the bit set (Fibonacci hashing).
func slot(key uint32) (byteIndex uint32, bit byte) {
	h := key * 2654435769 >> 16
	return h >> 3, 1 << (h & 7)
}

func newScrubber(secrets []Secret) *scrubber {
	s := &scrubber{forms: map[uint32][][]byte{}}
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
			k := keyOf([]byte(f))
			s.forms[k] = append(s.forms[k], []byte(f))
			s.first[f[0]] = true
			i, bit := slot(k)
			s.keys[i] |= bit
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
		if len(in)-i < keyLen {
			if !final && s.first[in[i]] && s.starts(in[i:]) {
				break
			}
			continue
		}
		if j, bit := slot(keyOf(in[i:])); s.keys[j]&bit == 0 {
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

// starts reports whether b, shorter than a key, is the start of a form.
func (s *scrubber) starts(b []byte) bool {
	for _, l := range s.forms {
		if bytes.HasPrefix(l[0], b) {
			return true
		}
	}
	return false
}

// match returns the length of the longest form at the start of b. wait says
// that a longer one may follow.
func (s *scrubber) match(b []byte, final bool) (n int, wait bool) {
	for _, f := range s.forms[keyOf(b)] {
		if bytes.HasPrefix(b, f) {
			return len(f), false
		}
		if !final && len(b) < len(f) && bytes.HasPrefix(f, b) {
			return 0, true
		}
	}
	return 0, false
}

// whole is reader for a body of a known length. A small one is read at once, so
// that its length stays known.
func (s *scrubber) whole(src io.Reader, length int64) (io.Reader, int64) {
	if length < 0 || length > smallBody {
		return s.reader(src), -1
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(src, data); err != nil {
		return failing{err}, -1
	}
	out, _, _ := s.step(data, true)
	return bytes.NewReader(out), int64(len(out))
}

// smallBody is the largest body, in bytes, that is read at once.
const smallBody = 64 << 10

// failing is a body that broke before any of it could be passed on.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

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
