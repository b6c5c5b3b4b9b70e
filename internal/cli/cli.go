// Package cli is the command line. It asks a running server over its sockets
// (internal/api/client), or works on files; the only commands that open a data
// folder themselves are up, and ledger when no server runs.
//
// Exit status: 0 done, 1 refused or not ready, 2 usage or invalid input, 3 no
// server can be reached.
//
// Not trusted: what a server, an agent or a page wrote is never shown raw on a
// terminal where it could move the cursor.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/client"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// Exit statuses.
const (
	exitOK = iota
	exitRefused
	exitUsage
	exitUnreachable
)

// commands makes every command. A new one is one line here and a file.
func commands() []func(*env) *cobra.Command {
	return []func(*env) *cobra.Command{
		upCommand, applyCommand, rollbackCommand, getCommand, taskCommand, runCommand, approvalsCommand, approveCommand, rejectCommand,
		revokeCommand, certifyCommand, canaryCommand, reconcileCommand, secretCommand, identityCommand, leaseCommand, ledgerCommand, policyCommand, doctorCommand, readinessCommand, verifyCommand, demoCommand, estateCommand, versionCommand,
	}
}

// env is what every command works with: the global flags and the streams.
type env struct {
	data, server, tenant, person, output string
	store                                string // of a stopped server; see storeFlag
	kek                                  kekFlags

	in       io.Reader
	out, err io.Writer
	began    bool         // the arguments were understood
	read     []sourceFile // to be applied
}

// Main runs the command line of this process and returns its exit status.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second Ctrl-C ends the process at once.
	defer context.AfterFunc(ctx, stop)()
	return Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// Run runs one command line.
func Run(ctx context.Context, args []string, in io.Reader, out, errw io.Writer) int {
	// What a harness writes may come while a command writes too.
	var mu sync.Mutex
	if _, file := out.(*os.File); !file {
		out = &locked{&mu, out}
	}
	if _, file := errw.(*os.File); !file {
		errw = &locked{&mu, errw}
	}
	e := &env{in: in, out: out, err: errw}
	root := e.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errw)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	return e.report(err)
}

// locked is a writer for several goroutines.
type locked struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func (e *env) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "sallyport",
		Short: "The control boundary for computer-use agents",
		Long: `Sallyport puts a computer-use agent behind two doors, gives it an identity of its
own and authority for one bounded task, records every step before it takes
effect, and says whether the agent may act in production as it is now.`,
		Example:       "  sallyport up --data ~/sallyport",
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			_, own := cmd.Annotations[e.output]
			if e.output != "text" && e.output != "json" && !own {
				return fmt.Errorf("-o %q: want text or json", e.output)
			}
			e.began = true
			return nil
		},
	}
	f := root.PersistentFlags()
	f.StringVar(&e.data, "data", defaultData(), "folder of the server's state and sockets")
	f.StringVar(&e.server, "server", os.Getenv("SALLYPORT_SERVER"), "socket of a server, unix:///path; default: the one in --data")
	f.StringVar(&e.tenant, "tenant", "", "tenant; not needed where there is one")
	f.StringVar(&e.person, "as", "", "the person you act as; default: the one of your local user")
	f.StringVarP(&e.output, "output", "o", "text", "text or json")
	root.SetFlagErrorFunc(badFlag)
	for _, make := range commands() {
		root.AddCommand(make(e))
	}
	return root
}

// badFlag says what a flag wants, where the library says how it failed to read it.
func badFlag(cmd *cobra.Command, err error) error {
	if bad, ok := errors.AsType[interface {
		error
		GetValue() string
		Unwrap() error
	}](err); ok {
		want := bad.Unwrap().Error()
		if number, ok := errors.AsType[*strconv.NumError](err); ok && number.Func == "ParseBool" {
			want = "true or false"
		} else if ok {
			want = "a whole number"
		} else if strings.HasPrefix(want, "time: ") {
			want = "a duration, such as 90s, 15m or 1h30m"
		}
		_, name, _ := strings.Cut(err.Error(), ` for "`)
		name, _, _ = strings.Cut(name, `" flag: `)
		err = fmt.Errorf("%s %q: want %s", name, bad.GetValue(), want)
	}
	return usage("%w\n  next: %s --help", err, cmd.CommandPath())
}

// defaultData is $XDG_STATE_HOME/sallyport (XDG Base Directory Specification).
func defaultData() string {
	if d := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "sallyport")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "sallyport-data"
	}
	return filepath.Join(home, ".local", "state", "sallyport")
}

func (e *env) socket() (string, error) {
	if e.server == "" {
		return filepath.Join(e.data, api.SocketName), nil
	}
	path, ok := strings.CutPrefix(e.server, "unix://")
	if !ok || !filepath.IsAbs(path) {
		return "", usage("--server %q: want unix:///path", e.server)
	}
	return path, nil
}

func (e *env) client() (*client.Client, error) {
	path, err := e.socket()
	if err != nil {
		return nil, err
	}
	return client.New(path, e.tenant, e.person), nil
}

// exit is an error with an exit status of its own.
type exit struct {
	code int
	err  error // nil: everything was said
}

func (x *exit) Error() string {
	if x.err == nil {
		return ""
	}
	return x.err.Error()
}

func usage(format string, args ...any) error { return &exit{exitUsage, fmt.Errorf(format, args...)} }

// report says what went wrong, and what it means for the exit status.
func (e *env) report(err error) int {
	var x *exit
	var gone *client.Unreachable
	var no *client.Refusal
	var bad resource.Errors
	switch {
	case errors.As(err, &x):
		if x.err != nil {
			e.say("sallyport: %s", x.err)
		}
		return x.code
	case errors.As(err, &gone):
		fmt.Fprintf(e.err, "sallyport: %s\n  next: start one: sallyport up", gone)
		if e.data != defaultData() {
			fmt.Fprintf(e.err, " --data %s", e.data)
		}
		fmt.Fprintln(e.err)
		return exitUnreachable
	case errors.As(err, &no):
		return e.refusal(no)
	case errors.As(err, &bad):
		e.say("%s", bad)
		return exitUsage
	case !e.began:
		e.say("sallyport: %s\n  next: sallyport --help", err)
		return exitUsage
	}
	e.say("sallyport: %s", err)
	return exitRefused
}

// say writes lines of an error, in which a file of somebody else may be named.
func (e *env) say(format string, args ...any) {
	for l := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		fmt.Fprintln(e.err, plain(l))
	}
}

func (e *env) refusal(no *client.Refusal) int {
	if e.output == "json" {
		json.NewEncoder(e.err).Encode(no.Problem)
	} else if no.Code == "invalid_resources" {
		e.say("%s\n  next: %s", no.Reason, no.Next)
	} else {
		e.say("sallyport: %s (%s)", no.Reason, no.Code)
		if no.Next != "" {
			e.say("  next: %s", no.Next)
		}
	}
	if no.Invalid() {
		return exitUsage
	}
	return exitRefused
}

// terminal reports whether a stream is a terminal.
func terminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
