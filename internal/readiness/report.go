package readiness

import (
	"encoding/json"
	"io"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/certify"
)

// Schema names the form of the JSON report. Members are only ever added to it.
const Schema = "sallyport.readiness/v1"

// Decisions.
const (
	Ready    = "READY"
	NotReady = "NOT READY"
)

// Report is the decision with what it rests on.
type Report struct {
	Schema    string    `json:"schema"`
	Decision  string    `json:"decision"` // READY or NOT READY
	Ready     bool      `json:"ready"`
	Generated time.Time `json:"generated"`
	Tenant    string    `json:"tenant"`
	Agent     string    `json:"agent"`
	Purpose   string    `json:"purpose"`
	Owner     string    `json:"owner"`
	Deputy    string    `json:"deputy"`
	Stage     string    `json:"stage"` // always production
	Tier      string    `json:"tier"`
	TierWhy   string    `json:"tierWhy"`
	// Markings limit what the decision says: a demonstration, a scripted model.
	// They belong wherever the decision is shown.
	Markings      []string       `json:"markings"`
	Certification *Certified     `json:"certification,omitempty"` // in force
	Lapse         *Lapsed        `json:"lapse,omitempty"`         // why none is in force
	Weakest       *Fact          `json:"weakest,omitempty"`       // fact with the lowest grade among those that the tier requires
	Conditions    []Result       `json:"conditions"`
	Facts         []Fact         `json:"facts"`
	FactsOf       string         `json:"factsOf"` // which boundary they are of: certified, last measured or only declared
	History       []Certified    `json:"history"`
	Probes        []ProbeResult  `json:"probes"`
	Probed        bool           `json:"probed"`
	Ledger        LedgerPosition `json:"ledger"`
	Frameworks    []Framework    `json:"frameworks"`
}

// Certified is one certification.
type Certified struct {
	ID        string        `json:"id"`
	State     string        `json:"state"`
	Boundary  action.Digest `json:"boundary"`
	Suite     string        `json:"suite"` // several with commas between
	Trials    int           `json:"trials"`
	Passed    int           `json:"passed"`
	Scripted  bool          `json:"scripted"`
	Author    string        `json:"author"`
	Approvers []string      `json:"approvers"`
	Ran       time.Time     `json:"ran"`
	Issued    time.Time     `json:"issued,omitzero"`
	Expires   time.Time     `json:"expires,omitzero"`
	Ended     string        `json:"ended,omitempty"` // why it is not in force any more
}

// Lapsed is how the last certification ended.
type Lapsed struct {
	ID      string            `json:"id"`
	Code    string            `json:"code"`
	Why     string            `json:"why"`
	At      time.Time         `json:"at"`
	Record  int64             `json:"record"` // -1 when it is not on record
	Changes []boundary.Change `json:"changes"`
}

// Fact is one fact of the boundary, and what the tier asks of it.
type Fact struct {
	Name     string         `json:"name"`
	Value    string         `json:"value"`
	Grade    boundary.Grade `json:"grade"`
	Required boundary.Grade `json:"required,omitempty"` // empty: the tier asks nothing of it
	Enough   bool           `json:"enough"`
	Source   string         `json:"source"`
	Owner    string         `json:"owner"`
	Measured time.Time      `json:"measured"`
}

// LedgerPosition is the signed checkpoint that covers the evidence.
type LedgerPosition struct {
	Records    int64  `json:"records"` // read for this report
	Origin     string `json:"origin,omitempty"`
	Size       int64  `json:"size"` // of the checkpoint, in records
	Root       string `json:"root,omitempty"`
	Verified   bool   `json:"verified"`             // signature, root and the whole log
	Checkpoint string `json:"checkpoint,omitempty"` // as signed
}

