package cdp

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// groundLimit bounds how long the browser may take to say what is under the pointer.
const groundLimit = 15 * time.Second

// hands do the client's inputs one after the other, in the order in which
// they came, each through the gate. Only work owns the fields below todo.
type hands struct {
	c    *client
	todo *queue[func()]

	pressed string        // button that is down
	where   action.Digest // what it went down on
	from    string        // the origin of that
	dropped bool          // a drag was dropped, and the release is still to come
	finger  *finger
	silent  string          // a key that went down and waits for its text
	said    map[string]no   // denials of a moment ago
	noted   map[string]bool // refusals that were recorded already
}

// no is a denial that is repeated for a short time without asking again: a
// driver tries a click that was refused until its own time is over.
type no struct {
	why   *problem
	until time.Time
}

const repeatFor = 2 * time.Second

func newHands(c *client) *hands {
	return &hands{c: c, todo: newQueue[func()](maxInputs), said: map[string]no{}, noted: map[string]bool{}}
}

func (h *hands) work() {
	go func() {
		<-h.c.ctx.Done()
		h.todo.shut()
	}()
	for f, ok := h.todo.take(); ok; f, ok = h.todo.take() {
		f()
	}
}

// take queues an input of the client. Called by loop.
func (h *hands) take(r request, s *session) {
	c := h.c
	page := c.pageOf(s)
	if page == nil || s.target != page {
		c.fail(r, refuse("cdp_input_target", "inputs are given to pages", "send the input to the session of the page"))
		return
	}
	id := page.id
	if !h.todo.put(func() {
		why := h.input(id, r)
		c.post(func() {
			if why != nil {
				c.fail(r, why)
				return
			}
			c.done(r, nil)
		})
	}, 1) {
		c.end(closePolicy, "too many inputs wait")
	}
}

// note records an attempt that has no canonical form, at its turn.
func (h *hands) note(code, method string, raw []byte) {
	h.todo.put(func() { h.malformed(code, method, raw) }, 1)
}

func (h *hands) malformed(code, method string, raw []byte) {
	a := h.action("malformed", action.Irreversible)
	a.Params["why"] = code
	if method != "" {
		a.Params["method"] = method
	}
	a.Digest = canon.Digest(raw)
	h.c.s.c.Gate.Act(h.c.ctx, a, nil, func(context.Context, gate.Permit) action.Outcome {
		return action.Outcome{State: action.Failed, Detail: "malformed"}
	})
}

// outOfTurn has the gate refuse, and record, that the client asks for something
// while a person has the session.
func (h *hands) outOfTurn(method string) {
	h.todo.put(func() { h.attempt("protocol", "method", method) }, 1)
}

// attempt has the gate say why something cannot be done at all now.
func (h *hands) attempt(op string, params ...string) *problem {
	a := h.action(op, action.Read)
	for i := 0; i+1 < len(params); i += 2 {
		a.Params[params[i]] = params[i+1]
	}
	a.Digest = canon.Digest([]byte(op + strings.Join(params, " ")))
	return outcome(h.c.s.c.Gate.Act(h.c.ctx, a, nil, func(context.Context, gate.Permit) action.Outcome {
		return action.Outcome{State: action.Failed, Detail: "the session has just changed hands"}
	}))
}

// picture has a screenshot decided and recorded.
func (h *hands) picture(kind string, result []byte, then func(*problem)) {
	if !h.todo.put(func() {
		if h.c.muted.Load() { // it may show what the person does
			then(taken())
			return
		}
		var p struct {
			Data []byte `json:"data"`
		}
		if !into(result, &p) || len(p.Data) == 0 {
			then(plain(codeServer, "Unable to capture screenshot"))
			return
		}
		a := h.action("screenshot", action.Observe)
		a.Digest = canon.Digest(p.Data)
		a.Params["picture"] = string(a.Digest)
		then(outcome(h.c.s.c.Gate.Act(h.c.ctx, a, []record.Blob{{Name: action.Screenshot, Type: kind, Data: p.Data}}, func(_ context.Context, permit gate.Permit) action.Outcome {
			if err := permit.Consume(canon.Digest(p.Data)); err != nil {
				return action.Outcome{State: action.Failed, Detail: err.Error()}
			}
			return action.Outcome{State: action.Done}
		})))
	}, 1) {
		h.c.end(closePolicy, "too many inputs wait")
	}
}

func (h *hands) action(op string, e action.Effect) action.Action {
	c := h.c.s.c
	return action.Action{Tenant: c.Tenant, Task: c.Task, Agent: c.Agent, Surface: action.Computer, Source: "harness",
		Operation: "computer." + op, Effect: e, Params: map[string]string{"via": "cdp"}}
}

