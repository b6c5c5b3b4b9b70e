package reconcile

import (
	"fmt"
	"strconv"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// Cursor is how far a log was read: to Last, whose content is kept, so that it shows if
// the log is another one when it is read again. After is the event before it.
type Cursor struct {
	After  string        `json:"after,omitempty"`
	Last   string        `json:"last,omitempty"` // empty: nothing was read yet
	Digest action.Digest `json:"digest,omitempty"`
}

// Line is an event as far as its place in the log goes.
type Line struct {
	ID     string
	Number bool
	Digest action.Digest
}

// Rewritten is an error that says what shows that a log is not the one that was read
// before. It may be another application, a restored one, or somebody's work.
type Rewritten string

func (r Rewritten) Error() string { return string(r) }

// Again holds a page that begins after c.After against what was read before.
func (c Cursor) Again(page []Line) error {
	switch {
	case c.Last == "":
		return nil
	case len(page) == 0:
		return Rewritten("event " + c.Last + ", which was read before, is not there any more, nor is any after it")
	case page[0].ID != c.Last:
		return Rewritten("event " + page[0].ID + " is in the place of event " + c.Last + ", which was read before")
	case page[0].Digest != c.Digest:
		return Rewritten("event " + c.Last + " is not what it was when it was read before")
	}
	return nil
}

// Follow moves the cursor over a page that begins after c.Last.
func (c *Cursor) Follow(page []Line, consecutive bool) error {
	for _, l := range page {
		if c.Last != "" {
			if err := after(c.Last, l, consecutive); err != nil {
				return err
			}
		}
		*c = Cursor{After: c.Last, Last: l.ID, Digest: l.Digest}
	}
	return nil
}

// after: ids that are numbers rise, and a log whose ids are consecutive leaves none out.
func after(last string, l Line, consecutive bool) error {
	n, err := strconv.ParseInt(last, 10, 64)
	m, err2 := strconv.ParseInt(l.ID, 10, 64)
	switch {
	case l.ID == last:
		return Rewritten("event " + last + " is there twice")
	case !l.Number && !consecutive:
		return nil
	case err != nil || err2 != nil || !l.Number:
		return Rewritten(fmt.Sprintf("event %s follows event %s, and one of these ids is no number", l.ID, last))
	case m <= n:
		return Rewritten(fmt.Sprintf("event %s follows event %s: ids go back", l.ID, last))
	case consecutive && m != n+1:
		return Rewritten(fmt.Sprintf("event %s follows event %s: what was between is gone", l.ID, last))
	}
	return nil
}
