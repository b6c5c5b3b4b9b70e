package postgres_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/postgres"
	"github.com/sallyport-dev/sallyport/internal/store/pgtest"
)

// TestOverTLS: over TCP the server must prove who it is, to the administrator and
// to a task's session; the administrator may prove itself by a certificate, which
// a task's session does not have.
func TestOverTLS(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	pg, err := pgtest.StartWith(pgtest.Options{Port: port, Args: []string{"-c", "ssl=on", "-c", "ssl_ca_file=ca.pem"}, Prepare: func(data string) error {
		cert, key := ca.leaf(t, "localhost")
		var errs []error
		for name, b := range map[string]string{"ca.pem": ca.pem, "server.crt": cert, "server.key": key,
			"pg_hba.conf": "local all sallyport trust\nhostssl all boundary all cert\nhostssl all all all scram-sha-256\n"} {
			errs = append(errs, os.WriteFile(filepath.Join(data, name), []byte(b), 0o600))
		}
		return errors.Join(errs...)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Stop() })
	c, err := pgx.Connect(t.Context(), pg.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	run(t, c, "CREATE ROLE reader; CREATE ROLE boundary LOGIN CREATEROLE")
	cert, key := ca.leaf(t, "boundary")
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	over := func(roots string, own ...tls.Certificate) *postgres.Source {
		cfg := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost",
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if len(own) == 0 {
					return &tls.Certificate{}, nil
				}
				return &own[0], nil
			}}
		cfg.RootCAs.AppendCertsFromPEM([]byte(roots))
		s := postgres.New(postgres.Config{Host: "127.0.0.1", Port: uint16(port), Database: "postgres", Admin: "boundary", Roles: []string{"reader"}, TLS: cfg})
		t.Cleanup(s.Close)
		return s
	}
	s := over(ca.pem, pair)
	cred, secret := issue(t, s, "l-tls")
	if err := ask(t, s, secret, "DO $$ BEGIN IF NOT (SELECT ssl AND client_dn IS NULL FROM pg_stat_ssl WHERE pid = pg_backend_pid()) THEN RAISE 'no TLS, or the certificate of another'; END IF; END $$"); err != nil {
		t.Error(err)
	}
	if err := s.Revoke(t.Context(), cred); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string]*postgres.Source{"other_roots": over(other.pem, pair), "no_certificate": over(ca.pem)} {
		_, err := bad.Issue(t.Context(), lease.Order{Label: "sallyport-00112233-l-bad", Expires: time.Now().Add(time.Hour)})
		if !errors.Is(err, lease.ErrNotIssued) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// authority issues certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newCA(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

func (a *authority) leaf(t *testing.T, name string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tpl, a.cert, &k.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder}))
}
