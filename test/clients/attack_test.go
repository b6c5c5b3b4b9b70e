package clients

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/surface/cdp"
)

// TestSealed: the narrowest profile has no door at all.
//
// Threats: T1 (form)
func TestSealed(t *testing.T) {
	w := open(t, "", nil)
	for _, path := range []string{"/json/version", "/json/list", "/json/protocol", "/json/new?about:blank", "/devtools/browser/x"} {
		r, err := http.Get(w.url + path)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if r.StatusCode != http.StatusForbidden || !strings.Contains(string(b), "cdp_sealed") {
			t.Errorf("%s: got %s %s", path, r.Status, b)
		}
	}
}

// TestForeignRequests: a page in whatever browser, a name that was bound to
// this machine, and the endpoints of Chromium that act.
//
// Threats: T8, B5, H1, H2 (form)
func TestForeignRequests(t *testing.T) {
	w := open(t, cdp.Open, nil)
	do := func(method, path, host, origin string, want int) {
		t.Helper()
		r, err := http.NewRequest(method, w.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if r.Host = host; origin != "" {
			r.Header.Set("Origin", origin)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s %s host %q origin %q: got %d, want %d", method, path, host, origin, resp.StatusCode, want)
		}
	}
	do("GET", "/json/version", "", "", 200)
	do("GET", "/json/version/", "localhost:1", "", 200)
	do("GET", "/json/version", "evil.test", "", 403)
	do("GET", "/json/version", "127.0.0.1.evil.test", "", 403)
	do("GET", "/json/version", "", "http://evil.test", 403)
	do("GET", "/json/version", "", "null", 403)
	do("PUT", "/json/new?file:///etc/passwd", "", "", 405)
	do("GET", "/json/new", "", "", 404)
	do("GET", "/json/close/1", "", "", 404)
	do("GET", "/json/activate/1", "", "", 404)
	do("GET", "/devtools/page/1", "", "", 404)
	do("GET", "/devtools/inspector.html", "", "", 404)
	if _, _, r := w.handshake("Origin: http://evil.test\r\n"); r.StatusCode != 403 {
		t.Errorf("a page's websocket: got %s", r.Status)
	}
}

// TestOneClient: while one is connected nobody else is; the next one meets
// nothing of it.
//
// Threats: T7 (form)
func TestOneClient(t *testing.T) {
	w := open(t, cdp.Open, nil)
	a := w.dial()
	_, session := a.page(site1 + "/form")
	if _, _, r := w.handshake(); r.StatusCode != http.StatusConflict {
		t.Errorf("second client: got %s", r.Status)
	}
	a.conn.Close()
	b := w.dial()
	b.denied("Session with given id", session, "Page.enable", nil)
	var c struct{ BrowserContextIDs []string }
	b.must("", "Target.getBrowserContexts", nil, &c)
	if len(c.BrowserContextIDs) != 0 {
		t.Errorf("contexts of the client before: %v", c.BrowserContextIDs)
	}
	if got := b.eval(b.attachOnly(t), "1+1"); got != "2" {
		t.Errorf("the next client: got %s", got)
	}
}

// attachOnly is a session on the first page.
func (c *raw) attachOnly(t *testing.T) string {
	t.Helper()
	var l struct {
		TargetInfos []struct{ TargetID, Type string }
	}
	c.must("", "Target.getTargets", nil, &l)
	if len(l.TargetInfos) == 0 {
		t.Fatal("no target")
	}
	var p struct{ SessionID string }
	c.must("", "Target.attachToTarget", dict{"targetId": l.TargetInfos[0].TargetID, "flatten": true}, &p)
	return p.SessionID
}

const site1 = "http://site.test"

// TestForeignNames: what was not given cannot be named.
//
// Threats: T5, T9 (form)
func TestForeignNames(t *testing.T) {
	c := open(t, cdp.Open, nil).dial()
	target, s := c.page(site1 + "/form")
	c.denied("Session with given id", "0123456789ABCDEF0123456789ABCDEF", "Page.enable", nil)
	c.denied("Session with given id", target, "Page.enable", nil)
	c.denied("No target", "", "Target.attachToTarget", dict{"targetId": "0123456789ABCDEF0123456789ABCDEF", "flatten": true})
	c.denied("flat", "", "Target.attachToTarget", dict{"targetId": target, "flatten": false})
	c.denied("flat", "", "Target.attachToTarget", dict{"targetId": target})
	c.denied("flat", "", "Target.setAutoAttach", dict{"autoAttach": true, "waitForDebuggerOnStart": false})
	c.denied("No target", "", "Target.closeTarget", dict{"targetId": "nobody"})
	c.denied("No target", "", "Target.getTargetInfo", dict{"targetId": "nobody"})
	c.denied("No session", "", "Target.detachFromTarget", dict{"sessionId": "nobody"})
	c.denied("context", "", "Target.disposeBrowserContext", dict{"browserContextId": "nobody"})
	c.denied("context", "", "Target.createTarget", dict{"url": "about:blank", "browserContextId": "nobody"})
	c.denied("wasn't found", "", "Page.enable", nil)
	c.denied("wasn't found", "", "Runtime.evaluate", dict{"expression": "1"})
	c.denied("wasn't found", s, "Browser.getVersion", nil)
	var self struct{ SessionID string }
	c.must("", "Target.attachToBrowserTarget", nil, &self)
	c.must(self.SessionID, "Browser.getVersion", nil, nil)
	for _, m := range []string{"Page.enable", "Runtime.evaluate", "Page.navigate", "Network.enable", "Page.captureScreenshot", "Runtime.runIfWaitingForDebugger"} {
		if a := c.ask("", m, dict{}); a.Error == nil {
			t.Errorf("%s without a session: got %s", m, a.Result)
		}
		if a := c.ask(self.SessionID, m, dict{}); a.Error == nil && m != "Runtime.runIfWaitingForDebugger" {
			t.Errorf("%s on the browser: got %s", m, a.Result)
		}
	}
	var b struct{ DefaultBrowserContextID string }
	c.must("", "Target.getBrowserContexts", nil, &b)
	c.denied("context", "", "Target.disposeBrowserContext", dict{"browserContextId": b.DefaultBrowserContextID})
	for _, p := range []dict{{"proxyServer": "direct://"}, {"originsWithUniversalNetworkAccess": []string{"http://a"}}} {
		c.denied("cdp_parameter", "", "Target.createBrowserContext", p)
	}
	for _, u := range []string{"file:///etc/passwd", "chrome://version", "javascript:1", "data:text/html,x", "view-source:http://site.test/"} {
		c.denied("cdp_address", "", "Target.createTarget", dict{"url": u})
		c.denied("cdp_address", s, "Page.navigate", dict{"url": u})
	}
}

// TestGuardIsInvisible: the guard's world is not told of, and its contexts
// cannot be used by guessing their numbers, by number, unique id, object or name.
//
// Threats: T28 (browser)
func TestGuardIsInvisible(t *testing.T) {
	c := open(t, cdp.Open, nil).dial()
	_, s := c.page(site1 + "/frames")
	c.must(s, "DOM.enable", nil, nil)
	known := map[string]bool{}
	for _, m := range c.events {
		if m.Method == "Runtime.executionContextCreated" {
			known[string(m.Params)] = true
			if strings.Contains(string(m.Params), `"name":"w`) {
				t.Errorf("told of %s", m.Params)
			}
		}
	}
	var mine struct{ ExecutionContextID int64 }
	var tree struct {
		FrameTree struct{ Frame struct{ ID string } }
	}
	c.must(s, "Page.getFrameTree", nil, &tree)
	c.must(s, "Page.createIsolatedWorld", dict{"frameId": tree.FrameTree.Frame.ID, "worldName": "mine"}, &mine)
	c.must(s, "Runtime.evaluate", dict{"expression": "1", "contextId": mine.ExecutionContextID}, nil)
	open := map[int64]bool{}
	for _, m := range c.events {
		var id int64
		if m.Method == "Runtime.executionContextCreated" {
			fmt.Sscanf(string(m.Params[strings.Index(string(m.Params), `"id":`):]), `"id":%d`, &id)
			open[id] = true
		}
	}
	hidden := 0
	for id := int64(0); id < 40; id++ {
		m := c.ask(s, "Runtime.evaluate", dict{"expression": "Object.getOwnPropertyNames(globalThis).filter(n=>/^k[A-Z2-7]{26}$/.test(n)).length", "contextId": id, "returnByValue": true})
		if m.Error != nil {
			hidden++
			continue
		}
		if !strings.Contains(string(m.Result), `"value":0`) {
			t.Errorf("context %d: the guard is there: %s", id, m.Result)
		}
		c.denied("Could not find object", s, "Runtime.callFunctionOn", dict{"functionDeclaration": "function(){return 1}", "objectId": fmt.Sprintf("1.%d.1", id+1000)})
	}
	if hidden < 30 {
		t.Errorf("only %d of 40 contexts are refused", hidden)
	}
	for _, o := range []string{"", "1", "1.1", "1..1", "1.01.1", "1.+1.1", "1.1.1.1", "x", `{"injectedScriptId":1,"id":1}`} {
		c.denied("Could not find object", s, "Runtime.getProperties", dict{"objectId": o})
	}
	c.denied("uniqueContextId", s, "Runtime.evaluate", dict{"expression": "1", "uniqueContextId": "-1.-1"})
	c.denied("Cannot find context", s, "DOM.resolveNode", dict{"nodeId": 1, "executionContextId": 999})
	c.denied("Could not find object", s, "Runtime.callFunctionOn", dict{"functionDeclaration": "function(){}", "executionContextId": mine.ExecutionContextID,
		"arguments": []dict{{"objectId": "1.999.1"}}})
}

// TestInputGoesThroughTheGate: a press, a key and text are decided and recorded
// as inputs of the computer surface, on what they hit, with nothing else.
func TestInputGoesThroughTheGate(t *testing.T) {
	w := open(t, cdp.Open, nil)
	c := w.dial()
	_, s := c.page(site1 + "/form")
	x, y := c.point(s, "#btn")
	c.must(s, "Input.dispatchMouseEvent", mouse("mouseMoved", x, y, 0), nil)
	c.must(s, "Input.dispatchMouseEvent", mouse("mousePressed", x, y, 1), nil)
	c.must(s, "Input.dispatchMouseEvent", mouse("mouseReleased", x, y, 1), nil)
	if got := c.eval(s, "document.getElementById('count').textContent"); got != "1" {
		t.Errorf("clicks: got %s", got)
	}
	c.eval(s, "document.getElementById('name').focus()")
	c.must(s, "Input.insertText", dict{"text": "Ada"}, nil)
	c.must(s, "Input.dispatchKeyEvent", dict{"type": "keyDown", "key": "b", "text": "b"}, nil)
	c.must(s, "Input.dispatchKeyEvent", dict{"type": "keyUp", "key": "b"}, nil)
	if got := c.eval(s, "document.getElementById('name').value"); got != "Adab" {
		t.Errorf("text: got %s", got)
	}
	var ops []string
	for _, d := range w.kit.Log.Decisions(t) {
		a := d.Action
		ops = append(ops, a.Operation)
		if a.Surface != action.Computer || a.Element == nil || a.Element.FrameOrigin != site1 || a.App != "site" || a.Params["via"] != "cdp" {
			t.Errorf("%s: %+v", a.Operation, a)
		}
		if a.Operation == "computer.left_click" && (a.Element.Tag != "button" || a.Effect != action.Read) {
			t.Errorf("click on %+v, effect %s", a.Element, a.Effect)
		}
	}
	want := []string{"computer.move", "computer.left_click", "computer.left_mouse_up", "computer.type", "computer.key"}
	if !slices.Equal(ops, want) {
		t.Errorf("got %v, want %v", ops, want)
	}
	w.journal.mu.Lock()
	defer w.journal.mu.Unlock()
	if want := []string{"click  button Click me", "key b input Name"}; !slices.Equal(w.notes, want) {
		t.Errorf("journal: got %q, want %q", w.notes, want)
	}
}

// TestDeniedInput: what policy refuses does not reach the page, and the error
// names layer, code and the next step; nothing is recorded as allowed.
func TestDeniedInput(t *testing.T) {
	w := open(t, cdp.Open, func(f gate.Facts) action.Decision {
		if f.Action.Element != nil && f.Action.Element.Tag == "button" && f.Action.Operation != "computer.move" {
			return action.Denied(action.LayerGuardrail, "no_buttons", "buttons are not for agents", "ask a person")
		}
		return action.Decision{Verdict: action.Allow, Layer: action.LayerGrant, Code: "test"}
	})
	c := w.dial()
	_, s := c.page(site1 + "/form")
	x, y := c.point(s, "#btn")
	m := c.ask(s, "Input.dispatchMouseEvent", mouse("mousePressed", x, y, 1))
	if m.Error == nil {
		t.Fatal("the press passed")
	}
	for _, part := range []string{"layer guardrail", "(no_buttons)", "buttons are not for agents", "Next: ask a person"} {
		if !strings.Contains(m.Error.Message, part) {
			t.Errorf("got %q, want it to have %q", m.Error.Message, part)
		}
	}
	c.denied("cdp_input", s, "Input.dispatchMouseEvent", mouse("mouseReleased", x, y, 1))
	if got := c.eval(s, "document.getElementById('count').textContent"); got != "0" {
		t.Errorf("the click arrived: %s", got)
	}
	// Enter on a focused button is a press by another name.
	c.eval(s, "document.getElementById('btn').focus()")
	c.denied("no_buttons", s, "Input.dispatchKeyEvent", dict{"type": "keyDown", "key": "Enter", "text": "\r"})
	c.denied("no_buttons", s, "Input.dispatchKeyEvent", dict{"type": "keyDown", "key": " ", "text": " "})
	c.denied("no_buttons", s, "Input.dispatchKeyEvent", dict{"type": "char", "text": "\r"})
	if got := c.eval(s, "document.getElementById('count').textContent"); got != "0" {
		t.Errorf("the key arrived: %s", got)
	}
}

// TestDeniedClickOfADriver: what a driver tries again until its own time is
// over is recorded a few times, not each time, and its reason is shown.
func TestDeniedClickOfADriver(t *testing.T) {
	w := open(t, cdp.Open, func(f gate.Facts) action.Decision {
		if strings.HasSuffix(f.Action.Operation, "_click") {
			return action.Denied(action.LayerGrant, "outside_grant", "no clicks", "ask a person")
		}
		return action.Decision{Verdict: action.Allow, Layer: action.LayerGrant, Code: "test"}
	})
	w.script(t, "denied.mjs")
	n := 0
	for _, d := range w.kit.Log.Decisions(t) {
		if d.Action.Operation == "computer.left_click" {
			n++
		}
	}
	if n == 0 || n > 8 {
		t.Errorf("the denied click is recorded %d times", n)
	}
}

// TestInputForms: stray releases, other pointers, points off the screen, two
// buttons, editing commands: no form, no input.
func TestInputForms(t *testing.T) {
	w := open(t, cdp.Open, nil)
	c := w.dial()
	_, s := c.page(site1 + "/form")
	ev := "Input.dispatchMouseEvent"
	c.denied("cdp_input", s, ev, mouse("mouseReleased", 10, 10, 1))
	c.denied("cdp_input", s, ev, mouse("mousePressed", -1, 10, 1))
	c.denied("cdp_input", s, ev, mouse("mousePressed", 1280, 10, 1))
	c.denied("cdp_input", s, ev, mouse("mouseJumped", 10, 10, 1))
	c.denied("cdp_input", s, ev, mouse("mousePressed", 10, 10, 0))
	c.denied("cdp_input", s, ev, dict{"type": "mousePressed", "x": 10, "y": 10, "button": "back", "clickCount": 1})
	c.denied("cdp_input", s, ev, dict{"type": "mousePressed", "x": 10, "y": 10, "button": "left", "clickCount": 1, "pointerType": "pen"})
	c.denied("cdp_input", s, ev, dict{"type": "mousePressed", "x": 10, "y": 10, "button": "left", "clickCount": 1, "modifiers": 64})
	c.denied("cdp_input", s, ev, dict{"type": "mousePressed", "x": "10", "y": 10, "button": "left", "clickCount": 1})
	c.denied("cdp_parameter", s, ev, dict{"type": "mousePressed", "x": 10, "y": 10, "button": "left", "clickCount": 1, "tiltX": 3})
	c.denied("cdp_input", s, "Input.dispatchKeyEvent", dict{"type": "keyDown", "key": "v", "modifiers": 2, "commands": []string{"paste"}})
	c.denied("cdp_input", s, "Input.dispatchKeyEvent", dict{"type": "keyDown", "key": ""})
	c.denied("browser_chord", s, "Input.dispatchKeyEvent", dict{"type": "keyDown", "key": "F12"})
	c.denied("browser_chord", s, "Input.dispatchKeyEvent", dict{"type": "keyDown", "key": "l", "modifiers": 2})
	c.denied("unknown_key", s, "Input.dispatchKeyEvent", dict{"type": "keyDown", "key": "Launch"})
	c.denied("browser_chord", s, ev, dict{"type": "mouseWheel", "x": 10, "y": 10, "deltaX": 0, "deltaY": 50, "modifiers": 2})
	c.denied("takes_no_text", s, "Input.insertText", dict{"text": "x"})
	c.denied("cdp_input", s, "Input.insertText", dict{"text": ""})
	for _, m := range []string{"Input.synthesizeTapGesture", "Input.imeSetComposition", "Input.emulateTouchFromMouseEvent"} {
		c.denied("cdp_denied_method", s, m, dict{"type": "touchStart", "x": 10, "y": 10})
	}
	one := []dict{{"x": 10, "y": 10}}
	for _, p := range []dict{{"type": "touchEnd", "touchPoints": []dict{}}, {"type": "touchStart", "touchPoints": append(one, one...)}, {"type": "touchMove", "touchPoints": one},
		{"type": "touchStart", "touchPoints": []dict{{"x": 1280, "y": 1}}}, {"type": "touchStart", "touchPoints": []dict{}}} {
		c.denied("cdp_input", s, "Input.dispatchTouchEvent", p)
	}
	c.must(s, "Input.dispatchTouchEvent", dict{"type": "touchStart", "touchPoints": one}, nil)
	c.denied("cdp_input", s, "Input.dispatchTouchEvent", dict{"type": "touchMove", "touchPoints": []dict{{"x": 11, "y": 10}}})
	c.denied("cdp_input", s, "Input.dispatchTouchEvent", dict{"type": "touchEnd", "touchPoints": []dict{}})
	files := []string{"/etc/passwd"}
	c.denied("cdp_input", s, "Input.dispatchDragEvent", dict{"type": "drop", "x": 10, "y": 10, "data": dict{"items": []any{}, "files": files, "dragOperationsMask": 1}})
	if n := len(w.notes); n != 0 {
		t.Errorf("the journal heard of %d inputs, want none", n)
	}
	// Nothing of it was allowed and then failed: it was refused before anybody was asked.
	for _, d := range w.kit.Log.Decisions(t) {
		if d.Decision.Verdict == action.Allow {
			t.Errorf("%s was allowed", d.Action.Operation)
		}
	}
}

// TestSwapOnPress (T27, T28): the page puts another button under the pointer
// while the press is on its way.
//
// Threats: T28, H6 (browser)
func TestSwapOnPress(t *testing.T) {
	c := open(t, cdp.Open, nil).dial()
	_, s := c.page(site1 + "/form")
	x, y := c.point(s, "#btn")
	c.must(s, "Input.dispatchMouseEvent", mouse("mouseMoved", x, y, 0), nil)
	c.eval(s, `(()=>{window.hit='';const b=document.createElement('button');b.textContent='Delete';b.onclick=()=>window.hit='deleted';
		b.style.cssText='position:fixed;left:0;top:0;width:1200px;height:700px;display:none;z-index:9';document.body.append(b);
		addEventListener('pointerdown',()=>b.style.display='block',true)})()`)
	m := c.ask(s, "Input.dispatchMouseEvent", mouse("mousePressed", x, y, 1))
	if m.Error == nil {
		// The press was on what was decided; the release is decided anew.
		c.ask(s, "Input.dispatchMouseEvent", mouse("mouseReleased", x, y, 1))
	}
	if got := c.eval(s, "window.hit"); got != "" {
		t.Errorf("the click landed on what was put there: %s", got)
	}
}

// TestScriptHasNoGesture: a script of the client does not count as a press.
func TestScriptHasNoGesture(t *testing.T) {
	c := open(t, cdp.Open, nil).dial()
	_, s := c.page(site1 + "/form")
	var r struct{ Result struct{ Value any } }
	c.must(s, "Runtime.evaluate", dict{"expression": "navigator.userActivation.isActive", "returnByValue": true, "userGesture": true}, &r)
	if r.Result.Value != false {
		t.Error("a script has the activation of a user")
	}
}

// TestNoSecretInEvents (T44, T47): the session cookie that the site sets, and a
// body that is sent, are in nothing that the client hears, by any method.
//
// Threats: T44, T47 (door)
func TestNoSecretInEvents(t *testing.T) {
	c := open(t, cdp.Open, nil).dial()
	_, s := c.page(site1 + "/form")
	c.must(s, "Network.enable", nil, nil)
	c.load(s, site1+"/form")
	c.load(s, site1+"/redirect")
	c.eval(s, "fetch('/data.json',{method:'POST',body:'typedsecretbody',headers:{authorization:'Bearer bearersecret'}}).then(r=>r.text())")
	m := c.until(func(m message) bool {
		return m.Method == "Network.responseReceived" && strings.Contains(string(m.Params), "data.json")
	})
	c.events = append(c.events, m)
	c.must(s, "Page.getFrameTree", nil, nil)
	for _, m := range c.events {
		for _, secret := range []string{"topsecretcookie", "typedsecretbody", "bearersecret", `ExtraInfo":true`} {
			if strings.Contains(string(m.Params), secret) {
				t.Errorf("%s has %s: %.300s", m.Method, secret, m.Params)
			}
		}
	}
	var p struct{ RequestID string }
	for _, method := range []string{"Network.getResponseBody", "Network.getRequestPostData", "Network.getCookies", "Storage.getCookies"} {
		c.denied("cdp_denied_method", s, method, dict{"requestId": p.RequestID})
	}
}

// TestSecretInAPage (T44): a secret that a page got hold of after all is in no
// answer, event or error of the door.
func TestSecretInAPage(t *testing.T) {
	secret := "hunter2/hunter2"
	w := open(t, cdp.Open, nil, func(c *cdp.Config) { c.Secrets = func() []string { return []string{secret} } })
	c := w.dial()
	_, s := c.page(site1 + "/form")
	whole := "'hunter2'+'/'+'hunter2'"
	for _, js := range []string{whole, "encodeURIComponent(" + whole + ")", "btoa(" + whole + ")", "document.body.dataset.x=" + whole} {
		if got := c.eval(s, js); !strings.Contains(got, "redacted") || strings.Contains(got, "hunter2") {
			t.Errorf("%s: got %s", js, got)
		}
	}
	var root struct{ Root struct{ NodeID int } }
	c.must(s, "DOM.getDocument", nil, &root)
	if m := c.ask(s, "DOM.getOuterHTML", dict{"nodeId": root.Root.NodeID}); strings.Contains(string(m.Result), secret) || m.Error != nil {
		t.Errorf("the document has it: %v", m.Error)
	}
	c.eval(s, "console.log("+whole+")")
	m := c.until(func(m message) bool { return m.Method == "Runtime.consoleAPICalled" })
	if strings.Contains(string(m.Params), secret) {
		t.Errorf("the console has it: %s", m.Params)
	}
}

// TestPopupIsGuarded (T6, R24): a window that a page opens is shown with its
// guard in it, and an input there goes through the gate like any other.
//
// Threats: T6 (browser)
func TestPopupIsGuarded(t *testing.T) {
	w := open(t, cdp.Open, nil)
	c := w.dial()
	c.must("", "Target.setAutoAttach", dict{"autoAttach": true, "waitForDebuggerOnStart": true, "flatten": true}, nil)
	_, s := c.page(site1 + "/form")
	x, y := c.point(s, "#pop")
	c.must(s, "Input.dispatchMouseEvent", mouse("mousePressed", x, y, 1), nil)
	c.must(s, "Input.dispatchMouseEvent", mouse("mouseReleased", x, y, 1), nil)
	m := c.until(func(m message) bool {
		return m.Method == "Target.attachedToTarget" && strings.Contains(string(m.Params), "openerId")
	})
	if !strings.Contains(string(m.Params), `"waitingForDebugger":true`) {
		t.Errorf("the pop-up did not wait: %s", m.Params)
	}
	var p struct {
		SessionID  string
		TargetInfo struct{ TargetID string }
	}
	decode(t, m.Params, &p)
	// A target that waits answers some requests only when it runs, so that none
	// is waited for.
	c.send(p.SessionID, "Runtime.enable", nil)
	c.send(p.SessionID, "Page.enable", nil)
	c.must(p.SessionID, "Runtime.runIfWaitingForDebugger", nil, nil)
	// The event of its load may be over before Page.enable is answered, which takes
	// a document that runs.
	c.until(func(m message) bool { return m.Method == "Page.frameStoppedLoading" && m.Session == p.SessionID })
	x, y = c.point(p.SessionID, "a")
	c.must(p.SessionID, "Input.dispatchMouseEvent", mouse("mousePressed", x, y, 1), nil)
	c.must(p.SessionID, "Input.dispatchMouseEvent", mouse("mouseReleased", x, y, 1), nil)
	all := w.kit.Log.Decisions(t)
	if e := all[len(all)-1].Action.Element; e == nil || e.Link != site1+"/form" {
		t.Errorf("the last input was on %+v", e)
	}
}

// TestWaiterLeaves: a client that goes while it keeps a page from running does
// not keep it for ever.
func TestWaiterLeaves(t *testing.T) {
	w := open(t, cdp.Open, nil)
	c := w.dial()
	c.must("", "Target.setAutoAttach", dict{"autoAttach": true, "waitForDebuggerOnStart": true, "flatten": true}, nil)
	id := c.send("", "Target.createTarget", dict{"url": site1 + "/second"})
	c.answer(id)
	c.conn.Close()
	d := w.dial()
	d.must("", "Browser.getVersion", nil, nil)
	w.waitHit("GET site.test/second")
}
