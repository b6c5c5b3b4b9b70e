package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

// Limits of DPoP proofs (RFC 9449).
const (
	proofLife  = time.Minute // how old a proof may be; a younger one is taken once
	maxProof   = 4 << 10     // bytes
	maxProofs  = 100_000     // remembered at once
	maxProofID = 256         // bytes of a jti
)

// proofs remembers which proofs were used. It is lost with the process, and so
// is every task whose tokens could be bound.
type proofs struct {
	mu   sync.Mutex
	seen map[[32]byte]time.Time
}

// spend reports an error if the proof was used before. It comes after the caller
// has proved who it is: nobody else can fill what is remembered.
func (p *proofs) spend(s *shown, now time.Time) error {
	if s == nil {
		return nil
	}
	key := s.key
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen == nil {
		p.seen = map[[32]byte]time.Time{}
	}
	if len(p.seen) >= maxProofs {
		for k, until := range p.seen {
			if now.After(until) {
				delete(p.seen, k)
			}
		}
		if len(p.seen) >= maxProofs {
			return refuse("too_many", "too many proofs within a minute")
		}
	}
	if until, ok := p.seen[key]; ok && !now.After(until) {
		return refuse("proof_replayed", "the proof was used before")
	}
	p.seen[key] = now.Add(proofLife + 2*skew)
	return nil
}

// proofHeader is the header of a DPoP proof (RFC 9449 section 4.2). Its key is
// an EC key of P-256 and nothing else: ES256 alone, no certificate, no private part.
type proofHeader struct {
	Type      string `json:"typ"`
	Algorithm string `json:"alg"`
	Key       struct {
		Type  string `json:"kty"`
		Curve string `json:"crv"`
		X     string `json:"x"`
		Y     string `json:"y"`
	} `json:"jwk"`
}

// shown is a DPoP proof that verified. It counts once it is spent.
type shown struct {
	jkt string   // thumbprint of its key (RFC 7638)
	key [32]byte // of the proof
}

// proofOf verifies the DPoP header of a request; nil if there is none.
func (i *Issuer) proofOf(r *http.Request, htu string) (*shown, error) {
	v := r.Header.Values("DPoP")
	if len(v) == 0 {
		return nil, nil
	}
	if len(v) > 1 || len(v[0]) > maxProof {
		return nil, refuse("bad_proof", "want one DPoP proof")
	}
	return i.checkProof(v[0], r.Method, htu)
}

func (i *Issuer) checkProof(proof, method, htu string) (*shown, error) {
	bad := func(reason string) (*shown, error) { return nil, refuse("bad_proof", "the DPoP proof "+reason) }
	parts := strings.Split(proof, ".")
	if len(parts) != 3 || strings.ContainsAny(proof, "\r\n") {
		return bad("is not in compact form")
	}
	var h proofHeader
	if err := decodePart(parts[0], &h); err != nil || h.Type != "dpop+jwt" || h.Algorithm != "ES256" || h.Key.Type != "EC" || h.Key.Curve != "P-256" {
		return bad("has another header than typ dpop+jwt, alg ES256 and a jwk of kty EC, crv P-256, x and y")
	}
	pub, err := pointOf(h.Key.X, h.Key.Y)
	if err != nil {
		return bad("has no point of the curve as its key")
	}
	sig, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(sig) != 64 {
		return bad("has no ES256 signature")
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if !ecdsa.Verify(pub, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		return bad("is not signed by its key")
	}
	var c map[string]canon.Value
	if err := decodePart(parts[1], &c); err != nil {
		return bad("has claims that are not strict JSON")
	}
	jti, ok := text(c["jti"])
	if !ok || jti == "" || len(jti) > maxProofID {
		return bad("has no jti")
	}
	if m, _ := text(c["htm"]); m != method {
		return bad("is for another method")
	}
	if u, _ := text(c["htu"]); !sameTarget(u, htu) {
		return bad("is for another address")
	}
	now := i.cfg.Now()
	var iat int64
	if err := canon.Unmarshal(c["iat"], 32, &iat); err != nil || iat < now.Add(-proofLife).Unix() || iat > now.Add(skew).Unix() {
		return bad("is too old, or of the future")
	}
	thumb := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"` + h.Key.X + `","y":"` + h.Key.Y + `"}`))
	jkt := base64.RawURLEncoding.EncodeToString(thumb[:])
	return &shown{jkt, sha256.Sum256([]byte(jkt + "\x00" + jti))}, nil
}

// pointOf reads the coordinates, each of exactly 32 bytes (RFC 7518 section
// 6.2.1.2), so that one key has one thumbprint.
func pointOf(xs, ys string) (*ecdsa.PublicKey, error) {
	point := []byte{4}
	for _, s := range []string{xs, ys} {
		b, err := base64.RawURLEncoding.Strict().DecodeString(s)
		if err != nil || len(b) != 32 {
			return nil, refuse("bad_proof", "a coordinate is not of 32 bytes")
		}
		point = append(point, b...)
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
}

// sameTarget compares an htu with our own address: scheme and host in any case,
// the path exactly, query and fragment aside (RFC 9449 section 4.3).
func sameTarget(got, want string) bool {
	g, err := url.Parse(got)
	if err != nil || g.User != nil || g.Opaque != "" {
		return false
	}
	w, err := url.Parse(want)
	return err == nil && strings.EqualFold(g.Scheme, w.Scheme) && strings.EqualFold(g.Host, w.Host) && g.EscapedPath() == w.EscapedPath()
}
