package browser

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// The thirteen points of the grounding study, and what hostile markup adds.
const groundPage = `<body style="margin:0">
<style>.p{position:absolute;width:100px;height:30px}</style>
<a class=p style="left:20px;top:20px" href="https://evil.example/x">Link</a>
<iframe class=p style="left:100px;top:100px;width:300px;height:200px;border:3px solid;padding:4px" src="/inner"></iframe>
<iframe class=p style="left:500px;top:100px;width:300px;height:200px;border:3px solid;padding:4px" src="http://other.example/inner"></iframe>
<button class=p style="left:20px;top:400px"><span>Nested <b>bold</b></span></button>
<label class=p style="left:20px;top:450px">Agree <input type=checkbox name=agree></label>
<svg style="position:absolute;left:300px;top:400px" width=100 height=50><a href="/svglink"><rect width=100 height=50 fill=red /></a></svg>
<div class=p role=button aria-label="ARIA delete" tabindex=0 style="left:20px;top:500px">x</div>
<button class=p style="left:500px;top:500px">Under</button>
<div class=p style="left:500px;top:500px;pointer-events:none;background:#fff">overlay</div>
<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" usemap=#m width=100 height=50 style="position:absolute;left:700px;top:500px">
<map name=m><area shape=rect coords="0,0,100,50" href="/area" alt="Area link"></map>
<canvas class=p style="left:20px;top:600px"></canvas>
<select class=p style="left:140px;top:600px"><option>one<option>two</select>
<embed class=p style="left:260px;top:600px" type="application/pdf" src="/x.pdf">
<div id=oh class=p style="left:400px;top:600px"></div><div id=ch class=p style="left:520px;top:600px"></div>
<form action="/a" method=post><button class=p style="left:640px;top:600px" formaction="/b" formmethod=get>Form</button></form>
<form id=f2 action="/far" method=post></form><input type=submit form=f2 value=Far class=p style="left:760px;top:600px">
<input type=file class=p style="left:880px;top:600px">
<a href="/outer" class=p style="left:1000px;top:600px"><button type=button>In link</button></a>
<form action="/real"><input name=action value="/fake"><input name=method><input name=matches><button class=p style="left:1000px;top:400px">Clobber</button></form>
<label for=sub class=p style="left:1000px;top:450px">Harmless label</label><form action="/labelled" method=post><button id=sub>Submit</button></form>
<button class="p q" style="left:1000px;top:500px"></button><style>.q::before{content:"Pseudo";display:block;background:#ccc;width:90px;height:20px}</style>
<iframe sandbox="allow-scripts" class=p style="left:850px;top:100px;width:200px;height:200px;border:0" srcdoc="<button style='position:absolute;left:0;top:0;width:150px;height:40px'>Sandboxed</button>"></iframe>
<div style="position:absolute;top:3000px;height:1000px">.</div><button class=p style="left:20px;top:2600px">Deep</button>
<script>
oh.attachShadow({mode:'open'}).innerHTML='<button style="width:100px;height:30px">Open shadow</button>';
ch.attachShadow({mode:'closed'}).innerHTML='<form action="/closed" method=post><button style="width:100px;height:30px">Closed shadow</button></form>';
</script>`

const innerPage = `<!doctype html><body style="margin:0"><form action="http://bank.example/pay" method=post><button style="position:absolute;left:20px;top:20px;width:160px;height:40px" aria-label="Pay now">P</button></form><div style="height:3000px"></div><a href="/low" style="position:absolute;left:20px;top:1020px;width:160px;height:40px">Low</a>`

