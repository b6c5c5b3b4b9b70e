package browser

import (
	"bytes"
	"context"
	"errors"
	"image/png"
	"strings"
	"testing"
	"time"
)

// In the press itself the page brings something over the control that was decided
// on: the layer on top of all others, its whole screen, a picker of the browser.
//
// Threats: T28, T31, T32 (browser)
func TestTopLayerOpensInThePress(t *testing.T) {
	w := open(t, Config{})
	const evil = `style="position:fixed;inset:0;margin:0;width:1280px;height:800px;border:0;padding:0;max-width:none;max-height:none"><button style="width:1280px;height:800px" onclick="fetch('/evil')">Delete</button>`
	for name, html := range map[string]string{
		"modal":      `<dialog id=o ` + evil + `</dialog><script>window.over=()=>o.open||o.showModal()</script>`,
		"popover":    `<div popover=manual id=o ` + evil + `</div><script>window.over=()=>o.matches(':popover-open')||o.showPopover()</script>`,
		"fullscreen": `<div id=o ` + strings.Replace(evil, "inset:0", "left:2000px", 1) + `</div><script>window.over=()=>o.requestFullscreen()</script>`,
		"backdrop":   `<style>dialog::backdrop{background:red}</style><dialog id=o style="left:800px;top:500px" onclick="fetch('/evil')">x</dialog><script>window.over=()=>o.open||o.showModal()</script>`,
	} {
		for _, event := range []string{"pointerdown", "mousedown", "pointerup", "mouseup"} {
			t.Run(name+"_"+event, func(t *testing.T) {
				w.t = t
				w.load("top", twoButtons+html+`<script>addEventListener('`+event+`',()=>over(),true)</script>`)
				err := w.do(w.ground(100, 50), Click{})
				if got := w.eval("String(window.clicks||0)"); err == nil && got != "1" {
					t.Errorf("reported as done, %s clicks", got)
				}
				w.leave()
				if w.hit("GET site.test/evil") {
					t.Errorf("the layer got the press (%v)", err)
				}
			})
		}
	}
}

// What the browser itself draws cannot be looked into: it is said so, and nothing
// is pressed there; or the press is the page's, and no picker is chosen from.
//
// Threats: T31 (browser)
func TestWhatTheBrowserDraws(t *testing.T) {
	w := open(t, Config{})
	w.set("/doc.pdf", "%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n")
	for name, c := range map[string]struct{ html, blind string }{
		"select":           {`<select style="%s"><option>one<option>two</select>`, "native_select_popup"},
		"select_drawn":     {`<style>select,::picker(select){appearance:base-select}</style><select style="%s"><option>one<option>two</select>`, "native_select_popup"},
		"label_of_select":  {`<label for=s style="%s">Choose</label><select id=s style="position:absolute;top:300px"><option>one<option>two</select>`, "native_select_popup"},
		"color":            {`<input type=color style="%s">`, "native_color_picker"},
		"file":             {`<input type=file style="%s">`, "file_chooser"},
		"label_of_file":    {`<label for=s style="%s">Choose</label><input type=file id=s style="position:absolute;top:300px">`, "file_chooser"},
		"canvas":           {`<canvas style="%s"></canvas>`, "canvas"},
		"canvas_over":      {`<button style="%s">Delete</button><canvas style="%s"></canvas>`, "canvas"},
		"pdf_embedded":     {`<embed type="application/pdf" src="/doc.pdf" style="%s">`, "plugin_content"},
		"pdf_object":       {`<object type="application/pdf" data="/doc.pdf" style="%s"></object>`, "plugin_content"},
		"plugin":           {`<object type="application/x-shockwave-flash" data="/x" style="%s"><b>fallback</b></object>`, "plugin_content"},
		"listbox":          {`<select size=4 style="%s"><option>one<option>two</select>`, ""},
		"media_controls":   {`<video controls style="%s"></video>`, ""},
		"details_of_audio": {`<audio controls style="%s"></audio>`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.load("drawn", `<body style="margin:0">`+strings.ReplaceAll(c.html, "%s", place20))
			g := w.ground(100, 50)
			if got := g.Element.Uninspectable; got != c.blind {
				t.Errorf("got %q, want %q: %+v", got, c.blind, g.Element)
			}
		})
	}
	// A picker may be opened; what is drawn over the page takes no input, and the
	// page's own element below it gets what is decided for it.
	for _, kind := range []string{"date", "time", "month", "week", "datetime-local"} {
		t.Run(kind, func(t *testing.T) {
			w.t = t
			w.load("picker", `<body style="margin:0"><input id=i type=`+kind+` style="`+place20+`"><button id=below style="position:absolute;left:20px;top:90px;width:400px;height:400px" onclick="window.pressed=1">Below</button>`)
			w.must(w.ground(205, 50), Click{}) // where its button is
			w.must(w.ground(120, 200), Click{})
			if got := w.eval("i.value+String(window.pressed)"); got != "1" {
				t.Errorf("got %q, want the button below pressed and no value", got)
			}
		})
	}
	t.Run("datalist", func(t *testing.T) {
		w.t = t
		w.load("list", `<body style="margin:0"><input id=i list=l style="`+place20+`"><datalist id=l><option>evil<option>worse</datalist><button id=below style="position:absolute;left:20px;top:90px;width:400px;height:400px" onclick="window.pressed=1">Below</button>`)
		w.must(w.ground(100, 50), Click{Count: 2})
		w.must(w.ground(120, 110), Click{})
		if got := w.eval("i.value+String(window.pressed)"); got != "1" {
			t.Errorf("got %q, want the button below pressed and no value", got)
		}
	})
	t.Run("pdf_page", func(t *testing.T) {
		w.t = t
		w.load("links", `<body style="margin:0"><a href="/doc.pdf" style="`+place20+`;background:#ccc">PDF</a>`)
		w.do(w.ground(100, 50), Click{})
		w.waitHit(t, "GET site.test/doc.pdf")
		// Either it was a download, which is denied, or it is shown by nothing that takes input.
		if g := w.ground(100, 50); g.Element.Uninspectable == "" && g.Element.URL != "http://site.test/links" {
			t.Errorf("got %+v", g.Element)
		}
	})
}

