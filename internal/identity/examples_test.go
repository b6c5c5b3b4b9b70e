package identity_test

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// programs are builds of go-spiffe's own examples. What an example has as a
// constant and we cannot choose (socket, address, the SPIFFE IDs of the two) is
// put in its place in a build overlay; nothing else of it is touched.
type programs struct {
	t         *testing.T
	dir, root string
	names     *strings.Replacer
	overlay   map[string]string
}

func newPrograms(t *testing.T, replace ...string) *programs {
	t.Helper()
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/spiffe/go-spiffe/v2").Output()
	if err != nil {
		t.Fatal(err)
	}
	return &programs{t, t.TempDir(), strings.TrimSpace(string(root)), strings.NewReplacer(replace...), map[string]string{}}
}

// edit puts one example into the overlay.
func (p *programs) edit(example string) {
	p.t.Helper()
	from := filepath.Join(p.root, "examples", example, "main.go")
	b, err := os.ReadFile(from)
	if err != nil {
		p.t.Fatal(err)
	}
	to := filepath.Join(p.dir, strings.ReplaceAll(example, "/", "-")+".go")
	if err := os.WriteFile(to, []byte(p.names.Replace(string(b))), 0o600); err != nil {
		p.t.Fatal(err)
	}
	// Beside this package and not in the module cache, which an overlay may not
	// touch. The folder exists in the overlay alone.
	here, err := filepath.Abs(".")
	if err != nil {
		p.t.Fatal(err)
	}
	p.overlay[filepath.Join(here, "examples", example, "main.go")] = to
}

// build builds all that are in the overlay, in one run of the compiler.
func (p *programs) build(examples ...string) map[string]string {
	p.t.Helper()
	out := map[string]string{}
	for _, e := range examples {
		p.edit(e)
	}
	b, err := json.Marshal(map[string]any{"Replace": p.overlay})
	if err != nil {
		p.t.Fatal(err)
	}
	file := filepath.Join(p.dir, "overlay.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		p.t.Fatal(err)
	}
	for _, e := range examples {
		out[e] = filepath.Join(p.dir, strings.ReplaceAll(e, "/", "-"))
		cmd := exec.Command("go", "build", "-overlay", file, "-ldflags", "-s -w", "-o", out[e], "./examples/"+e)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if msg, err := cmd.CombinedOutput(); err != nil {
			p.t.Fatalf("build %s: %v\n%s", e, err, msg)
		}
	}
	return out
}

// output is what a program writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) { o.mu.Lock(); defer o.mu.Unlock(); return o.b.Write(b) }
func (o *output) String() string              { o.mu.Lock(); defer o.mu.Unlock(); return o.b.String() }

func start(t *testing.T, path string) *output {
	t.Helper()
	var o output
	cmd := exec.Command(path)
	cmd.Stdout, cmd.Stderr = &o, &o
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return &o
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return "localhost:" + port
}

// go-spiffe's examples work against our socket: mutual TLS between two trust
// domains that federate, a server that takes JWT-SVIDs, and a watcher that sees
// the SVID change without asking again.
func TestGoSPIFFEExamples(t *testing.T) {
	if testing.Short() {
		t.Skip("builds five programs")
	}
	server := newFixture(t, identity.Config{})
	client := newFixture(t, identity.Config{TrustDomain: "partner.example", IssuerURL: "https://partner.example/t/p", X509TTL: 2 * time.Second})
	for _, x := range []struct{ of, with *fixture }{{server, client}, {client, server}} {
		url, roots := webEndpoint(t, x.with.issuer.BundleEndpoint())
		if err := x.of.issuer.Federate(t.Context(), []identity.Federation{{TrustDomain: x.with.issuer.TrustDomain(), Endpoint: url, Profile: identity.ProfileWeb, Roots: roots}}); err != nil {
			t.Fatal(err)
		}
		if err := x.of.issuer.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	serverSock, clientSock := server.serve(t, as(aWorkload())), client.serve(t, as(aWorkload()))
	tlsAddr, jwtAddr := freeAddr(t), freeAddr(t)
	const clientID = "spiffe://partner.example/agent/helpdesk/task/t-1"
	names := func(sock, jwt string) []string {
		return []string{"unix:///tmp/agent.sock", "unix://" + sock, "spiffe://example.org/server", wantID, "spiffe://example.org/client", clientID,
			"localhost:55555", tlsAddr, "https://localhost:8443", "https://" + jwt, `":8443"`, `"` + jwt + `"`}
	}
	servers := newPrograms(t, names(serverSock, jwtAddr)...).build("spiffe-tls/server", "spiffe-jwt/server")
	clients := newPrograms(t, names(clientSock, jwtAddr)...).build("spiffe-tls/client", "spiffe-jwt/client", "spiffe-watcher")
	listening := func(addr string) {
		await(t, addr, func() bool {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
	}
	out := map[string]*output{}
	for _, e := range []string{"spiffe-tls/server", "spiffe-jwt/server"} {
		out[e] = start(t, servers[e])
	}
	listening(tlsAddr)
	listening(jwtAddr)
	for _, e := range []string{"spiffe-tls/client", "spiffe-jwt/client", "spiffe-watcher"} {
		out[e] = start(t, clients[e])
	}
	defer func() {
		if t.Failed() {
			for e, o := range out {
				t.Logf("%s:\n%s", e, o)
			}
		}
	}()
	await(t, "mutual TLS", func() bool {
		return strings.Contains(out["spiffe-tls/client"].String(), `Server says: "Hello client\n"`)
	})
	await(t, "the JWT-SVID", func() bool { return strings.Contains(out["spiffe-jwt/client"].String(), "Success!!!") })
	await(t, "three SVIDs", func() bool { return strings.Count(out["spiffe-watcher"].String(), "SVID updated for \""+clientID) >= 3 })
	if !strings.Contains(out["spiffe-watcher"].String(), "jwt bundle updated \"acme.example\"") {
		await(t, "the partner's JWT bundle", func() bool { return strings.Contains(strings.ToLower(out["spiffe-watcher"].String()), "acme.example") })
	}
}
