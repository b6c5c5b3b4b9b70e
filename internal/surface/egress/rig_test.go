package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
)

// seen is what an origin received.
type seen struct {
	Method, URI, Host, Proto string
	Header                   http.Header
	Body                     []byte
}

// origin is a real server on loopback that keeps what it receives.
type origin struct {
	*httptest.Server
	host string // the name that clients use
	mu   sync.Mutex
	got  []seen
}

func (o *origin) port() string { return o.URL[strings.LastIndexByte(o.URL, ':')+1:] }
func (o *origin) name() string {
	scheme, _, _ := strings.Cut(o.URL, "://")
	return scheme + "://" + o.host + ":" + o.port()
}
func (o *origin) authority() string { return o.host + ":" + o.port() }

func (o *origin) all() []seen {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]seen(nil), o.got...)
}

// one waits for nothing: the response was read, so the request was seen.
func (o *origin) one(t testing.TB) seen {
	t.Helper()
	all := o.all()
	if len(all) != 1 {
		t.Fatalf("origin got %d requests, want 1: %+v", len(all), all)
	}
	return all[0]
}

func newOrigin(t testing.TB, secure bool, h http.HandlerFunc) *origin {
	t.Helper()
	return newOriginAt(t, "app.localhost", secure, h)
}

func newOriginAt(t testing.TB, host string, secure bool, h http.HandlerFunc) *origin {
	t.Helper()
	o := &origin{host: host}
	if h == nil {
		h = func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }
	}
	o.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("origin: body: %v", err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		o.mu.Lock()
		o.got = append(o.got, seen{r.Method, r.RequestURI, r.Host, r.Proto, r.Header.Clone(), body})
		o.mu.Unlock()
		h(w, r)
	}))
	o.Server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if secure {
		o.Server.EnableHTTP2 = true
		// The certificate of httptest names example.com: a leaf of our own is made.
		a, err := newAuthority(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := a.certificate(target{scheme: "https", host: o.host})
		if err != nil {
			t.Fatal(err)
		}
		o.Server.TLS = &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: []string{"h2", "http/1.1"}}
		o.Server.StartTLS()
		pool := x509.NewCertPool()
		pool.AddCert(a.cert)
		o.Server.TLS.ClientCAs = pool // kept here for RootsFor
	} else {
		o.Server.Start()
	}
	t.Cleanup(o.Close)
	return o
}

// connectors is the test's own recognition.
type connectors func(r action.Request, body []byte) (Recognized, error)

func (f connectors) Recognize(r action.Request, body []byte) (Recognized, error) { return f(r, body) }

type secrets []Secret

func (s secrets) Secrets() []Secret { return s }

// jar is an Injector with one cookie.
type jar struct {
	value string
	mu    sync.Mutex
	kept  []string
}

func (j *jar) Inject(_ context.Context, r *http.Request) error {
	r.Header.Set("Cookie", "session="+j.value)
	return nil
}

func (j *jar) Observe(r *http.Response) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.kept = append(j.kept, r.Header.Values("Set-Cookie")...)
}

// rig is a proxy in front of one origin, with a real gate.
type rig struct {
	*gatetest.Kit
	p    *Proxy
	o    *origin
	addr string
	cfg  Config
}

func newRig(t testing.TB, o *origin, policy gatetest.Policy, edit ...func(*Config)) *rig {
	t.Helper()
	k := gatetest.New(t, policy)
	cfg := Config{Tenant: gatetest.Tenant, Task: gatetest.Task, Agent: gatetest.Agent, Source: "browser", Stage: action.Sandbox, Gate: k,
		Dialer: deadEnd{}}
	if o != nil {
		cfg.Connectors = allow(o.name())
		if o.TLS != nil {
			cfg.RootsFor = func(string) *x509.CertPool { return o.TLS.ClientCAs }
		}
		cfg.Dialer = loopback{}
	} else {
		cfg.Connectors = allow("https://nobody.invalid")
	}
	for _, e := range edit {
		e(&cfg)
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- p.Serve(l) }()
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return &rig{Kit: k, p: p, o: o, addr: l.Addr().String(), cfg: cfg}
}

