// Package readiness decides, over fresh evidence, whether an agent may act in
// production today, as it is now: READY or NOT READY.
//
// Ten conditions of a production-ready deployment are each checked against the
// running system (Source.World) and the ledger (Source.Entries). What the
// ledger says is read from its records, not from the state of the engines; the
// records are hashed on the way and must give the root of the signed
// checkpoint, so that the report stands on what the checkpoint covers.
//
// Invariants:
//   - READY only if all ten conditions pass. Unknown counts as fail: a condition
//     for which there is no record, or only an old one, is unknown.
//   - Every pass names the records that prove it, and these are in the tree of
//     the checkpoint that the report names.
//   - Violations of the last 90 days count, and all since the certification in
//     force was run, whichever reaches further back.
//
// Not trusted: texts in records (a page may have written them: every output
// escapes them), the engines' word for what happened, a fact of grade declared.
// Trusted: the ledger's signing key, and the Source for what is declared now.
package readiness

import (
	"context"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Source is the running system as readiness sees it. An error from a method
// makes the conditions that need it unknown.
type Source interface {
	// World is the agent as it is declared and certified now.
	World(ctx context.Context, agent string) (World, error)
	// Entries calls f for every record of the tenant from seq on, in order.
	Entries(ctx context.Context, from int64, f func(record.Entry) error) error
	// Checkpoint is the newest signed checkpoint of the tenant's log. One made
	// over everything acknowledged so far is best.
	Checkpoint(ctx context.Context) (Checkpoint, error)
	// Verify reads the whole log from bytes and says what is wrong with it.
	Verify(ctx context.Context) (problems []string, err error)
}

// Checkpoint is a C2SP tlog-checkpoint and the key that must have signed it.
type Checkpoint struct {
	Signed []byte
	Key    string // C2SP signed-note verifier key
}

// World is what is declared, and what the engines hold, about one agent.
type World struct {
	Tenant         string
	Demo           bool
	Agent          string
	Purpose        string
	Owner, Deputy  string
	ReviewBy       string // date, 2006-01-02
	Scripted       bool   // the model answers from a script
	Tier, TierWhy  string
	Declared       boundary.Manifest
	Live           *certify.Certification // in force for production, or nil
	Certifications []certify.Certification
	People         []approval.Person
	// SPIFFEID is how SPIRE knows the agent, where it issues the SVIDs.
	SPIFFEID string
	// Open are the leases of the agent that are not confirmed revoked.
	Open []lease.Lease
	// Conflicts are findings of the system's own separation-of-duties check.
	Conflicts []string
	// Containment is what this machine gives now: contained, partial or none.
	Containment string
	// Retention names the tenant's retention; empty when none is named.
	Retention     string
	RetentionDays int
	LegalHold     bool
	// Canaries are the declared ones, or nil.
	Canaries *Canaries
	// Audits are the agent's applications in production, with how their own audit logs
	// are read.
	Audits []Audit
	// Tools are facts that the first call of a tool in production is held against.
	Tools []string
	// Environment is what the harness gets, as NAME=value. Values are looked at
	// and never shown. Nil means not known.
	Environment []string
}

// State of a condition.
type State string

// The states. Unknown counts as fail.
const (
	Pass    State = "pass"
	Fail    State = "fail"
	Unknown State = "unknown"
)

// Finding is one thing that was seen.
type Finding struct {
	State State  `json:"state"`
	Saw   string `json:"saw"`
	// Records are ledger positions that prove it, at most maxListed of them, the
	// newest; Count is how many there are.
	Records []int64        `json:"records,omitempty"`
	Count   int            `json:"count,omitempty"`
	Fact    string         `json:"fact,omitempty"`
	Grade   boundary.Grade `json:"grade,omitempty"`
}

// Result is what became of one condition.
type Result struct {
	Number   int                 `json:"number"`
	ID       string              `json:"id"`
	Title    string              `json:"title"`
	Question string              `json:"question"`
	State    State               `json:"state"`
	Summary  string              `json:"summary"`
	Findings []Finding           `json:"findings"`
	Newest   time.Time           `json:"newest,omitzero"` // time of the newest record used
	Age      int64               `json:"ageSeconds"`      // of it, when the report was made; -1 without a record
	Next     string              `json:"next,omitempty"`
	Controls []string            `json:"controls"` // of the catalogue
	Mapping  map[string][]string `json:"mapping"`  // framework to ids: gives evidence towards, never conforms to
}

// Options of a report.
type Options struct {
	Now   time.Time // default: the clock
	Probe bool      // also try to break the running system
}

// maxListed bounds the positions listed in one finding.
const maxListed = 12

// Age limits of evidence by tier (control SP-RD-01, our own numbers).
var maxAge = map[string]time.Duration{"light": 90 * day, "standard": 30 * day, "privileged": 7 * day}

const (
	day      = 24 * time.Hour
	lookBack = 90 * day
)

// Evaluate makes the report on one agent. An error means that there is no such
// agent or that the system could not be read at all; nothing may be taken from
// that but NOT READY.
func Evaluate(ctx context.Context, src Source, agent string, o Options) (*Report, error) {
	var e *evaluation
	for range 3 { // the log may grow while it is read
		var err error
		if e, err = evaluate(ctx, src, agent, o); err != nil {
			return nil, err
		}
		if !e.uncovered() {
			break
		}
	}
	e.cover()
	if o.Probe {
		e.probe(ctx, src)
	}
	return e.report(), nil
}

// evaluation is one reading of the system.
type evaluation struct {
	now     time.Time
	w       World
	h       *history
	checked ledgerCheck
	results []*check
	probes  []ProbeResult
}

func evaluate(ctx context.Context, src Source, agent string, o Options) (*evaluation, error) {
	e := &evaluation{now: o.Now}
	var err error
	if e.w, err = src.World(ctx, agent); err != nil {
		return nil, err
	}
	if e.h, e.checked, err = read(ctx, src, agent, o.Now); err != nil {
		return nil, err
	}
	// After the reading: a record cannot be newer than the report.
	if e.now.IsZero() {
		e.now = time.Now()
	}
	e.now = e.now.UTC()
	for i, c := range conditions {
		k := &check{e: e, def: c, number: i + 1}
		c.check(k)
		k.finish()
		e.results = append(e.results, k)
	}
	return e, nil
}

// tier is the tier whose rules apply: an unknown one is taken for the strictest.
func (e *evaluation) tier() string {
	if _, ok := maxAge[e.w.Tier]; !ok {
		return "privileged"
	}
	return e.w.Tier
}

// counts reports whether a violation at that time still counts.
func (e *evaluation) counts(t time.Time) bool {
	from := e.now.Add(-lookBack)
	if e.w.Live != nil && e.w.Live.Ran.Before(from) {
		from = e.w.Live.Ran
	}
	return !t.Before(from)
}

// uncovered reports whether a pass rests on a record that the checkpoint does
// not cover.
func (e *evaluation) uncovered() bool {
	return slices.ContainsFunc(e.results, func(k *check) bool { return k.state == Pass && k.highest >= e.checked.size })
}

// cover takes the pass from conditions whose records are not under the signed
// checkpoint.
func (e *evaluation) cover() {
	for _, k := range e.results {
		if k.state == Pass && (!e.checked.covers || k.highest >= e.checked.size) {
			k.findings = append(k.findings, Finding{State: Unknown, Saw: "the records of this condition are not under a verified checkpoint"})
			k.state, k.summary, k.next = Unknown, "The records that would prove it are not under a verified checkpoint.", "ask again; if it stays, run: sallyport ledger verify"
		}
	}
}

// subject of an agent's production life.
const stage = action.Production