// The page fills the screen, or opens a window over the others, and draws a
// browser that shows a bank. What is decided and what the approver is told goes by
// the page that it is, and the screen stays as large as it was.
//
// Threats: T32 (browser)
func TestPageDrawsABrowser(t *testing.T) {
	w := open(t, Config{})
	const spoof = `document.body.innerHTML='<div style="position:fixed;inset:0;background:#fff;z-index:99">https://bank.example/login<button id=x style="position:absolute;left:500px;top:300px;width:200px;height:60px">Pay</button></div>';document.title='https://bank.example'`
	for name, press := range map[string]string{
		"fullscreen":         `document.documentElement.requestFullscreen({navigationUI:'hide'})`,
		"fullscreen_element": `document.body.requestFullscreen()`,
		"fullscreen_keys":    `document.documentElement.requestFullscreen().then(()=>navigator.keyboard.lock())`,
		"pointer_lock":       `document.body.requestPointerLock()`,
		"picture":            `documentPictureInPicture.requestWindow({width:300,height:200}).then(p=>{p.document.body.innerHTML='<button style="width:900px;height:600px" onclick="opener.fetch(1)">bank.example</button>'})`,
		"popup":              `open('about:blank','x','popup,width=300,height=200').document.write('<title>https://bank.example</title><button style="position:absolute;left:0;top:0;width:900px;height:600px">Pay</button>')`,
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.set("/spoof", `<!doctype html><body style="margin:0"><button style="`+place20+`" onclick="try{Promise.resolve(`+strings.ReplaceAll(press, `"`, "&quot;")+`).catch(e=>window.refused=String(e))}catch(e){window.refused=String(e)};`+strings.ReplaceAll(spoof, `"`, "&quot;")+`">Go</button>`)
			if err := w.Navigate(t.Context(), "http://spoof.localhost/spoof"); err != nil {
				t.Fatal(err)
			}
			w.must(w.ground(100, 50), Click{})
			w.quiet(200 * time.Millisecond)
			g := w.ground(600, 330)
			for range 100 { // a window may come yet
				if g.Element.Tag == "button" {
					break
				}
				w.quiet(20 * time.Millisecond)
				g = w.ground(600, 330)
			}
			if g.Element.TopOrigin != "http://spoof.localhost" || g.Element.FrameOrigin != "http://spoof.localhost" || strings.Contains(g.Element.URL, "bank") {
				t.Errorf("the page passes for another: %+v", g.Element)
			}
			// Where the page has the pointer locked, nothing can be pressed at all.
			if err := w.do(g, Click{}); err != nil && !errors.Is(err, ErrMoved) && !(name == "pointer_lock" && errors.Is(err, ErrBlocked)) {
				t.Errorf("a press on what is drawn: %v", err)
			}
			b, err := w.Screenshot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if c, err := png.DecodeConfig(bytes.NewReader(b)); err != nil || c.Width != 1280 || c.Height != 800 {
				t.Errorf("the screen is %dx%d (%v)", c.Width, c.Height, err)
			}
			w.closePopups()
		})
	}
}

