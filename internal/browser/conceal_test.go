package browser

import (
	"bytes"
	"image"
	"image/png"
	"net/http"
	"strings"
	"testing"
)

// hiding conceals some fields by name and one text.
type hiding struct {
	fields []string
	text   string
}

func (h hiding) Fields() []string { return h.fields }

func (h hiding) Spans(t []byte) (out [][2]int) {
	for at := 0; h.text != ""; {
		i := bytes.Index(t[at:], []byte(h.text))
		if i < 0 {
			break
		}
		out = append(out, [2]int{at + i, at + i + len(h.text)})
		at += i + len(h.text)
	}
	return out
}

// red counts pixels that are red: the tests write what must not be seen in red
// on white, and nothing else.
func red(t testing.TB, shot []byte) (n int) {
	t.Helper()
	img, _, err := image.Decode(bytes.NewReader(shot))
	if err != nil {
		t.Fatal(err)
	}
	at := image.Point{}
	for y := img.Bounds().Min.Y; y < img.Bounds().Max.Y; y++ {
		for x := img.Bounds().Min.X; x < img.Bounds().Max.X; x++ {
			if r, g, b, _ := img.At(x, y).RGBA(); r > g+0x3000 && r > b+0x3000 {
				if n == 0 {
					at = image.Pt(x, y)
				}
				n++
			}
		}
	}
	if n > 0 {
		t.Logf("the first at %v", at)
	}
	return n
}

const (
	inkStyle = `<style>*{margin:0}input,textarea,b{color:#f00;caret-color:transparent;font:20px monospace;border:0;background:#fff;outline:0}</style>`
	secretIn = `<input type=password value="hunter2hunter2">`
)

