package reconcile_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/reconcile"
)

// lines are events, as "7@30": id and second. "7x" is another event 7, and "'7" a text.
func lines(words string) (out []reconcile.Line) {
	for w := range strings.FieldsSeq(words) {
		id, at, _ := strings.Cut(w, "@")
		name, text := strings.CutPrefix(id, "'")
		out = append(out, reconcile.Line{ID: strings.TrimSuffix(name, "x"), Number: !text, Digest: action.Digest(id), Time: second(at)})
	}
	return out
}

// walk reads a log of pages, apart by "|", to its end, and returns which events are new.
func walk(c *reconcile.Cursor, consecutive bool, final, log string) (fresh string, err error) {
	w := c.Walk(consecutive)
	var all []string
	for page := range strings.SplitSeq(log, "|") {
		page := lines(page)
		is, err := w.Page(page)
		if err != nil {
			return "", err
		}
		for i, l := range page {
			if is[i] {
				all = append(all, l.ID)
			}
		}
		if err := w.Final(second(final)); err != nil {
			return "", err
		}
	}
	return strings.Join(all, " "), w.End(second(final))
}

// TestRewritten: a log that is not the one that was read before, and one that is late.
// What is final by the first reading is what happened until second 10.
//
// Threats: W12 (watch)
func TestRewritten(t *testing.T) {
	for _, c := range []struct {
		name, before string
		consecutive  bool
		again, final string
		fresh, bad   string
	}{
		{"nothing yet", "", true, "1@1 2@2", "10", "1 2", ""},
		{"goes on", "1@1 2@2", true, "2@2 | 3@3", "10", "3", ""},
		{"goes on behind what is not final", "1@1 2@2 3@11", true, "2@2 3@11 4@12", "10", "4", ""},
		{"nothing is final", "1@11 2@12", true, "1@11 2@12 | 3@13", "20", "3", ""},
		{"nothing new", "1@1 2@2 3@11", true, "2@2 3@11", "20", "", ""},
		{"late, before what was read", "1@1 2@12 4@11", false, "1@1 2@12 3@11 4@11", "10", "3", ""},
		{"late, where none may be left out", "1@1 2@12 4@11", true, "1@1 2@12 3@11 4@11", "20", "3", ""},
		{"late texts", "'c@1 'b@12", false, "'c@1 'a@11 'b@12", "20", "a", ""},
		{"a gap that may be filled", "1@1 2@2", true, "2@2 4@11", "10", "4", ""},
		{"a gap that is not filled", "1@1 2@2 4@11", true, "2@2 4@11", "11", "", "what was between is gone"},
		{"a gap long ago", "1@1 2@2", true, "2@2 4@9", "10", "", "what was between is gone"},
		{"a gap that may be", "1@1 2@2", false, "2@2 4@4", "10", "4", ""},
		{"cut off", "1@1 2@2", false, "", "10", "", "event 2, which was read before, is not there any more"},
		{"another in its place", "1@1 2@2", false, "3@3", "10", "", "in the place of"},
		{"edited", "1@1 2@2", false, "2x@2", "10", "", "not what it was"},
		{"first one edited", "1@1", false, "1x@1", "10", "", "not what it was"},
		{"edited at once", "1@1 2@11", false, "1@1 2x@11", "10", "", "event 2 is not what it was"},
		{"a replica that is late", "1@1 2@11", false, "1@1", "10", "", ""},
		{"cut off, and not yet final", "1@1 2@11", false, "1@1", "11", "", "event 2, which was read before, is not there any more"},
		{"cut out, and not yet final", "1@1 2@11 3@11", false, "1@1 3@11", "20", "", "event 2, which was read before, is not there any more"},
		{"back", "5@5 6@6", false, "6@6 | 3@7", "10", "", "ids go back"},
		{"back within a page", "", false, "1@1 3@3 2@3", "10", "", "ids go back"},
		{"twice", "1@1", false, "1@1 | 1@1", "10", "", "twice"},
		{"texts", "'b@1", false, "'b@1 'a@2 'c@3", "10", "a c", ""},
		{"a page again and again", "", false, "'a@1 'b@2 | 'a@1 'b@2", "10", "", "event a is there twice"},
		{"a number after a text", "'b@1", false, "'b@1 2@2", "10", "", "no number"},
		{"numbers that are texts", "'9@1", true, "'9@1 '10@2", "10", "10", ""},
		{"numbers that are texts, with a gap", "'9@1", true, "'9@1 '11@2", "10", "", "what was between is gone"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			var cur reconcile.Cursor
			if _, err := walk(&cur, c.consecutive, "10", c.before); err != nil {
				t.Fatal(err)
			}
			fresh, err := walk(&cur, c.consecutive, c.final, c.again)
			switch {
			case c.bad == "" && (err != nil || fresh != c.fresh):
				t.Errorf("got %q, %v, want %q", fresh, err, c.fresh)
			case c.bad != "" && (!errors.As(err, new(reconcile.Rewritten)) || !strings.Contains(err.Error(), c.bad)):
				t.Errorf("got %v, want: %s", err, c.bad)
			}
		})
	}
}

// TestWalkIsCut: where a reading ends before the log does, nothing is read twice, and
// nothing is taken for gone.
func TestWalkIsCut(t *testing.T) {
	var cur reconcile.Cursor
	if _, err := walk(&cur, true, "10", "1@1 2@2 3@11 4@12 5@13"); err != nil {
		t.Fatal(err)
	}
	w := cur.Walk(true)
	if fresh, err := w.Page(lines("2@2 3@11")); err != nil || slices.Contains(fresh, true) || w.From() != "3" {
		t.Fatal(fresh, w.From(), err)
	}
	if err := w.Final(second("11")); err != nil || cur.Last != "3" || cur.After != "2" || len(cur.Tail) != 2 {
		t.Fatalf("%v, %+v", err, cur)
	}
	if fresh, err := walk(&cur, true, "20", "3@11 4@12 | 5@13 6@14"); err != nil || fresh != "6" {
		t.Errorf("got %q, %v", fresh, err)
	}
	if len(cur.Tail) != 0 || cur.Last != "6" || cur.Read() != "6" {
		t.Errorf("%+v", cur)
	}
}

// TestLateReplica: what one reading does not show, and the next does, is not new.
func TestLateReplica(t *testing.T) {
	var cur reconcile.Cursor
	for i, c := range []struct{ log, fresh string }{{"1@1 2@11 3@12", "1 2 3"}, {"1@1 3@12", ""}, {"1@1", ""}, {"1@1 2@11 3@12 4@13", "4"}} {
		if fresh, err := walk(&cur, true, "10", c.log); err != nil || fresh != c.fresh {
			t.Errorf("%d: got %q, %v, want %q", i, fresh, err, c.fresh)
		}
	}
}

// TestTailIsBounded: more events than are kept are no error of the log.
func TestTailIsBounded(t *testing.T) {
	var cur reconcile.Cursor
	var log strings.Builder
	for i := range reconcile.MaxTail {
		fmt.Fprintf(&log, "%d@11 ", i)
	}
	if _, err := walk(&cur, false, "10", log.String()); err != nil {
		t.Fatal(err)
	}
	_, err := walk(&cur, false, "10", log.String()+"99999@11")
	if err == nil || errors.As(err, new(reconcile.Rewritten)) || len(cur.Tail) != reconcile.MaxTail+1 {
		t.Errorf("got %v, %d", err, len(cur.Tail))
	}
}
