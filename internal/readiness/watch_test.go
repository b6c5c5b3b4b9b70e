package readiness_test

import (
	"time"

	"github.com/sallyport-dev/sallyport/internal/readiness"
	"github.com/sallyport-dev/sallyport/internal/watch"
)

// canary adds the last run of a declared canary.
func (b *broken) canary(typ string, k watch.Canary) {
	k.Scenario = "reads"
	b.add(typ, "t-9", agent, "sallyport", map[string]any{"certification": b.w.Live.ID, "canary": k})
	b.w.Canaries = &readiness.Canaries{Scenarios: []string{"reads"}, Every: time.Hour, Limit: 3}
}

// watchBreaks are wrong in what production showed.
var watchBreaks = []one{
	{"behaviour_changed", "recertification", func(b *broken) {
		b.add("behaviour.changed", "t-9", agent, "sallyport", map[string]any{"certification": b.w.Live.ID, "capability": "reset-mfa",
			"change": watch.Change{Signal: "denied", Since: "t-8", Tasks: 9, With: 9, Statistic: "9000", Threshold: watch.Threshold}})
	}},
	{"canary_failed", "recertification", func(b *broken) { b.canary("canary.failed", watch.Canary{Result: watch.Failed, Runs: 3, Failures: 1}) }},
	{"canary_missed", "recertification", func(b *broken) {
		b.canary("canary.missed", watch.Canary{Result: watch.Missed, Missed: 1, Why: "the fixture is down"})
	}},
	{"canary_failed_after_it_passed", "recertification", func(b *broken) {
		b.canary("canary.passed", watch.Canary{Result: watch.Passed})
		b.canary("canary.failed", watch.Canary{Result: watch.Violated})
	}},
	{"canary_never_ran", "recertification", func(b *broken) {
		b.canary("canary.passed", watch.Canary{Result: watch.Passed})
		b.w.Canaries.Scenarios, b.w.Canaries.Every = []string{"writes"}, 0
	}},
}
