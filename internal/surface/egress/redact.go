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
	"unicode/utf16"
	"unicode/utf8"
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
// base64 (both alphabets) at any alignment; and with each byte in any escape of
// its own, as applications mix them. Not found: a secret that the origin
// encrypted, compressed inside the body, or cut into pieces.
type scrubber struct {
	values [256][][]byte       // secrets by their first byte
	pairs  [1 << 13]byte       // bit set of two bytes with which a secret may begin, in escapes or not
	forms  map[uint32][][]byte // by their first keyLen bytes, longest first
	first  [256]bool
	keys   [1 << 13]byte // bit set of hashed keys, so that most positions cost one look
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
	for i := range text {
		if n, _ := s.at(text[i:], true); n > 0 && (len(out) == 0 || out[len(out)-1][1] <= i) {
			out = append(out, [2]int{i, i + n})
		}
	}
	return out
}

// Redact is a text without the known secrets, in any of their forms.
func (p *Proxy) Redact(text []byte) []byte {
	out, _, _ := p.scrubber().step(text, true)
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
		s.values[secret[0]] = append(s.values[secret[0]], []byte(secret))
		for _, c := range []byte{secret[1], '%', '\\', '&', '+'} {
			s.pair(secret[0], c)
		}
		for c := range 256 {
			for _, e := range []byte(`%\&`) {
				s.pair(e, byte(c))
			}
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
	if !s.active() {
		return in, nil, false
	}
	copied := 0 // in[:copied] is in out, once out is not nil
	i := 0
	for ; i < len(in); i++ {
		if len(in)-i >= keyLen { // in here, since nearly every position ends here
			key := keyOf(in[i:])
			p := key & 0xffff
			if j, bit := slot(key); s.keys[j]&bit == 0 && s.pairs[p>>3]&(1<<(p&7)) == 0 {
				continue
			}
		}
		n, wait := s.at(in[i:], final)
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

// at returns the length of what is secret at the start of b. wait says that it
// may be secret, which more bytes would show.
func (s *scrubber) at(b []byte, final bool) (n int, wait bool) {
	if len(b) < keyLen {
		wait = !final && s.first[b[0]] && s.starts(b)
	} else if j, bit := slot(keyOf(b)); s.keys[j]&bit != 0 {
		n, wait = s.match(b, final)
	}
	if n > 0 || wait {
		return n, wait
	}
	if len(b) == 1 {
		return 0, !final && (len(s.values[b[0]]) > 0 || cutEscape(b))
	}
	if p := uint(b[1])<<8 | uint(b[0]); s.pairs[p>>3]&(1<<(p&7)) == 0 {
		return 0, false
	}
	return s.mixed(b, final)
}

func (s *scrubber) pair(a, b byte) {
	p := uint(b)<<8 | uint(a) // as in the low half of a key
	s.pairs[p>>3] |= 1 << (p & 7)
}

// mixed matches a secret whose bytes are each as they are or in some escape.
func (s *scrubber) mixed(b []byte, final bool) (n int, wait bool) {
	if !final && cutEscape(b) {
		return 0, true
	}
	d, taken := unit(b)
	if taken == 0 {
		d = b[:1]
	}
	first := [2]byte{d[0], b[0]}
	for i, c := range first {
		if i == 1 && c == first[0] {
			break
		}
		for _, v := range s.values[c] {
			at, k := 0, 0
			for k < len(v) {
				rest := b[at:]
				if !final && (len(rest) == 0 || cutEscape(rest)) {
					wait = true
					break
				}
				if d, n := unit(rest); n > 0 && bytes.HasPrefix(v[k:], d) {
					at, k = at+n, k+len(d)
					continue
				}
				if len(rest) == 0 || rest[0] != v[k] && (rest[0] != '+' || v[k] != ' ') {
					break
				}
				at, k = at+1, k+1
			}
			if k == len(v) {
				return at, false
			}
		}
	}
	return 0, wait
}

// unit reads one escape at the start of b as the bytes that it stands for.
func unit(b []byte) (d []byte, n int) {
	if len(b) < 2 || b[0] != '%' && b[0] != '\\' && b[0] != '&' {
		return nil, 0
	}
	r, n := escaped(b)
	if n == 0 {
		return nil, 0
	}
	if b[0] == '%' && b[1] != 'u' && b[1] != 'U' {
		return []byte{byte(r)}, n
	}
	if utf16.IsSurrogate(r) {
		low, more := escaped(b[n:])
		r, n = utf16.DecodeRune(r, low), n+more
	}
	return utf8.AppendRune(nil, r), n
}

// cutEscape reports whether b is the beginning of an escape and nothing more.
func cutEscape(b []byte) bool {
	if len(b) > 11 || b[0] != '%' && b[0] != '\\' && b[0] != '&' {
		return false
	}
	return len(b) == 1 || strings.Trim(string(b[1:]), "0123456789abcdefABCDEF") == "" && len(b) < 3 && b[0] == '%' ||
		b[0] == '\\' && (b[1] == 'u' || b[1] == 'x') && strings.Trim(string(b[2:]), "{0123456789abcdefABCDEF\\u") == "" ||
		b[0] == '&' && strings.Trim(string(b[1:]), "#0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
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

// whole is scrubbed for a body of a known length. A small one is read at once, so
// that its length stays known.
func whole(now func() *scrubber, src io.Reader, length int64) (io.Reader, int64) {
	if length < 0 || length > smallBody {
		return scrubbed(now, src), -1
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(src, data); err != nil {
		return failing{err}, -1
	}
	out, _, _ := now().step(data, true)
	return bytes.NewReader(out), int64(len(out))
}

// smallBody is the largest body, in bytes, that is read at once.
const smallBody = 64 << 10

// failing is a body that broke before any of it could be passed on.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// scrubbed replaces secrets in a stream. What it holds back is at most the start
// of one form, so events of a live stream are not delayed. What becomes a secret
// while the stream is open, such as a token that is renewed, is one from then on.
func scrubbed(now func() *scrubber, src io.Reader) io.Reader { return &scrubReader{now: now, src: src} }

type scrubReader struct {
	now    func() *scrubber
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
		var hit bool // of what is secret now that it was read
		r.out, r.rest, hit = r.now().step(buf[:held+n], err != nil)
		if hit && r.refuse {
			r.out, r.err = nil, errReflected
		}
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}
