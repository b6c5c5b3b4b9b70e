package server

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// routes leads addresses of a suite's fixture to another copy of it: both are
// host:port on the loopback. Names, certificates and everything that is decided
// or measured stay as they are.
type routes map[string]string

func (r routes) of(addr string) string {
	if to := r[addr]; to != "" {
		return to
	}
	return addr
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
	var d net.Dialer
	return d.DialContext(ctx, network, r.of(addr))
}

// Resolve and Dial make it the egress door's way to the network.
func (r routes) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	// The dot keeps search domains out.
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host+".")
}

func (r routes) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", r.of(addr.String()))
}

// dialLocal is the way of everything that is no trial of a suite.
var dialLocal = routes(nil).dial

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
