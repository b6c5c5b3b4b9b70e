package browser

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

const twoButtons = `<body style="margin:0"><style>button{position:absolute;width:200px;height:60px}</style>
<button id=safe style="left:20px;top:20px" onclick="window.clicks=(window.clicks||0)+1">Safe</button>
<button id=del style="left:600px;top:20px" onclick="window.deleted=true">Delete</button>`

// The page drops every listener of the window by document.open(), writes the
// same page again, and swaps the buttons as the press arrives.
//
// Threats: T6, T28, H6 (browser)
func TestDocumentOpenDoesNotDropTheGuard(t *testing.T) {
	w := open(t, Config{})
	for _, late := range []bool{false, true} {
		w.load("opened", twoButtons)
		g := w.ground(100, 50)
		script := "document.open();document.write(" + quote(twoButtons) + ");document.close();" +
			"addEventListener('pointerdown',()=>{safe.style.left='600px';del.style.left='20px'},true);1"
		if !late {
			w.eval(script)
			g = w.ground(100, 50)
		} else {
			w.eval("setTimeout(()=>{" + script + "},0);1")
		}
		err := w.do(g, Click{})
		if err == nil || w.eval("String(!!window.deleted)") == "true" {
			t.Errorf("late %v: got %v, clicks %s at %s, deleted %s", late, err, w.eval("String(window.clicks)"), w.eval("safe.style.left"), w.eval("String(!!window.deleted)"))
		}
	}
}

// An iframe that is filled by document.write has no guard of its own making.
//
// Threats: T6, T26 (browser)
func TestWrittenFrameHasGuard(t *testing.T) {
	w := open(t, Config{})
	w.load("written", twoButtons+`<iframe id=f style="position:absolute;left:0;top:300px;width:300px;height:100px;border:0"></iframe>
<script>f.contentDocument.open();f.contentDocument.write('<body style="margin:0"><button style="width:200px;height:60px" onclick="top.deleted=true">Delete</button>');f.contentDocument.close();
addEventListener('pointerdown',()=>{f.style.top='20px'},true)</script>`)
	// Grounded before the page can move anything: Chromium makes a mousemove of
	// its own after a layout, and what is under the pointer then is the frame.
	g := w.ground(100, 50)
	if g.Element.Name != "Safe" {
		t.Fatalf("grounded %+v", g.Element)
	}
	w.eval("addEventListener('mousemove',()=>{f.style.top='20px'},true);1")
	if err := w.do(g, Click{}); err == nil {
		t.Error("a press that a frame took was reported as done")
	}
	if w.eval("String(!!window.deleted)") == "true" {
		t.Error("the frame took the click")
	}
}

// The victim's frame of another origin, in its own process, is moved under the
// pointer: the guard of that frame stops it.
//
// Threats: T26, T28, H6 (browser)
func TestFrameOfAnotherOriginMovedUnderThePointer(t *testing.T) {
	w := open(t, Config{})
	w.set("/victim", `<!doctype html><body style="margin:0"><form action="/pay" method=post><button style="width:300px;height:100px">Pay</button></form>`)
	for _, event := range []string{"mousemove", "pointerdown", "pointerup"} {
		w.load("clickjack", twoButtons+`<iframe id=f src="http://bank.example/victim" style="position:absolute;left:0;top:300px;width:300px;height:100px;border:0"></iframe>`)
		g := w.ground(100, 50)
		w.eval("addEventListener('" + event + "',()=>{f.style.top='0px';f.style.zIndex=9},true);1")
		err := w.do(g, Click{})
		w.load("after", "")
		if w.hit("POST bank.example/pay") {
			t.Fatalf("%s: the victim's button was pressed (%v)", event, err)
		}
	}
}

// Threats: T28 (browser)
func TestPageCannotDisturbTheGuard(t *testing.T) {
	w := open(t, Config{})
	w.load("patched", `<script>
for (const P of [EventTarget.prototype, Event.prototype, Node.prototype, Element.prototype, HTMLElement.prototype, Document.prototype, ShadowRoot.prototype])
  for (const n of Object.getOwnPropertyNames(P)) { const d = Object.getOwnPropertyDescriptor(P, n);
    if (['addEventListener','preventDefault','stopImmediatePropagation','composedPath','matches','closest','getAttribute','getRootNode','elementFromPoint'].includes(n)) P[n] = function(){ return n==='composedPath' ? [document.getElementById('safe')] : n==='matches' ? true : null };
    else if (d.get && ['parentNode','localName','activeElement','shadowRoot'].includes(n)) Object.defineProperty(P, n, {get(){ return 'lie' }}); }
JSON.stringify = () => '{}'; Reflect.apply = () => { throw 1 }; performance.now = () => 0; Array.prototype.includes = () => true; WeakMap.prototype.get = () => 1;
</script>`+twoButtons)
	g := w.ground(100, 50)
	if g.Element.Tag != "button" || g.Element.Name != "Safe" {
		t.Fatalf("grounded %+v", g.Element)
	}
	w.must(g, Click{})
	g = w.ground(100, 50)
	w.eval("onpointerdown=()=>{document.querySelector('#safe').style.left='600px';document.querySelector('#del').style.left='20px'};1")
	if err := w.do(g, Click{}); !errors.Is(err, ErrBlocked) {
		t.Errorf("got %v, want ErrBlocked", err)
	}
	if w.eval("String(!!window.deleted)") == "true" {
		t.Error("the page won")
	}
}

