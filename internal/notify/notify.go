// Package notify tells people and systems what happens in a tenant: events that
// follow from its records, as CloudEvents 1.0 to webhooks and as mails.
//
// Invariants:
//   - An event is made of one durable record, by the one table in events.go: the
//     fields that are named there, which everybody in the tenant may read. There is
//     no parameter, no payload, and nothing that a page, a model or a person wrote
//     but the values of facts.
//   - The same record is the same event, under the same id: a receiver drops repeats.
//   - A target gets its events in the order of the log, each at least once. Nothing
//     else waits for a target that is away.
//   - Nothing is sent but to what the tenant declares now.
//   - That the ledger stopped is told without it: a store that is in doubt is often
//     one that cannot be read.
//
// Order of writes: the cursor, when a target or other events of it are declared
// (notify.started); then for each event the target's answer first, and notify.sent
// with the cursor. A crash in between sends the event again. A target that is
// declared no more loses its cursor (notify.ended).
//
// Not trusted: the targets, and the texts of records: none of them is in a header.
package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/outbox"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Secret opens a sealed secret. The caller clears it.
type Secret func(context.Context) ([]byte, error)

// Target is who is told, as the tenant declares it.
type Target struct {
	Name   string
	URL    string   // https://host/path, smtp://host[:port] or smtps://host[:port]
	Events []string // types, or beginnings that end in *; nil is all but approvals
	Local  bool     // may be at a loopback or private address
	Roots  string   // PEM; "" means the machine's

	Signature     Secret // of a webhook: a Standard Webhooks secret; nil signs nothing
	Authorization Secret // of a webhook: the header of that name; nil sends none

	From     string   // of mails
	To       []string // of mails but those to approvers
	Username string   // at the mail server; "" signs in as nobody
	Password Secret
}

// Late is how long an event waits before its target counts as late.
const Late = 24 * time.Hour

// atOnce is how many events one reading of the log takes.
const atOnce = 50

// Notifier tells the targets of one tenant. Its functions are the tenant's.
type Notifier struct {
	Log    record.Log
	Head   func(context.Context) (int64, error) // records in the log
	Source string                               // the issuer's URL
	// Targets are those that are declared now.
	Targets func() []Target
	// Owned are the agents that a person answers for.
	Owned func(person string) []string
	// Approvers are the mail addresses of those who may still answer a question.
	Approvers func(ctx context.Context, id string) ([]string, error)
	// Stopped says why nothing is recorded any more, or nil. Then Targets and their
	// secrets are what is asked for, and nothing that is in the log.
	Stopped func() error

	mu     sync.Mutex
	places map[string]*place
}

// place is what this process knows of a target.
type place struct {
	outbox.Place
	toldStop bool // that the ledger stopped; guarded by the Place
}

func (n *Notifier) at(name string) *place {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.places == nil {
		n.places = map[string]*place{}
	}
	if n.places[name] == nil {
		n.places[name] = &place{}
	}
	return n.places[name]
}

// kind is the object kind of a cursor; the id is the target's name.
const kind = "notify"

type cursor struct {
	Next   int64    `json:"next"`             // the first record that the target may not have
	Events []string `json:"events,omitempty"` // that it asks for from there on
}

// Run tells until ctx ends.
func (n *Notifier) Run(ctx context.Context) {
	outbox.Run(ctx, n.Log, "events wait for a target", func(ctx context.Context) ([]outbox.Job, error) {
		var jobs []outbox.Job
		known, err := n.cursors(ctx)
		if err != nil {
			known = nil // of what could not be read nothing is over
		}
		for _, t := range n.Targets() {
			p := n.at(t.Name)
			jobs = append(jobs, outbox.Job{Place: &p.Place, Name: t.Name, Serve: func(ctx context.Context) error { return n.serve(ctx, t, p) }})
			delete(known, t.Name)
		}
		for _, gone := range slices.Sorted(maps.Keys(known)) {
			err = errors.Join(err, n.end(ctx, gone))
		}
		return jobs, err
	})
}

func (n *Notifier) cursors(ctx context.Context) (map[string]cursor, error) {
	out := map[string]cursor{}
	err := n.Log.View(ctx, func(tx record.Tx) error {
		clear(out)
		return tx.List(kind, func(id string, raw []byte) error {
			var c cursor
			err := json.Unmarshal(raw, &c)
			out[id] = c
			return err
		})
	})
	return out, err
}

// end forgets a target, unless somebody is telling it something just now.
func (n *Notifier) end(ctx context.Context, name string) error {
	p := n.at(name)
	if n.Stopped() != nil || !p.TryLock() {
		return nil
	}
	defer p.Unlock()
	p.Again()
	_, err := n.Log.Append(ctx, record.Draft{Type: "notify.ended", Actor: "sallyport", Body: map[string]any{"target": name},
		Change: func(tx record.Tx) error { return tx.Delete(kind, name) }})
	return err
}

