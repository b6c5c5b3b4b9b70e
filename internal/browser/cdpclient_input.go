package browser

import (
	"context"
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

// Mouse dispatches one event of the pointer at what ref grounded: kind is move,
// down, up, wheel, tap (of a finger), drop or cancel. button is the one pressed,
// released or held ("" for none) and count the clicks so far. A move that starts
// a drag of the page's own takes the drag over: its release is the drop. Order
// and errors are those of Press; state is an outcome state of package action.
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
				return c.move(f, g, button, m)
			case "down":
				err := c.endDrag(f, g)
				if err == nil {
					err = f.part(g, n, count, m, true)
				}
				if c.held = nil; err == nil && n.name() == string(Left) {
					c.held = &g
				}
				return err
			case "up", "drop":
				data := c.drag
				c.held, c.drag = nil, nil
				if data != nil {
					return f.drop(g, data, m)
				}
				if kind == "drop" {
					return fmt.Errorf("%w: nothing is dragged", ErrInput)
				}
				return f.part(g, n, count, m, false)
			case "cancel":
				return c.endDrag(f, g)
			case "tap":
				return f.tap(g, m)
			}
			return ErrInput
		})
	}))
}

// move moves the pointer. With the left button down it may start a drag, of
// what the button went down on and of nothing else; all clients' sessions on
// the page hear of it, without what is dragged.
func (c *Client) move(f *flying, g Grounded, button string, m Modifiers) error {
	held, mask := "none", 0
	if button != "" {
		held, mask = Button(button).name(), Button(button).mask()
	}
	e := mouse("mouseMoved", g, held, mask, 0, m)
	if c.drag != nil {
		return nil // the page hears of the way when it ends
	}
	if c.held == nil || button != string(Left) || c.held.Page != g.Page {
		return f.bare(e)
	}
	data, err := f.dragAway(*c.held, e)
	if data != nil {
		c.drag = data
		c.tell(g.Page, "Input.dragIntercepted", []byte(`{"data":{"items":[],"dragOperationsMask":1}}`))
	}
	return err
}

// endDrag lets go of what is dragged without a drop.
func (c *Client) endDrag(f *flying, g Grounded) error {
	data := c.drag
	if c.held, c.drag = nil, nil; data == nil {
		return nil
	}
	return f.sent(f.dragEvent("dragCancel", g, data, 0))
}

// tell gives an event to the client's sessions on a page.
func (c *Client) tell(target, method string, params []byte) {
	c.mu.Lock()
	var all []int
	for id, cs := range c.byID {
		if cs.target == target {
			all = append(all, id)
		}
	}
	c.mu.Unlock()
	for _, id := range all {
		c.on.Event(id, method, params)
	}
}

// Check reports, before anybody is asked, why an input can never be given to
// what ref grounded: a code, and "" if nothing stands against it. Kinds are key,
// type, and those of Mouse.
func (c *Client) Check(ref any, kind, text string, modifiers int, dx, dy float64) (code, message string) {
	g, ok := ref.(Grounded)
	var in Input = Move{}
	switch kind {
	case "key":
		in = Key{Chord: text}
	case "type":
		in = Type{Text: text}
	case "wheel":
		in = Wheel{DX: dx, DY: dy, Modifiers: Modifiers(modifiers)}
	}
	err := Check(g, in)
	if ok && err == nil {
		return "", ""
	}
	return Refusal(err)
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
