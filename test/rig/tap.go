package rig

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/estate"
)

// Tap stands between the boundary and the sandbox applications, where the
// applications' own network would be. It learns every session cookie, and can
// make the applications careless, dishonest or absent.
type Tap struct {
	// Intercept answers a request in the place of the application if it
	// returns true. It may panic with http.ErrAbortHandler to cut the call.
	Intercept func(http.ResponseWriter, *http.Request) bool
	// Page changes an HTML page on its way out, and its header.
	Page func(resp *http.Response, page []byte) []byte
	Port string // instead of the sandbox's own

	mu      sync.Mutex
	cookies map[string]bool
	ca      []byte
}

// Start puts the tap in front of the sandbox of r, as Options.Before.
func (p *Tap) Start(r *Rig) error {
	p.cookies = map[string]bool{}
	cert, err := p.certificate()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	_, p.Port, _ = net.SplitHostPort(l.Addr().String())
	real := r.Ports.Sandbox
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.Estate.CAPEM())
	in := strings.NewReplacer("localhost:"+p.Port, "localhost:"+real)
	out := strings.NewReplacer("localhost:"+real, "localhost:"+p.Port)
	proxy := &httputil.ReverseProxy{
		Transport: &http.Transport{DialContext: r.Estate.DialContext, TLSClientConfig: &tls.Config{RootCAs: roots}, DisableCompression: true},
		Rewrite: func(q *httputil.ProxyRequest) {
			host := in.Replace(q.In.Host)
			q.SetURL(&url.URL{Scheme: "https", Host: host})
			q.Out.Host = host
			q.Out.Header.Del("Accept-Encoding")
			for _, name := range []string{"Origin", "Referer"} {
				if v := q.Out.Header.Get(name); v != "" {
					q.Out.Header.Set(name, in.Replace(v))
				}
			}
		},
		ModifyResponse: func(resp *http.Response) error { return p.answer(resp, out) },
	}
	s := &http.Server{Handler: p.handler(proxy), TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}, ReadHeaderTimeout: 10 * time.Second}
	go s.ServeTLS(l, "", "")
	r.Ports.Sandbox, r.EstateCA = p.Port, append(r.Estate.CAPEM(), p.ca...)
	return nil
}

func (p *Tap) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.learn(r.Cookies())
		if p.Intercept != nil && p.Intercept(w, r) {
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (p *Tap) learn(cs []*http.Cookie) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range cs {
		if len(c.Value) > 8 {
			p.cookies[c.Value] = true
		}
	}
}

func (p *Tap) answer(resp *http.Response, out *strings.Replacer) error {
	p.learn(resp.Cookies())
	if v := resp.Header.Get("Location"); v != "" {
		resp.Header.Set("Location", out.Replace(v))
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	b = []byte(out.Replace(string(b)))
	if p.Page != nil && strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") && resp.StatusCode == http.StatusOK {
		b = p.Page(resp, b)
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	resp.Header.Set("Content-Length", fmt.Sprint(len(b)))
	return nil
}

func (p *Tap) certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tap"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IsCA: true, BasicConstraintsValid: true}
	for _, app := range []estate.App{estate.IAM, estate.Tickets, estate.Mail, estate.Pay, estate.Runbooks, estate.Evil} {
		t.DNSNames = append(t.DNSNames, estate.Host(estate.Sandbox, app))
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	p.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// Cookies are the values of the session cookies seen so far.
func (p *Tap) Cookies() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.cookies))
}

// URL is the origin of a sandbox application behind the tap.
func (p *Tap) URL(app estate.App) string {
	return "https://" + estate.Host(estate.Sandbox, app) + ":" + p.Port
}
