// Package demo tells the whole story on the sample estate, with everything real
// but the model: it starts the server and the estate in this process and then
// works only through the command line, as people would.
//
// What is scripted is called scripted: the model answers from a script, and the
// people's keys are on this disk and sign what they are shown. That is why the
// sample tenant is declared demo: true, and why every report of it says so.
package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/client"
	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/server"
)

// Config of a demo.
type Config struct {
	Out   string // folder for what the demo leaves behind; emptied of an earlier demo's files
	Store string // PostgreSQL URL, or empty
	W     io.Writer
	// CLI runs one command line of this program and returns its exit status.
	CLI func(ctx context.Context, args []string, in io.Reader, out, errw io.Writer) int
	// Self is this program, which is also the sample agent.
	Self string
}

// story is a demo that is being told.
type story struct {
	Config
	ctx    context.Context
	sample *Sample
	data   string // the server's folder
	dir    string // the resources
	api    *client.Client
	store  ledger.Store // the server's own, to copy from
	public string       // where the server's public face listens
	used   string       // an approval that was used
	began  time.Time
}

// Run tells the story. An error says at which point it went another way than it
// should.
func Run(ctx context.Context, c Config) (err error) {
	s := &story{Config: c, ctx: ctx, data: filepath.Join(c.Out, "state"), dir: filepath.Join(c.Out, "helpdesk"), began: time.Now()}
	if err := s.clean(); err != nil {
		return err
	}
	s.title("Sallyport: a computer-use agent behind two doors")
	s.say("Real here: the browser, the namespaces, the doors, the gate, the signatures, the ledger, the")
	s.say("applications and their sessions. Scripted here: the model, and the people's hands on their keys.")
	stop, err := s.start()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	for i, chapter := range []struct {
		title string
		tell  func() error
	}{
		{"What there is, is declared", s.declare},
		{"Nobody approves their own change", s.approve},
		{"Behaviour is certified before it is trusted", s.certify},
		{"One task, one privileged operation, one signature", s.honest},
		{"The task is over, and nothing of it is left", s.ended},
		{"A hijacked agent meets the doors", s.hijacked},
		{"The model behind the agent changes", s.drift},
		{"Certified again: is it ready?", s.again},
		{"The log can be checked by those who do not trust us", s.ledger},
	} {
		s.title(fmt.Sprintf("%d. %s", i+1, chapter.title))
		if err := chapter.tell(); err != nil {
			return fmt.Errorf("chapter %d (%s): %w", i+1, chapter.title, err)
		}
	}
	s.title("The end")
	s.say("%s in all. Left in %s:", time.Since(s.began).Round(time.Second), s.Out)
	for _, f := range []string{"readiness.html", "readiness.json", "bundle.sallyport"} {
		s.say("  %s", f)
	}
	s.say("Check the bundle yourself, offline:  sallyport verify %s", filepath.Join(s.Out, "bundle.sallyport"))
	return nil
}

// leavings are the names in Out that a demo makes, and may remove.
var leavings = []string{"state", "helpdesk", "log.txt", "copies", "readiness.html", "readiness.json", "bundle.sallyport",
	"transcript-honest.txt", "transcript-hijacked.txt", "transcript-harness.txt", "transcript-drift.txt", "transcript-again.txt"}

// clean makes Out ready. It removes only what a demo made, and refuses a folder
// in which something else is.
func (s *story) clean() error {
	if err := os.MkdirAll(s.Out, 0o700); err != nil {
		return err
	}
	names, err := os.ReadDir(s.Out)
	if err != nil {
		return err
	}
	for _, n := range names {
		if !slices.Contains(leavings, n.Name()) {
			return fmt.Errorf("%s holds %s, which is not of a demo: name another folder with --out", s.Out, n.Name())
		}
	}
	for _, n := range leavings {
		if err := os.RemoveAll(filepath.Join(s.Out, n)); err != nil {
			return err
		}
	}
	return nil
}

// start brings up the estate, the model and the server.
func (s *story) start() (stop func() error, err error) {
	var closers []func() error
	stop = func() error {
		var errs []error
		for _, f := range slices.Backward(closers) {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stop())
		}
	}()
	if s.sample, err = ServeSample(s.ctx, Addrs{}, ""); err != nil {
		return stop, err
	}
	closers = append(closers, s.sample.Close)
	if err := s.sample.Write(s.dir); err != nil {
		return stop, err
	}
	logFile, err := os.OpenFile(filepath.Join(s.Out, "log.txt"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return stop, err
	}
	closers = append(closers, logFile.Close)
	log := slog.New(slog.NewTextHandler(logFile, nil))
	srv, err := server.Open(s.ctx, server.Config{Data: s.data, Store: s.Store, Log: log})
	if err != nil {
		return stop, err
	}
	closers = append(closers, srv.Close)
	f, err := api.Serve(srv, api.Config{Data: s.data, Listen: "127.0.0.1:0", Log: log})
	if err != nil {
		return stop, err
	}
	closers = append(closers, f.Close)
	s.api, s.store, s.public = client.New(f.Socket(), "", ""), srv.Store(), f.Addr()
	return stop, nil
}

func (s *story) title(text string) {
	fmt.Fprintf(s.W, "\n%s\n%s\n", text, strings.Repeat("─", len([]rune(text))))
}

func (s *story) say(format string, args ...any) { fmt.Fprintf(s.W, format+"\n", args...) }

// short puts the demo's own paths into the words of the reader.
func (s *story) short(text string) string {
	return strings.NewReplacer(s.dir, "helpdesk", s.data, "state", s.Out+string(filepath.Separator), "", s.Self, "sallyport").Replace(text)
}

// cli runs a command line, shows it with its output, and returns the output.
func (s *story) cli(args ...string) (string, int) { return s.command(nil, true, args...) }

// quiet is cli that shows only the command.
func (s *story) quiet(args ...string) (string, int) { return s.command(nil, false, args...) }

func (s *story) command(in io.Reader, show bool, args ...string) (string, int) {
	fmt.Fprintf(s.W, "\n  $ sallyport %s\n", s.short(quoted(args)))
	if in == nil {
		in = strings.NewReader("")
	}
	var out bytes.Buffer
	code := s.CLI(s.ctx, append([]string{"--data", s.data}, args...), in, &out, &out)
	if show || code != 0 {
		for line := range strings.Lines(s.short(out.String())) {
			fmt.Fprintf(s.W, "    %s", line)
		}
	}
	return out.String(), code
}

func quoted(args []string) string {
	var out []string
	for _, a := range args {
		if strings.ContainsAny(a, " |;") {
			a = "'" + a + "'"
		}
		out = append(out, a)
	}
	return strings.Join(out, " ")
}

// must runs a command that has to succeed.
func (s *story) must(args ...string) (string, error) {
	out, code := s.cli(args...)
	if code != 0 {
		return out, fmt.Errorf("sallyport %s: exit status %d", quoted(args), code)
	}
	return out, nil
}

// refused runs a command that has to be refused, with this code.
func (s *story) refused(code string, args ...string) error {
	out, status := s.cli(args...)
	if status != 1 || !strings.Contains(out, code) {
		return fmt.Errorf("sallyport %s: exit status %d, want a refusal with %s", quoted(args), status, code)
	}
	return nil
}

func (s *story) key(person string) string { return filepath.Join(s.dir, "keys", person) }

// order tells the scripted model or the estate something, from outside.
func (s *story) order(url string) error {
	req, err := http.NewRequestWithContext(s.ctx, http.MethodPost, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s answered %d", url, resp.StatusCode)
	}
	return nil
}
