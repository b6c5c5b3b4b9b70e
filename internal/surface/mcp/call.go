package mcp

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"sync"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// call is one call of a tool.
type call struct {
	s         *Door
	u         *upstream
	tool      string
	arguments []byte // canonical: what is decided, and what is sent

	result map[string]any // of the server
	code   string         // why there is none, though it was allowed
	why    string
}

func (s *Door) call(w http.ResponseWriter, r *http.Request, q *request) {
	if q.Name == nil || len(*q.Name) > maxID {
		s.malformed(r.Context(), "bad_params", q.raw, nil)
		s.refuse(w, q, &refusal{http.StatusOK, codeInvalidParams, "bad_params", "name is the name of a tool"})
		return
	}
	c := &call{s: s, u: s.tools[*q.Name], tool: *q.Name, arguments: []byte("{}")}
	if len(q.Arguments) > 0 {
		var err error
		if c.arguments, err = canon.Marshal(q.Arguments); err != nil {
			s.denied(w, q, s.malformed(r.Context(), "bad_arguments", q.raw, nil), "")
			return
		}
		if len(c.arguments) > maxArguments {
			s.denied(w, q, s.malformed(r.Context(), "arguments_too_large", q.raw, nil), "send less at once")
			return
		}
	}
	if c.u == nil { // declared by nobody: to what it would be is for nobody to say
		a := s.action("mcp.unmatched", action.Write, "")
		a.Params["tool"] = plain(c.tool)
		a.Digest = form{"", q.Method, c.tool, canon.Digest(c.arguments)}.digest()
		s.denied(w, q, s.c.Gate.Act(r.Context(), a, nil, c.nothing), "see tools/list: the task has those and no others")
		return
	}
	m, err := s.c.Recognize(c.u.App, c.tool, c.arguments)
	if err != nil {
		m.Code = "not_recognisable"
	}
	shown := c.u.shown(c.tool)
	if m.Code == "" && shown != nil && !shown.schema.valid(c.arguments) {
		m.Code, m.Why = "schema", "the arguments do not fit the tool's own schema"
	}
	if m.Code != "" {
		res := s.malformed(r.Context(), m.Code, c.arguments, map[string]string{"app": c.u.App, "tool": c.tool})
		if res.Decision.Layer == action.LayerForm {
			res.Decision.Reason = m.Why
		}
		s.denied(w, q, res, "call it with the arguments that its connector declares")
		return
	}
	a := s.action(m.Operation, m.Effect, c.u.App)
	maps.Copy(a.Params, m.Params)
	a.Labels, a.Digest = m.Labels, c.form().digest()
	blobs := []record.Blob{{Name: "tool-arguments", Type: "application/json", Data: c.arguments}}
	res := s.c.Gate.Act(gate.WithPatience(r.Context(), s.c.Patience), a, blobs, c.dispatch)
	switch {
	case c.result != nil:
		s.answer(w, q, c.result)
	case c.code != "":
		next := "nothing was sent; try again later"
		if res.Outcome.State == action.Unknown {
			next = "look whether it took effect before you try again"
		}
		res.Decision = action.Denied(action.LayerDispatch, c.code, c.why, next)
		s.denied(w, q, res, "")
	default:
		s.denied(w, q, res, "")
	}
}

func (c *call) form() form {
	return form{c.u.URL, "tools/call", c.tool, canon.Digest(c.arguments)}
}

// nothing is the dispatch of what can have no effect.
func (c *call) nothing(context.Context, gate.Permit) action.Outcome {
	return action.Outcome{State: action.Failed, Detail: "there is no such tool"}
}

func (c *call) failed(state, code, why string) action.Outcome {
	c.code, c.why = code, why
	return action.Outcome{State: state, Detail: code + ": " + why}
}

// dispatch does the effect. The gate calls it once, after the decision is durable.
func (c *call) dispatch(ctx context.Context, permit gate.Permit) action.Outcome {
	if err := permit.Consume(c.form().digest()); err != nil {
		return c.failed(action.Failed, "permit_refused", err.Error())
	}
	v, code, why := c.s.visit(ctx, c.u, permit)
	if code != "" {
		return c.failed(action.Failed, code, why)
	}
	defer c.u.leave(ctx, &v.session, v.put)
	switch d := v.tools[c.tool]; {
	case d == nil:
		return c.failed(action.Failed, "no_such_tool", "the server does not list the tool in a form that can be used")
	case !d.schema.valid(c.arguments):
		return c.failed(action.Failed, "schema", "the arguments do not fit the tool's own schema")
	}
	return c.send(ctx, v)
}

// codeDrift is the code of what a drift kept from being sent.
const codeDrift = "drift"

