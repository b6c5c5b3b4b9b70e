package cli

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/api/client"
	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/readiness"
	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/internal/server"
)

func readinessCommand(e *env) *cobra.Command {
	var format string
	var probe bool
	cmd := &cobra.Command{
		Use:   "readiness AGENT",
		Short: "Decide whether an agent may act in production, as it is now",
		Long: `Checks the ten conditions of a production-ready deployment in the running system
and prints READY or NOT READY with the evidence. Unknown counts as not ready. The
exit status is 0 for READY and 1 for NOT READY. Without a server it works on what a
stopped one left in --data (and --store), which it only reads; there nothing can be probed.`,
		Example: "  sallyport readiness helpdesk --probe\n  sallyport readiness helpdesk --format html > readiness.html",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if e.output == "json" {
				format = "json"
			}
			write := map[string]func(*readiness.Report, io.Writer) error{
				"text": (*readiness.Report).Text, "json": (*readiness.Report).JSON,
				"html": (*readiness.Report).HTML, "oscal": (*readiness.Report).OSCAL}[format]
			if write == nil {
				return usage("--format %q: want text, json, html or oscal", format)
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			r, err := c.Readiness(cmd.Context(), args[0], probe)
			var gone *client.Unreachable
			if errors.As(err, &gone) && e.server == "" && !probe {
				r, err = e.stoppedReadiness(cmd.Context(), args[0], err)
			}
			if err != nil {
				return err
			}
			if err := write(r, e.out); err != nil {
				return err
			}
			if !r.Ready {
				return &exit{code: exitRefused}
			}
			return nil
		},
	}
	e.storeFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&format, "format", "text", "text, json, html or oscal")
	f.BoolVar(&probe, "probe", false, "also try to break the running system; nothing that is tried has an effect")
	return cmd
}

// stoppedReadiness decides from the folder of a stopped server. unreachable is
// returned where there is no folder either.
func (e *env) stoppedReadiness(ctx context.Context, agent string, unreachable error) (r *readiness.Report, err error) {
	if !e.keysThere() {
		return nil, unreachable
	}
	err = e.stopped(ctx, func(log *ledger.Log, root *seal.Root) error {
		r, err = server.StoppedReadiness(ctx, log, root, agent)
		return err
	})
	return r, err
}
