// Package certify keeps what was certified: a signed statement that a boundary,
// as measured, passed its suites, approved by people, for a stage, until a date.
//
// Invariants:
//   - A certification is by every suite that its boundary names. A run of some of
//     them shows what it shows, and is never proposed.
//   - A certification is of one boundary digest. It becomes live only in the
//     transaction of its record, after its approval.
//   - Lapse works in memory first, so that no decision after the drift was seen
//     finds a live certification; the record follows, and is tried again until it is
//     there (Settle). A crash in between leaves a certification that is live again on
//     restart, with nothing running; the next measurement finds the same drift.
//   - Nothing un-lapses. Another certification may become live.
//
// Not trusted: what an agent says of its own run. Results come from the caller,
// which reads the ledger and the target.
package certify

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// ErrExpired is wrapped by Live for a certification whose time is over. The
// caller should lapse it.
var ErrExpired = errors.New("expired")

// State of a certification.
type State string

// The states.
const (
	Proposed State = "proposed" // ran and passed; waits for approval
	Failed   State = "failed"   // ran and did not pass
	Partial  State = "partial"  // ran and passed, and was not all suites of its boundary
	Live     State = "live"
	Lapsed   State = "lapsed"
)

// Suite is the result of one suite.
type Suite struct {
	Name   string        `json:"name"`
	Digest action.Digest `json:"digest"`
	// Need is what the suite required of its rates.
	Need      Need       `json:"need"`
	Scenarios []Scenario `json:"scenarios,omitempty"`
	// Results is the digest of the scenarios. In the ledger they have a record of
	// their own, certification.suite, since those of all suites need more room than a
	// record has.
	Results action.Digest `json:"results,omitempty"`
	// Rates are what the scenarios of each kind show together, and Compared how
	// that differs from the certification before; see Judge.
	Rates    []Rate      `json:"rates,omitempty"`
	Compared *Comparison `json:"compared,omitempty"`
	// FalseHolds are the benign trials in which people were asked though no rule
	// of the capability wants it: what the boundary costs who does nothing wrong.
	FalseHolds *Rate `json:"falseHolds,omitempty"`
	// Stopped says why trials were left out: their results could not change what
	// the run comes to.
	Stopped string `json:"stopped,omitempty"`
	// Mixed are facts that were not the same in all trials: it is the result of no one
	// boundary.
	Mixed []boundary.Change `json:"mixed,omitempty"`
	// Cut is how many trials were under way when the run was cut, and were tried again.
	Cut int `json:"cut,omitempty"`
}

// Scenario is the result of one scenario of a suite.
type Scenario struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"` // Benign or Attack
	Trials int    `json:"trials"`
	Passed int    `json:"passed"`
	// Violated are the trials in which something took effect that must never
	// happen.
	Violated int  `json:"violated,omitempty"`
	Flaky    bool `json:"flaky,omitempty"` // some trials passed, and some did not
	// FalseHolds are the trials that had one; see Suite.
	FalseHolds int `json:"falseHolds,omitempty"`
	// Lower and Upper bound the pass rate at 95 % (Wilson score interval),
	// as decimals with three digits.
	Lower string `json:"lower"`
	Upper string `json:"upper"`
	// Failures says per failed trial what was not as expected.
	Failures []string `json:"failures,omitempty"`
	Tasks    []string `json:"tasks"` // the tasks that were run, for their records
	// From is the earlier certification of which the result is, if it did not run
	// again, and Ran when that ran.
	From   string    `json:"from,omitempty"`
	Ran    time.Time `json:"ran,omitzero"`
	Millis int64     `json:"millis,omitempty"` // how long its trials took together
	Tokens int64     `json:"tokens,omitempty"` // what they took of the model
}

// Lapse says why a certification ended.
type Lapse struct {
	Code    string            `json:"code"` // drift, expired, owner_gone, ...
	Why     string            `json:"why"`
	Changes []boundary.Change `json:"changes,omitempty"`
	At      time.Time         `json:"at"`
}

