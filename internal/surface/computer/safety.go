package computer

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"image"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Limits of what a provider may ask.
const (
	maxID      = 200     // bytes of an identifier that the answer repeats
	maxChecks  = 10      // of one call
	maxMessage = 4 << 10 // bytes
	maxAsked   = 40      // primitive inputs that one person is asked about
)

// codePending says that the provider asks for a person and that nobody was asked.
const codePending = "safety_check_pending"

var checkCode = regexp.MustCompile(`^[a-z][a-z0-9_.-]{0,63}$`)

func noNavigation() *refusal {
	r := refuse("no_navigation", "addresses, search and history are not this surface's to open")
	r.next = "follow the links of the page, or press alt+Home for the task's start page"
	return r
}

func noHeldKeys() *refusal {
	r := refuse("no_held_keys", "no key stays down between actions, nor while the pointer moves")
	r.next = "send the chord as one action, or hold keys in a click"
	return r
}

func forged() *refusal {
	r := refuse("forged_acknowledgement", "an acknowledgement is not the agent's to give")
	r.next = "send the call as the model made it; a person answers the provider's checks"
	return r
}

// askable refuses checks that cannot be put before a person in full.
func askable(checks []check, todo []planned) *refusal {
	inputs := 0
	for _, p := range todo {
		inputs += len(p.steps)
	}
	if len(checks) > 0 && inputs > maxAsked {
		return refuse("bad_batch", "a call with safety checks has at most %d primitive inputs", maxAsked)
	}
	if len(checks) > maxChecks {
		return refuse("bad_safety_check", "a call has at most %d safety checks", maxChecks)
	}
	for _, c := range checks {
		if c.ID == "" || len(c.ID) > maxID || c.Code != nil && !checkCode.MatchString(*c.Code) || c.Message != nil && len(*c.Message) > maxMessage {
			return refuse("bad_safety_check", "a safety check has an id, a code that is a word, and a message of at most %d bytes", maxMessage)
		}
	}
	return nil
}

// confirm puts the provider's checks before a person, as operation
// computer.safety_check, before anything of the call happens. It has no effect
// of its own. It is done only if policy held it and people approved: where
// policy lets it pass unasked, or does not cover it, the call is refused.
//
// What is approved is the whole list of primitives, by digest, with what the
// first of them would hit now. Every primitive is still decided at its own turn.
func (s *Server) confirm(ctx context.Context, req request, todo []planned) result {
	r := result{Type: "safety_check", Status: statusDone}
	a := s.action("safety_check", action.Read)
	f := form{Task: s.c.Task, Operation: a.Operation, Keyed: s.keyed(req.checks, todo)}
	a.Params["provider"], a.Params["checks"] = req.from, codes(req.checks)
	var print action.Digest
	first := firstInput(todo)
	if first != nil {
		in, _ := s.place(*first)
		aimed, err := s.ground(ctx, in)
		if err != nil {
			s.failed(&r, "what the input would hit could not be found out", err)
			return r
		}
		print = aimed.print()
		f.Target, f.Print = aimed.target.Element, print
		a.Element, a.App = &aimed.target.Element, s.app(aimed)
		a.Params["target"] = facts(aimed.target.Element)
		if aimed.to != nil {
			f.To = aimed.to.Element
			a.Params["to"] = facts(aimed.to.Element)
		}
	}
	if s.seen != "" {
		a.Params["seen"] = string(s.seen)
	}
	n := 0
	for _, p := range todo {
		for _, st := range p.steps {
			n++
			a.Params[fmt.Sprintf("step%02d", n)] = st.String()
		}
	}
	a.Digest = f.digest()
	ok := s.act(ctx, a, quote(req.checks), func(_ context.Context, p gate.Permit) action.Outcome {
		if err := p.Consume(f.digest()); err != nil {
			return action.Outcome{State: action.Failed, Detail: err.Error()}
		}
		return action.Outcome{State: action.Done}
	}, &r)
	switch {
	case ok && r.decided.Code == gate.CodeApproved && r.decided.Approvers != "":
		approve(todo, first, r.Actions[0], print)
	case ok:
		// Policy let it pass without a person. That answers nothing.
		s.malformed(ctx, s.actor, codePending, []byte(a.Digest))
		r.Status, r.problem = statusDenied, pending(action.LayerHold)
	case r.Status == statusDenied && r.Layer == action.LayerGrant:
		r.problem = pending(action.LayerGrant)
	}
	return r
}

