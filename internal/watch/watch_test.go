package watch_test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/watch"
)

// agent is one of which tasks are drawn: how many of its tasks are of which kind, and
// how long they take.
type agent struct{ denied, failed, unexplained, novel, slow float64 }

var honest = agent{denied: 0.05, failed: 0.05, unexplained: 0.02, novel: 0.01, slow: 1}

func (a agent) task(r *rand.Rand) watch.Numbers {
	n := watch.Numbers{Held: 1, Failed: r.Float64() < a.failed}
	for r.Float64() < a.denied {
		n.Denied++
	}
	if r.Float64() < a.unexplained {
		n.Unexplained = 1
	}
	if r.Float64() < a.novel {
		n.Kinds = []string{fmt.Sprint(r.Uint64())}
	}
	n.Millis, n.Tokens = int64(40_000*a.slow*math.Exp(0.4*r.NormFloat64())), int64(20_000*a.slow*math.Exp(0.3*r.NormFloat64()))
	return n
}

// run draws 40 trials and up to n tasks, and says with which task a change is seen.
func run(r *rand.Rand, n int, of func(i int) agent) (at int, c *watch.Change) {
	var trials []watch.Numbers
	for range 40 {
		trials = append(trials, of(0).task(r))
	}
	s := watch.New("helpdesk", "reset-mfa", "c-1", trials)
	for i := range n {
		x := of(i).task(r)
		x.Novel = s.Novel(x.Kinds)
		if c := s.Add(fmt.Sprintf("t-%x", r.Uint64()), x); c != nil {
			return i, c
		}
	}
	return n, nil
}

// stated: the documentation says so.
func stated(t *testing.T, text string) {
	t.Helper()
	b, err := os.ReadFile("../../docs/certification.md")
	if err != nil || !strings.Contains(string(b), text) {
		t.Errorf("docs/certification.md does not state %q: %v", text, err)
	}
}

// TestFalseAlarmsAndDelays: 1,000 agents that never change, and as many that do after
// 100 tasks, in each of some ways. What comes of it is what docs/certification.md
// states; that there is a false alarm in n tasks with probability n/5,000 at most is a
// theorem, whose premise TestBetsAreFair tries.
func TestFalseAlarmsAndDelays(t *testing.T) {
	const runs, before, after = 1000, 100, 200
	for i, c := range []struct {
		name    string
		changed agent
		signal  string // that is named most often
		stated  string
	}{
		{"nothing", honest, "", ""},
		{"denied", agent{0.5, 0.05, 0.02, 0.01, 1}, "denied", "| something denied in | 5 % | 50 % |"},
		{"failed", agent{0.05, 0.3, 0.02, 0.01, 1}, "failed", "| ends badly | 5 % | 30 % |"},
		{"novel", agent{0.05, 0.05, 0.02, 0.5, 1}, "novel", "| something never tried before in | 1 % | 50 % |"},
		{"slow", agent{0.05, 0.05, 0.02, 0.01, 1.5}, "tokens", "| duration and tokens | 1 | 1.5 times |"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(uint64(i), 7))
			falsely, tasks, seen, delay := 0, 0, 0, 0
			named := map[string]int{}
			for range runs {
				at, change := run(r, before+after, func(i int) agent {
					if i < before {
						return honest
					}
					return c.changed
				})
				tasks += at
				switch {
				case change == nil:
				case at < before || c.signal == "":
					falsely++
				default:
					seen++
					delay += at - before + 1
					named[change.Signal]++
				}
			}
			if c.signal == "" {
				rate := 1000 * float64(falsely) / float64(tasks)
				t.Logf("%d false alarms in %d tasks", falsely, tasks)
				if rate > 0.2 {
					t.Errorf("%.2f false alarms per 1,000 tasks, more than the bound", rate)
				}
				stated(t, fmt.Sprintf("%.2f false alarms per 1,000 tasks", rate))
				return
			}
			row := fmt.Sprintf("%s %d %% | %.0f tasks |", c.stated, 100*seen/(runs-falsely), float64(delay)/float64(seen))
			t.Log(row, named)
			stated(t, row)
			for signal, n := range named {
				if n > named[c.signal] {
					t.Errorf("%s is named more often than %s: %v", signal, c.signal, named)
				}
			}
		})
	}
}

