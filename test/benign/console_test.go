package benign

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/test/rig"
)

const (
	registerHost = "register.sandbox.brightwell.localhost"
	devices      = "devices00000001" // ids of collections
	visits       = "visits000000001"
)

// console is PocketBase, with its own proxy in front, as a company would run it.
//
// PocketBase signs in by a JSON request whose answer is a bearer token that the
// page keeps. The boundary signs in by forms and keeps cookies, and it takes
// Authorization away from whatever a page sends. So the proxy stands for a
// single sign-on in front of the console: it adds the superuser's token on the
// way in, and hands the dashboard a session that opens nothing on the way out. No
// password and no token that works comes near the page.
//
// It also mounts the dashboard at / (at home it is at /_/, and a path that ends
// in a slash is refused) and puts marks.js into it.
type console struct {
	port, token string
	ca          []byte
	api         string // PocketBase itself, past everything
	session     []byte // script
	placeholder string
}

// startConsole builds PocketBase at the version of its module and serves it.
func startConsole(t *testing.T) *console {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "pocketbase")
	build := exec.Command("go", "build", "-o", bin, ".")
	build.Dir, build.Env = "pocketbase", append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-buildvcs=false")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build pocketbase: %v\n%s", err, out)
	}
	const account, password = "svc-register@brightwell.example", "a-password-of-the-test"
	data := filepath.Join(dir, "data")
	if out, err := exec.Command(bin, "superuser", "upsert", account, password, "--dir", data).CombinedOutput(); err != nil {
		t.Fatalf("superuser: %v\n%s", err, out)
	}
	c := &console{}
	addr := freeAddr(t)
	c.api = "http://" + addr
	serve := exec.Command(bin, "serve", "--http", addr, "--dir", data)
	serve.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { serve.Process.Kill(); serve.Wait() })
	rig.Await(t, "PocketBase", func() bool {
		resp, err := http.Get(c.api + "/api/health")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil
	})
	var signed struct {
		Token  string         `json:"token"`
		Record map[string]any `json:"record"`
	}
	c.call(t, "POST", "/api/collections/_superusers/auth-with-password", map[string]any{"identity": account, "password": password}, &signed)
	c.token = signed.Token
	c.placeholder = unsigned(map[string]any{"type": "auth", "id": signed.Record["id"], "collectionId": signed.Record["collectionId"],
		"exp": time.Now().Add(24 * time.Hour).Unix(), "refreshable": true})
	kept, err := json.Marshal(map[string]any{"token": c.placeholder, "record": signed.Record})
	if err != nil {
		t.Fatal(err)
	}
	c.session = fmt.Appendf(nil, "localStorage.setItem('__pb_superuser_auth__', %q);\n", kept)
	c.seed(t)
	c.proxy(t)
	return c
}

// unsigned is a token that says until when the dashboard may think it is signed
// in, and that no server accepts.
func unsigned(claims map[string]any) string {
	enc := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err) // plain values
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	return enc(map[string]string{"alg": "none", "typ": "JWT"}) + "." + enc(claims) + "." + base64.RawURLEncoding.EncodeToString([]byte("none"))
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// call asks PocketBase itself, as its administrator would.
func (c *console) call(t *testing.T, method, path string, in, out any) {
	t.Helper()
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), method, c.api+path, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", c.token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err = io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		t.Fatalf("%s %s: %s %s %v", method, path, resp.Status, b, err)
	}
	if out != nil {
		if err := json.Unmarshal(b, out); err != nil {
			t.Fatal(err)
		}
	}
}

