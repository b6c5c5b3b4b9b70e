package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// issuedBody is the body of identity.issued. It identifies the SVID without
// being usable as one.
type issuedBody struct {
	V          int           `json:"v"`
	Kind       string        `json:"kind"` // x509, jwt, wit, access, txn, assertion
	Subject    string        `json:"subject"`
	Serial     string        `json:"serial,omitempty"`    // hex, of an X.509-SVID
	Cert       action.Digest `json:"cert,omitempty"`      // of the DER
	JTIDigest  action.Digest `json:"jtiDigest,omitempty"` // of the `jti` of a JWT-SVID
	Audience   []string      `json:"audience,omitempty"`
	Authority  string        `json:"authority"`
	NotBefore  time.Time     `json:"notBefore"`
	Expires    time.Time     `json:"expires"`
	Selectors  []string      `json:"selectors"`
	AttestedBy string        `json:"attestedBy"`      // workload-api, broker, exchange, bundle-endpoint, boundary
	Chain      []string      `json:"chain,omitempty"` // the tasks above, nearest first

	// Of a token that was exchanged: what it may, who acts for whom, whether a
	// key must be shown with it, and what it was exchanged from.
	Scope   []string        `json:"scope,omitempty"`
	Actors  []string        `json:"actors,omitempty"`
	Bound   bool            `json:"bound,omitempty"`
	Parents []action.Digest `json:"parents,omitempty"`
}

// x509SVID is an issued certificate and its key, which prints as a label.
type x509SVID struct {
	id      string
	cert    []byte // DER
	key     pkcs8
	expires time.Time
}

// pkcs8 is a private key in DER that prints as a label.
type pkcs8 []byte

func (pkcs8) String() string   { return "[private key]" }
func (pkcs8) GoString() string { return "[private key]" }

// Format keeps fmt from looking into the fields, whose own methods it cannot
// call.
func (s x509SVID) Format(f fmt.State, _ rune) { io.WriteString(f, "[x509-svid "+s.id+"]") }

// Token is a JWT-SVID. It prints as a label; the zero value is no token.
type Token struct{ compact *string } // a pointer: fmt does not follow it in a field

const tokenLabel = "[jwt-svid]"

func (Token) String() string   { return tokenLabel }
func (Token) GoString() string { return tokenLabel }

// MarshalText gives the label.
func (Token) MarshalText() ([]byte, error) { return []byte(tokenLabel), nil }

// Reveal returns the token to be sent to its audience, and nowhere else.
func (t Token) Reveal() string {
	if t.compact == nil {
		return ""
	}
	return *t.compact
}

// IssueJWT issues a JWT-SVID for a workload that the caller has attested by
// other means: the boundary acting for a task, e.g. to exchange the token at a
// cloud. The same checks and the same record as over the Workload API apply.
func (i *Issuer) IssueJWT(ctx context.Context, w Workload, audience ...string) (Token, error) {
	_, t, err := i.issueJWT(ctx, w, audience, "broker", "")
	return t, err
}

// IssueNamedJWT is IssueJWT with a name that the `jti` begins with, before a dot:
// who takes the token can show later for what it was.
func (i *Issuer) IssueNamedJWT(ctx context.Context, w Workload, name, audience string) (Token, error) {
	_, t, err := i.issueJWT(ctx, w, []string{audience}, "broker", name)
	return t, err
}

// BoundaryID is the SPIFFE ID of the boundary itself, which is no task's: under it
// the boundary ends at an upstream what its tasks had there.
func (i *Issuer) BoundaryID() string { return spiffeid.RequireFromSegments(i.td, "boundary").String() }

