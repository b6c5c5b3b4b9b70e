package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func secretCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "secret", Short: "Store secrets for the boundary; nobody reads them back",
		Example: "  sallyport secret put iam-helpdesk --as sven < password.txt"}
	var exact bool
	put := &cobra.Command{
		Use: "put NAME", Short: "Seal what standard input gives",
		Long:    "Reads the secret from standard input, or asks on a terminal. One line end at its end is left out, unless --exact is given.",
		Example: "  sallyport secret put iam-helpdesk --as sven < password.txt",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := e.secretValue(args[0])
			if err != nil {
				return err
			}
			defer clear(value)
			if !exact {
				value = bytes.TrimSuffix(bytes.TrimSuffix(value, []byte("\n")), []byte("\r"))
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			if err := c.PutSecret(cmd.Context(), args[0], value); err != nil {
				return err
			}
			return e.print(map[string]string{"name": args[0]}, func(w io.Writer) { fmt.Fprintf(w, "secret %s is stored\n", args[0]) })
		},
	}
	put.Flags().BoolVar(&exact, "exact", false, "keep a line end at the end")
	cmd.AddCommand(put, rewrapCommand(e), keysCommand(e))
	cmd.AddCommand(&cobra.Command{Use: "list", Short: "List the names of the stored secrets", Example: "  sallyport secret list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			all, err := c.Secrets(cmd.Context())
			if err != nil {
				return err
			}
			return e.print(all, func(w io.Writer) {
				var rows [][]string
				for _, s := range all {
					rows = append(rows, []string{s.Name, s.Author, at(s.Stored)})
				}
				table(w, []string{"NAME", "BY", "STORED"}, rows)
			})
		}})
	return cmd
}

// maxSecret is one byte more than a server takes, so that it says so.
const maxSecret = 64<<10 + 1

func (e *env) secretValue(name string) ([]byte, error) {
	if !terminal(e.in) {
		return io.ReadAll(io.LimitReader(e.in, maxSecret))
	}
	fmt.Fprintf(e.err, "Secret %s (not shown): ", name)
	b, err := term.ReadPassword(int(e.in.(*os.File).Fd()))
	fmt.Fprintln(e.err)
	return b, err
}
