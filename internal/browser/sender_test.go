package browser

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// Who sends a request, in the browser's own words, where a page would like to
// have its request taken for that of the press.
//
// Threats: T13, T14, T15, H7 (browser)
func TestSender(t *testing.T) {
	w := open(t, Config{})
	w.set("/worker.js", `onmessage=e=>fetch(e.data,{method:'POST'});addEventListener('connect',e=>e.ports[0].onmessage=m=>fetch(m.data,{method:'POST'}))`)
	w.set("/listener", `<!doctype html><script>onmessage=e=>fetch(e.data,{method:'POST'});new BroadcastChannel('c').onmessage=e=>fetch(e.data,{method:'POST'})</script>`)
	const at = ` style="position:absolute;left:20px;top:20px;width:200px;height:60px"`
	w.set("/inner-fetch", `<!doctype html><body style="margin:0"><button`+at+` onclick="fetch('/s/frame-fetch',{method:'POST'})">x</button>`)
	w.set("/inner-form", `<!doctype html><body style="margin:0"><form method=post action="/s/frame-form"><button`+at+`>x</button></form>`)
	frame := func(src string) string {
		return `<iframe src="` + src + `" style="position:absolute;left:0;top:0;width:400px;height:300px;border:0"></iframe>`
	}
	for name, c := range map[string]struct {
		html        string
		known, own  bool // the browser vouches for somebody; for the pressed frame
		gesture     bool
		leaveUnsaid bool // nothing is pressed
	}{
		"fetch":        {`<button` + at + ` onclick="fetch('/s/fetch',{method:'POST'})">x</button>`, true, true, true, false},
		"body":         {`<button` + at + ` onclick="fetch('/s/body',{method:'POST',body:'x'})">x</button>`, true, true, true, false},
		"late":         {`<button` + at + ` onclick="setTimeout(()=>fetch('/s/late',{method:'POST'}),300)">x</button>`, true, true, true, false},
		"beacon":       {`<button` + at + ` onclick="navigator.sendBeacon('/s/beacon','x')">x</button>`, true, true, true, false},
		"form":         {`<form method=post action="/s/form"><button` + at + `>x</button></form>`, true, true, true, false},
		"form-query":   {`<form method=post action="/s/form-query?a=1&b=%20c"><button` + at + `>x</button></form>`, true, true, true, false},
		"new-window":   {`<form method=post action="/s/new-window" target=_blank><button` + at + `>x</button></form>`, true, false, true, false},
		"to-frame":     {`<form method=post action="/s/to-frame" target=t><button` + at + `>x</button></form><iframe name=t></iframe>`, true, false, true, false},
		"frame-fetch":  {frame("http://other.test/inner-fetch"), true, true, true, false},
		"frame-form":   {frame("http://other.test/inner-form"), true, true, true, false},
		"unasked":      {`<script>fetch('/s/unasked',{method:'POST'})</script>`, true, true, false, true},
		"unasked-form": {`<form method=post action="/s/unasked-form"></form><script>document.forms[0].submit()</script>`, true, true, false, true},
		"worker":       {`<script>const k=new Worker('/worker.js')</script><button` + at + ` onclick="k.postMessage('/s/worker')">x</button>`, false, false, false, false},
		"shared":       {`<script>const k=new SharedWorker('/worker.js')</script><button` + at + ` onclick="k.port.postMessage('/s/shared')">x</button>`, false, false, false, false},
		"sibling":      {`<iframe id=o src=/listener></iframe><button` + at + ` onclick="o.contentWindow.postMessage('/s/sibling')">x</button>`, true, false, true, false},
		"made-frame":   {`<button` + at + ` onclick="const f=document.createElement('iframe');document.body.append(f);f.contentWindow.fetch('/s/made-frame',{method:'POST'})">x</button>`, true, false, false, false},
		"channel":      {`<button` + at + ` onclick="new BroadcastChannel('c').postMessage('/s/channel')">x</button><script>window.other=open('/listener')</script>`, true, false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.mu().Lock()
			w.hits = nil
			w.mu().Unlock()
			w.load("sender", `<body style="margin:0">`+c.html)
			var g Grounded
			if name == "channel" { // the other window stays behind
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if err := w.await(ctx, func() bool { return len(w.Browser.pages) == 2 }); err != nil {
					t.Fatal(err)
				}
				w.until("document.readyState==='complete'")
				w.Browser.mu.Lock()
				slices.Reverse(w.Browser.pages)
				w.Browser.mu.Unlock()
				defer func() {
					w.Browser.mu.Lock()
					slices.Reverse(w.Browser.pages)
					w.Browser.mu.Unlock()
					w.closePopups()
				}()
			}
			if name == "new-window" {
				defer w.closePopups()
			}
			if name == "sibling" {
				w.until("o.contentWindow.onmessage")
			}
			if c.leaveUnsaid {
				page, err := w.current(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				g.Frame = page.target
			} else {
				g = w.ground(100, 50)
				w.must(g, Click{})
			}
			origin, path, query := "http://site.test", "/s/"+name, ""
			if strings.HasPrefix(name, "frame-") {
				origin = "http://other.test"
			}
			if name == "form-query" {
				query = "a=1&b=%20c"
			}
			limit := time.Now().Add(10 * time.Second)
			for !w.saw("/s/" + name) {
				if time.Now().After(limit) {
					t.Fatal("nothing was sent")
				}
				w.quiet(2 * time.Millisecond)
			}
			r := action.Request{Method: "POST", Origin: origin, Path: path, Query: query}
			if name == "beacon" || name == "body" {
				r.BodyDigest = canon.Digest([]byte("x"))
			}
			if name == "body" {
				if other, ok := w.Sender(t.Context(), action.Request{Method: "POST", Origin: origin, Path: path, BodyDigest: canon.Digest([]byte("y"))}); ok {
					t.Errorf("a word for another body: %+v", other)
				}
			}
			who, ok := w.Sender(t.Context(), r)
			if ok != c.known || ok && (who.Gesture != c.gesture || (who.Frame == g.Frame) != c.own) {
				t.Errorf("got %+v %v, pressed frame %s, want %+v", who, ok, g.Frame, c)
			}
			if name == "fetch" {
				if again, ok := w.Sender(t.Context(), r); ok {
					t.Errorf("one word was given twice: %+v", again)
				}
			}
		})
	}
}
