// Package totp computes time-based one-time passwords (RFC 6238, over the HOTP of RFC
// 4226) from a shared secret, which is read as applications give it to people: an
// otpauth URI (the "Key URI Format" of Google Authenticator), or the secret in base32.
//
// Which codes were used, and when one may be, is its callers' matter.
package totp

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Key is a shared secret, and how codes are made of it.
type Key struct {
	secret []byte
	hash   func() hash.Hash
	digits int
	Period time.Duration
}

// Scheme begins an otpauth URI.
const Scheme = "otpauth://"

// minSecret is 80 bits, which many applications give; RFC 4226 asks for 128 (R6).
const minSecret = 10

// Parse reads a key. Its errors never repeat what it was given.
func Parse(text string) (Key, error) {
	text = strings.TrimSpace(text)
	if !strings.HasPrefix(text, Scheme) {
		return parse(text, url.Values{})
	}
	u, err := url.Parse(text)
	if err != nil {
		return Key{}, errors.New("not an otpauth URI")
	}
	if u.Host != "totp" {
		return Key{}, errors.New("an otpauth URI of another type than totp: codes that are counted are not made here")
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Key{}, errors.New("not an otpauth URI")
	}
	for _, name := range []string{"secret", "algorithm", "digits", "period"} {
		if len(q[name]) > 1 {
			return Key{}, fmt.Errorf("%s is given twice", name)
		}
	}
	return parse(q.Get("secret"), q)
}

func parse(secret string, q url.Values) (k Key, err error) {
	secret = strings.ToUpper(strings.TrimRight(strings.NewReplacer(" ", "", "-", "").Replace(secret), "="))
	if k.secret, err = base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret); err != nil || len(k.secret) < minSecret {
		return Key{}, fmt.Errorf("secret: want base32 of at least %d bytes", minSecret)
	}
	switch strings.ToUpper(q.Get("algorithm")) {
	case "", "SHA1":
		k.hash = sha1.New
	case "SHA256":
		k.hash = sha256.New
	case "SHA512":
		k.hash = sha512.New
	default:
		return Key{}, errors.New("algorithm: want SHA1, SHA256 or SHA512")
	}
	number := func(name string, otherwise, least, most int) (n int) {
		n = otherwise
		if q.Has(name) {
			var e error
			if n, e = strconv.Atoi(q.Get(name)); e != nil || n < least || n > most {
				err = fmt.Errorf("%s: want %d to %d", name, least, most)
			}
		}
		return n
	}
	k.digits = number("digits", 6, 6, 8) // RFC 4226 section 5.3: six at least
	k.Period = time.Duration(number("period", 30, 1, 300)) * time.Second
	return k, err
}

// Step is the time step that t is in (RFC 6238 section 4.2, T0 is 0).
func (k Key) Step(t time.Time) int64 { return t.Unix() / int64(k.Period/time.Second) }

// Begin is when a time step begins.
func (k Key) Begin(step int64) time.Time {
	return time.Unix(step*int64(k.Period/time.Second), 0)
}

// Code is the code of a time step (RFC 4226 section 5.3).
func (k Key) Code(step int64) string {
	m := hmac.New(k.hash, k.secret)
	m.Write(binary.BigEndian.AppendUint64(nil, uint64(step)))
	sum := m.Sum(nil)
	at := sum[len(sum)-1] & 0xf
	n := binary.BigEndian.Uint32(sum[at:]) & 0x7fffffff
	mod := uint32(1)
	for range k.digits {
		mod *= 10
	}
	return fmt.Sprintf("%0*d", k.digits, n%mod)
}

// ID tells keys apart and says nothing of the secret to who has not got it.
func (k Key) ID() [sha256.Size]byte {
	m := hmac.New(sha256.New, k.secret)
	m.Write([]byte("sallyport/totp/id"))
	return [sha256.Size]byte(m.Sum(nil))
}
