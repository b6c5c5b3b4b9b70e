package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/watch"
)

func getBehaviour(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "behaviour AGENT",
		Short: "Show how an agent behaves in production, against what was certified",
		Long: `Shows the canaries of an agent, with their last results and when they run next, and for
each capability what production tasks did against what the trials of the certification
did, with 95 % intervals; the exit status is 1 if the behaviour changed, or a canary did not pass.`,
		Example: "  sallyport get behaviour helpdesk",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			b, err := c.Behaviour(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := e.print(b, func(w io.Writer) { showBehaviour(w, b) }); err != nil {
				return err
			}
			if !b.Good() {
				return &exit{code: exitRefused}
			}
			return nil
		},
	}
}

func canaryCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "canary AGENT SCENARIO",
		Short: "Run a canary of an agent now",
		Long: `Runs one of the canaries that an agent declares, as the server does by itself from time
to time: in production conditions, against the fixture of its suite. What comes of it counts:
the exit status is 1 if it did not pass, and the certification may be over.`,
		Example: "  sallyport canary helpdesk page-acts-by-itself",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			k, err := c.RunCanary(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			if err := e.print(k, func(w io.Writer) {
				pairs(w, "canary", k.Scenario, "result", string(k.Result), "task", k.Task, "why", k.Why)
			}); err != nil {
				return err
			}
			if k.Result != watch.Passed {
				return &exit{code: exitRefused}
			}
			return nil
		},
	}
}

func showBehaviour(w io.Writer, b *server.Behaviour) {
	if b.Certification == "" {
		fmt.Fprintf(w, "%s is not certified for production, so there is nothing to hold its behaviour against\n", plain(b.Agent))
		return
	}
	fmt.Fprintf(w, "%s, certified by %s since %s; a change of behaviour is an alarm%s\n", plain(b.Agent), plain(b.Certification), at(b.Issued),
		map[string]string{"lapse": ", and ends the certification", "hold": ", and what is privileged is held for people then"}[string(b.OnChange)])
	if b.Canary == nil {
		fmt.Fprintln(w, "\nno canaries are declared")
	} else {
		showCanaries(w, b)
	}
	if len(b.Capabilities) == 0 {
		fmt.Fprintln(w, "\nno task ended in production since then")
	}
	for _, c := range b.Capabilities {
		fmt.Fprintf(w, "\n%s: %s in production, held against %s and the tasks before each; in brackets are 95 %% intervals\n\n", plain(c.Capability), counted(c.Tasks, "task"), counted(c.Trials, "benign trial"))
		var rows [][]string
		for _, r := range c.Rates {
			rows = append(rows, []string{whatOf(r.Rate), seen(r, r.Trials, r.TrialsLower, r.TrialsUpper), seen(r, r.Tasks, r.TasksLower, r.TasksUpper), strconv.Itoa(r.Weight) + " %"})
		}
		table(w, []string{"TASKS", "TRIALS", "PRODUCTION", "TOWARDS A CHANGE"}, rows)
		if c.Changed != nil {
			fmt.Fprintf(w, "\nCHANGED %s\n", plain(c.Text))
		}
	}
}

func showCanaries(w io.Writer, b *server.Behaviour) {
	fmt.Fprintf(w, "\ncanaries of suite %s, each every %s; %d missed in a row end the certification\n\n", plain(b.Canary.Suite), span(b.Canary.Every()), b.Canary.Limit())
	var rows [][]string
	for _, c := range b.Canaries {
		result, next := string(c.Result), until(c.Next)
		if result == "" {
			result = "not yet"
		}
		if time.Now().After(c.Next) {
			next = "due"
		}
		if c.Running != "" {
			next = "runs as " + c.Running
		}
		rows = append(rows, []string{c.Scenario, result, at(c.Last), c.Task, fmt.Sprintf("%d of %d", c.Failures, c.Runs), next})
	}
	table(w, []string{"SCENARIO", "LAST RESULT", "AT", "TASK", "FAILED", "NEXT"}, rows)
	for _, c := range b.Canaries {
		if c.Why != "" {
			fmt.Fprintf(w, "%s: %s\n", plain(c.Scenario), plain(c.Why))
		}
	}
}

// span leaves out the zeros at the end of 6h0m0s.
func span(d time.Duration) string {
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return s
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func whatOf(r watch.Rate) string {
	if r.Scaled {
		return r.What + " (median)"
	}
	return r.What
}

// seen is a share or a median with its interval.
func seen(r server.RateStanding, s watch.Seen, lower, upper string) string {
	value := func(v int64) string {
		if r.Signal == "millis" {
			return (time.Duration(v) * time.Millisecond).Round(100 * time.Millisecond).String()
		}
		return strconv.FormatInt(v, 10)
	}
	switch {
	case s.Tasks == 0:
		return "none"
	case r.Scaled:
		return fmt.Sprintf("%s (%s to %s)", value(s.Median), value(s.Lower), value(s.Upper))
	}
	return fmt.Sprintf("%d of %d (%s to %s)", s.With, s.Tasks, percent(lower), percent(upper))
}

func percent(decimal string) string {
	f, err := strconv.ParseFloat(decimal, 64)
	if err != nil {
		return decimal
	}
	return strconv.FormatFloat(100*f, 'f', 0, 64) + " %"
}
