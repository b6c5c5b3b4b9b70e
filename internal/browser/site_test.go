package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/contain"
)

func TestMain(m *testing.M) {
	contain.Main()
	if what := os.Getenv(networkVariable); what != "" {
		if err := networkProgram(what); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// site answers for every host that the browser asks its proxy for: pages by
// path, and a log of what was requested.
type site struct {
	mu    sync.Mutex
	pages map[string]string
	hits  []string // "METHOD host/path?query body"
	woken chan struct{}
	held  map[string]chan struct{} // by path: answered when it is closed
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	s.mu.Lock()
	hit := strings.TrimSpace(fmt.Sprintf("%s %s%s %s", r.Method, r.Host, (&url.URL{Path: r.URL.Path, RawQuery: r.URL.RawQuery}).String(), body))
	s.hits = append(s.hits, hit)
	page, ok := s.pages[r.URL.Path]
	close(s.woken)
	s.woken = make(chan struct{})
	held := s.held[r.URL.Path]
	s.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-r.Context().Done():
		}
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if strings.HasSuffix(r.URL.Path, ".js") {
		w.Header().Set("Content-Type", "text/javascript")
	}
	if strings.HasSuffix(r.URL.Path, ".pdf") {
		w.Header().Set("Content-Type", "application/pdf")
	}
	w.Header().Set("Origin-Agent-Cluster", "?1")
	switch {
	case r.URL.Path == "/cut":
		panic(http.ErrAbortHandler)
	case r.URL.Path == "/refused": // as the egress door answers
		w.Header().Set("Sallyport-Decision", "deny; code=ungoverned_origin; layer=guardrail; action=a1")
		w.WriteHeader(http.StatusForbidden)
	case !ok:
		w.WriteHeader(http.StatusNotFound)
	}
	io.WriteString(w, page)
}

func (s *site) set(path, html string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages[path] = html
}

// hold has a path answered only when release is called.
func (s *site) hold(path string) (release func()) {
	ch := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[path] = ch
	return func() { close(ch) }
}

// hit reports whether a request with that beginning has come.
func (s *site) hit(prefix string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.hits, func(h string) bool { return strings.HasPrefix(h, prefix) })
}

func (s *site) waitHit(t testing.TB, prefix string) {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		s.mu.Lock()
		ch := s.woken
		s.mu.Unlock()
		if s.hit(prefix) {
			return
		}
		select {
		case <-ch:
		case <-limit:
			s.mu.Lock()
			defer s.mu.Unlock()
			t.Fatalf("no request %q; got %q", prefix, s.hits)
		}
	}
}

type world struct {
	*Browser
	*site
	t testing.TB
}

func open(t testing.TB, cfg Config) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a browser")
	}
	b, err := Launch(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, b)
}

// serve answers for all that the browser asks for.
func serve(t testing.TB, b *Browser) *world {
	s := &site{pages: map[string]string{}, woken: make(chan struct{}), held: map[string]chan struct{}{}}
	srv := &http.Server{Handler: s}
	go srv.Serve(b.ProxyListener())
	t.Cleanup(func() { b.Close(); srv.Close() })
	return &world{b, s, t}
}

// mu guards what the site was asked for.
func (w *world) mu() *sync.Mutex { return &w.site.mu }

// load serves html at http://site.test/NAME and opens it.
func (w *world) load(name, html string) {
	w.t.Helper()
	w.set("/"+name, "<!doctype html><title>"+name+"</title>"+html)
	if err := w.Navigate(w.t.Context(), "http://site.test/"+name); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) ground(x, y float64) Grounded {
	w.t.Helper()
	g, err := w.Ground(w.t.Context(), x, y)
	if err != nil {
		w.t.Fatalf("ground %v,%v: %v", x, y, err)
	}
	return g
}

func (w *world) focus() Grounded {
	w.t.Helper()
	g, err := w.GroundFocus(w.t.Context())
	if err != nil {
		w.t.Fatalf("ground focus: %v", err)
	}
	return g
}

// do dispatches without a permit, under the rules of the one in flight.
func (w *world) do(g Grounded, in Input) error {
	if err := Check(g, in); err != nil {
		return err
	}
	return w.alone(w.t.Context(), func() error { return w.perform(w.t.Context(), g, in) })
}

func (w *world) must(g Grounded, in Input) {
	w.t.Helper()
	if err := w.do(g, in); err != nil {
		w.t.Fatalf("%T: %v", in, err)
	}
}

// eval runs script in the page's own world, as the page's author could.
func (w *world) eval(script string) string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	out, err := w.evaluate(ctx, script)
	if err != nil {
		w.t.Fatalf("%v: %s", err, script)
	}
	return out
}

func (w *world) evaluate(ctx context.Context, script string) (string, error) {
	page, err := w.current(ctx)
	if err != nil {
		return "", err
	}
	r, err := w.conn.eval(ctx, page.id, "Runtime.evaluate", obj{"expression": script, "returnByValue": true, "awaitPromise": true})
	var out string
	if err == nil && json.Unmarshal(r.Value, &out) != nil {
		out = string(r.Value)
	}
	return out, err
}

// until waits until script is true in the page, also across a navigation, which ends
// what is being evaluated.
func (w *world) until(script string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	var err error
	for ctx.Err() == nil {
		var out string
		if out, err = w.evaluate(ctx, "String(!!("+script+"))"); out == "true" {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.t.Fatalf("never true: %s (%v)", script, err)
}
