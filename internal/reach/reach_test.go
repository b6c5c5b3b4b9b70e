package reach_test

import (
	"net/netip"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/reach"
)

// TestAddresses: where an allowed origin may not be.
//
// Threats: B1, B2, B3, T37 (door)
func TestAddresses(t *testing.T) {
	for _, a := range []string{"0.0.0.0", "0.1.2.3", "169.254.169.254", "224.0.0.1", "255.255.255.255", "240.0.0.1", "::", "fe80::1", "ff02::1",
		"::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::1", "2001:0:1::1", "::7f00:1",
		"fd00:ec2::254", "100.100.100.200", "168.63.129.16"} {
		for _, local := range []bool{false, true} {
			if reach.Permitted(netip.MustParseAddr(a), local) {
				t.Errorf("%s is permitted (local %v)", a, local)
			}
		}
	}
	for _, a := range []string{"127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "100.64.0.1", "fd00::1"} {
		if reach.Permitted(netip.MustParseAddr(a), false) || !reach.Permitted(netip.MustParseAddr(a), true) {
			t.Errorf("%s: a local address needs permission", a)
		}
	}
	for _, a := range []string{"192.0.2.1", "2001:db8::1", "64:ff9b::c000:201", "2002:c000:201::1"} {
		if !reach.Permitted(netip.MustParseAddr(a), false) {
			t.Errorf("%s is refused", a)
		}
	}
}
