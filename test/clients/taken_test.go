package clients

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/surface/cdp"
)

// asked is a question that is answered when the test says so.
type asked struct{ yes atomic.Bool }

func (a *asked) Open(context.Context, action.Action, action.Decision) (gate.Hold, error) {
	return a, nil
}
func (a *asked) ID() string { return "q-1" }
func (a *asked) Wait(ctx context.Context) error {
	if a.yes.Load() {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}
func (a *asked) Use(record.Tx) error { return nil }

// TestHeldAndTakenOver: a client that said so is not kept waiting for people; and
// while a person has the session a client hears nothing, also of what it asked
// before, and is ended when the session is given back.
//
// Threats: T56 (form)
func TestHeldAndTakenOver(t *testing.T) {
	q := &asked{}
	kit := gatetest.New(t, func(f gate.Facts) action.Decision {
		if f.Action.Operation == "computer.left_click" {
			return action.Decision{Verdict: action.Hold, Layer: action.LayerGuardrail, Code: "needs_approval", Approvers: "approver"}
		}
		return gatetest.AllowAll(f)
	}, func(a *gate.Admission) { a.Holds = q })
	w := open(t, cdp.Open, nil, func(c *cdp.Config) { c.Gate = kit.Gate })
	conn, r, resp := w.handshake("Prefer: wait=0\r\n")
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Preference-Applied") != "wait=0" {
		t.Fatalf("got %s %v", resp.Status, resp.Header)
	}
	c := &raw{t: t, conn: conn, r: r}
	_, s := c.page(site1 + "/form")
	x, y := c.point(s, "#btn")
	c.must(s, "Input.dispatchMouseEvent", mouse("mouseMoved", x, y, 0), nil)
	c.denied("(held)", s, "Input.dispatchMouseEvent", mouse("mousePressed", x, y, 1))
	c.denied("the question is q-1", s, "Input.dispatchMouseEvent", mouse("mousePressed", x, y, 1))
	q.yes.Store(true)
	c.must(s, "Input.dispatchMouseEvent", mouse("mousePressed", x, y, 1), nil)
	c.must(s, "Input.dispatchMouseEvent", mouse("mouseReleased", x, y, 1), nil)

	c.write(`{"id":900001,"sessionId":"` + s + `","method":"Runtime.evaluate","params":{"awaitPromise":true,"expression":"new Promise(r=>window.onhashchange=()=>r('what the person did'))"}}`)
	c.eval(s, "1") // it has been taken up
	w.door.Mute()
	if err := kit.Pass(t.Context(), gatetest.Tenant, gatetest.Task, "", "person:ines"); err != nil {
		t.Fatal(err)
	}
	before := len(c.events)
	for _, u := range []string{"/form#x", "/form#y", "/other"} {
		if err := w.b.Navigate(t.Context(), site1+u); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range []string{"Runtime.evaluate", "Page.captureScreenshot", "DOM.getDocument", "Accessibility.getFullAXTree", "Page.reload", "Target.getTargets"} {
		c.denied("denied by layer authority (taken_over)", s, m, dict{})
	}
	c.denied("taken_over", s, "Input.dispatchMouseEvent", mouse("mousePressed", x, y, 1))
	if n := len(c.events); n != before {
		for _, e := range c.events[before:] {
			if e.ID == nil || e.Error == nil || !strings.Contains(e.Error.Message, gate.CodeTaken) {
				t.Errorf("heard: %s %s %s", e.Method, e.Params, e.Result)
			}
		}
	}
	if _, _, resp := w.handshakeAt(); resp.StatusCode != http.StatusConflict || resp.Header.Get("Retry-After") == "" {
		t.Errorf("another connection: %s", resp.Status)
	}
	refused := func() (n int) {
		for _, d := range kit.Log.Decisions(t) {
			if d.Decision.Code == gate.CodeTaken && d.Decision.Layer == action.LayerAuthority && d.Action.Element == nil {
				n++
			}
		}
		return n
	}
	for limit := time.Now().Add(20 * time.Second); refused() < 7; time.Sleep(10 * time.Millisecond) { // each kind of it once
		if time.Now().After(limit) {
			t.Fatalf("%d refusals are on record", refused())
		}
	}
	if err := kit.Pass(t.Context(), gatetest.Tenant, gatetest.Task, "person:ines", ""); err != nil {
		t.Fatal(err)
	}
	w.door.Unmute()
	for {
		m, err := c.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if m.Error == nil {
			t.Errorf("heard at the end: %s %s", m.Method, m.Result)
		}
	}
	again := w.dial()
	_, s = again.page(site1 + "/form")
	if got := again.eval(s, "'back'"); got != "back" {
		t.Errorf("given back: got %s", got)
	}
}
