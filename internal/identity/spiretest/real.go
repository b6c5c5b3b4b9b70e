package spiretest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Real is a SPIRE server and its agent, on this machine.
type Real struct {
	Socket string // of the agent's Workload API

	t     testing.TB
	dir   string // of the programs
	state string
	agent *exec.Cmd
	node  string
}

// Peer is what Agent and Real are to a test that runs against both.
type Peer interface {
	At() string // socket of the Workload API
	Register(id string, life time.Duration) (remove func())
	Stop()
	Serve()
}

// StartPeer starts SPIRE's programs if the folder SALLYPORT_TEST_SPIRE has them
// (scripts/spire.sh builds them), and otherwise an Agent.
func StartPeer(t testing.TB, td string) Peer {
	t.Helper()
	if dir := os.Getenv("SALLYPORT_TEST_SPIRE"); dir != "" {
		return StartReal(t, dir, td)
	}
	return Start(t, td)
}

// StartReal starts the programs of a folder.
func StartReal(t testing.TB, dir, td string) *Real {
	t.Helper()
	r := &Real{t: t, dir: dir, node: "spiffe://" + td + "/node"}
	var err error
	if r.state, err = os.MkdirTemp("", "spire"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(r.state) })
	r.Socket = filepath.Join(r.state, "agent.sock")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	r.config("server", fmt.Sprintf(`server {
  bind_address = "127.0.0.1"
  bind_port = %d
  socket_path = %q
  trust_domain = %q
  data_dir = %q
  log_level = "WARN"
}
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3", connection_string = %q } }
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
}
`, port, r.path("server.sock"), td, r.state, r.path("server.db")))
	r.start("spire-server", "run", "-config", r.path("server.conf"))
	r.until("the server", func() bool { return r.try("spire-server", "healthcheck", "-socketPath", r.path("server.sock")) == nil })
	r.config("agent", fmt.Sprintf(`agent {
  server_address = "127.0.0.1"
  server_port = %d
  socket_path = %q
  trust_domain = %q
  data_dir = %q
  trust_bundle_path = %q
  log_level = "WARN"
}
plugins {
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "disk" { plugin_data { directory = %q } }
  WorkloadAttestor "unix" { plugin_data {} }
}
`, port, r.Socket, td, r.state, r.path("bundle.pem"), r.state))
	if err := os.WriteFile(r.path("bundle.pem"), []byte(r.ask("bundle", "show")), 0o600); err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(strings.TrimPrefix(r.ask("token", "generate", "-spiffeID", r.node), "Token: "))
	r.agent = r.start("spire-agent", "run", "-config", r.path("agent.conf"), "-joinToken", token)
	r.until("the agent", func() bool { _, err := os.Stat(r.Socket); return err == nil })
	return r
}

func (r *Real) path(name string) string { return filepath.Join(r.state, name) }

func (r *Real) config(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(r.path(name+".conf"), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *Real) start(program string, args ...string) *exec.Cmd {
	r.t.Helper()
	c := exec.Command(filepath.Join(r.dir, program), args...)
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { stop(c) })
	return c
}

func stop(c *exec.Cmd) {
	c.Process.Kill()
	c.Wait()
}

func (r *Real) try(program string, args ...string) error {
	return exec.Command(filepath.Join(r.dir, program), args...).Run()
}

// ask asks the server's own interface.
func (r *Real) ask(args ...string) string {
	r.t.Helper()
	args = append(args, "-socketPath", r.path("server.sock"))
	b, err := exec.Command(filepath.Join(r.dir, "spire-server"), args...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("spire-server %s: %v: %s", strings.Join(args, " "), err, b)
	}
	return string(b)
}

func (r *Real) until(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("SPIRE: waited too long for %s", what)
		}
	}
}

var entryID = regexp.MustCompile(`(?m)^Entry ID\s*: (\S+)$`)

// Register makes an entry for this process's user, and returns what takes it away.
func (r *Real) Register(id string, life time.Duration) (remove func()) {
	r.t.Helper()
	ttl := strconv.Itoa(int(life.Seconds()))
	m := entryID.FindStringSubmatch(r.ask("entry", "create", "-parentID", r.node, "-spiffeID", id, "-selector", "unix:uid:"+strconv.Itoa(os.Getuid()), "-x509SVIDTTL", ttl, "-jwtSVIDTTL", ttl))
	if m == nil {
		r.t.Fatal("SPIRE: the entry has no ID")
	}
	return func() { r.ask("entry", "delete", "-entryID", m[1]) }
}

// At is the socket of the Workload API.
func (r *Real) At() string { return r.Socket }

// Stop kills the agent.
func (r *Real) Stop() { stop(r.agent) }

// Serve starts the agent again, on what it kept.
func (r *Real) Serve() {
	r.t.Helper()
	r.agent = r.start("spire-agent", "run", "-config", r.path("agent.conf"))
}
