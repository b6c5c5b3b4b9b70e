package clients

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// raw is a client without a driver: it sends what no driver would.
type raw struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	last int
	// events that came while an answer was waited for, in order
	events []message
}

type message struct {
	ID      *int64          `json:"id"`
	Method  string          `json:"method"`
	Session string          `json:"sessionId"`
	Params  json.RawMessage `json:"params"`
	Result  json.RawMessage `json:"result"`
	Error   *struct {
		Code    int
		Message string
	} `json:"error"`
}

// socketURL asks /json/version where the socket is.
func (w *world) socketURL() string {
	w.t.Helper()
	r, err := http.Get(w.url + "/json/version")
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Body.Close()
	var v struct{ WebSocketDebuggerURL string }
	if err := json.NewDecoder(r.Body).Decode(&v); err != nil || v.WebSocketDebuggerURL == "" {
		w.t.Fatalf("/json/version: %v, %+v", err, v)
	}
	return v.WebSocketDebuggerURL
}

func (w *world) handshake(header ...string) (net.Conn, *bufio.Reader, *http.Response) {
	w.t.Helper()
	w.socket = w.socketURL()
	return w.handshakeAt(header...)
}

// handshakeAt is a handshake on the socket that is known already.
func (w *world) handshakeAt(header ...string) (net.Conn, *bufio.Reader, *http.Response) {
	w.t.Helper()
	u, err := url.Parse(w.socket)
	if err != nil {
		w.t.Fatal(err)
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	key := make([]byte, 16)
	rand.Read(key)
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n%s\r\n",
		u.Path, u.Host, base64.StdEncoding.EncodeToString(key), strings.Join(header, ""))
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return conn, r, resp
}

// dial connects, and waits while another client's place is being cleared.
func (w *world) dial() *raw {
	w.t.Helper()
	for limit := time.Now().Add(30 * time.Second); ; {
		conn, r, resp := w.handshake()
		if resp.StatusCode == http.StatusSwitchingProtocols {
			return &raw{t: w.t, conn: conn, r: r}
		}
		conn.Close()
		if time.Now().After(limit) {
			w.t.Fatalf("handshake: %s", resp.Status)
		}
	}
}

func (c *raw) frame(op byte, b []byte) error {
	head := []byte{0x80 | op}
	switch n := len(b); {
	case n < 126:
		head = append(head, 0x80|byte(n))
	case n < 1<<16:
		head = binary.BigEndian.AppendUint16(append(head, 0x80|126), uint16(n))
	default:
		head = binary.BigEndian.AppendUint64(append(head, 0x80|127), uint64(n))
	}
	_, err := c.conn.Write(append(append(head, 0, 0, 0, 0), b...)) // a mask of zeros is a mask
	return err
}

func (c *raw) write(s string) {
	c.t.Helper()
	if err := c.frame(1, []byte(s)); err != nil {
		c.t.Fatal(err)
	}
}

