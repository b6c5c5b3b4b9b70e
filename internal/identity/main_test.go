package identity_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"

	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
	"github.com/sallyport-dev/sallyport/internal/record"
)

const (
	issuerURL = "https://sallyport.example/t/acme"
	childEnv  = "SALLYPORT_IDENTITY_TEST_SOCKET"
)

// TestMain is the workload when childEnv is set: a process in a network
// namespace of its own that uses go-spiffe's Workload API client, unmodified.
func TestMain(m *testing.M) {
	if sock := os.Getenv(childEnv); sock != "" {
		childMain(sock)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// reply is one line of the child's standard output.
type reply struct {
	Code   string   `json:"code"` // gRPC status code, "OK" if none
	Error  string   `json:"error,omitempty"`
	ID     string   `json:"id,omitempty"`
	Serial string   `json:"serial,omitempty"`
	Cert   []byte   `json:"cert,omitempty"`
	Token  string   `json:"token,omitempty"`
	Has    []string `json:"has,omitempty"`
}

func childMain(sock string) {
	out := json.NewEncoder(os.Stdout)
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		f := strings.Fields(in.Text())
		if f[0] == "exit" {
			return
		}
		if f[0] == "pass" { // connect, and give the connection away on fd 3
			out.Encode(passConn(sock))
			continue
		}
		if f[0] == "watch" {
			go watch(sock, out)
			continue
		}
		out.Encode(call(sock, f[0], f[1:]))
	}
}

func fail(err error) reply {
	return reply{Code: status.Code(err).String(), Error: err.Error()}
}

func call(sock, verb string, args []string) reply {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := workloadapi.New(ctx, workloadapi.WithAddr("unix://"+sock))
	if err != nil {
		return fail(err)
	}
	defer c.Close()
	switch verb {
	case "x509":
		s, err := c.FetchX509SVID(ctx)
		if err != nil {
			return fail(err)
		}
		return reply{Code: "OK", ID: s.ID.String(), Serial: s.Certificates[0].SerialNumber.Text(16), Cert: s.Certificates[0].Raw}
	case "jwt":
		s, err := c.FetchJWTSVID(ctx, jwtsvid.Params{Audience: args[0], ExtraAudiences: args[1:]})
		if err != nil {
			return fail(err)
		}
		return reply{Code: "OK", ID: s.ID.String(), Token: s.Marshal()}
	case "validate":
		s, err := c.ValidateJWTSVID(ctx, args[0], args[1])
		if err != nil {
			return fail(err)
		}
		return reply{Code: "OK", ID: s.ID.String()}
	case "bundles":
		x, err := c.FetchX509Bundles(ctx)
		if err != nil {
			return fail(err)
		}
		j, err := c.FetchJWTBundles(ctx)
		if err != nil {
			return fail(err)
		}
		r := reply{Code: "OK"}
		for _, b := range x.Bundles() {
			r.Has = append(r.Has, fmt.Sprintf("x509 %s %d", b.TrustDomain(), len(b.X509Authorities())))
		}
		for _, b := range j.Bundles() {
			r.Has = append(r.Has, fmt.Sprintf("jwt %s %d", b.TrustDomain(), len(b.JWTAuthorities())))
		}
		return r
	}
	return reply{Code: "Unknown", Error: verb}
}

type watcher struct {
	out    *json.Encoder
	mu     sync.Mutex
	cancel context.CancelFunc
}

func (w *watcher) OnX509ContextUpdate(c *workloadapi.X509Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := c.DefaultSVID()
	w.out.Encode(reply{Code: "OK", ID: s.ID.String(), Serial: s.Certificates[0].SerialNumber.Text(16)})
}

func (w *watcher) OnX509ContextWatchError(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out.Encode(fail(err))
	w.cancel()
}

func watch(sock string, out *json.Encoder) {
	ctx, cancel := context.WithCancel(context.Background())
	workloadapi.WatchX509Context(ctx, &watcher{out: out, cancel: cancel}, workloadapi.WithAddr("unix://"+sock))
}

func passConn(sock string) reply {
	c, err := net.Dial("unix", sock)
	if err != nil {
		return fail(err)
	}
	f, err := c.(*net.UnixConn).File()
	if err != nil {
		return fail(err)
	}
	if err := unix.Sendmsg(3, []byte{0}, unix.UnixRights(int(f.Fd())), nil, 0); err != nil {
		return fail(err)
	}
	return reply{Code: "OK"}
}

// child is a workload process under test.
type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    *bufio.Writer
	lines chan reply
}

