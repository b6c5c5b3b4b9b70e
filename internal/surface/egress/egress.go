package egress

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// DefaultMaxBody is the largest request body in bytes unless Config says less or more.
const DefaultMaxBody = 8 << 20

const (
	headTimeout  = 20 * time.Second // a request head, a TLS handshake, the first byte in a tunnel
	bodyTimeout  = 60 * time.Second // a request body
	idleTimeout  = 2 * time.Minute  // a client connection between requests
	maxConns     = 512              // client connections of one session
	maxInflight  = 256              // requests being read, held or answered
	maxStreams   = 128              // HTTP/2 streams of one connection
	closeTimeout = 10 * time.Second // for Close to see every request end
)

// Gate is the one door.
type Gate interface {
	Act(context.Context, action.Action, []record.Blob, gate.Dispatch) gate.Result
}

// Recognizer says what a request means. It must not block on the network and is
// called concurrently. An error denies the request as malformed.
type Recognizer interface {
	Recognize(r action.Request, body []byte) (Recognized, error)
}

// Recognized is the meaning of one request. The zero value is a request to an
// origin that no connector owns.
type Recognized struct {
	App       string // connector's name
	Operation string // empty: the connector declares no such operation
	Effect    action.Effect
	Params    map[string]string
	Labels    []string
	// Allowed: a connector of this stage owns the origin. Without it nothing is
	// sent, even if the gate allows.
	Allowed bool
	// AllowLocal: the origin may be at a loopback or private address.
	AllowLocal bool
	// OwnCredentials: the client's own Cookie and Authorization are sent and
	// Set-Cookie reaches it. By default the origin is brokered.
	OwnCredentials bool
	// WebSocket: the operation is declared for a WebSocket handshake.
	WebSocket bool
	// Override is the value of a method field ("_method") that the operation was
	// recognised with. Any other such field is refused.
	Override string
	// Secrets are the places of the body where secrets are put in, in its order.
	Secrets []Slot
	// Takes are the credentials that the request may be sent with.
	Takes []Take
	// ReadBack, if any, is asked after the request was answered.
	ReadBack *ReadBack
}

// ReadBack asks the application whether a write took: a GET on the same origin,
// with the same credentials, as part of the same action.
type ReadBack struct {
	Path, Query string
	// Before, if any, is given the answer of the same GET immediately before the
	// request is sent; status is 0 if there was none. A crash between the two
	// leaves a decision without an outcome, as everywhere.
	Before func(status int, body []byte)
	// Verify returns "verified", "failed" or "unknown".
	Verify func(status int, body []byte) string
}

// Injector holds the credentials of this session. It is called concurrently.
type Injector interface {
	// Inject adds credentials for exactly r's scheme, host and port. It may
	// change header fields and the body, nothing else. An error stops the request
	// before anything is sent; its text is not shown.
	Inject(ctx context.Context, r *http.Request) error
	// Observe sees each response of a brokered origin before anybody else and
	// keeps its cookies. It must not read the body.
	Observe(r *http.Response)
}

// Explainer finds the permitted input that explains a request, or "". For one
// that changes something it also says what the input was on, and what of its
// record shows that. It may wait a moment for the browser's word.
type Explainer interface {
	Explain(ctx context.Context, r action.Request, changes bool, at time.Time) (actionID string, on *action.Element, shown []action.Evidence)
}

// Redactor knows what must not reach the client.
type Redactor interface{ Secrets() []Secret }

// Secret is a value that prints as a label.
type Secret string

// Format prints the label, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, "[secret]") }

// MarshalText gives the label.
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// Dialer reaches the network. It is never asked for a name that no connector
// owns, and never for an address that was not checked.
type Dialer interface {
	Resolve(ctx context.Context, host string) ([]netip.Addr, error)
	Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
}

// Config is what one session's proxy needs. Gate and Connectors are required.
type Config struct {
	Tenant, Task, Agent string
	Source              string // "browser" or "harness"
	Stage               action.Stage

	Gate        Gate
	Connectors  Recognizer
	Credentials Injector  // nil: none are added
	Secrets     Secrets   // nil: none are put into bodies and headers
	Inputs      Explainer // nil: nothing is explained
	Redactor    Redactor  // nil: nothing is known to be secret
	Dialer      Dialer    // nil: the system's resolver and network
	// RootsFor gives the certificate authorities of an origin. A nil function or
	// pool means the system's.
	RootsFor func(origin string) *x509.CertPool
	MaxBody  int64 // bytes; 0 is DefaultMaxBody
	// MaxAnswer and MaxTotal bound one answer and all of them, in bytes; 0 is
	// the default.
	MaxAnswer, MaxTotal int64
	Keys                *Keys // nil: the proxy makes its own
}

// Proxy is the egress door of one session. It shares no pool, cache or key with
// another one.
type Proxy struct {
	cfg       Config
	authority *authority
	server    *http.Server // for everything, on connections that were sorted first
	sorted    *queue
	tls       *tls.Config
	scrub     scrubCache
	ups       upstreams
	redirects redirects
	answers   allowance
	inflight  chan struct{}

	ctx    context.Context // done when closed
	cancel context.CancelFunc

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	conns     map[net.Conn]struct{} // client connections, tunnels and upgrades included
	closed    bool
	running   sync.WaitGroup // goroutines of connections and requests
}

