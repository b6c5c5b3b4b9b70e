package server

import (
	"context"
	"errors"
	"fmt"
	"image"
	"math"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/browser"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/surface/computer"
	"github.com/sallyport-dev/sallyport/internal/surface/egress"
)

// screen gives the computer door its browser.
type screen struct {
	b    *browser.Browser
	home string // the task's start page, or ""
}

// Home opens the start page, which only the operator chooses.
func (s screen) Home(ctx context.Context) error {
	if s.home == "" {
		return fmt.Errorf("%w: the task has no start page", computer.ErrNotDelivered)
	}
	return s.b.Navigate(ctx, s.home)
}

// concealed is what pictures of a session do not show: the fields for secrets
// of all applications that it can reach, and every secret that door 2 knows.
type concealed struct {
	*egress.Proxy
	fields []string
}

func (c concealed) Fields() []string { return c.fields }

func (s *session) secretFields() []string {
	var names []string
	for app := range s.agent.apps {
		for _, o := range s.world.connectors.Spec(app).Stages[s.stage()].Origins {
			names = append(names, s.world.connectors.SecretFields(s.stage(), o.URL)...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (s screen) Screenshot(ctx context.Context) ([]byte, error) { return s.b.Screenshot(ctx) }

func (s screen) Ground(ctx context.Context, x, y int) (computer.Target, error) {
	// The middle of the pixel, so that a border between two elements is not
	// decided by rounding.
	g, err := s.b.Ground(ctx, float64(x)+0.5, float64(y)+0.5)
	return target(g, err)
}

func (s screen) GroundFocus(ctx context.Context) (computer.Target, error) {
	g, err := s.b.GroundFocus(ctx)
	return target(g, err)
}

func target(g browser.Grounded, err error) (computer.Target, error) {
	if errors.Is(err, browser.ErrLeft) {
		err = fmt.Errorf("%w: %w", computer.ErrLeft, err)
	}
	t := computer.Target{Element: g.Element, Fingerprint: g.Fingerprint, Ref: g}
	if r := g.Rect; g.Element.Frames == "" { // in the page's own frame these are pixels of the screen
		t.Box = image.Rect(int(r[0]), int(r[1]), int(math.Ceil(r[0]+r[2])), int(math.Ceil(r[1]+r[3])))
	}
	return t, err
}

// Check asks before anybody is asked.
func (s screen) Check(t computer.Target, to *computer.Target, in computer.Input) (code, message string) {
	g, ok := t.Ref.(browser.Grounded)
	b, err := translate(in, to)
	if err == nil {
		err = browser.Check(g, b)
	}
	if ok && err == nil {
		return "", ""
	}
	return browser.Refusal(err)
}

// Press translates one primitive input.
func (s screen) Press(ctx context.Context, t computer.Target, to *computer.Target, p gate.Permit, digest action.Digest, in computer.Input) error {
	g, ok := t.Ref.(browser.Grounded)
	if !ok {
		return fmt.Errorf("%w: the target is of another screen", computer.ErrNotDelivered)
	}
	b, err := translate(in, to)
	if err != nil {
		return fmt.Errorf("%w: %w", computer.ErrNotDelivered, err)
	}
	err = s.b.Press(ctx, g, p, digest, b)
	switch {
	case err == nil, errors.Is(err, browser.ErrBlocked), errors.Is(err, browser.ErrNotSeen), errors.Is(err, gate.ErrPermit):
		return err
	}
	for _, sure := range []error{browser.ErrMoved, browser.ErrUninspectable, browser.ErrNoPage, browser.ErrCrashed, browser.ErrGuard,
		browser.ErrKey, browser.ErrChord, browser.ErrText, browser.ErrInput} {
		if errors.Is(err, sure) {
			return fmt.Errorf("%w: %w", computer.ErrNotDelivered, err)
		}
	}
	return err
}

var modifiers = map[string]browser.Modifiers{"Alt": browser.Alt, "Control": browser.Ctrl, "Meta": browser.Meta, "Shift": browser.Shift}

func translate(in computer.Input, to *computer.Target) (browser.Input, error) {
	var mods browser.Modifiers
	for _, m := range in.Modifiers {
		bit, ok := modifiers[m]
		if !ok {
			return nil, fmt.Errorf("modifier %q is not known", m)
		}
		mods |= bit
	}
	button := browser.Button(in.Button)
	switch in.Kind {
	case computer.Move:
		return browser.Move{}, nil
	case computer.Click:
		return browser.Click{Button: button, Count: in.Count, Modifiers: mods}, nil
	case computer.Down:
		return browser.Down{Button: button}, nil
	case computer.Up:
		return browser.Up{Button: button}, nil
	case computer.Drag:
		if to == nil {
			return nil, errors.New("a drag needs an end")
		}
		end, ok := to.Ref.(browser.Grounded)
		if !ok {
			return nil, errors.New("the end of the drag is of another screen")
		}
		return browser.Drag{To: end}, nil
	case computer.Wheel:
		return browser.Wheel{DX: float64(in.DX), DY: float64(in.DY), Modifiers: mods}, nil
	case computer.Key:
		return browser.Key{Chord: strings.Join(append(append([]string{}, in.Modifiers...), in.Key), "+")}, nil
	case computer.Type:
		return browser.Type{Text: in.Text}, nil
	}
	return nil, fmt.Errorf("input %q is not known", in.Kind)
}
