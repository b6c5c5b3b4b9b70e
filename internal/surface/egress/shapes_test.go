package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// TestVulnerabilityShapes carries out what a vulnerability of another proxy,
// gateway or reader was, against this door. The name is the identifier of the
// other's; the shape is said in one line.
//
// Threats: C1, C2, C3, C5, C7, C9, C11, C12, D1, D2, D3, D4, A9, A12, M2, B8 (door, form)
func TestVulnerabilityShapes(t *testing.T) {
	o := newOrigin(t, true, func(w http.ResponseWriter, r *http.Request) {
		if to := r.URL.Query().Get("to"); to != "" {
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusTemporaryRedirect)
			return
		}
		io.WriteString(w, "hello")
	})
	other := newOriginAt(t, "mail.localhost", true, nil)
	r := newRig(t, o, nil, func(c *Config) {
		c.Credentials = onlyFor{o.authority(), &jar{value: "secret-of-app"}}
		both(c, o, other)
	})
	// refused sends bytes in a tunnel: nothing may arrive.
	refused := func(t *testing.T, in, code string) {
		t.Helper()
		before := len(o.all())
		c, err := r.tlsTunnel(t, o.authority(), o.host, "http/1.1")
		if err != nil {
			t.Fatal(err)
		}
		status, h, _ := raw(t, c, strings.ReplaceAll(in, "HOST", o.authority()))
		wantDenied(t, status, h, code)
		if all := o.all(); len(all) != before {
			t.Errorf("arrived: %+v", all[before:])
		}
	}
	// arrived sends bytes that pass, and returns what the origin got.
	arrived := func(t *testing.T, in string) seen {
		t.Helper()
		before := len(o.all())
		c, err := r.tlsTunnel(t, o.authority(), o.host, "http/1.1")
		if err != nil {
			t.Fatal(err)
		}
		if status, h, _ := raw(t, c, strings.ReplaceAll(in, "HOST", o.authority())); status >= 400 {
			t.Fatalf("got %d %v", status, h)
		}
		all := o.all()
		if len(all) != before+1 {
			t.Fatalf("%d requests arrived", len(all)-before)
		}
		return all[before]
	}
	for _, c := range []struct {
		id, shape string
		try       func(*testing.T)
	}{
		{"CVE-2024-37051", "a credential is sent to another host than its own", func(t *testing.T) {
			get(t, r.client(true), other.name()+"/")
			for _, q := range other.all() {
				if strings.Contains(fmt.Sprint(q.Header), "secret-of-app") {
					t.Errorf("arrived elsewhere: %v", q.Header)
				}
			}
			if len(other.all()) == 0 || arrived(t, "GET / HTTP/1.1\r\nHost: HOST\r\n\r\n").Header.Get("Cookie") != "session=secret-of-app" {
				t.Error("nothing was asked, or without its credential")
			}
		}},
		{"CVE-2024-45336", "a redirect to another origin and back gets the credential", func(t *testing.T) { redirectKeepsCredential(t, r, o, other) }},
		{"CVE-2025-4673", "a proxy credential follows a redirect", func(t *testing.T) {
			if q := arrived(t, "GET /?to=https://evil.example/ HTTP/1.1\r\nHost: HOST\r\nProxy-Authorization: Basic x\r\nProxy-Authenticate: y\r\n\r\n"); strings.Contains(fmt.Sprint(q.Header), "Proxy-") {
				t.Errorf("got %v", q.Header)
			}
		}},
		{"CVE-2025-68121", "a session is resumed after the trusted roots changed", func(t *testing.T) { noResumption(t) }},
		{"CVE-2025-22871", "a bare LF ends a chunk's size", func(t *testing.T) {
			refused(t, "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n", "bare_lf")
		}},
		{"CVE-2026-39825", "parameters behind the last that is parsed are sent", func(t *testing.T) {
			query := strings.Repeat("a=1&", 10000) + "last=2"
			if q := arrived(t, "GET /r?"+query+" HTTP/1.1\r\nHost: HOST\r\n\r\n"); q.URI != "/r?"+query || r.last(t).Action.Request.Query != query {
				t.Error("what was decided is not what was sent")
			}
		}},
		{"CVE-2023-27488", "a value that is not UTF-8 makes the decision fail, and failure allows", func(t *testing.T) {
			refused(t, "GET /r HTTP/1.1\r\nHost: HOST\r\nX-A: \xff\xfe\r\n\r\n", "field_value")
		}},
		{"CVE-2021-29492", "an escaped slash is a separator for one reader", func(t *testing.T) {
			for _, p := range []string{"/a%2fadmin", "/a%2Fadmin", "/a%5cadmin", "/..%2fadmin", "/a%252fadmin"} {
				refused(t, "POST "+p+" HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\n\r\n", "path_ambiguous")
			}
		}},
		{"CVE-2021-32779", "a fragment is part of the path for one reader", func(t *testing.T) {
			refused(t, "GET /r#/../admin HTTP/1.1\r\nHost: HOST\r\n\r\n", "target_bytes")
		}},
		{"CVE-2026-26205", "two slashes in front are an authority for one reader", func(t *testing.T) {
			refused(t, "GET //evil.example/r HTTP/1.1\r\nHost: HOST\r\n\r\n", "path_ambiguous")
		}},
		{"CVE-2025-54576", "a query is matched as part of the path", func(t *testing.T) {
			q := arrived(t, "GET /r?/admin HTTP/1.1\r\nHost: HOST\r\n\r\n")
			if got := r.last(t).Action.Request; got.Path != "/r" || got.Query != "/admin" || q.URI != "/r?/admin" {
				t.Errorf("decided %+v, sent %s", got, q.URI)
			}
		}},
		{"CVE-2026-40575", "a field says another path than is asked", func(t *testing.T) {
			for name := range arrived(t, "GET /r HTTP/1.1\r\nHost: HOST\r\nX-Forwarded-Uri: /admin\r\nX-Forwarded-Prefix: /admin\r\nX-Original-URL: /admin\r\nX_Forwarded_Uri: /admin\r\nForwarded: host=evil\r\n\r\n").Header {
				if strings.Contains(strings.ToLower(name), "forwarded") || strings.Contains(strings.ToLower(name), "original") {
					t.Errorf("%s arrived", name)
				}
			}
		}},
		{"CVE-2026-30851", "a client sends the field that says who it is", func(t *testing.T) {
			for name := range arrived(t, "GET /r HTTP/1.1\r\nHost: HOST\r\nX-Sallyport-Task: other\r\nSallyport-Agent: other\r\nx_sallyport_task: other\r\n\r\n").Header {
				if strings.Contains(strings.ToLower(name), "sallyport") {
					t.Errorf("%s arrived", name)
				}
			}
		}},
		{"CVE-2024-45410", "Connection names a field that the proxy manages", func(t *testing.T) {
			for _, name := range []string{"Cookie", "cookie", "X-Sallyport-Task", "Authorization", "host"} {
				refused(t, "GET /r HTTP/1.1\r\nHost: HOST\r\nConnection: close, "+name+"\r\n\r\n", "connection_names_field")
			}
		}},
		{"CVE-2026-34476", "a field names the upstream", func(t *testing.T) {
			if q := arrived(t, "GET /r HTTP/1.1\r\nHost: HOST\r\nX-Target-Url: http://169.254.169.254/\r\nX-Backend: evil.example\r\n\r\n"); q.Host != o.authority() {
				t.Errorf("arrived at %s", q.Host)
			}
		}},
		{"CVE-2026-39821", "a label of punycode that decodes to ASCII is another host", func(t *testing.T) {
			for _, host := range []string{"xn--app-.localhost", "xn--app-.localhost", "xn--.localhost"} {
				to, code := parseTarget("https", host)
				if code == "" && to.origin() == o.name() {
					t.Errorf("%s is read as the governed host", host)
				}
			}
		}},
		{"CVE-2025-22870", "a zone gets an address past the rules for hosts", func(t *testing.T) {
			for _, host := range []string{"[::1%25eth0]:443", "[::1%lo]:443", "[fe80::1%25.app.localhost]:443"} {
				if _, code := parseTarget("https", host); code == "" {
					t.Errorf("%s is read", host)
				}
			}
		}},
		{"CVE-2025-47912", "brackets around what is no IPv6 address", func(t *testing.T) {
			for _, host := range []string{"[app.localhost]", "[127.0.0.1]", "[]", "[::1]evil", "[::1].evil", "[[::1]]", "app[::1]", "[::1]:80:81"} {
				if _, code := parseTarget("https", host); code == "" {
					t.Errorf("%s is read", host)
				}
			}
		}},
		{"CVE-2026-33186", "a pseudo path without a slash skips the rules for paths", func(t *testing.T) {
			for _, p := range []string{"admin", "*", "", "https://evil.example/", "?x"} {
				if status, why := askH2(t, r, o, map[string]string{":path": p}); status == "200" && p != "" {
					t.Errorf(":path %q: got %s %s", p, status, why)
				}
			}
		}},
		{"CVE-2026-48096", "two questions have one key, because a separator is in a value", func(t *testing.T) {
			digests := map[string]string{}
			for _, v := range [][3]string{{"/a", "b=c", "x"}, {"/a?b=c", "", "x"}, {"/a", "b", "=c\nx"}, {"/a", "", "b=c\nx"}, {"/a", "b=c", ""}, {"/a\x00b=c", "", "x"}} {
				d, err := wireDigest(outgoing(action.Request{Method: "POST", Origin: o.name(), Path: v[0], Query: v[1]}, http.Header{"X": {v[2]}}, nil), nil)
				if before, same := digests[string(d)]; err == nil && same {
					t.Errorf("%q has the digest of %s", v, before)
				}
				digests[string(d)] = fmt.Sprintf("%q", v)
			}
		}},
		{"CVE-2023-37788", "a handshake or request that a proxy does not expect makes it panic", func(t *testing.T) {
			for _, in := range []string{"CONNECT :0 HTTP/1.1\r\nHost: :0\r\n\r\n", "CONNECT [ HTTP/1.1\r\nHost: [\r\n\r\n", "GET http:// HTTP/1.1\r\nHost: \r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x00\x00", "CONNECT a:443 HTTP/1.0\r\n\r\n\x16\x03\x01\x00\x01\x01"} {
				c := r.dial(t)
				io.WriteString(c, in)
				c.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, c)
			}
			arrived(t, "GET / HTTP/1.1\r\nHost: HOST\r\n\r\n") // it still stands
		}},
		{"CVE-2026-33814", "an upstream that talks settings for ever keeps its client busy", func(t *testing.T) { settingsForever(t) }},
		{"CVE-2020-8562", "a name answers otherwise between check and dial", func(t *testing.T) { answerFlips(t, o) }},
	} {
		t.Run(c.id, func(t *testing.T) {
			c.try(t)
			if t.Failed() {
				t.Log(c.shape)
			}
		})
	}
}