// New makes a proxy with keys of its own. It does not touch the network.
func New(cfg Config) (*Proxy, error) {
	if cfg.Gate == nil || cfg.Connectors == nil {
		return nil, errors.New("egress: gate and connectors are required")
	}
	if cfg.Source != "browser" && cfg.Source != "harness" {
		return nil, fmt.Errorf("egress: source %q: want browser or harness", cfg.Source)
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = DefaultMaxBody
	}
	cfg.MaxAnswer, cfg.MaxTotal = cmp.Or(cfg.MaxAnswer, DefaultMaxAnswer), cmp.Or(cfg.MaxTotal, DefaultMaxTotal)
	if cfg.Dialer == nil {
		cfg.Dialer = systemDialer{}
	}
	if cfg.Keys == nil {
		var err error
		if cfg.Keys, err = NewKeys(); err != nil {
			return nil, err
		}
	}
	if cfg.Keys.used.Swap(true) {
		return nil, errors.New("egress: the keys are another session's")
	}
	p := &Proxy{cfg: cfg, authority: cfg.Keys.a, inflight: make(chan struct{}, maxInflight),
		listeners: map[net.Listener]struct{}{}, conns: map[net.Conn]struct{}{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.answers.left.Store(cfg.MaxTotal)
	p.ups.init(p)
	p.sorted = newQueue()
	p.tls = &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: p.checkSNI, GetCertificate: p.leaf,
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	p.server = &http.Server{
		Handler: http.HandlerFunc(p.serveHTTP), Protocols: &protocols,
		ReadHeaderTimeout: headTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHead,
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: maxStreams, SendPingTimeout: idleTimeout, PingTimeout: headTimeout},
		BaseContext: func(net.Listener) context.Context { return p.ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		ConnState: func(c net.Conn, s http.ConnState) {
			if w, ok := c.(*wire); ok && s == http.StateIdle {
				w.open.Add(-1)
			}
		},
		ErrorLog: log.New(io.Discard, "", 0), // what clients do wrong is recorded, not logged
	}
	p.running.Go(func() { p.server.Serve(p.sorted) })
	return p, nil
}

type connKey struct{}

// SPKI is the base64 SHA-256 of the one leaf key, for Chromium's
// --ignore-certificate-errors-spki-list.
func (p *Proxy) SPKI() string { return p.authority.spki }

// CAPEM is the session's certificate authority, for SSL_CERT_FILE.
func (p *Proxy) CAPEM() []byte { return p.authority.pem() }

// Serve accepts clients from l until l or the proxy is closed. It returns nil
// after Close.
func (p *Proxy) Serve(l net.Listener) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		l.Close()
		return nil
	}
	p.listeners[l] = struct{}{}
	p.running.Add(1)
	p.mu.Unlock()
	defer p.running.Done()
	for {
		c, err := l.Accept()
		if err != nil {
			if p.ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("egress: accept: %w", err)
		}
		if !p.track(c) {
			c.Close()
			continue
		}
		tc := &tracked{Conn: c, p: p}
		p.sorted.put(&wire{Conn: tc, forward: true, refuse: p.refuseWire})
	}
}

// Close cuts every client and upstream connection, cancels what is held or in
// flight, and returns when nothing of the session runs any more.
func (p *Proxy) Close() error {
	p.cancel() // first: Serve must know why its listener is gone
	p.mu.Lock()
	p.closed = true
	for l := range p.listeners {
		l.Close()
	}
	conns := make([]net.Conn, 0, len(p.conns))
	for c := range p.conns {
		conns = append(conns, c)
	}
	p.mu.Unlock()
	p.ups.close()
	for _, c := range conns {
		c.Close()
	}
	p.sorted.Close()
	p.server.Close()
	done := make(chan struct{})
	go func() { p.running.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-time.After(closeTimeout):
		return errors.New("egress: a request did not end in time")
	}
}

// track registers a client connection; false means that it must be closed.
func (p *Proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.conns) >= maxConns {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

// begin counts work that Close waits for. False means that the proxy is closed.
func (p *Proxy) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.running.Add(1)
	}
	return !p.closed
}

// tracked is a client connection that is forgotten when it is closed.
type tracked struct {
	net.Conn
	p *Proxy
}

func (t *tracked) Close() error {
	t.p.mu.Lock()
	delete(t.p.conns, t.Conn)
	t.p.mu.Unlock()
	return t.Conn.Close()
}

// queue is the listener through which sorted connections reach the server.
type queue struct {
	c    chan net.Conn
	done chan struct{}
	once sync.Once
}

func newQueue() *queue { return &queue{c: make(chan net.Conn), done: make(chan struct{})} }

func (q *queue) put(c net.Conn) {
	select {
	case q.c <- c:
	case <-q.done:
		c.Close()
	}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.c:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error   { q.once.Do(func() { close(q.done) }); return nil }
func (q *queue) Addr() net.Addr { return &net.TCPAddr{} }
