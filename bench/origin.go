package main

import (
	"context"
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
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"strings"
	"time"
)

// authority signs the one certificate of the origin.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, key}, err
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// leaf is a certificate of the origin, and the hash of its key as Chromium
// wants it for a key to trust.
func (a *authority) leaf(host string) (tls.Certificate, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return tls.Certificate{}, "", err
	}
	sum := sha256.Sum256(spki)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, base64.StdEncoding.EncodeToString(sum[:]), nil
}

// plainSample is the sample tenant without anything that answers.
func plainSample() (*sample, error) {
	a, err := newAuthority()
	if err != nil {
		return nil, err
	}
	return newSample("8643", a.pem())
}

// origin is the application behind door 2: HTTP/2 and HTTP/1.1 over TLS.
type origin struct {
	ca   *authority
	spki string
	port string
	http *http.Server
}

const (
	kibPath    = "/users/jo"      // 1 KiB of text
	buttonPath = "/users/button"  // a page with a button that counts
	pagePath   = "/users/gallery" // a page with many sub-resources
	resources  = 60
)

func newOrigin() (*origin, error) {
	a, err := newAuthority()
	if err != nil {
		return nil, err
	}
	cert, spki, err := a.leaf(iamHost)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return nil, err
	}
	o := &origin{ca: a, spki: spki, port: port}
	o.http = &http.Server{Handler: http.HandlerFunc(serve), ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}}
	go o.http.ServeTLS(l, "", "")
	return o, nil
}

func (o *origin) url(path string) string { return "https://" + iamHost + ":" + o.port + path }

func (o *origin) dial() string { return "127.0.0.1:" + o.port }

// connect reaches the origin, whatever the address.
func (o *origin) connect(ctx context.Context, network, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, o.dial())
}

var kib = strings.Repeat("0123456789abcdef", 64)

func serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	switch {
	case r.URL.Path == kibPath:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		io.WriteString(w, kib)
	case r.URL.Path == buttonPath:
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, `<!doctype html><title>b</title><script>n=0</script><button onclick="n++" style="position:absolute;left:100px;top:100px;width:200px;height:60px">Count</button>`)
	case r.URL.Path == pagePath:
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, "<!doctype html><title>g</title>")
		for i := range resources {
			fmt.Fprintf(w, `<img src="/static/%d.svg" width="40" height="40">`, i)
		}
	case strings.HasPrefix(r.URL.Path, "/static/"):
		w.Header().Set("Content-Type", "image/svg+xml")
		fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><desc>%s</desc><rect width="9" height="9" fill="teal"/></svg>`, kib[:900])
	default:
		http.NotFound(w, r)
	}
}
