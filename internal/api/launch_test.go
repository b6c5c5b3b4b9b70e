package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/apitest"
	"github.com/sallyport-dev/sallyport/internal/api/client"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/task"
)

func launches(t *testing.T, r *apitest.Rig) {
	t.Run("malformed", func(t *testing.T) { launchMalformed(t, r) })
	t.Run("no_descriptor_is_kept", func(t *testing.T) { noDescriptorKept(t, r) })
	t.Run("state_is_never_bound", func(t *testing.T) { stateNeverBound(t, r) })
	t.Run("streams_and_status", func(t *testing.T) { streamsAndStatus(t, r) })
	t.Run("client_gone_ends_the_run", func(t *testing.T) { clientGone(t, r) })
	t.Run("kill_ends_the_run", func(t *testing.T) { killEnds(t, r) })
	t.Run("task_runs_once", func(t *testing.T) { runsOnce(t, r) })
	t.Run("other_user", func(t *testing.T) { otherUser(t, r) })
}

// raw sends bytes and descriptors, and returns the first event.
func raw(t *testing.T, r *apitest.Rig, line string, fds []int) api.LaunchEvent {
	t.Helper()
	c, err := net.Dial("unix", filepath.Join(r.Data, api.LaunchName))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	u := c.(*net.UnixConn)
	if _, _, err := u.WriteMsgUnix([]byte(line), unix.UnixRights(fds...), nil); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(line, "\n") {
		u.CloseWrite() // else it would be a client that went away
	}
	return event(t, c)
}

func event(t *testing.T, c io.Reader) api.LaunchEvent {
	t.Helper()
	line, err := bufio.NewReader(c).ReadBytes('\n')
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	var e api.LaunchEvent
	if err := json.Unmarshal(line, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

func launchMalformed(t *testing.T, r *apitest.Rig) {
	for _, c := range []struct {
		name, line string
		fds        int
		code       string
	}{
		{"no_descriptors", `{"task":"t","path":"/bin/true"}` + "\n", 0, "invalid_launch"},
		{"two_descriptors", `{"task":"t","path":"/bin/true"}` + "\n", 2, "invalid_launch"},
		{"four_descriptors", `{"task":"t","path":"/bin/true"}` + "\n", 4, "invalid_launch"},
		{"many_descriptors", `{"task":"t","path":"/bin/true"}` + "\n", 100, "invalid_launch"},
		{"not_json", "run it\n", 3, "invalid_launch"},
		{"cut", `{"task":"t"`, 3, "invalid_launch"},
		{"unknown_member", `{"task":"t","path":"/bin/true","uid":0}` + "\n", 3, "invalid_launch"},
		{"two_documents", `{"task":"t","path":"/bin/true"}{}` + "\n", 3, "invalid_launch"},
		{"relative_path", `{"task":"t","path":"true"}` + "\n", 3, "path_not_absolute"},
		{"relative_bind", `{"task":"t","path":"/bin/true","bind":["."]}` + "\n", 3, "path_not_absolute"},
		{"relative_dir", `{"task":"t","path":"/bin/true","dir":"x"}` + "\n", 3, "path_not_absolute"},
		{"no_task", `{"task":"","path":"/bin/true"}` + "\n", 3, "task_missing"},
		{"folder", `{"task":"t","path":"/usr"}` + "\n", 3, "not_a_program"},
		{"not_executable", `{"task":"t","path":"/etc/passwd"}` + "\n", 3, "not_a_program"},
		{"unknown_task", `{"task":"t","path":"/bin/true"}` + "\n", 3, "no_such_task"},
		{"other_tenant", `{"tenant":"other","task":"t","path":"/bin/true"}` + "\n", 3, "no_such_tenant"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fds := make([]int, c.fds)
			for i := range fds {
				fds[i] = int(os.Stderr.Fd())
			}
			e := raw(t, r, c.line, fds)
			if e.Event != api.Refused || e.Problem == nil || e.Problem.Code != c.code || e.Problem.Next == "" {
				t.Errorf("got %s %+v, want refused %s", e.Event, e.Problem, c.code)
			}
		})
	}
}

// noDescriptorKept: a refused launch leaves no descriptor in the server; here a
// pipe, whose reader sees the end only when every copy is closed.
func noDescriptorKept(t *testing.T, r *apitest.Rig) {
	for _, line := range []string{"nonsense\n", `{"task":"t","path":"/bin/true"}` + "\n"} {
		pr, pw, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		fd := int(pw.Fd())
		raw(t, r, line, []int{fd, fd, fd})
		pw.Close()
		pr.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := pr.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%q: got %v, want the end of the pipe", line, err)
		}
		pr.Close()
	}
}

