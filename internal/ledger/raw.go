package ledger

import (
	"errors"
	"fmt"
	"time"

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

func (r *raw) encode() ([]byte, error) {
	b, err := canon.Marshal(r)
	if err != nil {
		return nil, err
	}
	if len(b) > MaxRecord {
		return nil, fmt.Errorf("%w: %s has %d bytes, limit %d", ErrTooLarge, r.Type, len(b), MaxRecord)
	}
	return b, nil
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