// allow recognises one origin: reads as app.read, writes and /changes as app.write.
func allow(origin string) connectors {
	return func(r action.Request, _ []byte) (Recognized, error) {
		if r.Origin != origin {
			return Recognized{}, nil
		}
		rec := Recognized{App: "app", Operation: "app.read", Effect: action.Read, Allowed: true, AllowLocal: true}
		if writes(r.Method) || r.Path == "/changes" {
			rec.Operation, rec.Effect = "app.write", action.Write
		}
		return rec, nil
	}
}

// loopback is a network with nothing but this machine.
type loopback struct{ systemDialer }

func (loopback) Resolve(context.Context, string) ([]netip.Addr, error) {
	return nil, errors.New("no such host")
}

// deadEnd fails the test's expectation that nothing is dialled, by failing.
type deadEnd struct{}

func (deadEnd) Resolve(context.Context, string) ([]netip.Addr, error) {
	return nil, errors.New("dead end")
}
func (deadEnd) Dial(context.Context, netip.AddrPort) (net.Conn, error) {
	return nil, errors.New("dead end")
}

// client is a browser-like client of the proxy.
func (r *rig) client(h2 bool) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(r.p.CAPEM())
	tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: r.addr}),
		TLSClientConfig: &tls.Config{RootCAs: pool}, DisableCompression: true, Protocols: new(http.Protocols), MaxIdleConnsPerHost: 64}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetHTTP2(h2)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout: 20 * time.Second}
}

func (r *rig) dial(t testing.TB) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// tunnel opens CONNECT, without TLS.
func (r *rig) tunnel(t testing.TB, hostport string) net.Conn {
	t.Helper()
	c := r.dial(t)
	io.WriteString(c, "CONNECT "+hostport+" HTTP/1.1\r\nHost: "+hostport+"\r\n\r\n")
	br := bufio.NewReaderSize(c, 1)
	resp, err := http.ReadResponse(br, &http.Request{Method: "CONNECT"})
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("CONNECT %s: %v %v", hostport, resp, err)
	}
	return c
}

// tlsTunnel opens CONNECT and TLS.
func (r *rig) tlsTunnel(t testing.TB, hostport, sni string, protos ...string) (*tls.Conn, error) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(r.p.CAPEM())
	c := tls.Client(r.tunnel(t, hostport), &tls.Config{RootCAs: pool, ServerName: sni, NextProtos: protos})
	return c, c.Handshake()
}

// raw writes bytes and reads one response.
func raw(t testing.TB, c net.Conn, in string) (int, http.Header, string) {
	t.Helper()
	if _, err := io.WriteString(c, in); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	for err == nil && resp.StatusCode == http.StatusContinue {
		resp, err = http.ReadResponse(br, nil)
	}
	if err != nil {
		return 0, nil, ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, string(b)
}

// wants checks the code of a denial.
func wantDenied(t testing.TB, status int, h http.Header, code string) {
	t.Helper()
	if status != http.StatusForbidden || !strings.Contains(h.Get("Sallyport-Decision"), "code="+code+";") {
		t.Errorf("got %d %q, want 403 and code %s", status, h.Get("Sallyport-Decision"), code)
	}
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("a denial carries %s", name)
		}
	}
}

func (r *rig) last(t testing.TB) gate.Decided {
	t.Helper()
	d := r.Log.Decisions(t)
	if len(d) == 0 {
		t.Fatal("nothing was recorded")
	}
	return d[len(d)-1]
}

func get(t testing.TB, c *http.Client, u string) (*http.Response, string) {
	t.Helper()
	resp, err := c.Get(u)
	if err != nil {
		t.Fatal(err)
	}
	return resp, read(t, resp)
}

func read(t testing.TB, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func atoi(s string) int { n, _ := strconv.Atoi(s); return n }

func newPool(pem []byte) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool
}

// lastOutcome is the body of the newest action.outcome record.
func lastOutcome(t testing.TB, r *rig) action.Outcome {
	t.Helper()
	all := r.Log.All()
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Type == "action.outcome" {
			var o gate.Outcome
			if err := json.Unmarshal(all[i].Body, &o); err != nil {
				t.Fatal(err)
			}
			return o.Outcome
		}
	}
	t.Fatal("no outcome was recorded")
	return action.Outcome{}
}

// eventually waits for a state, with a limit.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// newUpstreamDial reaches o under its name.
func newUpstreamDial(t testing.TB, o *origin) func(context.Context, string, string) (net.Conn, error) {
	t.Helper()
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, "127.0.0.1:"+o.port())
	}
}
