package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"os"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	PublishAhead = publishAhead
	IssueBurst   = issueBurst
	MaxConns     = maxConns
	Skew         = skew
)

// SignRaw signs any header and payload with the tenant's own JWT key: what an
// attacker could get at best.
func (i *Issuer) SignRaw(header, payload string) string {
	a, err := i.signer(context.Background())
	if err != nil {
		panic(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	in := b64([]byte(header)) + "." + b64([]byte(payload))
	h := sha256.Sum256([]byte(in))
	r, s, err := ecdsa.Sign(rand.Reader, a.jwt.k.(*ecdsa.PrivateKey), h[:])
	if err != nil {
		panic(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return in + "." + b64(sig)
}

func (i *Issuer) KID() string {
	a, err := i.signer(context.Background())
	if err != nil {
		panic(err)
	}
	return a.id
}

func (i *Issuer) JWTPublicDER() []byte {
	a, err := i.signer(context.Background())
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKIXPublicKey(a.jwt.public())
	if err != nil {
		panic(err)
	}
	return der
}

// SignCert signs any certificate with the tenant's own CA key.
func (i *Issuer) SignCert(t *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a, err := i.signer(context.Background())
	if err != nil {
		panic(err)
	}
	return SignWith(t, a.cert, a.x509.k.(*ecdsa.PrivateKey))
}

// SignWith signs any certificate with any parent.
func SignWith(t, parent *x509.Certificate, key *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, k.Public(), key)
	if err != nil {
		panic(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return c, k
}

// CACert is the certificate that signs now.
func (i *Issuer) CACert() *x509.Certificate {
	a, err := i.signer(context.Background())
	if err != nil {
		panic(err)
	}
	return a.cert
}

// IssueX509 issues without a socket.
func (i *Issuer) IssueX509(ctx context.Context, w Workload) (*x509.Certificate, error) {
	s, err := i.issueX509(ctx, w)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(s.cert)
}

// PeerOf makes a Peer of a pid and a pidfd that need not belong together.
func PeerOf(pid int, uid uint32, pidfd *os.File) Peer {
	return Peer{PID: int32(pid), UID: uid, fd: pidfd}
}

// OpenPidfd is the way of kernels without SO_PEERPIDFD.
func OpenPidfd(pid int, uid uint32) (*os.File, error) {
	fd, err := openPidfd(Peer{PID: int32(pid), UID: uid})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// Secrets returns values that must print as labels.
func (i *Issuer) Secrets() []any {
	a, _ := i.signer(context.Background())
	secret := "secret"
	return []any{
		a.jwt, a.x509, pkcs8(secret), Token{&secret}, struct{ t Token }{Token{&secret}},
		x509SVID{key: pkcs8(secret)}, &x509SVID{key: pkcs8(secret)},
	}
}

// CheckProof verifies a DPoP proof and spends it.
func (i *Issuer) CheckProof(proof, method, htu string) (jkt string, err error) {
	s, err := i.checkProof(proof, method, htu)
	if err != nil {
		return "", err
	}
	return s.jkt, i.proofs.spend(s, i.cfg.Now())
}

// ParseBundle reads a bundle of another trust domain.
func ParseBundle(td string, doc []byte) (x509, jwt int, err error) {
	b, err := parseBundle(spiffeid.RequireTrustDomainFromString(td), doc)
	if err != nil {
		return 0, 0, err
	}
	return len(b.X509Authorities()), len(b.JWTAuthorities()), nil
}
