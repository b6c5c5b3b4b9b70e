package attack

import "testing"

// A hijacked harness reads the server's data folder: keys, log, evidence. The
// folder does not exist in its root.
func TestDataDir(t *testing.T) { breakout(t).blocked("data-dir", "no such file") }
