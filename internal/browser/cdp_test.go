package browser

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"strings"
	"testing"
	"time"
)

// pipes is a conn whose other end is the test's.
func pipes(t *testing.T, on func(message)) (*conn, *os.File, *bufio.Reader) {
	t.Helper()
	r1, w1, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r2, w2, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := newConn(r1, w2, on, func() error { return errClosed })
	t.Cleanup(func() { c.close(errClosed); w1.Close(); r2.Close() })
	return c, w1, bufio.NewReader(r2)
}

// Threats: T2 (browser)
func TestBadMessageClosesEverything(t *testing.T) {
	for name, raw := range map[string]string{
		"no_object": `[]`, "cut": `{"id":1`, "text": `hello`, "empty": ``, "duplicate": `{"id":1,"id":2}`, "trailing": `{"id":"x"}`,
		"id_fraction": `{"id":1.5}`, "id_huge": `{"id":99999999999999999999}`, "method_number": `{"method":1}`, "name_bare": `{id:1}`,
	} {
		t.Run(name, func(t *testing.T) {
			c, w, _ := pipes(t, func(message) { t.Error("an event was made of it") })
			k := c.send("", "A.b", nil)
			w.Write([]byte(raw + "\x00"))
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := k.get(ctx, nil); err == nil || ctx.Err() != nil {
				t.Errorf("got %v, want the connection closed", err)
			}
			if err := c.call(ctx, "", "A.b", nil, nil); err == nil {
				t.Error("a later call worked")
			}
		})
	}
}

// Threats: T2, T49 (browser)
func TestMessageOverLimit(t *testing.T) {
	if _, err := readMessage(bufio.NewReader(strings.NewReader(strings.Repeat("x", maxMessage+1)))); err == nil || errors.Is(err, errClosed) {
		t.Errorf("got %v", err)
	}
}

func TestAnswersErrorsAndEnd(t *testing.T) {
	seen := make(chan string, 1)
	c, w, r := pipes(t, func(m message) { seen <- m.session + " " + m.method + " " + string(m.params) })
	a, b, gone := c.send("s", "A.a", obj{"x": 1}), c.send("", "A.b", nil), c.send("", "A.c", nil)
	sent, err := r.ReadBytes(0)
	if err != nil || string(sent) != `{"id":1,"sessionId":"s","method":"A.a","params":{"x":1}}`+"\x00" {
		t.Fatalf("sent %q, %v", sent, err)
	}
	w.Write([]byte(`{"method":"E.e","sessionId":"q","params":{"t":"\ud800"}}` + "\x00" + `{"id":77,"result":{}}` + "\x00" +
		`{"id":2,"error":{"code":-32000,"message":"no"}}` + "\x00" + `{"id":1,"result":{"v":"ü"}}` + "\x00"))
	var out struct {
		V string `json:"v"`
	}
	if err := a.get(t.Context(), &out); err != nil || out.V != "ü" {
		t.Errorf("got %q, %v", out.V, err)
	}
	var pe *protocolError
	if err := b.get(t.Context(), nil); !errors.As(err, &pe) || pe.Code != -32000 || pe.method != "A.b" {
		t.Errorf("got %v", err)
	}
	if got := <-seen; !strings.HasPrefix(got, "q E.e ") {
		t.Errorf("event %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := gone.get(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if len(c.wait) != 0 {
		t.Errorf("%d calls are still awaited", len(c.wait))
	}
	last := c.send("", "A.d", nil)
	w.Close()
	if err := last.get(t.Context(), nil); !errors.Is(err, errClosed) {
		t.Errorf("after the end: got %v, want errClosed", err)
	}
}

func FuzzParseMessage(f *testing.F) {
	for _, s := range []string{`{"id":1,"result":{"a":[1,2]}}`, `{"method":"x","params":{},"sessionId":"s"}`, `{"error":{}} `, "{", `{"id":1}{}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err != nil {
			return
		}
		for _, v := range [][]byte{m.params, m.result, m.fault} { // members are parts of what was read
			if !bytes.Contains(b, v) {
				t.Errorf("%q is not in %q", v, b)
			}
		}
	})
}

func TestUnproject(t *testing.T) {
	for _, c := range []struct {
		name       string
		q          []float64
		w, h, x, y float64
		wantX      float64
		wantY      float64
		ok         bool
	}{
		{"plain", []float64{10, 20, 110, 20, 110, 70, 10, 70}, 100, 50, 15, 25, 5, 5, true},
		{"scaled", []float64{0, 0, 200, 0, 200, 100, 0, 100}, 100, 50, 50, 50, 25, 25, true},
		{"quarter_turn", []float64{50, 0, 50, 100, 0, 100, 0, 0}, 100, 50, 40, 30, 30, 10, true},
		{"perspective", []float64{0, 0, 100, 10, 90, 60, 0, 50}, 100, 50, 1, 1, 0, 0, false},
		{"collapsed", []float64{0, 0, 0, 0, 0, 0, 0, 0}, 100, 50, 0, 0, 0, 0, false},
		{"no_size", []float64{10, 20, 110, 20, 110, 70, 10, 70}, 0, 0, 15, 25, 0, 0, false},
		{"short", []float64{1}, 1, 1, 1, 1, 0, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			x, y, ok := unproject(c.q, c.w, c.h, c.x, c.y)
			if ok != c.ok || ok && (math.Abs(x-c.wantX) > 1e-6 || math.Abs(y-c.wantY) > 1e-6) {
				t.Errorf("got %v,%v,%v want %v,%v,%v", x, y, ok, c.wantX, c.wantY, c.ok)
			}
		})
	}
}
