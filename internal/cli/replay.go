package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/replay"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

func policyReplay(e *env) *cobra.Command {
	var files []string
	var since string
	var f replay.Filter
	cmd := &cobra.Command{
		Use:   "replay [-f FILE|DIR|-]",
		Short: "Decide the actions on record again, under resources that are not applied",
		Long: `Reads resources as apply does and has the server decide the actions on record as
if they had been applied and approved. Nothing is applied, granted or sent. Without
-f, by what is in force. Status 0: no difference; 1: differences; 2: invalid input.

A policy author may ask, and an auditor. Bodies of requests are needed only where a
connector changes, and are opened for an auditor only.`,
		Example: "  sallyport policy replay -f examples/helpdesk --as noor",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if f.Since, err = moment(since); err != nil {
				return err
			}
			var all []resource.Resource
			if len(files) > 0 {
				if all, err = e.load(files); err == nil {
					err = resource.Inline(all, e.beside)
				}
			}
			if err != nil {
				return err
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			rep, err := c.Replay(cmd.Context(), all, f)
			if err != nil {
				have, _ := c.Resources(cmd.Context(), "", "")
				return located(err, all, have)
			}
			err = e.print(rep, func(w io.Writer) { showReplay(w, rep) })
			if err == nil && len(rep.Differences) > 0 {
				err = &exit{code: exitRefused}
			}
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVarP(&files, "file", "f", nil, "file, folder or - (may be given more than once)")
	fl.StringVar(&f.Agent, "agent", "", "only decisions about this agent")
	fl.StringVar(&f.Task, "task", "", "only decisions of this task")
	fl.StringVar(&since, "since", "", "only decisions since then: 2026-11-28 or 2026-11-28T09:00:00Z")
	fl.IntVar(&f.Limit, "limit", replay.DefaultLimit, "how many decisions, the newest tasks first")
	return cmd
}

// moment reads a date (UTC) or an RFC 3339 time; "" is the zero time.
func moment(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, form := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(form, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usage("--since %q: want a date, or a time as in RFC 3339", s)
}

// examples is how many records of a group are named to people.
const examples = 3

func showReplay(w io.Writer, rep replay.Report) {
	var last replay.Change
	for _, g := range rep.Differences {
		if g.Change != last {
			fmt.Fprintf(w, "%s:\n", strings.ToUpper(string(g.Change)))
			last = g.Change
		}
		fmt.Fprintf(w, "  %s\n    was  %s\n    now  %s\n    %s\n", plain(g.Old.Operation), sideLine(g.Old, ""), sideLine(g.New, g.Old.Operation), records(g.Records))
	}
	for _, s := range rep.NotReplayed {
		fmt.Fprintf(w, "not replayed: %s: %s\n", plain(s.Why), records(s.Records))
	}
	if rep.Cut != "" {
		fmt.Fprintf(w, "cut: the %s was reached; older decisions were not looked at\n", rep.Cut)
	}
	fmt.Fprintf(w, "%d of %d decisions unchanged\n", rep.Unchanged, rep.Replayed)
}

// sideLine is one decision; its operation is said where it is another.
func sideLine(s replay.Side, than string) string {
	out := fmt.Sprintf("%s by %s, %s", s.Verdict, s.Layer, s.Code)
	if s.Approvers != "" {
		out += ", for " + s.Approvers
	}
	if len(s.Policies) > 0 {
		out += " (" + strings.Join(s.Policies, ", ") + ")"
	}
	if than != "" && s.Operation != than {
		out += ", as " + s.Operation
	}
	if s.Layer == "authority" {
		out += ": " + s.Reason
	}
	return plain(out)
}

func records(at []replay.At) string {
	var some []string
	for _, a := range at[:min(examples, len(at))] {
		some = append(some, fmt.Sprintf("record %d of task %s", a.Seq, plain(a.Task)))
	}
	out := fmt.Sprintf("%d: %s", len(at), strings.Join(some, "; "))
	if len(at) > examples {
		out += "; ..."
	}
	return out
}