// Threats: T23, T24, T25, T26, T31 (browser)
func TestGroundPoints(t *testing.T) {
	w := open(t, Config{})
	w.set("/inner", innerPage)
	w.load("ground", groundPage)
	const top, other = "http://site.test", "http://other.example"
	for _, c := range []struct {
		name                                   string
		x, y                                   float64
		tag, elem, link, action, method, blind string
		origin                                 string
	}{
		{"link", 30, 30, "a", "Link", "https://evil.example/x", "", "", "", top},
		{"nested_span", 60, 412, "button", "Nested bold", "", "", "", "", top},
		{"iframe_same_process", 140, 140, "button", "Pay now", "", "http://bank.example/pay", "POST", "", top},
		{"iframe_own_process", 540, 140, "button", "Pay now", "", "http://bank.example/pay", "POST", "", other},
		{"open_shadow", 430, 615, "button", "Open shadow", "", "", "", "", top},
		{"closed_shadow", 550, 615, "button", "Closed shadow", "", top + "/closed", "POST", "", top},
		{"svg_link", 330, 420, "a", "", top + "/svglink", "", "", "", top},
		{"image_map", 720, 520, "area", "Area link", top + "/area", "", "", "", top},
		{"label", 30, 458, "label", "Agree", "", "", "", "", top},
		{"aria_role", 50, 512, "div", "ARIA delete", "", "", "", "", top},
		{"under_overlay", 530, 512, "button", "Under", "", "", "", "", top},
		{"canvas", 50, 610, "canvas", "", "", "", "", "canvas", top},
		{"select", 170, 610, "select", "", "", "", "", "native_select_popup", top},
		{"embed", 290, 610, "embed", "", "", "", "", "plugin_content", top},
		{"formaction", 660, 610, "button", "Form", "", top + "/b", "GET", "", top},
		{"form_attribute", 780, 610, "input", "Far", "", top + "/far", "POST", "", top},
		{"file_input", 900, 610, "input", "", "", "", "", "file_chooser", top},
		{"button_in_link", 1020, 610, "button", "In link", top + "/outer", "", "", "", top},
		{"clobbered_form", 1020, 410, "button", "Clobber", "", top + "/real", "GET", "", top},
		{"label_of_submit", 1020, 460, "label", "Harmless label", "", top + "/labelled", "POST", "", top},
		{"pseudo_element", 1020, 510, "button", "", "", "", "", "", top},
		{"sandboxed_frame", 900, 120, "button", "Sandboxed", "", "", "", "", "null"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			g := w.ground(c.x, c.y)
			e := g.Element
			got := []string{e.Tag, e.Name, e.Link, e.FormAction, e.FormMethod, e.Uninspectable, e.FrameOrigin, e.TopOrigin}
			want := []string{c.tag, c.elem, c.link, c.action, c.method, c.blind, c.origin, top}
			for i := range got {
				if got[i] != want[i] {
					t.Fatalf("got %q, want %q (%+v)", got, want, g)
				}
			}
			if again := w.ground(c.x, c.y); again.Fingerprint != g.Fingerprint {
				t.Errorf("fingerprint of an unchanged element changed")
			}
		})
	}
	w.t = t
	t.Run("scrolled_page", func(t *testing.T) {
		w.t = t
		w.eval("scrollTo(0,2400.5)")
		if g := w.ground(30, 210); g.Element.Name != "Deep" {
			t.Errorf("got %+v", g.Element)
		}
		w.eval("scrollTo(0,0)")
	})
	t.Run("pseudo_element_in_frame", func(t *testing.T) {
		w.t = t
		w.set("/pseudo", `<!doctype html><body style="margin:0"><style>button::after{content:"";position:absolute;left:50px;top:50px;width:50px;height:50px}</style><button style="position:static">Stretched</button>`)
		w.load("p", `<iframe src=/pseudo style="position:absolute;left:100px;top:100px;border:7px solid"></iframe>`)
		if g := w.ground(100+7+60, 100+7+60); g.Element.Name != "Stretched" {
			t.Errorf("got %+v", g.Element)
		} else {
			w.must(g, Click{})
		}
		w.load("ground", groundPage)
	})
	t.Run("scrolled_frame_own_process", func(t *testing.T) {
		w.t = t
		w.must(w.ground(600, 200), Wheel{DY: 1000})
		for range 100 {
			if g := w.ground(550, 145); g.Element.Link == other+"/low" {
				return
			}
			w.eval("new Promise(r=>setTimeout(r,20))")
		}
		t.Errorf("got %+v %v", w.ground(550, 145).Element, w.eval("scrollY"))
	})
	t.Run("transformed_frame_own_process", func(t *testing.T) {
		w.t = t
		w.load("turned", `<body style="margin:0"><iframe style="position:absolute;left:200px;top:100px;width:300px;height:200px;border:5px solid;transform:rotate(90deg) scale(1.5)" src="http://other.example/inner"></iframe>`)
		// The button's middle in the frame is 100,40: seen from the frame's
		// middle -50,-60, which a quarter turn and the scale take to 90,-75.
		g := w.ground(355+90, 205-75)
		if g.Element.Name != "Pay now" || g.Element.FrameOrigin != other {
			t.Fatalf("got %+v", g.Element)
		}
		w.must(g, Click{})
		w.waitHit(t, "POST bank.example/pay")
	})
	t.Run("outside", func(t *testing.T) {
		if _, err := w.Ground(t.Context(), 1280, 10); err == nil {
			t.Error("a point outside the screen was grounded")
		}
	})
}