// IssueBoundaryJWT issues a JWT-SVID of the boundary itself. It never leaves it
// but to the audience.
func (i *Issuer) IssueBoundaryJWT(ctx context.Context, audience string) (Token, error) {
	if i.external.Load() {
		return Token{}, errOwnKeysRest
	}
	aud, err := checkAudience([]string{audience})
	if err != nil {
		return Token{}, err
	}
	a, err := i.signer(ctx)
	if err != nil {
		return Token{}, err
	}
	t, b, err := i.jwtSVID(a, spiffeid.RequireFromSegments(i.td, "boundary"), aud, i.cfg.Now().Add(i.cfg.JWTTTL), "")
	if err != nil {
		return Token{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	b.Selectors, b.AttestedBy = []string{"boundary"}, "boundary"
	if _, err := i.log.Append(ctx, record.Draft{Type: "identity.issued", Actor: "sallyport", Body: b}); err != nil {
		return Token{}, fmt.Errorf("%w: record issue: %w", ErrUnavailable, err)
	}
	return t, nil
}

// issueX509 makes an X.509-SVID with a new key.
func (i *Issuer) issueX509(ctx context.Context, w Workload) (x509SVID, error) {
	if i.external.Load() {
		return x509SVID{}, errOwnKeysRest
	}
	a, err := i.admit(ctx, &w)
	if err != nil {
		return x509SVID{}, err
	}
	id, err := workloadID(i.td, w)
	if err != nil {
		return x509SVID{}, err
	}
	s, b, err := i.certify(a, id)
	if err != nil {
		return x509SVID{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	b.Selectors, b.AttestedBy = w.Selectors, "workload-api"
	if err := i.record(ctx, w, b); err != nil {
		return x509SVID{}, err
	}
	return s, nil
}

// certify makes a key and a certificate for it, and what is recorded of it.
func (i *Issuer) certify(a *authority, id spiffeid.ID) (x509SVID, issuedBody, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return x509SVID{}, issuedBody{}, err
	}
	der, b, err := i.certificate(a, id, &key.PublicKey, i.cfg.Now().Add(i.cfg.X509TTL))
	if err != nil {
		return x509SVID{}, issuedBody{}, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	return x509SVID{id.String(), der, keyDER, b.Expires}, b, err
}

// certificate makes a certificate for a key, and what is recorded of it.
func (i *Issuer) certificate(a *authority, id spiffeid.ID, key *ecdsa.PublicKey, until time.Time) ([]byte, issuedBody, error) {
	now := i.cfg.Now().UTC().Truncate(time.Second)
	var serial [16]byte
	rand.Read(serial[:])
	serial[0] = serial[0]&0x7f | 0x40 // positive, and always of this length
	tmpl := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial[:]),
		URIs:                  []*url.URL{id.URL()},
		NotBefore:             now.Add(-skew),
		NotAfter:              earlier(until.UTC().Truncate(time.Second), a.expires),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	// CreateCertificate verifies the signature that it was given.
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key, a.x509.k)
	if err != nil {
		return nil, issuedBody{}, fmt.Errorf("sign certificate: %w", err)
	}
	return der, issuedBody{V: 1, Kind: "x509", Subject: id.String(), Serial: hex.EncodeToString(serial[:]), Cert: canon.Digest(der),
		Authority: a.id, NotBefore: tmpl.NotBefore, Expires: tmpl.NotAfter}, nil
}

// claims of a JWT-SVID (JWT-SVID section 3, RFC 7519). No others are made and
// no others are accepted.
type claims struct {
	Issuer   string     `json:"iss"`
	Subject  string     `json:"sub"`
	Audience stringList `json:"aud"`
	Expires  int64      `json:"exp"`
	IssuedAt int64      `json:"iat"`
	// NotBefore is not made by us, since `iat` says it, but obeyed.
	NotBefore int64  `json:"nbf,omitempty"`
	ID        string `json:"jti"`
}

func (i *Issuer) issueJWT(ctx context.Context, w Workload, audience []string, by, name string) (string, Token, error) {
	audience, err := checkAudience(audience)
	if err != nil {
		return "", Token{}, err
	}
	if s, yes, err := i.fromSPIRE(); err != nil {
		return "", Token{}, err
	} else if yes {
		return i.passJWT(ctx, s, w, audience)
	}
	a, err := i.admit(ctx, &w)
	if err != nil {
		return "", Token{}, err
	}
	id, err := workloadID(i.td, w)
	if err != nil {
		return "", Token{}, err
	}
	t, b, err := i.jwtSVID(a, id, audience, i.cfg.Now().Add(i.cfg.JWTTTL), name)
	if err != nil {
		return "", Token{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	b.Selectors, b.AttestedBy = w.Selectors, by
	if err := i.record(ctx, w, b); err != nil {
		return "", Token{}, err
	}
	return id.String(), t, nil
}

// jwtSVID makes a JWT-SVID, and what is recorded of it.
func (i *Issuer) jwtSVID(a *authority, id spiffeid.ID, audience []string, until time.Time, name string) (Token, issuedBody, error) {
	var raw [16]byte
	rand.Read(raw[:])
	jti := base64.RawURLEncoding.EncodeToString(raw[:])
	if name != "" {
		jti = name + "." + jti
	}
	now := i.cfg.Now().UTC().Truncate(time.Second)
	expires := earlier(until.UTC().Truncate(time.Second), a.expires)
	t, err := sign(a, "JWT", claims{
		Issuer: i.cfg.IssuerURL, Subject: id.String(), Audience: audience,
		Expires: expires.Unix(), IssuedAt: now.Unix(), ID: jti,
	})
	if err != nil {
		return Token{}, issuedBody{}, fmt.Errorf("sign token: %w", err)
	}
	return t, issuedBody{V: 1, Kind: "jwt", Subject: id.String(), JTIDigest: canon.Digest([]byte(jti)), Audience: audience,
		Authority: a.id, NotBefore: now, Expires: expires}, nil
}

// sign makes a JWS in compact form (RFC 7515 section 7.1), ES256, and looks at
// the signature before it leaves: a signer that errs or lies makes no token.
func sign(a *authority, typ string, claims any) (Token, error) {
	payload, err := canon.Marshal(claims)
	if err != nil {
		return Token{}, err
	}
	b64 := base64.RawURLEncoding
	in := b64.EncodeToString([]byte(`{"alg":"ES256","kid":"`+a.id+`","typ":"`+typ+`"}`)) + "." + b64.EncodeToString(payload)
	der, err := crypto.SignMessage(a.jwt.k, rand.Reader, []byte(in), crypto.SHA256)
	if err != nil {
		return Token{}, err
	}
	var rs struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &rs); err != nil || len(rest) > 0 || rs.R.Sign() <= 0 || rs.S.Sign() <= 0 || rs.R.BitLen() > 256 || rs.S.BitLen() > 256 {
		return Token{}, errors.New("the signature is malformed")
	}
	var sig [64]byte
	rs.R.FillBytes(sig[:32])
	rs.S.FillBytes(sig[32:])
	compact := in + "." + b64.EncodeToString(sig[:])
	return Token{&compact}, nil
}

// admit asks everything that must hold before something is signed: the
// workload is of this tenant, its task is not revoked and within its rate,
// and the authority says that it is live.
func (i *Issuer) admit(ctx context.Context, w *Workload) (*authority, error) {
	if err := i.tasks.admit(w.Task); err != nil {
		return nil, err
	}
	if err := i.mayIssue(ctx, w); err != nil {
		return nil, err
	}
	return i.signer(ctx)
}

// mayIssue is admit without the rate, for what is not signed here.
func (i *Issuer) mayIssue(ctx context.Context, w *Workload) (err error) {
	if w.Tenant == "" || w.Tenant != i.log.Tenant() {
		return refuse("wrong_tenant", "the workload belongs to another tenant")
	}
	if err := i.tasks.check(w.Task); err != nil {
		return err
	}
	if w.Chain, err = i.live.Live(ctx, w.Tenant, w.Task); err != nil {
		return refuse("no_authority", "the task has no authority to act now")
	}
	return nil
}

// record makes the issue durable, then asks once more whether the task was
// revoked while it was being written.
func (i *Issuer) record(ctx context.Context, w Workload, b issuedBody) error {
	if err := i.put(ctx, w, b); err != nil {
		return err
	}
	return i.tasks.check(w.Task)
}

// put makes the issue durable.
func (i *Issuer) put(ctx context.Context, w Workload, b issuedBody) error {
	if b.Selectors == nil {
		b.Selectors = []string{}
	}
	b.Chain = w.Chain
	if _, err := i.log.Append(ctx, record.Draft{
		Type: "identity.issued", Task: w.Task, Agent: w.Agent, Actor: "sallyport", Body: b,
	}); err != nil {
		return fmt.Errorf("%w: record issue: %w", ErrUnavailable, err)
	}
	return nil
}

// Limits of the audience list of a JWT-SVID.
const (
	maxAudiences   = 8
	maxAudienceLen = 255
)

// checkAudience sorts and checks the audiences: at least one, each printable
// and without white space, so that no two can be read as one.
func checkAudience(in []string) ([]string, error) {
	if len(in) == 0 {
		return nil, refuse("bad_audience", "an audience is required")
	}
	if len(in) > maxAudiences {
		return nil, refuse("bad_audience", "too many audiences")
	}
	out := slices.Clone(in)
	slices.Sort(out)
	out = slices.Compact(out)
	for _, s := range out {
		if !validAudience(s) {
			return nil, refuse("bad_audience", "an audience must be 1 to 255 bytes of printable text without spaces")
		}
	}
	return out, nil
}

func validAudience(s string) bool {
	if s == "" || len(s) > maxAudienceLen || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsGraphic(r) || unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) {
			return false
		}
	}
	return true
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
