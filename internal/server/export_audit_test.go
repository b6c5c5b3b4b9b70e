package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
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

// ReadAuditUnkept reads an application's log up to where a crash could cut it: what was
// found is not on record. It returns how much of it there was.
func (s *Server) ReadAuditUnkept(ctx context.Context, connector string) (bypass int, err error) {
	t, err := s.tenant("")
	if err != nil {
		return 0, err
	}
	x := t.auditOf(connector)
	x.reading.Lock()
	defer x.reading.Unlock()
	r, err := t.newAuditReading(ctx, t.current(), connector, nil)
	if err != nil {
		return 0, err
	}
	walk := r.state.Cursor.Walk(r.spec.Audit.Consecutive)
	page, err := r.page(ctx, walk.From())
	if err != nil {
		return 0, err
	}
	fresh, err := walk.Page(places(page))
	for i, e := range page {
		if err == nil && fresh[i] {
			err = r.take(ctx, e)
		}
	}
	if err == nil {
		err = r.settle(ctx, time.Now())
	}
	return len(r.found.Bypass), err
}

// KeepPairs puts n matched events on record, as one reading would, and returns how many
// the records have.
func (s *Server) KeepPairs(ctx context.Context, connector string, n int) (on int, err error) {
	t, err := s.tenant("")
	if err != nil {
		return 0, err
	}
	x := t.auditOf(connector)
	x.reading.Lock()
	defer x.reading.Unlock()
	r, err := t.newAuditReading(ctx, t.current(), connector, nil)
	if err != nil {
		return 0, err
	}
	x.last = nil
	for i := range n {
		r.found.Matched = append(r.found.Matched, reconcile.Pair{Event: fmt.Sprint(1e9 + i), Action: fmt.Sprintf("a-%024d", i), Record: int64(1e9 + i)})
	}
	from := r.state.Records
	if err := r.keep(ctx, time.Now()); err != nil {
		return 0, err
	}
	err = t.log.Entries(ctx, from, func(e record.Entry) error {
		var b auditedBody
		if e.Type == "audit.matched" && json.Unmarshal(e.Body, &b) == nil {
			on += len(b.Pairs)
		}
		return nil
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
