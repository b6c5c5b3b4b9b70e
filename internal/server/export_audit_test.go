package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/reconcile"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/surface/egress"
)

// StartSignedIn is StartAsker with the task's credentials: inject puts its session into
// a request, as door 2 does.
func (s *Server) StartSignedIn(ctx context.Context, id string) (_ *Asker, inject func(*http.Request) error, err error) {
	t, err := s.tenant("")
	if err != nil {
		return nil, nil, err
	}
	inject, _, err = s.StartLeases(ctx, id)
	t.mu.RLock()
	defer t.mu.RUnlock()
	return &Asker{t.sessions[id]}, inject, err
}

// Do has the gate decide a request as the door of a browser does, and dispatches it.
func (a *Asker) Do(ctx context.Context, q action.Request, body string, dispatch func() action.Outcome) (gate.Result, error) {
	s := a.s
	q.BodyType, q.BodySize, q.BodyDigest = "application/x-www-form-urlencoded", int64(len(body)), canon.Digest([]byte(body))
	rec, err := recognizer{s.world.connectors, s.stage(), s.agent.apps}.Recognize(q, []byte(body))
	if err != nil {
		return gate.Result{}, err
	}
	x := egress.Name(action.Action{Surface: action.Egress, Source: "browser"}, q, rec)
	x.Explained, x.Tenant, x.Task, x.Agent = "a-0", s.t.name, s.task.ID, s.task.Agent
	x.Digest = q.BodyDigest
	return s.t.srv.gate.Act(ctx, x, nil, func(_ context.Context, p gate.Permit) action.Outcome {
		if err := p.Consume(x.Digest); err != nil {
			return action.Outcome{State: action.Failed, Detail: err.Error()}
		}
		return dispatch()
	}), nil
}

// reading is a reading of an application's log that has begun, from what is on record,
// and keeps others off until do is over.
func (s *Server) reading(ctx context.Context, connector string, do func(t *tenant, r *auditReading) error) error {
	t, err := s.tenant("")
	if err != nil {
		return err
	}
	x := t.auditOf(connector)
	x.reading.Lock()
	defer x.reading.Unlock()
	x.last = nil
	r, err := t.newAuditReading(ctx, t.current(), connector, nil)
	if err != nil {
		return err
	}
	return do(t, r)
}

// ReadAuditUnkept reads an application's log up to where a crash could cut it: what was
// found is not on record. It returns how much of it there was.
func (s *Server) ReadAuditUnkept(ctx context.Context, connector string) (bypass int, err error) {
	err = s.reading(ctx, connector, func(_ *tenant, r *auditReading) error {
		walk := r.state.Cursor.Walk(r.spec.Audit.Consecutive)
		page, err := r.page(ctx, walk.From())
		if err != nil {
			return err
		}
		fresh, err := walk.Page(places(page))
		for i, e := range page {
			if err == nil && fresh[i] {
				err = r.take(ctx, e)
			}
		}
		if err == nil {
			err = r.settle(ctx, time.Now(), time.Now())
		}
		bypass = len(r.found.Bypass)
		return err
	})
	return bypass, err
}

// KeepPairs puts n matched events on record, as one reading would, and returns how many
// the records have.
func (s *Server) KeepPairs(ctx context.Context, connector string, n int) (on int, err error) {
	err = s.reading(ctx, connector, func(t *tenant, r *auditReading) error {
		for i := range n {
			r.found.Matched = append(r.found.Matched, reconcile.Pair{Event: fmt.Sprint(1e9 + i), Action: fmt.Sprintf("a-%024d", i), Record: int64(1e9 + i)})
		}
		from := r.state.Records
		if err := r.keep(ctx, time.Now()); err != nil {
			return err
		}
		return t.log.Entries(ctx, from, func(e record.Entry) error {
			var b auditedBody
			if e.Type == "audit.matched" && json.Unmarshal(e.Body, &b) == nil {
				on += len(b.Pairs)
			}
			return nil
		})
	})
	return on, err
}

// OweLapse leaves a finding on record as a crash before its lapse does.
func (s *Server) OweLapse(ctx context.Context, connector, agent string) error {
	t, err := s.tenant("")
	if err != nil {
		return err
	}
	c, err := t.certs.Live(agent, action.Production)
	if err != nil {
		return err
	}
	var x auditState
	_, err = t.log.Append(ctx, record.Draft{Type: "audit.bypass", Actor: "sallyport", Body: auditedBody{V: 1, Connector: connector, Bypass: 1},
		Change: func(tx record.Tx) error {
			if err := tx.Get(kindAudit, connector, &x); err != nil {
				return err
			}
			x.Lapses = []auditLapse{{agent, c.ID, lapseBypass, "as the test says"}}
			return tx.Put(kindAudit, connector, x)
		}})
	return err
}

