package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/contain"
	"github.com/sallyport-dev/sallyport/internal/estate/agent"
)

// Program is the body of a harness: it runs inside the boundary, with the
// arguments that Harness was given.
type Program func(ctx context.Context, args []string) error

// Main is the body of a TestMain. The test binary is the server of the test and
// also every harness that the server starts: the sample agent, under the same
// arguments as in the product, or one of programs. atEnd runs after the tests.
func Main(m *testing.M, programs map[string]Program, atEnd ...func() error) {
	contain.Main()
	if len(os.Args) < 2 || strings.HasPrefix(os.Args[1], "-") {
		os.Exit(tests(m, atEnd))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case os.Args[1] == "sample-agent" && len(os.Args) == 2:
		o := agent.Options{Goal: agent.Goal(os.Getenv)}
		if err = drifted(ctx, &o); err == nil {
			err = agent.Run(ctx, o)
		}
	case os.Args[1] == "attempts" && len(os.Args) == 4:
		o := agent.Options{Attacks: strings.Split(os.Args[2], ",")}
		if err = json.Unmarshal([]byte(os.Args[3]), &o.Targets); err == nil {
			err = agent.Run(ctx, o)
		}
	case os.Args[1] == "program" && len(os.Args) > 2 && programs[os.Args[2]] != nil:
		err = programs[os.Args[2]](ctx, os.Args[3:])
	default:
		err = fmt.Errorf("no such program: %q", os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func tests(m *testing.M, atEnd []func() error) int {
	code := m.Run()
	for _, f := range atEnd {
		if err := f(); err != nil {
			fmt.Fprintln(os.Stderr, "at the end:", err)
			code = 1
		}
	}
	return code
}
