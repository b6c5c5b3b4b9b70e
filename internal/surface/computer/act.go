package computer

import (
	"context"
	"log/slog"
	"strconv"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Statuses of a result.
const (
	statusDone        = "done"
	statusDenied      = "denied"
	statusFailed      = "failed"       // nothing happened
	statusUnknown     = "unknown"      // it may have happened
	statusNotExecuted = "not_executed" // an action before it in the batch was not done
)

// result is what became of one action of a request.
type result struct {
	Type    string   `json:"type"`
	Status  string   `json:"status"`
	Actions []string `json:"actions,omitempty"` // ids of the primitives that were decided
	problem
	Cursor *cursor `json:"cursor,omitempty"`
	Image  *img    `json:"image,omitempty"`

	decided action.Decision // on the last primitive
	origin  string          // of the page in Image, where it was asked for
}

// problem is the public text of anything but done.
type problem struct {
	Code    string       `json:"code,omitempty"`
	Layer   action.Layer `json:"layer,omitempty"`
	Message string       `json:"message,omitempty"`
	Next    string       `json:"next,omitempty"`
	// Question is the open one that a held action waits for.
	Question string `json:"question,omitempty"`
}

// text is the problem in one line, for a model.
func (p problem) text(status string) string {
	t := status + ": " + p.Code + " (" + string(p.Layer) + "): " + p.Message
	if p.Next != "" {
		t += ". Next: " + p.Next
	}
	return t
}

type cursor struct {
	X int `json:"x"`
	Y int `json:"y"`
}

type img struct {
	MediaType string `json:"mediaType"`
	Data      []byte `json:"data"` // base64 in JSON
}

// outcome is what became of a request.
type outcome struct {
	results  []result
	shot     *result // the picture that ends it, if there is one
	approved bool    // a person approved what the provider asked
}

// problem is the first thing that was not done; status is empty if there is none.
func (o outcome) problem() (status string, p problem) {
	for _, r := range o.results {
		if r.Status != statusDone {
			return r.Status, r.problem
		}
	}
	return "", problem{}
}

// held is the problem of the action that waits for people, if there is one.
func (o outcome) held() problem {
	if _, p := o.problem(); p.Code == gate.CodeHeld {
		return p
	}
	return problem{}
}

// perform asks what the provider wants asked, runs the actions, and takes the
// picture that the format ends with. The picture is an action of its own, and is
// taken also after an action that was not done, so that the model can go on.
func (s *Server) perform(ctx context.Context, v view, req request, todo []planned) outcome {
	var o outcome
	if len(req.checks) > 0 {
		r := s.confirm(ctx, req, todo)
		o.results = append(o.results, r)
		if r.Status != statusDone {
			o.results = append(o.results, notExecuted(todo)...)
			return o
		}
		o.approved = true
	}
	o.results = append(o.results, s.execute(ctx, v, todo)...)
	if !req.shot {
		return o
	}
	if n := len(o.results); n > 0 && !req.where && o.results[n-1].Type == "screenshot" && o.results[n-1].Image != nil {
		o.shot = &o.results[n-1]
		return o
	}
	if _, p := o.problem(); p.Layer == action.LayerAuthority || p.Code == gate.CodeHeld {
		// The task ended, or a person has it: there is nothing to see. A held action
		// is bound to what was seen before it, so that it can be sent again.
		return o
	}
	if len(todo) > 0 {
		pass(ctx, s.settle)
	}
	r := result{Type: "screenshot", Status: statusDone}
	s.step(ctx, v, step{op: "screenshot", where: req.where}, &r)
	if r.Status == statusDone {
		o.shot = &r
	} else {
		o.results = append(o.results, r)
	}
	return o
}

func notExecuted(todo []planned) []result {
	var out []result
	for _, p := range todo {
		out = append(out, result{Type: p.action, Status: statusNotExecuted})
	}
	return out
}

// execute runs the planned actions in order and ends with the first that is not
// done.
func (s *Server) execute(ctx context.Context, v view, todo []planned) []result {
	out := make([]result, 0, len(todo))
	for i, p := range todo {
		r := result{Type: p.action, Status: statusDone}
		for _, st := range p.steps {
			s.step(ctx, v, st, &r)
			if r.Status != statusDone {
				break
			}
		}
		out = append(out, r)
		if r.Status != statusDone {
			out = append(out, notExecuted(todo[i+1:])...)
			break
		}
	}
	return out
}

// step decides and executes one primitive at its turn.
func (s *Server) step(ctx context.Context, v view, st step, r *result) {
	if why := s.order(st); why != nil {
		s.turnDown(ctx, st, why, r)
		return
	}
	switch st.op {
	case "screenshot", "zoom":
		s.picture(ctx, v, st, r)
	case "cursor_position", "wait":
		s.idle(ctx, v, st, r)
	case "home":
		s.home(ctx, r)
	default:
		s.input(ctx, st, r)
	}
}

// turnDown refuses a primitive that has no place at its turn, and records it.
func (s *Server) turnDown(ctx context.Context, st step, why *refusal, r *result) {
	s.malformed(ctx, s.actor, why.code, []byte(st.op))
	r.Status = statusDenied
	r.problem = problem{Code: why.code, Layer: action.LayerForm, Message: why.message, Next: why.next}
}

// order keeps presses and releases of the button in pairs. While it is down
// only what a drag by hand needs is accepted.
func (s *Server) order(st step) *refusal {
	switch {
	case st.op == "left_mouse_up" && !s.down:
		return refuse("stray_mouse_up", "the button is not down")
	case !s.down:
		return nil
	}
	switch st.op {
	case "left_mouse_up", "move", "screenshot", "zoom", "cursor_position", "wait":
		return nil
	}
	return &refusal{code: "button_is_down", message: "the left button is held down", next: "send left_mouse_up first"}
}

func (s *Server) action(op string, e action.Effect) action.Action { return s.by(s.actor, op, e) }

func (s *Server) by(actor, op string, e action.Effect) action.Action {
	a := action.Action{Tenant: s.c.Tenant, Task: s.c.Task, Agent: s.c.Agent, Actor: actor, Surface: action.Computer, Source: "harness",
		Operation: "computer." + op, Effect: e, Params: map[string]string{}}
	if actor != "" {
		a.Source = "person"
	}
	return a
}

// act passes the gate and reads the result. It reports whether the primitive
// was done.
func (s *Server) act(ctx context.Context, a action.Action, blobs []record.Blob, d gate.Dispatch, r *result) bool {
	res := s.c.Gate.Act(ctx, a, blobs, d)
	if res.Action.ID != "" {
		r.Actions = append(r.Actions, res.Action.ID)
	}
	r.decided = res.Decision
	switch {
	case res.Outcome == nil || res.Decision.Verdict != action.Allow:
		r.Status = statusDenied
		r.problem = problem{res.Decision.Code, res.Decision.Layer, res.Decision.Reason, res.Decision.Next, res.Question}
	case res.Outcome.State == action.Done:
		return true
	case res.Outcome.State == action.Failed:
		r.Status = statusFailed
		r.problem = problem{Code: "not_delivered", Layer: action.LayerDispatch, Message: res.Outcome.Detail, Next: "look at the screen and try again"}
	default:
		r.Status = statusUnknown
		r.problem = problem{Code: "unknown_outcome", Layer: action.LayerDispatch, Message: res.Outcome.Detail, Next: "look at the screen before anything else"}
	}
	return false
}

func (s *Server) failed(r *result, message string, err error) {
	slog.Warn(message, "task", s.c.Task, "error", err)
	r.Status = statusFailed
	r.problem = problem{Code: "screen_unavailable", Layer: action.LayerDispatch, Message: message, Next: "try again; if it stays so, close the task"}
}

// picture takes the picture, has it recorded as evidence of the decision, and
// only then lets it out.
func (s *Server) picture(ctx context.Context, v view, st step, r *result) {
	origin := ""
	if st.where {
		// Where the page cannot be told, it is not; the picture may still be.
		if t, err := s.c.Screen.GroundFocus(ctx); err == nil {
			origin = t.Element.TopOrigin
		}
	}
	shot, err := s.c.Screen.Screenshot(ctx)
	if err != nil {
		s.failed(r, "no picture of the screen could be taken", err)
		return
	}
	pic, err := v.render(shot, st.region)
	if err != nil {
		s.failed(r, "no picture of the screen could be made", err)
		return
	}
	a := s.action(st.op, action.Observe)
	a.Params["width"], a.Params["height"] = strconv.Itoa(v.w), strconv.Itoa(v.h)
	if st.op == "zoom" {
		a.Params["region"] = st.region.String()
	}
	if origin != "" {
		a.Params["topOrigin"] = origin
	}
	sum := canon.Digest(pic)
	a.Params["picture"] = string(sum)
	a.Digest = sum
	ok := s.act(ctx, a, []record.Blob{{Name: action.Screenshot, Type: "image/png", Data: pic}}, func(_ context.Context, p gate.Permit) action.Outcome {
		if err := p.Consume(canon.Digest(pic)); err != nil {
			return action.Outcome{State: action.Failed, Detail: err.Error()}
		}
		return action.Outcome{State: action.Done}
	}, r)
	if ok {
		r.Image, r.origin = &img{"image/png", pic}, origin
		s.shot = shot
		if s.actor == "" {
			s.seen = sum
		}
	}
}

// idle is what touches neither the page nor the picture.
func (s *Server) idle(ctx context.Context, v view, st step, r *result) {
	a := s.action(st.op, action.Observe)
	if st.op == "wait" {
		a.Params["millis"] = strconv.FormatInt(st.wait.Milliseconds(), 10)
	}
	f := form{Task: s.c.Task, Operation: a.Operation, Millis: st.wait.Milliseconds()}
	a.Digest = f.digest()
	ok := s.act(ctx, a, nil, func(ctx context.Context, p gate.Permit) action.Outcome {
		if err := p.Consume(f.digest()); err != nil {
			return action.Outcome{State: action.Failed, Detail: err.Error()}
		}
		if !pass(ctx, st.wait) {
			return action.Outcome{State: action.Failed, Detail: "the task or the caller ended"}
		}
		return action.Outcome{State: action.Done}
	}, r)
	if ok && st.op == "cursor_position" {
		p := v.back(s.cursor)
		r.Cursor = &cursor{p.X, p.Y}
	}
}

// home opens the start page.
func (s *Server) home(ctx context.Context, r *result) {
	a := s.action("home", action.Read)
	f := form{Task: s.c.Task, Operation: a.Operation}
	a.Digest = f.digest()
	s.act(ctx, a, nil, func(ctx context.Context, p gate.Permit) action.Outcome {
		if err := p.Consume(f.digest()); err != nil {
			return action.Outcome{State: action.Failed, Detail: err.Error()}
		}
		if err := s.c.Screen.Home(ctx); err != nil {
			return action.Outcome{State: action.Unknown, Detail: "the start page did not load"}
		}
		return action.Outcome{State: action.Done}
	}, r)
}
