package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/estate/agent"
)

// SampleAgent runs the sample harness: "sallyport sample-agent [ATTEMPTS
// [TARGETS]]", with the goal from its task's parameters, or with what a hijacked
// harness tries (names with commas between, and where they aim as JSON). It is
// started inside the boundary.
func SampleAgent(args []string) int {
	o := agent.Options{}
	if len(args) > 1 {
		if err := canon.Unmarshal([]byte(args[1]), 1<<16, &o.Targets); err != nil {
			fmt.Fprintln(os.Stderr, "sample-agent:", err)
			return exitUsage
		}
	}
	if len(args) > 0 {
		o.Attacks = strings.Split(args[0], ",")
	} else {
		o.Goal = agent.Goal(os.Getenv)
	}
	if err := agent.Run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "sample-agent:", err)
		return exitRefused
	}
	return exitOK
}
