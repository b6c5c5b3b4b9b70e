package ssh

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"
)

// sshd is OpenSSH's server in a folder of its own, on a port of the loopback.
type sshd struct {
	addr        string
	user        string // the only one that it can be for: who runs the tests
	ca          []byte // private, OpenSSH form
	hostKey     xssh.PublicKey
	hostPrivate []byte
	pid         int
	log         *safeBuffer
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newKey(t testing.TB) ([]byte, xssh.PublicKey) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := xssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	pub, err := xssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block), pub
}

func write(t testing.TB, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// startSSHD trusts one authority, and the principal "deploy" for who runs the
// tests.
func startSSHD(t testing.TB) *sshd {
	t.Helper()
	path, err := exec.LookPath("sshd")
	if err != nil {
		if path = "/usr/sbin/sshd"; exec.Command("test", "-x", path).Run() != nil {
			t.Fatal("this test needs OpenSSH's server, such as Debian's openssh-server")
		}
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if me.Uid == "0" { // where sshd of root puts its children; an empty folder
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", "sshd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &sshd{user: me.Username, log: &safeBuffer{}}
	var caPub xssh.PublicKey
	var host []byte
	d.ca, caPub = newKey(t)
	host, d.hostKey = newKey(t)
	d.hostPrivate = host
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.addr = l.Addr().String()
	_, port, _ := net.SplitHostPort(d.addr)
	l.Close()
	write(t, filepath.Join(dir, "host"), host)
	write(t, filepath.Join(dir, "ca.pub"), xssh.MarshalAuthorizedKey(caPub))
	write(t, filepath.Join(dir, "principals"), []byte("deploy\n"))
	write(t, filepath.Join(dir, "config"), fmt.Appendf(nil, `ListenAddress 127.0.0.1:%s
HostKey %[2]s/host
PidFile none
TrustedUserCAKeys %[2]s/ca.pub
AuthorizedPrincipalsFile %[2]s/principals
AuthorizedKeysFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin yes
MaxStartups 100
LogLevel VERBOSE
`, port, dir))
	cmd := exec.Command(path, "-D", "-e", "-f", filepath.Join(dir, "config"))
	cmd.Stderr = d.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.pid = cmd.Process.Pid
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Log(d.log)
		}
	})
	await(t, "sshd", func() bool {
		c, err := net.Dial("tcp", d.addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return d
}

// children are the processes of connections.
func (d *sshd) children() int {
	out, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", d.pid, d.pid))
	if err != nil {
		return -1
	}
	return len(strings.Fields(string(out)))
}

func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("no %s in time", what)
}