// AuditUnreadSince sets back when an application's log was read last.
func (s *Server) AuditUnreadSince(connector string, when time.Time) error {
	t, err := s.tenant("")
	if err != nil {
		return err
	}
	x := t.auditOf(connector)
	t.auditMu.Lock()
	defer t.auditMu.Unlock()
	x.read, x.since = when, when
	return nil
}

// FillNotes puts n notes at the CRM on record, as done, of agent helpdesk, from the first
// on, and has the clock of records be right to the second.
func (s *Server) FillNotes(ctx context.Context, first, n int) error {
	t, err := s.tenant("")
	if err != nil {
		return err
	}
	auditApart = 0
	errs := make(chan error, n)
	for i := first; i < first+n; i++ {
		go func() {
			a := action.Action{ID: fmt.Sprint("a-", i), Agent: "helpdesk", Surface: action.Egress, Operation: "crm.note.add", App: "crm", Effect: action.Write, Params: map[string]string{"note": fmt.Sprint(i)}}
			_, err := t.log.Append(ctx, record.Draft{Type: "action.decided", Agent: "helpdesk", Actor: "agent:helpdesk", Body: gate.Decided{Action: a, Decision: action.Decision{Verdict: action.Allow}, Stage: action.Production}})
			if err == nil {
				_, err = t.log.Append(ctx, record.Draft{Type: "action.outcome", Agent: "helpdesk", Actor: "agent:helpdesk", Body: map[string]any{"action": a.ID, "outcome": action.Outcome{State: action.Done, Status: 200}}})
			}
			errs <- err
		}()
	}
	for range n {
		err = errors.Join(err, <-errs)
	}
	return err
}

// WorstAuditState is how large the state of one log can become, in bytes.
func WorstAuditState() (int, error) {
	text := connector.Quoted(strings.Repeat("\\", 1000))
	params := map[string]string{}
	for i := range 64 {
		params[fmt.Sprintf("%063d", i)] = strings.Repeat("\\", 1000)
	}
	now, d := time.Now(), canon.Digest(nil)
	s := auditState{}
	for range reconcile.MaxPending {
		s.Pending.Decided(reconcile.Effect{Action: "a-" + strings.Repeat("0", 30), Record: 1 << 50, Agent: strings.Repeat("a", 63), Task: "t-" + strings.Repeat("0", 30), Operation: strings.Repeat("a", 200), Params: shown(params), Same: d, Decided: now, Settled: now, Done: true, Person: true})
		s.Pending.Seen(reconcile.Event{ID: text, Time: now, Actor: text, Agents: []string{strings.Repeat("a", 63)}, Name: text, Operation: strings.Repeat("a", 200), Params: shown(params), Same: d})
	}
	for range reconcile.MaxTail {
		s.Cursor.Tail = append(s.Cursor.Tail, reconcile.Line{ID: text, Digest: d, Time: now})
	}
	for range auditListed {
		s.Findings = append(s.Findings, AuditFinding{Kind: AuditBypass, At: now, Agents: []string{strings.Repeat("a", 63)}, Event: text, Name: text, Time: now, Actor: text, Operation: strings.Repeat("a", 200), Params: shown(params), Why: "nothing on record explains it"})
	}
	b, err := canon.Marshal(s)
	return len(b), err
}

// LeaseRevokedBefore sets back when a lease was revoked.
func (s *Server) LeaseRevokedBefore(ctx context.Context, label string, d time.Duration) error {
	t, err := s.tenant("")
	if err != nil {
		return err
	}
	l, err := t.leases.Labelled(ctx, label)
	if err != nil {
		return err
	}
	l.Since = l.Since.Add(-d)
	_, err = t.log.Append(ctx, record.Draft{Type: "lease.revoked", Task: l.Task, Agent: l.Agent, Body: l, Change: func(tx record.Tx) error { return tx.Put("lease.over", l.ID, l) }})
	return err
}

// LeaseLabel is how the credential of a task's lease is marked at its application.
func (s *Server) LeaseLabel(ctx context.Context, task, source string) (string, error) {
	t, err := s.tenant("")
	if err != nil {
		return "", err
	}
	all, err := t.leases.All(ctx)
	for _, l := range all {
		if l.Task == task && l.Source == source {
			return l.Label, err
		}
	}
	return "", err
}