// stateNeverBound: the root key is shown to the harness, by any spelling.
func stateNeverBound(t *testing.T, r *apitest.Rig) {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(r.Data, link); err != nil {
		t.Fatal(err)
	}
	fd := int(os.Stderr.Fd())
	for _, b := range []string{r.Data, r.Data + "/", filepath.Join(r.Data, "root.key"), filepath.Dir(r.Data), "/", link, link + "/root.key", r.Data + "/../data"} {
		line, err := json.Marshal(api.LaunchRequest{Task: "t", Path: "/bin/true", Bind: []string{b}})
		if err != nil {
			t.Fatal(err)
		}
		if e := raw(t, r, string(line)+"\n", []int{fd, fd, fd}); e.Event != api.Refused || e.Problem.Code != "bind_of_state" {
			t.Errorf("%s: got %s %+v, want refused bind_of_state", b, e.Event, e.Problem)
		}
	}
}

func open(t *testing.T, r *apitest.Rig) task.Task {
	t.Helper()
	x, err := r.As("dana").OpenTask(t.Context(), server.Intent{Capability: "reset-mfa", Stage: "sandbox", Params: map[string]string{"user": "jo", "ticket": "4711"}})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// pipes are streams whose other ends the test holds. A harness that reads to the
// end of its input lives until typed is closed.
func pipes(t *testing.T) (s client.Streams, typed io.WriteCloser, done func() string) {
	t.Helper()
	ir, iw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	or, ow, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out := make(chan string, 1)
	go func() { b, _ := io.ReadAll(or); out <- string(b) }()
	return client.Streams{In: ir, Out: ow, Err: ow}, iw, func() string {
		iw.Close()
		ir.Close()
		ow.Close()
		select {
		case s := <-out:
			return s
		case <-time.After(30 * time.Second):
			t.Error("the harness's output never ends: somebody kept a copy of the pipe")
			return ""
		}
	}
}

func streamsAndStatus(t *testing.T, r *apitest.Rig) {
	x := open(t, r)
	s, typed, done := pipes(t)
	started := false
	end, err := r.As("dana").Run(t.Context(), api.LaunchRequest{Task: x.ID, Path: "/bin/sh", Args: []string{"-c", `cat; echo "$GIVEN $SALLYPORT_TASK"; exit 7`},
		Env: []string{"GIVEN=here", "SALLYPORT_TASK=another"}}, s, func(x task.Task) {
		started = x.State == task.Active
		io.WriteString(typed, "typed\n")
		typed.Close()
	})
	out := done()
	if err != nil || !started || end.Exit != 7 || end.Task.State != task.Failed || end.Task.Code != "harness_failed" {
		t.Errorf("got exit %d, task %s (%s), started %v, %v", end.Exit, end.Task.State, end.Task.Code, started, err)
	}
	if want := "typed\nhere " + x.ID + "\n"; out != want {
		t.Errorf("output: got %q, want %q", out, want)
	}
}

// clientGone: Ctrl-C at the client, or its death, ends the harness and the task.
func clientGone(t *testing.T, r *apitest.Rig) {
	x := open(t, r)
	s, _, done := pipes(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	end, err := r.As("dana").Run(ctx, api.LaunchRequest{Task: x.ID, Path: "/bin/sleep", Args: []string{"1000"}}, s, func(task.Task) { cancel() })
	done()
	if err != nil || end.Task.State != task.Failed || end.Task.Code != "interrupted" {
		t.Errorf("got %s (%s), %v; want failed (interrupted)", end.Task.State, end.Task.Code, err)
	}
}

func killEnds(t *testing.T, r *apitest.Rig) {
	x := open(t, r)
	s, _, done := pipes(t)
	killed := make(chan error, 1)
	end, err := r.As("dana").Run(t.Context(), api.LaunchRequest{Task: x.ID, Path: "/bin/sleep", Args: []string{"1000"}}, s, func(task.Task) {
		go func() {
			ended, err := r.As("mara").Revoke(context.Background(), "agent/helpdesk", "test")
			if err == nil && (len(ended) != 1 || ended[0].State != task.Revoked) {
				t.Errorf("the kill ended %+v", ended)
			}
			killed <- err
		}()
	})
	done()
	if err := <-killed; err != nil {
		t.Error(err)
	}
	if err != nil || end.Task.State != task.Revoked || end.Task.Code != "killed" {
		t.Errorf("got %s (%s), %v; want revoked (killed)", end.Task.State, end.Task.Code, err)
	}
}

func runsOnce(t *testing.T, r *apitest.Rig) {
	x := open(t, r)
	in := api.LaunchRequest{Task: x.ID, Path: "/bin/cat"}
	ir, iw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ir.Close()
	s := client.Streams{In: ir, Out: os.Stderr, Err: os.Stderr}
	end, err := r.As("dana").Run(t.Context(), in, s, func(task.Task) { iw.Close() })
	if err != nil || end.Exit != 0 || end.Task.State != task.Closed {
		t.Errorf("first: got exit %d, %s, %v", end.Exit, end.Task.State, err)
	}
	_, err = r.As("dana").Run(t.Context(), in, s, nil)
	wantRefusal(t, err, "task_state", http.StatusForbidden)
	// Why a task could not start is said in words.
	x = open(t, r)
	_, err = r.As("dana").Run(t.Context(), api.LaunchRequest{Task: x.ID, Path: "/bin/true", Dir: "/nonexistent"}, s, nil)
	wantRefusal(t, err, "not_started", http.StatusForbidden)
	if err != nil && !strings.Contains(err.Error(), "working directory") {
		t.Errorf("got %v, want the cause", err)
	}
}

// otherUser: a user who got through to the socket all the same. The files'
// modes are opened here, as a careless operator would.
func otherUser(t *testing.T, r *apitest.Rig) {
	for uid, want := range map[int]bool{os.Getuid(): true, 0: true, 65534: false, 4294967295: false} {
		if err := api.MayLaunch(uid); (err == nil) != want {
			t.Errorf("uid %d: got %v, want allowed %v", uid, err, want)
		}
	}
	if os.Getuid() != 0 {
		return // only root can be somebody else
	}
	path := filepath.Join(r.Data, api.LaunchName)
	for _, p := range []string{filepath.Dir(r.Data), r.Data} {
		if err := os.Chmod(p, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(r.Data, 0o700)
	defer os.Chmod(path, 0o600)
	got := make(chan api.LaunchEvent, 1)
	go func() {
		defer close(got)
		// The thread is somebody else from here on, and ends with the goroutine.
		runtime.LockOSThread()
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		f := os.NewFile(uintptr(fd), "socket")
		defer f.Close()
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); e != 0 {
			t.Error(e)
			return
		}
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			t.Error(err)
			return
		}
		line, err := bufio.NewReader(f).ReadBytes('\n')
		var e api.LaunchEvent
		if err != nil || json.Unmarshal(line, &e) != nil {
			t.Errorf("answer %q, %v", line, err)
		}
		got <- e
	}()
	if e, ok := <-got; ok && (e.Event != api.Refused || e.Problem.Code != "not_the_operator") {
		t.Errorf("got %s %+v, want refused", e.Event, e.Problem)
	}
}
