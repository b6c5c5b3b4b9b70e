// Command sallyport is the control boundary for computer-use agents: the server,
// its command line and the sample agent, in one binary.
package main

import (
	"os"

	"github.com/sallyport-dev/sallyport/internal/cli"
	"github.com/sallyport-dev/sallyport/internal/contain"
)

func main() {
	contain.Main()
	// The sample harness is this binary too, started again inside the boundary.
	if len(os.Args) > 1 && os.Args[1] == "sample-agent" {
		os.Exit(cli.SampleAgent(os.Args[2:]))
	}
	os.Exit(cli.Main())
}
