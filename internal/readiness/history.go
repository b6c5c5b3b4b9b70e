package readiness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// ref is a place in the ledger.
type ref struct {
	seq  int64
	time time.Time
}

func at(e record.Entry) ref { return ref{e.Seq, e.Time} }

// history is what the ledger says about one agent, read from its records. The
// shapes are those of the writers' packages (named at each type).
type history struct {
	agent     string
	size      int64
	first     ref
	last      ref
	bad       []string // what could not be read
	badAt     []ref
	applied   map[string][]applied // by Kind/name, in order
	secrets   []secret
	certKeys  []certKey
	granted   []granted
	suites    map[string][]certify.SuiteRecord // of runs, by certification
	runs      map[string]certRun
	issued    map[string]certRun
	issues    []certRun // issued, in order
	lapsed    map[string]lapse
	drifts    []drift
	lives     map[string]*life
	leases    map[string]*leaseLife
	order     []string // leases, in order of their first record
	decided   []decided
	decisions map[string]int // action to index in decided
	outcomes  map[string]outcome
	loose     []outcome // without a decision before
	behaved   []behaved
	audits    []audited // of all connectors
}

// applied is one version of a resource (package server: tenant.created,
// resource.applied).
type applied struct {
	ref
	digest action.Digest
	author string
}

type secret struct {
	ref
	name, person string
}

type certKey struct {
	ref
	public []byte
}

// granted is the body of approval.granted and hold.approved (package approval).
type granted struct {
	ref
	actor     string
	ID        string             `json:"id"`
	Statement approval.Statement `json:"statement"`
	Signature string             `json:"signature"`
	Person    string             `json:"person"`
	Key       string             `json:"key"`
	Complete  bool               `json:"complete"`
	Took      int64              `json:"tookMillis"`
}

type certRun struct {
	ref
	certify.Certification
}

type lapse struct {
	ref
	ID    string        `json:"id"`
	Lapse certify.Lapse `json:"lapse"`
}

type drift struct {
	ref
	task    string
	Agent   string            `json:"agent"`
	Changes []boundary.Change `json:"changes"`
	Graded  string            `json:"graded"` // not empty: the certification stood
}

// life is what is on record about one task.
type life struct {
	task.Task             // newest version
	opened, started, over ref
	closing               bool
	closingAt             ref
	leases                []string
	attested              []identityRecord
	identities            []identityRecord
}

// identityRecord is the common part of identity.attested and identity.issued
// (package identity).
type identityRecord struct {
	ref
	Kind      string    `json:"kind"`
	By        string    `json:"attestedBy"`
	Subject   string    `json:"subject"`
	NotBefore time.Time `json:"notBefore"`
	Expires   time.Time `json:"expires"`
	Selectors []string  `json:"selectors"`
}

type leaseLife struct {
	lease.Lease                // newest version
	requested, issued, revoked ref
	last                       ref
	typ                        string // of the last record
}

// decided is action.decided (package gate), cut down to what is asked of it.
type decided struct {
	ref
	task string
	gateDecided
}

type gateDecided struct {
	Action   action.Action   `json:"action"`
	Decision action.Decision `json:"decision"`
	Stage    action.Stage    `json:"stage"`
	Tier     string          `json:"tier"`
	Approval string          `json:"approval"`
}

func (d decided) allowed() bool { return d.Decision.Verdict == action.Allow }

// changes reports whether it reaches beyond the boundary and does more than read.
// What is put into the screen, and what the model is asked, is neither.
func (d decided) changes() bool {
	s := d.Action.Surface
	return d.Action.Effect.Changes() && s != action.Computer && s != action.Inference || s == action.Database || s == action.SSH
}

// needsCertification: in every stage but those in which nothing real is changed.
func needsCertification(s action.Stage) bool { return s != action.Sandbox && s != action.Shadow }

// outcome is action.outcome (package gate).
type outcome struct {
	ref
	Action  string         `json:"action"`
	Decided int64          `json:"decided"`
	Outcome action.Outcome `json:"outcome"`
}

func newHistory(agent string) *history {
	return &history{agent: agent, applied: map[string][]applied{}, suites: map[string][]certify.SuiteRecord{}, runs: map[string]certRun{}, issued: map[string]certRun{}, lapsed: map[string]lapse{},
		lives: map[string]*life{}, leases: map[string]*leaseLife{}, decisions: map[string]int{}, outcomes: map[string]outcome{}}
}

// read passes once over the ledger: every record is hashed into a tree, which
// is compared with the checkpoint, and what concerns the agent is kept. now, if
// not zero, is the clock.
func read(ctx context.Context, src Source, agent string, now time.Time) (*history, ledgerCheck, error) {
	c := openCheckpoint(ctx, src, now)
	h := newHistory(agent)
	var t tree
	pass := func(c *ledgerCheck) error {
		err := src.Entries(ctx, h.size, func(e record.Entry) error {
			if e.Seq != h.size {
				return fmt.Errorf("record %d follows record %d", e.Seq, h.size-1)
			}
			c.compare(&t)
			c.late(e)
			t.add(e.Raw)
			h.keep(e)
			return ctx.Err()
		})
		c.compare(&t)
		return err
	}
	err := pass(&c)
	// A checkpoint made after the reading covers what was appended during it.
	if later := openCheckpoint(ctx, src, now); err == nil && len(later.problems) == 0 && later.size >= h.size {
		c.pass(&later, h)
		err = pass(&later)
		c = later
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, c, ctx.Err()
		}
		c.problem("the log could not be read to its end: %v", err)
	}
	problems, err := src.Verify(ctx)
	if err != nil {
		c.problem("the log could not be verified: %v", err)
	}
	for _, p := range problems {
		c.problem("%s", p)
	}
	c.verified = err == nil
	return h, c, nil
}

// keep takes one record in.
func (h *history) keep(e record.Entry) {
	if h.size == 0 {
		h.first = at(e)
	}
	h.size, h.last = e.Seq+1, at(e)
	err := sameRecord(e)
	if err == nil {
		err = h.take(e)
	}
	if err != nil {
		h.spoil(e, err)
	}
}

// sameRecord makes sure that what is read is what was hashed.
func sameRecord(e record.Entry) error {
	var r struct {
		Tenant string          `json:"tenant"`
		Seq    int64           `json:"seq"`
		Time   time.Time       `json:"time"`
		Type   string          `json:"type"`
		Task   string          `json:"task"`
		Agent  string          `json:"agent"`
		Actor  string          `json:"actor"`
		Body   json.RawMessage `json:"body"`
	}
	if err := json.Unmarshal(e.Raw, &r); err != nil {
		return err
	}
	if r.Tenant != e.Tenant || r.Seq != e.Seq || !r.Time.Equal(e.Time) || r.Type != e.Type || r.Task != e.Task || r.Agent != e.Agent ||
		r.Actor != e.Actor || !bytes.Equal(r.Body, e.Body) {
		return errors.New("it is not what its hashed bytes say")
	}
	return nil
}

func (h *history) spoil(e record.Entry, err error) {
	h.bad = append(h.bad, fmt.Sprintf("record %d (%s): %v", e.Seq, e.Type, err))
	h.badAt = append(h.badAt, at(e))
}

// tasks are the agent's tasks by their first record.
func (h *history) tasks() []*life {
	var out []*life
	for _, l := range h.lives {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b *life) int { return strings.Compare(a.ID, b.ID) })
	slices.SortStableFunc(out, func(a, b *life) int { return int(a.opened.seq - b.opened.seq) })
	return out
}
