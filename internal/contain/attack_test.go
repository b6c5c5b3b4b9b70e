package contain_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/internal/contain"
)

func root() bool { return os.Geteuid() == 0 }

// await polls a state until it holds, for at most 20 seconds.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); !holds(); {
		if time.Now().After(limit) {
			t.Fatal("still not so: " + what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func gone(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || bytes.Contains(b, []byte(") Z "))
}

// copySelf puts this test binary where it has the given modes.
func copySelf(t testing.TB, dir string, mode os.FileMode) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "copy")
	if err := errors.Join(os.WriteFile(path, b, mode), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
	return path
}

// server is a program that contains a process tree and tells its pids.
func init() {
	roles["server"] = func() error {
		s := sh(`(setsid sleep 1000 &); echo started; sleep 1000`)
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		s.Stdout = w
		p, err := contain.Start(bg(), s)
		if err != nil {
			return err
		}
		if _, err := bufio.NewReader(r).ReadString('\n'); err != nil {
			return err
		}
		fmt.Println(p.PID())
		return p.Wait()
	}
}

// The server dies by SIGKILL and cannot clean up. What it contained must not
// live on with nobody at the doors.
//
// Threats: T58 (containment)
func TestServerKilledTakesAllWithIt(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"CONTAIN_TEST_ROLE=server"}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(line))
	family := sameNamespace(t, pid)
	if len(family) < 3 { // init, sh, two sleeps; a sleep may still be on its way
		t.Fatalf("processes inside: %v", family)
	}
	cmd.Process.Kill()
	cmd.Wait()
	for _, p := range family {
		await(t, fmt.Sprintf("process %d is gone", p), func() bool { return gone(p) })
	}
}

// sameNamespace lists the host pids in the PID namespace of pid. Its init is
// not dumpable, so only root sees that one by its namespace; it is the parent.
func sameNamespace(t testing.TB, pid int) []int {
	t.Helper()
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		t.Fatal(err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	parent, _ := strconv.Atoi(string(bytes.Fields(rest)[1]))
	out := []int{parent}
	es, _ := os.ReadDir("/proc")
	for _, e := range es {
		p, err := strconv.Atoi(e.Name())
		if err != nil || p == parent {
			continue
		}
		if got, err := os.Readlink("/proc/" + e.Name() + "/ns/pid"); err == nil && got == ns {
			out = append(out, p)
		}
	}
	return out
}

// All of this package's tests must also pass for a user without any privilege.
func TestWithoutRoot(t *testing.T) {
	if !root() {
		return // this whole run is that test
	}
	dir := t.TempDir()
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	home := filepath.Join(dir, "home")
	if err := errors.Join(os.Mkdir(home, 0o700), os.Chown(home, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	exe := copySelf(t, dir, 0o755)
	cmd := exec.CommandContext(t.Context(), exe, "-test.timeout=120s")
	cmd.Dir, cmd.Env = home, []string{"HOME=" + home, "TMPDIR=" + home, "PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestHostUsersAreDedicatedAndDistinct(t *testing.T) {
	seen := map[int]bool{}
	for range 4 {
		p := start(t, sh("sleep 1000"))
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(b), "\nUid:")
		f := strings.Fields(rest)
		if want := strconv.Itoa(p.HostUID()); f[0] != want || f[1] != want || f[2] != want || f[3] != want {
			t.Errorf("uids: got %v, want %s", f[:4], want)
		}
		_, rest, _ = strings.Cut(string(b), "\nGroups:")
		if groups, _, _ := strings.Cut(rest, "\n"); root() && strings.TrimSpace(groups) != "" {
			t.Errorf("root's groups stay: %s", groups)
		}
		if root() && (p.HostUID() < 0x5A000000 || p.HostUID() > 0x5AFFFFFF || seen[p.HostUID()]) {
			t.Errorf("uid %d is not dedicated", p.HostUID())
		}
		seen[p.HostUID()] = true
	}
}

func TestRangeOfHostUsers(t *testing.T) {
	for m, want := range map[string]int{
		"0 0 4294967295\n":           0x5A000000,
		"0 100000 65536\n":           32768,
		"0 1000 1\n1 100000 65536\n": 32769,
		"0 1000 1\n":                 -1,
		"0 1000 1000\n":              -1,
		"nonsense":                   -1,
		"":                           -1,
	} {
		first, _, err := contain.RangeOf(m)
		if err != nil {
			first = -1
		}
		if first != want {
			t.Errorf("%q: got %d, %v; want %d", m, first, err, want)
		}
	}
}

// The inside may try to end or stop its init, which would orphan it from the
// parent's view.
func TestInitCannotBeStoppedFromInside(t *testing.T) {
	got := output(t, sh(`kill -9 1; kill -STOP 1; kill -TSTP 1; (sleep 0.01 & ) ; echo alive`))
	if !strings.Contains(got, "alive") {
		t.Errorf("got %q", got)
	}
}

func TestOrphansAreReaped(t *testing.T) {
	got := output(t, sh(`i=0; while [ $i -lt 30 ]; do (/bin/true &) ; i=$((i+1)); done
n=0; while grep -qs '^State:.Z' /proc/[0-9]*/status; do n=$((n+1)); [ $n -gt 2000 ] && exit 9; done; echo reaped`))
	if got != "reaped\n" {
		t.Errorf("got %q", got)
	}
}

// A secret in the environment of the workload shows nowhere but there.
func TestSecretIsInNoProcessList(t *testing.T) {
	const secret = "s3cr3t-value-of-this-test"
	s := sh("sleep 1000")
	s.Env = append(s.Env, "TOKEN="+secret)
	p := start(t, s)
	family := sameNamespace(t, p.PID()) // its init first
	if env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", family[0])); len(env) != 0 {
		t.Errorf("init has an environment of %d bytes", len(env))
	}
	for _, pid := range family {
		if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); bytes.Contains(b, []byte(secret)) {
			t.Errorf("process %d shows it in its arguments", pid)
		}
	}
}

// A terminal is passed as standard input; the workload tries to type into it.
func TestTerminalInjection(t *testing.T) {
	m, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	n, err := unix.IoctlGetInt(int(m.Fd()), unix.TIOCGPTN)
	if err := errors.Join(err, unix.IoctlSetPointerInt(int(m.Fd()), unix.TIOCSPTLCK, 0)); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	s := spec(t, "inject")
	s.Stdin = tty
	if got, want := output(t, s), "operation not permitted\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func init() {
	roles["inject"] = func() error {
		unix.IoctlSetInt(0, unix.TIOCSCTTY, 0) // take it as controlling terminal first
		c := byte('x')
		_, _, e := unix.Syscall(unix.SYS_IOCTL, 0, unix.TIOCSTI, uintptr(unsafe.Pointer(&c)))
		fmt.Println(e)
		return nil
	}
	roles["eat"] = func() error {
		b := make([]byte, 1<<30)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		return nil
	}
	roles["greet"] = func() error {
		c, err := net.Dial("unix", "/run/workload/api.sock")
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, c)
		return err
	}
}

