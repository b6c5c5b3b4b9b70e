package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/api/client"
)

// takeOverCommands are below task.
func takeOverCommands(e *env) []*cobra.Command {
	return []*cobra.Command{taskTake(e), taskScreen(e), taskAct(e), taskGiveBack(e)}
}

func taskTake(e *env) *cobra.Command {
	var reason string
	var d time.Duration
	cmd := &cobra.Command{
		Use: "take ID --reason WHY", Short: "Take a running session over: the agent waits and sees nothing",
		Long: `Takes a running session out of its agent's hand, as the agent's owner or deputy or
an operator. Until it is given back the agent's inputs, pictures and own requests are
refused; the page and the model go on. What you do passes the same policy, is held for
the same people (never for you), and is recorded as yours.`,
		Example: `  sallyport task take t-01k... --as mara --reason "signs in with a code from the phone"`, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return usage("--reason is needed")
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			o, err := c.Take(cmd.Context(), args[0], reason, d)
			if err != nil {
				return err
			}
			return e.print(o, func(w io.Writer) {
				fmt.Fprintf(w, "%s has the session until %s\nnext: sallyport task screen %s -f screen.png\n", plain(o.Person), at(o.Until), o.Task)
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why")
	cmd.Flags().DurationVar(&d, "for", 15*time.Minute, "when it goes back by itself; at most an hour")
	return cmd
}

func taskScreen(e *env) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "screen ID -f FILE", Short: "Save the screen of a session that you have taken over",
		Example: "  sallyport task screen t-01k... -f screen.png", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usage("-f is needed: the file that the picture goes to")
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			b, err := c.Screen(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := os.WriteFile(file, b, 0o600); err != nil {
				return err
			}
			return e.print(map[string]any{"file": file, "bytes": len(b)}, func(w io.Writer) { fmt.Fprintf(w, "%s: %d bytes\n", file, len(b)) })
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "where to, as PNG")
	return cmd
}

func taskAct(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "act ID ACTION", Short: "Click, type or scroll in a session that you have taken over",
		Long: `Does one action of the computer surface's neutral form, or several as
{"actions": [...]}. It is decided, held and recorded like the agent's, as yours.`,
		Example: `  sallyport task act t-01k... '{"type":"left_click","x":640,"y":400}'
  sallyport task act t-01k... '{"type":"type","text":"hello"}'`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var doc map[string]json.RawMessage
			if err := json.Unmarshal([]byte(args[1]), &doc); err != nil {
				return usage("ACTION is not a JSON object: %v", err)
			}
			body := args[1]
			if doc["actions"] == nil {
				body = `{"actions":[` + body + `]}`
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			all, err := c.Act(cmd.Context(), args[0], []byte(body))
			if err != nil {
				return err
			}
			if err := e.print(all, func(w io.Writer) { actResults(w, all) }); err != nil {
				return err
			}
			for _, r := range all {
				if r.Status != "done" {
					return &exit{exitRefused, errors.New("not everything was done")}
				}
			}
			return nil
		},
	}
}

func actResults(w io.Writer, all []client.ActResult) {
	for _, r := range all {
		fmt.Fprintf(w, "%s: %s", plain(r.Type), r.Status)
		if r.Code != "" {
			fmt.Fprintf(w, ": %s (%s): %s\n  next: %s", r.Code, r.Layer, plain(r.Message), r.Next)
		}
		if r.Image != nil {
			fmt.Fprintf(w, ", %s of %d bytes: take it with task screen, or -o json", r.Image.MediaType, len(r.Image.Data))
		}
		fmt.Fprintln(w)
	}
}

func taskGiveBack(e *env) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "give-back ID", Short: "Give a session back to its agent",
		Example: "  sallyport task give-back t-01k... --as mara", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			o, err := c.GiveBack(cmd.Context(), args[0], reason)
			if err != nil {
				return err
			}
			return e.print(o, func(w io.Writer) {
				fmt.Fprintf(w, "the agent has the session; %s had it since %s\n", plain(o.Person), at(o.Since))
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, if there is something to say")
	return cmd
}
