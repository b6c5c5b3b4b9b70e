package notify

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// prefix of all types of events.
const prefix = "dev.sallyport."

// row is one type of event, and of which records it is made.
type row struct {
	event   string // without prefix
	records []string
	// when, a record that is another type's or no event is left out; nil takes all.
	when func(facts, record.Entry) bool
	// fields of the record's body that the event has, by the last part of their
	// path. What is not named here is not sent.
	fields []string
	title  string // of a mail
	next   string // for people: what to do, or where to look; {x} is a field of the data
}

// facts are what the conditions ask of a record's body.
type facts struct {
	ID         string
	Attempts   int
	Complete   bool
	Effect     string
	People     []string
	BreakGlass bool
	Graded     string
}

func (f facts) locks() bool { return f.Effect == "locks" && len(f.People) > 0 }

const (
	approvals = "approval."
	asked     = approvals + "requested"
	stop      = "ledger.stopped"
)

// table is every type of event, and all that is ever sent of a record.
var table = []row{
	{"certification.lapsed", []string{"certification.lapsed"}, nil, []string{"id", "stage", "boundary", "lapse.code", "lapse.changes"},
		"The certification lapsed", "sallyport readiness {agent}"},
	// In production the lapse has the changes, if there was one.
	{"boundary.drift", []string{"boundary.drift"}, func(_ facts, e record.Entry) bool { return e.Task != "" }, []string{"changes"},
		"The boundary drifted in the sandbox", "sallyport get agent {agent}"},
	{"boundary.graded", []string{"boundary.drift"}, func(f facts, _ record.Entry) bool { return f.Graded != "" }, []string{"changes", "certification"},
		"The boundary drifted: what is privileged is held for people", "sallyport certify {agent}"},
	{"behaviour.changed", []string{"behaviour.changed"}, nil, []string{"capability", "certification", "change.signal", "change.less", "change.since", "change.statistic"},
		"The behaviour of an agent changed", "sallyport get behaviour {agent}"},
	{"canary.failed", []string{"canary.failed"}, nil, []string{"suite", "canary.scenario", "violated"},
		"A canary failed in production", "sallyport get behaviour {agent}"},
	{"canary.missed", []string{"canary.missed"}, nil, []string{"suite", "canary.scenario", "canary.missed"},
		"A canary did not come about", "sallyport get behaviour {agent}"},
	{"audit.bypass", []string{"audit.bypass"}, nil, []string{"connector", "bypass", "missing"},
		"ALARM: an application saw what no record explains", "sallyport get reconciliation"},
	{"audit.rewritten", []string{"audit.rewritten"}, nil, []string{"connector"},
		"ALARM: an application's audit log is not the one that was read before", "sallyport get reconciliation"},
	{"audit.missing", []string{"audit.missing"}, nil, []string{"connector", "missing"},
		"An application's audit log does not show what is on record", "sallyport get reconciliation"},
	{"audit.unread", []string{"audit.unread"}, nil, []string{"connector", "since"},
		"An application's audit log cannot be read", "sallyport get reconciliation"},
	{"lease.unconfirmed", []string{"lease.unconfirmed"}, func(f facts, _ record.Entry) bool { return f.Attempts == 1 }, []string{"id", "source", "audience", "account"},
		"ALARM: a credential cannot be confirmed revoked", "sallyport lease list --open"},
	{"lease.confirmed", []string{"lease.revoked"}, func(f facts, _ record.Entry) bool { return f.Attempts > 1 }, []string{"id", "source", "audience", "account"},
		"A credential is confirmed revoked after all", "sallyport lease list"},
	{asked, []string{"approval.requested", "hold.opened"}, nil,
		[]string{"id", "statement.kind", "statement.operation", "statement.role", "statement.quorum", "statement.expires"},
		"Your approval is asked for", "sallyport approvals {id}, then: sallyport approve {id} --key FILE"},
	{approvals + "approved", []string{"approval.granted", "hold.approved"}, func(f facts, _ record.Entry) bool { return f.Complete }, []string{"id", "person"},
		"Approved", "sallyport approvals {id}"},
	{approvals + "rejected", []string{"approval.rejected", "hold.rejected"}, nil, []string{"id", "person"},
		"Not approved", "sallyport approvals {id}"},
	{approvals + "expired", []string{"approval.expired", "hold.expired"}, nil, []string{"id"},
		"An approval is not asked for any more", "sallyport approvals {id}"},
	{"task.revoked", []string{"task.revoked"}, nil, []string{"stage", "capability", "requester", "code", "started", "ended"},
		"A task was revoked", "sallyport task list"},
	{"task.failed", []string{"task.failed"}, nil, []string{"stage", "capability", "requester", "code", "started", "ended"},
		"A task failed", "sallyport task list"},
	{"signal.received", []string{"signal.received"}, func(f facts, _ record.Entry) bool { return !f.locks() }, []string{"issuer", "event", "effect", "people", "tasks"},
		"A security event came", "sallyport identity show"},
	{"person.locked", []string{"signal.received"}, func(f facts, _ record.Entry) bool { return f.locks() }, []string{"issuer", "event", "effect", "people", "tasks"},
		"A security event locked a person", "sallyport identity reinstate PERSON --reason WHY"},
	{"person.break-glass", []string{"person.reinstated"}, func(f facts, _ record.Entry) bool { return f.BreakGlass }, []string{"person"},
		"ALARM: the server's operator let a locked identity administrator in", "sallyport ledger list, and have it reviewed"},
	{"person.reinstated", []string{"person.reinstated"}, func(f facts, _ record.Entry) bool { return !f.BreakGlass }, []string{"person"},
		"A person was reinstated", "sallyport identity show"},
	{"keys.rewrapped", []string{"keys.rewrapped"}, nil, []string{"kind", "keyID"},
		"The keys of the server are wrapped anew", "sallyport secret keys"},
	{stop, nil, nil, nil, "ALARM: the ledger stopped, and nothing passes", "see docs/operate.md, The ledger stopped"},
}

