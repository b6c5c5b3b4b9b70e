package computer

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/image/draw"
)

// view is the display that a client declared, over the real screen.
type view struct{ w, h, screenW, screenH int }

// parseView reads ?display=WxH; without it the view is the screen.
func parseView(q url.Values, w, h int) (view, *refusal) {
	v := view{w, h, w, h}
	for k, vals := range q {
		if k != "display" || len(vals) != 1 {
			return view{}, refuse("bad_query", "the only query parameter is display, once")
		}
		a, b, ok := strings.Cut(vals[0], "x")
		dw, err1 := strconv.Atoi(a)
		dh, err2 := strconv.Atoi(b)
		if !ok || err1 != nil || err2 != nil || dw < 1 || dh < 1 || dw > w || dh > h || dw*4 < w {
			return view{}, refuse("bad_display", "a display is WIDTHxHEIGHT, from a quarter of %dx%d up to it", w, h)
		}
		// |dw*h/w - dh| <= 1, in whole numbers.
		if d := dw*h - dh*w; d > w || d < -w {
			return view{}, refuse("bad_display", "a display has the aspect of the screen, %dx%d", w, h)
		}
		v.w, v.h = dw, dh
	}
	return v, nil
}

// point maps a point of the view to the screen; see the package comment.
func (v view) point(p *[2]int) (*image.Point, *refusal) {
	if p == nil {
		return nil, nil
	}
	x, y := p[0], p[1]
	if x < 0 || y < 0 || x >= v.w || y >= v.h {
		return nil, refuse("off_screen", "the point is outside the display of %dx%d", v.w, v.h)
	}
	return &image.Point{X: (2*x + 1) * v.screenW / (2 * v.w), Y: (2*y + 1) * v.screenH / (2 * v.h)}, nil
}

// distance maps a length on the view to screen pixels, to the nearest and never
// to nothing.
func (v view) distance(d *[2]int) *[2]int {
	if d == nil {
		return nil
	}
	scale := func(n, num, den int) int {
		switch m := (2*abs(n)*num + den) / (2 * den); {
		case n > 0:
			return max(m, 1)
		case n < 0:
			return -max(m, 1)
		}
		return 0
	}
	limit := func(n int) int { return min(max(n, -maxDistance), maxDistance) }
	return &[2]int{scale(limit(d[0]), v.screenW, v.w), scale(limit(d[1]), v.screenH, v.h)}
}

func abs(n int) int { return max(n, -n) }

// grid is the space of a vendor that divides the screen into 1000 by 1000.
func (v view) grid() view { return view{1000, 1000, v.screenW, v.screenH} }

// area maps a region [x1, y1, x2, y2], its end excluded, outwards to whole
// screen pixels.
func (v view) area(r [4]int) (image.Rectangle, *refusal) {
	if r[0] < 0 || r[1] < 0 || r[2] > v.w || r[3] > v.h || r[0] >= r[2] || r[1] >= r[3] {
		return image.Rectangle{}, refuse("off_screen", "the region is empty or outside the display of %dx%d", v.w, v.h)
	}
	up := func(a, num, den int) int { return (a*num + den - 1) / den }
	return image.Rect(r[0]*v.screenW/v.w, r[1]*v.screenH/v.h, up(r[2], v.screenW, v.w), up(r[3], v.screenH, v.h)), nil
}

// back maps a screen point to the view.
func (v view) back(p image.Point) image.Point {
	return image.Pt(p.X*v.w/v.screenW, p.Y*v.h/v.screenH)
}

// render cuts region out of a screenshot (empty: the whole) and fits it into
// the view. Where nothing has to change the bytes are passed on as they are.
func (v view) render(shot []byte, region image.Rectangle) ([]byte, error) {
	c, err := png.DecodeConfig(bytes.NewReader(shot))
	if err != nil {
		return nil, fmt.Errorf("read the screenshot: %w", err)
	}
	if c.Width != v.screenW || c.Height != v.screenH {
		// The screen is not what the client was told: its points would mean
		// other places.
		return nil, fmt.Errorf("the screenshot is %dx%d, want %dx%d", c.Width, c.Height, v.screenW, v.screenH)
	}
	full := image.Rect(0, 0, v.screenW, v.screenH)
	if region.Empty() {
		region = full
	}
	if region == full && v.w == v.screenW && v.h == v.screenH {
		return shot, nil
	}
	src, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		return nil, fmt.Errorf("read the screenshot: %w", err)
	}
	w, h := v.w, region.Dy()*v.w/region.Dx()
	if h > v.h {
		w, h = region.Dx()*v.h/region.Dy(), v.h
	}
	dst := image.NewNRGBA(image.Rect(0, 0, max(w, 1), max(h, 1)))
	draw.ApproxBiLinear.Scale(dst, dst.Bounds(), src, region, draw.Src, nil)
	var buf bytes.Buffer
	enc := png.Encoder{CompressionLevel: png.BestSpeed}
	if err := enc.Encode(&buf, dst); err != nil {
		return nil, fmt.Errorf("write the picture: %w", err)
	}
	return buf.Bytes(), nil
}
