package browser

import (
	"context"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// dragData is what a page put into a drag that the browser took over. It never
// leaves the browser: it goes back to the page at the drop.
type dragData struct{ data jsontext.Value }

func (b *Browser) onDrag(m message) error {
	var p struct {
		Data jsontext.Value `json:"data"`
	}
	if err := json.Unmarshal(m.params, &p, lax); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drag = &dragData{p.Data}
	b.changed()
	return nil
}

// dragTo presses at from and releases at to. Both ends are armed before the
// press. A page that drags by the platform's drag and drop gets its drop by
// the protocol, since there is no desktop to carry it.
func (f *flying) dragTo(from, to Grounded) error {
	a := armSpec{Mode: "pointer", Down: true, Drag: true}
	z := armSpec{Mode: "pointer", Up: true, Drag: true}
	p1, err := f.arm(from, a)
	if err != nil {
		return err
	}
	p2, err := f.arm(to, z)
	if err != nil {
		f.b.disarm(f.ctx, p1, f.flight.nonce)
		return err
	}
	if err := f.b.conn.call(f.ctx, f.page.id, "Input.setInterceptDrags", obj{"enabled": true}, nil); err != nil {
		return err
	}
	defer f.b.conn.send(f.page.id, "Input.setInterceptDrags", obj{"enabled": false})
	if err := f.ready(a); err != nil {
		return err
	}
	mid := Grounded{X: (from.X + to.X) / 2, Y: (from.Y + to.Y) / 2}
	calls := []*call{f.mouse(mouse("mouseMoved", from, "none", 0, 0, 0)), f.mouse(mouse("mousePressed", from, "left", 1, 1, 0))}
	for _, at := range []Grounded{mid, to} {
		calls = append(calls, f.mouse(mouse("mouseMoved", at, "left", 1, 0, 0)))
	}
	if err := f.sent(calls...); err != nil {
		return err
	}
	if data := f.dragStarted(p1); data != nil {
		for _, kind := range []string{"dragEnter", "dragOver", "drop"} {
			k := f.b.conn.send(f.page.id, "Input.dispatchDragEvent", obj{"type": kind, "x": to.X, "y": to.Y, "data": data.data})
			if err := f.sent(k); err != nil {
				return err
			}
		}
	}
	if err := f.sent(f.mouse(mouse("mouseReleased", to, "left", 0, 1, 0))); err != nil {
		return err
	}
	return f.verdict([]place{p1, p2}, downTypes, upTypes)
}

// dragStarted waits for the drag that the guard let start, if it did. An
// answer from the frame comes behind all reports that it made before.
func (f *flying) dragStarted(p place) *dragData {
	ctx, cancel := context.WithTimeout(f.ctx, seenLimit)
	defer cancel()
	if _, err := f.b.inWorld(ctx, p.session.id, p.frame.ID, "register()"); err != nil {
		return nil
	}
	var d *dragData
	f.b.await(ctx, func() bool {
		d = f.b.drag
		return d != nil || !slices.ContainsFunc(f.flight.reports, func(r report) bool { return r.Type == "dragstart" && r.OK })
	})
	return d
}