func pending(l action.Layer) problem {
	return problem{Code: codePending, Layer: l, Message: "the model's provider asks that a person confirms this, and nobody can be asked",
		Next: "ask the policy author to cover computer.safety_check and to hold it for a role; until then choose another way"}
}

// approve marks what was approved: every primitive with the action that asked,
// the first input with what it must hit.
func approve(todo []planned, first *step, id string, print action.Digest) {
	for i := range todo {
		for j := range todo[i].steps {
			todo[i].steps[j].approved = id
		}
	}
	if first != nil {
		first.expect = print
	}
}

func firstInput(todo []planned) *step {
	for i := range todo {
		for j := range todo[i].steps {
			if todo[i].steps[j].in.Kind != "" {
				return &todo[i].steps[j]
			}
		}
	}
	return nil
}

// keyed is over everything that was asked and everything that would be done.
func (s *Server) keyed(checks []check, todo []planned) string {
	type one struct {
		Op       string
		At, From *image.Point
		In       Input
		Millis   int64
		Region   image.Rectangle
	}
	doc := struct {
		Checks []check
		Steps  []one
	}{Checks: checks}
	for _, p := range todo {
		for _, st := range p.steps {
			doc.Steps = append(doc.Steps, one{st.op, st.at, st.from, st.in, st.wait.Milliseconds(), st.region})
		}
	}
	b, err := canon.Marshal(doc)
	if err != nil {
		panic("sallyport: internal error: safety check: " + err.Error())
	}
	m := hmac.New(sha256.New, s.key)
	m.Write(b)
	return hex.EncodeToString(m.Sum(nil))
}

func codes(checks []check) string {
	var out []string
	for _, c := range checks {
		code := "unnamed"
		if c.Code != nil {
			code = *c.Code
		}
		out = append(out, code)
	}
	return strings.Join(out, ",")
}

// quote keeps the provider's words as evidence. They are in no parameter, so
// nothing that came through the harness describes what a person signs.
func quote(checks []check) []record.Blob {
	b, err := canon.Marshal(checks)
	if err != nil {
		panic("sallyport: internal error: safety check: " + err.Error())
	}
	return []record.Blob{{Name: "safety-checks", Type: "application/json", Data: b}}
}

// facts is what a person may rely on of an element.
func facts(e action.Element) string {
	switch {
	case e.Uninspectable != "":
		return "something that could not be inspected, on " + e.FrameOrigin
	case e.FormAction != "":
		return e.Tag + " on " + e.FrameOrigin + ", form " + formMethod(e) + " " + e.FormAction
	case e.Link != "":
		return e.Tag + " on " + e.FrameOrigin + ", link " + e.Link
	}
	return e.Tag + " on " + e.FrameOrigin
}

// String is the primitive for a person; typed text is its length.
func (st step) String() string {
	at := " at the cursor"
	if st.at != nil {
		at = fmt.Sprintf(" at %d,%d", st.at.X, st.at.Y)
	}
	in := st.in
	held := ""
	if len(in.Modifiers) > 0 {
		held = " with " + strings.Join(in.Modifiers, "+")
	}
	switch in.Kind {
	case "":
		if st.wait > 0 {
			return st.op + " " + st.wait.String()
		}
		return st.op
	case Type:
		return st.op + " " + strconv.Itoa(utf8.RuneCountInString(in.Text)) + " characters"
	case Key:
		k := chord{in.Key, in.Modifiers}
		if k.character() {
			return st.op + " of a character"
		}
		return st.op + " " + k.String()
	case Wheel:
		return fmt.Sprintf("%s by %d,%d%s%s", st.op, in.DX, in.DY, at, held)
	case Drag:
		if st.from != nil {
			return fmt.Sprintf("%s from %d,%d to%s", st.op, st.from.X, st.from.Y, strings.TrimPrefix(at, " at"))
		}
		return st.op + " from the cursor to" + strings.TrimPrefix(at, " at")
	}
	return st.op + at + held
}
