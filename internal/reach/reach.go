// Package reach says which addresses the boundary may connect to for somebody who
// declared a name, and whose certificate it believes there. It does no I/O: who dials asks it about the address that is
// really dialled, after the resolution.
package reach

import (
	"net/netip"
	"slices"
)

var (
	nat64      = []netip.Prefix{netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48")}
	sixToFour  = netip.MustParsePrefix("2002::/16")
	teredo     = netip.MustParsePrefix("2001::/32")
	compatible = netip.MustParsePrefix("::/96")
	thisNet    = netip.MustParsePrefix("0.0.0.0/8")
	reserved4  = netip.MustParsePrefix("240.0.0.0/4") // and broadcast
	shared     = netip.MustParsePrefix("100.64.0.0/10")
	// metadata services of clouds that are not link-local
	metadata = []netip.Addr{netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("168.63.129.16")}
)

// Permitted reports whether a declared origin may be at a. Loopback, private and shared
// (RFC 6598) addresses need allowLocal; link-local, multicast, unspecified,
// reserved and cloud metadata addresses are never permitted, and neither is any
// of all these inside a transition address, which would be a disguise.
func Permitted(a netip.Addr, allowLocal bool) bool {
	if !a.IsValid() || a.Zone() != "" {
		return false
	}
	if a.Is4In6() {
		a = a.Unmap()
	}
	if slices.Contains(metadata, a) || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() || a.IsInterfaceLocalMulticast() {
		return false
	}
	if a.IsLoopback() || a.IsPrivate() || shared.Contains(a) {
		return allowLocal
	}
	if a.Is4() {
		return !thisNet.Contains(a) && !reserved4.Contains(a)
	}
	b := a.As16()
	for _, n := range nat64 {
		if n.Contains(a) {
			return plainV4(b[12:16])
		}
	}
	switch {
	case sixToFour.Contains(a):
		return plainV4(b[2:6])
	case teredo.Contains(a), compatible.Contains(a):
		return false
	}
	return true
}

func plainV4(b []byte) bool {
	a, _ := netip.AddrFromSlice(b)
	return Permitted(a, false)
}