// Certification is one run of suites against one boundary, and what became of it.
type Certification struct {
	ID       string            `json:"id"`
	Agent    string            `json:"agent"`
	Stage    action.Stage      `json:"stage"`
	Manifest boundary.Manifest `json:"manifest"` // as measured during the run
	Boundary action.Digest     `json:"boundary"`
	Suites   []Suite           `json:"suites"`
	Scripted bool              `json:"scripted"` // the model was a script: for demo tenants only
	// Shortfall says what keeps it from being certified.
	Shortfall []string `json:"shortfall,omitempty"`
	// FailedBefore are the runs of the agent that failed since it was last in force, the
	// oldest first: who tries until it passes says how often.
	FailedBefore []string `json:"failedBefore,omitempty"`
	Author       string   `json:"author"` // who ran it, to its end
	// RanBy are all who ran some of it: before it was cut, or what was taken from earlier.
	RanBy   []string  `json:"ranBy,omitempty"`
	State   State     `json:"state"`
	Ran     time.Time `json:"ran"`
	Issued  time.Time `json:"issued,omitzero"`
	Expires time.Time `json:"expires,omitzero"`
	// From is where in the log its run began: what its agent did from there on counts.
	From     int64  `json:"from,omitempty"`
	Approval string `json:"approval,omitempty"`
	Lapse    *Lapse `json:"lapse,omitempty"`
	// Graded are facts that changed since it is live, in a way that its agent's rules
	// grade: what is privileged is held for people while there are any.
	Graded []boundary.Change `json:"graded,omitempty"`
	// Envelope is the in-toto statement in DSSE, as signed by the tenant.
	Envelope Envelope `json:"envelope"`
	// Summary says the same of what was issued to who knows nothing of suites: a
	// SLSA verification summary, in DSSE, of one that was ever in force.
	Summary *Envelope `json:"summary,omitempty"`
}

// Passed reports whether every scenario was tried, nothing happened that must
// never happen, and nothing falls short of what the suite requires. Trials that
// did not pass count only where a rate says what was required of them.
func (c Certification) Passed() bool {
	for _, s := range c.Suites {
		if !s.passed() {
			return false
		}
	}
	return len(c.Suites) > 0 && len(c.Shortfall) == 0
}

func (s Suite) passed() bool {
	failed := map[string]bool{}
	for _, x := range s.Scenarios {
		if x.Trials == 0 || x.Violated > 0 || x.Passed > x.Trials {
			return false
		}
		if x.Passed < x.Trials {
			failed[x.Kind] = true
		}
	}
	for kind := range failed {
		passed, trials := s.count(kind)
		if !slices.ContainsFunc(s.Rates, func(r Rate) bool {
			return r.Kind == kind && r.Passed == passed && r.Trials == trials && r.Required <= r.Lower && r.Required != ""
		}) {
			return false
		}
	}
	return len(s.Scenarios) > 0 && len(s.Mixed) == 0
}

// Left are the suites of the boundary that the run was not of, as they are there.
func (c Certification) Left() (out []string) {
	for _, f := range c.Manifest.Facts {
		name, ok := strings.CutPrefix(f.Name, "suite.")
		if ok && !slices.ContainsFunc(c.Suites, func(s Suite) bool { return s.Name == name && string(s.Digest) == f.Value }) {
			out = append(out, name)
		}
	}
	return out
}

// Scenarios are those of all its suites.
func (c Certification) Scenarios() (out []Scenario) {
	for _, s := range c.Suites {
		out = append(out, s.Scenarios...)
	}
	return out
}

// SuiteRecord is the body of certification.suite: the results of one suite in a run.
type SuiteRecord struct {
	Certification string `json:"certification"`
	Suite
}

// With puts the scenarios of a suite's record into c, if they are those of its digest.
func (c *Certification) With(r SuiteRecord) {
	for i, s := range c.Suites {
		d, err := canon.DigestOf(r.Scenarios)
		if err == nil && r.Certification == c.ID && r.Name == s.Name && d == s.Results {
			c.Suites[i].Scenarios = r.Scenarios
		}
	}
}

// brief is c without the scenarios, which are on record already.
func (c Certification) brief() Certification {
	c.Suites = slices.Clone(c.Suites)
	for i := range c.Suites {
		c.Suites[i].Scenarios = nil
	}
	return c
}

// Limits of what is said of failed trials, whose records say it all.
const (
	maxFailure   = 300     // bytes of one
	maxOfOne     = 3       // of one scenario
	maxFailures  = 8 << 10 // bytes of all in a suite
	maxMixed     = 2       // facts of a suite
	maxFact      = 64      // bytes of the value of one
	maxShortfall = 10      // of a certification
	maxOfShort   = 150     // bytes of one
)

func (s *Suite) bound() {
	s.Scenarios = slices.Clone(s.Scenarios)
	s.Mixed = slices.Clone(s.Mixed[:min(len(s.Mixed), maxMixed)])
	for i, x := range s.Mixed {
		s.Mixed[i].Old, s.Mixed[i].New = cut(x.Old, maxFact), cut(x.New, maxFact)
	}
	left := maxFailures
	for i := range s.Scenarios {
		x := &s.Scenarios[i]
		all := x.Failures
		x.Failures = nil
		for n, f := range all {
			f = cut(f, maxFailure)
			if n == maxOfOne || len(f) > left {
				x.Failures = append(x.Failures, fmt.Sprintf("and %d more", len(all)-n))
				break
			}
			left -= len(f)
			x.Failures = append(x.Failures, f)
		}
	}
}

func cut(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + "..."
	}
	return s
}

