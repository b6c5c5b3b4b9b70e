package contain_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/contain"
)

func bg() context.Context { return context.Background() }

func TestSpecRefusals(t *testing.T) {
	root, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, change := range map[string]func(*contain.Spec){
		"relative path":        func(s *contain.Spec) { s.Path = "sh" },
		"path with dots":       func(s *contain.Spec) { s.Path = "/bin/../bin/sh" },
		"relative dir":         func(s *contain.Spec) { s.Dir = "x" },
		"home is root":         func(s *contain.Spec) { s.Env = []string{"HOME=/"} },
		"nameless environment": func(s *contain.Spec) { s.Env = []string{"=x"} },
		"environment no sign":  func(s *contain.Spec) { s.Env = []string{"x"} },
		"nul in argument":      func(s *contain.Spec) { s.Args = []string{"a\x00b"} },
		"long argument":        func(s *contain.Spec) { s.Args = []string{strings.Repeat("a", 128<<10)} },
		"many arguments":       func(s *contain.Spec) { s.Args = slices.Repeat([]string{strings.Repeat("a", 1<<10)}, 1100) },
		"listen anywhere":      func(s *contain.Spec) { s.Listen = []string{"0.0.0.0:1"} },
		"listen by name":       func(s *contain.Spec) { s.Listen = []string{"localhost:1"} },
		"listen on port 0":     func(s *contain.Spec) { s.Listen = []string{"127.0.0.1:0"} },
		"mount over proc":      func(s *contain.Spec) { s.Mounts = []contain.Mount{{Source: "/usr", Target: "/proc/self"}} },
		"mount over dev":       func(s *contain.Spec) { s.Mounts = []contain.Mount{{Source: "/dev", Target: "/dev"}} },
		"mount over root":      func(s *contain.Spec) { s.Mounts = []contain.Mount{{Source: "/", Target: "/"}} },
		"mount sys":            func(s *contain.Spec) { s.Mounts = []contain.Mount{{Source: "/sys", Target: "/sys"}} },
		"mount target climbs":  func(s *contain.Spec) { s.Mounts = []contain.Mount{{Source: "/usr", Target: "/a/../proc"}} },
		"mount source relative": func(s *contain.Spec) {
			s.Mounts = []contain.Mount{{Source: "usr", Target: "/usr"}}
		},
		"mount the whole host": func(s *contain.Spec) {
			s.Mounts = []contain.Mount{{Source: "/", Target: "/host"}}
		},
		"mount the host's proc": func(s *contain.Spec) {
			s.Mounts = []contain.Mount{{Source: "/proc", Target: "/hostproc"}}
		},
		"folder as a file": func(s *contain.Spec) { s.Files = []*os.File{root} },
		"folder as input":  func(s *contain.Spec) { s.Stdin = root },
		"two mounts on one target": func(s *contain.Spec) {
			s.Mounts = []contain.Mount{{Source: "/usr", Target: "/a"}, {Source: "/bin", Target: "/a"}}
		},
		"a host device": func(s *contain.Spec) {
			s.Mounts = []contain.Mount{{Source: "/dev/mem", Target: "/mem"}}
		},
		"too many mounts": func(s *contain.Spec) { s.Mounts = make([]contain.Mount, 201) },
		"nil file":        func(s *contain.Spec) { s.Files = []*os.File{nil} },
		"negative uid":    func(s *contain.Spec) { s.UID = -1 },
		"negative memory": func(s *contain.Spec) { s.MemoryMax = -1 },
	} {
		s := sh("true")
		change(&s)
		p, err := contain.Start(t.Context(), s)
		if err == nil {
			p.Kill()
		}
		if !errors.Is(err, contain.ErrSpec) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Every failure is an error that says what to do, and leaves nothing open.
func TestStartErrorsAreClearAndLeaveNothing(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(p, []byte(text), mode), os.Chmod(p, mode)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	noInterpreter := write("script", "#!/nowhere/sh\n", 0o755)
	notExecutable := write("data", "text", 0o644)
	links := filepath.Join(dir, "links")
	if err := errors.Join(os.Mkdir(links, 0o777), os.Chmod(links, 0o777), os.Symlink("/etc", filepath.Join(links, "out"))); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		want   string
		change func(*contain.Spec)
	}{
		{"no such file", func(s *contain.Spec) { s.Path = "/nonexistent/program" }},
		{"interpreter or loader", func(s *contain.Spec) { s.Path = noInterpreter }},
		{"permission", func(s *contain.Spec) { s.Path = notExecutable }},
		{"working directory", func(s *contain.Spec) { s.Dir = "/nowhere" }},
		{"mount /nonexistent", func(s *contain.Spec) {
			s.Mounts = append(s.Mounts, contain.Mount{Source: "/nonexistent", Target: "/data"})
		}},
		{"address already in use", func(s *contain.Spec) { s.Listen = []string{"127.0.0.1:80", "127.0.0.1:80"} }},
		// A link inside a mounted folder must not lead the next mount elsewhere.
		{"symbolic links", func(s *contain.Spec) {
			s.Mounts = append(s.Mounts, contain.Mount{Source: links, Target: "/data", Writable: true},
				contain.Mount{Source: notExecutable, Target: "/data/out/passwd"})
		}},
	}
	before := openFiles(t)
	for _, c := range cases {
		s := sh("true")
		c.change(&s)
		p, err := contain.Start(t.Context(), s)
		if err == nil {
			p.Kill()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q, got %v", c.want, err)
		}
	}
	await(t, "descriptors are closed", func() bool { return openFiles(t) <= before })
}

func openFiles(t testing.TB) int {
	es, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(es)
}

func TestEndedProcessesLeaveNothingOpen(t *testing.T) {
	output(t, sh("true"))
	before := openFiles(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { output(t, sh("true")) })
	}
	wg.Wait()
	await(t, "descriptors are closed", func() bool { return openFiles(t) <= before+2 }) // the runtime may add its own
}

