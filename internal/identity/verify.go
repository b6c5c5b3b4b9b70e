package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

// maxToken bounds a JWT-SVID that is looked at, in bytes.
const maxToken = 8 << 10

// VerifyX509 checks an X.509-SVID of this trust domain, leaf first, against the
// bundle as published now (X509-SVID section 5): signature, validity, exactly
// one URI SAN and no other names, no CA leaf, no life over MaxTTL. It does not
// ask whether the task still runs: the caller asks Authority.
func (i *Issuer) VerifyX509(ctx context.Context, chain ...*x509.Certificate) (Subject, error) {
	if i.external.Load() {
		return Subject{}, errOwnKeysRest
	}
	// The CA's path length is 0, so a chain has no intermediate.
	if len(chain) != 1 {
		return Subject{}, refuse("bad_chain", "want the leaf certificate alone")
	}
	leaf := chain[0]
	if len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) > 0 {
		return Subject{}, refuse("bad_certificate", "the certificate carries other names")
	}
	if leaf.KeyUsage != x509.KeyUsageDigitalSignature || leaf.IsCA {
		return Subject{}, refuse("bad_certificate", "the certificate is not for signing by a leaf")
	}
	if leaf.NotAfter.Sub(leaf.NotBefore) > MaxTTL+skew {
		return Subject{}, refuse("bad_certificate", "the certificate lives too long")
	}
	if pub, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || pub.Curve.Params().BitSize != 256 {
		return Subject{}, refuse("bad_certificate", "the key is not P-256")
	}
	b, err := i.bundle(ctx)
	if err != nil {
		return Subject{}, err
	}
	id, _, err := x509svid.Verify(chain, b, x509svid.WithTime(i.cfg.Now()))
	if err != nil {
		return Subject{}, refuse("bad_certificate", "the certificate does not verify against the trust domain")
	}
	s, err := parseID(i.td, id.String())
	s.Expires = leaf.NotAfter
	return s, err
}

// header of a JWT-SVID. All else is refused: jwk, jku, x5u, x5c and crit are
// ways to bring one's own key or rules (JWT-SVID section 2, RFC 8725).
type header struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
	Type      string `json:"typ,omitempty"`
}

// stringList is the `aud` claim: a string or an array of strings (RFC 7519
// section 4.1.3).
type stringList []string

func (l *stringList) UnmarshalJSON(b []byte) error {
	var many []string
	if len(b) > 0 && b[0] == '"' {
		many = make([]string, 1)
		if err := json.Unmarshal(b, &many[0]); err != nil {
			return err
		}
	} else if len(b) == 0 || b[0] != '[' {
		return errors.New("aud: want a string or an array of strings")
	} else {
		var raw []json.RawMessage
		if err := json.Unmarshal(b, &raw); err != nil {
			return err
		}
		for _, r := range raw {
			if r[0] != '"' { // encoding/json takes null for ""
				return errors.New("aud: want strings")
			}
		}
		if err := json.Unmarshal(b, &many); err != nil {
			return err
		}
	}
	*l = many
	return nil
}

// VerifyJWT checks a JWT-SVID of this issuer for one audience (JWT-SVID
// section 5): compact form, ES256, a kid that is exactly one of ours, strict
// header and claims, this issuer, this trust domain, the audience among those
// of the token, in time, no life over MaxTTL. It does not ask whether the task
// still runs: the caller asks Authority.
func (i *Issuer) VerifyJWT(ctx context.Context, token, audience string) (Subject, error) {
	s, _, err := i.verifyJWT(ctx, token, audience, parseID)
	return s, err
}

func (i *Issuer) verifyJWT(ctx context.Context, token, audience string, parse subjectParser) (Subject, claims, error) {
	if i.external.Load() {
		return Subject{}, claims{}, errOwnKeysRest
	}
	if !validAudience(audience) {
		return Subject{}, claims{}, refuse("bad_audience", "an audience is required")
	}
	payload, err := i.open(ctx, token, "", "JWT", "JOSE")
	if err != nil {
		return Subject{}, claims{}, err
	}
	var c claims
	if err := canon.Unmarshal(payload, maxToken, &c); err != nil {
		return Subject{}, claims{}, refuse("bad_claims", "the claims are not strict JSON of iss, sub, aud, exp, iat, nbf and jti")
	}
	s, err := i.checkClaims(c, audience, parse)
	return s, c, err
}

