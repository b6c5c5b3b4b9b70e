package cli

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/contain"
	"github.com/sallyport-dev/sallyport/internal/demo"
)

func demoCommand(e *env) *cobra.Command {
	var out, store string
	var headless bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Tell the whole story on the sample estate",
		Long: `Runs the boundary, a small company's applications and a scripted model on this
machine's loopback, and goes through it with the commands that people would use:
declare, approve, certify, work, attack, drift, certify again, verify. Takes two to
three minutes. What it leaves behind is in --out.`,
		Example: "  sallyport demo --out demo-out",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := contain.FindChromium("shell"); err != nil {
				return usage("%v", err)
			}
			dir, err := filepath.Abs(out)
			if err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			if self, err = filepath.EvalSymlinks(self); err != nil {
				return err
			}
			if err := demo.Run(cmd.Context(), demo.Config{Out: dir, Store: store, W: e.out, CLI: Run, Self: self}); err != nil {
				return &exit{code: exitRefused, err: err}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&out, "out", "demo-out", "folder for what the demo leaves behind")
	f.StringVar(&store, "store", "", "postgres://... instead of the embedded store")
	f.BoolVar(&headless, "headless", true, "show no window; there is no other way on the headless shell")
	return cmd
}
