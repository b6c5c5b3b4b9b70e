package server

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// Reconciliation is how an application's own audit log agrees with the records.
type Reconciliation struct {
	Connector string    `json:"connector"`
	Log       string    `json:"log,omitempty"` // empty: none is declared
	Every     string    `json:"every,omitempty"`
	Began     time.Time `json:"began,omitzero"`
	Read      time.Time `json:"read,omitzero"`     // the last time to its end
	Failing   string    `json:"failing,omitempty"` // why it cannot be read now
	Stale     bool      `json:"stale"`             // it was not read for too long
	Last      string    `json:"last,omitempty"`    // event
	Matched   int64     `json:"matched"`           // events, each with a record of its own
	Bypass    int64     `json:"bypass"`            // events that nothing on record explains
	Missing   int64     `json:"missing"`           // effects on record that it does not show
	// Findings are the newest ones. One is open until each of its agents was certified
	// after it.
	Findings []AuditFinding `json:"findings"`
	Open     int            `json:"open"`
}

// Good says that nothing speaks against it.
func (r Reconciliation) Good() bool {
	return r.Log == "" || !r.Stale && !r.Read.IsZero() && r.Open == 0
}

// Reconciliations shows the audit logs of a tenant's applications.
func (s *Server) Reconciliations(ctx context.Context, tenantName string) ([]Reconciliation, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	return t.view().reconciliations(ctx)
}

// Reconcile reads an application's audit log now, or, without a name, all of them.
func (s *Server) Reconcile(ctx context.Context, tenantName string, c Caller, name string) ([]Reconciliation, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	if _, err := t.require(c, "read an audit log", resource.RoleOwner, resource.RoleAuditor, resource.RoleOperations); err != nil {
		return nil, err
	}
	w := t.current()
	if name != "" && (w.connectors.Spec(name) == nil || w.connectors.Spec(name).Audit == nil) {
		return nil, problem(NotFound, "no_such_log", "there is no connector "+strconv.Quote(name)+" with an audit log", "see: sallyport get reconciliation")
	}
	for _, n := range w.connectors.Names() {
		if w.connectors.Spec(n).Audit == nil || name != "" && n != name {
			continue
		}
		x := t.auditOf(n)
		x.reading.Lock()
		err := t.audit(ctx, w, n, x)
		x.reading.Unlock()
		if ctx.Err() != nil {
			return nil, err
		}
	}
	return t.view().reconciliations(ctx)
}

// auditsNow is what this process knows, by connector.
func (t *tenant) auditsNow() map[string]auditStanding {
	out := map[string]auditStanding{}
	for _, name := range t.current().connectors.Names() {
		out[name] = t.auditNow(t.auditOf(name))
	}
	return out
}

// reconciliations is what is on record, and now on top of it. At a stopped server it is
// what is on record.
func (v view) reconciliations(ctx context.Context) (out []Reconciliation, err error) {
	now := v.audits()
	err = v.log.View(ctx, func(tx record.Tx) error {
		out = []Reconciliation{}
		unanswered := map[string]int{}
		for agent := range v.world.agents {
			all, err := getAgainst(tx, agent)
			if err != nil {
				return err
			}
			for connector, x := range all {
				unanswered[connector] = max(unanswered[connector], x.Count)
			}
		}
		for _, name := range v.world.connectors.Names() {
			spec := v.world.connectors.Spec(name)
			if _, ok := spec.Stages[action.Production]; !ok {
				continue
			}
			r := Reconciliation{Connector: name, Findings: []AuditFinding{}}
			if spec.Audit != nil {
				var s auditState
				if err := tx.Get(kindAudit, name, &s); err != nil && !errors.Is(err, record.ErrNotFound) {
					return err
				}
				r.Every, r.Log = spec.Audit.Every().String(), s.Log
				if r.Log == "" {
					r.Log = spec.Audit.Path
				}
				r.Began, r.Read, r.Last, r.Matched, r.Bypass, r.Missing = s.Began, s.Read, s.Cursor.Read(), s.Matched, s.Bypass, s.Missing
				if x := now[name]; !x.Read.IsZero() {
					r.Read = x.Read.UTC()
				}
				r.Failing = now[name].Why
				// Since when it is known to go unread.
				r.Stale = !s.Unread.IsZero() && !r.Read.After(s.Unread) || !r.Read.IsZero() && time.Since(r.Read) > spec.Audit.Stale()
				for _, f := range s.Findings {
					r.Findings = append(r.Findings, f)
					if slices.ContainsFunc(f.Agents, func(agent string) bool {
						c, err := v.certs.Live(agent, action.Production)
						return err != nil || c.Issued.Before(f.At)
					}) {
						r.Open++
					}
				}
				r.Open = max(r.Open, unanswered[name]) // those that are not listed any more, too
			}
			out = append(out, r)
		}
		return nil
	})
	return out, err
}
