package notify_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/notify"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// hook is a webhook that keeps ids and answers as it is told.
type hook struct {
	*httptest.Server
	mu     sync.Mutex
	ids    []string
	types  []string
	answer func(http.ResponseWriter, *http.Request)
}

func newHook(t *testing.T, answer func(http.ResponseWriter, *http.Request)) *hook {
	h := &hook{answer: answer}
	h.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var e struct{ ID, Type string }
		json.NewDecoder(r.Body).Decode(&e)
		h.mu.Lock()
		h.ids, h.types = append(h.ids, e.ID), append(h.types, e.Type)
		h.mu.Unlock()
		if answer != nil {
			answer(w, r)
		}
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) target(name string) notify.Target {
	return notify.Target{Name: name, URL: h.URL + "/hook", Local: true, Roots: rootOf(h.Certificate())}
}

func (h *hook) seen() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.ids)
}

func (d *desk) rewrapped() {
	d.Helper()
	d.append("keys.rewrapped", "", "", map[string]any{"kind": "kms", "keyID": "k2"})
}

func (d *desk) why(target string) string {
	for _, s := range d.n.Standings() {
		if s.Target == target {
			return s.Why
		}
	}
	return ""
}

// Targets that answer badly: with a redirect, without end, slowly, at an address
// that nobody declared as local, in the clear, or with a certificate of another.
// None gets us anywhere else, and the good one beside them is told meanwhile.
//
// Threats: S5, C11, M2, M3 (door)
func TestBadTargets(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	elsewhere := newHook(t, nil)
	redirects := newHook(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL+"/taken", 307) })
	endless := newHook(t, func(w http.ResponseWriter, r *http.Request) {
		for b := bytes.Repeat([]byte("x"), 64<<10); ; {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	})
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	slow := newHook(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-over:
		}
	})
	good, private, unknown := newHook(t, nil), newHook(t, nil), newHook(t, nil)
	here, other := private.target("private"), unknown.target("unknown")
	here.Local, other.Roots = false, ""
	header := newHook(t, func(w http.ResponseWriter, _ *http.Request) {
		if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
			forever(c, "HTTP/1.1 200 OK\r\nX: ")
		}
	})
	greeting := notify.Target{Name: "greeting", URL: "smtp://" + babbler(t), Local: true, From: "a@b.example", To: []string{"c@d.example"}}
	led := redirects.target("redirects")
	led.Authorization = opened("Bearer of the first")
	d.declare(slow.target("slow"), led, endless.target("endless"), here, other, header.target("header"), greeting, good.target("good"))
	d.run()
	for range 3 {
		d.rewrapped()
	}
	await(t, "the good one", func() bool { return len(good.seen()) == 3 })
	await(t, "the slow one to be asked", func() bool { return len(slow.seen()) > 0 })
	if got := slow.seen(); len(got) != 1 {
		t.Errorf("the slow one was asked %d times while it answers", len(got))
	}
	await(t, "the endless one, of which only the status counts", func() bool { return len(endless.seen()) == 3 })
	for name, want := range map[string]string{"redirects": "307", "private": "local: true", "unknown": "certificate", "header": "headers exceeded", "greeting": "unexpected EOF"} {
		await(t, name+" to fail", func() bool { return d.why(name) != "" })
		if why := d.why(name); !strings.Contains(why, want) {
			t.Errorf("%s: got %q, want %q in it", name, why, want)
		}
	}
	if n := len(elsewhere.seen()) + len(private.seen()) + len(unknown.seen()); n != 0 {
		t.Errorf("%d events went where nobody declared", n)
	}
}

// forever sends a line that never ends for as long as somebody reads.
func forever(c net.Conn, begin string) {
	defer c.Close()
	more := strings.Repeat("x", 64<<10)
	for _, err := io.WriteString(c, begin); err == nil; _, err = io.WriteString(c, more) {
	}
}

// babbler is a mail server whose greeting never ends.
func babbler(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go forever(c, "220 ")
		}
	}()
	return l.Addr().String()
}

// torn loses the answer of the first record of a delivery, as a crash between
// sending and the cursor does.
type torn struct {
	record.Log
	once sync.Once
	lost chan struct{}
}

func (l *torn) Append(ctx context.Context, d record.Draft) (e record.Entry, err error) {
	if d.Type == "notify.sent" {
		l.once.Do(func() { close(l.lost); err = errors.New("killed") })
	}
	if err != nil {
		return e, err
	}
	return l.Log.Append(ctx, d)
}

