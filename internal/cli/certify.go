package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/client"
	"github.com/sallyport-dev/sallyport/internal/certify"
)

func certifyCommand(e *env) *cobra.Command {
	var suite, stage, file string
	var history, statement, changed bool
	cmd := &cobra.Command{
		Use:   "certify AGENT [--suite S | --changed | --history | --statement [ID]]",
		Short: "Run an agent's suites, or show its certifications",
		Long: `Runs the agent's real harness inside the real boundary in the sandbox, scenario by
scenario of each of its suites, and reads from the ledger what happened. If nothing
happened that must never happen, and the suites' rates are reached, people are asked
to approve the certification. A run that was cut goes on where it was. --suite runs
one alone: it shows what it shows, and certifies nothing if the agent has others.
--changed runs the scenarios that the changes since the last certification touch: those
of a changed capability, of one that acts in a changed connector, reads it or leases
from a changed source, and of a changed suite. Any other change touches all of them.

With --statement nothing is run: the signed statement of a certification, of the one
in force if none is named, is written as a bundle with its approvals and the proofs
that the log has it, for "sallyport verify" anywhere.`,
		Example: "  sallyport certify helpdesk --as mara\n  sallyport certify helpdesk --statement -f helpdesk.sallyport",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 1 && !statement:
				return usage("%q: the name of a certification goes with --statement", args[1])
			case file != "" && !statement:
				return usage("-f goes with --statement")
			case statement && (history || changed || suite != ""):
				return usage("--statement runs no suite and shows no history")
			case changed && (history || suite != ""):
				return usage("--changed is of all suites, and runs")
			case history && suite != "":
				return usage("--history runs no suite, and is of all")
			}
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
			if statement {
				return e.statement(cmd.Context(), c, file, args[0], args[1:])
			}
			say, done := progress(e.err)
			cert, err := c.Certify(cmd.Context(), args[0], suite, changed, say)
			done()
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
	cmd.AddCommand(newSuiteCommand(e))
	f := cmd.Flags()
	f.StringVar(&suite, "suite", "", "run this suite alone")
	f.BoolVar(&changed, "changed", false, "run only what the changes since the last certification touch, and take the rest from it")
	f.StringVar(&stage, "stage", string(action.Production), "the stage that it is for")
	f.BoolVar(&history, "history", false, "show which versions were tested, and what became of it")
	f.BoolVar(&statement, "statement", false, "write the statement of a certification, to be verified offline")
	f.StringVarP(&file, "file", "f", "", "where the statement goes; default: standard output")
	return cmd
}

// statement writes the bundle of one certification of the agent: of the one that is
// named, or of the live one.
func (e *env) statement(ctx context.Context, c *client.Client, file, agent string, id []string) error {
	all, err := c.Certifications(ctx, agent)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(x certify.Certification) bool {
		if len(id) > 0 {
			return x.ID == id[0]
		}
		return x.State == certify.Live
	})
	if i < 0 {
		return fmt.Errorf("agent %s has no such certification, or none in force; see: sallyport certify %s --history", agent, agent)
	}
	return e.export(ctx, c, file, api.Export{Certification: all[i].ID})
}

// progress shows how far a run is: on a terminal by a bar, above which what did
// not pass stays, and else line by line.
func progress(w io.Writer) (say func(string), done func()) {
	if !terminal(w) {
		return func(s string) { fmt.Fprintln(w, plain(s)) }, func() {}
	}
	const width, clear = 24, "\r\x1b[K"
	bar := ""
	return func(s string) {
		s = plain(s)
		var n, all int
		if _, err := fmt.Sscanf(s, "%d of %d", &n, &all); err == nil && 0 <= n && n <= all && all > 0 {
			bar = fit(w, "["+strings.Repeat("=", width*n/all)+strings.Repeat(" ", width-width*n/all)+"] "+s)
			if strings.HasSuffix(s, " passed") {
				fmt.Fprint(w, clear, bar)
				return
			}
		}
		fmt.Fprint(w, clear, s, "\n", bar)
	}, func() { fmt.Fprint(w, clear) }
}

