package computer

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"image"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// form is the exact form of an input: what is decided and what is dispatched.
type form struct {
	Task      string         `json:"task"`
	Operation string         `json:"operation"`
	Input     Input          `json:"input"`           // its Text and Key are left out
	Keyed     string         `json:"keyed,omitempty"` // keyed digest of Key and Text
	Target    action.Element `json:"target"`
	Print     action.Digest  `json:"print"`
	To        action.Element `json:"to"`
	ToPrint   action.Digest  `json:"toPrint,omitempty"`
	Millis    int64          `json:"millis,omitempty"`
}

// digest panics never and is empty, which matches nothing, if there is no
// canonical form.
func (f form) digest() action.Digest {
	d, err := canon.DigestOf(f)
	if err != nil {
		return ""
	}
	return d
}

// aim is an input with what it would hit.
type aim struct {
	in     Input
	target Target
	to     *Target
}

func (s *Server) digest(op string, a aim, wait time.Duration) action.Digest {
	f := form{Task: s.c.Task, Operation: "computer." + op, Input: a.in, Target: a.target.Element, Print: a.target.Fingerprint,
		Millis: wait.Milliseconds()}
	m := hmac.New(sha256.New, s.key)
	m.Write([]byte(a.in.Key + "\x00" + a.in.Text))
	f.Keyed = hex.EncodeToString(m.Sum(nil))
	f.Input.Key, f.Input.Text = "", ""
	if a.to != nil {
		f.To, f.ToPrint = a.to.Element, a.to.Fingerprint
	}
	return f.digest()
}

// ground finds what the input would hit now.
func (s *Server) ground(ctx context.Context, in Input) (aim, error) {
	a := aim{in: in}
	var err error
	if in.Kind == Key || in.Kind == Type {
		a.target, err = s.c.Screen.GroundFocus(ctx)
		return a, err
	}
	if a.target, err = s.c.Screen.Ground(ctx, in.X, in.Y); err != nil || in.Kind != Drag {
		return a, err
	}
	to, err := s.c.Screen.Ground(ctx, in.ToX, in.ToY)
	a.to = &to
	return a, err
}

// print is over everything that the input would hit.
func (a aim) print() action.Digest {
	if a.to == nil {
		return a.target.Fingerprint
	}
	return canon.Digest([]byte(a.target.Fingerprint + "\x00" + a.to.Fingerprint))
}

// place gives a primitive its points at its turn, and where the cursor will be.
func (s *Server) place(st step) (in Input, end image.Point) {
	in, end = st.in, s.cursor
	if st.at != nil {
		end = *st.at
	}
	start := end
	if in.Kind == Drag {
		start = s.cursor
		if st.from != nil {
			start = *st.from
		}
		in.ToX, in.ToY = end.X, end.Y
	}
	if in.Kind != Key && in.Kind != Type {
		in.X, in.Y = start.X, start.Y
	}
	return in, end
}

func (s *Server) input(ctx context.Context, st step, r *result) {
	in, end := s.place(st)
	aimed, err := s.ground(ctx, in)
	if errors.Is(err, ErrLeft) {
		r.Status = statusFailed
		r.problem = problem{Code: "window_closed", Layer: action.LayerDispatch, Message: "the window in front showed that its page was not opened; it was closed, and the input went nowhere",
			Next: "look at the screen: the page before it is in front again"}
		return
	}
	if err != nil {
		s.failed(r, "what the input would hit could not be found out", err)
		return
	}
	if st.expect != "" && aimed.print() != st.expect {
		s.turnDown(ctx, st, &refusal{code: "target_changed", message: "what the first input would hit is not what was approved any more",
			next: "look at the screen and let the model act again"}, r)
		return
	}
	if code, message := s.c.Screen.Check(aimed.target, aimed.to, in); code != "" {
		s.turnDown(ctx, st, &refusal{code: code, message: message, next: "act on the page itself; alt+Home opens the start page"}, r)
		return
	}
	a, blobs := s.describe(st.op, aimed)
	if st.approved != "" {
		a.Params["safetyCheck"] = st.approved
	}
	if st.wait > 0 {
		a.Params["millis"] = strconv.FormatInt(st.wait.Milliseconds(), 10)
	}
	a.Digest = s.digest(st.op, aimed, st.wait)
	ok := s.act(ctx, a, blobs, func(ctx context.Context, p gate.Permit) action.Outcome {
		return s.deliver(ctx, p, st, aimed)
	}, r)
	switch {
	case in.Kind == Key || in.Kind == Type || !ok && r.Status != statusUnknown:
	case in.Kind == Down:
		s.down, s.pressed = true, aimed.target.Element.FrameOrigin
	case in.Kind == Up:
		s.down = false
	default:
		s.cursor = end
	}
}