// send calls the tool, once. After this the server may have acted, so only its own word
// makes the outcome known.
func (c *call) send(ctx context.Context, v *visit) action.Outcome {
	ctx, cancel := context.WithTimeout(ctx, c.u.timeout)
	defer cancel()
	raw, err := c.u.ask(ctx, &v.session, "tools/call", c.tool, map[string]any{"name": c.tool, "arguments": canon.Value(c.arguments)}, v.put)
	var said *rpcError
	switch {
	case errors.Is(err, errDrift): // in the handshake of another connection
		return c.failed(action.Failed, codeDrift, "the server or its tools are not those that were certified")
	case errors.Is(err, errNotSent):
		return c.failed(action.Failed, "upstream_failed", err.Error())
	case errors.As(err, &said): // how far it came is the server's secret
		c.result = refused(said, c.s.c.Redact)
		return action.Outcome{State: action.Unknown, Detail: said.Error()}
	case err != nil:
		return c.failed(action.Unknown, "upstream_failed", "after the call may have been made: "+err.Error())
	}
	result, note, err := pass(raw, c.s.c.Redact)
	if err != nil {
		return c.failed(action.Unknown, "answer_refused", "the call was made: "+err.Error())
	}
	c.result = result
	if result["isError"] == true {
		return action.Outcome{State: action.Unknown, Detail: "the tool says that it failed"}
	}
	return action.Outcome{State: action.Done, Detail: note}
}

func (s *Door) credentials(ctx context.Context, u *upstream, id string) (put, error) {
	if s.c.Credentials == nil {
		return nil, nil
	}
	return s.c.Credentials(ctx, u.App, id)
}

// denied answers a call that had no effect, or none that is known: as a result, so that
// the model reads why.
func (s *Door) denied(w http.ResponseWriter, q *request, res gate.Result, next string) {
	d := res.Decision
	if d.Verdict == action.Allow && res.Outcome != nil { // permitted, and the fence closed or the door broke
		code := "not_dispatched"
		if res.Outcome.State == action.Unknown {
			code = "outcome_unknown"
		}
		d = action.Denied(action.LayerDispatch, code, res.Outcome.Detail, "")
	}
	if next == "" {
		next = d.Next
	}
	text := "sallyport: " + d.Code + " (" + string(d.Layer) + "): " + d.Reason
	if next != "" {
		text += ". Next: " + next
	}
	meta := map[string]any{"code": d.Code, "layer": d.Layer, "reason": d.Reason, "next": next, "action": res.Action.ID}
	if res.Question != "" {
		meta["question"] = res.Question
	}
	s.answer(w, q, map[string]any{"isError": true, "content": []any{map[string]any{"type": "text", "text": text}}, "_meta": map[string]any{"sallyport.dev/decision": meta}})
}

// list answers with the tools of the grant, as they were measured just now. A server
// that cannot be looked at has none; if none can, that is an error.
func (s *Door) list(w http.ResponseWriter, r *http.Request, q *request) {
	if q.Cursor != "" {
		s.malformed(r.Context(), "bad_cursor", q.raw, nil)
		s.refuse(w, q, &refusal{http.StatusOK, codeInvalidParams, "bad_cursor", "there is one page"})
		return
	}
	seen := make([]struct {
		x *sight
		d *action.Decision
	}, len(s.servers))
	var wg sync.WaitGroup
	for i, u := range s.servers { // at once: one that is slow keeps back none of the others
		wg.Go(func() { seen[i].x, seen[i].d = s.look(r.Context(), u) })
	}
	wg.Wait()
	tools := []any{}
	var last *action.Decision
	listed := false
	for i, u := range s.servers {
		if seen[i].d != nil {
			last = seen[i].d
			continue
		}
		listed = true
		for _, name := range slices.Sorted(maps.Keys(seen[i].x.tools)) {
			if !u.Granted[name] {
				continue
			}
			text, err := s.give(r.Context(), u.App, seen[i].x.tools[name])
			if err != nil {
				s.fail(w, q, http.StatusOK, codeDenied, "sallyport: not_given: what the list says could not be put on record", map[string]any{"code": "not_given", "next": "try again later"})
				return
			}
			tools = append(tools, text)
		}
	}
	if !listed && last != nil {
		text := "sallyport: " + last.Code + " (" + string(last.Layer) + "): " + last.Reason
		s.fail(w, q, http.StatusOK, codeDenied, text, map[string]any{"code": last.Code, "layer": last.Layer, "next": last.Next})
		return
	}
	result := map[string]any{"tools": tools}
	if q.modern {
		result["ttlMs"], result["cacheScope"] = 0, "private"
	}
	s.answer(w, q, result)
}

// look is a listing as an action of its own.
func (s *Door) look(ctx context.Context, u *upstream) (*sight, *action.Decision) {
	f := form{URL: u.URL, Method: "tools/list"}
	a := s.action("mcp.list", action.Read, u.App)
	a.Params["endpoint"], a.Digest = u.URL, f.digest()
	var x *sight
	var why *action.Decision
	failed := func(code, text string) action.Outcome {
		d := action.Denied(action.LayerDispatch, code, text, "try again later")
		why = &d
		return action.Outcome{State: action.Failed, Detail: code + ": " + text}
	}
	res := s.c.Gate.Act(ctx, a, nil, func(ctx context.Context, permit gate.Permit) action.Outcome {
		if err := permit.Consume(f.digest()); err != nil {
			return failed("permit_refused", err.Error())
		}
		v, code, why := s.visit(ctx, u, permit)
		if code != "" {
			return failed(code, why)
		}
		u.leave(ctx, &v.session, v.put)
		x = v.sight
		return action.Outcome{State: action.Done}
	})
	switch {
	case x != nil:
		return x, nil
	case why != nil:
		return nil, why
	}
	return nil, &res.Decision
}