func TestMountsAreReadOnlyUnlessWritable(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"ro", "rw"} {
		p := filepath.Join(dir, d)
		if err := errors.Join(os.Mkdir(p, 0o777), os.Chmod(p, 0o777)); err != nil {
			t.Fatal(err)
		}
	}
	s := sh(`touch /ro/a 2>/dev/null && echo wrote ro; touch /rw/a && echo wrote rw; touch /tmp/in/a && echo wrote in`)
	s.Mounts = append(s.Mounts,
		contain.Mount{Source: filepath.Join(dir, "ro"), Target: "/ro"},
		contain.Mount{Source: filepath.Join(dir, "rw"), Target: "/rw", Writable: true},
		contain.Mount{Source: filepath.Join(dir, "rw"), Target: "/tmp/in", Writable: true})
	if got, want := output(t, s), "wrote rw\nwrote in\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := os.Stat(filepath.Join(dir, "rw/a")); err != nil {
		t.Error(err)
	}
}

// What was looked at is what is mounted: no part of its path has become a link.
func TestCheckedMountFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "a/b"), 0o755), os.Symlink("a", filepath.Join(dir, "l"))); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"a/b": true, "l/b": false, "l": false} {
		s := sh("true")
		s.Mounts = append(s.Mounts, contain.Mount{Source: filepath.Join(dir, path), Target: "/seen", Checked: true})
		p, err := contain.Start(t.Context(), s)
		if err == nil {
			p.Kill()
			p.Wait()
		}
		if (err == nil) != want {
			t.Errorf("%s: got %v", path, err)
		}
	}
}

// A program in a folder closed to others (a home) runs under a root parent,
// because the parent opens it; its own mode must let others execute it.
func TestProgramInClosedFolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := spec(t, "greet")
	s.Path = copySelf(t, dir, 0o755)
	s.Env = []string{"CONTAIN_TEST_ROLE=hello"}
	if got := output(t, s); got != "hello\n" {
		t.Errorf("got %q", got)
	}
	if !root() {
		return
	}
	s.Path = copySelf(t, t.TempDir(), 0o700)
	if p, err := contain.Start(t.Context(), s); err == nil || !strings.Contains(err.Error(), "or others, must have") {
		t.Errorf("a file for root alone: got %v", err)
		if err == nil {
			p.Kill()
		}
	}
}

func init() {
	roles["hello"] = func() error { _, err := fmt.Println("hello"); return err }
	roles["selftest"] = func() error {
		_, err := contain.SelfTest(bg())
		return err
	}
}

// The server's own binary may be executable for its owner alone.
func TestServerBinaryForItsOwnerAlone(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(copySelf(t, dir, 0o700))
	cmd.Env = []string{"CONTAIN_TEST_ROLE=selftest", "HOME=" + dir}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Somebody runs the binary under the private name of a stage.
func TestStageWithoutParentDoesNothing(t *testing.T) {
	for _, name := range contain.Stages {
		cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{name}}
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err == nil {
			t.Errorf("%s: exit 0: %s", name, &out)
		}
	}
}

func TestSignalReachesTheWorkload(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := sh(`trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.01; done`)
	s.Stdout = w
	p := start(t, s)
	w.Close()
	b := make([]byte, 6)
	if _, err := r.Read(b); err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var exit *contain.ExitError
	if err := p.Wait(); !errors.As(err, &exit) || exit.Code != 3 {
		t.Errorf("got %v", err)
	}
}

func TestStdinThatNeverEndsDoesNotHoldWait(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	s := sh("exit 0")
	s.Stdin = struct{ *os.File }{r} // not an *os.File: copied by a goroutine
	if err := start(t, s).Wait(); err != nil {
		t.Error(err)
	}
}

func TestObstacles(t *testing.T) {
	for _, c := range []struct {
		files map[string]string
		root  bool
		want  string
	}{
		{nil, false, ""},
		{map[string]string{"/proc/sys/user/max_user_namespaces": "0"}, false, "user.max_user_namespaces"},
		{map[string]string{"/proc/sys/kernel/unprivileged_userns_clone": "0"}, false, "unprivileged_userns_clone=1"},
		{map[string]string{"/proc/sys/kernel/unprivileged_userns_clone": "0"}, true, ""},
		{map[string]string{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"}, false, "apparmor_restrict"},
		{map[string]string{"/proc/self/status": "Seccomp:\t2\n"}, false, "seccomp"},
		{map[string]string{"/proc/self/status": "CapEff:\t00000000a80425fb\n"}, true, "CAP_SYS_ADMIN"},
		{map[string]string{"/proc/self/status": "CapEff:\t000001fffeffffff\n"}, true, ""},
	} {
		got := contain.Obstacle(func(p string) string { return c.files[p] }, c.root)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%v: got %q, want %q", c.files, got, c.want)
		}
	}
}