// input reads one request of the client as strokes and does them.
func (h *hands) input(page string, r request) *problem {
	var todo []stroke
	var why *problem
	switch r.method {
	case "Input.dispatchMouseEvent":
		todo, why = h.mouse(r)
	case "Input.dispatchKeyEvent":
		todo, why = h.keyboard(r)
	case "Input.insertText":
		todo, why = insert(r)
	case "Input.dispatchTouchEvent":
		todo, why = h.touch(r)
	case "Input.dispatchDragEvent":
		todo, why = h.drag(r)
	case "Input.synthesizeScrollGesture":
		todo, why = h.scroll(r)
	case "DOM.setFileInputFiles":
		todo, why = h.choose(r)
	default:
		why = refuse("cdp_denied_method", r.method+" has no answer", "")
	}
	for _, s := range todo {
		if why != nil {
			break
		}
		s.page = page
		why = h.do(s)
	}
	if why != nil && why.Layer == layerForm && !h.noted[why.Code+r.method] {
		h.noted[why.Code+r.method] = true
		h.malformed(why.Code, r.method, []byte(r.method))
	}
	return why
}

// form is the exact form of an input: what is decided and what is dispatched.
type form struct {
	Task, Operation, Page, Kind, X, Y, Button, DX, DY string
	Count, Modifiers                                  int
	Keyed                                             string // keyed digest of chord and text
	Files                                             []action.Digest
	From                                              string // origin of the press that a release ends
	Target                                            action.Element
	Print                                             action.Digest
}

func (h *hands) digest(s stroke, e action.Element, print action.Digest) action.Digest {
	m := hmac.New(sha256.New, h.c.s.key)
	m.Write([]byte(s.chord + "\x00" + s.text))
	var files []action.Digest
	for _, f := range s.files {
		files = append(files, canon.Digest([]byte(string(f.digest)+" "+f.name)))
	}
	d, err := canon.DigestOf(form{Files: files, From: h.from, Task: h.c.s.c.Task, Operation: s.op, Page: s.page, Kind: s.kind, X: num(s.x), Y: num(s.y), Button: s.button,
		DX: num(s.dx), DY: num(s.dy), Count: s.count, Modifiers: s.modifiers, Keyed: hex.EncodeToString(m.Sum(nil)), Target: e, Print: print})
	if err != nil {
		return "" // matches nothing
	}
	return d
}

