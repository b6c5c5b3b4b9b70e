package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/task"
)

func taskCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "task", Short: "Open, show and close tasks: one bounded run each",
		Example: "  sallyport task open --capability reset-mfa --param user=jo --param ticket=4711 --requester dana"}
	cmd.AddCommand(taskOpen(e))
	cmd.AddCommand(takeOverCommands(e)...)
	one := func(use, short string, f func(*cobra.Command, string) (task.Task, error)) {
		cmd.AddCommand(&cobra.Command{Use: use, Short: short, Example: "  sallyport task " + strings.Replace(use, "ID", "t-01k...", 1), Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				x, err := f(cmd, args[0])
				if err != nil {
					return err
				}
				return e.showTask(x)
			}})
	}
	one("show ID", "Show one task", func(cmd *cobra.Command, id string) (task.Task, error) {
		c, err := e.client()
		if err != nil {
			return task.Task{}, err
		}
		x, err := c.Task(cmd.Context(), id)
		if o, oerr := c.TakenOver(cmd.Context(), id); err == nil && oerr == nil && e.output == "text" {
			fmt.Fprintf(e.out, "taken over by %s until %s: %s\n", plain(o.Person), at(o.Until), plain(o.Reason))
		}
		return x, err
	})
	one("close ID", "End a task: its credentials, session and identity with it", func(cmd *cobra.Command, id string) (task.Task, error) {
		c, err := e.client()
		if err != nil {
			return task.Task{}, err
		}
		return c.CloseTask(cmd.Context(), id)
	})
	cmd.AddCommand(&cobra.Command{Use: "list", Short: "List tasks", Example: "  sallyport task list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			all, err := c.Tasks(cmd.Context())
			if err != nil {
				return err
			}
			return e.print(all, func(w io.Writer) { tasks(w, all) })
		}})
	return cmd
}

func taskOpen(e *env) *cobra.Command {
	var in server.Intent
	var params []string
	var requester, stage string
	cmd := &cobra.Command{
		Use:   "open --capability C [--param NAME=VALUE]...",
		Short: "Declare an intent: a capability with its parameters filled in",
		Long: `Opens a task. Nothing runs yet: start an agent's harness for it with "sallyport run",
or let the agent that waits for it begin.`,
		Example: "  sallyport task open --capability reset-mfa --param user=jo --param ticket=4711 --requester dana",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if in.Capability == "" {
				return usage("--capability is needed")
			}
			in.Stage, in.Params = action.Stage(stage), map[string]string{}
			if _, err := action.ParseTaskStage(stage); err != nil {
				return usage("--stage: %v", err)
			}
			for _, p := range params {
				k, v, ok := strings.Cut(p, "=")
				if _, dup := in.Params[k]; !ok || k == "" || dup {
					return usage("--param %q: want NAME=VALUE, each name once", p)
				}
				in.Params[k] = v
			}
			if requester != "" {
				if e.person != "" && e.person != requester {
					return usage("--requester and --as name two people")
				}
				e.person = requester
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			x, err := c.OpenTask(cmd.Context(), in)
			if err != nil {
				return err
			}
			return e.showTask(x)
		},
	}
	f := cmd.Flags()
	f.StringVar(&in.Capability, "capability", "", "what the task may do")
	f.StringArrayVar(&params, "param", nil, "NAME=VALUE, for each parameter of the capability")
	f.StringVar(&requester, "requester", "", "who asks; the same as --as")
	f.StringVar(&in.Agent, "agent", "", "agent; not needed where one has the capability")
	f.StringVar(&in.Parent, "parent", "", "running task of which it is a part: it can do no more than that one, and ends with it")
	f.StringVar(&stage, "stage", string(action.Production), "sandbox, shadow (production's conditions, and nothing takes effect) or production")
	return cmd
}

func (e *env) showTask(x task.Task) error {
	return e.print(x, func(w io.Writer) {
		pairs(w, "task", x.ID, "state", string(x.State), "agent", x.Agent, "capability", x.Capability, "parameters", paramsOf(x.Params),
			"stage", string(x.Stage), "tier", x.Tier, "requester", x.Requester, "certification", x.Certification, "suite", x.Suite,
			"boundary", string(x.BoundaryDigest), "grant", string(x.GrantDigest),
			"part of", strings.Join(x.Chain, ", "), "opened", at(x.Opened), "started", at(x.Started), "ended", at(x.Ended), "code", x.Code, "why", x.Why, "by", x.By)
		if x.State == task.Proposed {
			io.WriteString(w, "\nnext: sallyport run --task "+x.ID+" -- COMMAND\n")
		}
	})
}

func tasks(w io.Writer, all []task.Task) {
	if len(all) == 0 {
		io.WriteString(w, "there is no task\n")
		return
	}
	var rows [][]string
	for _, x := range all {
		rows = append(rows, []string{x.ID, string(x.State), x.Agent, x.Capability, paramsOf(x.Params), string(x.Stage), x.Requester, at(x.Opened), x.Code})
	}
	table(w, []string{"TASK", "STATE", "AGENT", "CAPABILITY", "PARAMETERS", "STAGE", "REQUESTER", "OPENED", "CODE"}, rows)
}
