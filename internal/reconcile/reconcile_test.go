package reconcile_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/reconcile"
)

const skew = 5 * time.Second

func second(text string) time.Time {
	n, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return time.Unix(1_800_000_000+int64(n), 0).UTC()
}

// play is a script, a line each, with times in seconds:
//
//	effect ID DECIDED OPERATION k=v...     an action is let through
//	read ID DECIDED OPERATION k=v...       one that changes nothing
//	person ID DECIDED OPERATION k=v...     one of a person who has taken over
//	outcome ID AT STATE[/STATUS[/READBACK]]
//	event ID AT OPERATION k=v...           by an agent's account; ? is an unknown name
//	settle LOG RECORDS|head                how far both are read
//
// The agent is a, unless by=NAME says otherwise.
//
// It returns what the steps found: "e1=a1", "bypass e2", "missing a3".
func play(t *testing.T, script string) string {
	t.Helper()
	var s reconcile.State
	var out []string
	for line := range strings.Lines(script) {
		w := strings.Fields(line)
		if len(w) == 0 {
			continue
		}
		params, by := map[string]string{}, "a"
		for _, f := range w {
			if k, v, ok := strings.Cut(f, "="); ok {
				params[k] = v
			}
		}
		if params["by"] != "" {
			by = params["by"]
			delete(params, "by")
		}
		switch w[0] {
		case "effect", "read", "person":
			s.Decided(reconcile.Effect{Action: w[1], Agent: by, Decided: second(w[2]), Operation: w[3], Same: reconcile.Same(w[3], params), Read: w[0] == "read", Person: w[0] == "person"})
		case "outcome":
			parts := append(strings.Split(w[3], "/"), "0", "")
			status, _ := strconv.Atoi(parts[1])
			s.Outcome(w[1], second(w[2]), action.Outcome{State: parts[0], Status: status, ReadBack: strings.TrimSuffix(parts[2], "0")})
		case "event":
			e := reconcile.Event{ID: w[1], Agents: strings.Split(by, "+"), Time: second(w[2]), Operation: w[3], Same: reconcile.Same(w[3], params)}
			if w[3] == "?" {
				e.Operation, e.Same, e.Why = "", "", "unknown"
			}
			s.Seen(e)
		case "settle":
			p := reconcile.Progress{Log: second(w[1]), Head: w[2] == "head"}
			if p.Records = second(w[1]); !p.Head {
				p.Records = second(w[2])
			}
			r := s.Settle(skew, p)
			for _, x := range r.Matched {
				out = append(out, x.Event+"="+x.Action)
			}
			for _, x := range r.Bypass {
				out = append(out, "bypass "+x.ID)
			}
			for _, x := range r.Missing {
				out = append(out, "missing "+x.Action)
			}
		default:
			t.Fatalf("no such line: %s", line)
		}
	}
	s.Effects = slices.DeleteFunc(s.Effects, func(e reconcile.Effect) bool { return e.Judged })
	if n := len(s.Effects) + len(s.Events); n > 0 {
		out = append(out, fmt.Sprintf("%d effects and %d events wait", len(s.Effects), len(s.Events)))
	}
	return strings.Join(out, ", ")
}

