package server

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// A person takes a session over: from then on the agent does nothing by hand and
// sees nothing of the screen, and what the person does passes the same gate, under
// the same guardrails, grant and holds, as theirs. The page and the model go on.
//
// Order of a take-over: the browser's protocol is muted; the gate refuses the
// agent and cuts what it was doing; session.taken is recorded; then the person
// may act. Of a give-back: the person's last act has ended; session.returned is
// recorded; then the agent may act. If it cannot be recorded nobody may, and it
// is tried again. A crash ends the task, and with it the take-over.

// How long a person may have a session.
const (
	takeOverTime = 15 * time.Minute // unless they say otherwise
	maxTakeOver  = time.Hour
	passLimit    = 15 * time.Second // for what is being done to end
	maxWhy       = 500              // bytes of a reason
)

// TakeOver is a session in a person's hand: the body of session.taken.
type TakeOver struct {
	Task   string    `json:"task"`
	Person string    `json:"person"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
}

// returned is the body of session.returned.
type returned struct {
	Task   string `json:"task"`
	Person string `json:"person"` // who had it
	By     string `json:"by"`     // who ended it: a person, or sallyport
	Why    string `json:"why"`    // given_back, time_limit or task_ended
	Reason string `json:"reason,omitempty"`
}

func (o *TakeOver) actor() string { return "person:" + o.Person }

// nobody has the session while it is given back.
const nobody = "sallyport"

// takeover is the part of a session that says who has it.
type takeover struct {
	mu   sync.Mutex // one change at a time; held while what is being done ends
	over atomic.Pointer[TakeOver]
	back bool // nobody has it: session.returned is to be recorded
}

// Take gives a running session to the person who calls: the agent's owner or
// deputy, or an operator. It returns when the agent has stopped.
func (s *Server) Take(ctx context.Context, tenantName string, c Caller, id, reason string, d time.Duration) (TakeOver, error) {
	x, person, err := s.inPerson(tenantName, c, id)
	if err != nil {
		return TakeOver{}, err
	}
	if reason == "" || len(reason) > maxWhy {
		return TakeOver{}, problem(Invalid, "bad_reason", "to take a session over needs a reason, of at most "+strconv.Itoa(maxWhy)+" bytes", "add --reason")
	}
	if d == 0 {
		d = takeOverTime
	}
	if d < time.Second || d > maxTakeOver {
		return TakeOver{}, problem(Invalid, "bad_duration", "a session is taken over for a second to an hour", "name a time in between")
	}
	now := time.Now().UTC()
	return x.take(ctx, TakeOver{Task: id, Person: person, Reason: reason, Since: now, Until: now.Add(d)})
}

// inPerson is the running session of a task, and the calling person, if they may
// take it over.
func (s *Server) inPerson(tenantName string, c Caller, id string) (*session, string, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, "", err
	}
	person, roles, err := t.identify(c)
	if err != nil {
		return nil, "", err
	}
	t.mu.RLock()
	x := t.sessions[id]
	t.mu.RUnlock()
	if x == nil || !x.up.Load() {
		return nil, "", problem(NotFound, "not_running", "no session of task "+strconv.Quote(id)+" is running", "see: sallyport task list")
	}
	if person != x.agent.owner && person != x.agent.deputy && !slices.Contains(roles, resource.RoleOperations) {
		return nil, "", problem(Refused, "role_missing", person+" may not take the session over: it takes the agent's owner or deputy, or the role "+string(resource.RoleOperations),
			"ask "+x.agent.owner+" or "+x.agent.deputy)
	}
	return x, person, nil
}

func (s *session) take(ctx context.Context, o TakeOver) (TakeOver, error) {
	s.hand.mu.Lock()
	defer s.hand.mu.Unlock()
	if has := s.hand.over.Load(); has != nil {
		return TakeOver{}, problem(Refused, "taken_already", has.Person+" has taken the session over until "+has.Until.Format(time.RFC3339),
			"wait, or give it back: sallyport task give-back "+o.Task)
	}
	if s.protocol != nil {
		s.protocol.Mute()
	}
	err := s.pass(ctx, "", o.actor())
	if err == nil {
		_, err = s.t.log.Append(ctx, record.Draft{Type: "session.taken", Task: s.task.ID, Agent: s.task.Agent, Actor: o.actor(), Body: o})
		if err != nil {
			err = errors.Join(err, s.pass(ctx, o.actor(), ""))
		}
	}
	if err != nil {
		if s.protocol != nil {
			s.protocol.Unmute()
		}
		return TakeOver{}, err
	}
	s.hand.over.Store(&o)
	return o, nil
}

func (s *session) pass(ctx context.Context, from, to string) error {
	ctx, cancel := context.WithTimeout(ctx, passLimit)
	defer cancel()
	err := s.t.srv.gate.Pass(ctx, s.t.name, s.task.ID, from, to)
	if errors.Is(err, gate.ErrNotRunning) {
		return problem(Refused, "not_running", "the task has ended", "see: sallyport task show "+s.task.ID)
	}
	return err
}

// GiveBack returns a session to its agent. Whoever may take it may give it back,
// also for somebody who has gone.
func (s *Server) GiveBack(ctx context.Context, tenantName string, c Caller, id, reason string) (TakeOver, error) {
	x, person, err := s.inPerson(tenantName, c, id)
	if err != nil {
		return TakeOver{}, err
	}
	o := x.hand.over.Load()
	if o == nil {
		return TakeOver{}, notTaken(id)
	}
	if len(reason) > maxWhy {
		return TakeOver{}, problem(Invalid, "bad_reason", "a reason has at most "+strconv.Itoa(maxWhy)+" bytes", "say it shorter")
	}
	return *o, x.giveBack(ctx, o, returned{By: person, Why: "given_back", Reason: reason})
}

func notTaken(id string) error {
	return problem(NotFound, "not_taken", "the session is in its agent's hand", "take it over: sallyport task take "+id)
}

// giveBack ends a take-over, if it is still this one.
func (s *session) giveBack(ctx context.Context, o *TakeOver, r returned) error {
	s.hand.mu.Lock()
	defer s.hand.mu.Unlock()
	if s.hand.over.Load() != o {
		return notTaken(o.Task)
	}
	if !s.hand.back {
		if err := s.pass(ctx, o.actor(), nobody); err != nil {
			return err
		}
		s.hand.back = true
	}
	if err := s.recordReturn(ctx, o, r); err != nil {
		return err
	}
	if s.protocol != nil {
		s.protocol.Unmute()
	}
	return s.pass(ctx, nobody, "")
}

// endTakeOver records the end of a take-over by the end of its task, after the
// gate has let nobody act any more. What cannot be recorded ends all the same.
func (s *session) endTakeOver(ctx context.Context, why string) {
	s.hand.mu.Lock()
	defer s.hand.mu.Unlock()
	if o := s.hand.over.Load(); o != nil {
		if err := s.recordReturn(ctx, o, returned{By: "sallyport", Why: "task_ended", Reason: why}); err != nil {
			s.t.srv.log.Warn("the end of a take-over could not be recorded", "task", s.task.ID, "err", err)
		}
	}
}

func (s *session) recordReturn(ctx context.Context, o *TakeOver, r returned) error {
	r.Task, r.Person = o.Task, o.Person
	who := "sallyport"
	if r.By != who {
		who = "person:" + r.By
	}
	_, err := s.t.log.Append(ctx, record.Draft{Type: "session.returned", Task: s.task.ID, Agent: s.task.Agent, Actor: who, Body: r})
	if err == nil {
		s.hand.back = false
		s.hand.over.Store(nil)
	}
	return err
}

// TakenOver says who has a session; not_taken if it is its agent.
func (s *Server) TakenOver(tenantName, id string) (TakeOver, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return TakeOver{}, err
	}
	t.mu.RLock()
	x := t.sessions[id]
	t.mu.RUnlock()
	if x != nil {
		if o := x.hand.over.Load(); o != nil {
			return *o, nil
		}
	}
	return TakeOver{}, notTaken(id)
}

// ActInPerson does actions in the computer surface's neutral form for whoever has
// taken the session over, and answers in that form.
func (s *Server) ActInPerson(ctx context.Context, tenantName string, c Caller, id string, body []byte) ([]byte, error) {
	x, person, err := s.inPerson(tenantName, c, id)
	if err != nil {
		return nil, err
	}
	o := x.hand.over.Load()
	switch {
	case o == nil:
		return nil, notTaken(id)
	case o.Person != person:
		return nil, problem(Refused, "not_in_hand", o.Person+" has the session in hand", "wait, or give it back: sallyport task give-back "+id)
	case !time.Now().Before(o.Until):
		return nil, problem(Refused, "time_limit", "the time of the take-over is over", "take it over again: sallyport task take "+id)
	}
	// The time limit cuts what lasts longer, as a hold may.
	ctx, cancel := context.WithDeadline(ctx, o.Until)
	defer cancel()
	out, no := x.screen.Person(ctx, o.actor(), body)
	if no != nil {
		return nil, problem(Invalid, no.Code, no.Reason, no.Next)
	}
	return out, nil
}

// expireTakeOvers gives back what was taken for a time that is over.
func (t *tenant) expireTakeOvers(ctx context.Context) error {
	t.mu.RLock()
	running := make([]*session, 0, len(t.sessions))
	for _, s := range t.sessions {
		running = append(running, s)
	}
	t.mu.RUnlock()
	var errs []error
	for _, s := range running {
		if o := s.hand.over.Load(); o != nil && (s.returning() || !time.Now().Before(o.Until)) {
			errs = append(errs, s.giveBack(ctx, o, returned{By: "sallyport", Why: "time_limit"}))
		}
	}
	return errors.Join(errs...)
}

// returning reports whether a give-back waits for its record.
func (s *session) returning() bool {
	if !s.hand.mu.TryLock() {
		return false
	}
	defer s.hand.mu.Unlock()
	return s.hand.back
}
