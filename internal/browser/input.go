package browser

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"slices"
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
		return fmt.Errorf("%w: the focused element takes no text", ErrInput)
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
}

func mouse(kind string, g Grounded, button string, buttons, count int, m Modifiers) obj {
	return obj{"type": kind, "x": g.X, "y": g.Y, "button": button, "buttons": buttons, "clickCount": count,
		"modifiers": int(m), "pointerType": "mouse"}
}

// flying is the one action in flight.
type flying struct {
	b      *Browser
	ctx    context.Context
	page   *session
	flight *flight
}

// bare sends a pointer event that presses nothing.
func (f *flying) bare(e obj) error {
	if err := f.ctx.Err(); err != nil {
		return err
	}
	return f.sent(f.b.conn.send(f.page.id, "Input.dispatchMouseEvent", e))
}

// arm grounds g again, and arms the guard for it if it is still the same.
func (f *flying) arm(g Grounded, s armSpec) (place, error) {
	s.Nonce, s.MS = f.flight.nonce, int(armedFor.Milliseconds())
	var now Grounded
	var p place
	var err error
	if g.Keyboard {
		now, p, err = f.b.groundFocus(f.ctx, f.page, &s)
	} else {
		now, p, err = f.b.groundPoint(f.ctx, f.page, g.X, g.Y, &s)
	}
	if protocol(err) {
		return p, fmt.Errorf("%w: %w", ErrMoved, err) // the document went away meanwhile
	}
	if err != nil {
		return p, err
	}
	if now.Fingerprint != g.Fingerprint {
		if p.object != "" {
			f.b.disarm(f.ctx, p, s.Nonce)
		}
		return p, ErrMoved
	}
	if p.object == "" {
		return p, fmt.Errorf("%w: %s", ErrUninspectable, now.Element.Uninspectable)
	}
	return p, nil
}

// ready is the last look before events leave.
func (f *flying) ready(s armSpec) error {
	s.Nonce, s.MS = f.flight.nonce, int(armedFor.Milliseconds())
	if err := f.b.sweep(f.ctx, f.page, s); err != nil {
		return err
	}
	if !f.b.isCurrent(f.page) {
		return ErrMoved
	}
	return f.ctx.Err()
}

// sent waits until the browser has handled the events. A page that closes
// itself on the way takes the answers with it.
func (f *flying) sent(calls ...*call) error {
	for _, k := range calls {
		err := k.get(f.ctx, nil)
		if err != nil && !protocol(err) {
			return fmt.Errorf("%w: %w", ErrNotSeen, err)
		}
	}
	return nil
}

var (
	downTypes = []string{"pointerdown", "mousedown"}
	upTypes   = []string{"pointerup", "mouseup", "drop"}
)

// click: the press, the release and the click must all land on the element.
func (f *flying) click(g Grounded, c Click) error {
	s := armSpec{Mode: "pointer", Down: true, Up: true}
	p, err := f.arm(g, s)
	if err != nil {
		return err
	}
	if err := f.ready(s); err != nil {
		return err
	}
	calls := []*call{f.mouse(mouse("mouseMoved", g, "none", 0, 0, c.Modifiers))}
	for n := range max(1, c.Count) {
		calls = append(calls,
			f.mouse(mouse("mousePressed", g, c.Button.name(), c.Button.mask(), n+1, c.Modifiers)),
			f.mouse(mouse("mouseReleased", g, c.Button.name(), 0, n+1, c.Modifiers)))
	}
	if err := f.sent(calls...); err != nil {
		return err
	}
	return f.verdict([]place{p}, downTypes)
}

func (f *flying) mouse(e obj) *call { return f.b.conn.send(f.page.id, "Input.dispatchMouseEvent", e) }

// half is the press or the release alone.
func (f *flying) half(g Grounded, n Button, down bool) error {
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
	moved := mouse("mouseMoved", g, "none", 0, 0, 0)
	if !down {
		moved = mouse("mouseMoved", g, n.name(), n.mask(), 0, 0)
	}
	if err := f.sent(f.mouse(moved), f.mouse(mouse(kind, g, n.name(), buttons, 1, 0))); err != nil {
		return err
	}
	return f.verdict([]place{p}, need)
}

// verdict reads what the guards saw. Each of need is a set of event types of
// which one must have been let through.
func (f *flying) verdict(places []place, need ...[]string) error {
	var logs []report
	for _, p := range places {
		// A document that the input itself replaced cannot answer any more;
		// its reports were pushed as it saw the events.
		if l, err := f.b.disarm(f.ctx, p, f.flight.nonce); err == nil {
			logs = append(logs, l...)
		}
	}
	ctx, cancel := context.WithTimeout(f.ctx, seenLimit)
	defer cancel()
	var out error
	err := f.b.await(ctx, func() bool {
		var done bool
		out, done = judge(slices.Concat(logs, f.flight.reports), need)
		return done
	})
	if out != nil || err == nil {
		return out
	}
	return fmt.Errorf("%w: %w", ErrNotSeen, err)
}

// judge says how reports answer need, and whether that is final.
func judge(rs []report, need [][]string) (error, bool) {
	pressed := slices.ContainsFunc(rs, func(r report) bool { return r.OK && slices.Contains(downTypes, r.Type) })
	if i := slices.IndexFunc(rs, func(r report) bool { return !r.OK }); i >= 0 {
		return &BlockedError{Event: clip(rs[i].Type, 40), Pressed: pressed}, true
	}
	for _, set := range need {
		if !slices.ContainsFunc(rs, func(r report) bool { return r.OK && slices.Contains(set, r.Type) }) {
			return nil, false
		}
	}
	return nil, true
}