// Threats: T49 (containment)
func TestForkBombIsBounded(t *testing.T) {
	s := sh(`i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done; echo all started`)
	s.PidsMax = 64
	var out bytes.Buffer
	s.Stdout, s.Stderr = &out, &out
	p := start(t, s)
	await(t, "the shell gave up", func() bool {
		select {
		case <-p.Done():
			return true
		default:
			return false
		}
	})
	if strings.Contains(out.String(), "all started") {
		t.Error("200 processes within a limit of 64")
	}
}

// Threats: T49 (containment)
func TestMemoryIsBounded(t *testing.T) {
	s := spec(t, "eat")
	if err := start(t, s).Wait(); err != nil {
		t.Fatalf("without a limit: %v", err)
	}
	s.MemoryMax = 512 << 20
	if err := start(t, s).Wait(); err == nil {
		t.Error("1 GiB within a limit of 512 MiB")
	}
}

// The SPIFFE Workload API socket lies in a folder closed to everybody else and
// is shown alone. The server sees the contained uid as its peer.
func TestMountedSocketIsReachableAndKnowsItsPeer(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := errors.Join(os.Chmod(dir, 0o700), os.Chmod(path, 0o666)); err != nil {
		t.Fatal(err)
	}
	peer := make(chan int, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		raw, _ := c.(*net.UnixConn).SyscallConn()
		raw.Control(func(fd uintptr) {
			if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
				peer <- int(cred.Uid)
			}
		})
		io.WriteString(c, "hello workload")
	}()
	s := spec(t, "greet")
	s.Mounts = append(s.Mounts, contain.Mount{Source: path, Target: "/run/workload/api.sock"})
	var out bytes.Buffer
	s.Stdout, s.Stderr = &out, &out
	p := start(t, s)
	if err := p.Wait(); err != nil || out.String() != "hello workload" {
		t.Fatalf("got %q, %v", &out, err)
	}
	if got := <-peer; got != p.HostUID() {
		t.Errorf("peer uid: got %d, want %d", got, p.HostUID())
	}
}
