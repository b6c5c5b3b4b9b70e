package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/certify"
)

func certifyCommand(e *env) *cobra.Command {
	var suite, stage string
	var history bool
	cmd := &cobra.Command{
		Use:   "certify AGENT [--suite S]",
		Short: "Run a suite against an agent, or show its certifications",
		Long: `Runs the agent's real harness inside the real boundary in the sandbox, scenario by
scenario, and reads from the ledger what happened. If everything passed, people
are asked to approve the certification.`,
		Example: "  sallyport certify helpdesk --suite helpdesk-core --as mara\n  sallyport certify helpdesk --history",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if stage != string(action.Production) {
				return usage("--stage %q: only production asks for a certification", stage)
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			if history {
				all, err := c.Certifications(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return e.print(all, func(w io.Writer) { certifications(w, all) })
			}
			cert, err := c.Certify(cmd.Context(), args[0], suite, func(s string) {
				fmt.Fprintln(e.err, plain(s))
			})
			if err != nil {
				return err
			}
			if err := e.print(cert, func(w io.Writer) { certification(w, cert) }); err != nil {
				return err
			}
			if cert.State == certify.Failed {
				return &exit{code: exitRefused}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&suite, "suite", "", "suite; not needed where the agent has one")
	f.StringVar(&stage, "stage", string(action.Production), "the stage that it is for")
	f.BoolVar(&history, "history", false, "show what was certified, and what became of it")
	return cmd
}

func certifications(w io.Writer, all []certify.Certification) {
	if len(all) == 0 {
		fmt.Fprintln(w, "there is no certification")
		return
	}
	var rows [][]string
	for _, c := range all {
		state := string(c.State)
		if c.Lapse != nil {
			state += ": " + c.Lapse.Code
		}
		rows = append(rows, []string{c.ID, c.Agent, state, c.Suite, c.Author, at(c.Ran), at(c.Expires), short(string(c.Boundary))})
	}
	table(w, []string{"CERTIFICATION", "AGENT", "STATE", "SUITE", "AUTHOR", "RAN", "EXPIRES", "BOUNDARY"}, rows)
}

func certification(w io.Writer, c certify.Certification) {
	var rows [][]string
	for _, s := range c.Scenarios {
		rows = append(rows, []string{s.Name, fmt.Sprintf("%d/%d", s.Passed, s.Trials), s.Lower + " to " + s.Upper, strings.Join(s.Failures, " | ")})
	}
	table(w, []string{"SCENARIO", "PASSED", "95 % INTERVAL", "FAILURES"}, rows)
	fmt.Fprintln(w)
	model := ""
	if c.Scripted {
		model = "scripted: this says nothing about a real model"
	}
	pairs(w, "certification", c.ID, "agent", c.Agent, "suite", c.Suite, "state", string(c.State), "boundary", string(c.Boundary), "expires", at(c.Expires),
		"model", model, "shortfall", strings.Join(c.Shortfall, " | "))
	if c.State == certify.Proposed {
		fmt.Fprintln(w, "\nnext: it waits for approval: sallyport approvals")
	}
}

// short is the first part of a digest, for tables.
func short(d string) string {
	if len(d) > 19 {
		return d[:19]
	}
	return d
}
