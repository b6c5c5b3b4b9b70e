package server

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/reach"
)

// routes leads addresses of a suite's fixture to another copy of it: both are
// host:port on the loopback. Names, certificates and everything that is decided
// or measured stay as they are.
type routes map[string]string

// nothingElse, as an address that leads nowhere, makes every address that no route
// leads on one that is not reached.
const nothingElse = "*"

func (r routes) of(addr string) (string, error) {
	if to := r[addr]; to != "" {
		return to, nil
	}
	if _, strict := r[nothingElse]; strict {
		return "", fmt.Errorf("%s is no part of the fixture, and nothing else is reached", addr)
	}
	return addr, nil
}

// dial reaches names under .localhost on the loopback, as RFC 6761 section 6.3
// asks; everything else goes to the system's resolver.
func (r routes) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		addr = net.JoinHostPort("127.0.0.1", port)
	}
	if addr, err = r.of(addr); err != nil {
		return nil, err
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// Resolve and Dial make it the egress door's way to the network.
func (r routes) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	// The dot keeps search domains out.
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host+".")
}

func (r routes) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	to, err := r.of(addr.String())
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", to)
}

// dialLocal is the way of everything that is no trial of a suite.
var dialLocal = routes(nil).dial

// checked is a way to a declared origin that connects to permitted addresses alone.
type checked struct {
	routes routes
	local  bool
}

func (c checked) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, err
	}
	addrs, err := c.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	// One bad address refuses all, as at the effect door.
	for _, a := range addrs {
		if !reach.Permitted(a, c.local) {
			return nil, fmt.Errorf("%s is at an address that is not allowed for it", host)
		}
	}
	var errs error = fmt.Errorf("%s has no address", host)
	for _, a := range addrs {
		conn, err := c.routes.Dial(ctx, netip.AddrPortFrom(a, uint16(port)))
		if err == nil {
			return conn, nil
		}
		errs = err
	}
	return nil, errs
}

func (c checked) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") { // RFC 6761 section 6.3
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil
	}
	return c.routes.Resolve(ctx, host)
}

// add takes what a fixture answers: from and to are on the loopback, or it is
// nothing of this machine's.
func (r routes) add(from, to string) error {
	for _, a := range []string{from, to} {
		ap, err := netip.ParseAddrPort(a)
		if err != nil || !ap.Addr().IsLoopback() {
			return problem(Refused, "bad_fixture", "the suite's fixture names "+strconv.Quote(a)+", which is no address on the loopback", "see: sallyport estate --help")
		}
	}
	r[from] = to
	return nil
}
