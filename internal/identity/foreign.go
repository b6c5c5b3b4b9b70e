package identity

import (
	"context"
	"crypto"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

// foreignAlgorithms are what others may sign with (JWT-SVID section 2).
var foreignAlgorithms = []jose.SignatureAlgorithm{
	jose.ES256, jose.ES384, jose.ES512, jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
}

// maxForeignTTL bounds the life of what others issued and is looked at here.
const maxForeignTTL = 24 * time.Hour

// Foreign is what a verified token of somebody else says.
type Foreign struct {
	ID      string // SPIFFE ID, or of an OIDC issuer the subject
	Issuer  string // trust domain, or the OIDC issuer
	Expires time.Time
	Claims  map[string]canon.Value
}

// VerifyForeignJWT checks a JWT-SVID of a trust domain that this one federates
// with (JWT-SVID section 5), against that trust domain's keys alone.
func (i *Issuer) VerifyForeignJWT(ctx context.Context, token, audience string) (Foreign, error) {
	return i.verifyForeign(ctx, token, audience, func(c map[string]canon.Value) (string, findKey, error) {
		sub, _ := text(c["sub"])
		id, err := spiffeid.FromString(sub)
		if err != nil {
			return "", nil, refuse("bad_subject", "the subject is not a SPIFFE ID")
		}
		b, err := i.trusted(id.TrustDomain())
		if err != nil {
			return "", nil, err
		}
		return id.TrustDomain().Name(), func(kid string) (crypto.PublicKey, error) {
			if k, ok := b.FindJWTAuthority(kid); ok {
				return k, nil
			}
			return nil, errNoKey
		}, nil
	})
}

// foreignHeader is header with the thumbprints that some issuers add and that
// are not used.
type foreignHeader struct {
	header
	X5T     string `json:"x5t,omitempty"`
	X5TS256 string `json:"x5t#S256,omitempty"`
}

// findKey is a key of an issuer; errNoKey if it has none of that kid.
type findKey func(kid string) (crypto.PublicKey, error)

// keysOf finds whose token it claims to be, and its keys. Claims are not
// verified yet.
type keysOf func(claims map[string]canon.Value) (issuer string, find findKey, err error)

// openForeign checks the form and the signature of somebody else's token: compact
// form, strict JSON, one of the types, an asymmetric algorithm that fits the key,
// a kid that is exactly one of the issuer's. Headers that bring a key or rules of
// their own are refused.
func openForeign(token string, keys keysOf, types ...string) (c map[string]canon.Value, issuer string, err error) {
	fail := func(code, reason string) (map[string]canon.Value, string, error) {
		return nil, "", refuse(code, reason)
	}
	if len(token) > maxToken || strings.ContainsAny(token, "\r\n") || strings.Count(token, ".") != 2 {
		return fail("bad_token", "the token is too long, or not in compact form")
	}
	parts := strings.Split(token, ".")
	var h foreignHeader
	if err := decodePart(parts[0], &h); err != nil {
		return fail("bad_token", "the header is not strict JSON of alg, kid, typ and thumbprints")
	}
	if !slices.Contains(foreignAlgorithms, jose.SignatureAlgorithm(h.Algorithm)) {
		return fail("bad_algorithm", "want an asymmetric algorithm of RFC 7518")
	}
	if !slices.Contains(types, h.Type) {
		return fail("bad_token", "the token is of another type")
	}
	if _, err := base64.RawURLEncoding.Strict().DecodeString(parts[2]); err != nil {
		return fail("bad_signature", "the signature is not base64url")
	}
	if err := decodePart(parts[1], &c); err != nil {
		return fail("bad_claims", "the claims are not strict JSON")
	}
	issuer, find, err := keys(c)
	if err != nil {
		return nil, "", err
	}
	if h.KeyID == "" {
		return nil, "", errNoKey
	}
	key, err := find(h.KeyID)
	if err != nil {
		return nil, "", err
	}
	jws, err := jose.ParseSignedCompact(token, foreignAlgorithms)
	if err != nil {
		return fail("bad_token", "the token is not a signed token")
	}
	if _, err := jws.Verify(key); err != nil {
		return fail("bad_signature", "the signature is not by the key that it names")
	}
	return c, issuer, nil
}

// verifyForeign checks a token of somebody else: form and signature, the audience,
// and the time with skew.
func (i *Issuer) verifyForeign(_ context.Context, token, audience string, keys keysOf) (Foreign, error) {
	c, issuer, err := openForeign(token, keys, "", "JWT", "JOSE")
	if err != nil {
		return Foreign{}, err
	}
	f := Foreign{Issuer: issuer, Claims: c}
	if err := i.foreignTime(c, &f); err != nil {
		return Foreign{}, err
	}
	if err := hasAudience(c["aud"], audience); err != nil {
		return Foreign{}, err
	}
	var ok bool
	if f.ID, ok = text(c["sub"]); !ok || f.ID == "" {
		return Foreign{}, refuse("bad_subject", "the token has no subject")
	}
	return f, nil
}

func hasAudience(v canon.Value, audience string) error {
	var aud stringList
	if err := aud.UnmarshalJSON(v); err != nil || len(aud) == 0 {
		return refuse("bad_audience", "the token has no audience")
	}
	if !validAudience(audience) || !slices.Contains(aud, audience) {
		return refuse("wrong_audience", "the token is for another audience")
	}
	return nil
}

// foreignTime reads exp, iat and nbf, which must be whole seconds.
func (i *Issuer) foreignTime(c map[string]canon.Value, f *Foreign) error {
	var exp, iat, nbf int64
	for name, to := range map[string]*int64{"exp": &exp, "iat": &iat, "nbf": &nbf} {
		if v := c[name]; v != nil {
			if err := canon.Unmarshal(v, 32, to); err != nil || *to <= 0 || *to > 1<<40 {
				return refuse("bad_claims", name+" is not a date in whole seconds")
			}
		}
	}
	now := i.cfg.Now()
	switch {
	case exp == 0:
		return refuse("bad_claims", "exp is required")
	case !now.Add(-skew).Before(time.Unix(exp, 0)):
		return refuse("expired", "the token has expired")
	case iat > now.Add(skew).Unix() || nbf > now.Add(skew).Unix():
		return refuse("not_yet_valid", "the token is not valid yet")
	case time.Unix(exp, 0).Sub(now) > maxForeignTTL:
		return refuse("bad_claims", "the token lives too long")
	}
	f.Expires = time.Unix(exp, 0).UTC()
	return nil
}

// text is a JSON string.
func text(v canon.Value) (string, bool) {
	var s string
	if len(v) == 0 || v[0] != '"' || canon.Unmarshal(v, maxToken, &s) != nil {
		return "", false
	}
	return s, true
}