// startChild starts a workload in a network namespace of its own.
func startChild(t *testing.T, sock string, extra ...*os.File) *child {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+sock)
	cmd.ExtraFiles = extra
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, cmd: cmd, in: bufio.NewWriter(stdin), lines: make(chan reply, 100)}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	go func() {
		defer close(c.lines)
		s := bufio.NewScanner(stdout)
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			var r reply
			if json.Unmarshal(s.Bytes(), &r) == nil {
				c.lines <- r
			}
		}
	}()
	return c
}

func (c *child) send(line string) {
	c.t.Helper()
	c.in.WriteString(line + "\n")
	if err := c.in.Flush(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *child) next() reply {
	c.t.Helper()
	select {
	case r, ok := <-c.lines:
		if !ok {
			c.t.Fatal("the workload ended")
		}
		return r
	case <-time.After(30 * time.Second):
		c.t.Fatal("no answer from the workload in 30 s")
	}
	return reply{}
}

func (c *child) do(line string) reply {
	c.t.Helper()
	c.send(line)
	return c.next()
}

// launch is the launch that registers the child.
func (c *child) launch(task string) identity.Launch {
	c.t.Helper()
	fi, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", c.cmd.Process.Pid))
	if err != nil {
		c.t.Fatal(err)
	}
	return identity.Launch{
		Tenant: "acme", Agent: "helpdesk", Task: task, PID: c.cmd.Process.Pid,
		NetNS: fi.Sys().(*syscall.Stat_t).Ino, HostUID: uint32(os.Getuid()),
		BinaryDigest: "sha256:" + "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
	}
}

// authority is a switch: live until it is not.
type authority struct {
	dead  atomic.Bool
	chain []string // above every task
}

func (a *authority) Live(context.Context, string, string) ([]string, error) {
	if a.dead.Load() {
		return nil, errors.New("epoch is over")
	}
	return a.chain, nil
}

// faultyLog fails Append while it is down.
type faultyLog struct {
	record.Log
	down  atomic.Bool
	after func(record.Draft) // called after a record is durable
}

func (l *faultyLog) Append(ctx context.Context, d record.Draft) (record.Entry, error) {
	if l.down.Load() {
		return record.Entry{}, errors.New("disk is full")
	}
	e, err := l.Log.Append(ctx, d)
	if l.after != nil && err == nil {
		l.after(d)
	}
	return e, err
}

// fixture is an issuer with its log.
type fixture struct {
	log    *faultyLog
	seal   record.Sealer
	live   *authority
	issuer *identity.Issuer
}

func newFixture(t testing.TB, cfg identity.Config) *fixture {
	t.Helper()
	f := &fixture{log: &faultyLog{Log: ledgertest.New(t)}, live: &authority{}}
	var err error
	if f.seal, err = ledgertest.Root(t).Sealer("acme"); err != nil {
		t.Fatal(err)
	}
	f.issuer = f.open(t, cfg)
	return f
}

func (f *fixture) open(t testing.TB, cfg identity.Config) *identity.Issuer {
	t.Helper()
	if cfg.TrustDomain == "" {
		cfg.TrustDomain = "acme.example"
	}
	if cfg.IssuerURL == "" {
		cfg.IssuerURL = issuerURL
	}
	i, err := identity.Open(t.Context(), f.log, f.seal, f.live, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	return i
}

// entries returns the bodies of the records of a type.
func (f *fixture) entries(t *testing.T, typ string) []map[string]any {
	t.Helper()
	var out []map[string]any
	err := f.log.Entries(context.WithoutCancel(t.Context()), 0, func(e record.Entry) error {
		if e.Type == typ {
			var m map[string]any
			if err := json.Unmarshal(e.Body, &m); err != nil {
				return err
			}
			out = append(out, m)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// serve serves the Workload API on a new socket.
func (f *fixture) serve(t *testing.T, a identity.Attestor) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "spid") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	sock := filepath.Join(dir, "w.sock")
	l, err := identity.ListenWorkload(sock)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.issuer.ServeWorkload(ctx, l, a) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return sock
}

func aWorkload() identity.Workload {
	return identity.Workload{Tenant: "acme", Agent: "helpdesk", Task: "t-1", Selectors: []string{"test"}}
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	r, ok := errors.AsType[*identity.Refusal](err)
	if !ok || r.Code != code {
		t.Errorf("got %v, want refusal %s", err, code)
	}
}

func mustCert(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