// open checks the form, the type and the signature of a token in compact form.
func (i *Issuer) open(ctx context.Context, token string, types ...string) ([]byte, error) {
	if len(token) > maxToken {
		return nil, refuse("bad_token", "the token is too long")
	}
	parts := strings.SplitN(token, ".", 4)
	// Decoders of base64 skip line breaks, which would give one token many
	// spellings.
	if len(parts) != 3 || strings.ContainsAny(token, "\r\n") {
		return nil, refuse("bad_token", "the token is not in compact form")
	}
	var h header
	if err := decodePart(parts[0], &h); err != nil {
		return nil, refuse("bad_token", "the header is not strict JSON of alg, kid and typ")
	}
	if h.Algorithm != "ES256" {
		return nil, refuse("bad_algorithm", "want ES256")
	}
	if !slices.Contains(types, h.Type) {
		return nil, refuse("bad_token", "the token is of another type")
	}
	sig, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(sig) != 64 {
		return nil, refuse("bad_signature", "the signature is not one of ES256")
	}
	key, err := i.jwtKey(ctx, h.KeyID)
	if err != nil {
		return nil, err
	}
	payload, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil {
		return nil, refuse("bad_token", "the payload is not base64url")
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if !ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		return nil, refuse("bad_signature", "the signature is not by the key that it names")
	}
	return payload, nil
}

// jwtKey finds a key by its whole id among those published now. The id is
// compared, never used to fetch or open anything.
func (i *Issuer) jwtKey(ctx context.Context, kid string) (*ecdsa.PublicKey, error) {
	auths, err := i.authorities(ctx)
	if err != nil {
		return nil, err
	}
	for _, a := range auths {
		if kid == a.id {
			return a.jwt.public(), nil
		}
	}
	return nil, refuse("unknown_key", "the token names no key of this trust domain")
}

// subjectParser reads a subject: of tasks alone (parseID), or of their workloads
// elsewhere too (parseAny).
type subjectParser func(spiffeid.TrustDomain, string) (Subject, error)

func (i *Issuer) checkClaims(c claims, audience string, parse subjectParser) (Subject, error) {
	now := i.cfg.Now()
	if c.Issuer != i.cfg.IssuerURL {
		return Subject{}, refuse("wrong_issuer", "the token is by another issuer")
	}
	for _, a := range c.Audience {
		if !validAudience(a) {
			return Subject{}, refuse("bad_audience", "an audience of the token is malformed")
		}
	}
	if !slices.Contains(c.Audience, audience) {
		return Subject{}, refuse("wrong_audience", "the token is for another audience")
	}
	if err := checkTimes(now, c.Expires, c.IssuedAt, c.NotBefore); err != nil {
		return Subject{}, err
	}
	if c.ID == "" {
		return Subject{}, refuse("bad_claims", "jti is required")
	}
	s, err := parse(i.td, c.Subject)
	s.Expires = time.Unix(c.Expires, 0).UTC()
	return s, err
}

// checkTimes are the times of a token that this issuer made.
func checkTimes(now time.Time, exp, iat, nbf int64) error {
	const farthest = 1 << 40 // seconds; far above any date, far below overflow
	if exp <= 0 || iat <= 0 || exp > farthest || nbf < 0 || nbf > farthest || iat > exp {
		return refuse("bad_claims", "exp and iat are required and must be dates")
	}
	if time.Duration(exp-iat) > MaxTTL/time.Second {
		return refuse("bad_claims", "the token lives too long")
	}
	if now.Unix() >= exp { // no skew on expiry: it is our own clock that set it
		return refuse("expired", "the token has expired")
	}
	if limit := now.Add(skew).Unix(); iat > limit || nbf > limit {
		return refuse("not_yet_valid", "the token is not valid yet")
	}
	return nil
}

func decodePart(s string, v any) error {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return err
	}
	return canon.Unmarshal(b, maxToken, v)
}