func TestPageCannotSeeTheGuard(t *testing.T) {
	w := open(t, Config{})
	w.load("look", `<iframe id=clean></iframe><script>
window.before = Object.getOwnPropertyNames(window).length;
addEventListener('pointerdown', e => { window.stack = new Error().stack; window.prevented = e.defaultPrevented }, true);
</script>`+twoButtons)
	names := w.eval("Object.getOwnPropertyNames(window).join()")
	for _, n := range []string{w.guard.key, w.guard.report, w.guard.world} {
		if strings.Contains(names, n) || w.eval("typeof window["+quote(n)+"]") != "undefined" {
			t.Errorf("the page sees %q", n)
		}
	}
	w.must(w.ground(100, 50), Click{})
	if s := w.eval("stack"); strings.Contains(s, "judge") || strings.Contains(s, w.guard.key) {
		t.Errorf("stack of a listener shows the guard: %s", s)
	}
	if w.eval("String(prevented)") != "false" {
		t.Error("an allowed event was marked as prevented")
	}
	if n := w.eval("performance.getEntriesByType('resource').length+''"); n != "0" {
		t.Errorf("%s resources", n)
	}
}

func TestUnguardedInputIsDenied(t *testing.T) {
	w := open(t, Config{})
	w.load("deny", twoButtons+`<input id=i autofocus style="position:absolute;top:200px">`)
	page, err := w.current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// The protocol itself, with no permit and no armed guard.
	for _, kind := range []string{"mousePressed", "mouseReleased"} {
		w.conn.call(t.Context(), page.id, "Input.dispatchMouseEvent", mouse(kind, Grounded{X: 100, Y: 50}, "left", 1, 1, 0), nil)
	}
	w.eval("i.focus();1")
	for _, kind := range []string{"keyDown", "keyUp"} {
		w.conn.call(t.Context(), page.id, "Input.dispatchKeyEvent", obj{"type": kind, "key": "a", "text": "a"}, nil)
	}
	w.conn.call(t.Context(), page.id, "Input.insertText", obj{"text": "b"}, nil)
	w.conn.call(t.Context(), page.id, "Input.dispatchTouchEvent", obj{"type": "touchStart", "touchPoints": []obj{{"x": 100, "y": 50}}}, nil)
	w.conn.call(t.Context(), page.id, "Input.dispatchTouchEvent", obj{"type": "touchEnd", "touchPoints": []obj{}}, nil)
	if c, v := w.eval("String(window.clicks)"), w.eval("i.value"); c != "undefined" || v != "" {
		t.Errorf("clicks %s, value %q", c, v)
	}
}

// Threats: T17 (browser)
func TestDialogsAreDismissed(t *testing.T) {
	w := open(t, Config{})
	w.load("dialog", `<body style="margin:0"><button style="position:absolute;left:20px;top:20px;width:200px;height:60px" onclick="window.said=confirm('Delete everything?')">Ask</button>`)
	if _, ok := w.Dialog(); ok {
		t.Error("a dialog before any")
	}
	w.must(w.ground(100, 50), Click{})
	if got := w.eval("String(said)"); got != "false" {
		t.Errorf("confirm answered %s", got)
	}
	if d, ok := w.Dialog(); !ok || d.Kind != "confirm" || d.Message != "Delete everything?" || d.Count != 1 {
		t.Errorf("got %+v", d)
	}
	if got := w.eval("String(prompt('name?','x'))"); got != "null" {
		t.Errorf("prompt answered %s", got)
	}
}

