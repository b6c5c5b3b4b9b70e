package browser

import (
	"context"
	"fmt"
	"slices"
)

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
