package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// Life of a signing authority. A new one is made when half of the life of the
// newest has passed, published at once, and signs only after publishAhead, so
// that whoever reads the bundle (and every other node) knows it before it is
// used. It stays published until it expires.
const (
	caLife       = 30 * 24 * time.Hour
	publishAhead = time.Hour
	// retireAfter is counted from the making of its successor: by then the
	// successor signs, and the last SVID of the older one has expired, also by a
	// clock that is five minutes off. Then the older one leaves the bundle.
	retireAfter = publishAhead + MaxTTL + 5*time.Minute
)

// object is the state of a tenant's issuer: kind "identity-authority", id
// "current". Private keys are sealed; all else is public.
type object struct {
	V           int          `json:"v"`
	TrustDomain string       `json:"trustDomain"`
	Sequence    int64        `json:"sequence"` // rises with every change
	Authorities []authorityV `json:"authorities"`
	// Used are the digests of the public keys of a signer that were taken for an
	// authority once: none is taken again.
	Used []action.Digest `json:"used,omitempty"`
}

// authorityV is one pair of signing keys as it is kept.
type authorityV struct {
	ID        string    `json:"id"` // also the kid of the JWT key
	Cert      []byte    `json:"cert"`
	X509Key   []byte    `json:"x509Key"` // sealed PKCS #8; of a key in a signer its public part, sealed
	JWTPublic []byte    `json:"jwtPublic"`
	JWTKey    []byte    `json:"jwtKey"`             // as X509Key
	External  bool      `json:"external,omitempty"` // the private keys are in a signer
	Created   time.Time `json:"created"`
	Expires   time.Time `json:"expires"`
	// Retire is when it leaves the bundle, once it has a successor.
	Retire time.Time `json:"retire,omitzero"`
}

// until is when the authority leaves the bundle.
func (v authorityV) until() time.Time {
	if v.Retire.IsZero() {
		return v.Expires
	}
	return earlier(v.Expires, v.Retire)
}

// signingKey is a private key, here or in a signer. It prints as a label.
type signingKey struct{ k crypto.Signer }

// public is the P-256 key that it signs for.
func (s signingKey) public() *ecdsa.PublicKey { return s.k.Public().(*ecdsa.PublicKey) }

func (signingKey) String() string   { return "[signing key]" }
func (signingKey) GoString() string { return "[signing key]" }

// authority is one pair of signing keys, opened.
type authority struct {
	id      string
	cert    *x509.Certificate
	x509    signingKey
	jwt     signingKey
	created time.Time
	expires time.Time
	until   time.Time
}

func sealContext(tenant, td, id, use string) string {
	return "identity-authority\x00" + tenant + "\x00" + td + "\x00" + id + "\x00" + use
}

// newAuthority makes a CA certificate and a JWT key for a trust domain, and
// the form in which they are kept. With a signer the keys are two of its own that
// no authority had before.
func (i *Issuer) newAuthority(ctx context.Context, used []action.Digest, now time.Time) (authorityV, []action.Digest, error) {
	var raw [10]byte
	rand.Read(raw[:])
	now = now.UTC().Truncate(time.Second)
	v := authorityV{ID: hex.EncodeToString(raw[:]), Created: now, Expires: now.Add(caLife), External: i.cfg.Signer != nil}
	var pair [2]crypto.Signer
	var taken []action.Digest
	var err error
	if v.External {
		pair, taken, err = i.cfg.Signer.unused(ctx, used)
	} else {
		pair, err = newKeys()
	}
	if err != nil {
		return authorityV{}, nil, err
	}
	if v.Cert, err = caCertificate(i.td, v.ID, pair[0], now); err != nil {
		return authorityV{}, nil, err
	}
	if v.JWTPublic, err = x509.MarshalPKIXPublicKey(pair[1].Public()); err != nil {
		return authorityV{}, nil, err
	}
	if v.X509Key, err = i.sealKey(v, "x509", pair[0]); err != nil {
		return authorityV{}, nil, err
	}
	v.JWTKey, err = i.sealKey(v, "jwt", pair[1])
	return v, taken, err
}

func newKeys() (pair [2]crypto.Signer, err error) {
	for n := range pair {
		if pair[n], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return pair, err
		}
	}
	return pair, nil
}

