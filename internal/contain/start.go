package contain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// startLimit bounds each step between parent and stages; a machine so slow
// that it needs longer gets an error, not a half-started process.
const startLimit = 30 * time.Second

// Start runs the process and returns once it was executed (not merely forked).
// ctx bounds its whole life, as in exec.CommandContext: when ctx ends, the
// process is killed. Nothing is left behind after an error.
//
// Order: claim a host uid; build the descriptors; fork into the namespaces;
// the first stage waits until it is told to go, makes the world and listens;
// then init executes the workload. The parent holds the listeners before the
// workload exists.
func Start(ctx context.Context, s Spec) (*Process, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p := &Process{reaped: make(chan struct{}), done: make(chan struct{})}
	if err := p.start(ctx, &s); err != nil {
		p.abort()
		return nil, fmt.Errorf("contain %s: %w%s", s.Path, err, hint(err))
	}
	return p, nil
}

func (p *Process) start(ctx context.Context, s *Spec) error {
	id, err := claimID()
	if err != nil {
		return err
	}
	p.id = id
	pl := plan{
		Path: s.Path, Dir: s.Dir, Home: s.home(), Args: s.Args, Env: s.Env, Listen: s.Listen,
		Mounts: s.mounts(), UID: s.UID, Files: len(s.Files), Nested: s.NestedUserNS,
		MemoryMax: s.MemoryMax, PidsMax: s.PidsMax,
	}
	pl.Argv0 = cmp.Or(s.argv0, s.Path)
	if pl.UID == 0 {
		pl.UID = defaultUID
	}
	if pl.Dir == "" {
		pl.Dir = pl.Home
	}
	if pl.PidsMax == 0 {
		pl.PidsMax = defaultPids
	}
	var trees []int
	if id.dedicated {
		// A root parent opens the sources itself, so that a source below a
		// folder closed to others (a home, a state folder) can be shown alone.
		pl.Trees = true
		if trees, err = cloneTrees(pl.Mounts); err != nil {
			return err
		}
		defer closeAll(trees)
	}
	if err := p.fork(s, pl); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { p.cmd.Process.Kill() })
	go func() {
		<-p.reaped
		stop()
	}()
	if err := send(int(p.control.Fd()), note{Kind: "go"}, trees...); err != nil {
		return p.explain(err)
	}
	return p.handshake(len(s.Listen))
}

// fork starts the first stage on a thread of its own that lives as long as the
// process: the parent-death signal is bound to the thread that forked, and the
// runtime may end any other thread.
func (p *Process) fork(s *Spec, pl plan) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	p.control = os.NewFile(uintptr(pair[0]), "control")
	remote := os.NewFile(uintptr(pair[1]), "stage")
	defer remote.Close()
	pf, err := planFile(pl)
	if err != nil {
		return err
	}
	defer pf.Close()
	exe, err := selfExe()
	if err != nil {
		return err
	}
	in, err := p.input(s.Stdin)
	if err != nil {
		return err
	}
	if in != s.Stdin && in != nil {
		defer in.Close()
	}
	cmd := &exec.Cmd{
		Path: exe, Args: []string{stageSetup}, Env: []string{}, Dir: "/",
		Stdout: s.Stdout, Stderr: s.Stderr,
		ExtraFiles:  append([]*os.File{remote, pf}, s.Files...),
		SysProcAttr: p.id.attr(pl.UID),
	}
	if in != nil { // a nil *os.File would not be a nil io.Reader
		cmd.Stdin = in
	}
	p.cmd = cmd
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		cmd.Wait() // the verdict about the workload comes by note; this only says that all is gone
		close(p.reaped)
	}()
	if err := <-started; err != nil {
		p.cmd = nil
		return fmt.Errorf("create namespaces: %w", err)
	}
	return nil
}

// input is what the process reads: a file as it is, any other reader through a
// pipe of our own. exec.Cmd would wait for the reader to end, for ever if it is
// a connection; here the copying only ends with its reader.
func (p *Process) input(r io.Reader) (*os.File, error) {
	if f, ok := r.(*os.File); ok || r == nil {
		return f, nil
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() {
		io.Copy(pw, r)
		pw.Close()
	}()
	go func() {
		<-p.reaped
		pw.Close() // stops a copy that is stuck on a full pipe
	}()
	return pr, nil
}

// handshake collects what the stages hand over until the workload runs.
func (p *Process) handshake(listen int) error {
	n, fds, err := p.expect("listening")
	if err != nil {
		return err
	}
	p.netns = n.NetNS
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "listener")
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			closeAll(fds[i+1:])
			return err
		}
		p.listeners = append(p.listeners, l)
	}
	if len(p.listeners) != listen {
		return errors.New("listeners missing")
	}
	if _, fds, err = p.expect("running"); err != nil {
		return err
	}
	if len(fds) != 1 {
		closeAll(fds)
		return errors.New("process descriptor missing")
	}
	p.pidfd = os.NewFile(uintptr(fds[0]), "pidfd")
	if p.pid, err = pidOf(p.pidfd); err != nil {
		return err
	}
	go p.watch()
	return nil
}

func (p *Process) expect(kind string) (note, []int, error) {
	n, fds, err := receive(int(p.control.Fd()), startLimit)
	if err != nil {
		return n, nil, p.explain(err)
	}
	if n.Kind == "error" {
		closeAll(fds)
		return n, nil, errors.New(n.Text)
	}
	if n.Kind != kind {
		closeAll(fds)
		return n, nil, fmt.Errorf("containment stage said %q instead of %q", n.Kind, kind)
	}
	return n, fds, nil
}

// explain turns a lost connection into the reason, when one is known.
func (p *Process) explain(err error) error {
	if errors.Is(err, errGone) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		if n, fds, err := receive(int(p.control.Fd()), time.Second); err == nil && n.Kind == "error" {
			closeAll(fds)
			return errors.New(n.Text)
		}
		return errors.New("containment stage ended early (does main call contain.Main first?)")
	}
	return err
}

// pidOf reads a process id in the parent's own PID namespace from a pidfd.
func pidOf(f *os.File) (int, error) {
	b, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "Pid:"); ok {
			return strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return 0, errors.New("no pid behind the process descriptor")
}

func closeAll(fds []int) {
	for _, f := range fds {
		unix.Close(f)
	}
}

// hint names the setting behind a refusal. Stages report in words, so the
// words are what there is to look at.
func hint(err error) string {
	for _, sign := range []error{syscall.EPERM, syscall.ENOSPC} {
		if why := namespaceObstacle(); why != "" && strings.Contains(err.Error(), sign.Error()) {
			return " (" + why + ")"
		}
	}
	return ""
}
