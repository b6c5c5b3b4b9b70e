package attack

import "testing"

// A hijacked harness asks the server's API for somebody else's task. The API is
// not on any address of its namespace.
func TestOtherTask(t *testing.T) { breakout(t).blocked("other-task", "connection refused") }
