package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/reconcile"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// An application's own audit log is read again and again and held against the records
// (package reconcile). What an agent's account did there and nothing here explains
// ends the agent's certification, and so does a log that is not the one that was read
// before, since nothing is known of what happened in between.
//
// A reading takes a page of the log, then the records up to its time, or to the newest
// one, so that all are read that can explain the page. Order of writes: what is found, with how far log
// and records were read, in one record (audit.*); then the lapses. A crash before the
// record reads the same again and finds the same, but for pairs that were too many for
// one record: those before the last are on record twice then, and count once; a crash
// after it finds in the state which lapses it comes to, and they are done before anything
// is served. A reading that finds nothing new writes nothing, but for once an hour; the
// next one goes on from memory, and after one that failed from what is on record.

const (
	kindAudit = "audit" // an auditState by connector
	// auditTick is how often it is looked at what is due.
	auditTick = time.Second
	// auditPages bounds one reading; the next goes on where it ended.
	auditPages = 50
	// auditLimit bounds the time of one reading.
	auditLimit = 90 * time.Second
	// auditRetry is how soon a reading that failed is tried again.
	auditRetry = 10 * time.Second
	// auditHeartbeat is how old the state on record may be.
	auditHeartbeat = time.Hour
	// auditListed bounds how many findings a record and the state name, and auditRoom
	// how large they are in a record, which has 64 KiB: their texts are what somebody had
	// the application write.
	auditListed = 20
	auditRoom   = 32 << 10 // bytes
	// auditBefore is how many records before a log's first reading are read with it.
	auditBefore = 1000
	// auditPairs bounds how many pairs are in one record.
	auditPairs = 400
)

// auditApart is how far the times of records may be from their order: our clock can be
// set back. Tests have less of it.
var auditApart = time.Minute

// auditState is how far one application's log is read.
type auditState struct {
	V       int              `json:"v"`
	Log     string           `json:"log"`     // its URL, without what is asked of it: at another one is another log
	Began   time.Time        `json:"began"`   // what happened before is not judged
	Read    time.Time        `json:"read"`    // the last reading to the end that is on record
	Records int64            `json:"records"` // the next one to read
	Cursor  reconcile.Cursor `json:"cursor"`
	Pending reconcile.State  `json:"pending"`
	Unread  time.Time        `json:"unread,omitzero"` // it is on record that it was not read since then
	Matched int64            `json:"matched"`
	Bypass  int64            `json:"bypass"`
	Missing int64            `json:"missing"`
	// Findings are the newest ones.
	Findings []AuditFinding `json:"findings,omitempty"`
	Lapses   []auditLapse   `json:"lapses,omitempty"` // that the findings of the last record come to
}

// anew begins with another log. What was done before may still explain an event of it,
// and need not show there.
func (s *auditState) anew() {
	s.Cursor, s.Began, s.Pending.Events = reconcile.Cursor{}, time.Now().UTC(), nil
	s.Pending.Effects = slices.Clone(s.Pending.Effects)
	for i := range s.Pending.Effects {
		s.Pending.Effects[i].Judged = true
	}
}

type auditLapse struct {
	Agent         string `json:"agent"`
	Certification string `json:"certification"`
	Code          string `json:"code"`
	Why           string `json:"why"`
}

// Kinds of findings.
const (
	AuditBypass    = "bypass"    // an event that nothing on record explains
	AuditRewritten = "rewritten" // the log is not the one that was read before
	AuditMissing   = "missing"   // an effect that was done, and the log does not show it
)

// AuditFinding is something that an application's log and the records do not agree on.
type AuditFinding struct {
	Kind      string            `json:"kind"`
	At        time.Time         `json:"at"` // when it was found
	Agents    []string          `json:"agents,omitempty"`
	Event     string            `json:"event,omitempty"` // id
	Name      string            `json:"name,omitempty"`  // of the event
	Time      time.Time         `json:"time,omitzero"`   // of the event or effect
	Actor     string            `json:"actor,omitempty"`
	Action    string            `json:"action,omitempty"` // of an effect that is missing
	Operation string            `json:"operation,omitempty"`
	Params    map[string]string `json:"params,omitempty"`
	Why       string            `json:"why"`
}

