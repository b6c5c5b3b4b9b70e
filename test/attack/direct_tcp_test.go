package attack

import "testing"

// A hijacked harness connects to the applications past the proxy. It has a
// network namespace with a loopback and nothing else, so there is no door to
// record it: the address does not exist for it.
func TestDirectTCP(t *testing.T) { breakout(t).blocked("direct-tcp", "connection refused") }
