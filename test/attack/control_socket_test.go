package attack

import "testing"

// A hijacked harness calls the server's control socket as its operator would.
// The file does not exist in its root.
func TestControlSocket(t *testing.T) { breakout(t).blocked("control-socket", "no such file") }
