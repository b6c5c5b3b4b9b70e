package estate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"time"
)

// certLife is longer than any demo and shorter than what browsers refuse.
const certLife = 90 * 24 * time.Hour

// authority is the estate's own certificate authority. Its key lives in memory
// and signs only at start. A thief of it could pose as a *.localhost name to a
// client that trusts it, for certLife.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
	now  time.Time
}

func newAuthority(now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:                big.NewInt(1),
		Subject:                     pkix.Name{CommonName: "Brightwell Instruments sample estate CA"},
		NotBefore:                   now.Add(-time.Hour),
		NotAfter:                    now.Add(certLife),
		IsCA:                        true,
		BasicConstraintsValid:       true,
		MaxPathLenZero:              true,
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{
		cert: cert, key: key, now: now,
		pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
	}, nil
}

// leafSet has one certificate per name. A shared certificate would let browsers
// reuse one HTTP/2 connection for several origins.
type leafSet map[string]*tls.Certificate

func (a *authority) leaves(names []string) (leafSet, error) {
	set := leafSet{}
	for _, name := range names {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
		if err != nil {
			return nil, err
		}
		tmpl := &x509.Certificate{
			SerialNumber: serial.Add(serial, big.NewInt(2)),
			Subject:      pkix.Name{CommonName: name},
			DNSNames:     []string{name},
			NotBefore:    a.now.Add(-time.Hour),
			NotAfter:     a.now.Add(certLife),
			KeyUsage:     x509.KeyUsageDigitalSignature,
			ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
		if err != nil {
			return nil, err
		}
		set[name] = &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key}
	}
	return set, nil
}

func (s leafSet) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := s[strings.ToLower(hello.ServerName)]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("no certificate for server name %q", hello.ServerName)
}
