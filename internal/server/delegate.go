package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/capability"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// An agent opens parts of its own task for other agents, as far as its capability
// says, at a door inside its session (SALLYPORT_TASKS_URL). The task above is the
// one that the door belongs to: no request names it, so none can name another.
// Nothing is granted here: open() and part() check what they check of a person's
// request, the gate decides what the part does by every task above it, and the
// harness that runs is the one that the other agent declares.
//
// Order: asked for, counted; task.opened with the chain, in the transaction that
// sees the task above running; then the harness starts. A refusal is task.refused.
// A crash after task.opened leaves a proposed task that nobody starts.

// Limits of the parts that agents open.
const (
	maxParts     = 8  // not over at once, of one task at the top: each has a browser
	maxPartAsked = 32 // asked for by one task, granted or not: each is a record
	maxPartBody  = 16 << 10
)

// delegation is the body of POST /tasks.
type delegation struct {
	Agent      string            `json:"agent"`
	Capability string            `json:"capability"`
	Params     map[string]string `json:"params"`
}

// partState is what an agent is told of a part.
type partState struct {
	Task       string     `json:"task"`
	Agent      string     `json:"agent"`
	Capability string     `json:"capability"`
	State      task.State `json:"state"`
	Code       string     `json:"code,omitempty"`
	Why        string     `json:"why,omitempty"`
}

// refusedPart is the body of task.refused. The parameters are not in it: nobody
// has checked them.
type refusedPart struct {
	V          int      `json:"v"`
	Chain      []string `json:"chain"` // the tasks that the part would have had above it
	Agent      string   `json:"agent"`
	Capability string   `json:"capability"`
	Code       string   `json:"code"`
	Why        string   `json:"why"`
}

// delegates reports whether there is a door for parts inside.
func (s *session) delegates() bool { return len(s.instance.Delegates) > 0 }

func (s *session) partRoutes(mux *http.ServeMux) {
	handle := func(pattern string, status int, f func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxPartBody)
			code := status
			v, err := f(r)
			if err != nil {
				v, code = s.partProblem(r.Context(), err)
			}
			h := w.Header()
			h.Set("Content-Type", "application/json")
			h.Set("Cache-Control", "no-store")
			w.WriteHeader(code)
			json.NewEncoder(w).Encode(v)
		})
	}
	handle("POST /tasks", http.StatusCreated, func(r *http.Request) (any, error) {
		var in delegation
		media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err != nil || media != "application/json" {
			return nil, problem(Invalid, "invalid_body", "want application/json", "send agent, capability and params")
		}
		b, err := io.ReadAll(r.Body)
		if err == nil {
			err = canon.Unmarshal(b, maxPartBody, &in)
		}
		if err != nil {
			return nil, problem(Invalid, "invalid_body", "the body is not the JSON that is wanted here: "+err.Error(), "send agent, capability and params")
		}
		x, err := s.delegate(r.Context(), in)
		return stateOf(x), err
	})
	handle("GET /tasks/{id}", http.StatusOK, func(r *http.Request) (any, error) {
		x, err := s.ownPart(r.Context(), r.PathValue("id"))
		return stateOf(x), err
	})
	handle("DELETE /tasks/{id}", http.StatusOK, func(r *http.Request) (any, error) {
		x, err := s.ownPart(r.Context(), r.PathValue("id"))
		if err != nil {
			return nil, err
		}
		by := "agent:" + s.task.Agent
		x, err = s.t.tasks.Close(r.Context(), x.ID, task.Closed, "closed", "closed by the agent of the task above", by)
		if err != nil && x.State == task.Closing { // goes on by itself, and shows
			err = nil
		}
		return stateOf(x), err
	})
}

func stateOf(x task.Task) partState {
	return partState{Task: x.ID, Agent: x.Agent, Capability: x.Capability, State: x.State, Code: x.Code, Why: x.Why}
}

// ownPart is a part of this task that its agent opened. Another task is no task.
func (s *session) ownPart(ctx context.Context, id string) (task.Task, error) {
	x, err := s.t.tasks.Get(ctx, id)
	if err != nil && !errors.Is(err, task.ErrUnknown) {
		return task.Task{}, err
	}
	if err != nil || x.Parent() != s.task.ID || x.OpenedBy == "" {
		return task.Task{}, problem(NotFound, "no_such_task", "this task's agent opened no part "+strconv.Quote(id), "name one that it opened")
	}
	return x, nil
}

// delegate opens a part and starts its agent.
func (s *session) delegate(ctx context.Context, in delegation) (task.Task, error) {
	n := s.asked.Add(1)
	if n > maxPartAsked+1 {
		return task.Task{}, errFlood
	}
	x, err := task.Task{}, error(errFlood)
	if n <= maxPartAsked {
		x, err = s.openPart(ctx, in)
	}
	if p, ok := errors.AsType[*Problem](err); ok {
		_, rec := s.t.log.Append(context.WithoutCancel(ctx), record.Draft{Type: "task.refused", Task: s.task.ID, Agent: s.task.Agent, Actor: "agent:" + s.task.Agent,
			Body: refusedPart{V: 1, Chain: s.below(), Agent: clipped(in.Agent), Capability: clipped(in.Capability), Code: p.Code, Why: p.Reason}})
		return x, errors.Join(err, rec)
	}
	return x, err
}

