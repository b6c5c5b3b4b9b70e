package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/server"
)

// cycloneDX is a form of output of one command, which says so in its annotations.
const cycloneDX = "cyclonedx"

func getBoundary(e *env) *cobra.Command {
	var against string
	cmd := &cobra.Command{
		Use:   "boundary AGENT",
		Short: "Show everything that makes an agent behave as it does",
		Long: `Lists the facts of an agent's boundary: what is declared today, with what the last
certification run and the last launch for production measured, how well each is
known, and who may change it now. With --against it shows instead how that differs
from a certification; the exit status is 1 if it does. With -o cyclonedx it
is a bill of materials (CycloneDX 1.7, JSON).`,
		Example: "  sallyport get boundary helpdesk --against live\n  sallyport get boundary helpdesk -o cyclonedx > helpdesk.cdx.json",
		Args:    cobra.ExactArgs(1), Annotations: map[string]string{cycloneDX: ""},
		RunE: func(cmd *cobra.Command, args []string) error {
			if e.output == cycloneDX && against != "" {
				return usage("--against is not for -o %s: a bill of materials is of one boundary", cycloneDX)
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			b, err := c.Boundary(cmd.Context(), args[0], against)
			if err != nil {
				return err
			}
			if e.output == cycloneDX {
				out, err := b.CycloneDX(time.Now())
				if err == nil {
					_, err = fmt.Fprintf(e.out, "%s\n", out)
				}
				return err
			}
			if err := e.print(b, func(w io.Writer) { showBoundary(w, b) }); err != nil {
				return err
			}
			if b.Against != nil && len(b.Against.Changes) > 0 {
				return &exit{code: exitRefused}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&against, "against", "", "show how it differs from this certification; live is the one in force")
	return cmd
}

func showBoundary(w io.Writer, b *server.Boundary) {
	var rows [][]string
	if x := b.Against; x != nil {
		if len(x.Changes) == 0 {
			fmt.Fprintf(w, "the boundary of %s is the one that was certified as %s (%s)\n", plain(b.Agent), plain(x.Certification), plain(string(x.State)))
			return
		}
		for _, c := range x.Changes {
			rows = append(rows, []string{c.Name, c.Old, c.New})
		}
		table(w, []string{"FACT", "CERTIFIED", "NOW"}, rows)
		fmt.Fprintf(w, "\nthe boundary of %s is not the one that was certified as %s (%s)\n", plain(b.Agent), plain(x.Certification), plain(string(x.State)))
		return
	}
	for _, f := range b.Facts {
		measured := "never"
		if f.Grade != "declared" {
			measured = at(f.Measured)
		}
		who := strings.Join(b.Holders[f.Owner], ", ")
		if who == "" {
			who = "nobody"
		}
		rows = append(rows, []string{f.Name, f.Value, string(f.Grade), f.Source, measured, f.Owner + ": " + who})
	}
	table(w, []string{"FACT", "VALUE", "GRADE", "SOURCE", "MEASURED", "MAY CHANGE IT"}, rows)
	fmt.Fprintln(w)
	pairs(w, "agent", b.Agent, "boundary", string(b.Boundary), "declared", string(b.Declared), "certified by", dash(b.Live), "tier", b.Tier+": "+b.TierWhy)
	for _, c := range b.Graded {
		fmt.Fprintf(w, "drifted, and what is privileged is held for people: %s\n", plain(c.String()))
	}
	for _, c := range b.Otherwise {
		fmt.Fprintf(w, "measured otherwise: %s\n", plain(c.String()))
	}
}
