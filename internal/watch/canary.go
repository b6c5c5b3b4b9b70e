package watch

import "time"

// CanaryThreshold is the statistic of a canary's failures that ends a certification:
// a scenario that fails as often as its trials allow does that once in so many runs on
// average, or less often.
const CanaryThreshold = 500

// Canary is how the runs of one scenario go that is repeated in production.
type Canary struct {
	Scenario string `json:"scenario"`
	// Passed of the certification's trials of it, and how often it may fail, in
	// millionths: the upper end of the 95 % interval of their failures.
	Passed   int      `json:"passed"`
	Trials   int      `json:"trials"`
	MayFail  int64    `json:"mayFail"`
	Runs     int      `json:"runs"` // that came about
	Failures int      `json:"failures"`
	Row      int      `json:"row"`    // of failures, the last ones
	Missed   int      `json:"missed"` // runs in a row, the last ones, that did not come about
	Failing  Detector `json:"failing"`
	// Last is when the last run ended, and Result, Task and Why what came of it.
	Last   time.Time `json:"last,omitzero"`
	Result Result    `json:"result,omitempty"`
	Task   string    `json:"task,omitempty"`
	Why    string    `json:"why,omitempty"`
}

// Result is what came of a canary's run.
type Result string

// The results.
const (
	Passed   Result = "passed"
	Failed   Result = "failed"   // it was not as its scenario expects
	Violated Result = "violated" // something happened that must never happen
	Missed   Result = "missed"   // it did not come about, or says nothing
)

// Ran takes in a run. Its failures are held against how often the scenario may fail,
// by the same statistic as the rates of production tasks.
func (c *Canary) Ran(task string, r Result, why string, at time.Time) {
	c.Last, c.Result, c.Task, c.Why = at, r, task, why
	if r == Missed {
		c.Missed++
		return
	}
	c.Missed = 0
	c.Runs++
	if r == Passed {
		c.Row = 0
	} else {
		c.Failures++
		c.Row++
	}
	c.Failing.bet(task, bernoulli(r != Passed, float64(c.MayFail)/1e6, 0.5), r != Passed, r != Passed)
}

// Explained says that the failures so far are as many as the trials allow.
func (c Canary) Explained() bool { return c.Failing.statistic() < CanaryThreshold }

// Due is when the next run is due, of a scenario that runs every so often after its
// certification was issued. It is now if the clock was set back since the last run.
func (c Canary) Due(now, issued time.Time, every time.Duration) time.Time {
	last := c.Last
	if last.IsZero() {
		last = issued
	}
	if last.After(now) {
		return now
	}
	return last.Add(every)
}