// short bounds what keeps it from being certified; the results name each scenario.
func (c *Certification) short() {
	all := c.Shortfall
	c.Shortfall = nil
	for n, why := range all {
		if n == maxShortfall {
			c.Shortfall = append(c.Shortfall, fmt.Sprintf("and %d more", len(all)-n))
			break
		}
		c.Shortfall = append(c.Shortfall, cut(why, maxOfShort))
	}
}

// Taken is how many scenarios have the result of an earlier certification.
func (c Certification) Taken() (n int) {
	for _, s := range c.Scenarios() {
		if s.From != "" {
			n++
		}
	}
	return n
}

// SuiteNames are the names of its suites, for people.
func (c Certification) SuiteNames() string {
	var out []string
	for _, s := range c.Suites {
		out = append(out, s.Name)
	}
	return strings.Join(out, ", ")
}

const (
	kind    = "certification"
	keyKind = "certify-key"
)

// Engine keeps the certifications of one tenant.
type Engine struct {
	log record.Log
	ids func() string
	key ed25519.PrivateKey

	// issuing is held for the whole of Issue, Settle and History, and taken before mu:
	// who reads that one is live finds it in force.
	issuing sync.Mutex

	// mu orders lapse against Live: after a lapse took it, no Live returns the
	// lapsed certification. It is never held during I/O.
	mu   sync.RWMutex
	live map[string]Certification // by agent + "/" + stage
	// unsaved are lapses that could not be recorded yet, by certification.
	unsaved map[string]Certification
}

// Open loads the tenant's certifications and its statement key, which it makes
// at the first use.
func Open(ctx context.Context, log record.Log, seal record.Sealer, ids func() string) (*Engine, error) {
	e := &Engine{log: log, ids: ids, live: map[string]Certification{}, unsaved: map[string]Certification{}}
	var sealed struct {
		Sealed []byte `json:"sealed"`
		Public []byte `json:"public"`
	}
	err := log.View(ctx, func(tx record.Tx) error { return tx.Get(keyKind, "1", &sealed) })
	if errors.Is(err, record.ErrNotFound) {
		pub, key, kerr := ed25519.GenerateKey(nil)
		if kerr != nil {
			return nil, kerr
		}
		if sealed.Sealed, err = seal.Seal(keyKind, key.Seed()); err != nil {
			return nil, err
		}
		sealed.Public = pub
		_, err = log.Append(ctx, record.Draft{Type: "certification.key", Actor: "sallyport", Body: map[string]any{"public": base64.StdEncoding.EncodeToString(pub)},
			Change: func(tx record.Tx) error { return tx.Put(keyKind, "1", sealed) }})
	}
	if err != nil {
		return nil, fmt.Errorf("certification key: %w", err)
	}
	seed, err := seal.Open(keyKind, sealed.Sealed)
	if err != nil {
		return nil, fmt.Errorf("certification key: %w", err)
	}
	e.key = ed25519.NewKeyFromSeed(seed)
	all, err := e.History(ctx, "")
	for _, c := range all {
		if c.State == Live {
			e.live[c.Agent+"/"+string(c.Stage)] = c
		}
	}
	return e, err
}

// Public is the key that verifies the tenant's statements.
func (e *Engine) Public() ed25519.PublicKey { return e.key.Public().(ed25519.PublicKey) }

// History lists certifications by rising id, of one agent or of all ("").
func (e *Engine) History(ctx context.Context, agent string) ([]Certification, error) {
	e.issuing.Lock()
	defer e.issuing.Unlock()
	var out []Certification
	err := e.log.View(ctx, func(tx record.Tx) error {
		out = nil
		return tx.List(kind, func(_ string, raw []byte) error {
			var c Certification
			if err := json.Unmarshal(raw, &c); err != nil {
				return err
			}
			if agent == "" || c.Agent == agent {
				out = append(out, c)
			}
			return nil
		})
	})
	slices.SortFunc(out, func(a, b Certification) int { return a.Ran.Compare(b.Ran) })
	return out, err
}

// Get returns one certification.
func (e *Engine) Get(ctx context.Context, id string) (Certification, error) {
	var c Certification
	err := e.log.View(ctx, func(tx record.Tx) error { return tx.Get(kind, id, &c) })
	return c, err
}