// byRecord are the rows of a type of record.
var byRecord = func() map[string][]row {
	out := map[string][]row{}
	for _, r := range table {
		for _, t := range r.records {
			out[t] = append(out[t], r)
		}
	}
	return out
}()

// Event is a CloudEvent (CloudEvents 1.0.2), and what else is known of it.
type Event struct {
	SpecVersion string         `json:"specversion"`
	ID          string         `json:"id"`
	Source      string         `json:"source"`
	Type        string         `json:"type"`
	Subject     string         `json:"subject,omitempty"`
	Time        time.Time      `json:"time"`
	ContentType string         `json:"datacontenttype"`
	Data        map[string]any `json:"data"`

	row      row
	tenant   string
	seq      int64
	approval string // the question that a mail of it goes to the approvers of
}

// derive makes the event of a record, if it is one.
func (n *Notifier) derive(e record.Entry) (Event, bool) {
	rows := byRecord[e.Type]
	if len(rows) == 0 {
		return Event{}, false
	}
	var f facts
	var body map[string]json.RawMessage
	if json.Unmarshal(e.Body, &f) != nil || json.Unmarshal(e.Body, &body) != nil {
		return Event{}, false
	}
	i := slices.IndexFunc(rows, func(r row) bool { return r.when == nil || r.when(f, e) })
	if i < 0 {
		return Event{}, false
	}
	// The digest tells apart the records of a number before and after an older log
	// was restored: a receiver may not drop the second.
	v := n.event(rows[i], fmt.Sprintf("%d-%s", e.Seq, string(canon.Digest(e.Raw))[len("sha256:"):][:12]), e.Time)
	v.seq = e.Seq
	v.Data["record"] = e.Seq
	for name, text := range map[string]string{"agent": e.Agent, "task": e.Task, "actor": e.Actor} {
		if text != "" {
			v.Data[name] = text
		}
	}
	switch {
	case e.Task != "":
		v.Subject = "task/" + e.Task
	case e.Agent != "":
		v.Subject = "agent/" + e.Agent
	}
	for _, path := range v.row.fields {
		if raw := field(body, path); raw != nil {
			v.Data[path[strings.LastIndexByte(path, '.')+1:]] = raw
		}
	}
	switch v.row.event {
	case asked:
		v.approval = f.ID
	case "person.locked":
		owned := []string{}
		for _, p := range f.People {
			owned = append(owned, n.Owned(p)...)
		}
		v.Data["agents"] = owned
	}
	return v, true
}

// event is one without a record.
func (n *Notifier) event(r row, id string, at time.Time) Event {
	tenant := n.Log.Tenant()
	return Event{SpecVersion: "1.0", ID: tenant + "-" + id, Source: n.Source, Type: prefix + r.event, Time: at.UTC(), ContentType: "application/json",
		Data: map[string]any{}, row: r, tenant: tenant}
}

// started makes the ids of what is told once a process.
var started = time.Now()

func (n *Notifier) stopped() Event {
	i := slices.IndexFunc(table, func(r row) bool { return r.event == stop })
	return n.event(table[i], "stopped-"+strconv.FormatInt(started.UnixMilli(), 10), time.Now())
}

// field is a part of a body, by names with dots between.
func field(body map[string]json.RawMessage, path string) json.RawMessage {
	name, rest, deeper := strings.Cut(path, ".")
	raw := body[name]
	if !deeper {
		return raw
	}
	var in map[string]json.RawMessage
	if json.Unmarshal(raw, &in) != nil {
		return nil
	}
	return field(in, rest)
}

// wants reports whether a target gets a type.
func (t Target) wants(typ string) bool {
	if t.Events == nil {
		return !strings.HasPrefix(typ, prefix+approvals)
	}
	return slices.ContainsFunc(t.Events, func(p string) bool { return matches(p, typ) })
}

func matches(pattern, typ string) bool {
	begin, open := strings.CutSuffix(pattern, "*")
	return pattern == typ || open && strings.HasPrefix(typ, begin)
}

func defaults() []string {
	var out []string
	for _, typ := range Types() {
		if (Target{}).wants(typ) {
			out = append(out, typ)
		}
	}
	return out
}

// Types are all types of events.
func Types() []string {
	var out []string
	for _, r := range table {
		out = append(out, prefix+r.event)
	}
	return out
}