// Threats: T29 (browser)
func TestGroundFocus(t *testing.T) {
	w := open(t, Config{})
	w.set("/f", `<!doctype html><form action="/inframe" method=post><input id=i name=q autofocus></form><script>i.focus()</script>`)
	w.load("focus", `<form action=/one method=post><input id=a><button formaction=/two>Go</button></form>
<form action=/three><input id=b><button disabled>Go</button></form><textarea id=c></textarea><img name=activeElement>
<div id=ch></div><iframe id=same src=/f></iframe><iframe id=cross src="http://other.example/f"></iframe>
<script>r=ch.attachShadow({mode:'closed'});r.innerHTML='<form action=/closed><input id=z></form>';</script>`)
	for _, c := range []struct{ name, focus, tag, action, origin string }{
		{"nothing", "same.blur();cross.blur()", "body", "", "http://site.test"},
		{"implicit_submit_formaction", "a.focus()", "input", "http://site.test/two", "http://site.test"},
		{"default_button_disabled", "b.focus()", "input", "http://site.test/three", "http://site.test"},
		{"textarea", "c.focus()", "textarea", "", "http://site.test"},
		{"closed_shadow", "r.getElementById('z').focus()", "input", "http://site.test/closed", "http://site.test"},
		{"frame_same_process", "same.contentWindow.i.focus()", "input", "http://site.test/inframe", "http://site.test"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			var e action.Element
			for range 100 { // frames take the focus when they have loaded, and after that
				w.eval(c.focus + ";new Promise(r=>setTimeout(r,20))")
				if e = w.focus().Element; e.Tag == c.tag && e.FormAction == c.action && e.FrameOrigin == c.origin {
					return
				}
			}
			t.Errorf("got %+v", e)
		})
	}
	w.t = t
	t.Run("frame_own_process", func(t *testing.T) {
		w.t = t
		w.eval("cross.style='position:fixed;left:0;top:0;width:300px;height:100px;border:0';1")
		w.must(w.ground(20, 15), Click{})
		g := w.focus()
		if g.Element.FrameOrigin != "http://other.example" || g.Element.FormAction != "http://other.example/inframe" {
			t.Fatalf("got %+v", g.Element)
		}
		w.must(g, Type{"über"})
		w.must(w.focus(), Key{"Return"})
		w.waitHit(t, "POST other.example/inframe q=%C3%BCber")
	})
}

