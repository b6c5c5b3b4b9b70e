// Package clients runs unmodified clients of the DevTools protocol against the
// CDP door and a real browser: Playwright, Puppeteer and Playwright's MCP server,
// in the versions of package-lock.json. Each scenario is something ordinary that
// somebody does with them; what is refused on purpose is a scenario too.
package clients

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/browser"
	"github.com/sallyport-dev/sallyport/internal/contain"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/surface/cdp"
	"github.com/sallyport-dev/sallyport/test/peer"
)

func TestMain(m *testing.M) {
	contain.Main()
	os.Exit(m.Run())
}

// site answers for every host that the browser asks its proxy for.
type site struct {
	mu   sync.Mutex
	hits []string
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	s.mu.Lock()
	s.hits = append(s.hits, fmt.Sprintf("%s %s%s %s", r.Method, r.Host, r.URL.Path, body))
	s.mu.Unlock()
	w.Header().Set("Origin-Agent-Cluster", "?1")
	w.Header().Set("Set-Cookie", "session=topsecretcookie; Path=/")
	switch r.URL.Path {
	case "/redirect":
		http.Redirect(w, r, "/form", http.StatusFound)
		return
	case "/data.json":
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"answer":42}`)
		return
	case "/report.csv", "/attached":
		w.Header().Set("Content-Type", "text/csv")
		w.Header().Set("Content-Disposition", `attachment; filename="report.csv"`)
		io.WriteString(w, "a,b\n1,2\n")
		return
	case "/worker.js":
		w.Header().Set("Content-Type", "text/javascript")
		io.WriteString(w, "onmessage=e=>postMessage(e.data*2)")
		return
	case "/seen":
		s.mu.Lock()
		defer s.mu.Unlock()
		json.NewEncoder(w).Encode(s.hits)
		return
	}
	page, err := os.ReadFile(filepath.Join("pages", filepath.Base(r.URL.Path)+".html"))
	if err != nil {
		w.WriteHeader(http.StatusNotFound)
		page = []byte("<title>not found</title>")
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Write(page)
}

// journal stands for door 2's, which has its own tests.
type journal struct {
	mu    sync.Mutex
	notes []string
}

func (j *journal) Note(id, kind, key string, e action.Element) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.notes = append(j.notes, kind+" "+key+" "+e.Tag+" "+e.Name)
}
func (j *journal) Forget(string) {}

type world struct {
	t testing.TB
	*site
	*journal
	url string
	// socket is where it was last.
	socket string
	kit    *gatetest.Kit
	b      *browser.Browser
	door   *cdp.Server
	tap    *tap
}

func open(t testing.TB, profile cdp.Profile, policy gatetest.Policy, edit ...func(*cdp.Config)) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a browser")
	}
	b, err := browser.Launch(t.Context(), browser.Config{})
	if err != nil {
		t.Fatal(err)
	}
	s, j := &site{}, &journal{}
	srv := &http.Server{Handler: s}
	go srv.Serve(b.ProxyListener())
	kit := gatetest.New(t, policy)
	version, _, _ := b.Facts()
	config := cdp.Config{Tenant: gatetest.Tenant, Task: gatetest.Task, Agent: gatetest.Agent, Profile: profile, Version: version,
		Width: 1280, Height: 800, Gate: kit.Gate, Journal: j,
		Open:  func(e cdp.Events) (cdp.Upstream, error) { return b.OpenClient(browser.ClientEvents(e)) },
		AppOf: func(string) string { return "site" }}
	for _, e := range edit {
		e(&config)
	}
	door, err := cdp.New(config)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sent := &tap{Listener: l}
	go door.Serve(sent)
	t.Cleanup(func() { door.Close(); b.Close(); srv.Close() })
	return &world{t: t, site: s, journal: j, url: "http://" + l.Addr().String(), kit: kit, b: b, door: door, tap: sent}
}

// until waits for what w's own parts will have seen.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for limit := time.Now().Add(15 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			w.t.Fatal(what)
		}
	}
}

// install brings the clients that the lock file names.
var install = sync.OnceValue(func() error { return peer.Modules(".") })

// scenario is what became of one, with the codes of what the door refused
// meanwhile.
type scenario struct {
	Name, Feature, Error string
	codes                []string
}

// script runs a file of scenarios with node, and says of each that did not pass
// that it failed.
func (w *world) script(t *testing.T, file string, args ...string) {
	t.Helper()
	all := w.run(t, file, args...)
	passed := 0
	for _, s := range all {
		t.Run(s.Name, func(t *testing.T) {
			if s.Error != "" {
				t.Error(s.Error)
			} else {
				passed++
			}
		})
	}
	t.Logf("%s: %d of %d scenarios pass", file, passed, len(all))
}

// run runs a file of scenarios with node. It prints one line for each: a JSON
// object with name, feature and, if it failed, error.
func (w *world) run(t *testing.T, file string, args ...string) []scenario {
	t.Helper()
	if err := install(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", append([]string{file, w.url}, args...)...)
	cmd.Env = append(os.Environ(), "PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	w.tap.heard(func(code string) {
		if code == "cdp_script" {
			in.Write([]byte("\n")) // to a client that may have ended
		}
	})
	defer w.tap.heard(nil)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []scenario
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var s scenario
		if json.Unmarshal(lines.Bytes(), &s) != nil || s.Name == "" {
			t.Logf("%s", lines.Text())
			continue
		}
		// What the door said was sent before the line was written.
		s.codes = w.tap.refusals()
		all = append(all, s)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: %v\n%s", file, err, stderr.String())
	}
	if len(all) == 0 {
		t.Errorf("%s ran no scenario", file)
	}
	return all
}

func TestPlaywright(t *testing.T) { ran(t, "playwright.mjs", cdp.Open).check(t) }

func TestPuppeteer(t *testing.T) { ran(t, "puppeteer.mjs", cdp.Open).check(t) }

func TestPlaywrightMCP(t *testing.T) { ran(t, "mcp.mjs", cdp.Open).check(t) }
