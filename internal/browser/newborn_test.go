package browser

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// A page that tells its server of every input that it gets, from its first
// script on.
const listening = `<!doctype html><script>for(const t of ['pointerdown','mousedown','mouseup','click','keydown','keypress','keyup','beforeinput','input','touchstart','submit'])
addEventListener(t,e=>{if(e.isTrusted)fetch('/seen/'+t,{keepalive:true})},true)</script>
<body style="margin:0"><button id=b style="position:absolute;left:20px;top:20px;width:200px;height:60px">B</button><input autofocus style="position:absolute;top:200px">`

// flood gives unarmed input to every page that is ready, past Press and its
// permits, until stop, which says how often.
func (w *world) flood() (stop func() int) {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan int)
	go func() {
		n := 0
		defer func() { done <- n }()
		for ctx.Err() == nil {
			w.Browser.mu.Lock()
			pages := slices.Clone(w.Browser.pages)
			w.Browser.mu.Unlock()
			var calls []*call
			for _, p := range pages {
				select {
				case <-p.ready:
				default:
					continue // Press waits for it too
				}
				calls = append(calls,
					w.conn.send(p.id, "Input.dispatchMouseEvent", mouse("mousePressed", Grounded{X: 100, Y: 50}, "left", 1, 1, 0)),
					w.conn.send(p.id, "Input.dispatchMouseEvent", mouse("mouseReleased", Grounded{X: 100, Y: 50}, "left", 0, 1, 0)),
					w.conn.send(p.id, "Input.dispatchKeyEvent", obj{"type": "keyDown", "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}),
					w.conn.send(p.id, "Input.dispatchKeyEvent", obj{"type": "keyUp", "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}),
					w.conn.send(p.id, "Input.insertText", obj{"text": "x"}))
			}
			short, end := context.WithTimeout(ctx, 100*time.Millisecond) // what a document that went took with it
			for _, k := range calls {
				if k.get(short, nil) == nil {
					n++
				}
			}
			end()
		}
	}()
	return func() int { cancel(); return <-done }
}

// Input is on its way at the very moment at which a document, process, window,
// frame or worker's page comes into being. No document gets any of it: each has
// its guard before its first script. What is pressed by Press afterwards arrives,
// so the page does listen.
//
// Threats: T6, H3 (browser)
func TestNothingBeforeTheGuard(t *testing.T) {
	w := open(t, Config{})
	w.set("/listen", listening)
	w.set("/opener", listening)
	w.set("/frames", listening+`<iframe id=f style="position:absolute;left:0;top:0;width:400px;height:300px;border:0"></iframe>`)
	w.set("/registers", listening+`<script>navigator.serviceWorker.register('/worker.js').then(()=>navigator.serviceWorker.ready).then(()=>window.ready=true)</script>`)
	w.set("/worker.js", `onfetch=e=>{if(e.request.url.includes('/made-up'))e.respondWith(new Response(`+quote(listening+"<title>made up</title>")+`,{headers:{'Content-Type':'text/html'}}))}`)
	for name, c := range map[string]struct {
		start, script string
		rounds        int
	}{
		"other_process": {"http://a.test/listen", `location='http://%s.test/listen'`, 12},
		"reload":        {"http://a.test/listen", `location.reload()`, 8},
		"pop-up":        {"http://a.test/opener", `open('http://%s.test/listen')`, 6},
		"noopener":      {"http://a.test/opener", `open('http://%s.test/listen','_blank','noopener')`, 6},
		"frame_swap":    {"http://a.test/frames", `f.src='http://%s.test/listen'`, 16},
		"service_worker": {"http://sw.localhost/registers",
			`location='/made-up?%s'`, 8},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			if err := w.Navigate(t.Context(), c.start); err != nil {
				t.Fatal(err)
			}
			if name == "service_worker" {
				w.until("window.ready")
			}
			w.mu().Lock()
			w.hits = nil
			w.mu().Unlock()
			stop := w.flood()
			for i := range c.rounds {
				script := c.script
				if strings.Contains(script, "%s") {
					script = fmt.Sprintf(script, []string{"a", "b", "c", "d"}[i%4])
				}
				w.try(script)
				w.quiet(time.Duration(5*(i%5)) * time.Millisecond)
			}
			w.quiet(100 * time.Millisecond)
			if n := stop(); n < 20 {
				t.Errorf("only %d inputs were taken by the browser", n)
			}
			w.mu().Lock()
			for _, h := range w.hits {
				if strings.Contains(h, "/seen/") {
					t.Errorf("a document got an input: %s", h)
				}
			}
			w.hits = nil
			w.mu().Unlock()
			if name == "service_worker" {
				w.until("document.title==='made up'")
			}
			w.pressListening()
			w.closePopups()
		})
	}
}

// pressListening presses the button of a listening page, which may still load. An
// input of the flood that went with its document can keep a renderer from taking
// another, which Press reports as what it is; then the same page is pressed in a
// process of its own.
func (w *world) pressListening() {
	w.t.Helper()
	deadline := time.Now().Add(4 * stepLimit)
	for fresh := 1; ; {
		g, err := w.Ground(w.t.Context(), 100, 50)
		if err == nil && g.Element.Tag == "button" {
			if err = w.do(g, Click{}); err == nil {
				break
			}
			w.closePopups()
			if err := w.Navigate(w.t.Context(), fmt.Sprintf("http://fresh%d.test/listen", fresh)); err != nil {
				w.t.Fatal(err)
			}
			fresh++
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the page takes no input: %v %+v", err, g.Element)
		}
	}
	limit := time.Now().Add(10 * time.Second)
	for !w.saw("/seen/click") || !w.saw("/seen/mouseup") || !w.saw("/seen/mousedown") || !w.saw("/seen/pointerdown") {
		if time.Now().After(limit) {
			w.t.Fatal("the page did not hear of the press, so this test does not test anything")
		}
		w.quiet(5 * time.Millisecond)
	}
}

func (w *world) saw(part string) bool {
	w.mu().Lock()
	defer w.mu().Unlock()
	return slices.ContainsFunc(w.hits, func(h string) bool { return strings.Contains(h, part) })
}

// closePopups leaves the first page alone.
func (w *world) closePopups() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	w.Browser.mu.Lock()
	pages := slices.Clone(w.Browser.pages)
	w.Browser.mu.Unlock()
	for _, p := range pages[1:] {
		w.conn.send("", "Target.closeTarget", obj{"targetId": p.target})
	}
	if err := w.await(ctx, func() bool { return len(w.Browser.pages) == 1 }); err != nil {
		w.t.Fatal(err)
	}
}

// try runs a script in the first page, whatever becomes of it.
func (w *world) try(script string) {
	w.Browser.mu.Lock()
	s := w.Browser.pages[0]
	w.Browser.mu.Unlock()
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Second)
	defer cancel()
	w.conn.call(ctx, s.id, "Runtime.evaluate", obj{"expression": script + ";1"}, nil)
}

// quiet lets a little time pass: when exactly the next step comes is the point.
func (w *world) quiet(d time.Duration) {
	select {
	case <-time.After(d):
	case <-w.t.Context().Done():
	}
}
