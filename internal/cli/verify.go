package cli

import (
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/receipt"
)

func verifyCommand(e *env) *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check a bundle offline, without a server",
		Long: `Checks every byte of a bundle: the records against the signed checkpoint, the
approvals against the keys of their people, the statements against the tenant's
key. With --key it also checks that the log is the one that you know; without it,
the bundle is only consistent with the key that it names.`,
		Example: "  sallyport verify bundle.sallyport --key \"$(cat log.key)\"",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return usage("%v", err)
			}
			defer f.Close()
			r, err := receipt.Verify(f, receipt.Options{Key: key})
			if err != nil {
				return &exit{code: exitRefused, err: fmt.Errorf("%s is not valid: %w", args[0], err)}
			}
			return e.print(r, func(w io.Writer) {
				fmt.Fprintf(w, "%s is valid\n", args[0])
				known := "yes, it is the one given with --key"
				if !r.Pinned {
					known = "not checked: give its verifier key with --key"
				}
				h := r.Header
				pairs(w, "tenant", h.Tenant, "log", h.Origin, "key", h.Key, "key is known", known, "complete", yesNo(h.Complete),
					"records", fmt.Sprintf("%d, %s to %s", r.Records, r.First, r.Last), "approvals", strconv.Itoa(len(r.Approvals)),
					"pictures", fmt.Sprintf("%d of %d that approvals name are in the records", r.Seen, r.Pictures),
					"statements", strconv.Itoa(len(r.Statements)), "documents", strconv.Itoa(len(r.Documents)))
			})
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "verifier key of the log, as published or kept by you (C2SP signed-note)")
	return cmd
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
