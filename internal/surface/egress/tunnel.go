package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"
)

// tunnel is a client connection after CONNECT. Nothing is dialled for it: it
// ends here, and each request inside is decided by itself.
type tunnel struct {
	*wire
	to target // scheme https until the first byte says otherwise
}

// serveConnect answers CONNECT and sorts what follows by its first byte.
func (p *Proxy) serveConnect(w http.ResponseWriter, r *http.Request, outer *wire) {
	to, code := parseTarget("https", r.RequestURI)
	if code != "" {
		p.malformed(w, r, code, []byte(r.RequestURI))
		return
	}
	_, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if outer.fail != nil {
		outer.Close()
		return
	}
	outer.raw.Store(true)
	outer.SetDeadline(time.Now().Add(headTimeout))
	if _, err := outer.Write([]byte("HTTP/1.1 200 OK\r\n\r\n")); err != nil {
		outer.Close()
		return
	}
	if !p.begin() {
		outer.Close()
		return
	}
	go func() {
		defer p.running.Done()
		p.sort(&tunnel{wire: outer, to: to})
	}()
}

// sort looks at the first byte of a tunnel: TLS, HTTP/1.1, or nothing that is
// spoken here (TURN over TCP, SSH, ...).
func (p *Proxy) sort(t *tunnel) {
	var first [1]byte
	if n, err := t.Read(first[:]); n == 0 || err != nil {
		t.Close()
		return
	}
	t.in = append([]byte{first[0]}, t.in...) // read again by whoever comes next
	switch c := first[0]; {
	case c == 0x16: // TLS handshake record, RFC 8446 section 5.1
		p.terminate(t)
	case c >= 'A' && c <= 'Z':
		t.SetDeadline(time.Time{})
		plain := t.to
		plain.scheme = "http"
		// CONNECT to 443 and then plain HTTP is http://host:443, an origin of
		// its own, and normally of no connector.
		p.sorted.put(&wire{Conn: t, tunnel: plain, refuse: p.refuseWire})
	default:
		p.recordMalformed(p.ctx, "tunnel_protocol", first[:], &t.to)
		t.Close()
	}
}

func (p *Proxy) terminate(t *tunnel) {
	tc := tls.Server(t, p.tls)
	ctx, cancel := context.WithTimeout(p.ctx, headTimeout)
	defer cancel()
	if err := tc.HandshakeContext(ctx); err != nil {
		// Not an action: nothing was asked for. The browser's own services
		// refuse our certificate here.
		t.Close()
		return
	}
	t.SetDeadline(time.Time{})
	if tc.ConnectionState().NegotiatedProtocol == "h2" {
		p.sorted.put(tc)
		return
	}
	p.sorted.put(&wire{Conn: tc, tunnel: t.to, refuse: p.refuseWire})
}

var errSNI = errors.New("server name differs from the tunnel's")

// checkSNI refuses a handshake for another host than CONNECT named.
func (p *Proxy) checkSNI(h *tls.ClientHelloInfo) (*tls.Config, error) {
	t, ok := h.Conn.(*tunnel)
	if !ok {
		return nil, errSNI
	}
	want := t.to.host
	if t.to.ip.IsValid() {
		want = "" // RFC 6066 section 3: no literal addresses
	}
	if strings.ToLower(h.ServerName) == want {
		return nil, nil
	}
	code := "sni_mismatch"
	if h.ServerName == "" {
		code = "sni_missing"
	}
	p.recordMalformed(p.ctx, code, []byte(h.ServerName), &t.to)
	return nil, errSNI
}

func (p *Proxy) leaf(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	t, ok := h.Conn.(*tunnel)
	if !ok {
		return nil, errSNI
	}
	return p.authority.certificate(t.to)
}

// tunnelOf says what the connection of a request was opened for; ok is false on
// the proxy port itself.
func tunnelOf(c net.Conn) (t target, ok bool) {
	switch c := c.(type) {
	case *wire:
		return c.tunnel, !c.forward
	case *tls.Conn:
		if t, ok := c.NetConn().(*tunnel); ok {
			return t.to, true
		}
	}
	return target{}, false
}
