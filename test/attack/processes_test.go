package attack

import "testing"

// A hijacked harness looks for other processes and their environments. Its
// process namespace holds its own family and nothing else.
func TestProcesses(t *testing.T) { breakout(t).blocked("processes", "no foreign one can be read") }
