// Package urls holds the door's reading of addresses against the browser's: ten
// thousand hostile ones are given to real Chromium, which asks the real door for
// what it makes of them, and to the door as they are. Where both read another
// host or path, the door must not have let the request through.
//
// The addresses are the same in every run of a seed. 1,500 are tried by default,
// 10,000 when SALLYPORT_LONG is 1; SALLYPORT_SEED is another seed.
package urls

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/browser"
	"github.com/sallyport-dev/sallyport/internal/contain"
	"github.com/sallyport-dev/sallyport/internal/surface/egress"
)

func TestMain(m *testing.M) {
	contain.Main()
	os.Exit(m.Run())
}

const (
	batchSize = 200
	// stallLimit is how long the page may get no further: a batch asks for 20 s
	// at most, and opens 20 frames for 1.5 s each.
	stallLimit = 90 * time.Second
)

// page asks for batches of addresses until there are no more, and opens one in
// ten as a frame too. The Referer says which address a request is for. Nothing is
// waited for without a limit, and every few seconds the page says what it is at.
const page = `<!doctype html><title>urls</title><base href="/run"><body><script>
const read = u => { try { const x = new URL(u, document.baseURI); return {ok: true, open: /^https?:$/.test(x.protocol) && !x.username && !x.password, scheme: x.protocol.slice(0, -1), host: x.hostname, port: x.port, path: x.pathname, query: x.search.slice(1)} } catch { return {ok: false} } };
let at = {};
setInterval(() => call('/at', {method: 'POST', body: JSON.stringify(at)}), 5000);
const ask = async (id, u) => { try { await fetch(u, {mode: 'no-cors', credentials: 'omit', referrer: '/r/' + id, referrerPolicy: 'unsafe-url', cache: 'no-store', signal: AbortSignal.timeout(20000)}); return true } catch { return false } };
// Chromium drops calls of replaceState above 200 in 10 s, and says so to nobody.
const be = async path => { for (history.replaceState(null, '', path); location.pathname != path; history.replaceState(null, '', path)) await new Promise(r => setTimeout(r, 200)) };
const frame = (id, u) => new Promise(r => {
  const f = document.createElement('iframe');
  f.sandbox = ''; f.referrerPolicy = 'unsafe-url'; f.onload = f.onerror = () => r(); setTimeout(r, 1500);
  f.src = u; document.body.append(f);
});
// A kept connection that the door closes under a request is no answer.
const call = async (u, o) => { for (;;) { try { const r = await fetch(u, {cache: 'no-store', referrerPolicy: 'no-referrer', signal: AbortSignal.timeout(10000), ...o}); if (r.ok) return r } catch {} await new Promise(r => setTimeout(r, 100)) } };
(async () => {
  for (let from = 0;;) {
    const batch = await (await call('/next?from=' + from)).json();
    if (!batch.length) break;
    from += batch.length;
    const open = new Set(batch.map(b => b.id));
    const tell = what => at = {from, what, open: [...open].slice(0, 10)};
    const out = await Promise.all(batch.map(async ({id, u}) => { const a = {id, ...read(u), asked: await ask(id, u)}; open.delete(id); tell('asking'); return a }));
    for (const {id, u} of batch) if (id % 10 == 0 && read(u).open) { at = {from, what: 'frame', open: [id]}; await be('/r/f' + id); await frame('f' + id, u) }
    tell('telling');
    document.body.replaceChildren();
    await call('/done', {method: 'POST', body: JSON.stringify(out)});
  }
})();
</script>`

// answer is what the browser says of one address.
type answer struct {
	ID                              string
	OK, Asked                       bool
	Scheme, Host, Port, Path, Query string
}

func (a answer) reading() reading { return reading{a.Scheme, a.Host, a.Port, a.Path, a.Query} }

// pageServer hands the addresses out and collects the answers.
type pageServer struct {
	urls    []string
	mu      sync.Mutex
	answers map[string]answer
	at      string    // what the page is at, in its own words
	said    time.Time // when
	end     sync.Once
	over    chan struct{}
}

func (s *pageServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Cache-Control", "no-store")
	switch r.URL.Path {
	case "/run":
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, page)
	case "/next":
		type item struct {
			ID string `json:"id"`
			U  string `json:"u"`
		}
		from, err := strconv.Atoi(r.URL.Query().Get("from"))
		if err != nil || from < 0 || from > len(s.urls) {
			http.Error(w, "from", http.StatusBadRequest)
			return
		}
		batch := []item{}
		for i := from; i < min(from+batchSize, len(s.urls)); i++ {
			batch = append(batch, item{strconv.Itoa(i), s.urls[i]})
		}
		json.NewEncoder(w).Encode(batch)
		if len(batch) == 0 {
			s.end.Do(func() { close(s.over) })
		}
	case "/done":
		var out []answer
		if err := json.NewDecoder(r.Body).Decode(&out); err != nil {
			http.Error(w, "answers", http.StatusBadRequest)
			return
		}
		for _, a := range out {
			s.answers[a.ID] = a
		}
	case "/at":
		b, err := io.ReadAll(io.LimitReader(r.Body, 1<<10))
		if err == nil {
			s.at, s.said = string(b), time.Now()
		}
	default:
		http.NotFound(w, r)
	}
}

// asked is how many addresses the page is through with.
func (s *pageServer) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.answers)
}

