package egress

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// echoSocket is a WebSocket origin that sends back what it receives; "leak" makes
// it send the cookie.
func echoSocket(t testing.TB, done chan<- struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h := http.Header{"Sec-Websocket-Key": {r.Header.Get("Sec-Websocket-Key")}}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { c.Close(); done <- struct{}{} }()
		key := acceptKey(h.Get("Sec-Websocket-Key"))
		if r.URL.Path == "/bad" {
			key = "bad"
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+key+"\r\nSet-Cookie: a=b\r\n\r\n")
		for {
			msg, err := readFrame(rw.Reader)
			if err != nil {
				return
			}
			if msg == "leak" {
				msg = "your " + r.Header.Get("Cookie")
			}
			c.Write(append([]byte{0x81, byte(len(msg))}, msg...))
		}
	}
}

func readFrame(r *bufio.Reader) (string, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", err
	}
	n := int(head[1] & 0x7f)
	var mask [4]byte
	if n == 126 {
		var l [2]byte
		io.ReadFull(r, l[:])
		n = int(binary.BigEndian.Uint16(l[:]))
	}
	if head[1]&0x80 != 0 {
		io.ReadFull(r, mask[:])
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	for i := range b {
		b[i] ^= mask[i%4]
	}
	return string(b), err
}

// masked makes a client's text frame.
func masked(s string) []byte {
	b := []byte{0x81, 0x80 | byte(len(s)), 1, 2, 3, 4}
	for i := range len(s) {
		b = append(b, s[i]^byte(i%4+1))
	}
	return b
}

const socketKey = "dGhlIHNhbXBsZSBub25jZQ=="

func handshake(o *origin, path string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: " + o.authority() + "\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: " +
		socketKey + "\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
}

// Threats: C4, T44 (door); T45 (form)
func TestWebSocket(t *testing.T) {
	for _, secure := range []bool{false, true} {
		done := make(chan struct{}, 9)
		o := newOrigin(t, secure, echoSocket(t, done))
		socket := true
		r := newRig(t, o, nil, func(c *Config) {
			c.Credentials, c.Redactor = &jar{value: "a-secret-cookie"}, secrets{"a-secret-cookie"}
			c.Connectors = connectors(func(q action.Request, _ []byte) (Recognized, error) {
				if q.Destination != "websocket" {
					t.Errorf("destination %q", q.Destination)
				}
				return Recognized{App: "app", Operation: "app.live", Effect: action.Read, Allowed: true, AllowLocal: true, WebSocket: socket}, nil
			})
		})
		open := func(path string) (net.Conn, *bufio.Reader, *http.Response) {
			var c net.Conn = nil
			if secure {
				tc, err := r.tlsTunnel(t, o.authority(), o.host)
				if err != nil {
					t.Fatal(err)
				}
				c = tc
			} else {
				c = r.tunnel(t, o.authority())
			}
			io.WriteString(c, handshake(o, path))
			br := bufio.NewReader(c)
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			return c, br, resp
		}
		c, br, resp := open("/ws")
		if resp.StatusCode != 101 || resp.Header.Get("Sec-Websocket-Accept") == "" || resp.Header.Get("Set-Cookie") != "" {
			t.Fatalf("got %d %v", resp.StatusCode, resp.Header)
		}
		for _, msg := range []string{"hello", "again"} {
			c.Write(masked(msg))
			if got, err := readFrame(br); got != msg || err != nil {
				t.Fatalf("got %q %v, want %q", got, err, msg)
			}
		}
		if got := o.one(t); got.Header.Get("Sec-Websocket-Extensions") != "" || got.Header.Get("Cookie") != "session=a-secret-cookie" {
			t.Errorf("origin got %+v", got.Header)
		}
		// A secret in a frame ends the socket before it is passed on.
		c.Write(masked("leak"))
		rest, _ := io.ReadAll(br)
		if strings.Contains(string(rest), "cookie") {
			t.Errorf("got %q", rest)
		}
		<-done
		// So does a placeholder, in one frame or over two.
		for _, frames := range [][]string{{"x SALLYPORT-secret:api-token"}, {"sallyport-", "secret%3Aapi-token"}} {
			c, br, _ = open("/ws")
			for _, f := range frames {
				c.Write(masked(f))
			}
			rest, _ := io.ReadAll(br)
			if strings.Contains(string(rest), "api-token") {
				t.Errorf("passed on: %q", rest)
			}
			<-done
			eventually(t, "the outcome", func() bool { return lastOutcome(t, r).Detail == "placeholder_misplaced" })
		}
		// A request after Upgrade is not a frame.
		c, br, _ = open("/ws")
		io.WriteString(c, "GET /smuggled HTTP/1.1\r\nHost: "+o.authority()+"\r\n\r\n")
		if b, _ := io.ReadAll(br); len(b) != 0 {
			t.Errorf("got %q", b)
		}
		<-done
		// An origin that does not really upgrade is no tunnel.
		_, _, resp = open("/bad")
		if resp.StatusCode != http.StatusBadGateway {
			t.Errorf("got %d", resp.StatusCode)
		}
		<-done
		// A read that happens to be a handshake is not a read.
		socket = false
		_, _, resp = open("/ws")
		if a := r.last(t).Action; a.Operation != "egress.websocket" || a.Effect != action.Write {
			t.Errorf("recorded %+v", a)
		}
		resp.Body.Close()
	}
}