// seed makes a register of fifty devices and an empty one of visits.
func (c *console) seed(t *testing.T) {
	t.Helper()
	c.call(t, "POST", "/api/collections", map[string]any{"id": devices, "name": "devices", "type": "base", "fields": []map[string]any{
		{"name": "name", "type": "text", "required": true},
		{"name": "place", "type": "select", "values": []string{"laboratory", "office", "van"}, "maxSelect": 1},
		{"name": "serial", "type": "number"}, {"name": "lost", "type": "bool"},
		{"name": "created", "type": "autodate", "onCreate": true},
		{"name": "updated", "type": "autodate", "onCreate": true, "onUpdate": true},
	}}, nil)
	c.call(t, "POST", "/api/collections", map[string]any{"id": visits, "name": "visits", "type": "base", "fields": []map[string]any{
		{"name": "day", "type": "date"}, {"name": "notes", "type": "editor"}, {"name": "meta", "type": "json"},
		{"name": "device", "type": "relation", "collectionId": devices, "maxSelect": 1}, {"name": "link", "type": "url"},
		{"name": "photo", "type": "file", "maxSelect": 1, "maxSize": 100000},
		{"name": "created", "type": "autodate", "onCreate": true},
	}}, nil)
	for i := range 50 {
		c.call(t, "POST", "/api/collections/devices/records", map[string]any{"id": deviceID(i), "name": fmt.Sprintf("device %02d", i),
			"place": []string{"laboratory", "office"}[i%2], "serial": 1000 + i, "lost": i == 7}, nil)
	}
}

func deviceID(i int) string { return fmt.Sprintf("device%09d", i) }

// device is one record as PocketBase has it.
type device struct {
	ID     string  `json:"id"`
	Name   string  `json:"name"`
	Place  string  `json:"place"`
	Serial float64 `json:"serial"`
	Lost   bool    `json:"lost"`
}

// devices are all records, by name.
func (c *console) devices(t *testing.T) map[string]device {
	t.Helper()
	var page struct {
		Items []device `json:"items"`
	}
	c.call(t, "GET", "/api/collections/devices/records?perPage=500", nil, &page)
	out := map[string]device{}
	for _, d := range page.Items {
		out[d.Name] = d
	}
	return out
}

func (c *console) proxy(t *testing.T) {
	t.Helper()
	to, err := url.Parse(c.api)
	if err != nil {
		t.Fatal(err)
	}
	marks, err := testdata.ReadFile("testdata/marks.js")
	if err != nil {
		t.Fatal(err)
	}
	p := &httputil.ReverseProxy{
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0), // pages give up requests
		Rewrite: func(q *httputil.ProxyRequest) {
			q.SetURL(to)
			if !strings.HasPrefix(q.In.URL.Path, "/api/") {
				q.Out.URL.Path = "/_" + q.In.URL.Path
			}
			q.Out.Header.Set("Authorization", c.token)
			q.Out.Header.Del("Accept-Encoding")
		},
		ModifyResponse: func(resp *http.Response) error {
			page := strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html")
			if !page && !strings.HasSuffix(resp.Request.URL.Path, "/auth-refresh") {
				return nil
			}
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			if page {
				b = bytes.Replace(b, []byte("<head>"), []byte(`<head><script src="./assets/session.js"></script><script src="./assets/marks.js"></script>`), 1)
			} else {
				var m map[string]any
				if err := json.Unmarshal(b, &m); err != nil {
					return err
				}
				m["token"] = c.placeholder
				if b, err = json.Marshal(m); err != nil {
					return err
				}
			}
			resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
			resp.Header.Set("Content-Length", fmt.Sprint(len(b)))
			return nil
		},
	}
	mux := http.NewServeMux()
	mux.Handle("/", p)
	for path, script := range map[string][]byte{"/assets/session.js": c.session, "/assets/marks.js": marks} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/javascript")
			w.Write(script)
		})
	}
	cert, ca := certificate(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, c.port, _ = net.SplitHostPort(l.Addr().String())
	c.ca = ca
	s := &http.Server{Handler: mux, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}, ReadHeaderTimeout: 10 * time.Second}
	go s.ServeTLS(l, "", "")
	t.Cleanup(func() { s.Close() })
}

// certificate is one for the register's name, and the PEM to trust it by.
func certificate(t *testing.T) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "register"}, DNSNames: []string{registerHost},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, x, x, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