// deliver gives the input to what was decided on: Press grounds again, since the
// target may have changed while the gate or a person decided. The journal hears of
// the input before the page does, so that no request that it causes can come
// first, and forgets it if the page did not get it.
func (s *Server) deliver(ctx context.Context, p gate.Permit, st step, a aim) action.Outcome {
	id := p.Action().ID
	s.c.Journal.Note(id, a.in, a.target.Element, pressedOf(p.Action())...)
	switch err := s.c.Screen.Press(ctx, a.target, a.to, p, s.digest(st.op, a, st.wait), a.in); {
	case err == nil:
	case errors.Is(err, ErrNotDelivered), errors.Is(err, gate.ErrPermit):
		s.c.Journal.Forget(id)
		return action.Outcome{State: action.Failed, Detail: "the input was not delivered"}
	default:
		return action.Outcome{State: action.Unknown, Detail: "the browser did not confirm the input"}
	}
	if !pass(ctx, st.wait) {
		return action.Outcome{State: action.Done, Detail: "the task or the caller ended"}
	}
	return action.Outcome{State: action.Done}
}

// pass lets time pass and reports whether all of it did.
func pass(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// describe fills the action for policy, people and the ledger.
func (s *Server) describe(op string, a aim) (action.Action, []record.Blob) {
	e := action.Read
	if a.in.Kind == Move || a.in.Kind == Wheel {
		e = action.Observe
	}
	act := s.action(op, e)
	act.Element = &a.target.Element
	act.App = s.app(a)
	p := act.Params
	if a.in.Kind == Up {
		p["fromOrigin"] = s.pressed
	}
	if len(a.in.Modifiers) > 0 {
		p["modifiers"] = strings.Join(a.in.Modifiers, "+")
	}
	if s.seen != "" && s.actor == "" {
		p["seen"] = string(s.seen) // the picture that the agent acted on
	}
	if a.in.Kind == Type {
		p["textLength"] = strconv.Itoa(a.in.Count)
		if name, ok := action.PlaceholderOf(a.in.Text); ok {
			p["placeholder"] = name
		}
		if secretField(a.target.Element) {
			return act, nil
		}
		return act, []record.Blob{{Name: "typed-text", Type: "text/plain; charset=utf-8", Data: []byte(a.in.Text)}}
	}
	blobs := s.piece(a)
	if a.in.Kind == Key {
		k := chord{a.in.Key, a.in.Modifiers}
		if p["key"] = k.String(); k.character() && secretField(a.target.Element) {
			p["key"] = "(a character)"
		}
		return act, blobs
	}
	p["x"], p["y"] = strconv.Itoa(a.in.X), strconv.Itoa(a.in.Y)
	if a.in.Button != "" {
		p["button"] = a.in.Button
	}
	if a.to != nil {
		p["toX"], p["toY"] = strconv.Itoa(a.in.ToX), strconv.Itoa(a.in.ToY)
		p["toOrigin"], p["toTag"] = a.to.Element.FrameOrigin, a.to.Element.Tag
	}
	if a.in.Kind == Wheel {
		p["dx"], p["dy"] = strconv.Itoa(a.in.DX), strconv.Itoa(a.in.DY)
	}
	return act, blobs
}

// app is the application that an input is on. A drag from one to another is on
// neither, in one input or by hand.
func (s *Server) app(a aim) string {
	app := s.c.AppOf(a.target.Element.FrameOrigin)
	if a.to != nil && s.c.AppOf(a.to.Element.FrameOrigin) != app || a.in.Kind == Up && s.c.AppOf(s.pressed) != app {
		return ""
	}
	return app
}

// secretField reports whether typed text must not be recorded. What could not
// be inspected may be a password field.
func secretField(e action.Element) bool {
	return strings.EqualFold(e.InputType, "password") || e.Uninspectable != ""
}
