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

// encode is canon.Marshal(r) for a canonical Body, written out by hand: members
// in the order of RFC 8785 section 3.2.3. The committer encodes every record of
// a batch one after another, and sorting what is sorted already was most of its
// work. decodeCanonical, and so Verify, holds the result against canon.
func (r *raw) encode() ([]byte, error) {
	w := writer{b: make([]byte, 0, len(r.Body)+512)}
	w.text("actor", r.Actor)
	w.text("agent", r.Agent)
	w.member("body", r.Body)
	if r.Clamped {
		w.member("clamped", []byte("true"))
	}
	if len(r.Evidence) > 0 {
		e, err := canon.Marshal(r.Evidence)
		if err != nil {
			return nil, err
		}
		w.member("evidence", e)
	}
	w.must("id", r.ID)
	if r.Seq < 0 || r.Seq > canon.MaxInteger {
		return nil, fmt.Errorf("position %d is out of range", r.Seq)
	}
	w.member("seq", strconv.AppendInt(nil, r.Seq, 10))
	w.text("task", r.Task)
	w.must("tenant", r.Tenant)
	w.must("time", r.Time)
	w.must("type", r.Type)
	w.member("v", strconv.AppendInt(nil, int64(r.V), 10))
	if w.err != nil {
		return nil, w.err
	}
	b := append(w.b, '}')
	if len(b) > MaxRecord {
		return nil, fmt.Errorf("%w: %s has %d bytes, limit %d", ErrTooLarge, r.Type, len(b), MaxRecord)
	}
	return b, nil
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
	t, err := time.Parse(timeForm, r.Time)
	if err != nil {
		return record.Entry{}, fmt.Errorf("time %q: not RFC 3339 UTC with nine digits", r.Time)
	}
	return record.Entry{Seq: r.Seq, Time: t, Type: r.Type, Tenant: r.Tenant, Task: r.Task, Agent: r.Agent,
		Actor: r.Actor, Evidence: r.Evidence, Body: r.Body, Raw: b}, nil
}