// serve tells one target what it has not heard.
func (n *Notifier) serve(ctx context.Context, t Target, p *place) error {
	if why := n.Stopped(); why != nil {
		return n.tellStop(ctx, t, p)
	}
	known, err := n.cursors(ctx)
	if err != nil {
		return err
	}
	c, ok := known[t.Name]
	switch {
	case !ok:
		head, err := n.Head(ctx)
		if err != nil {
			return err
		}
		return n.begin(ctx, t, head)
	case !slices.Equal(c.Events, t.Events): // what it did not ask for until now is not told after all
		return n.begin(ctx, t, max(c.Next, p.Passed()))
	}
	all, err := outbox.Pending(ctx, n.Log, &p.Place, c.Next, atOnce, func(e record.Entry) (Event, bool) {
		v, ok := n.derive(e)
		return v, ok && t.wants(v.Type)
	})
	if err != nil {
		return err
	}
	for _, e := range all {
		d, err := n.tell(ctx, t, e)
		if err != nil {
			return fmt.Errorf("%s: %w", e.ID, err)
		}
		if err := n.told(ctx, t, e, d); err != nil {
			return err
		}
	}
	return nil
}

// begin starts a target, or other events of it, with a record.
func (n *Notifier) begin(ctx context.Context, t Target, next int64) error {
	_, err := n.Log.Append(ctx, record.Draft{Type: "notify.started", Actor: "sallyport", Body: map[string]any{"target": t.Name, "next": next, "events": t.Events},
		Change: func(tx record.Tx) error { return tx.Put(kind, t.Name, cursor{next, t.Events}) }})
	return err
}

// delivered is who has an event.
type delivered struct {
	To      []string `json:"to,omitempty"`      // addresses of a mail
	Refused []string `json:"refused,omitempty"` // that the mail server does not take, or that are none
}

func (n *Notifier) tell(ctx context.Context, t Target, e Event) (delivered, error) {
	if strings.HasPrefix(t.URL, "https:") {
		return delivered{}, post(ctx, t, e)
	}
	to := t.To
	if e.approval != "" {
		var err error
		if to, err = n.Approvers(ctx, e.approval); err != nil {
			return delivered{}, err
		}
	}
	return mail(ctx, t, e, to)
}

// sent is the body of notify.sent.
type sent struct {
	V      int    `json:"v"`
	Target string `json:"target"`
	ID     string `json:"id"`
	Type   string `json:"type"`
	Record int64  `json:"record"`
	delivered
}

// told moves the cursor behind what a target has.
func (n *Notifier) told(ctx context.Context, t Target, e Event, d delivered) error {
	_, err := n.Log.Append(ctx, record.Draft{Type: "notify.sent", Actor: "sallyport", Body: sent{1, t.Name, e.ID, e.Type, e.seq, d},
		Change: func(tx record.Tx) error {
			var c cursor
			if err := tx.Get(kind, t.Name, &c); err != nil {
				return err
			}
			c.Next = max(c.Next, e.seq+1)
			return tx.Put(kind, t.Name, c)
		}})
	return err
}

// tellStop tells once a process, best effort, that the ledger stopped: there is no
// record that it could follow from.
func (n *Notifier) tellStop(ctx context.Context, t Target, p *place) error {
	e := n.stopped()
	if p.toldStop || !t.wants(e.Type) {
		return nil
	}
	if _, err := n.tell(ctx, t, e); err != nil {
		return err
	}
	p.toldStop = true
	return nil
}

// Standing is how telling one target goes.
type Standing struct {
	Target string    `json:"target"`
	URL    string    `json:"url"`
	Events []string  `json:"events"`
	Waits  time.Time `json:"waits,omitzero"` // since when the oldest event waits
	Late   bool      `json:"late"`
	Fails  int       `json:"fails,omitempty"`
	Retry  time.Time `json:"retry,omitzero"`
	Why    string    `json:"why,omitempty"`
}

// Standings are in the order of the declaration.
func (n *Notifier) Standings() []Standing {
	out := []Standing{}
	for _, t := range n.Targets() {
		x := n.at(t.Name).Trial()
		s := Standing{Target: t.Name, URL: t.URL, Events: t.Events, Waits: x.Waits, Fails: x.Fails, Retry: x.Retry, Why: x.Why}
		s.Late = !x.Waits.IsZero() && time.Since(x.Waits) > Late
		if s.Events == nil {
			s.Events = defaults()
		}
		out = append(out, s)
	}
	return out
}
