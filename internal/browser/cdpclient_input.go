package browser

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
)

// Ground is Browser.Ground on a page that the client was told of, which
// becomes the page that is shown. No page is closed by it.
func (c *Client) Ground(ctx context.Context, target string, x, y float64) (action.Element, action.Digest, any, error) {
	if err := c.front(target); err != nil {
		return action.Element{}, "", nil, err
	}
	g, err := c.b.at(ctx, x, y)
	return grounding(g, target, err)
}

// GroundFocus is Browser.GroundFocus on a page that the client was told of.
func (c *Client) GroundFocus(ctx context.Context, target string) (action.Element, action.Digest, any, error) {
	if err := c.front(target); err != nil {
		return action.Element{}, "", nil, err
	}
	g, err := c.b.focused(ctx)
	return grounding(g, target, err)
}

func grounding(g Grounded, target string, err error) (action.Element, action.Digest, any, error) {
	if err == nil && g.Page != target {
		err = ErrMoved // another page came to the front meanwhile
	}
	return g.Element, g.Fingerprint, g, err
}

// front makes a page of the client the one that is shown.
func (c *Client) front(target string) error {
	c.mu.Lock()
	h := c.shown[target]
	c.mu.Unlock()
	if h == nil || h.s.kind != "page" {
		return ErrNoPage
	}
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	i := slices.Index(c.b.pages, h.s)
	if i < 0 {
		return ErrNoPage
	}
	if i == len(c.b.pages)-1 {
		return nil
	}
	c.b.pages = append(slices.Delete(c.b.pages, i, i+1), h.s)
	c.b.changed()
	go c.b.conn.send(h.s.id, "Page.bringToFront", nil)
	return nil
}

// Front is what a client asks by Page.bringToFront.
func (c *Client) Front(target string) error { return c.front(target) }

// Mouse dispatches one event of the mouse at what ref grounded: kind is move,
// down, up or wheel. button is the one pressed, released or held ("" for none)
// and count the clicks so far. Order and errors are those of Press; state is an
// outcome state of package action.
func (c *Client) Mouse(ctx context.Context, ref any, p gate.Permit, digest action.Digest, kind, button string, count, modifiers int, dx, dy float64) (state string, err error) {
	g, ok := ref.(Grounded)
	n, m := Button(button), Modifiers(modifiers)
	if !ok || !n.valid() || count < 0 || count > 3 || m&^(Alt|Ctrl|Meta|Shift) != 0 {
		return action.Failed, ErrInput
	}
	if kind == "wheel" {
		return c.press(ctx, g, p, digest, Wheel{DX: dx, DY: dy, Modifiers: m})
	}
	if err := pointed(g); err != nil {
		return action.Failed, err
	}
	return known(c.b.alone(ctx, func() error {
		if err := p.Consume(digest); err != nil {
			return err
		}
		return c.b.flying(ctx, g, func(f *flying) error {
			switch kind {
			case "move":
				held, mask := "none", 0
				if button != "" {
					held, mask = n.name(), n.mask()
				}
				return f.bare(mouse("mouseMoved", g, held, mask, 0, m))
			case "down":
				return f.part(g, n, count, m, true)
			case "up":
				return f.part(g, n, count, m, false)
			}
			return ErrInput
		})
	}))
}

// Key presses and releases one chord on what ref grounded.
func (c *Client) Key(ctx context.Context, ref any, p gate.Permit, digest action.Digest, chord string) (state string, err error) {
	g, ok := ref.(Grounded)
	if !ok {
		return action.Failed, ErrInput
	}
	return c.press(ctx, g, p, digest, Key{Chord: chord})
}

// Type inserts text into what ref grounded.
func (c *Client) Type(ctx context.Context, ref any, p gate.Permit, digest action.Digest, text string) (state string, err error) {
	g, ok := ref.(Grounded)
	if !ok {
		return action.Failed, ErrInput
	}
	return c.press(ctx, g, p, digest, Type{Text: text})
}

func (c *Client) press(ctx context.Context, g Grounded, p gate.Permit, digest action.Digest, in Input) (string, error) {
	return known(c.b.Press(ctx, g, p, digest, in))
}

// known says what is certain after an error of Press.
func known(err error) (string, error) {
	if err == nil {
		return action.Done, nil
	}
	for _, sure := range []error{gate.ErrPermit, ErrMoved, ErrUninspectable, ErrNoPage, ErrCrashed, ErrGuard, ErrKey, ErrChord, ErrText, ErrInput} {
		if errors.Is(err, sure) && !errors.Is(err, ErrNotSeen) {
			return action.Failed, err
		}
	}
	return action.Unknown, err
}

// flying runs do as the action in flight on the page of g. The caller holds
// the place of the one action in flight.
func (b *Browser) flying(ctx context.Context, g Grounded, do func(*flying) error) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	page, err := b.current(ctx)
	if err != nil {
		return err
	}
	if page.target != g.Page {
		return ErrMoved
	}
	f := &flying{b: b, ctx: ctx, page: page, flight: &flight{nonce: rand.Text()}}
	b.mu.Lock()
	b.flight, b.drag = f.flight, nil
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.flight = nil
		b.mu.Unlock()
	}()
	return do(f)
}

// part is the press or the release of a click that the client sends in parts.
// Where the pointer has been is the client's own account: no move is added.
func (f *flying) part(g Grounded, n Button, count int, m Modifiers, down bool) error {
	s := armSpec{Mode: "pointer", Down: down, Up: !down, Drag: !down}
	p, err := f.arm(g, s)
	if err != nil {
		return err
	}
	if err := f.ready(s); err != nil {
		return err
	}
	kind, buttons, need := "mouseReleased", 0, upTypes
	if down {
		kind, buttons, need = "mousePressed", n.mask(), downTypes
	}
	if err := f.sent(f.mouse(mouse(kind, g, n.name(), buttons, count, m))); err != nil {
		return err
	}
	if err := f.verdict([]place{p}, need); err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	return nil
}