// TestNothingConcealedIsInAPicture: fields of type password, fields that are
// named, and elements with a known text are in no picture, wherever a page has
// them, however it is scrolled and scaled, and whatever part is taken.
//
// Threats: T44, H5 (browser)
func TestNothingConcealedIsInAPicture(t *testing.T) {
	w := open(t, Config{})
	w.Conceal(hiding{fields: []string{"api_token"}, text: "Known-Secret-0815"})
	w.set("/inner", "<!doctype html>"+inkStyle+"<div style='height:40px'></div>"+secretIn)
	w.set("/deep", "<!doctype html>"+inkStyle+"<iframe src='http://third.test/inner' style='border:7px solid #00f;padding:5px;height:90px'></iframe>")
	script := func(js string) string { return "<div id=d></div><script>" + js + "</script>" }
	for name, tt := range map[string]struct{ page, then string }{
		"password":        {page: secretIn},
		"upper_case":      {page: `<INPUT TYPE="PassWord" value="hunter2hunter2">`},
		"typed_later":     {page: `<input id=i value="hunter2hunter2" style="opacity:0">`, then: "i.type='password';i.style.opacity=1;1"},
		"declared":        {page: `<input name=api_token value="sallyport-secret:api-token">`},
		"declared_area":   {page: `<textarea name=api_token rows=3 cols=40>sallyport-secret:api-token and more of it, over lines and lines</textarea>`},
		"text":            {page: `<p>Your key is <b>Known-Secret-0815</b></p>`},
		"text_in_pieces":  {page: `<p><b>Known-</b><b>Secret-</b><b>0815</b></p>`},
		"text_in_value":   {page: `<input size=30 value="x Known-Secret-0815">`},
		"text_added":      {page: script(`d.textContent='Known-Secret-0815';d.style.color='#f00'`)},
		"text_in_shadow":  {page: script(`const s=d.attachShadow({mode:'open'});s.innerHTML='<b style="color:red">Known-Secret-0815</b>'`)},
		"open_shadow":     {page: script(`d.attachShadow({mode:'open'}).innerHTML='` + inkStyle + secretIn + `'`)},
		"closed_shadow":   {page: script(`d.attachShadow({mode:'closed'}).innerHTML='` + inkStyle + secretIn + `'`)},
		"nested_shadow":   {page: script(`const s=d.attachShadow({mode:'closed'});s.innerHTML='<i></i>';s.firstChild.innerHTML='<u></u>';const e=document.createElement('div');s.append(e);e.attachShadow({mode:'closed'}).innerHTML='` + inkStyle + secretIn + `'`)},
		"scrolled":        {page: "<div style='height:2000px'></div>" + secretIn + "<div style='height:2000px'></div>", then: "scrollTo(0,1700);1"},
		"scrolled_inside": {page: "<div id=b style='height:100px;overflow:auto'><div style='height:500px'></div>" + secretIn + "<div style='height:500px'></div></div>", then: "b.scrollTop=470;1"},
		"rotated":         {page: "<div style='display:inline-block;transform:translate(300px,200px) rotate(33deg) scale(1.7)'>" + secretIn + "</div>"},
		"zoomed":          {page: "<div style='zoom:2.3;padding:9px'>" + secretIn + "</div>"},
		"fixed":           {page: "<div style='position:fixed;right:3px;bottom:3px'>" + secretIn + "</div>"},
		"same_process":    {page: "<iframe srcdoc='" + inkStyle + secretIn + "' style='margin:31px'></iframe>"},
		"own_process":     {page: "<iframe src='http://other.test/inner' style='margin:31px;border:9px solid #00f;padding:11px'></iframe>"},
		"own_scaled":      {page: "<iframe src='http://other.test/inner' style='margin:80px;transform:rotate(10deg) scale(1.5)'></iframe>"},
		"own_nested":      {page: "<iframe src='http://other.test/deep' style='margin:20px;width:500px;height:300px'></iframe>"},
		"dialog":          {page: "<dialog id=m>" + secretIn + "</dialog>", then: "m.showModal();1"},
		"forms_clobber":   {page: "<form name=createTreeWalker><input name=documentElement></form><form name=body>" + secretIn + "</form><p>Known-Secret-0815</p>"},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.load("page", inkStyle+tt.page)
			if tt.then != "" {
				w.eval(tt.then)
			}
			w.eval("new Promise(r=>requestAnimationFrame(()=>requestAnimationFrame(r)))")
			page, err := w.current(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			// There is something to see, or this tests nothing.
			eventuallyRed(t, w, page)
			for kind, take := range map[string]func() ([]byte, error){
				"screen": func() ([]byte, error) { return w.Screenshot(t.Context()) },
				"scaled": func() ([]byte, error) { return w.ScreenshotScaled(t.Context(), 640, 400) },
				"zoom":   func() ([]byte, error) { return w.Zoom(t.Context(), Region{X: 10, Y: 5, Width: 640, Height: 400}) },
			} {
				shot, err := take()
				if err != nil {
					t.Fatal(err)
				}
				if n := red(t, shot); n > 0 {
					t.Errorf("%s: %d pixels of it are in the picture", kind, n)
				}
			}
		})
	}
	t.Run("nothing_to_conceal", func(t *testing.T) {
		w.t = t
		w.load("plain", inkStyle+`<b>ordinary</b><input value=shown><input type=password placeholder="" name=empty>`)
		shot, err := w.Screenshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if red(t, shot) == 0 {
			t.Error("ordinary text was blanked")
		}
	})
}