// TestMatching is the table of what is matched with what.
//
// Threats: W11 (watch)
func TestMatching(t *testing.T) {
	for _, c := range []struct{ name, script, want string }{
		{"one effect, one event", `
			effect a1 10 reset user=jo
			outcome a1 12 done/303
			event e1 11 reset user=jo
			settle 100 head`, "e1=a1"},
		{"nothing on record", `
			event e1 11 reset user=jo
			settle 0 head`, "bypass e1"},
		{"one effect, two events", `
			effect a1 10 reset user=jo
			outcome a1 12 done/303
			event e1 11 reset user=jo
			event e2 11 reset user=jo
			settle 100 head`, "e1=a1, bypass e2"},
		{"two effects, two events", `
			effect a1 10 reset user=jo
			effect a2 10 reset user=jo
			outcome a2 11 done/303
			outcome a1 12 done/303
			event e1 11 reset user=jo
			event e2 11 reset user=jo
			settle 100 head`, "e1=a2, e2=a1"},
		{"two effects, one event", `
			effect a1 10 reset user=jo
			effect a2 20 reset user=jo
			outcome a1 12 done/303
			outcome a2 22 done/303
			event e1 21 reset user=jo
			settle 100 head`, "e1=a2, missing a1"},
		{"the one whose time is over first", `
			effect a1 10 reset user=jo
			effect a2 11 reset user=jo
			outcome a2 12 done/303
			outcome a1 60 done/303
			event e1 12 reset user=jo
			event e2 50 reset user=jo
			settle 100 head`, "e1=a2, e2=a1"},
		{"another parameter", `
			effect a1 10 reset user=jo
			outcome a1 12 done/303
			event e1 11 reset user=tom
			settle 0 head`, "bypass e1, 1 effects and 0 events wait"},
		{"one parameter more", `
			effect a1 10 reset user=jo
			outcome a1 12 done/303
			event e1 11 reset user=jo group=admins
			settle 100 head`, "bypass e1, missing a1"},
		{"another operation", `
			effect a1 10 reset user=jo
			outcome a1 12 done/303
			event e1 11 disable user=jo
			settle 0 head`, "bypass e1, 1 effects and 0 events wait"},
		{"another agent, with another account", `
			effect a1 10 reset user=jo by=b
			outcome a1 12 done/303
			event e1 11 reset user=jo
			settle 0 head`, "bypass e1, 1 effects and 0 events wait"},
		{"an account that agents share", `
			effect a1 10 reset user=jo by=b
			outcome a1 12 done/303
			event e1 11 reset user=jo by=a+b
			settle 100 head`, "e1=a1"},
		{"an account that no agent has", `
			effect a1 10 reset user=jo
			outcome a1 12 done/303
			event e1 11 reset user=jo by=+
			settle 0 head`, "bypass e1, 1 effects and 0 events wait"},
		{"an unknown event", `
			event e1 11 ? user=jo
			settle 0 0`, "bypass e1"},
		{"an unknown event while something is in flight", `
			effect a1 10 reset user=jo
			event e1 11 ? user=jo
			settle 0 head`, "bypass e1, 1 effects and 0 events wait"},
		{"as early as clocks may differ", `
			effect a1 10 reset user=jo
			outcome a1 12 done/303
			event e1 5 reset user=jo
			settle 100 head`, "e1=a1"},
		{"earlier", `
			effect a1 10 reset user=jo
			outcome a1 12 done/303
			event e1 4 reset user=jo
			settle 0 head`, "bypass e1, 1 effects and 0 events wait"},
		{"as late as clocks may differ", `
			effect a1 10 reset user=jo
			outcome a1 12 done/303
			event e1 17 reset user=jo
			settle 0 head`, "e1=a1"},
		{"later", `
			effect a1 10 reset user=jo
			outcome a1 12 done/303
			event e1 18 reset user=jo
			settle 0 head`, "bypass e1, 1 effects and 0 events wait"},
		{"in flight", `
			effect a1 10 reset user=jo
			event e1 11 reset user=jo
			settle 0 head
			outcome a1 12 done/303
			settle 0 head`, "e1=a1"},
		{"in flight, and then not sent", `
			effect a1 10 reset user=jo
			event e1 11 reset user=jo
			settle 0 head
			outcome a1 12 failed
			settle 0 head`, "bypass e1"},
		{"in flight before its record", `
			effect a1 30 reset user=jo
			event e1 11 reset user=jo
			settle 0 head`, "bypass e1, 1 effects and 0 events wait"},
		{"not sent", `
			effect a1 10 reset user=jo
			outcome a1 12 failed
			event e1 11 reset user=jo
			settle 100 head`, "bypass e1"},
		{"a read that failed may have been sent", `
			read a1 10 show user=jo
			outcome a1 12 failed
			event e1 11 show user=jo
			settle 100 head`, "e1=a1"},
		{"refused by the application, which logs that", `
			effect a1 10 reset user=jo
			outcome a1 12 done/403
			event e1 11 reset user=jo
			settle 100 head`, "e1=a1"},
		{"refused by the application, which does not", `
			effect a1 10 reset user=jo
			outcome a1 12 done/403
			settle 100 head`, ""},
		{"answered, and read back as not done", `
			effect a1 10 reset user=jo
			outcome a1 12 done/303/failed
			settle 100 head`, ""},
		{"unknown, and it happened", `
			effect a1 10 reset user=jo
			outcome a1 12 unknown
			event e1 11 reset user=jo
			settle 100 head`, "e1=a1"},
		{"unknown, and it did not happen", `
			effect a1 10 reset user=jo
			outcome a1 12 unknown
			settle 700 head`, ""},
		{"the answer was lost, and it happened later", `
			effect a1 10 reset user=jo
			outcome a1 12 unknown
			event e1 300 reset user=jo
			settle 400 head`, "e1=a1"},
		{"the answer was lost, and it happened twice", `
			effect a1 10 reset user=jo
			outcome a1 12 unknown
			event e1 11 reset user=jo
			event e2 300 reset user=jo
			settle 400 head`, "e1=a1, bypass e2"},
		{"the answer was lost, for too long", `
			effect a1 10 reset user=jo
			outcome a1 12 unknown
			event e1 616 reset user=jo
			settle 700 head`, "bypass e1"},
		{"a gateway gave up, and it happened later", `
			effect a1 10 reset user=jo
			outcome a1 70 done/504
			event e1 90 reset user=jo
			settle 100 head`, "e1=a1"},
		{"accepted, and done later", `
			effect a1 10 reset user=jo
			outcome a1 11 done/202
			settle 100 head
			event e1 90 reset user=jo
			settle 101 head`, "e1=a1"},
		{"accepted, and never done", `
			effect a1 10 reset user=jo
			outcome a1 11 done/202
			settle 614 head
			settle 615 head`, "missing a1"},
		{"refused, and then done around the doors", `
			effect a1 10 reset user=jo
			outcome a1 11 done/403
			event e1 90 reset user=jo
			settle 100 head`, "bypass e1"},
		{"missing only when the log is read so far", `
			effect a1 10 reset user=jo
			outcome a1 12 done/303
			settle 16 head
			settle 17 head`, "missing a1"},
		{"missing, and then it shows after all", `
			effect a1 10 reset user=jo
			outcome a1 12 done/303
			settle 17 head
			settle 3616 head
			event e1 11 reset user=jo
			settle 3616 head`, "missing a1, e1=a1"},
		{"missing, and then it shows too late", `
			effect a1 10 reset user=jo
			outcome a1 12 done/303
			settle 17 head
			settle 3617 head
			event e1 11 reset user=jo
			settle 3617 head`, "missing a1, bypass e1"},
		{"unknown, and it shows late", `
			effect a1 10 reset user=jo
			outcome a1 12 unknown
			settle 700 head
			event e1 11 reset user=jo
			settle 700 head`, "e1=a1"},
		{"without an outcome for ten minutes", `
			effect a1 10 reset user=jo
			event e1 500 reset user=jo
			settle 611 head`, "e1=a1"},
		{"without an outcome, and nothing came of it", `
			effect a1 10 reset user=jo
			settle 700 head`, ""},
		{"records that are not read yet", `
			event e1 11 reset user=jo
			settle 0 16
			effect a1 14 reset user=jo
			outcome a1 14 done/303
			settle 0 17`, "e1=a1"},
		{"records that are read, and have it not", `
			event e1 11 reset user=jo
			settle 0 16
			settle 0 17`, "bypass e1"},
		{"a person's, in the agent's session", `
			person a1 10 reset user=jo
			outcome a1 12 done/303
			event e1 11 reset user=jo
			settle 100 head`, "e1=a1"},
		{"a person's, by their own name", `
			person a1 10 reset user=jo
			outcome a1 12 done/303
			settle 100 head`, ""},
		{"an outcome twice, or of nothing", `
			effect a1 10 reset user=jo
			outcome a1 12 done/303
			outcome a1 80 failed
			outcome a9 12 done/303
			event e1 11 reset user=jo
			settle 100 head`, "e1=a1"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			if got := play(t, c.script); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestNoBetterMatching: events are matched in the order of the log, and no other choice
// would leave fewer unexplained. It is held against trying all.
func TestNoBetterMatching(t *testing.T) {
	var best func(effects [][2]int, events []int) int
	best = func(effects [][2]int, events []int) int {
		if len(events) == 0 {
			return 0
		}
		n := best(effects, events[1:])
		for i, e := range effects {
			if events[0] >= e[0]-5 && events[0] <= e[1]+5 {
				n = max(n, 1+best(slices.Delete(slices.Clone(effects), i, i+1), events[1:]))
			}
		}
		return n
	}
	seed := uint32(1)
	random := func(n int) int { seed = seed*1664525 + 1013904223; return int(seed>>16) % n }
	for range 2000 {
		var effects [][2]int
		var events []int
		var script strings.Builder
		for i := range 1 + random(5) {
			from := random(60)
			effects = append(effects, [2]int{from, from + random(20)})
			fmt.Fprintf(&script, "effect a%d %d reset\noutcome a%d %d done/403\n", i, from, i, effects[i][1])
		}
		for range 1 + random(5) {
			events = append(events, random(90))
		}
		slices.Sort(events)
		for i, at := range events {
			fmt.Fprintf(&script, "event e%d %d reset\n", i, at)
		}
		got := strings.Count(play(t, script.String()+"settle 0 head\n"), "=")
		if want := best(effects, events); got != want {
			t.Fatalf("%d are matched, and %d can be:\n%s", got, want, script.String())
		}
	}
}

// TestCrowded: what was judged makes room for what was not.
func TestCrowded(t *testing.T) {
	var s reconcile.State
	for i := 0; !s.Full(); i++ {
		s.Decided(reconcile.Effect{Action: strconv.Itoa(i), Decided: second("0")})
		s.Outcome(strconv.Itoa(i), second(strconv.Itoa(i%2*100)), action.Outcome{State: action.Done, Status: 403})
	}
	s.Settle(skew, reconcile.Progress{Log: second("50"), Head: true})
	if s.Full() || len(s.Effects) != reconcile.MaxPending/2 || s.Effects[0].Settled != second("100") {
		t.Errorf("%d are left, %+v", len(s.Effects), s.Effects[0])
	}
}

func TestFull(t *testing.T) {
	var s reconcile.State
	for range reconcile.MaxPending {
		if s.Full() {
			t.Fatal("full too early")
		}
		s.Seen(reconcile.Event{})
	}
	if !s.Full() {
		t.Error("more is taken in")
	}
}
