package browser

import (
	"errors"
	"testing"
)

// The page offers Safe, waits until it was grounded, and puts Delete where
// Safe was. A round is won by the page when Delete is clicked.
const racePage = `<body style="margin:0"><style>button{position:absolute;width:200px;height:60px}.under{left:20px;top:20px}.away{left:600px;top:20px}
@keyframes swap{0%{left:600px}1%{left:20px}100%{left:20px}}.anim{animation:swap 60s linear forwards;z-index:9}</style>
<input id=field style="position:absolute;left:20px;top:200px"><form id=form action="/deleted" method=post><input id=trap name=trap style="position:absolute;left:20px;top:250px"></form>
<button id=safe class=under onclick="window.clicks=(window.clicks||0)+1">Safe</button>
<button id=del class=away onclick="window.deleted=true">Delete</button>
<script>
const S=document.getElementById('safe'), D=document.getElementById('del');
window.swap=()=>{ S.className='away'; D.className='under' };
</script>`

// attacks by name: what runs after Safe was grounded. Those that begin before
// the press race it; those on an event act inside of it.
var raceAttacks = []struct{ name, script string }{
	{"setTimeout", `setTimeout(swap, %d)`},
	{"requestAnimationFrame", `(()=>{let n=0;(function f(){ if(n++>=%d) swap(); else requestAnimationFrame(f)})()})()`},
	{"css_animation", `D.className='anim'; D.style.animationDelay='%dms'`},
	{"message_channel", `(()=>{const c=new MessageChannel, t=performance.now(); c.port1.onmessage=()=>{ if(performance.now()-t>%d) swap(); else c.port2.postMessage(0)}; c.port2.postMessage(0)})()`},
	{"mousemove", `addEventListener('mousemove',swap,{capture:true}); %d`},
	{"pointermove", `addEventListener('pointermove',swap,{capture:true}); %d`},
	{"pointerdown", `addEventListener('pointerdown',swap,{capture:true}); %d`},
	{"mousedown", `addEventListener('mousedown',swap,{capture:true}); %d`},
	{"pointerup", `addEventListener('pointerup',swap,{capture:true}); %d`},
	{"mouseup", `addEventListener('mouseup',swap,{capture:true}); %d`},
	{"worker", `(()=>{const w=new Worker(URL.createObjectURL(new Blob(['setTimeout(()=>postMessage(0),%d)'])));w.onmessage=swap})()`},
	{"link_swap_on_pointerdown", `addEventListener('pointerdown',()=>{D.style.pointerEvents='none';swap()},{capture:true}); %d`},
}

// Threats: T28, H6 (browser)
func TestRaceHostilePageWinsNoRound(t *testing.T) {
	w := open(t, Config{})
	for _, a := range raceAttacks {
		t.Run(a.name, func(t *testing.T) {
			w.t = t
			won, stopped, clicked := 0, 0, 0
			for _, delay := range []string{"0", "1", "2", "4", "8"} {
				w.load("race", racePage)
				g := w.ground(100, 50)
				if g.Element.Name != "Safe" {
					t.Fatalf("grounded %+v", g.Element)
				}
				w.eval(replaceDelay(a.script, delay) + ";1")
				err := w.do(g, Click{})
				switch {
				case w.eval("String(!!window.deleted)") == "true":
					won++
				case err == nil:
					clicked++
					if w.eval("String(window.clicks)") != "1" {
						t.Errorf("success was reported and Safe was not clicked")
					}
				case errors.Is(err, ErrMoved), errors.Is(err, ErrBlocked), errors.Is(err, ErrNotSeen):
					stopped++
				default:
					t.Errorf("unexpected error: %v", err)
				}
			}
			t.Logf("page won %d, stopped %d, clicked Safe %d", won, stopped, clicked)
			if won != 0 {
				t.Errorf("the hostile page won %d rounds, want 0", won)
			}
		})
	}
}

func replaceDelay(s, d string) string {
	for i := 0; i+1 < len(s); i++ {
		if s[i] == '%' && s[i+1] == 'd' {
			return s[:i] + d + s[i+2:]
		}
	}
	return s
}