var errFlood = problem(Refused, "too_many_parts", "the task has asked for "+strconv.Itoa(maxPartAsked)+" parts", "go on without more")

// below is the chain of a part of this task.
func (s *session) below() []string { return append([]string{s.task.ID}, s.task.Chain...) }

// clipped bounds a name that nobody has checked.
func clipped(s string) string { return string([]rune(s)[:min(len([]rune(s)), 63)]) }

func (s *session) openPart(ctx context.Context, in delegation) (x task.Task, err error) {
	if err := s.mayDelegate(ctx, in); err != nil {
		return x, err
	}
	release, err := s.t.reserve(s.task.Top())
	if err != nil {
		return x, err
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	x, err = s.t.open(ctx, s.task.Requester, Intent{Agent: in.Agent, Capability: in.Capability, Params: in.Params, Stage: s.task.Stage, Parent: s.task.ID, openedBy: s.task.Agent})
	if err != nil {
		return x, err
	}
	s.t.srv.background(func(ctx context.Context) {
		defer release()
		s.t.runPart(ctx, x)
	})
	return x, nil
}

// mayDelegate: the agent has the session and authority now, its capability
// declares the other agent, which is not above it already, and the person for
// whom the task runs may still ask for tasks.
func (s *session) mayDelegate(ctx context.Context, in delegation) error {
	if s.hand.over.Load() != nil {
		return problem(Refused, "taken_over", "a person has the session", "wait until it is given back")
	}
	if _, err := (authority{s.t}).running(ctx, s.t.name, s.task.ID); err != nil {
		return problem(Refused, "no_authority", "the task has no authority to act now", "nothing more can be done in it")
	}
	if !slices.Contains(s.instance.Delegates, capability.Delegate{Agent: in.Agent, Capability: in.Capability}) {
		return problem(Refused, "not_delegated", "the capability "+s.task.Capability+" gives nothing of that kind to another agent", "see delegates of the capability")
	}
	for _, id := range s.below() {
		x, err := s.t.tasks.Get(ctx, id)
		if err != nil {
			return err
		}
		if x.Agent == in.Agent {
			return problem(Refused, "agent_above", "agent "+in.Agent+" works on the task or on one above it already", "give it to an agent that does not")
		}
	}
	if p := s.t.current().people[s.task.Requester]; p == nil || !slices.Contains(p.Roles, resource.RoleRequester) {
		return problem(Refused, "requester_gone", s.task.Requester+" may no longer open tasks", "end the task; somebody who may opens a new one")
	}
	return nil
}

// reserve counts a part in, under the task at the top.
func (t *tenant) reserve(top string) (release func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.parts[top] >= maxParts {
		return nil, problem(Refused, "too_many_parts", strconv.Itoa(maxParts)+" parts of it are not over", "wait for one to end, or end one")
	}
	t.parts[top]++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.parts[top]--; t.parts[top] == 0 {
			delete(t.parts, top)
		}
	}, nil
}

// runPart runs the declared harness of a part's agent, to its end.
func (t *tenant) runPart(ctx context.Context, x task.Task) {
	a := t.current().agents[x.Agent]
	if a == nil {
		t.endTask(x.ID, task.Revoked, "changed", "the agent is no longer declared")
		return
	}
	h, err := a.harness()
	if err != nil {
		t.endTask(x.ID, task.Revoked, "not_started", err.Error())
		return
	}
	running, err := t.run(ctx, x.ID, h)
	if err != nil {
		t.srv.log.Warn("a part of a task did not start", "task", x.ID, "err", err)
		// If it was refused before its start it is proposed still.
		t.endTask(x.ID, task.Revoked, "not_started", err.Error())
		return
	}
	if _, _, err := running.Wait(ctx); err != nil {
		t.srv.log.Warn("a part of a task is still ending", "task", x.ID, "err", err)
	}
}

// partProblem makes of any error what the agent may see, and its status.
func (s *session) partProblem(ctx context.Context, err error) (*Problem, int) {
	p, ok := errors.AsType[*Problem](err)
	switch {
	case !ok:
		if ctx.Err() == nil {
			s.t.srv.log.Error("parts of a task", "task", s.task.ID, "err", err)
		}
		return problem(Refused, "boundary_fault", "the boundary itself failed; nothing was opened", "the operator finds it in the server's log"), http.StatusInternalServerError
	case p.Code == "too_many_parts":
		return p, http.StatusTooManyRequests
	case p.Kind == Invalid:
		return p, http.StatusBadRequest
	case p.Kind == NotFound:
		return p, http.StatusNotFound
	}
	return p, http.StatusForbidden
}
