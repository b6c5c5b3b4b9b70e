package clients

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/surface/cdp"
)

// TestMalformedMessages: an error each, then the end; never a crash.
//
// Threats: T2 (form)
func TestMalformedMessages(t *testing.T) {
	w := open(t, cdp.Open, nil)
	c := w.dial()
	for _, s := range []string{"", "x", `{"id":1,"id":2,"method":"Page.enable"}`, `{"id":1,"method":"Page.enable","x":1}`, `{"id":1.5,"method":"Page.enable"}`,
		`{"id":-1,"method":"Page.enable"}`, `{"id":9007199254740992,"method":"Page.enable"}`, `{"id":18446744073709551617,"method":"Page.enable"}`} {
		c.write(s)
		m, err := c.next()
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if m.Error == nil || !strings.Contains(m.Error.Message, "cdp_malformed") || m.ID != nil {
			t.Errorf("%q: got %+v", s, m)
		}
	}
	c.must("", "Browser.getVersion", nil, nil)
	usedID(t, c)
	for range 100 {
		if c.frame(1, []byte("x")) != nil {
			break
		}
	}
	wantClosed(t, c)
	n := 0
	for _, d := range w.kit.Log.Decisions(t) {
		if d.Action.Operation == "computer.malformed" && d.Decision.Verdict == action.Deny && d.Decision.Layer == action.LayerForm {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d records of malformed messages, want one of each kind in a connection", n)
	}
}

// usedID: an id whose request has no answer yet names nothing else, so that no
// answer can be taken for another's; once answered it may be used again. The
// session is part of the name, as it is of the answer.
func usedID(t *testing.T, c *raw) {
	t.Helper()
	_, s := c.page(site1 + "/form")
	slow := fmt.Sprintf(`{"id":1000,"sessionId":%q,"method":"Runtime.evaluate","params":{"expression":"new Promise(f=>{window.go=()=>f(7)})","awaitPromise":true,"returnByValue":true}}`, s)
	c.write(slow)
	c.write(strings.Replace(slow, "window.go=()=>f(7)", "f(8)", 1))
	m := c.until(func(m message) bool { return m.Error != nil })
	if m.ID != nil || !strings.Contains(m.Error.Message, "cdp_malformed") {
		t.Errorf("an id in use: got %+v", m)
	}
	c.write(`{"id":1000,"method":"Browser.getVersion"}`)
	if m := c.answer(1000); m.Error != nil || m.Session != "" || !strings.Contains(string(m.Result), "product") {
		t.Errorf("the same id without the session: got %+v", m)
	}
	c.eval(s, "window.go()")
	m = c.until(func(m message) bool { return m.ID != nil && *m.ID == 1000 })
	if !strings.Contains(string(m.Result), `"value":7`) {
		t.Errorf("the first request: got %s", m.Result)
	}
	c.write(strings.Replace(slow, "window.go=()=>f(7)", "f(9)", 1))
	if m := c.answer(1000); !strings.Contains(string(m.Result), `"value":9`) {
		t.Errorf("an id that is free again: got %+v", m)
	}
}

func wantClosed(t *testing.T, c *raw) {
	t.Helper()
	for {
		_, err := c.next()
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			t.Fatal("the connection was not closed")
		}
		if err != nil {
			return
		}
	}
}

// TestFrames: what is not a masked text frame of a possible size ends the
// connection.
func TestFrames(t *testing.T) {
	w := open(t, cdp.Open, nil)
	for name, b := range map[string][]byte{
		"unmasked": {0x81, 0x02, '{', '}'}, "binary": {0x82, 0x80, 0, 0, 0, 0}, "reserved": {0xc1, 0x80, 0, 0, 0, 0}, "opcode": {0x83, 0x80, 0, 0, 0, 0},
		"continuation": {0x80, 0x80, 0, 0, 0, 0}, "long_ping": {0x89, 0xfe, 0, 200, 0, 0, 0, 0}, "huge": {0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0},
		"no_utf8": {0x81, 0x81, 0, 0, 0, 0, 0xff}, "close": {0x88, 0x80, 0, 0, 0, 0},
	} {
		c := w.dial()
		c.conn.Write(b)
		wantClosed(t, c)
		c.conn.Close()
		_ = name
	}
	w.dial().must("", "Browser.getVersion", nil, nil)
}