// The process ends between sending and the record of it: the event comes again,
// under its id, and nothing is lost, nor said out of order. A target that was away
// hears all of it; one that is not declared any more, nothing.
//
// Threats: S4 (ledger)
func TestKilledBetweenSendingAndCursor(t *testing.T) {
	t.Parallel()
	d, h := newDesk(t), newHook(t, nil)
	d.declare(h.target("siem"))
	log := &torn{Log: d.log, lost: make(chan struct{})}
	d.restart(log)
	stop := d.run()
	for range 3 {
		d.rewrapped()
	}
	<-log.lost
	stop()
	first := h.seen()
	if len(first) != 1 {
		t.Fatalf("got %v", first)
	}
	d.restart(d.log)
	stop = d.run()
	await(t, "the rest", func() bool { return len(d.records("notify.sent")) == 3 })
	got := h.seen()
	if len(got) != 4 || got[1] != first[0] || got[2] == got[1] || got[3] == got[2] {
		t.Errorf("got %v, want the first once more, and then the others", got)
	}
	for _, id := range got {
		if !strings.HasPrefix(id, "acme-") || strings.Contains(id, ".") {
			t.Errorf("the id is %q", id)
		}
	}
	d.declare()
	await(t, "the cursor to go", func() bool { return len(d.records("notify.ended")) == 1 })
	d.rewrapped()
	stop()
	d.declare(h.target("siem"))
	d.restart(d.log)
	stop = d.run()
	d.rewrapped()
	await(t, "what comes after it is declared again", func() bool { return len(d.records("notify.sent")) == 4 })
	stop()
	if got := h.seen(); len(got) != 5 {
		t.Errorf("got %d events, want none of the time without a declaration", len(got))
	}
	// Nor, after a restart, what it did not ask for.
	few := h.target("siem")
	few.Events = []string{"dev.sallyport.task.*"}
	d.declare(few)
	d.restart(d.log)
	stop = d.run()
	await(t, "other events", func() bool { return len(d.records("notify.started")) == 3 })
	d.rewrapped()
	d.append("task.failed", "t-1", "helpdesk", map[string]any{"code": "x"})
	await(t, "the task", func() bool { return len(d.records("notify.sent")) == 5 })
	d.rewrapped()
	more := d.looked.Load() + 3
	await(t, "a few more looks", func() bool { return d.looked.Load() > more })
	d.declare(h.target("siem"))
	await(t, "all events", func() bool { return len(d.records("notify.started")) == 4 })
	stop()
	d.restart(d.log)
	stop = d.run()
	d.rewrapped()
	await(t, "what comes after", func() bool { return len(d.records("notify.sent")) == 6 })
	stop()
	if got := h.seen(); len(got) != 7 {
		t.Errorf("got %d events, want none that was not asked for", len(got))
	}
}

// A target that has not heard for a day is late. The ledger that stopped is told
// without a record, once.
//
// Threats: T55 (ledger)
func TestLateAndStopped(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	away := newHook(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	h, quiet := newHook(t, nil), newHook(t, nil)
	x := quiet.target("quiet")
	x.Events = []string{"dev.sallyport.task.*"}
	d.declare(away.target("away"), h.target("siem"), x)
	d.restart(&old{d.log})
	d.run()
	d.rewrapped()
	await(t, "a failed try", func() bool { return strings.Contains(d.why("away"), "503") })
	await(t, "the other", func() bool { return len(h.seen()) == 1 && d.n.Standings()[1].Waits.IsZero() })
	if s := d.n.Standings(); !s[0].Late || s[1].Late || s[2].Late || s[0].Waits.IsZero() || s[0].Fails == 0 {
		t.Errorf("got %+v", s)
	}
	d.stopped.Store(true)
	await(t, "the alarm", func() bool { return len(h.seen()) == 2 })
	more := d.looked.Load() + 5
	await(t, "a few more looks", func() bool { return d.looked.Load() > more })
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.types) != 2 || h.types[1] != "dev.sallyport.ledger.stopped" || len(quiet.seen()) != 0 {
		t.Errorf("got %v, and %v for who did not ask", h.types, quiet.seen())
	}
}

// old is a log whose records are two days old.
type old struct{ record.Log }

func (l *old) Entries(ctx context.Context, from int64, f func(record.Entry) error) error {
	return l.Log.Entries(ctx, from, func(e record.Entry) error {
		e.Time = e.Time.Add(-48 * time.Hour)
		return f(e)
	})
}

// What is declared and cannot be told is refused with the field.
//
// Threats: S5 (policy)
func TestCheck(t *testing.T) {
	mail := notify.Target{URL: "smtp://mail.example", From: "a@acme.example", To: []string{"b@acme.example"}}
	with := func(f func(*notify.Target)) notify.Target {
		x := mail
		f(&x)
		return x
	}
	for i, c := range []struct {
		target notify.Target
		field  string
	}{
		{mail, ""},
		{notify.Target{URL: "https://siem.example/hook", Events: []string{"dev.sallyport.task.*", "dev.sallyport.ledger.stopped"}}, ""},
		{notify.Target{URL: "http://siem.example/hook"}, "url"},
		{notify.Target{URL: "https://user@siem.example/hook"}, "url"},
		{notify.Target{URL: "https:///hook"}, "url"},
		{notify.Target{URL: "smtp://mail.example/x", From: "a@b.example"}, "url"},
		{notify.Target{URL: "https://siem.example/", Events: []string{"dev.sallyport.tsk.*"}}, "events[0]"},
		{notify.Target{URL: "https://siem.example/", Events: []string{"dev.sallyport.*", "*.failed"}}, "events[1]"},
		{notify.Target{URL: "https://siem.example/", From: "a@b.example"}, "mail"},
		{with(func(x *notify.Target) { x.Signature = opened(whsec) }), "url"},
		{with(func(x *notify.Target) { x.From = "" }), "mail.from"},
		{with(func(x *notify.Target) { x.From = "A <a@b.example>" }), "mail.from"},
		{with(func(x *notify.Target) { x.To = []string{"b@acme.example", "c@d.example\r\nBcc: e@f.example"} }), "mail.to[1]"},
		{with(func(x *notify.Target) { x.To = []string{"b@acme.example,c@d.example"} }), "mail.to[0]"},
		{with(func(x *notify.Target) { x.To = nil }), "mail.to"},
		{with(func(x *notify.Target) { x.To, x.Events = nil, []string{"dev.sallyport.approval.requested"} }), ""},
		{with(func(x *notify.Target) { x.Username = "u" }), "mail.password"},
	} {
		if field, problem := c.target.Check(); field != c.field || (problem == "") != (field == "") {
			t.Errorf("%d: got %q %q, want %q", i, field, problem, c.field)
		}
	}
	if got := fmt.Sprint(notify.Types()); strings.Count(got, "dev.sallyport.") != len(notify.Types()) {
		t.Error(got)
	}
}
