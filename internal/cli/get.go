package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

func getCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get [KIND [NAME]]",
		Short: "Read declared resources back",
		Long: "Prints what is in force, as it could be applied again. Without a kind it lists all.\n\nKinds: " +
			strings.Join(resource.Kinds(), ", ") + ", in any case, or in plural.",
		Example: "  sallyport get capability reset-mfa",
		Args:    cobra.MaximumNArgs(2),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return resource.Kinds(), cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var kind, name string
			if len(args) > 0 {
				if kind = api.Kind(args[0]); kind == "" {
					return usage("there is no kind %q: want one of %s", args[0], strings.Join(resource.Kinds(), ", "))
				}
			}
			if len(args) > 1 {
				name = args[1]
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			all, err := c.Resources(cmd.Context(), kind, name)
			if err != nil {
				return err
			}
			var v any = all
			if name != "" && len(all) == 1 {
				v = all[0]
			}
			var terr error
			err = e.print(v, func(w io.Writer) {
				if kind == "" {
					terr = names(w, all)
				} else {
					terr = documents(w, all)
				}
			})
			if err == nil {
				err = terr
			}
			return err
		},
	}
	cmd.AddCommand(getBoundary(e), getBehaviour(e), getReconciliation(e), getChanges(e), &cobra.Command{
		Use:   "separation",
		Short: "Show who could do what must not meet in one person",
		Long: `Lists who could come to powers that must not meet in one person, by which way, and who
else would have to agree; the exit status is 1 if somebody could alone.`,
		Example: "  sallyport get separation", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return e.separation(cmd.Context()) },
	}, &cobra.Command{
		Use:   "notify",
		Short: "Show who is told what happens, and what waits for them",
		Long: `Lists who is told what happens, and since when something waits for them; the exit
status is 1 if that is a day.`,
		Example: "  sallyport get notify", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return e.notify(cmd.Context()) },
	})
	return cmd
}

func (e *env) separation(ctx context.Context) error {
	c, err := e.client()
	if err != nil {
		return err
	}
	all, err := c.Separation(ctx)
	if err != nil {
		return err
	}
	alone := 0
	err = e.print(all, func(w io.Writer) {
		for _, f := range all {
			var powers []string
			for _, p := range f.Powers {
				powers = append(powers, string(p))
			}
			fmt.Fprintf(w, "%s  %s: %s\n", plain(f.Code), plain(strings.Join(f.People, " = ")), plain(strings.Join(powers, " and ")))
			for _, step := range f.Path {
				fmt.Fprintf(w, "  %s\n", plain(step))
			}
			if f.Open() {
				fmt.Fprintln(w, "  ALONE: nobody else has to agree")
			} else {
				fmt.Fprintf(w, "  needs the approval of %s\n", plain(strings.Join(f.Guard, " or ")))
			}
		}
	})
	for _, f := range all {
		if f.Open() {
			alone++
		}
	}
	if err == nil && alone > 0 {
		err = &exit{exitRefused, nil}
	}
	return err
}

func (e *env) notify(ctx context.Context) error {
	c, err := e.client()
	if err != nil {
		return err
	}
	all, err := c.Notify(ctx)
	if err != nil {
		return err
	}
	late := false
	var rows [][]string
	for _, s := range all {
		late = late || s.Late
		waits := "nothing"
		if !s.Waits.IsZero() {
			waits = "since " + s.Waits.Format(time.RFC3339)
		}
		rows = append(rows, []string{s.Target, s.URL, waits, strconv.Itoa(s.Fails), s.Why})
	}
	err = e.print(all, func(w io.Writer) { table(w, []string{"TARGET", "URL", "WAITS", "FAILED TRIES", "WHY"}, rows) })
	if err == nil && late {
		err = &exit{exitRefused, nil}
	}
	return err
}

func names(w io.Writer, all []json.RawMessage) error {
	var rows [][]string
	for _, raw := range all {
		var r struct {
			Kind     string
			Metadata resource.Metadata
		}
		if err := json.Unmarshal(raw, &r); err != nil {
			return err
		}
		rows = append(rows, []string{r.Kind, r.Metadata.Name})
	}
	table(w, []string{"KIND", "NAME"}, rows)
	return nil
}

func documents(w io.Writer, all []json.RawMessage) error {
	for i, raw := range all {
		if i > 0 {
			fmt.Fprintln(w, "---")
		}
		b, err := yaml.JSONToYAML(raw)
		if err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}