// Threats: A1, A2, A3, A4, A5, A6, A7, A8, A9, A10, A11, A12, A13, D1, T40 (form)
func TestHostileURLs(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	n, seed := 1500, uint64(1)
	if os.Getenv("SALLYPORT_LONG") == "1" {
		n = 10000
	}
	if s := os.Getenv("SALLYPORT_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	urls := generate(seed, n)
	s := &pageServer{urls: urls, answers: map[string]answer{}, over: make(chan struct{})}
	w := newWorld(t)
	w.Handler = s
	askBrowser(t, w, s)
	if len(s.answers) != n {
		t.Fatalf("the browser answered for %d of %d addresses", len(s.answers), n)
	}
	asked := w.judge(t, urls, s.answers, "", true)
	frames := w.judge(t, urls, s.answers, "f", true)
	door := w.door(t, false)
	reached := askDoor(t, w, door, urls)
	raw := w.judge(t, urls, s.answers, "w", false)
	invalid := 0
	for _, a := range s.answers {
		if !a.OK {
			invalid++
		}
	}
	t.Logf("seed %d, %d addresses: the browser refuses %d; let through: %d asked for by the page, %d as frames, %d of %d sent to the door as they are",
		seed, n, invalid, asked, frames, raw, reached)
	// A run in which nothing was asked or let through shows nothing.
	if asked < n/4 || frames < n/100 || raw < n/50 || reached < n/3 || invalid < n/50 {
		t.Error("too few addresses were let through or refused to compare anything")
	}
}

// askBrowser runs the page. Its door lets through everything that has one form,
// so that only the door's own reading is held against the browser's.
func askBrowser(t *testing.T, w *world, s *pageServer) {
	t.Helper()
	door := w.door(t, true)
	b, err := browser.Launch(t.Context(), browser.Config{TrustSPKI: door.SPKI()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	go door.Serve(b.ProxyListener())
	if err := b.Navigate(t.Context(), control+"/run"); err != nil {
		t.Fatal(err)
	}
	was, since := 0, time.Now()
	for {
		select {
		case <-s.over:
			return
		case <-b.Done():
			t.Fatal("the browser has ended")
		case <-time.After(5 * time.Second):
			if now := s.asked(); now > was {
				was, since = now, time.Now()
			} else if time.Since(since) > stallLimit {
				stalled(t, w, s, b)
			}
		}
	}
}

// stalled says where the page, the browser and the door are.
func stalled(t *testing.T, w *world, s *pageServer, b *browser.Browser) {
	t.Helper()
	_, err := b.Screenshot(t.Context())
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	s.mu.Lock()
	defer s.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	t.Fatalf("the page has asked for %d of %d addresses and gets no further; %v ago it was at %s; a picture of it: %v; %d were decided, %d came\n%s",
		len(s.answers), len(s.urls), time.Since(s.said).Round(time.Second), s.at, err, len(w.decided), len(w.came), stacks)
}

// judge compares what was let through under an id with what the browser says of
// that address, and with what came out at the other end.
func (w *world) judge(t *testing.T, urls []string, answers map[string]answer, prefix string, sent bool) (through int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, u := range urls {
		id, a := prefix+strconv.Itoa(i), answers[strconv.Itoa(i)]
		for k, d := range w.decided[id] {
			through++
			if !a.OK {
				t.Errorf("%q: the door lets %+v through, the browser does not read it", u, d)
			} else if what := differ(a.reading(), d, sent); what != "" {
				t.Errorf("%q: the door lets another %s through: %+v, the browser reads %+v", u, what, d, a.reading())
			}
			if came := w.came[id]; k < len(came) && came[k] != d {
				t.Errorf("%q: decided %+v, sent %+v", u, d, came[k])
			}
		}
		if len(w.came[id]) > len(w.decided[id]) {
			t.Errorf("%q: %d requests came, %d were decided", u, len(w.came[id]), len(w.decided[id]))
		}
	}
	return through
}

// askDoor gives each address to the door as a client would that does not look
// at it: in the absolute form, or cut after its authority for CONNECT.
func askDoor(t *testing.T, w *world, door *egress.Proxy, urls []string) (reached int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go door.Serve(l)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(door.CAPEM())
	var next, count atomic.Int64
	var all sync.WaitGroup
	for range 64 { // the door waits a little for clients that it refuses
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(urls)); i = next.Add(1) - 1 {
				if sendRaw(t, l.Addr().String(), roots, fmt.Sprintf("w%d", i), urls[i]) {
					count.Add(1)
				}
			}
		})
	}
	all.Wait()
	return int(count.Load())
}

// sendRaw reports whether there is a way to send the address at all.
func sendRaw(t *testing.T, proxy string, roots *x509.CertPool, id, u string) bool {
	scheme, rest, ok := strings.Cut(u, "://")
	secure := strings.EqualFold(scheme, "https")
	if !ok || !secure && !strings.EqualFold(scheme, "http") {
		return false
	}
	cut := strings.IndexAny(rest, "/?#")
	if cut < 0 {
		cut = len(rest)
	}
	authority, path := rest[:cut], rest[cut:]
	c, err := net.Dial("tcp", proxy)
	if err != nil {
		t.Error(err)
		return false
	}
	defer func() { c.Close() }()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	target, host := u, authority
	if secure {
		if !strings.Contains(authority[strings.LastIndexByte(authority, ']')+1:], ":") {
			authority += ":443"
		}
		fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority)
		resp, err := http.ReadResponse(bufio.NewReaderSize(c, 1), &http.Request{Method: "CONNECT"})
		if err != nil || resp.StatusCode != 200 {
			return true
		}
		name := strings.ToLower(strings.TrimSuffix(authority[:strings.LastIndexByte(authority, ':')], "."))
		tc := tls.Client(c, &tls.Config{RootCAs: roots, ServerName: strings.Trim(name, "[]")})
		if tc.Handshake() != nil {
			return true
		}
		c, target = tc, path
		if !strings.HasPrefix(path, "/") {
			target = "/" + path
		}
	}
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nReferer: %s/r/%s\r\nConnection: close\r\n\r\n", target, host, control, id)
	io.Copy(io.Discard, c)
	return true
}
