package ledger

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// MaxRecord is the largest canonical record, in bytes: entry bundles give each
// record a 16 bit length (C2SP tlog-tiles, "Log entries").
const MaxRecord = 1<<16 - 1

// timeForm is RFC 3339 with nine digits, always UTC, so that times compare as
// text.
const timeForm = "2006-01-02T15:04:05.000000000Z"

// raw is a record as it is hashed: the leaf of the tree is RFC 6962 section
// 2.1 over its RFC 8785 form. The random ID makes equal records distinct and
// lets a lost answer to a commit be looked up.
type raw struct {
	V        int               `json:"v"`
	Tenant   string            `json:"tenant"`
	Seq      int64             `json:"seq"`
	Time     string            `json:"time"`
	Clamped  bool              `json:"clamped,omitempty"` // the clock went back: Time is the previous record's
	Type     string            `json:"type"`
	Task     string            `json:"task,omitempty"`
	Agent    string            `json:"agent,omitempty"`
	Actor    string            `json:"actor,omitempty"`
	ID       string            `json:"id"`
	Evidence []action.Evidence `json:"evidence,omitempty"`
	Body     canon.Value       `json:"body"`
}

// form is a record encoded but for what the committer adds: position and time.
// Members are in the order of RFC 8785 section 3.2.3, written out by hand, since
// sorting what is sorted already was most of the work. decodeCanonical, and so
// Verify, holds the result against canon.
type form struct {
	b                  []byte
	body               int // where its value begins
	clamped, seq, time int // where these members go
}

// encode makes the form of a record with a canonical Body, and refuses one that
// could come out too large.
func (r *raw) encode() (form, error) {
	w := writer{b: make([]byte, 0, len(r.Body)+384)}
	var f form
	w.text("actor", r.Actor)
	w.text("agent", r.Agent)
	w.name("body")
	f.body = len(w.b)
	w.b = append(w.b, r.Body...)
	f.clamped = len(w.b)
	if len(r.Evidence) > 0 {
		e, err := canon.Marshal(r.Evidence)
		if err != nil {
			return form{}, err
		}
		w.member("evidence", e)
	}
	w.must("id", r.ID)
	f.seq = len(w.b)
	w.text("task", r.Task)
	w.must("tenant", r.Tenant)
	f.time = len(w.b)
	w.must("type", r.Type)
	w.member("v", strconv.AppendInt(nil, int64(r.V), 10))
	if w.err != nil {
		return form{}, w.err
	}
	f.b = append(w.b, '}')
	if n := len(f.b) + maxAdded; n > MaxRecord {
		return form{}, fmt.Errorf("%w: %s has %d bytes, limit %d", record.ErrTooLarge, r.Type, n, MaxRecord)
	}
	return f, nil
}

// maxAdded is the most that the committer adds to a form.
const maxAdded = len(`,"clamped":true,"seq":9007199254740992,"time":"` + timeForm + `"`)

// at is the record at its place, and its body within. time is of timeForm.
func (f form) at(seq int64, clamped bool, time string) (b, body []byte, err error) {
	if seq < 0 || seq > canon.MaxInteger {
		return nil, nil, fmt.Errorf("position %d is out of range", seq)
	}
	b = make([]byte, 0, len(f.b)+maxAdded)
	b = append(b, f.b[:f.clamped]...)
	body = b[f.body:f.clamped:f.clamped]
	if clamped {
		b = append(b, `,"clamped":true`...)
	}
	b = append(b, f.b[f.clamped:f.seq]...)
	b = strconv.AppendInt(append(b, `,"seq":`...), seq, 10)
	b = append(b, f.b[f.seq:f.time]...)
	b = append(append(append(b, `,"time":"`...), time...), '"')
	return append(b, f.b[f.time:]...), body, nil
}

// writer puts members of one object one after another.
type writer struct {
	b   []byte
	err error // the first
}

func (w *writer) name(name string) {
	sep := byte(',')
	if len(w.b) == 0 {
		sep = '{'
	}
	w.b = append(append(append(w.b, sep, '"'), name...), '"', ':')
}

// member adds a canonical value.
func (w *writer) member(name string, value []byte) {
	w.name(name)
	w.b = append(w.b, value...)
}

// text adds a string, unless it is empty.
func (w *writer) text(name, s string) {
	if s != "" {
		w.must(name, s)
	}
}

// must adds a string. jsontext quotes as RFC 8785 section 3.2.2.2 asks.
func (w *writer) must(name, s string) {
	w.name(name)
	b, err := jsontext.AppendQuote(w.b, s)
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("%s: %w", name, err)
	}
	w.b = b
}

// decode reads a record strictly.
func decode(b []byte) (*raw, error) {
	var r raw
	if err := canon.Unmarshal(b, MaxRecord, &r); err != nil {
		return nil, err
	}
	if r.V != 1 {
		return nil, fmt.Errorf("version %d is not known", r.V)
	}
	return &r, nil
}

// decodeCanonical is decode, and refuses bytes that are not the canonical form
// of what they say.
func decodeCanonical(b []byte) (*raw, error) {
	r, err := decode(b)
	if err != nil {
		return nil, err
	}
	again, err := canon.Marshal(r)
	if err != nil {
		return nil, err
	}
	if string(again) != string(b) {
		return nil, errors.New("not in canonical form")
	}
	return r, nil
}

func (r *raw) entry(b []byte) (record.Entry, error) {
	t, err := parseTime(r.Time)
	if err != nil {
		return record.Entry{}, err
	}
	return record.Entry{Seq: r.Seq, Time: t, Type: r.Type, Tenant: r.Tenant, Task: r.Task, Agent: r.Agent,
		Actor: r.Actor, Evidence: r.Evidence, Body: r.Body, Raw: b}, nil
}

func parseTime(s string) (time.Time, error) {
	t, err := time.Parse(timeForm, s)
	if err != nil {
		return t, fmt.Errorf("time %q: not RFC 3339 UTC with nine digits", s)
	}
	return t, nil
}