// onlyFor puts a credential into the requests of one authority, as the
// interface demands.
type onlyFor struct {
	authority string
	*jar
}

func (f onlyFor) Inject(ctx context.Context, r *http.Request) error {
	if r.URL.Host != f.authority {
		return nil
	}
	return f.jar.Inject(ctx, r)
}

// redirectKeepsCredential: the door follows nothing; each step is a request of
// the client's and gets what is its own.
func redirectKeepsCredential(t *testing.T, r *rig, o, other *origin) {
	before, was := len(o.all()), len(other.all())
	resp, _ := get(t, r.client(true), o.name()+"/?to="+other.name()+"/")
	if resp.StatusCode != http.StatusTemporaryRedirect || len(o.all()) != before+1 || len(other.all()) != was {
		t.Fatalf("got %d; the door has followed it", resp.StatusCode)
	}
	get(t, r.client(true), resp.Header.Get("Location"))
	if q := other.all()[was]; strings.Contains(fmt.Sprint(q.Header), "secret-of-app") {
		t.Errorf("arrived elsewhere: %v", q.Header)
	}
	if r.last(t).Action.Request.RedirectOf == "" {
		t.Error("the second request is not linked to the first")
	}
}

// noResumption: the door verifies every connection upstream, and keeps no
// session that could be resumed.
func noResumption(t *testing.T) {
	var mu sync.Mutex
	resumed, shaken := 0, 0
	o := newOrigin(t, true, nil)
	o.Server.TLS.VerifyConnection = func(s tls.ConnectionState) error {
		mu.Lock()
		defer mu.Unlock()
		shaken++
		if s.DidResume {
			resumed++
		}
		return nil
	}
	r := newRig(t, o, nil)
	for range 3 {
		get(t, r.client(false), o.name()+"/")
		o.CloseClientConnections()
		for _, up := range r.p.ups.m {
			up.plain.http.CloseIdleConnections()
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if resumed > 0 || shaken < 3 {
		t.Errorf("%d of %d handshakes were resumed", resumed, shaken)
	}
}

// settingsForever: the upstream answers nothing and changes its mind about the
// frame size without end. The client's end ends it.
func settingsForever(t *testing.T) {
	o := newOrigin(t, true, nil)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: o.TLS.Certificates, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		br := bufio.NewReader(c)
		io.ReadFull(br, make([]byte, len(http2.ClientPreface)))
		go io.Copy(io.Discard, br)
		f := http2.NewFramer(c, br)
		for i := uint32(0); f.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 16384 + i%1000}) == nil; i++ {
		}
	}()
	name := "https://" + o.host + l.Addr().String()[strings.LastIndex(l.Addr().String(), ":"):]
	r := newRig(t, o, nil, func(c *Config) { c.Connectors = allow(name) })
	ctx, cancel := context.WithCancel(t.Context())
	q, _ := http.NewRequestWithContext(ctx, "GET", name+"/", nil)
	gone := make(chan error, 1)
	go func() { _, err := r.client(false).Do(q); gone <- err }()
	eventually(t, "the decision", func() bool { return len(r.Log.Decisions(t)) > 0 })
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := r.p.Close(); err != nil { // cuts the upstream connection as well
		t.Error(err)
	}
	<-ended
}

// flips is a resolver whose second answer is another one.
type flips struct {
	loopback
	mu     sync.Mutex
	asked  int
	dialed []netip.AddrPort
}

func (f *flips) Resolve(context.Context, string) ([]netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked++; f.asked > 1 {
		return []netip.Addr{netip.MustParseAddr("169.254.169.254")}, nil
	}
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

func (f *flips) Dial(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
	f.mu.Lock()
	f.dialed = append(f.dialed, a)
	f.mu.Unlock()
	return f.loopback.Dial(ctx, a)
}

func answerFlips(t *testing.T, o *origin) {
	f := &flips{}
	name := "https://app.example:" + o.port()
	r := newRig(t, o, nil, func(c *Config) { c.Connectors, c.Dialer = allow(name), f })
	for range 3 {
		if resp, err := r.client(false).Get(name + "/"); err == nil {
			resp.Body.Close()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.dialed {
		if !a.Addr().IsLoopback() {
			t.Errorf("dialled %s", a)
		}
	}
	if len(f.dialed) == 0 {
		t.Error("nothing was dialled")
	}
}
