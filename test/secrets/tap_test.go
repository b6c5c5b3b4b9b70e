package secrets

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// tap stands between the boundary and the sandbox applications, where the
// applications' own network would be. It learns every session cookie, and makes
// the applications careless: each page carries the cookie that it was asked
// with, in many forms, and a script that sends the page as the browser has it
// back to the page's own origin.
type tap struct {
	mu      sync.Mutex
	cookies map[string]bool
	dom     map[string][]string // parts of a page, by a random name
	ca      []byte
	port    string
}

const domPath = "/static/dom-report"

// report sends what a script of the page can read, in parts that fit a URL.
const report = `<script>(() => {
  const all = document.cookie + '\n' + document.documentElement.outerHTML, id = Math.random().toString(36).slice(2);
  for (let i = 0; i * 1500 < all.length; i++) fetch('` + domPath + `?id=' + id + '&n=' + i + '&part=' + encodeURIComponent(all.slice(i * 1500, i * 1500 + 1500))).catch(() => {});
})();</script>`

// start puts the tap in front of the sandbox of r.
func (p *tap) start(r *rig.Rig) error {
	p.cookies, p.dom = map[string]bool{}, map[string][]string{}
	cert, err := p.certificate()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	_, p.port, _ = net.SplitHostPort(l.Addr().String())
	real := r.Ports.Sandbox
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.Estate.CAPEM())
	in := strings.NewReplacer("localhost:"+p.port, "localhost:"+real)
	out := strings.NewReplacer("localhost:"+real, "localhost:"+p.port)
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
		ModifyResponse: func(resp *http.Response) error { return p.careless(resp, out) },
	}
	s := &http.Server{Handler: p.handler(proxy), TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}, ReadHeaderTimeout: 10 * time.Second}
	go s.ServeTLS(l, "", "")
	r.Ports.Sandbox, r.EstateCA = p.port, append(r.Estate.CAPEM(), p.ca...)
	return nil
}

func (p *tap) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.learn(r.Cookies())
		if r.URL.Path == domPath {
			q := r.URL.Query()
			p.mu.Lock()
			defer p.mu.Unlock()
			p.dom[q.Get("id")] = append(p.dom[q.Get("id")], q.Get("part"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (p *tap) learn(cs []*http.Cookie) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range cs {
		if len(c.Value) > 8 {
			p.cookies[c.Value] = true
		}
	}
}

// careless reflects the request's cookies in the page and in a header.
func (p *tap) careless(resp *http.Response, out *strings.Replacer) error {
	p.learn(resp.Cookies())
	if v := resp.Header.Get("Location"); v != "" {
		resp.Header.Set("Location", out.Replace(v))
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	b = []byte(out.Replace(string(b)))
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") && resp.StatusCode == http.StatusOK {
		for _, c := range resp.Request.Cookies() {
			v := c.Value
			resp.Header.Add("X-Debug", v)
			b = fmt.Appendf(b, "\n<!-- %s %s %s %s -->\n<p style=\"font-size:30px\">session %s</p>", v, url.QueryEscape(v), hex.EncodeToString([]byte(v)),
				base64.StdEncoding.EncodeToString([]byte("x"+v)), v)
		}
		b = append(b, report...)
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	resp.Header.Set("Content-Length", fmt.Sprint(len(b)))
	return nil
}

func (p *tap) certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tap"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IsCA: true, BasicConstraintsValid: true}
	for _, app := range []estate.App{estate.IAM, estate.Tickets, estate.Mail, estate.Pay, estate.Evil} {
		t.DNSNames = append(t.DNSNames, estate.Host(estate.Sandbox, app))
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	p.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// secrets are the session cookies seen so far.
func (p *tap) secrets() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for c := range p.cookies {
		out = append(out, c)
	}
	return out
}

// pages are the documents as the browser had them.
func (p *tap) pages() map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]string{}
	for id, parts := range p.dom {
		out[id] = strings.Join(parts, "\n")
	}
	return out
}
