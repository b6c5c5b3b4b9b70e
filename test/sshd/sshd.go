// Package sshd runs OpenSSH's server for tests, in a folder of its own, on a port of
// the loopback. The system's service is left alone.
package sshd

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

// Server is one sshd.
type Server struct {
	Addr        string
	User        string // the only one that it can be for: who runs the tests
	CA          []byte // private, OpenSSH form
	HostKey     xssh.PublicKey
	HostPrivate []byte
	pid         int
	Log         *Buffer
}

// Buffer may be written and read at once.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends.
func (s *Buffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// String is all so far.
func (s *Buffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// NewKey makes a key pair: the private one in OpenSSH form.
func NewKey(t testing.TB) ([]byte, xssh.PublicKey) {
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

// Start gives a server that trusts one authority, and the principal "deploy" for who runs the
// tests.
func Start(t testing.TB) *Server {
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
	d := &Server{User: me.Username, Log: &Buffer{}}
	var caPub xssh.PublicKey
	var host []byte
	d.CA, caPub = NewKey(t)
	host, d.HostKey = NewKey(t)
	d.HostPrivate = host
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.Addr = l.Addr().String()
	_, port, _ := net.SplitHostPort(d.Addr)
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
	cmd.Stderr = d.Log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.pid = cmd.Process.Pid
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Log(d.Log)
		}
	})
	Await(t, "sshd", func() bool {
		c, err := net.Dial("tcp", d.Addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return d
}

// Children counts the processes of connections.
func (d *Server) Children() int {
	out, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", d.pid, d.pid))
	if err != nil {
		return -1
	}
	return len(strings.Fields(string(out)))
}

// Await polls for a state, with a limit.
func Await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("no %s in time", what)
}

// Source is the resource build of the sample tenant: certificates for this host, by
// the sealed secret ssh-ca (CA).
func (d *Server) Source() string {
	return fmt.Sprintf(`
---
apiVersion: sallyport/v1
kind: CredentialSource
metadata: {name: build, tenant: brightwell}
spec:
  type: ssh
  ssh:
    effect: read
    ca: {sealed: ssh-ca}
    user: %s
    principals: [deploy]
    sourceAddresses: [127.0.0.1]
    stages:
      sandbox: {address: "%s", hostKeys: ["%s"]}
`, d.User, d.Addr, bytes.TrimSpace(xssh.MarshalAuthorizedKey(d.HostKey)))
}
