package server_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/contain"
	"github.com/sallyport-dev/sallyport/internal/estate/agent"
)

// The test binary is also the harness that the server launches.
func TestMain(m *testing.M) {
	contain.Main()
	if len(os.Args) > 1 && os.Args[1] == "sample-agent" {
		o := agent.Options{Goal: fmt.Sprintf("Reset MFA for user %s, ticket %s", os.Getenv("SALLYPORT_PARAM_USER"), os.Getenv("SALLYPORT_PARAM_TICKET"))}
		if len(os.Args) > 2 {
			o.Goal, o.Attacks = "", strings.Split(os.Args[2], ",")
		}
		if err := agent.Run(context.Background(), o); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}
