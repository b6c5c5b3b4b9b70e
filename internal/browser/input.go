package browser

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
)

const (
	maxText  = 64 << 10 // bytes of one Type
	maxWheel = 10000    // CSS pixels of one Wheel
)

// Input is one primitive input: Move, Click, Down, Up, Drag, Wheel, Key or Type.
type Input interface{ check(g Grounded) error }

// Button is a mouse button. The zero value is the left one.
type Button string

// The buttons.
const (
	Left   Button = "left"
	Middle Button = "middle"
	Right  Button = "right"
)

func (n Button) valid() bool { return n == "" || n == Left || n == Middle || n == Right }

func (n Button) name() string {
	if n == "" {
		return string(Left)
	}
	return string(n)
}

// mask is the button in the buttons field of an event.
func (n Button) mask() int { return map[string]int{"left": 1, "right": 2, "middle": 4}[n.name()] }

// Modifiers are keys held during a pointer input, as bits of the protocol.
type Modifiers int

// The modifiers.
const (
	Alt Modifiers = 1 << iota
	Ctrl
	Meta
	Shift
)

type (
	// Move moves the pointer to the grounded point. Nothing is pressed.
	Move struct{}
	// Click presses and releases Button Count times (1 to 3; 0 is 1).
	Click struct {
		Button    Button
		Count     int
		Modifiers Modifiers
	}
	// Down presses a button and keeps it pressed.
	Down struct{ Button Button }
	// Up releases a button that Down pressed.
	Up struct{ Button Button }
	// Drag presses the left button at the grounded point and releases it at To.
	Drag struct{ To Grounded }
	// Wheel turns the wheel at the grounded point, in CSS pixels; positive is down and right.
	Wheel struct {
		DX, DY    float64
		Modifiers Modifiers
	}
	// Key presses and releases one key or chord on the focused element, by the
	// names of X11 (Return, Page_Down, ctrl+a) or W3C (Enter, PageDown).
	Key struct{ Chord string }
	// Type inserts text into the focused element. Text holds no control
	// character: Enter and Tab are keys of their own.
	Type struct{ Text string }
)

func pointed(g Grounded) error {
	if g.Keyboard {
		return fmt.Errorf("%w: a point is needed, the focus was grounded", ErrInput)
	}
	return nil
}

func (Move) check(g Grounded) error { return pointed(g) }
func (c Click) check(g Grounded) error {
	if !c.Button.valid() || c.Count < 0 || c.Count > 3 || c.Modifiers&^(Alt|Ctrl|Meta|Shift) != 0 {
		return fmt.Errorf("%w: click", ErrInput)
	}
	return pointed(g)
}
func (d Down) check(g Grounded) error { return Click{Button: d.Button}.check(g) }
func (u Up) check(g Grounded) error   { return Click{Button: u.Button}.check(g) }
func (d Drag) check(g Grounded) error {
	if g.Page != d.To.Page {
		return fmt.Errorf("%w: drag between two pages", ErrInput)
	}
	return errors.Join(pointed(g), pointed(d.To))
}
func (w Wheel) check(g Grounded) error {
	if !(math.Abs(w.DX) <= maxWheel && math.Abs(w.DY) <= maxWheel) {
		return fmt.Errorf("%w: wheel over %d pixels", ErrInput, maxWheel)
	}
	if w.Modifiers&^Shift != 0 { // with Ctrl the wheel zooms the browser
		return ErrChord
	}
	return pointed(g)
}
func (k Key) check(g Grounded) error {
	if !g.Keyboard {
		return fmt.Errorf("%w: the focus is needed, a point was grounded", ErrInput)
	}
	return CheckChord(k.Chord)
}
func (t Type) check(g Grounded) error {
	if !g.Keyboard {
		return fmt.Errorf("%w: the focus is needed, a point was grounded", ErrInput)
	}
	if !g.Editable {
		// With nothing focused, Chromium still inserts where the selection
		// was left, and tells no beforeinput about it.
		return errTakesNoText
	}
	if t.Text == "" || len(t.Text) > maxText {
		return fmt.Errorf("%w: text of 1 to %d bytes", ErrInput, maxText)
	}
	if strings.ContainsFunc(t.Text, func(r rune) bool {
		return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || r == unicode.ReplacementChar
	}) {
		return ErrText
	}
	return nil
}

// Check reports whether in makes sense for g, before anybody is asked.
func Check(g Grounded, in Input) error {
	if in == nil {
		return ErrInput
	}
	return in.check(g)
}

// Press dispatches one input at what g grounded. It is the only way that input
// reaches a page.
//
// Order: shape; the one action in flight; the permit is used up, for digest;
// what is there now is grounded again, compared with g, and the guard armed
// for it in one step; every other frame is set to deny; events; what the
// guards saw. The context is looked at last before the events: after its end
// no event leaves. An error of BlockedError or ErrNotSeen leaves the outcome
// partly or wholly unknown; before every other error nothing was sent, unless
// the browser itself ended.
func (b *Browser) Press(ctx context.Context, g Grounded, p gate.Permit, digest action.Digest, in Input) error {
	if err := Check(g, in); err != nil {
		return err
	}
	return b.alone(ctx, func() error {
		if err := p.Consume(digest); err != nil {
			return err
		}
		return b.perform(ctx, g, in)
	})
}

// alone runs f as the one action in flight.
func (b *Browser) alone(ctx context.Context, f func() error) error {
	select {
	case b.input <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-b.conn.done:
		return b.conn.cause()
	}
	defer func() { <-b.input }()
	return f()
}

// perform dispatches in. The caller holds the place of the one action in flight.
func (b *Browser) perform(ctx context.Context, g Grounded, in Input) error {
	return b.flying(ctx, g, func(f *flying) error {
		switch in := in.(type) {
		case Move:
			return f.bare(mouse("mouseMoved", g, "none", 0, 0, 0))
		case Wheel:
			e := mouse("mouseWheel", g, "none", 0, 0, in.Modifiers)
			e["deltaX"], e["deltaY"] = in.DX, in.DY
			return f.bare(e)
		case Click:
			return f.click(g, in)
		case Down:
			return f.half(g, in.Button, true)
		case Up:
			return f.half(g, in.Button, false)
		case Drag:
			return f.dragTo(g, in.To)
		case Key:
			return f.key(g, in)
		case Type:
			return f.text(g, in)
		}
		return ErrInput
	})
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