// auditedBody is the body of audit.began, audit.matched, audit.bypass, audit.rewritten,
// audit.missing and audit.unread.
type auditedBody struct {
	V         int              `json:"v"`
	Connector string           `json:"connector"`
	Log       string           `json:"log"`
	To        string           `json:"to,omitempty"` // the last event that was read
	Records   int64            `json:"records"`
	Pairs     []reconcile.Pair `json:"pairs,omitempty"`
	Bypass    int              `json:"bypass"`
	Missing   int              `json:"missing"`
	Findings  []AuditFinding   `json:"findings,omitempty"` // the first, as far as there is room
	Since     time.Time        `json:"since,omitzero"`     // of audit.unread: when it was read last
	Why       string           `json:"why,omitempty"`      // of audit.unread
}

// auditing is what this process knows of the readings of one log. Readings do not wait
// for each other: an application that answers slowly holds up its own alone.
type auditing struct {
	reading sync.Mutex    // held while the log is read
	last    *auditReading // of reading: the last one, if all went well, so that the next goes on from it

	// Of tenant.auditMu.
	read  time.Time // last to the end
	due   time.Time
	since time.Time // since when it fails
	why   string    // of the last failure
}

// runAudits reads what is due until ctx ends.
func (t *tenant) runAudits(ctx context.Context) {
	every(ctx, auditTick, func() {
		w := t.current()
		for _, name := range w.connectors.Names() {
			x := t.auditOf(name)
			if w.connectors.Spec(name).Audit == nil || time.Now().Before(t.auditNow(x).Due) || !x.reading.TryLock() {
				continue
			}
			t.srv.background(func(ctx context.Context) {
				defer x.reading.Unlock()
				if err := t.audit(ctx, w, name, x); err != nil && ctx.Err() == nil {
					t.srv.log.Warn("the audit log of an application could not be read", "tenant", t.name, "connector", name, "err", connector.Quoted(err.Error()))
				}
			})
		}
	})
}

func (t *tenant) auditOf(name string) *auditing {
	t.auditMu.Lock()
	defer t.auditMu.Unlock()
	if t.audits[name] == nil {
		t.audits[name] = &auditing{}
	}
	return t.audits[name]
}

// auditStanding is how the readings of a log stand.
type auditStanding struct {
	Read, Due, Since time.Time
	Why              string
}

func (t *tenant) auditNow(x *auditing) auditStanding {
	t.auditMu.Lock()
	defer t.auditMu.Unlock()
	return auditStanding{x.read, x.due, x.since, x.why}
}

// audit reads one log now. It is called with x.reading held.
func (t *tenant) audit(ctx context.Context, w *world, name string, x *auditing) error {
	a := w.connectors.Spec(name).Audit
	ctx, cancel := context.WithTimeout(ctx, auditLimit)
	defer cancel()
	began := time.Now()
	r, err := t.newAuditReading(ctx, w, name, x.last)
	x.last = nil
	if err == nil {
		if err = r.read(ctx); err == nil {
			x.last = r
		}
	}
	if err != nil && errors.Is(context.Cause(ctx), context.Canceled) {
		return err // the server stops, or who asked for it went away
	}
	t.auditMu.Lock()
	x.due = time.Now().Add(a.Every())
	if err == nil {
		x.read, x.since, x.why = began, time.Time{}, ""
		t.auditMu.Unlock()
		return nil
	}
	if !errors.As(err, new(reconcile.Rewritten)) { // which may be so each time, and is on record
		// Sooner, and not at once: it may be a secret that nobody has stored yet.
		x.due = time.Now().Add(min(a.Every(), auditRetry))
	}
	if x.why = connector.Quoted(err.Error()); x.since.IsZero() {
		x.since = began
	}
	t.auditMu.Unlock()
	if r == nil {
		return err
	}
	return errors.Join(err, r.unread(context.WithoutCancel(ctx), t.auditNow(x)))
}

