package cli

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/contain"
)

func doctorCommand(e *env) *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "What this machine can contain and enforce", Example: "  sallyport doctor", Args: cobra.NoArgs,
		Long: "Tries it, here and now: starts contained processes that try to get out, and the browsers it finds. It takes some seconds.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := api.NewDoctor(contain.Doctor(cmd.Context()))
			err := e.print(d, func(w io.Writer) { doctor(w, d, verbose) })
			if d.Grade != string(contain.Contained) {
				return &exit{code: exitRefused}
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show every attempt to get out")
	return cmd
}

func doctor(w io.Writer, d api.Doctor, verbose bool) {
	var rows [][]string
	for _, c := range d.Checks {
		word := "ok"
		if !c.OK {
			word = "no"
			if c.Needed {
				word = "NO"
			}
		}
		rows = append(rows, []string{word, c.Name, c.Detail})
	}
	table(w, []string{"", "CHECK", "FOUND"}, rows)
	for _, c := range d.Checks {
		if !c.OK && c.Do != "" {
			fmt.Fprintf(w, "\n%s: %s\n", c.Name, plain(c.Do))
		}
	}
	stopped := 0
	rows = nil
	for _, a := range d.Attempts {
		word := "NOT STOPPED"
		if a.Stopped {
			word = "stopped"
			stopped++
		}
		if verbose || !a.Stopped {
			rows = append(rows, []string{word, a.Name, a.How})
		}
	}
	if len(rows) > 0 {
		fmt.Fprintln(w)
		table(w, []string{"", "ATTEMPT", "HOW"}, rows)
	}
	fmt.Fprintf(w, "\n%d of %d attempts to get out were stopped\ngrade: %s\n", stopped, len(d.Attempts), d.Grade)
}

func versionCommand(e *env) *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Example: "  sallyport version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := map[string]string{"version": "unknown", "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			if b, ok := debug.ReadBuildInfo(); ok {
				v["version"] = b.Main.Version
				for _, s := range b.Settings {
					if s.Key == "vcs.revision" {
						v["revision"] = s.Value
					}
				}
			}
			return e.print(v, func(w io.Writer) {
				pairs(w, "sallyport", v["version"], "revision", v["revision"], "go", v["go"], "platform", v["platform"])
			})
		}}
}
