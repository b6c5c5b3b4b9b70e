package egress

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	certLife     = 30 * 24 * time.Hour // no session lasts longer
	maxLeafCache = 1024                // certificates; the cache is emptied beyond it
)

// authority signs certificates towards the client of one session. All leaves
// share one key, because Chromium is told to trust that key and nothing else. A
// thief of these keys can impersonate any site to this session's browser and
// harness, and to nobody else.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	leaf *ecdsa.PrivateKey
	spki string

	mu     sync.Mutex
	leaves map[string]*tls.Certificate // by host
}

// Keys are those of one session, made before it. They serve one Proxy.
type Keys struct {
	a    *authority
	used atomic.Bool
}

// NewKeys makes keys that nobody else has.
func NewKeys() (*Keys, error) {
	a, err := newAuthority(time.Now())
	if err != nil {
		return nil, fmt.Errorf("egress: session authority: %w", err)
	}
	return &Keys{a: a}, nil
}

// SPKI is the base64 SHA-256 of the one leaf key, for Chromium's
// --ignore-certificate-errors-spki-list.
func (k *Keys) SPKI() string { return k.a.spki }

func newAuthority(now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "sallyport session"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	pub, err := x509.MarshalPKIXPublicKey(&leaf.PublicKey)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(pub)
	return &authority{cert: cert, key: key, leaf: leaf,
		spki: base64.StdEncoding.EncodeToString(sum[:]), leaves: map[string]*tls.Certificate{}}, nil
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// certificate returns the leaf for a normalised host.
func (a *authority) certificate(t target) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.leaves[t.host]; c != nil {
		return c, nil
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if t.ip.IsValid() {
		tmpl.IPAddresses = []net.IP{t.ip.AsSlice()}
	} else {
		tmpl.DNSNames = []string{t.host}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &a.leaf.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("certificate for %s: %w", t.host, err)
	}
	c := &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: a.leaf}
	if len(a.leaves) >= maxLeafCache {
		clear(a.leaves)
	}
	a.leaves[t.host] = c
	return c, nil
}
