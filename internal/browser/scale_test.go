package browser

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// leaf is a page of small buttons that tells the top page which one was pressed.
func leaf() string {
	var b strings.Builder
	b.WriteString(`<!doctype html><style>button{position:absolute;width:36px;height:26px;padding:0}</style><body style="margin:0">`)
	for y := range 6 {
		for x := range 8 {
			fmt.Fprintf(&b, `<button style="left:%dpx;top:%dpx">%c%d</button>`, 40*x, 30*y, 'A'+x, y)
		}
	}
	return b.String() + `<script>onclick=e=>{if(e.target.localName==='button')top.postMessage(e.target.textContent,'*')}</script>`
}

// Frames of the same and of other processes, zoomed, scaled, turned, scrolled, at
// fractions of a pixel, in each other, at other pixel ratios: wherever grounding
// says that a button is, that button and no other gets the press.
//
// Threats: T26, T36 (browser)
func TestScaledFrames(t *testing.T) {
	w := open(t, Config{})
	w.set("/leaf", leaf())
	w.set("/scrolled", strings.Replace(leaf(), "<script>", `<div style="height:3000px;width:3000px"></div><script>scrollTo(33.5,61.25);`, 1))
	w.set("/zoomed", strings.Replace(leaf(), "margin:0", "margin:0;zoom:1.3", 1))
	w.set("/mid", `<!doctype html><body style="margin:0"><iframe src="http://third.test/leaf" style="position:absolute;left:20.4px;top:15.6px;width:330px;height:200px;border:3px solid;transform:scale(.9)"></iframe>`)
	frame := func(src, style string) string {
		return `<iframe src="` + src + `" style="position:absolute;left:100px;top:80px;width:340px;height:200px;border:0;` + style + `"></iframe>`
	}
	const same, other = "/leaf", "http://other.test/leaf"
	override := func(scale float64) func() {
		return func() {
			page, _ := w.current(t.Context())
			w.conn.call(t.Context(), page.id, "Emulation.setDeviceMetricsOverride", obj{"width": 1280, "height": 800, "deviceScaleFactor": scale, "mobile": false}, nil)
		}
	}
	for name, c := range map[string]struct {
		html  string
		first func()
		least int // presses that must have been possible
	}{
		"plain_same":            {frame(same, ""), nil, 12},
		"plain_other":           {frame(other, ""), nil, 12},
		"zoom_around_same":      {`<div style="zoom:1.5">` + frame(same, "") + `</div>`, nil, 12},
		"zoom_around_other":     {`<div style="zoom:1.5">` + frame(other, "") + `</div>`, nil, 12},
		"zoom_of_page":          {`<style>html{zoom:1.25}</style>` + frame(other, ""), nil, 8},
		"zoom_of_frame":         {frame(other, "zoom:.8"), nil, 8},
		"zoom_in_frame":         {frame("http://other.test/zoomed", ""), nil, 8},
		"zoom_in_same":          {frame("/zoomed", ""), nil, 8},
		"fractions":             {frame(other, "left:100.37px;top:80.61px;width:339.5px;border:.5px solid;padding:2.25px"), nil, 12},
		"scrolled":              {frame("http://other.test/scrolled", ""), nil, 8},
		"scrolled_in_scrolled":  {`<div style="position:absolute;left:50px;top:50px;width:400px;height:260px;overflow:scroll" id=s><div style="width:2000px;height:2000px;position:relative">` + frame("http://other.test/scrolled", "") + `</div></div><script>s.scrollTo(13.5,27.5)</script>`, nil, 8},
		"turned":                {frame(other, "transform:rotate(17deg) scale(1.2)"), nil, 6},
		"mirrored":              {frame(other, "transform:scaleX(-1)"), nil, 10},
		"skewed":                {frame(other, "transform:skew(12deg,4deg)"), nil, 6},
		"turned_zoomed":         {`<div style="zoom:.9;transform:rotate(-8deg)">` + frame(other, "") + `</div>`, nil, 6},
		"in_each_other":         {frame("http://other.test/mid", ""), nil, 8},
		"in_each_other_turned":  {frame("http://other.test/mid", "transform:rotate(10deg)"), nil, 4},
		"ratio_2_same":          {frame(same, ""), override(2), 12},
		"ratio_2_other":         {frame(other, ""), override(2), 12},
		"ratio_2_in_each_other": {frame("http://other.test/mid", ""), override(2), 8},
		"ratio_1.5_zoomed":      {`<div style="zoom:1.1">` + frame(other, "") + `</div>`, override(1.5), 8},
		"perspective":           {`<div style="perspective:400px">` + frame(other, "transform:rotateY(30deg)") + `</div>`, nil, 0},
		"pinched": {frame(other, ""), func() {
			page, _ := w.current(t.Context())
			w.conn.call(t.Context(), page.id, "Emulation.setPageScaleFactor", obj{"pageScaleFactor": 1.6}, nil)
		}, 0},
		"viewport": {`<meta name=viewport content="width=640,initial-scale=2,user-scalable=yes">` + frame(other, ""), nil, 12},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.load("scaled", `<body style="margin:0"><script>onmessage=e=>window.pressed=e.data</script>`+c.html)
			if c.first != nil {
				c.first()
				defer func() {
					override(1)()
					page, _ := w.current(t.Context())
					w.conn.call(t.Context(), page.id, "Emulation.setPageScaleFactor", obj{"pageScaleFactor": 1}, nil)
				}()
			}
			pressed := 0
			for i := range 20 { // points over the frame that are on no grid of the page's
				x, y := 113.5+float64(64*(i%5)), 91.5+float64(43*(i/5))
				g := w.ground(x, y)
				if g.Element.Tag != "button" {
					continue
				}
				w.eval("window.pressed='';1")
				switch err := w.do(g, Click{}); {
				case err == nil:
					w.until("window.pressed")
					if got := w.eval("window.pressed"); got != g.Element.Name {
						t.Errorf("at %v,%v: said %q, pressed %q", x, y, g.Element.Name, got)
					}
					pressed++
				case !strings.Contains(name, "turned") && c.least > 0 || !errors.Is(err, ErrBlocked) && !errors.Is(err, ErrNotSeen) && !errors.Is(err, ErrMoved):
					t.Errorf("at %v,%v on %q: %v", x, y, g.Element.Name, err)
				default: // the guard stopped it, at a border that rounding shifts
					if got := w.eval("window.pressed"); got != "" {
						t.Errorf("at %v,%v: stopped, and %q was pressed", x, y, got)
					}
				}
			}
			if pressed < c.least {
				t.Errorf("%d points could be pressed, want %d", pressed, c.least)
			}
		})
	}
}
