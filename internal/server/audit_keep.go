package server

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/reconcile"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// worth says that the state should be on record: events were read, which must be the
// same when the log is read again, something was found, or many records were read.
func (r *auditReading) worth() bool {
	found := len(r.found.Matched) + len(r.found.Bypass) + len(r.found.Missing)
	return r.events+found > 0 || !r.state.Unread.IsZero() && r.end || r.state.Records-r.start >= 5000
}

// keep writes what was found with the state, in one transaction, and lapses what the
// findings come to.
func (r *auditReading) keep(ctx context.Context, asked time.Time) error {
	s := &r.state
	if r.end {
		s.Read, s.Unread = asked.UTC(), time.Time{}
	}
	for _, e := range r.found.Bypass {
		why := e.Why
		if why == "" {
			why = "nothing on record explains it"
		}
		r.findings = append(r.findings, AuditFinding{Kind: AuditBypass, Agents: e.Agents, Event: e.ID, Name: e.Name, Time: e.Time,
			Actor: e.Actor, Operation: e.Operation, Params: e.Params, Why: why})
	}
	for _, e := range r.found.Missing {
		r.findings = append(r.findings, AuditFinding{Kind: AuditMissing, Agents: []string{e.Agent}, Action: e.Action, Operation: e.Operation,
			Params: e.Params, Time: e.Decided, Why: "it was answered with success, and the application's audit log does not show it"})
	}
	typ := "audit.matched"
	switch {
	case len(r.found.Bypass) > 0:
		typ = "audit.bypass"
	case len(r.found.Missing) > 0:
		typ = "audit.missing"
	}
	return r.append(ctx, typ, auditedBody{Pairs: r.found.Matched, Bypass: len(r.found.Bypass), Missing: len(r.found.Missing)})
}

// rewritten begins anew with a log that is not the one that was read before.
func (r *auditReading) rewritten(ctx context.Context, why reconcile.Rewritten) error {
	r.findings = append(r.findings, AuditFinding{Kind: AuditRewritten, Agents: r.w.agentsAt(r.name), Why: string(why)})
	r.state.anew()
	r.found = reconcile.Result{}
	return r.append(ctx, "audit.rewritten", auditedBody{})
}

// unread puts on record, once, that a log could not be read for too long.
func (r *auditReading) unread(ctx context.Context, x auditStanding) error {
	last := x.Read
	if last.IsZero() {
		last = x.Since
	}
	if !r.state.Unread.IsZero() || time.Since(last) < r.spec.Audit.Stale() {
		return nil
	}
	// What this reading took in is not kept with it.
	again, err := r.t.newAuditReading(ctx, r.w, r.name, nil)
	if err != nil {
		return err
	}
	again.state.Unread = last.UTC()
	return again.append(ctx, "audit.unread", auditedBody{Since: last.UTC(), Why: x.Why})
}

func (r *auditReading) append(ctx context.Context, typ string, b auditedBody) error {
	// Found is found, whoever asked for it and went away.
	ctx = context.WithoutCancel(ctx)
	s := &r.state
	s.Matched += int64(len(b.Pairs))
	s.Bypass += int64(b.Bypass)
	s.Missing += int64(b.Missing)
	b.V, b.Connector, b.Log, b.To, b.Records = 1, r.name, s.Log, s.Cursor.Read(), s.Records
	for len(b.Pairs) > auditPairs {
		if _, err := r.t.log.Append(ctx, record.Draft{Type: "audit.matched", Actor: "sallyport", Body: auditedBody{V: 1, Connector: r.name, Log: s.Log, Records: s.Records, Pairs: b.Pairs[:auditPairs]}}); err != nil {
			return err
		}
		b.Pairs = b.Pairs[auditPairs:]
	}
	if err := r.write(ctx, typ, &b); err != nil {
		return err
	}
	for _, f := range b.Findings {
		r.t.srv.log.Warn("an application's audit log and the records do not agree", "tenant", r.t.name, "connector", r.name, "kind", f.Kind, "event", f.Event, "operation", f.Operation, "why", f.Why)
	}
	r.t.auditLapses(ctx, s.Lapses)
	r.found, r.findings, r.events, r.start = reconcile.Result{}, nil, 0, s.Records
	return nil
}

// write puts what was found on record with the state. No certification becomes live
// between the look at what is in force and the record.
func (r *auditReading) write(ctx context.Context, typ string, b *auditedBody) error {
	r.t.answers.Lock()
	defer r.t.answers.Unlock()
	s := &r.state
	for i := range r.findings {
		r.findings[i].At = time.Now().UTC()
	}
	s.Lapses = r.lapses()
	s.Findings = slices.Concat(s.Findings, r.findings)
	s.Findings = slices.Clone(s.Findings[max(0, len(s.Findings)-auditListed):])
	b.Findings = listed(r.findings)
	kept, against := *s, r.against()
	_, err := r.t.log.Append(ctx, record.Draft{Type: typ, Actor: "sallyport", Body: *b, Change: func(tx record.Tx) error {
		if err := putAgainst(tx, r.name, against); err != nil {
			return err
		}
		return tx.Put(kindAudit, r.name, kept)
	}})
	return err
}

// listed are the findings that a record names: the first, as far as it has room.
func listed(all []AuditFinding) []AuditFinding {
	room := auditRoom
	for i, f := range all {
		b, err := canon.Marshal(f)
		if room -= len(b); err != nil || room < 0 || i == auditListed {
			return all[:i]
		}
	}
	return all
}

// lapses are what the findings come to: one for each agent that is certified now.
func (r *auditReading) lapses() (out []auditLapse) {
	for _, f := range r.findings {
		code := lapseBypass
		switch f.Kind {
		case AuditMissing:
			continue
		case AuditRewritten:
			code = lapseRewritten
		}
		for _, agent := range f.Agents {
			c, err := r.t.certs.Live(agent, action.Production)
			if err != nil || slices.ContainsFunc(out, func(l auditLapse) bool { return l.Agent == agent }) {
				continue
			}
			out = append(out, auditLapse{agent, c.ID, code, f.text(r.name)})
		}
	}
	return out
}

// auditShown bounds what is shown of all parameters of an effect or event, in bytes: the
// state has thousands of them.
const auditShown = 256

// shown is a prefix of what parameters say, as it may stand in a record.
func shown(params map[string]string) map[string]string {
	out, room := map[string]string{}, auditShown
	for _, k := range slices.Sorted(maps.Keys(params)) {
		if room -= len(k); room <= 0 {
			break
		}
		v := connector.Quoted(params[k])
		out[k] = v[:min(len(v), room)]
		room -= len(out[k])
	}
	return out
}