// Threats: T6 (browser)
func TestPopups(t *testing.T) {
	w := open(t, Config{})
	w.set("/new", "<!doctype html><title>new</title>"+twoButtons)
	w.load("opener", `<body style="margin:0"><a target=_blank rel=opener href="/new" style="position:absolute;left:20px;top:20px;width:200px;height:60px;background:#ccc">Open</a>`)
	old := w.ground(100, 50)
	w.must(old, Click{})
	waitURL(w, "http://site.test/new")
	w.until("document.readyState==='complete'")
	if err := w.do(old, Click{}); !errors.Is(err, ErrMoved) {
		t.Errorf("input for the page behind: got %v, want ErrMoved", err)
	}
	w.must(w.ground(100, 50), Click{})
	if got := w.eval("String(clicks)"); got != "1" {
		t.Errorf("clicks %s", got)
	}
	w.eval("close();1")
	waitURL(w, "http://site.test/opener")

	// about:blank, written by its opener, swapping on the press: guarded too.
	w.load("opener2", `<body style="margin:0"><button style="position:absolute;left:20px;top:20px;width:200px;height:60px" onclick="pop()">Open</button>`)
	w.eval("window.pop=()=>{const p=window.popped=open('about:blank');p.document.write(" + quote(twoButtons) +
		");p.document.close();p.onpointerdown=()=>{p.safe.style.left='600px';p.del.style.left='20px'}};1")
	w.must(w.ground(100, 50), Click{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := w.await(ctx, func() bool { return len(w.Browser.pages) == 2 }); err != nil {
		t.Fatal(err, w.eval("String(window.popped)"))
	}
	w.until("document.getElementById('safe')")
	if err := w.do(w.ground(100, 50), Click{}); !errors.Is(err, ErrBlocked) {
		t.Errorf("in a written pop-up: got %v, want ErrBlocked", err)
	}
	if w.eval("String(!!window.deleted)") == "true" {
		t.Error("the pop-up won")
	}
	w.eval("for(let i=0;i<30;i++)open('about:blank');1")
	w.eval("new Promise(r=>setTimeout(r,200))")
	w.Browser.mu.Lock()
	n := len(w.Browser.pages)
	w.Browser.mu.Unlock()
	if n > maxPages {
		t.Errorf("%d pages, limit %d", n, maxPages)
	}
}

func waitURL(w *world, want string) {
	w.t.Helper()
	var got string
	for range 500 {
		var err error
		if got, err = w.CurrentURL(w.t.Context()); err == nil && got == want {
			return
		}
		w.conn.call(w.t.Context(), "", "Browser.getVersion", nil, nil)
	}
	w.t.Fatalf("current page is %q, want %q", got, want)
}

// Threats: T9, T48, A14 (browser)
func TestNavigationIsHTTPOnly(t *testing.T) {
	for _, u := range []string{"file:///etc/passwd", "chrome://version", "data:text/html,x", "javascript:alert(1)", "about:blank", "view-source:http://a/",
		"devtools://devtools", "ftp://a/", "blob:http://a/1", "http:///x", "http://", "//a/", "/x", "", "http://u:p@a/", "ht\ntp://a/", " http://a/",
		"http://a\\@b/", "JAVASCRIPT:1", "http:a", "ws://a/"} {
		if err := CheckURL(u); !errors.Is(err, ErrURL) {
			t.Errorf("%q: got %v, want ErrURL", u, err)
		}
	}
	w := open(t, Config{})
	w.load("links", `<body style="margin:0"><a href="file:///etc/passwd" style="position:absolute;left:20px;top:20px;width:200px;height:60px;background:#ccc">f</a>
<a href="data:text/html,hello" style="position:absolute;left:20px;top:120px;width:200px;height:60px;background:#ccc">d</a><a href="chrome://version" style="position:absolute;left:20px;top:220px;width:200px;height:60px;background:#ccc">c</a>`)
	for _, y := range []float64{50, 150, 250} {
		w.do(w.ground(100, y), Click{})
		waitURL(w, "http://site.test/links")
	}
	if err := w.Navigate(t.Context(), "file:///etc/passwd"); !errors.Is(err, ErrURL) {
		t.Errorf("got %v", err)
	}
}

// Nothing that a page says can reach the disk or read it.
//
// Threats: T31, T48 (browser)
func TestNoDownloadNoFileChooser(t *testing.T) {
	w := open(t, Config{})
	w.load("files", `<body style="margin:0"><a download=x href="/payload" style="position:absolute;left:20px;top:20px;width:200px;height:60px;background:#ccc">d</a>
<input type=file id=f style="position:absolute;left:20px;top:120px;width:200px;height:60px">`)
	w.must(w.ground(100, 50), Click{})
	g := w.ground(60, 150)
	if g.Element.Uninspectable != "file_chooser" {
		t.Errorf("got %+v", g.Element)
	}
	w.must(g, Click{})
	w.must(w.ground(60, 150), Click{}) // nothing hangs on an unanswered chooser
	if got := w.eval("f.files.length+''"); got != "0" {
		t.Errorf("%s files", got)
	}
}