func (e *evaluation) report() *Report {
	w := e.w
	r := &Report{Schema: Schema, Decision: NotReady, Generated: e.now.Truncate(time.Second), Tenant: w.Tenant, Agent: w.Agent, Purpose: w.Purpose,
		Owner: w.Owner, Deputy: w.Deputy, Stage: string(stage), Tier: w.Tier, TierWhy: w.TierWhy, Markings: []string{}, Probes: e.probes, Probed: e.probes != nil,
		Facts: []Fact{}, History: []Certified{}}
	if r.Probes == nil {
		r.Probes = []ProbeResult{}
	}
	if w.Demo {
		r.Markings = append(r.Markings, "DEMONSTRATION TENANT: this says nothing about a real deployment")
	}
	if w.Scripted || w.Live != nil && w.Live.Scripted {
		r.Markings = append(r.Markings, "SCRIPTED MODEL: no real model was certified")
	}
	r.Ready = len(e.results) == len(conditions)
	for _, k := range e.results {
		r.Conditions = append(r.Conditions, k.result())
		r.Ready = r.Ready && k.state == Pass
	}
	if r.Ready {
		r.Decision = Ready
	}
	e.certifications(r)
	e.facts(r)
	c := e.checked
	r.Ledger = LedgerPosition{Records: e.h.size, Origin: c.Origin, Size: c.size, Verified: c.covers && c.verified && len(c.problems) == 0, Checkpoint: string(c.signed)}
	if c.size > 0 {
		r.Ledger.Root = c.Root.String()
	}
	for _, key := range shownFrameworks {
		f := controls().Frameworks[key]
		f.Key = key
		r.Frameworks = append(r.Frameworks, f)
	}
	return r
}

func (e *evaluation) certified(c certify.Certification) Certified {
	out := Certified{ID: c.ID, State: string(c.State), Boundary: c.Boundary, Suite: c.SuiteNames(), Trials: trials(c), Scripted: c.Scripted, Author: c.Author,
		Ran: c.Ran, Issued: c.Issued, Expires: c.Expires, Approvers: []string{}}
	for _, s := range c.Scenarios() {
		out.Passed += s.Passed
	}
	if c.Approval != "" {
		if _, people, _, why := e.quorum(c.Approval, e.h.size); why == "" {
			out.Approvers = people
		}
	}
	if c.Lapse != nil {
		out.Ended = c.Lapse.Code + ": " + lapseText(*c.Lapse)
	}
	if c.State == certify.Live && !e.now.Before(c.Expires) {
		out.State, out.Ended = "expired", "expired: its time ran out"
	}
	return out
}

func (e *evaluation) certifications(r *Report) {
	for _, c := range e.w.Certifications {
		r.History = append(r.History, e.certified(c))
	}
	slices.SortStableFunc(r.History, func(a, b Certified) int { return b.Ran.Compare(a.Ran) })
	if e.w.Live != nil {
		c := e.certified(*e.w.Live)
		if c.State == string(certify.Live) {
			r.Certification = &c
		}
	}
	if n := len(e.h.issues); n > 0 {
		last := e.h.issues[n-1]
		if l, ok := e.h.lapsed[last.ID]; ok {
			r.Lapse = &Lapsed{ID: last.ID, Code: l.Lapse.Code, Why: l.Lapse.Why, At: l.time, Record: l.seq, Changes: l.Lapse.Changes}
			r.Certification = nil
		} else if !e.now.Before(last.Expires) {
			r.Lapse = &Lapsed{ID: last.ID, Code: "expired", Why: "its time ran out", At: last.Expires, Record: -1}
		}
	}
	if r.Lapse != nil && r.Lapse.Changes == nil {
		r.Lapse.Changes = []boundary.Change{}
	}
}

// facts shows the boundary in force, or else the last that was measured, or
// else what is declared.
func (e *evaluation) facts(r *Report) {
	m := e.w.Declared
	r.FactsOf = "as declared; nothing was measured"
	if e.w.Live != nil {
		m, r.FactsOf = e.w.Live.Manifest, "as measured for certification "+e.w.Live.ID
	} else if n := len(e.w.Certifications); n > 0 {
		c := slices.MaxFunc(e.w.Certifications, func(a, b certify.Certification) int { return a.Ran.Compare(b.Ran) })
		m, r.FactsOf = c.Manifest, "as measured for certification "+c.ID+", which is not in force"
	}
	for _, f := range m.Facts {
		need := needs(e.tier(), f.Name)
		x := Fact{Name: f.Name, Value: f.Value, Grade: f.Grade, Required: need, Enough: need == "" || f.Grade.AtLeast(need), Source: f.Source, Owner: f.Owner, Measured: f.Measured}
		r.Facts = append(r.Facts, x)
		// Facts that no grade above declared could be asked of are left out here:
		// they are shown as declared where they stand.
		if need != "" && need != boundary.Declared && (r.Weakest == nil || !f.Grade.AtLeast(r.Weakest.Grade)) {
			r.Weakest = &x
		}
	}
}

// JSON writes the report in the form that Schema names: indented, one line feed
// at the end, members in the order of the types above.
func (r *Report) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}