// What lies over, around or turned: the element that the browser would press is
// named, and the press arrives there.
func TestGroundLayers(t *testing.T) {
	w := open(t, Config{})
	w.set("/mid", `<!doctype html><body style="margin:0"><iframe src="http://third.example/leaf" style="position:absolute;left:50px;top:50px;width:200px;height:150px;border:0"></iframe>`)
	w.set("/leaf", `<!doctype html><body style="margin:0"><button style="position:absolute;left:20px;top:20px;width:100px;height:40px" onclick="parent.parent.postMessage('pressed','*')">Leaf</button>`)
	const button = `<button id=under style="position:absolute;left:20px;top:20px;width:400px;height:300px" onclick="window.pressed='under'">Under</button>`
	for name, c := range map[string]struct {
		html string
		x, y float64
		want string
	}{
		"modal_dialog":   {button + `<dialog id=d style="margin:0;position:fixed;left:50px;top:50px;width:200px;height:100px;padding:0;border:0"><button style="width:200px;height:100px" onclick="window.pressed='dialog'">In dialog</button></dialog><script>d.showModal()</script>`, 100, 100, "In dialog"},
		"popover":        {button + `<div popover=manual id=p style="margin:0;position:fixed;left:50px;top:50px;width:200px;height:100px;padding:0;border:0"><button style="width:200px;height:100px" onclick="window.pressed='popover'">In popover</button></div><script>p.showPopover()</script>`, 100, 100, "In popover"},
		"css_zoom":       {`<div style="zoom:2">` + button + `</div>`, 700, 500, "Under"},
		"transform":      {`<div style="transform:translate(300px,200px) rotate(30deg);width:0;height:0">` + button + `</div>`, 360, 330, "Under"},
		"perspective":    {`<div style="perspective:500px;width:600px"><div style="transform:rotateY(40deg);transform-style:preserve-3d">` + button + `</div></div>`, 200, 150, "Under"},
		"clip_path":      {`<button style="position:absolute;left:0;top:0;width:600px;height:600px;clip-path:circle(40px at 500px 500px)" onclick="window.pressed='over'">Over</button>` + button, 100, 100, "Under"},
		"pointer_events": {button + `<div style="position:absolute;inset:0;pointer-events:none;background:#f008">Veil</div>`, 100, 100, "Under"},
		"nested_shadow":  {`<div id=a style="position:absolute;left:20px;top:20px"></div><script>const r=a.attachShadow({mode:'closed'});r.innerHTML='<div></div>';const s=r.firstChild.attachShadow({mode:'closed'});s.innerHTML='<button style="width:300px;height:200px">Twice closed</button>';s.firstChild.onclick=()=>pressed='twice'</script>`, 100, 100, "Twice closed"},
		"nested_frames":  {`<iframe src="http://other.example/mid" style="position:absolute;left:100px;top:100px;width:400px;height:300px;border:0"></iframe><script>onmessage=e=>pressed=e.data</script>`, 100 + 50 + 60, 100 + 50 + 40, "Leaf"},
		"srcdoc_frame":   {`<iframe style="position:absolute;left:20px;top:20px;width:400px;height:300px;border:0" srcdoc="<body style='margin:0'><button style='width:400px;height:300px' onclick='parent.pressed=1'>Written</button>"></iframe>`, 100, 100, "Written"},
		"smooth_scroll":  {`<style>html{scroll-behavior:smooth}</style><div style="height:3000px"></div><button style="position:fixed;left:20px;top:20px;width:400px;height:300px" onclick="window.pressed='fixed'">Fixed</button><script>scrollTo(0,500)</script>`, 100, 100, "Fixed"},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.load("layers", `<body style="margin:0">`+c.html)
			g := w.ground(c.x, c.y)
			if g.Element.Name != c.want || g.Element.Uninspectable != "" {
				t.Fatalf("got %+v, want %q", g.Element, c.want)
			}
			if want := "http://site.test"; name != "nested_frames" && g.Element.FrameOrigin != want {
				t.Errorf("got origin %q, want %q", g.Element.FrameOrigin, want)
			}
			w.must(g, Click{})
			w.until("window.pressed")
		})
	}
}

// A chord that the page gives to a control of its own presses nothing.
func TestAccessKeyPressesNothing(t *testing.T) {
	w := open(t, Config{})
	w.load("accesskey", `<input id=field><button accesskey=s onclick="window.pressed=true">Delete</button><a accesskey=l href="/evil">x</a>`)
	for _, chord := range []string{"alt+s", "alt+l", "alt+shift+s"} {
		w.eval("field.focus();1")
		err := w.do(w.focus(), Key{chord})
		if got := w.eval("String(!!window.pressed)"); got != "false" {
			t.Errorf("%s: pressed (%v)", chord, err)
		}
	}
	w.leave()
	if w.hit("GET site.test/evil") {
		t.Error("the link was followed")
	}
}
