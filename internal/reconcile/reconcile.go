// Package reconcile holds what an application's own audit log says was done by an
// agent's account against the effects that are on record here. It is where it shows
// that something went around the doors.
//
// Invariants:
//   - One event is matched with one effect, and one effect with one event: of an agent
//     that has the event's account, of the same operation, with the same values of all parameters that the event says, dispatched
//     at such a time that it can be the event's cause.
//   - An event for which there is no such effect is a finding, always. It is one as soon
//     as every record is read that could explain it.
//   - An effect that was done and that the log does not show is a finding of its own, as
//     soon as every event is read that could be it.
//   - What is not known yet is not judged: an effect without an outcome may turn out to
//     have been dispatched or not, and an event that it could explain waits for it.
//
// All events of one operation say the same parameters (package connector sees to that),
// so effects that one event could have are interchangeable, and taking the one whose
// time is over first leaves no event unmatched that another choice would match. Where
// agents share an account and have others beside it, another choice might.
//
// Not trusted: the application's texts. Its clock and its word that an event happened
// are taken; a hostile application can end its agents' certifications, and it can be
// silent about what it did.
//
// It does no I/O and has no clock.
package reconcile

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// MaxFlight is how long after its record an effect may be dispatched or answered, if
// nothing says what became of it.
const MaxFlight = 10 * time.Minute

// Kept is how long after it should have shown an effect still explains an event: a log
// that is later than it is declared to be is no bypass.
const Kept = time.Hour

// MaxPending bounds how many effects, and how many events, are kept unmatched.
const MaxPending = 1500

// Same is what an effect and the event of it agree on: the operation, and the whole
// values of the parameters that events say.
func Same(operation string, params map[string]string) action.Digest {
	b := fmt.Appendf(nil, "%q", operation)
	for _, k := range slices.Sorted(maps.Keys(params)) {
		b = fmt.Appendf(b, " %q=%q", k, params[k])
	}
	return canon.Digest(b)
}

// Effect is an action that was let through, until it is matched or judged.
type Effect struct {
	Action    string            `json:"action"`
	Record    int64             `json:"record"` // of the decision
	Agent     string            `json:"agent"`
	Task      string            `json:"task"`
	Operation string            `json:"operation"`
	Params    map[string]string `json:"params,omitempty"` // as they are shown
	Same      action.Digest     `json:"same"`             // of the operation, and of the parameters that events say
	Decided   time.Time         `json:"decided"`
	// Settled is when its time is over: its outcome was recorded, and it says what became
	// of it. Zero is in flight.
	Settled time.Time `json:"settled,omitzero"`
	Done    bool      `json:"done,omitempty"` // and was answered with success
	Read    bool      `json:"read,omitempty"` // it changes nothing
	// Person did it, who had taken the session over and may be signed in by their own
	// name: then it is not by an agent's account.
	Person bool `json:"person,omitempty"`
	// Judged says that it should have shown by now, or need not show: it only explains.
	Judged bool `json:"judged,omitempty"`
}

// Event is one of the application's log, by an agent's account.
type Event struct {
	ID        string            `json:"id"`
	Time      time.Time         `json:"time"`
	Actor     string            `json:"actor"`
	Agents    []string          `json:"agents,omitempty"` // whose account it is
	Name      string            `json:"name"`
	Operation string            `json:"operation,omitempty"`
	Params    map[string]string `json:"params,omitempty"` // as they are shown
	Same      action.Digest     `json:"same,omitempty"`
	// Why is set where the event cannot be an effect of ours, whatever is on record.
	Why string `json:"why,omitempty"`
}

// Pair is an event and the effect that it is of.
type Pair struct {
	Event  string `json:"event"`
	Action string `json:"action"`
	Record int64  `json:"record"`
}

// Result is what a step found out.
type Result struct {
	Matched []Pair   `json:"matched,omitempty"`
	Bypass  []Event  `json:"bypass,omitempty"`  // nothing on record explains them
	Missing []Effect `json:"missing,omitempty"` // done, and not in the log
}

