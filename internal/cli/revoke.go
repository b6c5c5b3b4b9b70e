package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func revokeCommand(e *env) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "revoke SCOPE/NAME --reason WHY",
		Short: "The kill: end everything in a scope, now",
		Long: `Ends every task in the scope. It returns when nothing of them is dispatched any
more and their credentials are confirmed ended, or says which are not yet.

Scopes: task/ID, agent/NAME, connector/NAME, credential/NAME, tenant/NAME.`,
		Example: `  sallyport revoke agent/helpdesk --as mara --reason "acts strangely"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return usage("--reason is needed")
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			ended, err := c.Revoke(cmd.Context(), args[0], reason)
			if err != nil {
				return err
			}
			return e.print(ended, func(w io.Writer) {
				if len(ended) == 0 {
					fmt.Fprintf(w, "%s is revoked; no task was running\n", plain(args[0]))
					return
				}
				tasks(w, ended)
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; it is recorded")
	return cmd
}