// TestKill: after End returned, sockets are closed and nothing is sent.
//
// Threats: T57 (dispatch)
func TestKill(t *testing.T) {
	done := make(chan struct{}, 9)
	started := make(chan struct{}, 9)
	echo := echoSocket(t, done)
	o := newOrigin(t, true, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ws":
			echo(w, r)
		case "/stream":
			started <- struct{}{}
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
			done <- struct{}{}
		}
	})
	r := newRig(t, o, nil, func(c *Config) {
		c.Connectors = connectors(func(action.Request, []byte) (Recognized, error) {
			return Recognized{Operation: "app.live", Effect: action.Read, Allowed: true, AllowLocal: true, WebSocket: true}, nil
		})
	})
	c, err := r.tlsTunnel(t, o.authority(), o.host)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, handshake(o, "/ws"))
	br := bufio.NewReader(c)
	if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	resp, err := r.client(true).Get(o.name() + "/stream")
	if err != nil {
		t.Fatal(err)
	}
	<-started
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := r.End(ctx, func(gate.Admission) bool { return true }, "killed", "killed by a test"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the cut stream looks whole")
	}
	if _, err := br.ReadByte(); err == nil {
		t.Error("the socket is open")
	}
	<-done
	<-done
	n := len(o.all())
	if resp, _ := get(t, r.client(true), o.name()+"/late"); resp.StatusCode != http.StatusForbidden || len(o.all()) != n {
		t.Errorf("got %d after the kill", resp.StatusCode)
	}
}

// TestKillWithStuckClient: a client that stops reading cannot hold up a kill.
//
// Threats: T57 (door)
func TestKillWithStuckClient(t *testing.T) {
	o := newOrigin(t, false, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "image/png")
		chunk := make([]byte, 1<<20)
		for range 64 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	r := newRig(t, o, nil)
	c := r.dial(t)
	io.WriteString(c, "GET "+o.name()+"/big HTTP/1.1\r\nHost: "+o.authority()+"\r\n\r\n")
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil { // it has begun
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := r.End(ctx, func(gate.Admission) bool { return true }, "killed", "killed by a test"); err != nil {
		t.Fatal(err)
	}
}

// waiting is a hold that nobody answers.
type waiting struct{ open chan struct{} }

func (w waiting) Open(context.Context, action.Action, action.Decision) (gate.Hold, error) {
	w.open <- struct{}{}
	return neverHold{}, nil
}

type neverHold struct{ gate.Hold }

func (neverHold) ID() string { return "h-1" }
func (neverHold) Wait(ctx context.Context) error {
	<-ctx.Done()
	return errors.New("nobody answered")
}

// TestHeldClientLeaves: the client's disconnect ends what is held.
func TestHeldClientLeaves(t *testing.T) {
	w := waiting{make(chan struct{}, 1)}
	hold := func(gate.Facts) action.Decision {
		return action.Decision{Verdict: action.Hold, Layer: action.LayerGuardrail, Code: "ask", Approvers: "approver"}
	}
	o := newOrigin(t, true, nil)
	k := gatetest.New(t, hold, func(a *gate.Admission) { a.Holds = w })
	r := newRig(t, o, nil, func(c *Config) { c.Gate = k })
	for _, h2 := range []bool{false, true} {
		before := len(k.Log.Decisions(t))
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error, 1)
		go func() {
			req, _ := http.NewRequestWithContext(ctx, "POST", o.name()+"/w", strings.NewReader("x"))
			_, err := r.client(h2).Do(req)
			errs <- err
		}()
		<-w.open
		cancel()
		if err := <-errs; err == nil {
			t.Error("a held request was answered")
		}
		eventually(t, "the refusal", func() bool { return len(k.Log.Decisions(t)) > before })
		if len(o.all()) != 0 {
			t.Errorf("origin got %+v", o.all())
		}
	}
}

// TestClose cuts idle connections, tunnels and held requests, and refuses later ones.
func TestClose(t *testing.T) {
	o := newOrigin(t, true, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	r := newRig(t, o, nil)
	idle, bare := r.dial(t), r.tunnel(t, o.authority())
	inside, err := r.tlsTunnel(t, o.authority(), o.host)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := r.client(true).Get(o.name() + "/stream")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.p.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]io.Reader{"idle": idle, "bare": bare, "inside": inside, "stream": resp.Body} {
		b := make([]byte, 1)
		if n, err := c.Read(b); err == nil || n > 0 {
			t.Errorf("%s is open", name)
		}
	}
	r.p.ups.mu.Lock()
	left := len(r.p.ups.conns)
	r.p.ups.mu.Unlock()
	if left != 0 {
		// The transport drops them on its own time; they are closed already.
		eventually(t, "upstream connections", func() bool {
			r.p.ups.mu.Lock()
			defer r.p.ups.mu.Unlock()
			return len(r.p.ups.conns) == 0
		})
	}
	if c, err := net.Dial("tcp", r.addr); err == nil {
		c.Close()
		t.Error("the port is open")
	}
}

// TestLedgerDown: no record, no effect.
//
// Threats: T55 (ledger)
func TestLedgerDown(t *testing.T) {
	o := newOrigin(t, true, nil)
	r := newRig(t, o, nil)
	get(t, r.client(true), o.name()+"/")
	eventually(t, "the outcome", func() bool { return len(r.Log.All()) == 2 })
	r.Log.Fail = func(record.Draft) error { return errors.New("disk full") }
	resp, body := get(t, r.client(true), o.name()+"/")
	if resp.StatusCode != http.StatusForbidden || !strings.Contains(body, "not_recorded") || len(o.all()) != 1 {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
}
