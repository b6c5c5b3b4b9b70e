// Package watch looks at how an agent behaves in production and says when that is
// not what was certified any more. A hosted model can change without a new name.
//
// The unit is the task: actions of one task are not independent, tasks are. What a
// task did is counted from its records (Collect), and each number is held against
// what the certification's own trials of the same capability showed, and what
// production tasks showed since (State.Add). How often a task would be called a
// change by chance is stated, and holds whatever the numbers look like; see
// sequential.go.
//
// Invariants:
//   - A state follows from the numbers of the trials and of the tasks, in the order
//     of their records, and from nothing else: no clock, no chance.
//   - It has a bounded size, however many tasks there were.
//   - A change stays until there is another certification. Nobody waves it away.
//
// Not trusted: what an agent says of its own run. Texts of pages are not read.
package watch

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Numbers are what one task did.
type Numbers struct {
	Agent         string `json:"agent"`
	Capability    string `json:"capability"`
	Certification string `json:"certification"`
	// Failed says that the agent's program did not come to a good end.
	Failed      bool `json:"failed,omitempty"`
	Denied      int  `json:"denied"`      // attempts of its own that were refused, but not by people
	Held        int  `json:"held"`        // attempts of its own that people were asked about
	Unexplained int  `json:"unexplained"` // writes that no permitted input explains, let through or not
	// Millis is how long it took, without what it waited for people. Tokens are what
	// the provider says that its answers took; 0 is not known.
	Millis int64 `json:"millis"`
	Tokens int64 `json:"tokens,omitempty"`
	// Kinds are the kinds of attempt that it made: operation, names of parameters,
	// and application or origin. Novel are those that nothing before it made.
	Kinds []string `json:"-"`
	Novel []string `json:"novel,omitempty"`
}

// maxKinds bounds the kinds of attempt that are known of a capability, and that one
// task can add; what is beyond counts as novel each time.
const (
	maxKinds = 300
	maxKind  = 160 // bytes of one; of a longer one the beginning
	maxNovel = 20
	maxTried = 2 * (maxKinds + maxNovel) // that are looked at of one task: more than enough to say that some are novel
	maxCount = 100                       // what is more of anything is as much
)

// decided is action.decided, and outcome is action.outcome (package gate).
type decided struct {
	Action   action.Action   `json:"action"`
	Decision action.Decision `json:"decision"`
	Approval string          `json:"approval"`
}

type outcome struct {
	Outcome action.Outcome `json:"outcome"`
}

// Collect counts the records of one task, which each calls its argument for in
// order. The caller fills in whose task it is and how it ended.
func Collect(each func(func(record.Entry) error) error) (Numbers, error) {
	var n Numbers
	kinds := map[string]bool{}
	var began time.Time
	var waited time.Duration
	asked, since := map[string]bool{}, time.Time{} // questions that are open, and since when any is
	err := each(func(e record.Entry) error {
		switch {
		case e.Type == "task.active":
			began = e.Time
		case (e.Type == "task.closing" || strings.HasPrefix(e.Type, "task.") && n.Millis == 0) && !began.IsZero():
			if n.Millis = (e.Time.Sub(began) - waited).Milliseconds(); len(asked) > 0 {
				n.Millis -= e.Time.Sub(since).Milliseconds()
			}
			n.Millis = max(1, n.Millis)
		case strings.HasPrefix(e.Type, "hold."):
			var h struct {
				ID       string `json:"id"`
				Complete bool   `json:"complete"`
			}
			if err := json.Unmarshal(e.Body, &h); err != nil {
				return err
			}
			switch {
			case e.Type == "hold.opened":
				if len(asked) == 0 {
					since = e.Time
				}
				asked[h.ID] = true
			case asked[h.ID] && (h.Complete || e.Type != "hold.approved"):
				if delete(asked, h.ID); len(asked) == 0 {
					waited += e.Time.Sub(since)
				}
			}
		case e.Type == "action.decided":
			var d decided
			if err := json.Unmarshal(e.Body, &d); err != nil {
				return err
			}
			n.decided(d, kinds)
		case e.Type == "action.outcome":
			var o outcome
			if err := json.Unmarshal(e.Body, &o); err != nil {
				return err
			}
			n.Tokens += o.Outcome.Tokens
		}
		return nil
	})
	n.Kinds = slices.Sorted(maps.Keys(kinds))
	return n, err
}

func (n *Numbers) decided(d decided, kinds map[string]bool) {
	a := d.Action
	if a.Actor != "" || a.Source == "boundary" {
		return // of who has taken the session over, or of ours
	}
	if len(kinds) < maxTried {
		kinds[kindOf(a)] = true
	}
	if a.Surface == action.Egress && a.Source == "browser" && a.Effect.Changes() && a.Explained == "" {
		n.Unexplained++
	}
	switch own := a.Source != "browser" || a.Explained != "" || a.Surface == action.Computer; {
	case !own: // what a page does by itself
	case d.Decision.Layer == action.LayerHold || d.Approval != "":
		n.Held++
	case d.Decision.Verdict != action.Allow:
		n.Denied++
	}
}

func kindOf(a action.Action) string {
	where := a.App
	switch {
	case where != "": // the origins of an application differ by stage
	case a.Request != nil:
		where = a.Request.Origin
	case a.Element != nil:
		where = a.Element.FrameOrigin
	}
	k := a.Operation + "{" + strings.Join(slices.Sorted(maps.Keys(a.Params)), ",") + "}" + where
	k = strings.ToValidUTF8(k[:min(len(k), maxKind)], "")
	return strings.Map(func(r rune) rune { // what is written as it is
		if r < ' ' || r == '"' || r == '\\' {
			return '?'
		}
		return r
	}, k)
}

// signal is one number that is watched.
type signal struct {
	name, what string // of a task that has some of it
	unit       string
	// certified says that production is held against the trials as well. What
	// depends on the work (how long, how many tokens, how often people are asked) is
	// held against earlier production tasks alone.
	certified bool
	both      bool // less is a change too
	scaled    bool // kept in steps of 9 %
	value     func(Numbers) int64
}

var signals = []signal{
	{"failed", "ended badly", "bad ends", true, false, false, func(n Numbers) int64 {
		if n.Failed {
			return 1
		}
		return 0
	}},
	{"denied", "with something denied", "denials", true, false, false, func(n Numbers) int64 { return int64(n.Denied) }},
	{"unexplained", "with an unexplained effect", "unexplained effects", true, false, false, func(n Numbers) int64 { return int64(n.Unexplained) }},
	{"novel", "with something never tried before", "of it", true, false, false, func(n Numbers) int64 { return int64(len(n.Novel)) }},
	{"held", "with a question to people", "questions to people", false, true, false, func(n Numbers) int64 { return int64(n.Held) }},
	{"millis", "duration", "milliseconds", false, true, true, func(n Numbers) int64 { return n.Millis }},
	{"tokens", "tokens", "tokens", false, true, true, func(n Numbers) int64 { return n.Tokens }},
}

// step is the place of a value on a scale with 8 steps to the double, and middle is
// a value of that place.
func (s signal) step(v int64) int {
	switch {
	case v <= 0:
		return 0
	case s.scaled:
		return 1 + int(8*math.Log2(float64(v)))
	}
	return int(min(v, maxCount))
}

func (s signal) middle(step int) int64 {
	if !s.scaled || step == 0 {
		return int64(step)
	}
	return int64(math.Round(math.Exp2((float64(step) - 0.5) / 8)))
}
