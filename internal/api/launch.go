package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/server"
)

// launchWait is how long a client may take to say what it wants.
const launchWait = 10 * time.Second

// serveLaunch serves the launch socket until it is closed, and returns when
// every run that it started is over.
//
// A harness runs with the rights to the doors of a task, and what it runs is
// measured; so only the server's own user, who could run anything as the server
// anyway, may launch.
func (a *api) serveLaunch(ctx context.Context, l net.Listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				a.log.Error("listener ended", "address", l.Addr().String(), "err", err)
			}
			return
		}
		wg.Go(func() {
			defer c.Close()
			a.launch(ctx, c.(*net.UnixConn))
		})
	}
}

func (a *api) launch(ctx context.Context, c *net.UnixConn) {
	e := json.NewEncoder(c)
	e.SetEscapeHTML(false)
	uid, err := peerUID(c)
	if err == nil {
		err = mayLaunch(uid)
	}
	if err != nil {
		a.refuseLaunch(ctx, e, nil, err)
		return
	}
	in, rest, files, err := receiveLaunch(c)
	defer closeAll(files)
	if err != nil {
		a.refuseLaunch(ctx, e, nil, err)
		return
	}
	if _, err := a.s.Shown(in.Bind); err != nil {
		a.refuseLaunch(ctx, e, nil, err)
		return
	}
	// The end of the client's side ends the run.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		defer cancel()
		var b [1]byte
		rest.Read(b[:])
	}()
	defer func() { c.CloseRead(); <-gone }()
	a.run(ctx, e, in, files)
}

// run is one harness from start to end.
func (a *api) run(ctx context.Context, e *json.Encoder, in LaunchRequest, files []*os.File) {
	running, err := a.s.Run(ctx, in.Tenant, in.Task, server.Harness{Path: in.Path, Args: in.Args, Dir: in.Dir, Bind: in.Bind, Env: in.Env,
		Stdin: files[0], Stdout: files[1], Stderr: files[2]})
	if err != nil {
		a.refuseLaunch(ctx, e, &in, err)
		return
	}
	// The harness has its own copies; with ours closed, the reader of a pipe
	// sees its end when the harness is gone.
	closeAll(files)
	ev := LaunchEvent{Event: Started}
	if x, err := a.s.Task(ctx, in.Tenant, in.Task); err == nil {
		ev.Task = &x
	}
	if err := e.Encode(ev); err != nil {
		a.log.Debug("the client of a launch is gone", "task", in.Task)
	}
	exit, x, err := running.Wait(ctx)
	ev = LaunchEvent{Event: Ended, Exit: exit, Task: &x}
	if err != nil {
		ev.Problem = &server.Problem{Code: "still_ending", Reason: "the harness is gone; something that the task held is not confirmed ended yet",
			Next: "see: sallyport task show " + in.Task}
		a.log.Warn("a launched task is still ending", "task", in.Task, "err", err)
	}
	e.Encode(ev)
}

func mayLaunch(uid int) error {
	if uid == os.Getuid() || uid == 0 {
		return nil
	}
	return &server.Problem{Code: "not_the_operator", Reason: fmt.Sprintf("user %d may not launch a harness: only the user that the server runs as, or root", uid),
		Next: "run it as that user"}
}

// refuseLaunch says why nothing runs. Why a task could not start is in the task,
// in words for people.
func (a *api) refuseLaunch(ctx context.Context, e *json.Encoder, in *LaunchRequest, err error) {
	ev := LaunchEvent{Event: Refused}
	if in != nil {
		ctx := context.WithoutCancel(ctx)
		if x, terr := a.s.Task(ctx, in.Tenant, in.Task); terr == nil {
			ev.Task = &x
			var p *server.Problem
			if !errors.As(err, &p) && x.Code != "" && x.Why != "" {
				a.log.Warn("a task did not start", "task", x.ID, "err", err)
				err = &server.Problem{Code: x.Code, Reason: "the task did not start: " + x.Why, Next: "correct that and open a new task"}
			}
		}
	}
	ev.Problem, _ = a.problem(ctx, "launch", err)
	e.Encode(ev)
}

// receiveLaunch reads the one line and the three descriptors.
func receiveLaunch(c *net.UnixConn) (in LaunchRequest, rest *bufio.Reader, files []*os.File, err error) {
	c.SetReadDeadline(time.Now().Add(launchWait))
	buf := make([]byte, 64<<10)
	oob := make([]byte, unix.CmsgSpace(16*4))
	n, on, flags, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return in, nil, nil, invalid("invalid_launch", "no request came", "use: sallyport run")
	}
	if files, err = descriptors(oob[:on]); err != nil || flags&unix.MSG_CTRUNC != 0 || len(files) != 3 {
		return in, nil, files, invalid("invalid_launch", "three descriptors are wanted with the request: standard input, output and error", "use: sallyport run")
	}
	rest = bufio.NewReader(c)
	line := buf[:n]
	for !bytes.HasSuffix(line, []byte("\n")) && len(line) <= maxRequest {
		more, rerr := rest.ReadSlice('\n')
		line = append(line, more...)
		if rerr != nil && !errors.Is(rerr, bufio.ErrBufferFull) {
			return in, nil, files, invalid("invalid_launch", "the request did not arrive whole", "use: sallyport run")
		}
	}
	if err := canon.Unmarshal(line, maxRequest, &in); err != nil {
		return in, nil, files, invalid("invalid_launch", "the request is not the JSON that is wanted here: "+err.Error(), "use: sallyport run")
	}
	c.SetReadDeadline(time.Time{})
	return in, rest, files, in.check()
}

func (in LaunchRequest) check() error {
	for _, p := range append([]string{in.Path}, in.Bind...) {
		if !filepath.IsAbs(p) {
			return invalid("path_not_absolute", strconv.Quote(p)+" is not an absolute path", "give whole paths")
		}
	}
	if in.Dir != "" && !filepath.IsAbs(in.Dir) {
		return invalid("path_not_absolute", strconv.Quote(in.Dir)+" is not an absolute path", "give whole paths")
	}
	if in.Task == "" {
		return invalid("task_missing", "a harness runs for a task", "open one: sallyport task open")
	}
	if fi, err := os.Stat(in.Path); err != nil || !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0 {
		return invalid("not_a_program", strconv.Quote(in.Path)+" is not a program", "name an executable file")
	}
	return nil
}

func descriptors(oob []byte) ([]*os.File, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	var files []*os.File
	for _, m := range msgs {
		fds, ferr := unix.ParseUnixRights(&m)
		err = errors.Join(err, ferr)
		for i, fd := range fds {
			unix.CloseOnExec(fd) // ReadMsgUnix asks for it; said again, since a leak into a harness would be a hole
			files = append(files, os.NewFile(uintptr(fd), "launch-"+strconv.Itoa(i)))
		}
	}
	return files, err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
