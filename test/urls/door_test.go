package urls

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/surface/egress"
)

const control = "http://control.test" // serves the page that asks for the addresses

// world is the network behind the door: every name and every address leads to
// one server, in plain and under TLS. It keeps what was decided and what came,
// by the id in the Referer.
type world struct {
	http.Handler // of control

	ca    *x509.Certificate
	key   *ecdsa.PrivateKey
	conns chan net.Conn
	done  chan struct{}
	l     net.Listener

	mu      sync.Mutex
	dialled map[string]netip.Addr // by the dialling end
	decided map[string][]reading
	came    map[string][]reading
}

func newWorld(t *testing.T) *world {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{key: key, conns: make(chan net.Conn), done: make(chan struct{}), dialled: map[string]netip.Addr{}, decided: map[string][]reading{}, came: map[string][]reading{}}
	w.ca = &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true}
	raw, err := x509.CreateCertificate(rand.Reader, w.ca, w.ca, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if w.ca, err = x509.ParseCertificate(raw); err != nil {
		t.Fatal(err)
	}
	if w.l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(w.serve), ErrorLog: log.New(io.Discard, "", 0)}
	go w.sort()
	go srv.Serve(w)
	t.Cleanup(func() { close(w.done); w.l.Close(); srv.Close() })
	return w
}

// sort hands connections on, those that begin as TLS with it.
func (w *world) sort() {
	for {
		c, err := w.l.Accept()
		if err != nil {
			return
		}
		go func() {
			br := bufio.NewReader(c)
			first, err := br.Peek(1)
			if err != nil {
				c.Close()
				return
			}
			var out net.Conn = peeked{c, br}
			if first[0] == 0x16 {
				out = tls.Server(out, &tls.Config{NextProtos: []string{"http/1.1"}, GetCertificate: w.certificate})
			}
			select {
			case w.conns <- out:
			case <-w.done:
				c.Close()
			}
		}()
	}
}

type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (p peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

// Accept, Close and Addr make it the server's listener.
func (w *world) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}
func (w *world) Close() error   { return w.l.Close() }
func (w *world) Addr() net.Addr { return w.l.Addr() }

// certificate is for the name that is asked for, or for the address that was dialled.
func (w *world) certificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: w.ca.NotBefore, NotAfter: w.ca.NotAfter}
	if h.ServerName != "" {
		leaf.DNSNames = []string{h.ServerName}
	} else {
		w.mu.Lock()
		leaf.IPAddresses = []net.IP{w.dialled[h.Conn.RemoteAddr().String()].AsSlice()}
		w.mu.Unlock()
	}
	raw, err := x509.CreateCertificate(rand.Reader, leaf, w.ca, &w.key.PublicKey, w.key)
	return &tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: w.key}, err
}

// Resolve and Dial make it the door's network.
func (w *world) Resolve(context.Context, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
}

func (w *world) Dial(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", w.l.Addr().String())
	if err == nil {
		w.mu.Lock()
		w.dialled[c.LocalAddr().String()] = a.Addr()
		w.mu.Unlock()
	}
	return c, err
}

// idOf is the id of an address, from the Referer of its request.
func idOf(h http.Header) string {
	u, err := url.Parse(h.Get("Referer"))
	if err != nil || len(u.Path) < 4 || u.Path[:3] != "/r/" {
		return ""
	}
	return u.Path[3:]
}

func (w *world) serve(rw http.ResponseWriter, r *http.Request) {
	if r.Host == "control.test" && idOf(r.Header) == "" {
		w.ServeHTTP(rw, r)
		return
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	path, query := r.RequestURI, ""
	for i := range path {
		if path[i] == '?' {
			path, query = path[:i], path[i+1:]
			break
		}
	}
	w.mu.Lock()
	w.came[idOf(r.Header)] = append(w.came[idOf(r.Header)], readDecided(scheme+"://"+r.Host, path, query))
	w.mu.Unlock()
	rw.Header().Set("Cache-Control", "no-store")
	rw.Header().Set("Content-Type", "text/plain")
	io.WriteString(rw, "ok") // a frame without content would not load
}

// Inject is called with each request that is about to be sent: it knows both
// what was decided and whose request it is.
func (w *world) Inject(ctx context.Context, r *http.Request) error {
	q, ok := ctx.Value(w).(*action.Request)
	if !ok {
		return errors.New("nothing was decided")
	}
	if id := idOf(r.Header); id != "" {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.decided[id] = append(w.decided[id], readDecided(q.Origin, q.Path, q.Query))
	}
	return nil
}

func (w *world) Observe(*http.Response) {}

// Recognize owns every origin that a connector can be declared for, with reads
// allowed.
func (w *world) Recognize(r action.Request, body []byte) (egress.Recognized, error) {
	if r.Origin == control && (r.Path == "/run" || r.Path == "/next" || r.Path == "/done" || r.Path == "/at") {
		return egress.Recognized{App: "control", Operation: "control.page", Effect: action.Read, Allowed: true, AllowLocal: true}, nil
	}
	set, err := connector.NewSet(map[string]*connector.Spec{"app": {Reads: connector.ReadsAllow, Stages: map[action.Stage]connector.Stage{
		action.Sandbox: {Origins: []connector.Origin{{Name: "main", URL: r.Origin, Local: true}}}}}})
	if err != nil {
		return egress.Recognized{}, nil
	}
	m, err := set.Recognize(action.Sandbox, r, body)
	if err != nil {
		return egress.Recognized{}, err
	}
	out := egress.Recognized{App: "app", Effect: m.Effect, Allowed: true, AllowLocal: true}
	if m.Matched {
		out.Operation = m.Operation
	}
	return out, nil
}

// watched tells Inject what was decided.
type watched struct {
	*gatetest.Kit
	w *world
}

func (g watched) Act(ctx context.Context, a action.Action, blobs []record.Blob, d gate.Dispatch) gate.Result {
	return g.Kit.Act(ctx, a, blobs, func(ctx context.Context, p gate.Permit) action.Outcome {
		return d(context.WithValue(ctx, g.w, a.Request), p)
	})
}

// door makes a real door with a real gate in front of the world. Without
// unmatched, only what the connector recognises is let through.
func (w *world) door(t *testing.T, unmatched bool) *egress.Proxy {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(w.ca)
	kit := gatetest.New(t, func(f gate.Facts) action.Decision {
		if f.Action.Operation == "egress.malformed" || f.Action.Operation == connector.Unmatched && !unmatched {
			return action.Denied(action.LayerGrant, "not_granted", "nothing allows it", "none")
		}
		return gatetest.AllowAll(f)
	})
	p, err := egress.New(egress.Config{Tenant: gatetest.Tenant, Task: gatetest.Task, Agent: gatetest.Agent, Source: "browser", Stage: action.Sandbox,
		Gate: watched{kit, w}, Connectors: w, Credentials: w, Dialer: w, RootsFor: func(string) *x509.CertPool { return roots }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}