// The page changes what the approved element does, not which one it is.
//
// Threats: T25, T27, T28 (browser)
func TestFactsChangedInsideThePress(t *testing.T) {
	w := open(t, Config{})
	for _, a := range []struct{ name, html, script, bad string }{
		{"link_href_on_pointerdown", `<a id=x href="/good" style="position:absolute;left:20px;top:20px;width:200px;height:60px;background:#ccc">Go</a>`,
			`addEventListener('pointerdown',()=>{x.href='/evil'},true)`, "GET site.test/evil"},
		{"link_href_on_mouseup", `<a id=x href="/good" style="position:absolute;left:20px;top:20px;width:200px;height:60px;background:#ccc">Go</a>`,
			`addEventListener('mouseup',()=>{x.href='/evil'},true)`, "GET site.test/evil"},
		{"form_action_on_mousedown", `<form id=f action="/good" method=post><button id=x style="position:absolute;left:20px;top:20px;width:200px;height:60px">Go</button></form>`,
			`addEventListener('mousedown',()=>{f.action='/evil'},true)`, "POST site.test/evil"},
		{"formaction_on_pointerup", `<form id=f action="/good" method=post><button id=x style="position:absolute;left:20px;top:20px;width:200px;height:60px">Go</button></form>`,
			`addEventListener('pointerup',()=>{x.setAttribute('formaction','/evil')},true)`, "POST site.test/evil"},
		{"form_action_on_click", `<form id=f action="/good" method=post><button id=x style="position:absolute;left:20px;top:20px;width:200px;height:60px">Go</button></form>`,
			`addEventListener('click',()=>{f.action='/evil'},true)`, "POST site.test/evil"},
		{"label_for_on_mousedown", `<form action="/evil" method=post><button id=bad>Bad</button></form><input type=checkbox id=ok><label id=x for=ok style="position:absolute;left:20px;top:20px;width:200px;height:60px;background:#ccc">Tick</label>`,
			`addEventListener('mousedown',()=>{x.htmlFor='bad'},true)`, "POST site.test/evil"},
		{"link_target_on_mousedown", `<a id=x href="/good" style="position:absolute;left:20px;top:20px;width:200px;height:60px;background:#ccc">Go</a>`,
			`addEventListener('mousedown',()=>{x.target='elsewhere'},true)`, "GET site.test/good"},
		{"base_target_on_pointerup", `<a id=x href="/good" style="position:absolute;left:20px;top:20px;width:200px;height:60px;background:#ccc">Go</a>`,
			`addEventListener('pointerup',()=>{const b=document.createElement('base');b.target='_blank';document.head.append(b)},true)`, "GET site.test/good"},
		{"formtarget_on_pointerdown", `<form action="/good" method=post><button id=x style="position:absolute;left:20px;top:20px;width:200px;height:60px">Go</button></form>`,
			`addEventListener('pointerdown',()=>{x.formTarget='_blank'},true)`, "POST site.test/good"},
		{"form_target_on_mouseup", `<form id=f action="/good" method=post><button id=x style="position:absolute;left:20px;top:20px;width:200px;height:60px">Go</button></form>`,
			`addEventListener('mouseup',()=>{f.target='frame'},true)`, "POST site.test/good"},
		{"form_target_on_focus", `<form id=f action="/good" method=post><button id=x style="position:absolute;left:20px;top:20px;width:200px;height:60px">Go</button></form>`,
			`x.addEventListener('focus',()=>{f.target='_blank'})`, "POST site.test/good"},
		{"formaction_on_focus", `<form id=f action="/good" method=post><button id=x style="position:absolute;left:20px;top:20px;width:200px;height:60px">Go</button></form>`,
			`x.addEventListener('focus',()=>{x.formAction='/evil'})`, "POST site.test/evil"},
		{"form_attribute_on_mousedown", `<form action="/good" method=post><button id=x style="position:absolute;left:20px;top:20px;width:200px;height:60px">Go</button></form><form id=other action="/evil" method=post></form>`,
			`addEventListener('mousedown',()=>{x.setAttribute('form','other')},true)`, "POST site.test/evil"},
		{"formmethod_on_mouseup", `<form action="/good" method=post><button id=x style="position:absolute;left:20px;top:20px;width:200px;height:60px">Go</button></form>`,
			`addEventListener('mouseup',()=>{x.formMethod='get'},true)`, "GET site.test/good"},
		{"button_into_link_on_mousedown", `<a id=l href="/evil"></a><button id=x style="position:absolute;left:20px;top:20px;width:200px;height:60px">Go</button>`,
			`addEventListener('mousedown',()=>{l.append(x)},true)`, "GET site.test/evil"},
	} {
		t.Run(a.name, func(t *testing.T) {
			w.t = t
			w.load("facts", `<body style="margin:0">`+a.html)
			g := w.ground(100, 50)
			w.eval(a.script + ";1")
			if err := w.do(g, Click{}); !errors.Is(err, ErrBlocked) {
				t.Errorf("got %v, want ErrBlocked", err)
			}
			w.load("after", "") // whatever the press started would be before this
			if w.hit(a.bad) {
				t.Errorf("the page got %q", a.bad)
			}
		})
	}
}

// Threats: T29 (browser)
func TestFocusStealing(t *testing.T) {
	w := open(t, Config{})
	for _, a := range []struct {
		name, script string
		in           Input
	}{
		{"text_after_grounding", `trap.focus()`, Type{"secret"}},
		{"text_on_selectionchange_timer", `setTimeout(()=>trap.focus(),1)`, Type{"secret"}},
		{"text_on_beforeinput", `addEventListener('beforeinput',()=>trap.focus(),true)`, Type{"secret"}},
		{"text_after_blur", `trap.focus();field.focus();setTimeout(()=>field.blur(),0)`, Type{"secret"}},
		{"enter_after_grounding", `trap.focus()`, Key{"Return"}},
		{"enter_on_keydown", `addEventListener('keydown',()=>trap.focus(),true)`, Key{"Return"}},
		{"enter_on_keypress", `addEventListener('keypress',()=>trap.focus(),true)`, Key{"Return"}},
		{"letter_on_keydown", `addEventListener('keydown',()=>trap.focus(),true)`, Key{"s"}},
		{"letter_on_beforeinput", `addEventListener('beforeinput',()=>trap.focus(),true)`, Key{"s"}},
		{"delete_on_beforeinput", `trap.value='';addEventListener('beforeinput',()=>trap.focus(),true)`, Key{"BackSpace"}},
		{"space_on_keydown", `addEventListener('keydown',()=>D.focus(),true)`, Key{"space"}},
		{"space_on_keyup", `addEventListener('keyup',()=>D.focus(),true)`, Key{"space"}},
	} {
		t.Run(a.name, func(t *testing.T) {
			w.t = t
			w.load("steal", racePage)
			w.eval(`field.focus();1`)
			g := w.focus()
			w.eval(a.script + ";1")
			err := w.do(g, a.in)
			if got := w.eval("trap.value"); got != "" {
				t.Errorf("the stolen field got %q (%v)", got, err)
			}
			if w.eval("String(!!window.deleted)") == "true" || w.hit("POST site.test/deleted") {
				t.Errorf("the key activated something else (%v)", err)
			}
			if _, text := a.in.(Type); err == nil && text && w.eval("field.value") == "" {
				t.Errorf("success was reported for input that arrived nowhere")
			}
		})
	}
}
