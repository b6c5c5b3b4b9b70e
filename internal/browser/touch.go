package browser

import (
	"context"
	"slices"
	"time"
)

// tapLimit is how long the click of a tap may lag behind its touch. A page that
// takes the touch for itself gets no click.
const tapLimit = 500 * time.Millisecond

// tap puts a finger down and takes it away. Touch, mouse and click events of it
// must all land on the element.
func (f *flying) tap(g Grounded, m Modifiers) error {
	s := armSpec{Mode: "pointer", Down: true, Up: true}
	p, err := f.arm(g, s)
	if err != nil {
		return err
	}
	if err := f.ready(s); err != nil {
		return err
	}
	touch := func(kind string, points ...obj) *call {
		return f.b.conn.send(f.page.id, "Input.dispatchTouchEvent", obj{"type": kind, "touchPoints": append([]obj{}, points...), "modifiers": int(m)})
	}
	if err := f.sent(touch("touchStart", obj{"x": g.X, "y": g.Y}), touch("touchEnd")); err != nil {
		return err
	}
	// The click is made after the touch was answered; disarmed too early, the
	// guard would stop it.
	ctx, cancel := context.WithTimeout(f.ctx, tapLimit)
	defer cancel()
	f.b.await(ctx, func() bool {
		return slices.ContainsFunc(f.flight.reports, func(r report) bool { return r.Type == "click" || !r.OK })
	})
	return f.verdict([]place{p}, downTypes)
}
