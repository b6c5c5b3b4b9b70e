package identity

import (
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

	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Life of a signing authority. A new one is made when half of the life of the
// newest has passed, published at once, and signs only after publishAhead, so
// that whoever reads the bundle (and every other node) knows it before it is
// used. It stays published until it expires.
const (
	caLife       = 30 * 24 * time.Hour
	publishAhead = time.Hour
)

// object is the state of a tenant's issuer: kind "identity-authority", id
// "current". Private keys are sealed; all else is public.
type object struct {
	V           int          `json:"v"`
	TrustDomain string       `json:"trustDomain"`
	Sequence    int64        `json:"sequence"` // rises with every change
	Authorities []authorityV `json:"authorities"`
}

// authorityV is one pair of signing keys as it is kept.
type authorityV struct {
	ID        string    `json:"id"` // also the kid of the JWT key
	Cert      []byte    `json:"cert"`
	X509Key   []byte    `json:"x509Key"` // sealed PKCS #8
	JWTPublic []byte    `json:"jwtPublic"`
	JWTKey    []byte    `json:"jwtKey"` // sealed PKCS #8
	Created   time.Time `json:"created"`
	Expires   time.Time `json:"expires"`
}

// signingKey is a private key that prints as a label.
type signingKey struct{ k *ecdsa.PrivateKey }

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
}

func sealContext(tenant, td, id, use string) string {
	return "identity-authority\x00" + tenant + "\x00" + td + "\x00" + id + "\x00" + use
}

// newAuthority makes a CA certificate and a JWT key for a trust domain, and
// the form in which they are kept.
func newAuthority(tenant string, td spiffeid.TrustDomain, seal record.Sealer, now time.Time) (authorityV, error) {
	var raw [10]byte
	rand.Read(raw[:])
	id := hex.EncodeToString(raw[:])
	now = now.UTC().Truncate(time.Second)
	v := authorityV{ID: id, Created: now, Expires: now.Add(caLife)}

	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authorityV{}, err
	}
	jwtKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authorityV{}, err
	}
	if v.Cert, err = caCertificate(td, id, caKey, now); err != nil {
		return authorityV{}, err
	}
	if v.JWTPublic, err = x509.MarshalPKIXPublicKey(jwtKey.Public()); err != nil {
		return authorityV{}, err
	}
	if v.X509Key, err = sealKey(seal, sealContext(tenant, td.Name(), id, "x509"), caKey); err != nil {
		return authorityV{}, err
	}
	v.JWTKey, err = sealKey(seal, sealContext(tenant, td.Name(), id, "jwt"), jwtKey)
	return v, err
}

// caCertificate makes the self-signed certificate: path length 0 (X509-SVID
// section 3.1), and constrained to URIs of the trust domain's own host, with
// DNS names and addresses excluded (RFC 5280 section 4.2.1.10). E-mail SANs
// cannot be excluded as a whole; the verifier here refuses them.
func caCertificate(td spiffeid.TrustDomain, id string, key *ecdsa.PrivateKey, now time.Time) ([]byte, error) {
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

func sealKey(s record.Sealer, context string, key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	return s.Seal(context, der)
}

func openKey(s record.Sealer, context string, sealed []byte) (*ecdsa.PrivateKey, error) {
	der, err := s.Open(context, sealed)
	if err != nil {
		return nil, err
	}
	defer clear(der)
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

// open unseals a pair of keys and checks that the public parts, which are not
// sealed, belong to them: an edited store cannot publish a stranger's key.
func (v authorityV) open(tenant string, td spiffeid.TrustDomain, seal record.Sealer) (*authority, error) {
	ca, err := openKey(seal, sealContext(tenant, td.Name(), v.ID, "x509"), v.X509Key)
	if err != nil {
		return nil, fmt.Errorf("authority %s: x509 key: %w", v.ID, err)
	}
	jk, err := openKey(seal, sealContext(tenant, td.Name(), v.ID, "jwt"), v.JWTKey)
	if err != nil {
		return nil, fmt.Errorf("authority %s: jwt key: %w", v.ID, err)
	}
	cert, err := x509.ParseCertificate(v.Cert)
	if err != nil {
		return nil, fmt.Errorf("authority %s: certificate: %w", v.ID, err)
	}
	pub, err := x509.ParsePKIXPublicKey(v.JWTPublic)
	if err != nil {
		return nil, fmt.Errorf("authority %s: jwt public key: %w", v.ID, err)
	}
	if !ca.PublicKey.Equal(cert.PublicKey) || !jk.PublicKey.Equal(pub) {
		return nil, fmt.Errorf("authority %s: public and private keys differ", v.ID)
	}
	if err := cert.CheckSignatureFrom(cert); err != nil || len(cert.URIs) != 1 || cert.URIs[0].String() != td.IDString() {
		return nil, fmt.Errorf("authority %s: certificate is not that of %s", v.ID, td.Name())
	}
	return &authority{
		id: v.ID, cert: cert, x509: signingKey{ca}, jwt: signingKey{jk},
		created: v.Created, expires: cert.NotAfter,
	}, nil
}