func num(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// do grounds, asks the gate, and gives the input to what was grounded.
func (h *hands) do(s stroke) *problem {
	c := h.c
	turn, end, ok := c.s.c.Gate.Turn(c.ctx, h.action(s.op, action.Observe))
	defer end()
	if !ok || c.muted.Load() {
		return taken()
	}
	ctx, cancel := context.WithTimeout(turn, groundLimit)
	var (
		e     action.Element
		print action.Digest
		ref   any
		err   error
	)
	switch s.kind {
	case "key", "type":
		e, print, ref, err = c.up.GroundFocus(ctx, s.page)
	case "upload":
		e, print, ref, err = c.up.GroundNode(ctx, s.page, s.node)
	default:
		e, print, ref, err = c.up.Ground(ctx, s.page, s.x, s.y)
	}
	cancel()
	if err != nil && turn.Err() != nil && c.ctx.Err() == nil {
		// The task ended, or the session changed hands: the gate says, and records, which.
		return h.attempt(s.op)
	}
	if err != nil {
		slog.Debug("cdp: ground an input", "task", c.s.c.Task, "error", err)
		return &problem{Layer: layerDispatch, Code: "screen_unavailable", Message: "what the input would hit could not be found out", Next: "try again; look whether the page is open"}
	}
	if code, message := c.up.Check(ref, s.kind, s.chord+s.text, s.modifiers, s.dx, s.dy); code != "" {
		return refuse(code, message, "act on the page itself")
	}
	if s.kind == "upload" && !(e.Tag == "input" && e.InputType == "file") {
		return refuse("cdp_upload", "the element takes no files", "name a file input")
	}
	a, blobs := h.describe(s, e)
	a.Digest = h.digest(s, e, print)
	key := s.op + " " + s.chord + " " + string(print)
	if n, ok := h.said[key]; ok && s.kind != "type" && time.Now().Before(n.until) {
		return n.why
	}
	if c.hasty {
		turn = gate.WithPatience(turn, c.patience)
	}
	res := c.s.c.Gate.Act(turn, a, blobs, func(ctx context.Context, p gate.Permit) action.Outcome {
		return h.deliver(ctx, p, s, e, print, ref)
	})
	why := outcome(res)
	h.follow(s, e, print, why)
	if res.Outcome == nil && why != nil && why.Code != gate.CodeHeld {
		if len(h.said) >= 64 {
			clear(h.said)
		}
		h.said[key] = no{why, time.Now().Add(repeatFor)}
	}
	return why
}

// follow keeps account of the button. A release that was not done is over all
// the same for the client; the next press starts from a clean state.
func (h *hands) follow(s stroke, e action.Element, print action.Digest, why *problem) {
	switch {
	case s.kind == "down" && (why == nil || why.Code == "unknown_outcome"):
		h.pressed, h.where, h.from, h.dropped = s.button, print, e.FrameOrigin, false
	case s.kind == "up", s.kind == "drop":
		h.pressed, h.where, h.from, h.dropped = "", "", "", s.kind == "drop"
	}
}

func outcome(res gate.Result) *problem {
	switch {
	case res.Outcome == nil || res.Decision.Verdict != action.Allow:
		return &problem{Layer: res.Decision.Layer, Code: res.Decision.Code, Message: res.Decision.Reason, Next: res.Decision.Next}
	case res.Outcome.State == action.Done:
		return nil
	case res.Outcome.State == action.Failed:
		return &problem{Layer: layerDispatch, Code: "not_delivered", Message: res.Outcome.Detail, Next: "look at the page and try again"}
	}
	return &problem{Layer: layerDispatch, Code: "unknown_outcome", Message: res.Outcome.Detail, Next: "look at the page before anything else"}
}

// deliver tells the journal first, so that no request that the input causes
// can come before it, and takes that back if the page did not get it.
func (h *hands) deliver(ctx context.Context, p gate.Permit, s stroke, e action.Element, print action.Digest, ref any) action.Outcome {
	up, journal, id := h.c.up, h.c.s.c.Journal, p.Action().ID
	noted := true
	switch {
	case s.kind == "down", s.kind == "tap", s.kind == "upload":
		journal.Note(id, "click", "", e)
	case (s.kind == "up" || s.kind == "drop") && print != h.where: // what was pressed explains the rest
		journal.Note(id, "up", "", e)
	case s.kind == "key":
		journal.Note(id, "key", s.key, e)
	default:
		noted = false
	}
	var state string
	var err error
	d := h.digest(s, e, print)
	switch s.kind {
	case "key":
		state, err = up.Key(ctx, ref, p, d, s.chord)
	case "type":
		state, err = up.Type(ctx, ref, p, d, s.text)
	case "upload":
		var names []string
		var contents [][]byte
		for _, f := range s.files {
			names, contents = append(names, f.name), append(contents, f.data)
		}
		state, err = up.Upload(ctx, ref, p, d, names, contents)
	default:
		state, err = up.Mouse(ctx, ref, p, d, s.kind, s.button, s.count, s.modifiers, s.dx, s.dy)
	}
	if err == nil && state == action.Done {
		return action.Outcome{State: action.Done}
	}
	slog.Debug("cdp: give an input", "task", h.c.s.c.Task, "kind", s.kind, "state", state, "error", err)
	if state == action.Failed {
		if noted {
			journal.Forget(id)
		}
		return action.Outcome{State: action.Failed, Detail: "the input was not delivered"}
	}
	return action.Outcome{State: action.Unknown, Detail: "the browser did not confirm the input"}
}

// describe fills the action for policy, people and the ledger, as the computer
// surface does.
func (h *hands) describe(s stroke, e action.Element) (action.Action, []record.Blob) {
	effect := action.Read
	if s.kind == "move" || s.kind == "wheel" || s.kind == "cancel" {
		effect = action.Observe
	}
	a := h.action(s.op, effect)
	a.Element = &e
	a.App = h.c.s.c.AppOf(e.FrameOrigin)
	p := a.Params
	if s.kind == "up" || s.kind == "drop" { // from one application to another is on neither
		p["fromOrigin"] = h.from
		if h.c.s.c.AppOf(h.from) != a.App {
			a.App = ""
		}
	}
	if s.modifiers != 0 {
		var names []string
		for _, m := range held {
			if s.modifiers&m.bit != 0 {
				names = append(names, m.name)
			}
		}
		p["modifiers"] = strings.Join(names, "+")
	}
	// What could not be inspected may be a password field.
	secret := strings.EqualFold(e.InputType, "password") || e.Uninspectable != ""
	switch s.kind {
	case "type":
		p["textLength"] = strconv.Itoa(utf8.RuneCountInString(s.text))
		if name, ok := action.PlaceholderOf(s.text); ok {
			p["placeholder"] = name
		}
		if !secret {
			return a, []record.Blob{{Name: "typed-text", Type: "text/plain; charset=utf-8", Data: []byte(s.text)}}
		}
	case "key":
		p["key"] = s.chord
		if secret && utf8.RuneCountInString(s.key) == 1 && s.modifiers&^8 == 0 {
			p["key"] = "(a character)"
		}
	case "upload":
		var blobs []record.Blob
		for i, f := range s.files {
			n := strconv.Itoa(i + 1)
			p["file"+n], p["file"+n+"Bytes"], p["file"+n+"Digest"] = readable(f.name, 255), strconv.Itoa(len(f.data)), string(f.digest)
			blobs = append(blobs, record.Blob{Name: "upload-" + n, Type: "application/octet-stream", Data: f.data})
		}
		return a, blobs
	case "wheel":
		p["dx"], p["dy"] = num(math.Round(s.dx)), num(math.Round(s.dy))
		fallthrough
	default:
		p["x"], p["y"] = num(s.x), num(s.y)
		if s.button != "" {
			p["button"] = s.button
		}
		switch s.kind {
		case "down":
			p["part"] = "press"
		case "drop":
			p["part"] = "drop"
		case "tap":
			p["pointer"] = "touch"
		}
	}
	return a, nil
}