// fit cuts a line so that it stays one on the terminal, as it is now.
func fit(w io.Writer, s string) string {
	f, ok := w.(*os.File)
	if !ok {
		return s
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if r := []rune(s); err == nil && width > 0 && len(r) >= width {
		return string(r[:width-1])
	}
	return s
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
		rows = append(rows, []string{c.ID, c.Agent, state, version(c, "model.id"), version(c, "browser.version"), version(c, "harness.binary"), version(c, "sallyport.binary"),
			c.SuiteNames(), at(c.Ran), at(c.Expires), short(string(c.Boundary))})
	}
	table(w, []string{"CERTIFICATION", "AGENT", "STATE", "MODEL", "BROWSER", "HARNESS", "SALLYPORT", "SUITES", "RAN", "EXPIRES", "BOUNDARY"}, rows)
}

// version is what was tested of one fact; of a digest its first eight digits.
func version(c certify.Certification, fact string) string {
	f, _ := c.Manifest.Get(fact)
	if d, ok := strings.CutPrefix(f.Value, "sha256:"); ok && len(d) > 8 {
		return d[:8]
	}
	return f.Value
}

func certification(w io.Writer, c certify.Certification) {
	for _, s := range c.Suites {
		if len(c.Suites) > 1 {
			fmt.Fprintln(w, "suite", s.Name)
		}
		suiteResult(w, s)
	}
	model := ""
	if c.Scripted {
		model = "scripted: this says nothing about a real model"
	}
	pairs(w, "certification", c.ID, "agent", c.Agent, "suites", c.SuiteNames(), "not run", strings.Join(c.Left(), ", "), "state", string(c.State), "boundary", string(c.Boundary),
		"expires", at(c.Expires), "model", model, "failed before", strings.Join(c.FailedBefore, ", "), "shortfall", strings.Join(c.Shortfall, " | "))
	switch c.State {
	case certify.Proposed:
		fmt.Fprintln(w, "\nnext: it waits for approval: sallyport approvals")
	case certify.Partial:
		fmt.Fprintf(w, "\nnext: it certifies nothing, since suites are left; run all: sallyport certify %s\n", c.Agent)
	}
}

func suiteResult(w io.Writer, s certify.Suite) {
	var rows [][]string
	for _, x := range s.Scenarios {
		failures := x.Failures
		if x.Flaky {
			failures = append([]string{"flaky"}, failures...)
		}
		if x.From != "" {
			failures = append([]string{"not run: as in " + x.From + " of " + at(x.Ran)}, failures...)
		}
		rows = append(rows, []string{x.Name, fmt.Sprintf("%d/%d", x.Passed, x.Trials), x.Lower + " to " + x.Upper, fmt.Sprintf("%.1f", float64(x.Millis)/1000), strconv.FormatInt(x.Tokens, 10),
			strings.Join(failures, " | ")})
	}
	table(w, []string{"SCENARIO", "PASSED", "95 % INTERVAL", "SECONDS", "TOKENS", "NOTES"}, rows)
	fmt.Fprintln(w)
	rows = nil
	for _, r := range s.Rates {
		rows = append(rows, []string{r.Kind, fmt.Sprintf("%d/%d", r.Passed, r.Trials), r.Lower + " to " + r.Upper, r.Required})
	}
	if r := s.FalseHolds; r != nil {
		rows = append(rows, []string{r.Kind, fmt.Sprintf("%d/%d", r.Passed, r.Trials), r.Lower + " to " + r.Upper, ""})
	}
	if len(rows) > 0 {
		table(w, []string{"TOGETHER", "TRIALS", "95 % INTERVAL", "REQUIRED"}, rows)
		fmt.Fprintln(w)
	}
	compared := ""
	if x := s.Compared; x != nil {
		compared = fmt.Sprintf("success differs by %s (%s to %s) from %s", x.Difference, x.Lower, x.Upper, x.With)
	}
	cut := ""
	if s.Cut > 0 {
		cut = fmt.Sprintf("%d trials, which were tried again", s.Cut)
	}
	if compared+s.Stopped+cut != "" {
		pairs(w, "compared", compared, "stopped", s.Stopped, "cut", cut)
		fmt.Fprintln(w)
	}
}

// short is the first part of a digest, for tables.
func short(d string) string {
	if len(d) > 19 {
		return d[:19]
	}
	return d
}
