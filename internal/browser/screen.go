package browser

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// Region is a part of the screen in CSS pixels.
type Region struct{ X, Y, Width, Height float64 }

// Screenshot is the current page's viewport as a PNG.
func (b *Browser) Screenshot(ctx context.Context) ([]byte, error) {
	return b.capture(ctx, nil, 1)
}

// ScreenshotScaled is the viewport drawn at w x h pixels. The sides must be in
// the screen's proportion, within one pixel.
func (b *Browser) ScreenshotScaled(ctx context.Context, w, h int) ([]byte, error) {
	if w == b.cfg.Width && h == b.cfg.Height {
		return b.capture(ctx, nil, 1)
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
	return b.capture(ctx, &r, scale)
}

// capture takes the picture of a region, or of the viewport. Chromium never
// answers for a picture that was asked of a document which another one then
// replaced, so that one is asked of the new document.
func (b *Browser) capture(ctx context.Context, r *Region, scale float64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	for {
		page, err := b.current(ctx)
		if err != nil {
			return nil, err
		}
		x0, y0, width := 0.0, 0.0, float64(b.cfg.Width)
		if r != nil {
			x0, y0, width = r.X, r.Y, r.Width
		}
		png, err := b.picture(ctx, page, "png", func(bool) ([]byte, error) { return b.captureDocument(ctx, page, r, scale) }, x0, y0, width)
		var refused *protocolError
		switch {
		case errors.Is(err, errReplaced):
		case errors.As(err, &refused) && refused.Message == "Not attached to an active page":
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				return nil, err
			}
		default:
			return png, err
		}
	}
}

// errReplaced means that the page was given another document meanwhile.
var errReplaced = errors.New("the document was replaced")

func (b *Browser) captureDocument(ctx context.Context, page *session, r *Region, scale float64) ([]byte, error) {
	b.mu.Lock()
	document := page.documents
	b.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		if b.await(ctx, func() bool { return page.documents != document }) == nil {
			cancel(errReplaced)
		}
	}()
	p := obj{"format": "png", "optimizeForSpeed": true}
	if r != nil { // the protocol counts from the document's origin
		var lm struct {
			Viewport struct {
				X float64 `json:"pageX"`
				Y float64 `json:"pageY"`
			} `json:"cssVisualViewport"`
		}
		if err := b.conn.call(ctx, page.id, "Page.getLayoutMetrics", nil, &lm); err != nil {
			return nil, errors.Join(err, context.Cause(ctx))
		}
		p["clip"] = obj{"x": r.X + lm.Viewport.X, "y": r.Y + lm.Viewport.Y, "width": r.Width, "height": r.Height, "scale": scale}
	}
	raw, err := b.conn.send(page.id, "Page.captureScreenshot", p).raw(ctx)
	if err != nil {
		return nil, fmt.Errorf("screenshot: %w", errors.Join(err, context.Cause(ctx)))
	}
	return pictureIn(raw)
}