// The page gives itself another address and title without leaving. The origin
// stays its own, whatever path it shows; a press that was decided before is for
// another address and goes nowhere.
//
// Threats: T33 (browser)
func TestPageChangesItsAddress(t *testing.T) {
	w := open(t, Config{})
	for name, script := range map[string]string{
		"push":       `history.pushState(null,'','/admin/approved?host=bank.example')`,
		"replace":    `history.replaceState(null,'','//site.test/admin/approved?host=bank.example')`,
		"navigation": `navigation.onnavigate=e=>e.intercept({handler(){}});navigation.navigate('/admin/approved?host=bank.example')`,
		"title":      `document.title='https://bank.example/ - Bank';history.pushState(null,'https://bank.example','/admin/approved?host=bank.example')`,
		"base":       `{const b=document.createElement('base');b.href='https://bank.example/';document.head.append(b)};history.pushState(null,'','http://site.test/admin/approved?host=bank.example')`,
		"elsewhere":  `try{history.pushState(null,'','https://bank.example/')}catch(e){history.pushState(null,'','/admin/approved?host=bank.example')}`,
		"user":       `try{history.pushState(null,'','http://bank.example@site.test/')}catch(e){};history.pushState(null,'','/admin/approved?host=bank.example')`,
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.load("address", twoButtons)
			before := w.ground(100, 50)
			w.eval(script + ";1")
			w.until("location.pathname==='/admin/approved'")
			g := w.ground(100, 50)
			if e := g.Element; e.FrameOrigin != "http://site.test" || e.TopOrigin != "http://site.test" || e.URL != "http://site.test/admin/approved?host=bank.example" {
				t.Errorf("got %+v", e)
			}
			if g.Frame != before.Frame || g.Loader != before.Loader {
				t.Error("it is another document")
			}
			if err := w.do(before, Click{}); !errors.Is(err, ErrMoved) {
				t.Errorf("decided under another address: %v, want ErrMoved", err)
			}
			w.must(g, Click{})
		})
	}
	// A frame of another origin does the same: it is still that frame.
	w.t = t
	w.set("/inner", `<!doctype html><body style="margin:0"><button style="`+place20+`">x</button><script>history.pushState(null,'','/victim?http://site.test')</script>`)
	w.load("outer", `<body style="margin:0"><iframe src="http://other.test/inner" style="width:500px;height:300px;border:0"></iframe>`)
	if e := w.ground(100, 50).Element; e.FrameOrigin != "http://other.test" || e.TopOrigin != "http://site.test" || e.Frames != "http://site.test http://other.test" {
		t.Errorf("got %+v", e)
	}
}

// Facts of frames in frames: the way down, the window that is opened.
//
// Threats: T26, T27 (browser)
func TestFramesAndWindowsAreNamed(t *testing.T) {
	w := open(t, Config{})
	full := `style="position:absolute;left:0;top:0;width:500px;height:300px;border:0"`
	w.set("/mid", `<!doctype html><body style="margin:0"><iframe `+full+` srcdoc="<body style='margin:0'><iframe src='http://third.test/leaf' `+strings.ReplaceAll(full, `"`, "'")+`></iframe>"></iframe>`)
	w.set("/leaf", `<!doctype html><base target=other><body style="margin:0"><form method=post action=/x><button autofocus id=b style="`+place20+`">x</button></form><a href=/y style="position:absolute;top:120px;left:20px;width:200px;height:60px;background:#ccc">y</a><a href=/y target=_SELF style="position:absolute;top:220px;left:20px;width:200px;height:60px;background:#ccc">y</a><script>b.focus()</script>`)
	w.load("named", `<body style="margin:0"><iframe src="http://other.test/mid" `+full+`></iframe>`)
	const way = "http://site.test http://other.test about:srcdoc http://third.test"
	for range 200 {
		if w.ground(100, 50).Element.Tag == "button" {
			break
		}
		w.quiet(10 * time.Millisecond)
	}
	for _, c := range []struct {
		y      float64
		window string
	}{{50, "other"}, {150, "other"}, {250, ""}} {
		if e := w.ground(100, c.y).Element; e.Frames != way || e.Window != c.window || e.Frame == "" {
			t.Errorf("got %+v, want window %q", e, c.window)
		}
	}
	w.must(w.ground(100, 50), Down{})
	if e := w.focus().Element; e.Frames != way || e.Window != "other" {
		t.Errorf("focus: got %+v", e)
	}
}

