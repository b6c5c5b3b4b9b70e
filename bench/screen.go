package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/browser"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/surface/computer"
)

// screen gives the computer door its browser. Clicks are all that is measured.
type screen struct{ b *browser.Browser }

var errOnlyClicks = fmt.Errorf("%w: only clicks are measured", computer.ErrNotDelivered)

func (s screen) Screenshot(ctx context.Context) ([]byte, error) { return s.b.Screenshot(ctx) }

func (s screen) Ground(ctx context.Context, x, y int) (computer.Target, error) {
	g, err := s.b.Ground(ctx, float64(x)+0.5, float64(y)+0.5)
	return computer.Target{Element: g.Element, Fingerprint: g.Fingerprint, Ref: g}, err
}

func (s screen) GroundFocus(context.Context) (computer.Target, error) {
	return computer.Target{}, errOnlyClicks
}

func (screen) Check(computer.Target, *computer.Target, computer.Input) (code, message string) {
	return "", ""
}

func (s screen) Press(ctx context.Context, t computer.Target, _ *computer.Target, p gate.Permit, d action.Digest, in computer.Input) error {
	g, ok := t.Ref.(browser.Grounded)
	if !ok || in.Kind != computer.Click {
		return errOnlyClicks
	}
	return s.b.Press(ctx, g, p, d, browser.Click{Button: browser.Button(in.Button), Count: in.Count})
}

func (screen) Home(context.Context) error { return errOnlyClicks }

// gallery makes sure that every sub-resource of the page was let through by the
// door: a page full of denials would be fast.
func (r *rig) gallery(ctx context.Context) error {
	const prefix = "/static/"
	allowed, denied := 0, 0
	err := r.disk.log.Entries(ctx, 0, func(e record.Entry) error {
		if e.Type != "action.decided" {
			return nil
		}
		var d gate.Decided
		if err := json.Unmarshal(e.Body, &d); err != nil {
			return err
		}
		if q := d.Action.Request; q != nil && len(q.Path) > len(prefix) && q.Path[:len(prefix)] == prefix {
			if d.Decision.Verdict == action.Allow {
				allowed++
			} else {
				denied++
			}
		}
		return nil
	})
	if err == nil && (denied > 0 || allowed == 0 || allowed%resources != 0) {
		err = errors.New(fmt.Sprint("of the page's sub-resources ", allowed, " were let through and ", denied, " denied"))
	}
	return err
}
