package browser

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
)

// What the page changes once it was looked at: which element lies there, what it
// says, where its link leads, where its form is sent. In all of them the request
// to EVIL is what was not agreed to. swap makes the change.
var phaseTargets = map[string]string{
	"node": `<button id=x class=at onclick="1">Safe</button><button id=bad class=away onclick="fetch('EVIL',{keepalive:true})">Delete</button>
		<script>window.swap=()=>{x.className='away';bad.className='at';bad.focus()}</script>`,
	"text": `<button id=x class=at onclick="if(this.textContent!='Safe')fetch('EVIL',{keepalive:true})">Safe</button>
		<script>window.swap=()=>{x.textContent='Delete'}</script>`,
	"href": `<a id=x class=at href="/good">Go</a><script>window.swap=()=>{x.href='EVIL'}</script>`,
	"action": `<form id=f action="/good" method=post><button id=x class=at>Go</button></form>
		<script>window.swap=()=>{f.action='EVIL'}</script>`,
}

// When it does so. DELAY is in milliseconds; a phase that is an event is one of
// the press itself.
var phases = map[string]string{
	"timer":       `setTimeout(swap,DELAY)`,
	"frame":       `let n=0;(function f(){n++>=DELAY?swap():requestAnimationFrame(f)})()`,
	"mutation":    `new MutationObserver(swap).observe(document.documentElement,{attributes:true});setTimeout(()=>document.documentElement.lang='x',DELAY)`,
	"pointerdown": `addEventListener('pointerdown',swap,true)`,
	"mousedown":   `addEventListener('mousedown',swap,true)`,
	"focus":       `document.addEventListener('focusin',swap,true);document.addEventListener('focus',swap,true)`,
	"keydown":     `addEventListener('keydown',swap,true)`,
	"animation":   `addEventListener('animationstart',swap);document.body.style.animation='shift 1s DELAYms'`,
	"message":     `const c=new MessageChannel,t=performance.now();c.port1.onmessage=()=>performance.now()-t>DELAY?swap():c.port2.postMessage(0);c.port2.postMessage(0)`,
	"worker":      `new Worker(URL.createObjectURL(new Blob(['setTimeout(()=>postMessage(0),DELAY)']))).onmessage=swap`,
	"layout":      `new ResizeObserver((n=>()=>n++&&swap())(0)).observe(document.body);setTimeout(()=>document.body.style.height='2000px',DELAY)`,
	"navigation":  `setTimeout(()=>location='/swapped',DELAY)`,
}

// A round is won by the page when EVIL is asked for.
//
// Threats: T27, T28, T29, H6 (browser)
func TestPageThatSwapsWinsNoRound(t *testing.T) {
	rounds := 2 // of each target in each phase; 25 make 1200
	if s := os.Getenv("SALLYPORT_RACE_ROUNDS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	w := open(t, Config{})
	const style = `<body style="margin:0"><style>.at{position:absolute;left:20px;top:20px;width:200px;height:60px;background:#ccc}
		.away{position:absolute;left:600px;top:20px}@keyframes shift{from{margin:0}to{margin:1px}}</style>`
	fill := func(s, evil string, delay int) string {
		return strings.NewReplacer("EVIL", evil, "DELAY", strconv.Itoa(delay)).Replace(s)
	}
	stopped, done, n := 0, 0, 0
	for target, html := range phaseTargets {
		for phase, script := range phases {
			for range rounds {
				n++
				name, evil, delay := fmt.Sprintf("%s at %s", target, phase), fmt.Sprintf("/evil%d.", n), rand.IntN(12)
				w.set("/swapped", style+fill(html, evil, 0)+`<script>swap()</script>`)
				w.load("race", style+fill(html, evil, delay))
				var g Grounded
				var in Input = Click{}
				if phase == "keydown" {
					w.eval("x.focus();1")
					g, in = w.focus(), Key{"Return"}
				} else {
					g = w.ground(100, 50)
				}
				w.eval("{" + fill(script, evil, delay) + "};1")
				switch err := w.do(g, in); {
				case err == nil:
					done++
				case errors.Is(err, ErrMoved), errors.Is(err, ErrBlocked), errors.Is(err, ErrNotSeen):
					stopped++
				default:
					t.Errorf("%s: %v", name, err)
				}
				w.leave() // whatever the press started would be before this
				if w.hit("GET site.test"+evil) || w.hit("POST site.test"+evil) {
					t.Errorf("%s after %d ms: the page won", name, delay)
				}
			}
		}
	}
	t.Logf("%d rounds: %d stopped, %d done as decided", n, stopped, done)
	if stopped == 0 || done == 0 {
		t.Error("the page never raced")
	}
}

// leave opens an empty page, also if the page itself is on its way elsewhere.
func (w *world) leave() {
	w.t.Helper()
	w.set("/after", "<!doctype html>")
	var err error
	for range 5 {
		if err = w.Navigate(w.t.Context(), "http://site.test/after"); err == nil {
			return
		}
	}
	w.t.Fatal(err)
}
