package connector

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// Limits on a page of an audit log. A page is read whole.
const (
	MaxAuditPage   = 2 << 20
	maxAuditEvents = 1000
	maxAuditText   = 256
)

// AuditEvent is one event of an application's audit log. Its texts are the
// application's, and what other people made it write: Quoted is how they are shown.
type AuditEvent struct {
	ID     string
	Number bool // the id is a number
	Time   time.Time
	Digest action.Digest // of the whole event, canonical
	Actor  string        // empty if there is none
	raw    any
}

// AuditMeaning is what an event says of an effect.
type AuditMeaning struct {
	Event     string // name
	Ignored   bool
	SignIn    bool
	UserAgent string            // of a sign-in, as it came
	Operation string            // empty: it is none that is known
	Params    map[string]string // whole, and as they came
	Why       string            // it is of an operation, and does not say of what
}

// ReadAudit reads a page. An error means that nothing of it can be relied on.
func (a *Audit) ReadAudit(page []byte) ([]AuditEvent, error) {
	if err := canon.CheckForeign(page, MaxAuditPage); err != nil {
		return nil, err
	}
	var doc any
	d := json.NewDecoder(bytes.NewReader(page))
	d.UseNumber() // an id keeps its digits
	if err := d.Decode(&doc); err != nil {
		return nil, err
	}
	found, _ := at(doc, a.Events)
	list, ok := found.([]any)
	switch {
	case !ok:
		return nil, fmt.Errorf("there is no list of events at %q", a.Events)
	case len(list) > maxAuditEvents:
		return nil, fmt.Errorf("a page has %d events, and at most %d are read", len(list), maxAuditEvents)
	}
	out := make([]AuditEvent, 0, len(list))
	for i, raw := range list {
		e, err := a.event(raw)
		if err != nil {
			return nil, fmt.Errorf("event %d of a page: %w", i, err)
		}
		out = append(out, e)
	}
	return out, nil
}

// event reads what the application itself gives every event. A text that somebody else
// chose cannot make it unreadable.
func (a *Audit) event(raw any) (AuditEvent, error) {
	e := AuditEvent{raw: raw}
	b, err := json.Marshal(raw) // the members sorted; numbers as they came
	if err != nil {
		return e, err
	}
	e.Digest = canon.Digest(b)
	id, _ := at(raw, a.ID)
	switch v := id.(type) {
	case json.Number:
		n, err := strconv.ParseInt(v.String(), 10, 64)
		if err != nil || n < 0 || n > canon.MaxInteger {
			return e, errors.New("its id is no whole number up to 2^53")
		}
		e.ID, e.Number = strconv.FormatInt(n, 10), true
	case string:
		if e.ID = v; v == "" || len(v) > maxAuditText || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return e, errors.New("its id is no text of 1 to 256 visible ASCII characters")
		}
	default:
		return e, fmt.Errorf("it has no id at %q", a.ID)
	}
	said, _ := at(raw, a.Time)
	when, _ := said.(string)
	if e.Time, err = time.Parse(time.RFC3339, when); err != nil || e.Time.Year() < 2000 || e.Time.Year() > 9999 {
		return e, fmt.Errorf("it has no time (RFC 3339) at %q", a.Time)
	}
	e.Time = e.Time.UTC()
	actor, _ := at(raw, a.Actor)
	e.Actor, _ = spelled(actor)
	return e, nil
}

// spelled is a value that says one thing: a text, or a number as it is spelled.
func spelled(v any) (string, bool) {
	if n, ok := v.(json.Number); ok {
		return n.String(), true
	}
	s, ok := v.(string)
	return s, ok
}

// Repeats says that the event has a text in it, wherever: in what is shown of it, the
// credential of who asked would be.
func (e AuditEvent) Repeats(text string) bool { return repeats(e.raw, text) }

func repeats(v any, text string) bool {
	switch v := v.(type) {
	case string:
		return strings.Contains(v, text)
	case []any:
		return slices.ContainsFunc(v, func(x any) bool { return repeats(x, text) })
	case map[string]any:
		for k, x := range v {
			if strings.Contains(k, text) || repeats(x, text) {
				return true
			}
		}
	}
	return false
}

// Means says what an event of an agent's account is.
func (s *Spec) Means(e AuditEvent) AuditMeaning {
	a := s.Audit
	v, _ := at(e.raw, a.Event)
	name, _ := v.(string)
	m := AuditMeaning{Event: Quoted(name), Ignored: slices.Contains(a.Ignored, name)}
	if x := a.SignIns; x != nil && slices.Contains(x.Events, name) {
		v, _ := at(e.raw, x.UserAgent)
		m.SignIn = true
		m.UserAgent, _ = v.(string)
		return m
	}
	i := slices.IndexFunc(a.Operations, func(o AuditOperation) bool { return o.Event == name })
	if m.Ignored || i < 0 {
		return m
	}
	m.Operation, m.Params = a.Operations[i].Operation, map[string]string{}
	for p, where := range a.Operations[i].Params {
		v, _ := at(e.raw, where)
		value, ok := spelled(v)
		if !ok {
			m.Why = "it does not say " + p
			continue
		}
		m.Params[p] = value
	}
	if r := s.spell(m.Params); m.Why == "" && r != nil {
		m.Why = "its parameters are none that this connector decides"
	}
	return m
}

// Quoted is a foreign text as it may stand in a record and on a terminal: bounded, and
// of visible ASCII, with the rest as \u escapes.
func Quoted(text string) string {
	n := min(len(text), maxAuditText)
	for {
		q := strconv.QuoteToASCII(text[:n])
		over := len(q) - 2 - maxAuditText
		if over <= 0 {
			return q[1 : len(q)-1]
		}
		n -= (over + 3) / 4 // a byte is at most four, as \xff
	}
}

// at resolves a JSON pointer (RFC 6901) through objects.
func at(doc any, pointer string) (any, bool) {
	if pointer == "" {
		return doc, true
	}
	for part := range strings.SplitSeq(pointer[1:], "/") {
		m, ok := doc.(map[string]any)
		if !ok {
			return nil, false
		}
		if doc, ok = m[strings.NewReplacer("~1", "/", "~0", "~").Replace(part)]; !ok {
			return nil, false
		}
	}
	return doc, true
}
