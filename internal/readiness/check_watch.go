package readiness

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/watch"
)

// Canaries are the scenarios that are run again and again in production.
type Canaries struct {
	Scenarios []string
	Every     time.Duration // after one run of a scenario the next is due
	Limit     int           // of missed runs in a row
}

// behaved is behaviour.task, behaviour.changed and canary.* (package server).
type behaved struct {
	ref
	typ           string
	Certification string        `json:"certification"`
	Capability    string        `json:"capability"`
	Change        *watch.Change `json:"change"`
	Canary        watch.Canary  `json:"canary"`
}

func (h *history) takeBehaviour(e record.Entry) error {
	b := behaved{ref: at(e), typ: e.Type}
	err := json.Unmarshal(e.Body, &b)
	h.behaved = append(h.behaved, b)
	return err
}

// behaviour: since the certification in force was issued, production is what it was,
// and the canaries ran and passed.
func (k *check) behaviour(next string) {
	e := k.e
	tasks, changed := []ref{}, false
	last := map[string]behaved{}
	for _, b := range e.h.behaved {
		switch {
		case b.Certification != e.w.Live.ID:
		case b.Change != nil:
			changed = true
			k.fail(next, []ref{b.ref}, "the behaviour of %s changed: %s", b.Capability, b.Change.Text())
		case b.typ == "behaviour.task":
			tasks = append(tasks, b.ref)
		case b.Canary.Scenario != "":
			last[b.Canary.Scenario] = b
		}
	}
	if len(tasks) > 0 && !changed {
		k.ok(tasks, "%s in production, whose behaviour does not differ from what was certified beyond chance", count(len(tasks), "task"))
	}
	if e.w.Canaries == nil {
		return
	}
	for _, name := range slices.Sorted(slices.Values(e.w.Canaries.Scenarios)) {
		k.canary(next, name, last[name])
	}
}

func (k *check) canary(next, name string, b behaved) {
	since := k.e.w.Live.Issued
	if !b.time.IsZero() {
		since = b.time
	}
	look := "see: sallyport get behaviour " + k.e.w.Agent
	refs := []ref{b.ref}
	switch late := time.Duration(k.e.w.Canaries.Limit) * k.e.w.Canaries.Every; {
	case k.e.now.Sub(since) > late+k.e.w.Canaries.Every:
		k.unknown(look, nil, "canary %s did not come about for %s", name, age(k.e.now.Sub(since)))
	case b.time.IsZero():
	case b.Canary.Result == watch.Passed:
		k.ok(refs, "canary %s passed %s ago", name, age(k.e.now.Sub(since)))
	case b.Canary.Result == watch.Missed:
		k.unknown(look, refs, "canary %s did not come about, %s: %s", name, times(b.Canary.Missed), b.Canary.Why)
	default:
		k.fail(next, refs, "canary %s failed, in %d of %s: %s", name, b.Canary.Failures, count(b.Canary.Runs, "run"), b.Canary.Why)
	}
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times in a row", n)
}
