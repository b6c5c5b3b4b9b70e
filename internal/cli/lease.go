package cli

import (
	"io"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/lease"
)

func leaseCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "lease", Short: "See the credentials that tasks hold", Example: "  sallyport lease list --open"}
	var open bool
	list := &cobra.Command{
		Use: "list", Short: "List credentials and how far each is in its life",
		Long: "Lists every credential that was leased, without itself. One that is revoking is ended until its upstream is seen to refuse it; " +
			"the reason why that is not so yet stands beside it.",
		Example: "  sallyport lease list --open", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			all, err := c.Leases(cmd.Context())
			if err != nil {
				return err
			}
			if open {
				all = slices.DeleteFunc(all, func(l lease.Lease) bool { return l.State == lease.Revoked })
			}
			return e.print(all, func(w io.Writer) {
				var rows [][]string
				for _, l := range all {
					rows = append(rows, []string{l.ID, string(l.State), l.Source, l.Task, l.Agent, at(l.Since), strconv.Itoa(l.Attempts), l.Why})
				}
				table(w, []string{"ID", "STATE", "SOURCE", "TASK", "AGENT", "SINCE", "TRIED", "WHY"}, rows)
			})
		},
	}
	list.Flags().BoolVar(&open, "open", false, "only those that are not confirmed revoked")
	cmd.AddCommand(list)
	return cmd
}
