package browser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/png"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
)

// Threats: T20 (dispatch)
func TestNoInputWithoutPermit(t *testing.T) {
	w := open(t, Config{})
	w.load("permit", twoButtons)
	g := w.ground(100, 50)
	d := canon.Digest([]byte("press"))
	if err := w.Press(t.Context(), g, gate.Permit{}, d, Click{}); !errors.Is(err, gate.ErrPermit) {
		t.Errorf("zero permit: got %v, want ErrPermit", err)
	}
	k := gatetest.New(t, nil)
	e := g.Element
	a := action.Action{Tenant: gatetest.Tenant, Task: gatetest.Task, Agent: gatetest.Agent, Surface: action.Computer,
		Operation: "computer.click", Effect: action.Observe, Element: &e, Digest: d}
	var kept gate.Permit
	r := k.Act(t.Context(), a, nil, func(ctx context.Context, p gate.Permit) action.Outcome {
		kept = p
		if err := w.Press(ctx, g, p, canon.Digest([]byte("other")), Click{}); !errors.Is(err, gate.ErrPermit) {
			t.Errorf("permit for another digest: got %v, want ErrPermit", err)
		}
		if err := w.Press(ctx, g, p, d, Click{}); err != nil {
			t.Errorf("press: %v", err)
		}
		return action.Outcome{State: action.Done}
	})
	if r.Decision.Verdict != action.Allow {
		t.Fatalf("got %+v", r.Decision)
	}
	if err := w.Press(t.Context(), g, kept, d, Click{}); !errors.Is(err, gate.ErrPermit) {
		t.Errorf("second use: got %v, want ErrPermit", err)
	}
	if got := w.eval("String(clicks)"); got != "1" {
		t.Errorf("clicks %s, want 1", got)
	}
}

const inputsPage = `<body style="margin:0"><style>.b{position:absolute;width:200px;height:60px;background:#ddd}</style>
<div class=b id=log style="left:20px;top:20px"></div>
<label class=b style="left:20px;top:100px">Tick <input type=checkbox id=tick></label>
<a class=b href="/linked" style="left:20px;top:180px"><b>Link</b></a>
<input class=b id=field style="left:20px;top:260px" value="old text">
<input class=b id=next style="left:20px;top:340px">
<input class=b type=range id=range min=0 max=100 value=0 style="left:300px;top:20px">
<div class=b draggable=true id=drag style="left:300px;top:100px">drag me</div>
<div class=b id=drop style="left:300px;top:260px" ondragover="event.preventDefault()" ondrop="window.dropped=event.dataTransfer.getData('text/plain')">drop here</div>
<select class=b id=sel style="left:300px;top:340px"><option>one<option>two<option>three</select>
<iframe class=b src="http://other.example/f" style="left:600px;top:20px;border:0"></iframe>
<script>window.seen=[];for(const t of ['click','dblclick','contextmenu','auxclick'])log.addEventListener(t,e=>seen.push(t+e.detail+(e.shiftKey?'S':'')));
drag.ondragstart=e=>e.dataTransfer.setData('text/plain','payload')</script><div style="position:absolute;top:3000px">.</div>`

