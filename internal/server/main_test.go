package server_test

import (
	"testing"

	"github.com/sallyport-dev/sallyport/test/rig"
)

// The test binary is also the harness that the server launches.
func TestMain(m *testing.M) { rig.Main(m, nil) }
