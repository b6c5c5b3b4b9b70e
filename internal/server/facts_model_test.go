package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// speaks is a provider that says of itself what it is told to, under two roots that are
// both trusted.
type speaks struct {
	mu      sync.Mutex
	certs   [2]tls.Certificate
	by      int
	account string
	garbage string
	answer  struct {
		Type  string `json:"type"`
		Model string `json:"model"`
		Usage struct {
			Geo string `json:"inference_geo"`
		} `json:"usage"`
	}
}

func (p *speaks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	p.mu.Lock()
	defer p.mu.Unlock()
	w.Header().Set("Anthropic-Organization-Id", p.account)
	w.Header().Set("Content-Type", "application/json")
	if p.garbage != "" {
		io.WriteString(w, p.garbage)
		return
	}
	json.NewEncoder(w).Encode(p.answer)
}

// root makes a certificate of 127.0.0.1 and localhost under a root of its own.
func root(t *testing.T) (pair tls.Certificate, ca []byte) {
	t.Helper()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	top, leaf := key(), key()
	tmpl := func(name string) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	}
	a := tmpl("root " + rand.Text())
	a.IsCA, a.BasicConstraintsValid, a.KeyUsage = true, true, x509.KeyUsageCertSign
	above, err := x509.CreateCertificate(rand.Reader, a, a, &top.PublicKey, top)
	if err != nil {
		t.Fatal(err)
	}
	b := tmpl("provider")
	b.DNSNames, b.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	below, err := x509.CreateCertificate(rand.Reader, b, a, &leaf.PublicKey, top)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{below}, PrivateKey: leaf}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: above})
}
