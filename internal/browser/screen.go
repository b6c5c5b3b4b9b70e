package browser

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
)

// Region is a part of the screen in CSS pixels.
type Region struct{ X, Y, Width, Height float64 }

// Screenshot is the current page's viewport as a PNG.
func (b *Browser) Screenshot(ctx context.Context) ([]byte, error) {
	return b.capture(ctx, nil)
}

// ScreenshotScaled is the viewport drawn at w x h pixels. The sides must be in
// the screen's proportion, within one pixel.
func (b *Browser) ScreenshotScaled(ctx context.Context, w, h int) ([]byte, error) {
	if w == b.cfg.Width && h == b.cfg.Height {
		return b.capture(ctx, nil)
	}
	scale := float64(w) / float64(b.cfg.Width)
	if w < 16 || h < 16 || scale > 4 || math.Abs(scale*float64(b.cfg.Height)-float64(h)) > 1 {
		return nil, fmt.Errorf("%w: %dx%d is not in the proportion of the screen", ErrInput, w, h)
	}
	return b.clipped(ctx, Region{Width: float64(b.cfg.Width), Height: float64(b.cfg.Height)}, scale)
}

// Zoom is a region of the viewport, enlarged so that it fills as much of the
// screen's size as its proportion allows, at most four times.
func (b *Browser) Zoom(ctx context.Context, r Region) ([]byte, error) {
	w, h := float64(b.cfg.Width), float64(b.cfg.Height)
	if !(r.X >= 0 && r.Y >= 0 && r.Width >= 1 && r.Height >= 1 && r.X+r.Width <= w && r.Y+r.Height <= h) {
		return nil, fmt.Errorf("%w: region outside the screen", ErrInput)
	}
	return b.clipped(ctx, r, min(4, w/r.Width, h/r.Height))
}

func (b *Browser) clipped(ctx context.Context, r Region, scale float64) ([]byte, error) {
	return b.capture(ctx, func(x, y float64) obj {
		return obj{"x": r.X + x, "y": r.Y + y, "width": r.Width, "height": r.Height, "scale": scale}
	})
}

// capture takes the picture. clip gets the scroll offset, since the protocol
// counts from the document's origin.
func (b *Browser) capture(ctx context.Context, clip func(x, y float64) obj) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	page, err := b.current(ctx)
	if err != nil {
		return nil, err
	}
	p := obj{"format": "png", "optimizeForSpeed": true}
	if clip != nil {
		var lm struct {
			Viewport struct {
				X float64 `json:"pageX"`
				Y float64 `json:"pageY"`
			} `json:"cssVisualViewport"`
		}
		if err := b.conn.call(ctx, page.id, "Page.getLayoutMetrics", nil, &lm); err != nil {
			return nil, err
		}
		p["clip"] = clip(lm.Viewport.X, lm.Viewport.Y)
	}
	raw, err := b.conn.send(page.id, "Page.captureScreenshot", p).raw(ctx)
	if err != nil {
		return nil, fmt.Errorf("screenshot: %w", err)
	}
	// Decoded straight out of the message: base64 needs no unescaping.
	_, rest, ok := bytes.Cut(raw, []byte(`"data":"`))
	end := bytes.IndexByte(rest, '"')
	if !ok || end < 0 {
		return nil, errors.New("screenshot: answer without data")
	}
	png := make([]byte, base64.StdEncoding.DecodedLen(end))
	n, err := base64.StdEncoding.Decode(png, rest[:end])
	if err != nil {
		return nil, fmt.Errorf("screenshot: %w", err)
	}
	return png[:n], nil
}
