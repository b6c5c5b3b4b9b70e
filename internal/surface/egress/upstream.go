package egress

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/reach"
)

const (
	pinLife     = time.Minute // how long a checked resolution is used for new connections
	dialTimeout = 10 * time.Second
	maxPerHost  = 64 // upstream connections of one origin
)

// errAddress is returned for a host that resolves to an address which this
// origin may not be at. The request must be denied.
var errAddress = errors.New("address is not allowed for this origin")

// upstream is the way to one origin: addresses that were checked, and pools.
type upstream struct {
	p     *Proxy
	to    target
	plain transports

	// mu orders a new resolution against the dials that use it.
	mu      sync.Mutex
	addrs   []netip.Addr // all checked
	local   bool
	expires time.Time
	cert    *transports // with the client certificate that was used last
	certSum [sha256.Size]byte
}

// transports are pools of connections to one origin.
type transports struct {
	http *http.Transport // HTTP/1.1 and 2
	// once has HTTP/1.1 alone, which Upgrade needs, and a connection for each request: on
	// one that was used before net/http sends a GET again, also one that changes something.
	once *http.Transport
}

func (t transports) closeIdle() {
	t.http.CloseIdleConnections()
	t.once.CloseIdleConnections()
}

// upstreams are the origins reached so far: only ones of connectors, so their
// number is bounded by the connectors.
type upstreams struct {
	p     *Proxy
	mu    sync.Mutex
	m     map[string]*upstream
	conns map[net.Conn]struct{}
	shut  bool
}

func (u *upstreams) init(p *Proxy) {
	u.p, u.m, u.conns = p, map[string]*upstream{}, map[net.Conn]struct{}{}
}

// get resolves and checks the addresses of an origin before it is decided on,
// so that a name that points inside is refused at the door.
func (u *upstreams) get(ctx context.Context, to target, allowLocal bool) (*upstream, error) {
	u.mu.Lock()
	up := u.m[to.origin()]
	if up == nil {
		up = newUpstream(u.p, to)
		u.m[to.origin()] = up
	}
	u.mu.Unlock()
	return up, up.pin(ctx, allowLocal)
}

func newUpstream(p *Proxy, to target) *upstream {
	up := &upstream{p: p, to: to}
	up.plain = up.transports(nil)
	return up
}

func (up *upstream) transports(certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)) transports {
	var roots *x509.CertPool
	if up.p.cfg.RootsFor != nil {
		roots = up.p.cfg.RootsFor(up.to.origin())
	}
	transport := func(protos ...string) *http.Transport {
		t := &http.Transport{
			DialContext:         up.dial,
			TLSClientConfig:     &tls.Config{RootCAs: roots, ServerName: up.to.host, MinVersion: tls.VersionTLS12, GetClientCertificate: certificate},
			TLSHandshakeTimeout: dialTimeout, ForceAttemptHTTP2: true,
			DisableCompression: true, // else net/http asks for and undoes gzip behind our back
			MaxConnsPerHost:    maxPerHost, MaxIdleConnsPerHost: 16, IdleConnTimeout: 30 * time.Second,
			MaxResponseHeaderBytes: maxHead * 4, ExpectContinueTimeout: time.Second,
		}
		t.Protocols = new(http.Protocols)
		t.Protocols.SetHTTP1(true)
		t.Protocols.SetHTTP2(slices.Contains(protos, "h2"))
		return t
	}
	once := transport()
	once.DisableKeepAlives = true
	return transports{transport("h2"), once}
}

// pin makes sure that there are checked addresses.
func (up *upstream) pin(ctx context.Context, allowLocal bool) error {
	up.mu.Lock()
	defer up.mu.Unlock()
	if time.Now().Before(up.expires) && up.local == allowLocal {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	addrs, err := up.resolve(ctx)
	if err != nil {
		return fmt.Errorf("resolve %s: %w", up.to.host, err)
	}
	// One bad address refuses all: an answer that mixes outside and inside is
	// what a rebinding attack looks like.
	for _, a := range addrs {
		if !reach.Permitted(a, allowLocal) {
			return fmt.Errorf("%s: %w", up.to.host, errAddress)
		}
	}
	up.addrs, up.local, up.expires = addrs, allowLocal, time.Now().Add(pinLife)
	return nil
}

func (up *upstream) resolve(ctx context.Context) ([]netip.Addr, error) {
	if up.to.ip.IsValid() {
		return []netip.Addr{up.to.ip}, nil
	}
	// RFC 6761 section 6.3: never asked of the network.
	if up.to.host == "localhost" || strings.HasSuffix(up.to.host, ".localhost") {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, nil
	}
	addrs, err := up.p.cfg.Dialer.Resolve(ctx, up.to.host)
	if err == nil && len(addrs) == 0 {
		err = errors.New("no address")
	}
	return addrs, err
}

// dial connects to a checked address; the name is not looked at again.
func (up *upstream) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	up.mu.Lock()
	addrs := slices.Clone(up.addrs)
	up.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	defer context.AfterFunc(up.p.ctx, cancel)()
	var errs error = errAddress
	for _, a := range addrs {
		c, err := up.p.cfg.Dialer.Dial(ctx, netip.AddrPortFrom(a, up.to.port))
		if err == nil {
			return up.p.ups.track(c)
		}
		errs = err
	}
	return nil, errs
}

// track registers an upstream connection so that close can cut it.
func (u *upstreams) track(c net.Conn) (net.Conn, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.shut {
		c.Close()
		return nil, net.ErrClosed
	}
	u.conns[c] = struct{}{}
	return &upstreamConn{Conn: c, u: u}, nil
}

func (u *upstreams) close() {
	u.mu.Lock()
	u.shut = true
	conns := make([]net.Conn, 0, len(u.conns))
	for c := range u.conns {
		conns = append(conns, c)
	}
	ups := make([]*upstream, 0, len(u.m))
	for _, up := range u.m {
		ups = append(ups, up)
	}
	u.mu.Unlock()
	for _, up := range ups {
		up.plain.closeIdle()
		up.mu.Lock()
		if up.cert != nil {
			up.cert.closeIdle()
		}
		up.mu.Unlock()
	}
	for _, c := range conns {
		c.Close()
	}
}

type upstreamConn struct {
	net.Conn
	u *upstreams
}

func (c *upstreamConn) Close() error {
	c.u.mu.Lock()
	delete(c.u.conns, c.Conn)
	c.u.mu.Unlock()
	return c.Conn.Close()
}

// systemDialer uses the resolver and the network of this machine.
type systemDialer struct{}

func (systemDialer) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	// The dot keeps search domains out.
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host+".")
}

func (systemDialer) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr.String())
}
