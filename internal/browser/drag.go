package browser

import (
	"context"
	"errors"
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
		if err := f.carry(to, data, 0); err != nil {
			return err
		}
	}
	if err := f.sent(f.mouse(mouse("mouseReleased", to, "left", 0, 1, 0))); err != nil {
		return err
	}
	return f.verdict([]place{p1, p2}, downTypes, upTypes)
}

// dragAway sends a move with the button down, armed for the drag of what the
// button went down on. What is not there any more is not dragged; the move is
// sent all the same. It returns the drag that the move started, if it did.
func (f *flying) dragAway(held Grounded, move obj) (*dragData, error) {
	s := armSpec{Mode: "pointer", Down: true, Drag: true}
	p, err := f.arm(held, s)
	if err != nil {
		return nil, f.bare(move)
	}
	defer f.b.disarm(f.ctx, p, f.flight.nonce)
	if err := f.b.conn.call(f.ctx, f.page.id, "Input.setInterceptDrags", obj{"enabled": true}, nil); err != nil {
		return nil, err
	}
	defer f.b.conn.send(f.page.id, "Input.setInterceptDrags", obj{"enabled": false})
	if err := f.ready(s); err != nil {
		return nil, err
	}
	if err := f.sent(f.mouse(move)); err != nil {
		return nil, err
	}
	return f.dragStarted(p), nil
}

// drop ends a drag at to, which is armed before the page hears of it.
func (f *flying) drop(to Grounded, data *dragData, m Modifiers) error {
	s := armSpec{Mode: "pointer", Up: true, Drag: true}
	p, err := f.arm(to, s)
	if err == nil {
		err = f.ready(s)
	}
	if err != nil {
		return errors.Join(err, f.sent(f.dragEvent("dragCancel", to, data, m)))
	}
	if err := f.carry(to, data, m); err != nil {
		return err
	}
	if err := f.sent(f.mouse(mouse("mouseReleased", to, "left", 0, 1, m))); err != nil {
		return err
	}
	return f.verdict([]place{p}, upTypes)
}

// carry brings what is dragged to a point and drops it there.
func (f *flying) carry(to Grounded, data *dragData, m Modifiers) error {
	for _, kind := range []string{"dragEnter", "dragOver", "drop"} {
		if err := f.sent(f.dragEvent(kind, to, data, m)); err != nil {
			return err
		}
	}
	return nil
}

func (f *flying) dragEvent(kind string, to Grounded, data *dragData, m Modifiers) *call {
	return f.b.conn.send(f.page.id, "Input.dispatchDragEvent", obj{"type": kind, "x": to.X, "y": to.Y, "data": data.data, "modifiers": int(m)})
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
