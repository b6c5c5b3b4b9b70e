package cli

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/client"
	"github.com/sallyport-dev/sallyport/internal/task"
)

func runCommand(e *env) *cobra.Command {
	var in api.LaunchRequest
	var names []string
	cmd := &cobra.Command{
		Use:   "run --task ID [--bind PATH]... -- COMMAND [ARGUMENT]...",
		Short: "Run an agent's harness for a task, contained",
		Long: `Starts the command in namespaces of its own, where the doors of the boundary are
the only way out. It sees the system's programs and libraries, itself, and what
--bind names, all read-only. Ctrl-C ends the run and its task.`,
		Example: "  sallyport run --task t-01k... --bind $PWD/agent -- python3 agent/main.py",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if in.Task == "" {
				return usage("--task is needed; open one: sallyport task open")
			}
			if err := resolve(&in, args, names); err != nil {
				return err
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			s, flush, err := e.streams()
			if err != nil {
				return err
			}
			end, err := c.Run(cmd.Context(), in, s, func(x task.Task) { fmt.Fprintf(e.err, "sallyport: task %s runs\n", x.ID) })
			flush()
			if err != nil {
				return err
			}
			return e.ended(end)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringVar(&in.Task, "task", "", "the task to run")
	f.StringArrayVar(&in.Bind, "bind", nil, "path that the command sees too, read-only")
	f.StringVar(&in.Dir, "dir", "", "working directory inside; it must be among what is bound")
	f.StringArrayVar(&names, "env", nil, "variable handed on, NAME or NAME=VALUE; the boundary's own win")
	return cmd
}

// resolve makes every path whole, as the server has another working directory.
func resolve(in *api.LaunchRequest, args, names []string) error {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return usage("%v", err)
	}
	if in.Path, err = filepath.Abs(path); err != nil {
		return err
	}
	in.Args = args[1:]
	for i, b := range in.Bind {
		if in.Bind[i], err = filepath.Abs(b); err != nil {
			return err
		}
		if _, err := os.Stat(in.Bind[i]); err != nil {
			return usage("--bind: %v", err)
		}
	}
	if in.Dir != "" {
		if in.Dir, err = filepath.Abs(in.Dir); err != nil {
			return err
		}
	}
	for _, n := range names {
		if !strings.Contains(n, "=") {
			v, ok := os.LookupEnv(n)
			if !ok {
				return usage("--env %s: it is not set here", n)
			}
			n += "=" + v
		}
		in.Env = append(in.Env, n)
	}
	return nil
}

// ended says how a run ended. The exit status is the harness's own; a task that
// did not close by itself is never 0.
func (e *env) ended(end client.Ended) error {
	x := end.Task
	code := end.Exit
	if code < 0 || code == 0 && x.State != task.Closed {
		code = exitRefused
	}
	if x.State == task.Closed && code == 0 {
		fmt.Fprintf(e.err, "sallyport: task %s is closed\n", x.ID)
		return nil
	}
	fmt.Fprintf(e.err, "sallyport: task %s is %s: %s (%s)\n", x.ID, x.State, plain(x.Why), x.Code)
	return &exit{code: code}
}

// streams gives the descriptors for a harness. A terminal is never handed over:
// it would be a way to type into this shell, and the harness's output could
// drive it. There a pipe stands between, and control sequences are shown.
func (e *env) streams() (client.Streams, func(), error) {
	var s client.Streams
	var wg sync.WaitGroup
	var ours []*os.File
	var pipes error
	out := func(w io.Writer) *os.File {
		f, ok := w.(*os.File)
		if ok && !terminal(f) {
			return f
		}
		r, p, err := os.Pipe()
		if err != nil {
			pipes = err
			return nil
		}
		if ok {
			w = &harmless{w: w}
		}
		ours = append(ours, p)
		wg.Go(func() { io.Copy(w, r); r.Close() })
		return p
	}
	s.Out, s.Err = out(e.out), out(e.err)
	if f, ok := e.in.(*os.File); ok && !terminal(f) {
		s.In = f
	} else {
		r, p, err := os.Pipe()
		if err != nil {
			pipes = err
		} else {
			s.In = r
			ours = append(ours, r)
			// Not waited for: nothing ends a read of a terminal but its user.
			go func() { io.Copy(p, e.in); p.Close() }()
		}
	}
	flush := func() {
		for _, f := range ours {
			f.Close()
		}
		wg.Wait()
	}
	if pipes != nil {
		flush()
	}
	return s, flush, pipes
}

// harmless shows control characters instead of sending them to a terminal.
type harmless struct {
	w    io.Writer
	last byte // before this Write
}

func (h *harmless) Write(p []byte) (int, error) {
	out := make([]byte, 0, len(p))
	for _, c := range p {
		switch {
		case h.last == 0xc2 && c >= 0x80 && c <= 0x9f:
			out = append(out, 0xa4) // U+0080 to U+009F are controls too; this makes it a currency sign
		case c >= ' ' && c != 0x7f || c == '\n' || c == '\t' || c == '\r':
			out = append(out, c)
		default:
			out = append(out, '^', c^0x40)
		}
		h.last = c
	}
	if _, err := h.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}