// State is what is not judged yet.
type State struct {
	Effects []Effect `json:"effects,omitempty"` // by record
	Events  []Event  `json:"events,omitempty"`  // in the order of the log
}

// Progress says up to when all is read: each event that happened until Log is among
// those that were seen, and each record until Records. Head says that the newest record
// was read after the events were: an effect is on record before it is dispatched, so no
// other can be their cause.
type Progress struct {
	Log, Records time.Time
	Head         bool
}

// Decided takes in an effect that was let through.
func (s *State) Decided(e Effect) { s.Effects = append(s.Effects, e) }

// Outcome takes in what became of an effect. One that was certainly not sent explains
// nothing; a read may have been sent whatever is said. One whose answer was lost, or does
// not say that it is over (a gateway that gave up, 202), may still take effect for a while.
func (s *State) Outcome(id string, when time.Time, o action.Outcome) {
	i := slices.IndexFunc(s.Effects, func(e Effect) bool { return e.Action == id })
	if i < 0 || !s.Effects[i].Settled.IsZero() {
		return
	}
	if o.State == action.Failed && o.Status == 0 && !s.Effects[i].Read {
		s.Effects = slices.Delete(s.Effects, i, i+1)
		return
	}
	e := &s.Effects[i]
	e.Settled, e.Done = when, o.State == action.Done && o.Status < 400 && o.ReadBack != "failed" && !e.Person
	if until := e.Decided.Add(MaxFlight); (o.State != action.Done || o.Status >= 500 || o.Status == 202) && until.After(when) {
		e.Settled = until
	}
}

// Seen takes in an event.
func (s *State) Seen(e Event) { s.Events = append(s.Events, e) }

// Full says that nothing more should be taken in before something is judged.
func (s *State) Full() bool { return len(s.Effects) >= MaxPending || len(s.Events) >= MaxPending }

// Settle matches and judges what can be. skew is how far the application's clock may be
// from ours.
func (s *State) Settle(skew time.Duration, p Progress) (r Result) {
	for i := range s.Effects {
		// A crash, or an answer without an end: it may have been sent until then.
		if e := &s.Effects[i]; e.Settled.IsZero() && e.Decided.Add(MaxFlight).Before(p.Records) {
			e.Settled = e.Decided.Add(MaxFlight)
		}
	}
	var waiting []Event
	for _, ev := range s.Events {
		i, flying := s.cause(ev, skew)
		switch {
		case i >= 0:
			e := s.Effects[i]
			r.Matched = append(r.Matched, Pair{ev.ID, e.Action, e.Record})
			s.Effects = slices.Delete(s.Effects, i, i+1)
		case flying, ev.Why == "" && !p.Head && !p.Records.After(ev.Time.Add(skew)):
			waiting = append(waiting, ev)
		default:
			r.Bypass = append(r.Bypass, ev)
		}
	}
	s.Events = waiting
	for i := range s.Effects {
		if e := &s.Effects[i]; !e.Judged && !e.Settled.IsZero() && !e.Settled.Add(skew).After(p.Log) {
			if e.Judged = true; e.Done {
				r.Missing = append(r.Missing, *e)
			}
		}
	}
	crowded := len(s.Effects) > MaxPending/2
	s.Effects = slices.DeleteFunc(s.Effects, func(e Effect) bool {
		return e.Judged && !e.Settled.IsZero() && (crowded || !e.Settled.Add(skew+Kept).After(p.Log))
	})
	return r
}

// cause is the effect of which the event is: the one whose time is over first. flying
// says that there is none, but one in flight that may turn out to be it.
func (s *State) cause(ev Event, skew time.Duration) (best int, flying bool) {
	best = -1
	for i, e := range s.Effects {
		if ev.Why != "" || !slices.Contains(ev.Agents, e.Agent) || e.Same != ev.Same || ev.Time.Before(e.Decided.Add(-skew)) {
			continue
		}
		switch {
		case e.Settled.IsZero():
			flying = true
		case ev.Time.After(e.Settled.Add(skew)):
		case best < 0, e.Settled.Before(s.Effects[best].Settled):
			best = i
		}
	}
	return best, flying && best < 0
}