// auditOwed does the lapses that a crash left undone.
func (t *tenant) auditOwed(ctx context.Context) error {
	var owed []auditLapse
	err := t.log.View(ctx, func(tx record.Tx) error {
		owed = owed[:0]
		for _, name := range t.current().connectors.Names() {
			var s auditState
			if err := tx.Get(kindAudit, name, &s); err != nil && !errors.Is(err, record.ErrNotFound) {
				return err
			}
			owed = append(owed, s.Lapses...)
		}
		return nil
	})
	t.auditLapses(ctx, owed)
	return err
}

func (t *tenant) auditLapses(ctx context.Context, all []auditLapse) {
	for _, l := range all {
		t.lapseFor(ctx, l.Agent, l.Certification, certify.Lapse{Code: l.Code, Why: l.Why})
	}
}

// auditAgents are the agents that act at a connector, by the account that they act as,
// in lower case. Accounts that are made for tasks are not among them: see whose.
func (w *world) auditAgents(name string) map[string][]string {
	out := map[string][]string{}
	for source := range w.sources {
		for _, account := range w.auditAccounts(name, source) {
			out[account] = append(out[account], w.agentsWith(source)...)
			slices.Sort(out[account])
			out[account] = slices.Compact(out[account])
		}
	}
	return out
}

// auditAccounts are the accounts, in lower case, as which a source acts at a connector.
func (w *world) auditAccounts(name, source string) (out []string) {
	a, src := w.connectors.Spec(name).Audit, w.sources[source]
	add := func(account string) {
		if account != "" {
			out = append(out, strings.ToLower(account))
		}
	}
	if src == nil || source == a.Credential.Source {
		return nil
	}
	if src.Connector == name {
		add(src.Account)
		if src.LDAP != nil {
			add(src.LDAP.Stages[action.Production].Login)
		}
	}
	for account, s := range a.Accounts {
		if s == source {
			add(account)
		}
	}
	return out
}

// nameless are the sources that requests of an agent's tasks take at a connector, and of
// which nothing says as whom they act there: what is done by them is nobody's.
func (w *world) nameless(name string, a *agent) (out []string) {
	for _, source := range w.credentialsOf(a) {
		if spec := w.connectors.Spec(name); spec.Audit != nil && len(spec.TakesOf(source)) > 0 && len(w.auditAccounts(name, source)) == 0 {
			out = append(out, source)
		}
	}
	return out
}

// agentsWith are the agents whose tasks lease from a source.
func (w *world) agentsWith(source string) (out []string) {
	for _, name := range slices.Sorted(maps.Keys(w.agents)) {
		if slices.Contains(w.credentialsOf(w.agents[name]), source) {
			out = append(out, name)
		}
	}
	return out
}

// agentsAt are the agents that have a connector.
func (w *world) agentsAt(name string) (out []string) {
	for _, a := range slices.Sorted(maps.Keys(w.agents)) {
		if w.agents[a].apps[name] {
			out = append(out, a)
		}
	}
	return out
}

// text says what was found, for the lapse.
func (f AuditFinding) text(app string) string {
	if f.Kind == AuditRewritten {
		return fmt.Sprintf("the audit log of %s was rewritten: %s", app, f.Why)
	}
	what := f.Name
	if f.Operation != "" {
		what = f.Operation
		for _, p := range slices.Sorted(maps.Keys(f.Params)) {
			what += " " + p + "=" + f.Params[p]
		}
	}
	return fmt.Sprintf("%s's own audit log has event %s, %s by %s at %s, and %s", app, f.Event, what, f.Actor, f.Time.Format(time.RFC3339), f.Why)
}