// caCertificate makes the self-signed certificate: path length 0 (X509-SVID
// section 3.1), and constrained to URIs of the trust domain's own host, with
// DNS names and addresses excluded (RFC 5280 section 4.2.1.10). E-mail SANs
// cannot be excluded as a whole; the verifier here refuses them.
func caCertificate(td spiffeid.TrustDomain, id string, key crypto.Signer, now time.Time) ([]byte, error) {
	tmpl := &x509.Certificate{
		Subject:                     pkix.Name{Organization: []string{"Sallyport"}, CommonName: td.Name() + " " + id},
		URIs:                        []*url.URL{td.ID().URL()},
		NotBefore:                   now.Add(-skew),
		NotAfter:                    now.Add(caLife),
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		PermittedDNSDomainsCritical: true,
		PermittedURIDomains:         []string{td.Name()},
		ExcludedDNSDomains:          []string{""},
		ExcludedIPRanges: []*net.IPNet{
			{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
			{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
		},
	}
	return x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
}

// sealKey keeps a private key, or of a key that is in a signer the public part:
// sealed too, so that an edited store cannot put another in its place.
func (i *Issuer) sealKey(v authorityV, use string, key crypto.Signer) ([]byte, error) {
	var der []byte
	var err error
	if v.External {
		der, err = x509.MarshalPKIXPublicKey(key.Public())
	} else {
		der, err = x509.MarshalPKCS8PrivateKey(key)
	}
	if err != nil {
		return nil, err
	}
	defer clear(der)
	return i.seal.Seal(i.sealContext(v, use), der)
}

func (i *Issuer) sealContext(v authorityV, use string) string {
	if v.External {
		use += "-public"
	}
	return sealContext(i.log.Tenant(), i.td.Name(), v.ID, use)
}

func (i *Issuer) openKey(v authorityV, use string, sealed []byte) (crypto.Signer, error) {
	der, err := i.seal.Open(i.sealContext(v, use), sealed)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	if v.External {
		pub, err := parseP256(der)
		if err != nil {
			return nil, err
		}
		if i.cfg.Signer == nil {
			return nil, errors.New("the private key is in a signer: start the server with it")
		}
		return i.cfg.Signer.key(pub), nil
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("sealed key is not a key") // the parser's text could quote the key
	}
	ec, ok := k.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("sealed key is not a P-256 key")
	}
	return ec, nil
}

func parseP256(der []byte) (*ecdsa.PublicKey, error) {
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	ec, ok := pub.(*ecdsa.PublicKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("want a P-256 key")
	}
	return ec, nil
}

// openAuthority opens a pair of keys and checks that the public parts, which are not
// sealed, belong to them: an edited store cannot publish a stranger's key.
func (i *Issuer) openAuthority(v authorityV) (*authority, error) {
	bad := func(what string, err error) (*authority, error) {
		return nil, fmt.Errorf("authority %s: %s: %w", v.ID, what, err)
	}
	ca, err := i.openKey(v, "x509", v.X509Key)
	if err != nil {
		return bad("x509 key", err)
	}
	jk, err := i.openKey(v, "jwt", v.JWTKey)
	if err != nil {
		return bad("jwt key", err)
	}
	cert, err := x509.ParseCertificate(v.Cert)
	if err != nil {
		return bad("certificate", err)
	}
	pub, err := parseP256(v.JWTPublic)
	if err != nil {
		return bad("jwt public key", err)
	}
	a := &authority{id: v.ID, cert: cert, x509: signingKey{ca}, jwt: signingKey{jk}, created: v.Created, expires: cert.NotAfter,
		until: earlier(cert.NotAfter, v.until())}
	if !a.x509.public().Equal(cert.PublicKey) || !a.jwt.public().Equal(pub) {
		return nil, fmt.Errorf("authority %s: public and private keys differ", v.ID)
	}
	if err := cert.CheckSignatureFrom(cert); err != nil || len(cert.URIs) != 1 || cert.URIs[0].String() != i.td.IDString() {
		return nil, fmt.Errorf("authority %s: certificate is not that of %s", v.ID, i.td.Name())
	}
	return a, nil
}