func TestInputs(t *testing.T) {
	w := open(t, Config{})
	w.set("/f", `<!doctype html><input autofocus id=inner>`)
	w.load("inputs", inputsPage)
	check := func(name, script, want string) {
		t.Helper()
		if got := w.eval("String(" + script + ")"); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	w.must(w.ground(100, 50), Click{Count: 2, Modifiers: Shift})
	check("double", "seen.join()", "click1S,click2S,dblclick2S")
	w.eval("seen=[]")
	w.must(w.ground(100, 50), Click{Count: 3})
	check("triple", "seen.join()", "click1,click2,dblclick2,click3")
	w.eval("seen=[]")
	w.must(w.ground(100, 50), Click{Button: Right})
	check("right", "seen.filter(s=>s.startsWith('context')).length", "1")
	w.must(w.ground(30, 110), Click{})
	check("label", "tick.checked", "true")
	w.must(w.ground(100, 50), Down{})
	w.must(w.ground(100, 50), Up{})
	check("down_up", "seen.filter(s=>s=='click1').length", "1")
	w.must(w.ground(305, 50), Drag{To: w.ground(400, 50)})
	check("slider", "range.value>20", "true")
	w.must(w.ground(350, 130), Drag{To: w.ground(350, 280)})
	check("native_drag", "window.dropped", "payload")
	w.must(w.ground(100, 290), Click{})
	w.must(w.focus(), Key{"ctrl+a"})
	w.must(w.focus(), Type{"nëw ✓"})
	check("select_all_and_type", "field.value", "nëw ✓")
	w.must(w.focus(), Key{"BackSpace"})
	w.must(w.focus(), Key{"A"})
	w.must(w.focus(), Key{"shift+1"})
	check("keys", "field.value", "nëw A!")
	w.must(w.focus(), Key{"Tab"})
	check("tab", "document.activeElement.id", "next")
	w.eval("range.focus()")
	w.must(w.focus(), Key{"End"})
	check("end_on_slider", "range.value", "100")
	w.eval("sel.focus()")
	w.must(w.focus(), Key{"Down"})
	check("select_by_keyboard", "sel.value", "two")
	w.must(w.focus(), Key{"Tab"}) // into the frame of another process
	if g := w.focus(); g.Element.FrameOrigin != "http://other.example" {
		t.Errorf("tab into a frame: focus on %+v", g.Element)
	}
	w.must(Grounded{X: 50, Y: 500, Page: w.focus().Page}, Wheel{DY: 300})
	w.until("scrollY===300")
	w.eval("scrollTo(0,0);document.activeElement.blur()")
	if err := w.do(w.focus(), Type{"nowhere"}); !errors.Is(err, ErrInput) {
		t.Errorf("text without a field: got %v, want ErrInput", err)
	}
	w.must(w.ground(100, 210), Click{})
	w.waitHit(t, "GET site.test/linked")
}

// Threats: T29, T30 (browser)
func TestMalformedInput(t *testing.T) {
	point, focus := Grounded{Page: "p"}, Grounded{Page: "p", Keyboard: true, Editable: true}
	for _, c := range []struct {
		name string
		g    Grounded
		in   Input
		want error
	}{
		{"nil", point, nil, ErrInput},
		{"button", point, Click{Button: "back"}, ErrInput},
		{"count", point, Click{Count: 4}, ErrInput},
		{"negative_count", point, Click{Count: -1}, ErrInput},
		{"modifiers", point, Click{Modifiers: 16}, ErrInput},
		{"click_on_focus", focus, Click{}, ErrInput},
		{"key_on_point", point, Key{"a"}, ErrInput},
		{"type_on_point", point, Type{"a"}, ErrInput},
		{"zoom_wheel", point, Wheel{DY: 1, Modifiers: Ctrl}, ErrChord},
		{"wheel_far", point, Wheel{DY: 1e9}, ErrInput},
		{"newline", focus, Type{"a\nb"}, ErrText},
		{"return", focus, Type{"a\r"}, ErrText},
		{"tab", focus, Type{"\t"}, ErrText},
		{"line_separator", focus, Type{"a\u2028b"}, ErrText},
		{"nul", focus, Type{"\x00"}, ErrText},
		{"bad_utf8", focus, Type{"\xff"}, ErrText},
		{"empty", focus, Type{""}, ErrInput},
		{"long", focus, Type{strings.Repeat("a", maxText+1)}, ErrInput},
		{"drag_across_pages", point, Drag{To: Grounded{Page: "q"}}, ErrInput},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := Check(c.g, c.in); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// Threats: T16, T29 (browser)
func TestChords(t *testing.T) {
	for _, s := range []string{"Return", "Enter", "KP_Enter", "BackSpace", "Tab", "shift+Tab", "Escape", "space", " ", "a", "A", "é", "plus", "+", "Page_Down",
		"PageUp", "Prior", "ArrowLeft", "Left", "F2", "ctrl+a", "Control+A", "ctrl+shift+z", "ctrl+c", "ctrl+BackSpace", "shift+Right", "ctrl+Return", "shift", "Delete", "minus"} {
		if err := CheckChord(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"ctrl+l", "ctrl+o", "ctrl+s", "ctrl+p", "ctrl+t", "ctrl+n", "ctrl+w", "ctrl+r", "ctrl+u", "ctrl+f", "ctrl+shift+i", "ctrl+shift+n", "F12", "F5",
		"F11", "ctrl+Tab", "ctrl+1", "ctrl+plus", "ctrl++", "alt+Left", "alt+d", "alt+F4", "alt", "super", "meta+a", "cmd+l", "Menu", "shift+F10", "ctrl+alt+a", "ctrl+shift+Escape", "shift+Escape", "ctrl+F4", "ctrl+Page_Up"} {
		if err := CheckChord(s); !errors.Is(err, ErrChord) {
			t.Errorf("%q: got %v, want ErrChord", s, err)
		}
	}
	for _, s := range []string{"", "Retrun", "ab", "a+b", "ctrl+ctrl+a", "ctrl+", "F13", "\x00", "\n", "XF86Back", "hyper+a", strings.Repeat("a", 200), "\xff"} {
		if err := CheckChord(s); !errors.Is(err, ErrKey) {
			t.Errorf("%q: got %v, want ErrKey", s, err)
		}
	}
}

func TestScreenshots(t *testing.T) {
	w := open(t, Config{})
	w.load("shot", `<body style="margin:0;background:#fff"><div style="height:3000px"></div><div style="position:absolute;left:640px;top:1400px;width:10px;height:10px;background:rgb(255,0,0)"></div>`)
	w.eval("scrollTo(0,1000)")
	red := func(name string, b []byte, err error, wide, high, x, y int) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		img, err := png.Decode(bytes.NewReader(b))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if s := img.Bounds().Size(); s.X != wide || s.Y != high {
			t.Errorf("%s: size %v, want %dx%d", name, s, wide, high)
		}
		if r, g, _, _ := img.At(x, y).RGBA(); r>>8 < 200 || g>>8 > 80 {
			t.Errorf("%s: pixel %d,%d is %v, want red", name, x, y, img.At(x, y))
		}
	}
	b, err := w.Screenshot(t.Context())
	red("whole", b, err, 1280, 800, 645, 405)
	b, err = w.ScreenshotScaled(t.Context(), 640, 400)
	red("scaled", b, err, 640, 400, 322, 202)
	b, err = w.Zoom(t.Context(), Region{X: 560, Y: 350, Width: 320, Height: 200})
	red("zoom", b, err, 1280, 800, (645-560)*4, (405-350)*4)
	if _, err := w.ScreenshotScaled(t.Context(), 1024, 1024); !errors.Is(err, ErrInput) {
		t.Errorf("got %v, want ErrInput", err)
	}
	if _, err := w.Zoom(t.Context(), Region{X: 1200, Y: 0, Width: 100, Height: 10}); !errors.Is(err, ErrInput) {
		t.Errorf("got %v, want ErrInput", err)
	}
}

// What Enter was for is gone before the key comes up.
func TestEnterOnWhatGoesAway(t *testing.T) {
	w := open(t, Config{})
	for name, script := range map[string]string{
		"submit_disabled": `f.onsubmit=e=>{e.preventDefault();save.disabled=true;window.done=true}`,
		"field_removed":   `f.onsubmit=e=>{e.preventDefault();f.remove();window.done=true}`,
		"focus_elsewhere": `f.onsubmit=e=>{e.preventDefault();other.focus();window.done=true}`,
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.load("enter", `<form id=f><input id=field><button id=save>Save</button></form><button id=other onclick="window.pressed=1" onkeyup="window.heard=1">Other</button><script>`+script+`</script>`)
			w.eval("field.focus();1")
			w.must(w.focus(), Key{"Return"})
			if got := w.eval("String([window.done,window.pressed,window.heard])"); got != "true,," {
				t.Errorf("got %q", got)
			}
		})
	}
}

// Pictures are asked for while one document replaces another.
func TestScreenshotAcrossNavigations(t *testing.T) {
	w := open(t, Config{})
	w.load("a", `<style>@keyframes x{from{opacity:0}}</style><div style="animation:x 1s infinite">a</div>`)
	w.load("b", `b`)
	for i := range 40 {
		w.eval(fmt.Sprintf("setTimeout(()=>location='http://site.test/%c?%d',%d);''", "ab"[i%2], i, i%7))
		for range 3 {
			if _, err := w.Screenshot(t.Context()); err != nil {
				t.Fatalf("navigation %d: %v", i, err)
			}
		}
	}
}

func TestEndOfContextAndBrowser(t *testing.T) {
	w := open(t, Config{})
	w.load("end", twoButtons)
	g := w.ground(100, 50)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.perform(ctx, g, Click{}); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: got %v, want context.Canceled", err)
	}
	if got := w.eval("String(window.clicks)"); got != "undefined" {
		t.Errorf("an ended action clicked: %s", got)
	}
	w.input <- struct{}{} // another action is in flight
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := w.Press(ctx, g, gate.Permit{}, "sha256:x", Click{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("beside another: got %v, want to wait", err)
	}
	<-w.input
	w.Close()
	for name, err := range map[string]error{
		"press":    w.do(g, Click{}),
		"navigate": w.Navigate(t.Context(), "http://site.test/"),
	} {
		if err == nil {
			t.Errorf("%s worked on a closed browser", name)
		}
	}
	if _, err := w.Screenshot(t.Context()); err == nil {
		t.Error("a screenshot of a closed browser")
	}
	select {
	case <-w.Process().Done():
	default:
		t.Error("the process outlived Close")
	}
}

// Threats: T9, T48 (browser)
func TestFullBrowser(t *testing.T) {
	w := open(t, Config{Kind: "full"})
	w.set("/f", "")
	w.load("full", inputsPage)
	w.must(w.ground(30, 110), Click{})
	w.must(w.ground(100, 290), Click{})
	w.must(w.focus(), Key{"ctrl+a"})
	w.must(w.focus(), Type{"typed"})
	if got := w.eval("field.value+tick.checked+innerWidth+'x'+innerHeight"); got != "typedtrue1280x800" {
		t.Errorf("got %q", got)
	}
	page, err := w.current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range []string{"file:///etc/passwd", "chrome://version", "view-source:http://site.test/full"} {
		w.conn.call(t.Context(), page.id, "Page.navigate", obj{"url": u}, nil)
		if got := w.eval("String(document.body?.innerText)"); strings.Contains(got, "root:") || strings.Contains(got, "Chromium\t") {
			t.Errorf("%s opened: %q", u, got)
		}
	}
	if _, err := w.Screenshot(t.Context()); err != nil {
		t.Error(err)
	}
	if v, f, k := w.Facts(); v == "" || f == "" || k != "full" {
		t.Errorf("facts %q %q %q", v, f, k)
	}
}

// The price of the guard: make bench prints the ratio of these two.
func BenchmarkClickBare(b *testing.B) {
	w := open(b, Config{})
	w.load("bench", twoButtons)
	page, err := w.current(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	g := w.ground(100, 50)
	for b.Loop() { // the guard blocks these, after the same way through the browser
		f := &flying{b: w.Browser, ctx: b.Context(), page: page}
		if err := f.sent(f.mouse(mouse("mouseMoved", g, "none", 0, 0, 0)), f.mouse(mouse("mousePressed", g, "left", 1, 1, 0)),
			f.mouse(mouse("mouseReleased", g, "left", 0, 1, 0))); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkClickGuarded(b *testing.B) {
	w := open(b, Config{})
	w.load("bench", twoButtons)
	g := w.ground(100, 50)
	for b.Loop() {
		if err := w.perform(b.Context(), g, Click{}); err != nil {
			b.Fatal(err)
		}
	}
}