// TestSlowChange: what becomes more little by little is seen, before it is all there.
func TestSlowChange(t *testing.T) {
	const runs, before, over = 300, 100, 1000
	r := rand.New(rand.NewPCG(5, 7))
	seen, tasks, share := 0, 0, 0.0
	denied := func(i int) float64 { return honest.denied + 0.45*max(0, float64(i-before)/over) }
	for range runs {
		at, change := run(r, before+over, func(i int) agent {
			a := honest
			a.denied = denied(i)
			return a
		})
		if change != nil && at >= before {
			seen, tasks, share = seen+1, tasks+at-before, share+denied(at)
		}
	}
	t.Logf("%d of %d", seen, runs)
	if seen < runs*9/10 {
		t.Errorf("seen in %d of %d runs", seen, runs)
	}
	stated(t, fmt.Sprintf("from 5 %% to 50 %% over 1,000 tasks, after %d tasks on average, at %.0f %%", tasks/seen, 100*share/float64(seen)))
}

// TestWaitingIsNoWork: what two questions to people took at once is left out of a task's
// duration once, and so is what was still open when it ended.
func TestWaitingIsNoWork(t *testing.T) {
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	n, err := watch.Collect(func(f func(record.Entry) error) error {
		for _, e := range []struct {
			second int
			typ    string
			body   string
		}{{0, "task.active", `{}`}, {10, "hold.opened", `{"id":"a"}`}, {15, "hold.opened", `{"id":"b"}`}, {20, "hold.approved", `{"id":"b","complete":false}`},
			{25, "hold.approved", `{"id":"b","complete":true}`}, {40, "hold.rejected", `{"id":"a"}`}, {60, "hold.opened", `{"id":"c"}`}, {100, "task.closing", `{}`}, {100, "hold.rejected", `{"id":"c"}`}} {
			if err := f(record.Entry{Time: at.Add(time.Duration(e.second) * time.Second), Type: e.typ, Body: []byte(e.body)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || n.Millis != 30_000 {
		t.Errorf("it took %d ms, want 30000: %v", n.Millis, err)
	}
}

// TestTriesEverything: what is kept in memory of a task has a bound, however many origins an
// agent names, and what is beyond changes nothing of what is said.
func TestTriesEverything(t *testing.T) {
	n, err := watch.Collect(func(f func(record.Entry) error) error {
		for i := range 5000 {
			body, err := json.Marshal(map[string]any{"action": action.Action{Surface: action.Egress, Source: "harness", Operation: "egress.unmatched", Effect: action.Read,
				Request: &action.Request{Origin: fmt.Sprintf("https://x%d.example", i)}}, "decision": action.Decision{Verdict: action.Deny}})
			if err == nil {
				err = f(record.Entry{Type: "action.decided", Body: body})
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || n.Denied != 5000 || len(n.Kinds) > 1000 {
		t.Errorf("%d denied, %d kinds: %v", n.Denied, len(n.Kinds), err)
	}
	if s := watch.New("helpdesk", "reset-mfa", "c-1", nil); len(s.Novel(n.Kinds)) != 20 {
		t.Errorf("%d are novel", len(s.Novel(n.Kinds)))
	}
}

// TestBetsAreFair: while nothing changes the statistic of a signal is on average the
// number of tasks, whatever the rate is, which is what the stated bound follows from. The bets
// were once on a tail that followed from the values before, and it was several times that.
func TestBetsAreFair(t *testing.T) {
	const runs, trials, tasks = 20_000, 4, 10
	for _, rate := range []float64{0.5} {
		r := rand.New(rand.NewPCG(11, 12))
		draw := func() (n watch.Numbers) {
			if r.Float64() < rate {
				n.Denied = 1
			}
			return n
		}
		var sums []float64
		for range runs {
			var before []watch.Numbers
			for range trials {
				before = append(before, draw())
			}
			s := watch.New("helpdesk", "reset-mfa", "c-1", before)
			for range tasks {
				s.Add(fmt.Sprintf("t-%x", r.Uint64()), draw())
			}
			m, all := 0.0, s.Series["denied"].Detectors
			for _, d := range all {
				m += math.Expm1(float64(d.Sum) / 1e9)
			}
			sums = append(sums, m/float64(len(all)))
		}
		mean, square := 0.0, 0.0
		for _, m := range sums {
			mean, square = mean+m/runs, square+m*m/runs
		}
		wrong := math.Sqrt((square - mean*mean) / runs)
		t.Logf("rate %.2f: %.2f ± %.2f after %d tasks", rate, mean, wrong, tasks)
		if math.Abs(mean-tasks) > 5*wrong {
			t.Errorf("rate %.2f: the statistic is %.2f on average, want %d", rate, mean, tasks)
		}
	}
}

// TestLongAfterAChange: a state can be written however long an agent goes on that behaves
// otherwise, and however much it tries. Once the statistic became a number that no record
// can have, and no task of the capability came to its end any more.
func TestLongAfterAChange(t *testing.T) {
	s := watch.New("helpdesk", "reset-mfa", "c-1", make([]watch.Numbers, 40))
	for i := range 3000 {
		n := watch.Numbers{Millis: 1 + int64(i)*int64(i)*int64(i), Tokens: 1 + int64(i)*int64(i)*int64(i)}
		if i >= 2000 {
			n.Denied, n.Held, n.Unexplained = i-2000, i-2000, i-2000
			for k := range 20 {
				n.Kinds = append(n.Kinds, fmt.Sprint(strings.Repeat("k", 150), i, k))
			}
			n.Novel = s.Novel(n.Kinds)
		}
		s.Add(fmt.Sprintf("t-%020d", i), n)
		if i >= 2000 || i%100 == 0 {
			if text, err := canon.Marshal(s); err != nil || len(text) > 96<<10 {
				t.Fatalf("after task %d the state has %d bytes: %v", i, len(text), err)
			}
		}
	}
}

// TestStateIsKept: a state that was written and read again goes on as it was, and its
// size has a bound.
func TestStateIsKept(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	a := watch.New("helpdesk", "reset-mfa", "c-1", make([]watch.Numbers, 40))
	b := watch.New("helpdesk", "reset-mfa", "c-1", make([]watch.Numbers, 40))
	for i := range 3000 {
		x := agent{0.05, 0.05, 0.02, 1, 1}.task(r)
		x.Kinds = append(x.Kinds, fmt.Sprint("n", i), fmt.Sprint("m", i))
		x.Novel = a.Novel(x.Kinds)
		id := fmt.Sprint("t-", i)
		if got, want := b.Add(id, x), a.Add(id, x); !reflect.DeepEqual(got, want) {
			t.Fatalf("task %d: got %v, want %v", i, got, want)
		}
		if i%500 == 0 {
			text, err := canon.Marshal(a)
			if err != nil {
				t.Fatal(err)
			}
			b = &watch.State{}
			if err := json.Unmarshal(text, b); err != nil {
				t.Fatal(err)
			}
		}
	}
	text, err := canon.Marshal(a)
	if err != nil || len(text) > 96<<10 {
		t.Errorf("the state has %d bytes: %v", len(text), err)
	}
	if a.Tasks != 3000 || a.Changed == nil || a.Changed.Signal != "novel" {
		t.Errorf("%d tasks, changed %+v", a.Tasks, a.Changed)
	}
}

// TestChangeIsNamed: what it says of a change can be checked by hand.
func TestChangeIsNamed(t *testing.T) {
	trials := make([]watch.Numbers, 40)
	s := watch.New("helpdesk", "reset-mfa", "c-1", trials)
	for i := range 60 {
		if c := s.Add(fmt.Sprint("t-", i), watch.Numbers{}); c != nil {
			t.Fatalf("task %d: %+v", i, c)
		}
	}
	var c *watch.Change
	n := 60
	for ; c == nil && n < 100; n++ {
		c = s.Add(fmt.Sprint("t-", n), watch.Numbers{Denied: 3})
	}
	if c == nil || c.Signal != "denied" || c.Less || c.Since != "t-60" || c.Tasks != n-60 || c.With != n-60 || c.At != fmt.Sprint("t-", n-1) || c.Before.Tasks != 40 || c.Before.With != 0 {
		t.Fatalf("after %d tasks: %+v", n, c)
	}
	if want := fmt.Sprintf("since task t-60: %d of %d tasks with something denied, and 0 of 40 tasks before (statistic ", n-60, n-60); !strings.HasPrefix(c.Text(), want) {
		t.Errorf("got %q, want %q", c.Text(), want)
	}
	if again := s.Add("t-x", watch.Numbers{Denied: 3}); again != nil || s.Changed != c {
		t.Error("it changed twice")
	}
}

// TestCanaryFailures: so many failures in a row are not explained by so many trials
// that all passed, as docs/certification.md states.
func TestCanaryFailures(t *testing.T) {
	for _, c := range []struct {
		trials  int
		mayFail float64 // certify.MayFail, as its own test has it
	}{{2, 0.658}, {16, 0.194}, {35, 0.099}, {73, 0.050}} {
		k := watch.Canary{Scenario: "reads", Passed: c.trials, Trials: c.trials, MayFail: int64(1e6 * c.mayFail)}
		for k.Explained() && k.Runs < 100 {
			k.Ran("t", watch.Failed, "why", time.Now())
		}
		stated(t, fmt.Sprintf("| %d | %d |", c.trials, k.Runs))
		if k.Row != k.Runs || k.Failures != k.Runs {
			t.Errorf("counted: %+v", k)
		}
	}
	// As often as it may fail: the statistic is that of chance.
	alarms, runs := 0, 0
	r := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		k := watch.Canary{MayFail: 99_000}
		for k.Explained() && k.Runs < 500 {
			result := watch.Passed
			if r.Float64() < 0.099 {
				result = watch.Failed
			}
			k.Ran("t", result, "", time.Now())
		}
		if runs += k.Runs; !k.Explained() {
			alarms++
		}
	}
	if alarms*watch.CanaryThreshold > runs {
		t.Errorf("%d alarms in %d runs", alarms, runs)
	}
}

// TestCanaryIsDue: after a long stop once, not as often as it was missed; after the
// clock was set back now, and not when it gets there again.
func TestCanaryIsDue(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	const every = 6 * time.Hour
	for name, c := range map[string]struct {
		last, issued, want time.Time
	}{
		"never ran":    {time.Time{}, now.Add(-time.Hour), now.Add(5 * time.Hour)},
		"ran":          {now.Add(-time.Hour), now.Add(-24 * time.Hour), now.Add(5 * time.Hour)},
		"long stop":    {now.Add(-30 * 24 * time.Hour), now.Add(-40 * 24 * time.Hour), now.Add(-30*24*time.Hour + every)},
		"issued later": {now.Add(-time.Hour), now.Add(48 * time.Hour), now.Add(5 * time.Hour)},
		"and never":    {time.Time{}, now.Add(48 * time.Hour), now},
		"clock is set": {now.Add(48 * time.Hour), now.Add(-time.Hour), now},
	} {
		k := watch.Canary{Last: c.last}
		if got := k.Due(now, c.issued, every); !got.Equal(c.want) {
			t.Errorf("%s: due at %s, want %s", name, got, c.want)
		}
		k.Ran("t", watch.Passed, "", now)
		if got := k.Due(now, c.issued, every); !got.Equal(now.Add(every)) {
			t.Errorf("%s: due again at %s", name, got)
		}
	}
	k := watch.Canary{}
	for range 3 {
		k.Ran("t", watch.Missed, "the fixture is down", now)
	}
	if k.Missed != 3 || k.Runs != 0 || !k.Explained() {
		t.Errorf("missed: %+v", k)
	}
	if k.Ran("t", watch.Passed, "", now); k.Missed != 0 {
		t.Errorf("missed after it passed: %+v", k)
	}
}
