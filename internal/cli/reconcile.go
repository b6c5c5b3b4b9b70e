package cli

import (
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/server"
)

func getReconciliation(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "reconciliation",
		Short: "Show how applications' own audit logs agree with the records",
		Long: `Shows for each connector when the audit log of its application was read last, how many
events of agents' accounts were matched, each with a record of its own, and what was not;
the exit status is 1 if a finding is open, or a log could not be read.`,
		Example: "  sallyport get reconciliation", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			all, err := c.Reconciliations(cmd.Context())
			return e.reconciliation(all, err)
		},
	}
}

func reconcileCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "reconcile [CONNECTOR]",
		Short: "Read applications' own audit logs now, and hold them against the records",
		Long: `Reads the audit log of one application, or of all, as the server does by itself from time
to time. What it finds counts: the certification of an agent whose account did what nothing
on record explains is over.`,
		Example: "  sallyport reconcile iam",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			all, err := c.Reconcile(cmd.Context(), name)
			return e.reconciliation(all, err)
		},
	}
}

func (e *env) reconciliation(all []server.Reconciliation, err error) error {
	if err != nil {
		return err
	}
	if err := e.print(all, func(w io.Writer) { showReconciliation(w, all) }); err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(r server.Reconciliation) bool { return !r.Good() }) {
		return &exit{code: exitRefused}
	}
	return nil
}

func showReconciliation(w io.Writer, all []server.Reconciliation) {
	var rows [][]string
	for _, r := range all {
		if r.Log == "" {
			rows = append(rows, []string{r.Connector, "no audit log is declared", "", "", "", ""})
			continue
		}
		read := "never"
		if !r.Read.IsZero() {
			read = at(r.Read)
		}
		if r.Stale {
			read += " (too long ago)"
		}
		rows = append(rows, []string{r.Connector, read, strconv.FormatInt(r.Matched, 10), strconv.FormatInt(r.Bypass, 10), strconv.FormatInt(r.Missing, 10), strconv.Itoa(r.Open)})
	}
	table(w, []string{"CONNECTOR", "LOG READ", "MATCHED", "UNEXPLAINED", "MISSING", "OPEN"}, rows)
	for _, r := range all {
		if r.Failing != "" {
			fmt.Fprintf(w, "%s: cannot be read: %s\n", plain(r.Connector), plain(r.Failing))
		}
		for _, f := range r.Findings {
			what := f.Operation
			if what == "" {
				what = f.Name
			}
			fmt.Fprintf(w, "%s: %s, found %s: ", plain(r.Connector), plain(f.Kind), at(f.At))
			if f.Event != "" {
				fmt.Fprintf(w, "event %s, %s by %s at %s: ", plain(f.Event), plain(what), plain(f.Actor), at(f.Time))
			} else if f.Action != "" {
				fmt.Fprintf(w, "%s at %s, action %s: ", plain(what), at(f.Time), plain(f.Action))
			}
			fmt.Fprintln(w, plain(f.Why))
		}
	}
}
