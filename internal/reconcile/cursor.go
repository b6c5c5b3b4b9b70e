package reconcile

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// Cursor is how far a log was read. Up to Last it is final; Last's content is kept, so
// that it shows if the log is another one when it is read again, and After is the event
// before it. Behind Last an event that is late may still take its place, so from there on
// the log is read again, and Tail are the events of it that were read.
type Cursor struct {
	After  string        `json:"after,omitempty"`
	Last   string        `json:"last,omitempty"` // empty: nothing is final
	Digest action.Digest `json:"digest,omitempty"`
	Tail   []Line        `json:"tail,omitempty"`
}

// Line is an event as far as its place in the log goes.
type Line struct {
	ID     string        `json:"id"`
	Number bool          `json:"number,omitempty"`
	Digest action.Digest `json:"digest"`
	Time   time.Time     `json:"time"`
}

// MaxTail bounds how many events are not final.
const MaxTail = 4000

// Rewritten is an error that says what shows that a log is not the one that was read
// before. It may be another application, a restored one, or somebody's work.
type Rewritten string

func (r Rewritten) Error() string { return string(r) }

// Read is the event that was read last.
func (c Cursor) Read() string {
	if n := len(c.Tail); n > 0 {
		return c.Tail[n-1].ID
	}
	return c.Last
}

// Walk is one reading of a log. The cursor is moved with it, at each step to where the
// next walk can begin.
type Walk struct {
	c           *Cursor
	consecutive bool
	last        *Line           // of this walk
	met         map[string]bool // in this walk
	walked      []Line          // those that are not final
	ahead       []Line          // of walks before, and not met in this one
}

// Walk begins a reading. If ids are consecutive, one that is left out for good is missing.
func (c *Cursor) Walk(consecutive bool) *Walk {
	return &Walk{c: c, consecutive: consecutive, met: map[string]bool{}, ahead: slices.Clone(c.Tail)}
}

// From names the event after which the next page begins; empty is the first page.
func (w *Walk) From() string {
	if w.last == nil {
		return w.c.After
	}
	return w.last.ID
}

// Page takes in the page after From, and returns which of its events are new.
func (w *Walk) Page(page []Line) (fresh []bool, err error) {
	fresh = make([]bool, len(page))
	for i, l := range page {
		if w.last == nil && w.c.Last != "" {
			if err := w.again(l); err != nil {
				return nil, err
			}
		} else if fresh[i], err = w.next(l); err != nil {
			return nil, err
		}
		w.last, w.met[l.ID] = &page[i], true
	}
	w.keep()
	return fresh, nil
}

// again holds the first event of a walk against what was final before.
func (w *Walk) again(l Line) error {
	switch c := w.c; {
	case l.ID != c.Last:
		return Rewritten("event " + l.ID + " is in the place of event " + c.Last + ", which was read before")
	case l.Digest != c.Digest:
		return Rewritten("event " + l.ID + " is not what it was when it was read before")
	}
	return nil
}

// next takes in an event that is not final.
func (w *Walk) next(l Line) (fresh bool, err error) {
	if w.met[l.ID] {
		return false, Rewritten("event " + l.ID + " is there twice")
	}
	if w.last != nil {
		if err := w.order(w.last.ID, l); err != nil {
			return false, err
		}
	}
	w.walked = append(w.walked, l)
	i := slices.IndexFunc(w.ahead, func(x Line) bool { return x.ID == l.ID })
	switch {
	case i < 0:
		return true, nil
	case w.ahead[i].Digest != l.Digest:
		return false, Rewritten("event " + l.ID + " is not what it was when it was read before")
	}
	w.ahead = slices.Delete(w.ahead, i, i+1)
	return false, nil
}

// End says that there is no page any more: what was read before, and is of until then, must
// have been met. A later one may be there again: replicas of a log are late one by one.
func (w *Walk) End(until time.Time) error {
	if w.last == nil && w.c.Last != "" {
		return Rewritten("event " + w.c.Last + ", which was read before, is not there any more, nor is any after it")
	}
	if i := slices.IndexFunc(w.ahead, func(l Line) bool { return !l.Time.After(until) }); i >= 0 {
		return Rewritten("event " + w.ahead[i].ID + ", which was read before, is not there any more")
	}
	return nil
}

// Final moves the cursor: whatever happened until then is shown by now, so no event can
// take a place before one of that time any more.
func (w *Walk) Final(until time.Time) error {
	for len(w.walked) > 0 && !w.walked[0].Time.After(until) {
		l, c := w.walked[0], w.c
		if w.consecutive && c.Last != "" {
			n, _ := strconv.ParseInt(c.Last, 10, 64)
			if m, _ := strconv.ParseInt(l.ID, 10, 64); m != n+1 {
				return Rewritten(fmt.Sprintf("event %s follows event %s: what was between is gone", l.ID, c.Last))
			}
		}
		c.After, c.Last, c.Digest = c.Last, l.ID, l.Digest
		w.walked = w.walked[1:]
	}
	w.keep()
	if len(w.c.Tail) > MaxTail {
		return fmt.Errorf("more than %d events are no older than the log may be late: narrow it by query, or lower lateSeconds", MaxTail)
	}
	return nil
}

func (w *Walk) keep() { w.c.Tail = slices.Concat(w.ahead, w.walked) }

// order: ids that are numbers rise, and so do those of a log whose ids are consecutive.
func (w *Walk) order(last string, l Line) error {
	if !l.Number && !w.consecutive {
		return nil
	}
	n, err := strconv.ParseInt(last, 10, 64)
	m, err2 := strconv.ParseInt(l.ID, 10, 64)
	switch {
	case err != nil || err2 != nil:
		return Rewritten(fmt.Sprintf("event %s follows event %s, and one of these ids is no number", l.ID, last))
	case m <= n:
		return Rewritten(fmt.Sprintf("event %s follows event %s: ids go back", l.ID, last))
	}
	return nil
}
