package browser

import (
	"errors"
	"testing"
)

// A press is split: between its two halves, or between the ends of a drag,
// another document or another control comes to where it ends. Nobody gets a click
// that was made of two decisions.
//
// Threats: T30 (browser)
func TestSplitPress(t *testing.T) {
	w := open(t, Config{})
	const victim = `<body style="margin:0"><button id=b style="position:absolute;left:20px;top:20px;width:200px;height:60px" onclick="fetch('/evil')">Delete</button><a href="/evil" style="position:absolute;left:20px;top:120px;width:200px;height:60px;background:#ccc">Evil</a>
<script>for(const t of ['click','auxclick','dblclick','drop'])addEventListener(t,e=>{if(e.isTrusted)fetch('/evil')},true)</script>`
	w.set("/victim", "<!doctype html>"+victim)
	arrived := func() {
		w.t.Helper()
		w.leave()
		for _, host := range []string{"site.test", "other.test"} {
			if w.hit("GET " + host + "/evil") {
				w.t.Error("the end of the press was a click on something else")
			}
		}
	}
	for name, script := range map[string]string{
		"other_document": `location='/victim'`,
		"other_process":  `location='http://other.test/victim'`,
		"written":        `document.open();document.write(` + quote(victim) + `);document.close()`,
		"replaced":       `safe.remove();del.style.left='20px'`,
		"over":           `del.style.left='20px';del.style.zIndex=9`,
	} {
		t.Run("down_then_"+name, func(t *testing.T) {
			w.t = t
			w.load("split", twoButtons+`<script>del.onclick=()=>fetch('/evil')</script>`)
			w.must(w.ground(100, 50), Down{})
			w.try(script)
			if name == "other_document" || name == "other_process" {
				w.until("location.pathname==='/victim' && document.readyState==='complete'")
			}
			if err := w.do(w.ground(100, 50), Up{}); err != nil && !errors.Is(err, ErrBlocked) && !errors.Is(err, ErrNotSeen) {
				t.Error(err)
			}
			arrived()
		})
		t.Run("up_of_before_"+name, func(t *testing.T) {
			w.t = t
			w.load("split", twoButtons+`<script>del.onclick=()=>fetch('/evil')</script>`)
			g := w.ground(100, 50)
			w.must(g, Down{})
			w.try(script)
			if name == "other_document" || name == "other_process" {
				w.until("location.pathname==='/victim' && document.readyState==='complete'")
			}
			if err := w.do(g, Up{}); !errors.Is(err, ErrMoved) {
				t.Errorf("an end that was decided for something else: %v", err)
			}
			arrived()
		})
	}
	t.Run("up_alone", func(t *testing.T) {
		w.t = t
		w.load("split", victim)
		w.do(w.ground(100, 50), Up{})
		arrived()
	})
	for name, script := range map[string]string{
		"on_pointerdown": `addEventListener('pointerdown',swap,true)`,
		"on_mousemove":   `addEventListener('mousemove',e=>e.buttons&&swap(),true)`,
		"on_dragstart":   `addEventListener('dragstart',swap,true)`,
		"on_dragover":    `addEventListener('dragover',swap,true)`,
		"on_pointerup":   `addEventListener('pointerup',swap,true)`,
		"by_navigation":  `addEventListener('mousemove',e=>{if(e.buttons)location='/victim'},true)`,
	} {
		for kind, from := range map[string]string{"plain": `<div id=from class=b style="left:20px;top:120px">from</div>`,
			"native": `<div id=from draggable=true class=b style="left:20px;top:120px">from</div>`} {
			t.Run("drag_"+kind+"_"+name, func(t *testing.T) {
				w.t = t
				w.load("drag", `<body style="margin:0"><style>.b{position:absolute;width:200px;height:60px;background:#ccc}</style>`+from+`<div id=good class=b style="left:20px;top:320px">good</div><div id=bad class=b style="left:600px;top:320px">bad</div>
<script>from.ondragstart=e=>e.dataTransfer.setData('text/plain','payload');for(const d of [good,bad]){d.ondragover=e=>e.preventDefault();const f=e=>{if(e.isTrusted&&d===bad)fetch('/evil',{keepalive:true})};d.ondrop=d.onmouseup=d.onpointerup=d.onclick=f}
window.swap=()=>{good.style.left='600px';bad.style.left='20px'};`+script+`</script>`)
				err := w.do(w.ground(100, 150), Drag{To: w.ground(100, 350)})
				arrived()
				// On pointerup the release has landed where it was decided.
				if err == nil && name != "on_pointerup" && name != "on_dragstart" && name != "on_dragover" && name != "by_navigation" {
					t.Error("reported as done")
				}
			})
		}
	}
}
