package contain_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/contain"
)

// TestMain is the program of every process in these tests: a stage of the
// containment, the contained workload (a role), or the tests.
func TestMain(m *testing.M) {
	contain.Main()
	if role := os.Getenv("CONTAIN_TEST_ROLE"); role != "" {
		if err := roles[role](); err != nil {
			fmt.Fprintln(os.Stderr, role+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var roles = map[string]func() error{}

// spec runs this test binary inside, in a role.
func spec(t testing.TB, role string) contain.Spec {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return contain.Spec{
		Path: exe, Env: []string{"CONTAIN_TEST_ROLE=" + role, "PATH=/usr/bin:/bin"},
		Mounts: contain.SystemMounts(),
	}
}

// sh runs a shell command inside.
func sh(script string) contain.Spec {
	return contain.Spec{
		Path: "/bin/sh", Args: []string{"-c", script}, Env: []string{"PATH=/usr/bin:/bin"},
		Mounts: contain.SystemMounts(),
	}
}

func start(t testing.TB, s contain.Spec) *contain.Process {
	t.Helper()
	p, err := contain.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

// output runs s to its end and returns what it wrote.
func output(t testing.TB, s contain.Spec) string {
	t.Helper()
	var out bytes.Buffer
	s.Stdout, s.Stderr = &out, &out
	p := start(t, s)
	if err := p.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	return out.String()
}

func TestRunsInItsOwnWorld(t *testing.T) {
	for script, want := range map[string]string{
		"echo $(id -u) $(id -g) $(id -un)":                               "1000 1000 agent",
		"hostname":                                                       "sallyport",
		"pwd; echo $HOME":                                                "/home/agent",
		"echo $(ls /dev)":                                                "fd full null random shm stderr stdin stdout urandom zero",
		"echo $(ls -A /tmp /run /dev/shm $PWD)":                          "/dev/shm: /home/agent: /run: /tmp:",
		"echo $(tail -n +3 /proc/net/dev | cut -d: -f1)":                 "lo",
		"cd /proc; set -- [0-9]*; echo $#":                               "2", // init and sh
		"ls /sys /root /boot /var /opt 2>/dev/null":                      "",
		"env | grep -v -e ^PATH= -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD=": "",
		"touch /tmp/a /run/a /dev/shm/a $PWD/a && echo wrote":            "wrote",
		"echo x >/dev/null && head -c 3 /dev/zero | wc -c":               "3",
		"ulimit -c": "0", // in blocks; the limit is one byte
	} {
		got := strings.TrimSpace(output(t, sh(script+" || true")))
		if got != want {
			t.Errorf("%s: got %q, want %q", script, got, want)
		}
	}
}

func TestExitStatus(t *testing.T) {
	for script, want := range map[string]contain.ExitError{
		"exit 7":        {Code: 7},
		"kill -9 $$":    {Code: -1, Signal: syscall.SIGKILL},
		"kill -TERM $$": {Code: -1, Signal: syscall.SIGTERM},
	} {
		err := start(t, sh(script)).Wait()
		var got *contain.ExitError
		if !errors.As(err, &got) || *got != want {
			t.Errorf("%s: got %v, want %v", script, err, &want)
		}
	}
}

func TestParentServesListenerInside(t *testing.T) {
	s := spec(t, "fetch")
	s.Listen = []string{"127.0.0.1:3128", "[::1]:80"}
	var out bytes.Buffer
	s.Stdout, s.Stderr = &out, &out
	p := start(t, s)
	for _, l := range p.Listeners() {
		go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "served %s\n", r.Host)
		}))
		t.Cleanup(func() { l.Close() })
	}
	if err := p.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	want := "served 127.0.0.1:3128\nserved [::1]:80\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func init() {
	roles["fetch"] = func() error {
		for _, a := range []string{"127.0.0.1:3128", "[::1]:80"} {
			c, err := net.Dial("tcp", a)
			if err != nil {
				return err
			}
			fmt.Fprintf(c, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", a)
			b, err := io.ReadAll(c)
			if err != nil {
				return err
			}
			_, body, _ := strings.Cut(string(b), "\r\n\r\n")
			fmt.Print(body)
		}
		return nil
	}
}

func TestFilesBecomeDescriptors(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := sh("read line; echo got $line >&3; ls /proc/self/fd")
	s.Files = []*os.File{w}
	s.Stdin = strings.NewReader("hello\n")
	var out bytes.Buffer
	s.Stdout = &out
	p := start(t, s)
	w.Close()
	b, err := io.ReadAll(r)
	if err != nil || string(b) != "got hello\n" {
		t.Errorf("got %q, %v", b, err)
	}
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Fields(out.String()), "0 1 2 3 4"; strings.Join(got, " ") != want { // 4 is ls reading the folder
		t.Errorf("descriptors: got %v, want %s", got, want)
	}
}

func TestKillTakesAll(t *testing.T) {
	s := sh(`(setsid sleep 1000 &) ; trap "" TERM; sleep 1000`)
	s.Listen = []string{"127.0.0.1:3128"}
	p := start(t, s)
	p.Kill()
	select {
	case <-p.Done():
	default:
		t.Error("Kill returned before the end")
	}
	if err := syscall.Kill(p.PID(), 0); err != syscall.ESRCH {
		t.Errorf("workload after Kill: %v", err)
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal after the end: %v", err)
	}
	if _, err := p.Listeners()[0].Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after the end: %v", err)
	}
	p.Kill() // again: no harm
}

func TestContextEndsProcess(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p, err := contain.Start(ctx, sh("sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	var exit *contain.ExitError
	if err := p.Wait(); !errors.As(err, &exit) || exit.Signal != syscall.SIGKILL {
		t.Errorf("got %v", err)
	}
}
