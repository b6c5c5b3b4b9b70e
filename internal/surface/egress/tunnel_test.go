package egress

import (
	"bufio"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
)

// TestLateAnswersNeverMix: two tasks ask one server, which answers late, out of
// order, to clients that are gone by then, and once twice. Nobody gets an answer
// to another request, and no connection upstream carries two tasks. A tunnel that
// is opened and filled with bytes dials nothing (CVE-2026-71324), and what two
// sessions ask at once is asked twice (CVE-2026-71326).
//
// Threats: C10 (door)
func TestLateAnswersNeverMix(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2_%v", secure), func(t *testing.T) { lateAnswers(t, secure) })
	}
}

func lateAnswers(t *testing.T, secure bool) {
	var mu sync.Mutex
	tasks := map[string]map[string]bool{} // connection to the tasks that it carried
	asked := map[string]int{}
	late := make(chan struct{})
	o := newOrigin(t, secure, func(w http.ResponseWriter, r *http.Request) {
		task := r.URL.Query().Get("task")
		mu.Lock()
		if tasks[r.RemoteAddr] == nil {
			tasks[r.RemoteAddr] = map[string]bool{}
		}
		tasks[r.RemoteAddr][task] = true
		asked[r.URL.RequestURI()]++
		mu.Unlock()
		if r.URL.Path == "/late" {
			select {
			case <-late:
			case <-r.Context().Done():
			}
		}
		if r.URL.Path == "/twice" && r.ProtoMajor == 1 {
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(r.URL.RequestURI()), r.URL.RequestURI())
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
			c.(*net.TCPConn).CloseWrite()
			return
		}
		io.WriteString(w, r.URL.RequestURI())
	})
	rigs := map[string]*rig{}
	for _, task := range []string{"one", "two"} {
		rigs[task] = newRig(t, o, nil, func(c *Config) { c.Task = gatetest.Task })
	}
	var all sync.WaitGroup
	for task, r := range rigs {
		client := r.client(secure)
		for i := range 12 {
			all.Go(func() { // gone before the answer
				ctx, cancel := context.WithCancel(t.Context())
				q, _ := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("%s/late?task=%s&n=%d", o.name(), task, i), nil)
				context.AfterFunc(t.Context(), cancel)
				go func() {
					eventually(t, "the request", func() bool { mu.Lock(); defer mu.Unlock(); return asked[q.URL.RequestURI()] == 1 })
					cancel()
				}()
				if resp, err := client.Do(q); err == nil {
					resp.Body.Close()
				}
			})
			for _, path := range []string{"ask", "twice", "same"} {
				uri := fmt.Sprintf("/%s?task=%s&n=%d", path, task, i)
				all.Go(func() {
					resp, err := client.Get(o.name() + uri)
					if err != nil {
						t.Errorf("%s: %v", uri, err)
						return
					}
					defer resp.Body.Close()
					if b, err := io.ReadAll(resp.Body); err != nil || string(b) != uri {
						t.Errorf("%s got the answer %q (%v)", uri, b, err)
					}
				})
			}
		}
		io.WriteString(r.tunnel(t, o.authority()), "\x00poison")
	}
	all.Wait()
	close(late)
	for task, r := range rigs { // on connections that have seen all of it
		for i := range 5 {
			uri := fmt.Sprintf("/after?task=%s&n=%d", task, i)
			if resp, body := get(t, r.client(secure), o.name()+uri); resp.StatusCode != 200 || body != uri {
				t.Errorf("%s: got %d %q", uri, resp.StatusCode, body)
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for from, who := range tasks {
		if len(who) != 1 {
			t.Errorf("connection %s carried %v", from, who)
		}
	}
	for uri, n := range asked {
		if n != 1 {
			t.Errorf("%s was asked %d times", uri, n)
		}
	}
}

// pieces writes one byte at a time, each as a TLS record of its own where records
// says so (RFC 8446 section 5.1 lets a handshake message span records).
type pieces struct {
	net.Conn
	records bool
	hello   bool // was written
}

func (p *pieces) Write(b []byte) (int, error) {
	if p.hello {
		return p.Conn.Write(b)
	}
	p.hello = true
	all := b
	if p.records {
		all = nil
		for _, c := range b[5:] {
			all = append(all, 0x16, 3, 1, 0, 1, c)
		}
	}
	for _, c := range all {
		if _, err := p.Conn.Write([]byte{c}); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// TestHandshakeInPieces: a name that arrives byte by byte, or over hundreds of
// records, is compared like any other.
//
// Threats: C13 (door)
func TestHandshakeInPieces(t *testing.T) {
	o := newOrigin(t, true, nil)
	r := newRig(t, o, nil)
	for _, records := range []bool{false, true} {
		for name, want := range map[string]string{o.host: "", "evil.example": "sni_mismatch"} {
			c := tls.Client(&pieces{Conn: r.tunnel(t, o.authority()), records: records}, &tls.Config{RootCAs: newPool(r.p.CAPEM()), ServerName: name})
			err := c.HandshakeContext(t.Context())
			if want != "" {
				if d := r.last(t); err == nil || d.Decision.Code != want {
					t.Errorf("records %v, %s: got %v, recorded %s", records, name, err, d.Decision.Code)
				}
				continue
			}
			if err != nil {
				t.Errorf("records %v: %v", records, err)
				continue
			}
			if status, _, body := raw(t, c, "GET / HTTP/1.1\r\nHost: "+o.authority()+"\r\n\r\n"); status != 200 || body != "hello" {
				t.Errorf("records %v: got %d %q", records, status, body)
			}
		}
	}
}

// TestSlowClient: a client that says a little at a time, always before any limit
// between two bytes could be over, has the time of one handshake, one head or one
// body in all.
//
// Threats: C13, M3 (door)
func TestSlowClient(t *testing.T) {
	hello := clientHello(t)
	const fields = "Host: a.example:443\r\n"
	for name, tt := range map[string]struct {
		says  string
		limit time.Duration
	}{
		"silent":    {"", headTimeout},
		"handshake": {string(hello), headTimeout},
		"head":      {"GET / HTTP/1.1\r\n" + fields + strings.Repeat("X-A: b\r\n", 100), headTimeout},
		"body":      {"POST / HTTP/1.1\r\n" + fields + "Content-Length: 4000\r\n\r\n" + strings.Repeat("x", 4000), headTimeout + bodyTimeout},
		"chunks":    {"POST / HTTP/1.1\r\n" + fields + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1\r\nx\r\n", 4000), headTimeout + bodyTimeout},
	} {
		synctest.Test(t, func(t *testing.T) {
			k := gatetest.New(t, nil)
			p, err := New(Config{Tenant: gatetest.Tenant, Task: gatetest.Task, Agent: gatetest.Agent, Source: "browser", Stage: action.Sandbox, Gate: k,
				Connectors: allow("https://nobody.invalid"), Dialer: deadEnd{}})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			ours, theirs := net.Pipe()
			p.track(theirs)
			p.sorted.put(&wire{Conn: &tracked{Conn: theirs, p: p}, forward: true, refuse: p.refuseWire})
			io.WriteString(ours, "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n")
			br := bufio.NewReader(ours)
			if resp, err := http.ReadResponse(br, &http.Request{Method: "CONNECT"}); err != nil || resp.StatusCode != 200 {
				t.Fatalf("got %v %v", resp, err)
			}
			began := time.Now()
			var writer sync.WaitGroup
			writer.Go(func() {
				for i := range len(tt.says) {
					if _, err := io.WriteString(ours, tt.says[i:i+1]); err != nil {
						return
					}
					if i > len(fields) { // a body may follow its head at once
						time.Sleep(200 * time.Millisecond)
					}
				}
			})
			io.Copy(io.Discard, br)
			if took := time.Since(began); took > tt.limit+headTimeout || took == 0 {
				t.Errorf("%s: the door waited %v", name, took)
			}
			ours.Close()
			writer.Wait()
		})
	}
}

// clientHello is the first flight of a TLS client.
func clientHello(t *testing.T) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	go tls.Client(ours, &tls.Config{ServerName: "a.example"}).Handshake()
	defer ours.Close()
	b := make([]byte, 4096)
	n, err := theirs.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// echConfigs is an ECHConfigList (RFC 9849 section 4) with a key that the door
// does not have.
func echConfigs(t *testing.T, public string) []byte {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub := key.PublicKey().Bytes()
	c := append([]byte{7, 0, 0x20, 0, byte(len(pub))}, pub...) // config id, DHKEM(X25519)
	c = append(c, 0, 4, 0, 1, 0, 1)                            // HKDF-SHA256, AES-128-GCM
	c = append(append(c, 32, byte(len(public))), public...)
	c = append(c, 0, 0)
	list := binary.BigEndian.AppendUint16([]byte{0xfe, 0x0d}, uint16(len(c)))
	list = append(list, c...)
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(list))), list...)
}

// TestEncryptedClientHello: a name that only its sender can read changes nothing.
// The door has no key for it, so what is compared, certified and decided is the
// name outside; a browser's GREASE looks the same to it.
//
// Threats: T42, C13 (door)
func TestEncryptedClientHello(t *testing.T) {
	o := newOrigin(t, true, nil)
	r := newRig(t, o, nil)
	for _, tt := range []struct{ outer, inner, code string }{
		{o.host, "evil.example", ""}, // the client learns that its name was not taken
		{"evil.example", o.host, "sni_mismatch"},
		{"evil.example", "evil.example", "sni_mismatch"},
	} {
		before := len(r.Log.Decisions(t))
		c := tls.Client(r.tunnel(t, o.authority()), &tls.Config{RootCAs: newPool(r.p.CAPEM()), ServerName: tt.inner, EncryptedClientHelloConfigList: echConfigs(t, tt.outer)})
		err := c.Handshake()
		var rejected *tls.ECHRejectionError
		if tt.code == "" {
			if !errors.As(err, &rejected) || len(rejected.RetryConfigList) != 0 || len(r.Log.Decisions(t)) != before {
				t.Errorf("outside %s, inside %s: got %v; want a refusal of the name inside and nothing recorded", tt.outer, tt.inner, err)
			}
		} else if d := r.last(t); err == nil || d.Decision.Code != tt.code {
			t.Errorf("outside %s, inside %s: got %v, recorded %s", tt.outer, tt.inner, err, d.Decision.Code)
		}
	}
	if n := len(o.all()); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
}

// TestTunnelIsForOneAuthority: what is asked in a tunnel for another port, another
// governed name (as browsers do that coalesce connections, RFC 9113 section
// 9.1.1) or another scheme is refused, however it is said.
//
// Threats: T42, C13 (form)
func TestTunnelIsForOneAuthority(t *testing.T) {
	o, other := newOrigin(t, true, nil), newOriginAt(t, "mail.localhost", true, nil)
	r := newRig(t, o, nil, func(c *Config) {
		both(c, o, other)
	})
	for _, host := range []string{other.authority(), o.host, o.host + ":443", o.host + ":" + other.port(), "evil.example", o.host + ".evil.example:" + o.port(), o.authority() + "@" + other.authority()} {
		c, err := r.tlsTunnel(t, o.authority(), o.host, "http/1.1")
		if err != nil {
			t.Fatal(err)
		}
		if status, h, _ := raw(t, c, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); status != 403 {
			t.Errorf("Host %s: got %d %v", host, status, h)
		}
		if status, code := askH2(t, r, o, map[string]string{":authority": host}); status != "403" && status != "400" {
			t.Errorf(":authority %s: got %s %s", host, status, code)
		}
	}
	for name, fields := range map[string]map[string]string{"scheme": {":scheme": "http"}, "host_beside": {"host": other.authority()}} {
		if status, code := askH2(t, r, o, fields); status == "200" && name != "scheme" {
			t.Errorf("%s: got %s %s", name, status, code)
		}
	}
	if n := len(other.all()); n != 0 {
		t.Errorf("%d requests arrived at the other application", n)
	}
	if resp, _ := get(t, r.client(true), other.name()+"/"); resp.StatusCode != 200 || len(other.all()) != 1 {
		t.Fatalf("the other application cannot be reached at all: %d", resp.StatusCode)
	}
	if _, err := r.tlsTunnel(t, o.host+":"+other.port(), o.host); err != nil {
		t.Error(err) // nothing is dialled for a tunnel
	}
	if n := len(other.all()); n != 1 {
		t.Errorf("%d requests arrived at the other port", n-1)
	}
}

// both governs two origins.
func both(c *Config, o, other *origin) {
	c.Connectors = connectors(func(q action.Request, b []byte) (Recognized, error) {
		if q.Origin == other.name() {
			return allow(other.name())(q, b)
		}
		return allow(o.name())(q, b)
	})
	c.RootsFor = func(of string) *x509.CertPool {
		if of == other.name() {
			return other.TLS.ClientCAs
		}
		return o.TLS.ClientCAs
	}
}

// askH2 makes one HTTP/2 request with some fields changed, in a tunnel to o.
func askH2(t *testing.T, r *rig, o *origin, change map[string]string) (status, decision string) {
	t.Helper()
	c, err := r.tlsTunnel(t, o.authority(), o.host, "h2")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.WriteSettings()
	var block strings.Builder
	e := hpack.NewEncoder(&block)
	fields := [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", o.authority()}, {":path", "/"}, {"host", ""}}
	for _, x := range fields {
		v, ok := change[x[0]]
		if !ok {
			v = x[1]
		}
		if v != "" {
			e.WriteField(hpack.HeaderField{Name: x[0], Value: v})
		}
	}
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String()), EndStream: true, EndHeaders: true})
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			return "400", err.Error()
		}
		switch fr := fr.(type) {
		case *http2.MetaHeadersFrame:
			for _, x := range fr.Fields {
				if x.Name == "sallyport-decision" {
					decision = x.Value
				}
			}
			return fr.PseudoValue("status"), decision
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return "400", fmt.Sprint(fr)
		}
	}
}
