package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/server"
)

func identityCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "identity", Short: "The tenant's own signing keys, and the trust domains that it federates with",
		Example: "  sallyport identity show"}
	one := func(use, short, long string, f func(*cobra.Command) (server.Identity, error)) {
		cmd.AddCommand(&cobra.Command{Use: use, Short: short, Long: long, Example: "  sallyport identity " + use, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				id, err := f(cmd)
				if err != nil {
					return err
				}
				return e.print(id, func(w io.Writer) { showIdentity(w, id) })
			}})
	}
	one("show", "Show the keys and the federations", "", func(cmd *cobra.Command) (server.Identity, error) {
		c, err := e.client()
		if err != nil {
			return server.Identity{}, err
		}
		return c.Identity(cmd.Context())
	})
	one("rotate", "Make new signing keys now, instead of at half of their life",
		`New keys are published at once and sign an hour later; the old ones stay until the
last identity by them has expired. Nobody's verification fails meanwhile.`,
		func(cmd *cobra.Command) (server.Identity, error) {
			c, err := e.client()
			if err != nil {
				return server.Identity{}, err
			}
			return c.RotateKeys(cmd.Context())
		})
	one("refresh", "Fetch the bundles of the federated trust domains now", "", func(cmd *cobra.Command) (server.Identity, error) {
		c, err := e.client()
		if err != nil {
			return server.Identity{}, err
		}
		return c.RefreshBundles(cmd.Context())
	})
	var reason string
	var breakGlass bool
	back := &cobra.Command{Use: "reinstate PERSON", Short: "Give back what a security event took from a person", Args: cobra.ExactArgs(1),
		Long: `What ended stays ended. From now on the person may open tasks, approve and sign in
again. An identity administrator does it, and nobody for themselves. When events have
locked every identity administrator, the user that the server runs as, or root, lets
one of them in with --break-glass; whoever is told of alarms hears of it.`,
		Example: "  sallyport identity reinstate dana --reason 'new phone, spoken to'",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			id, err := c.Reinstate(cmd.Context(), args[0], reason, breakGlass)
			if err != nil {
				return err
			}
			return e.print(id, func(w io.Writer) { showIdentity(w, id) })
		}}
	back.Flags().StringVar(&reason, "reason", "", "why, for the record")
	back.Flags().BoolVar(&breakGlass, "break-glass", false, "as the server's user, when every identity administrator is locked")
	cmd.AddCommand(back)
	return cmd
}

func showIdentity(w io.Writer, id server.Identity) {
	fmt.Fprintf(w, "trust domain  %s\nissuer        %s\nendpoint id   %s\n", plain(id.TrustDomain), plain(id.Issuer), plain(id.EndpointID))
	if s := id.SPIRE; s != nil {
		state := "answers"
		if s.Broken != "" {
			state = "DOES NOT ANSWER: " + s.Broken
		}
		fmt.Fprintf(w, "SVIDs are SPIRE's  %s  %s, since %s\n", plain(s.Socket), plain(state), s.Since.Format("2006-01-02 15:04:05Z"))
		for _, v := range s.SVIDs {
			fmt.Fprintf(w, "SVID %s  until %s\n", plain(v.ID), v.Expires.Format("2006-01-02 15:04:05Z"))
		}
	}
	for _, k := range id.Keys {
		where := "sealed"
		if k.External {
			where = "in a signer"
		}
		fmt.Fprintf(w, "keys %s  %s, %s, published until %s\n", plain(k.ID), plain(k.State), where, k.Until.Format("2006-01-02 15:04:05Z"))
	}
	for _, f := range id.Federations {
		state := "usable"
		if !f.Usable {
			state = "NOT USABLE"
		}
		fmt.Fprintf(w, "federates with %s  %s, %s at %s", plain(f.TrustDomain), state, plain(string(f.Profile)), plain(f.Endpoint))
		if f.Failures > 0 {
			fmt.Fprintf(w, ", failed %d times in a row", f.Failures)
		}
		fmt.Fprintln(w)
	}
	for _, b := range id.Barred {
		what := "ended"
		if b.Locked {
			what = "LOCKED"
		}
		fmt.Fprintf(w, "%s %s  since %s, by %s: %s\n", what, plain(b.Person), b.Since.Format("2006-01-02 15:04:05Z"), plain(b.Issuer), plain(b.Event))
	}
}