// TestFlood: a client that asks and does not read is cut off, and the next one
// is served.
func TestFlood(t *testing.T) {
	w := open(t, cdp.Open, nil)
	c := w.dial()
	_, s := c.page(site1 + "/form")
	big := fmt.Sprintf(`"x".repeat(%d)`, 4<<20)
	c.conn.SetWriteDeadline(time.Now().Add(60 * time.Second))
	for i := range 200 {
		if c.frame(1, fmt.Appendf(nil, `{"id":%d,"sessionId":%q,"method":"Runtime.evaluate","params":{"expression":%q,"returnByValue":true}}`, 1000+i, s, big)) != nil {
			break
		}
	}
	d := w.dial()
	d.must("", "Browser.getVersion", nil, nil)
	// and one that asks for more than can be in flight
	_, s = d.page(site1 + "/form")
	for i := range 5000 {
		if d.frame(1, fmt.Appendf(nil, `{"id":%d,"sessionId":%q,"method":"Runtime.evaluate","params":{"expression":"new Promise(()=>{})","awaitPromise":true}}`, 1000+i, s)) != nil {
			break
		}
	}
	wantClosed(t, d)
	w.dial().must("", "Browser.getVersion", nil, nil)
}

// TestManyConnections: half requests take no more descriptors than there is
// room for, and let go of them.
func TestManyConnections(t *testing.T) {
	w := open(t, cdp.Open, nil)
	var all []net.Conn
	for range 200 {
		c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, "GET /json/ver")
		all = append(all, c)
	}
	alive := 0
	for _, c := range all {
		c.SetReadDeadline(time.Now().Add(time.Second))
		_, err := c.Read(make([]byte, 1))
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			alive++
		}
		if alive > 40 {
			t.Fatal("more than 40 of 200 connections are kept")
		}
	}
	for _, c := range all {
		c.Close()
	}
	for limit := time.Now().Add(10 * time.Second); ; {
		if r, err := http.Get(w.url + "/json/version"); err == nil {
			r.Body.Close()
			break
		} else if time.Now().After(limit) {
			t.Fatal(err)
		}
	}
}

// TestEndOfTask: when the task has ended nothing is pressed any more, and when
// the door closes the client goes.
//
// Threats: T57 (authority)
func TestEndOfTask(t *testing.T) {
	w := open(t, cdp.Open, nil)
	c := w.dial()
	_, s := c.page(site1 + "/form")
	x, y := c.point(s, "#btn")
	if err := w.kit.End(t.Context(), func(gate.Admission) bool { return true }, "killed", "killed by a test"); err != nil {
		t.Fatal(err)
	}
	c.denied("(killed)", s, "Input.dispatchMouseEvent", mouse("mousePressed", x, y, 1))
	if got := c.eval(s, "document.getElementById('count').textContent"); got != "0" {
		t.Errorf("clicks: got %s", got)
	}
	if err := w.door.Close(); err != nil {
		t.Error(err)
	}
	wantClosed(t, c)
}

// TestBrowserEnds: the client hears of it by the end of its connection.
func TestBrowserEnds(t *testing.T) {
	w := open(t, cdp.Open, nil)
	c := w.dial()
	c.page(site1 + "/form")
	w.b.Close()
	wantClosed(t, c)
}

// TestLimits: pages, sessions and contexts of one client are bounded.
func TestLimits(t *testing.T) {
	c := open(t, cdp.Open, nil).dial()
	last := message{}
	for range 12 {
		last = c.ask("", "Target.createTarget", dict{"url": "about:blank"})
	}
	if last.Error == nil || !strings.Contains(last.Error.Message, "cdp_limit") {
		t.Errorf("the twelfth page: got %+v", last)
	}
	for range 20 {
		last = c.ask("", "Target.createBrowserContext", nil)
	}
	if last.Error == nil || !strings.Contains(last.Error.Message, "cdp_limit") {
		t.Errorf("the twentieth context: got %+v", last)
	}
	for range 200 {
		last = c.ask("", "Target.attachToBrowserTarget", nil)
	}
	if last.Error == nil || !strings.Contains(last.Error.Message, "cdp_limit") {
		t.Errorf("the two hundredth session: got %+v", last)
	}
}