// next reads one message. It returns io.EOF when the door has closed.
func (c *raw) next() (message, error) {
	for {
		var head [8]byte
		c.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadFull(c.r, head[:2]); err != nil {
			return message{}, err
		}
		op, n := head[0]&15, uint64(head[1])
		switch n {
		case 126:
			io.ReadFull(c.r, head[:2])
			n = uint64(binary.BigEndian.Uint16(head[:]))
		case 127:
			io.ReadFull(c.r, head[:8])
			n = binary.BigEndian.Uint64(head[:])
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(c.r, b); err != nil {
			return message{}, err
		}
		switch op {
		case 8:
			return message{}, io.EOF
		case 1:
			var m message
			if err := json.Unmarshal(b, &m); err != nil {
				c.t.Fatalf("not JSON: %s", b)
			}
			return m, nil
		}
	}
}

func (c *raw) send(session, method string, params any) int64 {
	c.t.Helper()
	c.last++
	m := map[string]any{"id": c.last, "method": method}
	if session != "" {
		m["sessionId"] = session
	}
	if params != nil {
		m["params"] = params
	}
	b, err := json.Marshal(m)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(string(b))
	return int64(c.last)
}

func (c *raw) answer(id int64) message {
	c.t.Helper()
	for {
		m, err := c.next()
		if err != nil {
			c.t.Fatalf("no answer to %d: %v", id, err)
		}
		if m.ID != nil && *m.ID == id {
			return m
		}
		c.events = append(c.events, m)
	}
}

func (c *raw) ask(session, method string, params any) message {
	c.t.Helper()
	return c.answer(c.send(session, method, params))
}

// must is ask, and the result read into out.
func (c *raw) must(session, method string, params, out any) {
	c.t.Helper()
	m := c.ask(session, method, params)
	if m.Error != nil {
		c.t.Fatalf("%s: %s", method, m.Error.Message)
	}
	if out != nil {
		if err := json.Unmarshal(m.Result, out); err != nil {
			c.t.Fatal(err)
		}
	}
}

// denied wants a refusal whose text has code.
func (c *raw) denied(code, session, method string, params any) {
	c.t.Helper()
	m := c.ask(session, method, params)
	if m.Error == nil && strings.Contains(string(m.Result), `"exceptionDetails"`) && strings.Contains(string(m.Result), "sallyport: denied") && strings.Contains(string(m.Result), code) {
		return // a refused script is an exception to the driver
	}
	if m.Error == nil {
		c.t.Errorf("%s %v: got %s, want %s", method, params, m.Result, code)
	} else if !strings.Contains(m.Error.Message, code) {
		c.t.Errorf("%s %v: got %q, want %s", method, params, m.Error.Message, code)
	}
}

type dict = map[string]any

// page opens a page of the site and returns its target and a session on it.
func (c *raw) page(address string) (target, session string) {
	c.t.Helper()
	var p struct{ TargetID, SessionID string }
	c.must("", "Target.createTarget", dict{"url": "about:blank"}, &p)
	target = p.TargetID
	c.must("", "Target.attachToTarget", dict{"targetId": target, "flatten": true}, &p)
	c.must(p.SessionID, "Runtime.runIfWaitingForDebugger", nil, nil)
	c.must(p.SessionID, "Page.enable", nil, nil)
	c.must(p.SessionID, "Runtime.enable", nil, nil)
	c.load(p.SessionID, address)
	return target, p.SessionID
}

func (c *raw) load(session, address string) {
	c.t.Helper()
	c.must(session, "Page.navigate", dict{"url": address}, nil)
	c.until(func(m message) bool { return m.Method == "Page.loadEventFired" && m.Session == session })
}

// until reads events until one fits; those that came before it are looked at first.
func (c *raw) until(fits func(message) bool) message {
	c.t.Helper()
	for i, m := range c.events {
		if fits(m) {
			c.events = c.events[i+1:]
			return m
		}
	}
	c.events = nil
	for {
		m, err := c.next()
		if err != nil {
			c.t.Fatalf("no such event: %v", err)
		}
		if fits(m) {
			return m
		}
	}
}

// eval is the value of an expression in the page.
func (c *raw) eval(session, js string) string {
	c.t.Helper()
	var r struct {
		Result struct{ Value any }
	}
	c.must(session, "Runtime.evaluate", dict{"expression": js, "returnByValue": true, "awaitPromise": true}, &r)
	return fmt.Sprint(r.Result.Value)
}

// point is the middle of an element.
func (c *raw) point(session, selector string) (x, y float64) {
	c.t.Helper()
	s := c.eval(session, fmt.Sprintf("(()=>{const b=document.querySelector(%q).getBoundingClientRect();return (b.x+b.width/2)+' '+(b.y+b.height/2)})()", selector))
	if _, err := fmt.Sscan(s, &x, &y); err != nil {
		c.t.Fatal(err)
	}
	return x, y
}

func mouse(kind string, x, y float64, count int) dict {
	return dict{"type": kind, "x": x, "y": y, "button": "left", "clickCount": count}
}

func decode(t testing.TB, b []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}