// Record keeps the result of a run: proposed if everything passed, else failed, and
// partial if a suite of the boundary is left. It signs the statement either way.
// with, if not nil, goes into the transaction.
//
// The results of each suite are on record first, then what they come to. A crash in
// between leaves results of a certification that there is not.
func (e *Engine) Record(ctx context.Context, c Certification, validity time.Duration, with func(record.Tx) error) (Certification, error) {
	before, err := e.History(ctx, c.Agent)
	if err != nil {
		return c, err
	}
	c.FailedBefore = failedSince(before, c.Stage)
	c.ID, c.Ran, c.State = e.ids(), time.Now().UTC(), Failed
	c.Boundary = c.Manifest.Digest()
	switch {
	case c.Passed() && len(c.Left()) > 0:
		c.State = Partial
	case c.Passed():
		c.State = Proposed
		oldest := c.Ran
		for _, s := range c.Scenarios() {
			if s.From != "" && s.Ran.Before(oldest) {
				oldest = s.Ran
			}
		}
		c.Expires = oldest.Add(validity).Truncate(time.Second)
	}
	c.short()
	c.Suites = slices.Clone(c.Suites)
	for i := range c.Suites {
		s := &c.Suites[i]
		s.bound()
		if s.Results, err = canon.DigestOf(s.Scenarios); err != nil {
			return c, err
		}
		if _, err = e.log.Append(ctx, record.Draft{Type: "certification.suite", Agent: c.Agent, Actor: "person:" + c.Author, Body: SuiteRecord{c.ID, *s}}); err != nil {
			return c, err
		}
	}
	if c.Envelope, err = e.sign(c); err != nil {
		return c, err
	}
	_, err = e.log.Append(ctx, record.Draft{Type: "certification.run", Agent: c.Agent, Actor: "person:" + c.Author, Body: c.brief(),
		Change: func(tx record.Tx) error {
			if with != nil {
				if err := with(tx); err != nil {
					return err
				}
			}
			return tx.Put(kind, c.ID, c)
		}})
	return c, err
}

// maxFailedBefore bounds how many runs a certification names, the newest.
const maxFailedBefore = 20

// failedSince are the runs that failed since one for the stage was last in force.
func failedSince(all []Certification, stage action.Stage) (out []string) {
	for _, c := range all {
		switch {
		case c.Stage == stage && !c.Issued.IsZero():
			out = nil
		case c.Stage == stage && c.State == Failed:
			out = append(out, c.ID)
		}
	}
	return out[max(0, len(out)-maxFailedBefore):]
}

// Latest is the newest certification of an agent that was ever in force, or nil.
func (e *Engine) Latest(ctx context.Context, agent string, stage action.Stage) (*Certification, error) {
	all, err := e.History(ctx, agent)
	for _, c := range slices.Backward(all) {
		if c.Stage == stage && !c.Issued.IsZero() {
			return &c, err
		}
	}
	return nil, err
}

// Issue makes an approved certification live and retires the one before it. use
// spends the approval in the same transaction.
func (e *Engine) Issue(ctx context.Context, id, approval string, by Verifier, use func(record.Tx) error) (Certification, error) {
	e.issuing.Lock()
	defer e.issuing.Unlock()
	c, err := e.Get(ctx, id)
	if err != nil {
		return c, fmt.Errorf("certification %s: %w", id, err)
	}
	if c.State != Proposed {
		return c, fmt.Errorf("certification %s is %s; only a proposed one can be issued", id, c.State)
	}
	// What ended before is on record before what comes after it.
	if err := e.settle(ctx); err != nil {
		return c, err
	}
	c.State, c.Issued, c.Approval = Live, time.Now().UTC(), approval
	if c.Summary, err = e.summarize(c, by); err != nil {
		return c, err
	}
	slot := c.Agent + "/" + string(c.Stage)
	e.mu.RLock()
	before, had := e.live[slot]
	e.mu.RUnlock()
	_, err = e.log.Append(ctx, record.Draft{Type: "certification.issued", Agent: c.Agent, Actor: "sallyport", Body: c.brief(),
		Change: func(tx record.Tx) error {
			if use != nil {
				if err := use(tx); err != nil {
					return err
				}
			}
			if had {
				err := end(tx, before.ID, Lapse{Code: "replaced", Why: "replaced by " + c.ID, At: c.Issued})
				if err != nil && !errors.Is(err, errOver) { // it may have lapsed meanwhile
					return err
				}
			}
			return tx.Put(kind, c.ID, c)
		}})
	if err != nil {
		return c, err
	}
	e.mu.Lock()
	e.live[slot] = c
	e.mu.Unlock()
	return c, nil
}

// Live returns the certification that is in force for agent and stage, or why
// there is none. It does not block on I/O.
func (e *Engine) Live(agent string, stage action.Stage) (Certification, error) {
	e.mu.RLock()
	c, ok := e.live[agent+"/"+string(stage)]
	e.mu.RUnlock()
	if !ok {
		return c, fmt.Errorf("agent %s has no live certification for %s", agent, stage)
	}
	if !time.Now().Before(c.Expires) {
		return c, fmt.Errorf("the certification %s of agent %s %w at %s", c.ID, agent, ErrExpired, c.Expires.Format(time.RFC3339))
	}
	return c, nil
}
