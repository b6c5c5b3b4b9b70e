package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/client"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/server"
)

// named reads KIND/NAME.
func named(arg string) (kind, name string, err error) {
	k, name, _ := strings.Cut(arg, "/")
	if kind = api.Kind(k); kind == "" || name == "" {
		return "", "", usage("%q: want KIND/NAME, with one of the kinds %s", arg, strings.Join(resource.Kinds(), ", "))
	}
	return kind, name, nil
}

func getChanges(e *env) *cobra.Command {
	var n int
	cmd := &cobra.Command{Use: "changes KIND/NAME",
		Short: "Show the versions of a resource: when, who, what, and from which commit",
		Long: `Lists the versions of a resource that were in force, the present one last. With
--version it shows how one differs from the one before it. The commit is what the
client claimed that applied it.`,
		Example: "  sallyport get changes capability/reset-mfa --version 2", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, name, err := named(args[0])
			if err != nil {
				return err
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			all, err := c.Changes(cmd.Context(), kind, name)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("version") {
				return e.difference(cmd.Context(), c, kind, name, n)
			}
			return e.print(all, func(w io.Writer) {
				var rows [][]string
				for _, x := range all {
					same := ""
					if x.SameAs > 0 {
						same = "as version " + strconv.Itoa(x.SameAs)
					}
					rows = append(rows, []string{strconv.Itoa(x.Version), at(x.Applied), x.Author, string(x.Digest), same, claimed(x.Claimed)})
				}
				table(w, []string{"VERSION", "APPLIED", "BY", "DIGEST", "SAYS THE SAME", "CLAIMED TO BE"}, rows)
			})
		}}
	cmd.Flags().IntVar(&n, "version", 0, "show how this one differs from the one before it")
	return cmd
}

// claimed is a provenance in one cell.
func claimed(p *server.Provenance) string {
	if p == nil {
		return ""
	}
	out := "commit " + p.Commit[:min(12, len(p.Commit))]
	if p.Branch != "" {
		out += " of " + p.Branch
	}
	if p.Dirty {
		out += ", with changes"
	}
	if p.Signed != "" {
		out += ", signed (" + p.Signed + ", not verified)"
	}
	return out + ", by " + p.Author
}

// difference shows a version against the one before it.
func (e *env) difference(ctx context.Context, c *client.Client, kind, name string, n int) error {
	now, err := c.Version(ctx, kind, name, n)
	var before json.RawMessage
	if err == nil && n > 1 {
		before, err = c.Version(ctx, kind, name, n-1)
	}
	if err != nil {
		return err
	}
	var texts [2][]string
	for i, raw := range []json.RawMessage{before, now} {
		if raw == nil {
			continue
		}
		b, err := yaml.JSONToYAML(raw)
		if err != nil {
			return err
		}
		texts[i] = strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	}
	v := struct {
		Before json.RawMessage `json:"before,omitempty"`
		After  json.RawMessage `json:"after"`
	}{before, now}
	return e.print(v, func(w io.Writer) {
		for _, l := range diff(texts[0], texts[1]) {
			fmt.Fprintln(w, plain(l))
		}
	})
}

// around is how many lines around a difference are shown.
const around = 3

// maxDiff bounds the table that a difference is found with, in cells.
const maxDiff = 4 << 20

// diff is what is to be taken from a ("-") and added ("+") to get b, by their longest
// common subsequence. Of texts that are too large for that all that differs between
// their common ends is shown.
func diff(a, b []string) []string {
	start := 0
	for start < len(a) && start < len(b) && a[start] == b[start] {
		start++
	}
	x, y := a[start:], b[start:]
	end := 0
	for end < len(x) && end < len(y) && x[len(x)-1-end] == y[len(y)-1-end] {
		end++
	}
	x, y = x[:len(x)-end], y[:len(y)-end]
	var out []string
	for _, l := range a[max(0, start-around):start] {
		out = append(out, "  "+l)
	}
	out = append(out, steps(x, y)...)
	for _, l := range a[len(a)-end : len(a)-end+min(end, around)] {
		out = append(out, "  "+l)
	}
	return out
}

func steps(x, y []string) (out []string) {
	w := len(y) + 1
	small := (len(x)+1)*w <= maxDiff
	var common []int32 // of x[i:] and y[j:]
	if small {
		common = make([]int32, (len(x)+1)*w)
		for i := len(x) - 1; i >= 0; i-- {
			for j := len(y) - 1; j >= 0; j-- {
				if x[i] == y[j] {
					common[i*w+j] = common[(i+1)*w+j+1] + 1
				} else {
					common[i*w+j] = max(common[(i+1)*w+j], common[i*w+j+1])
				}
			}
		}
	}
	i, j := 0, 0
	for i < len(x) || j < len(y) {
		switch {
		case small && i < len(x) && j < len(y) && x[i] == y[j]:
			out = append(out, "  "+x[i])
			i, j = i+1, j+1
		case i < len(x) && (!small || j == len(y) || common[(i+1)*w+j] >= common[i*w+j+1]):
			out = append(out, "- "+x[i])
			i++
		default:
			out = append(out, "+ "+y[j])
			j++
		}
	}
	return out
}

func rollbackCommand(e *env) *cobra.Command {
	var n int
	cmd := &cobra.Command{Use: "rollback KIND/NAME --to VERSION",
		Short: "Apply what a resource was in an earlier version",
		Long: `Applies an earlier version of a resource again: a change like any other, by whoever
makes it, with the same checks and approvals. No approval or certification comes
back with it; what it changes is certified anew. Files that are applied next replace
it, so change them too.`,
		Example: "  sallyport rollback policyset/helpdesk --to 3 --as noor", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, name, err := named(args[0])
			if err == nil && n < 1 {
				err = usage("--to is needed: a version, as in sallyport get changes %s", args[0])
			}
			if err != nil {
				return err
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			raw, err := c.Version(cmd.Context(), kind, name, n)
			if err != nil {
				return err
			}
			r, err := resource.FromCanonical(raw)
			if err != nil {
				return err
			}
			done, err := c.Apply(cmd.Context(), []resource.Resource{r})
			if err != nil {
				return err
			}
			return e.applied(done)
		}}
	cmd.Flags().IntVar(&n, "to", 0, "the version whose content is applied again")
	return cmd
}