// Text by an input method, or out of the clipboard: no chord starts either, and a
// page that has its own text in the clipboard gets the agent to paste nothing but
// what policy sees as a chord on that field.
//
// Threats: T29 (browser)
func TestTextFromElsewhere(t *testing.T) {
	w := open(t, Config{})
	w.load("paste", `<input id=a value=mine><input id=trap><script>onpaste=e=>window.got=e.clipboardData.getData('text')</script>`)
	w.eval("a.focus();a.select();1")
	if err := w.do(w.focus(), Key{"ctrl+c"}); err != nil {
		t.Fatal(err)
	}
	// What the page puts there by itself, with no press, does not get there.
	w.eval(`navigator.clipboard?.writeText('evil').catch(()=>0);trap.focus();document.execCommand('copy');1`)
	if err := w.do(w.focus(), Key{"ctrl+v"}); err != nil && !errors.Is(err, ErrBlocked) {
		t.Error(err)
	}
	if got := w.eval("trap.value"); got != "" && got != "mine" {
		t.Errorf("pasted %q", got)
	}
	for _, chord := range []string{"Compose", "Multi_key", "Dead_acute", "Henkan", "Kanji", "Process", "ctrl+shift+u", "ctrl+space"} {
		if err := CheckChord(chord); err == nil {
			t.Errorf("%s: a chord of an input method", chord)
		}
	}
	// The focus is taken in the middle of a composition-like insert.
	w.load("steal", `<input id=a><input id=trap><script>a.addEventListener('beforeinput',()=>trap.focus());a.addEventListener('compositionstart',()=>trap.focus())</script>`)
	w.eval("a.focus();1")
	if err := w.do(w.focus(), Type{"日本語"}); !errors.Is(err, ErrBlocked) {
		t.Errorf("got %v, want ErrBlocked", err)
	}
	if got := w.eval("a.value+trap.value"); got != "" {
		t.Errorf("typed %q", got)
	}
}

// A page crashes as often as it is opened, and another makes frames and
// workers without end. Each costs its own session at most, which never takes a press that it
// did not confirm, and can be ended; another browser takes no notice.
//
// Threats: T49 (browser)
func TestCrashesAndFloods(t *testing.T) {
	w, other := open(t, Config{}), open(t, Config{})
	other.load("other", twoButtons)
	works := func() {
		t.Helper()
		other.must(other.ground(100, 50), Click{})
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 8 {
		w.load("crash", twoButtons)
		g := w.ground(100, 50)
		page, err := w.current(ctx)
		if err != nil {
			t.Fatal(err)
		}
		w.conn.send(page.id, "Page.crash", nil)
		if err := w.await(ctx, func() bool { return page.crashed }); err != nil {
			t.Fatal(err)
		}
		if err := w.do(g, Click{}); !errors.Is(err, ErrCrashed) {
			t.Errorf("a press on a crashed page: %v", err)
		}
		if _, err := w.Ground(ctx, 100, 50); !errors.Is(err, ErrCrashed) {
			t.Errorf("a crashed page is grounded: %v", err)
		}
		works()
	}
	w.load("frames", twoButtons+`<script>for(let i=0;i<300;i++)document.body.append(document.createElement('iframe'))</script>`)
	if err := w.do(w.ground(100, 50), Click{}); !errors.Is(err, ErrGuard) {
		t.Errorf("300 frames: %v, want ErrGuard", err)
	}
	works()
	// Workers without end: whatever becomes of the page, no press is said to have
	// arrived that did not, and the browser can be ended.
	w.set("/flood", `<!doctype html>`+twoButtons+`<script>const u=URL.createObjectURL(new Blob(['']));window.all=[];setInterval(()=>{for(let i=0;i<50;i++)all.push(new Worker(u))},10)</script>`)
	if err := w.Navigate(ctx, "http://site.test/flood"); err != nil {
		t.Logf("the flood: %v", err)
	}
	w.quiet(time.Second)
	works()
	short, end := context.WithTimeout(ctx, 5*time.Second)
	defer end()
	g, err := w.Ground(short, 100, 50)
	if err == nil {
		err = w.alone(short, func() error { return w.perform(short, g, Click{}) })
	}
	if err == nil && w.eval("String(window.clicks)") != "1" {
		t.Error("a press is said to have arrived, and did not")
	}
	t.Logf("a press under the flood: %v", err)
	ended := make(chan struct{})
	go func() { w.Close(); close(ended) }()
	select {
	case <-ended:
	case <-ctx.Done():
		t.Error("a flooded browser could not be ended")
	}
	works()
}