// TestClientPicturesConceal: a client of the protocol gets no other pictures. Of
// what is concealed none is lossy before it is blanked, and none is of a page that
// is laid out anew for it.
//
// Threats: T44, H5 (browser)
func TestClientPicturesConceal(t *testing.T) {
	w := open(t, Config{})
	w.load("page", inkStyle+"<div style='height:600px'></div>"+secretIn+"<div style='height:3000px'></div>")
	w.eval("scrollTo(0,400);new Promise(r=>requestAnimationFrame(()=>requestAnimationFrame(r)))")
	h := w.client()
	h.until("a page", func() bool { return len(h.targets) == 1 })
	page, err := w.current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	eventuallyRed(t, w, page)
	n := h.attach(page.target)
	for name, params := range map[string]obj{
		"plain": {}, "png": {"format": "png", "optimizeForSpeed": true}, "jpeg": {"format": "jpeg", "quality": 100},
		"clip": {"format": "png", "clip": obj{"x": 0, "y": 590, "width": 400, "height": 50, "scale": 2}},
	} {
		result, fault := h.ask(n, "Page.captureScreenshot", params)
		if fault != "" {
			t.Fatalf("%s: %s", name, fault)
		}
		shot, err := pictureIn([]byte(result))
		if err != nil {
			t.Fatal(err)
		}
		if got := http.DetectContentType(shot); name == "jpeg" != (got == "image/jpeg") {
			t.Errorf("%s: %s", name, got)
		}
		if n := red(t, shot); n > 0 {
			t.Errorf("%s: %d pixels of it are in the picture", name, n)
		}
	}
	for name, params := range map[string]obj{"webp": {"format": "webp"}, "beyond": {"captureBeyondViewport": true, "clip": obj{"x": 0, "y": 0, "width": 400, "height": 3000, "scale": 1}}} {
		if _, fault := h.ask(n, "Page.captureScreenshot", params); !strings.Contains(fault, "not shown in pictures") {
			t.Errorf("%s: %q", name, fault)
		}
	}
	w.load("plain", "<p>nothing")
	for name, params := range map[string]obj{"webp": {"format": "webp"}, "beyond": {"captureBeyondViewport": true}} {
		if result, fault := h.ask(n, "Page.captureScreenshot", params); fault != "" || len(result) < 100 {
			t.Errorf("%s of a plain page: %q", name, fault)
		}
	}
}

// eventuallyRed waits until the browser draws what is to be concealed.
func eventuallyRed(t *testing.T, w *world, page *session) {
	t.Helper()
	for range 100 {
		shot, err := w.captureDocument(t.Context(), page, nil, 1)
		if err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(bytes.NewReader(shot))
		if err != nil {
			t.Fatal(err)
		}
		for y := 0; y < img.Bounds().Dy(); y += 2 {
			for x := range img.Bounds().Dx() {
				if r, g, b, _ := img.At(x, y).RGBA(); r > g+0x6000 && r > b+0x6000 {
					return
				}
			}
		}
		w.eval("new Promise(r=>setTimeout(r,20))")
	}
	t.Fatal("the page never drew what is to be concealed")
}

// TestMovingFieldIsConcealed: a field that an application moves, shows and takes
// away while pictures are taken is in none of them where it was seen before or
// after. What is not claimed is in the comment of Browser.picture.
//
// Threats: T44 (browser)
func TestMovingFieldIsConcealed(t *testing.T) {
	w := open(t, Config{})
	w.load("moving", inkStyle+"<div id=m style='position:absolute'>"+secretIn+"</div><script>let x=0;setInterval(()=>{x=(x+3)%900;m.style.left=x+'px';m.style.top=x/3+'px'},16)</script>")
	for range 12 {
		shot, err := w.Screenshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n := red(t, shot); n > 0 {
			t.Errorf("%d pixels of a moving field", n)
		}
	}
}

// BenchmarkScreenshot says what the look for concealed places costs.
func BenchmarkScreenshot(b *testing.B) {
	w := open(b, Config{})
	w.Conceal(hiding{fields: []string{"api_token"}, text: "Known-Secret-0815"})
	rows := strings.Repeat("<tr><td><a href=#>a name</a><td>mail@example.com<td>department<td><span>enrolled</span>", 200)
	for name, body := range map[string]string{"small": "<p>hello", "table": "<table>" + rows + "</table>", "field": secretIn} {
		w.t = b
		w.load("bench", body)
		page, err := w.current(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name+"_plain", func(b *testing.B) {
			for b.Loop() {
				if _, err := w.captureDocument(b.Context(), page, nil, 1); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"_concealed", func(b *testing.B) {
			for b.Loop() {
				if _, err := w.Screenshot(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
