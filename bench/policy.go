package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// sizes of the sets that are compared, as policies beside the shipped and the
// sample's own. The first is the baseline of the others.
var sizes = []int{10, 100, 1000, 10000}

// policy: the time of one evaluation must not depend on how many policies there
// are, only on how many can apply.
func (b *bench) policy(ctx context.Context) error {
	s, err := plainSample()
	if err != nil {
		return err
	}
	grant, err := s.grant(taskName)
	if err != nil {
		return err
	}
	a, err := s.read(origin0)
	if err != nil {
		return err
	}
	base, err := s.guardrails(0, nil)
	if err != nil {
		return err
	}
	shipped := len(base.IDs())
	in := input(gate.Facts{Action: a, Stage: action.Production, Tier: "privileged", Params: taskParams, Labels: []string{"pii"}, Certified: true})
	var sets []*policy.Set
	for _, n := range sizes {
		set, err := s.guardrails(shipped+n, scoped)
		if err != nil {
			return err
		}
		sets = append(sets, set)
	}
	const wide = 100 // policies that can apply to everything
	set, err := s.guardrails(shipped+wide, unscoped)
	if err != nil {
		return err
	}
	sets = append(sets, set)
	per := make([][]time.Duration, len(sets))
	for i := range 10 * (b.rounds + 1) { // short blocks, so that a pause of the machine spoils few
		for j, set := range sets {
			d, err := evaluate(set, grant, in, b.n(100))
			if err != nil {
				return err
			}
			if i >= 10 {
				per[j] = append(per[j], d)
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	b.policyRows(per, wide)
	b.note("**Policy.** `policy.Evaluate` of the same read; each set is the given number of policies beside the %d that are always there (shipped and the "+
		"sample's own), each about one operation of one application that the read is not on. A policy whose scope names nothing is evaluated for "+
		"every action; the row without a target says what each of those adds.", shipped)
	return nil
}

func (b *bench) policyRows(per [][]time.Duration, wide int) {
	least, most := median(per[0]), median(per[0])
	var parts []string
	for i, n := range sizes {
		m := median(per[i])
		least, most = min(least, m), max(most, m)
		parts = append(parts, fmt.Sprintf("%d: %s", n, short(m)))
	}
	spread := float64(most) / float64(least)
	b.add(row{"policy evaluation by number of policies", strings.Join(parts[1:], ", "), parts[0], times(spread), "flat within 1.30x", spread <= 1.3})
	each := (median(per[len(sizes)]) - median(per[0])) / time.Duration(wide)
	b.add(row{"each policy more whose scope names nothing", "+" + short(each), parts[0], times(1 + float64(each)/float64(median(per[0]))), "", false})
}

func unscoped(i int) string {
	return fmt.Sprintf(`@id("bench/p%d") forbid (principal, action, resource) when { context.count > %d && context.labels.contains("payment") };`, i, i%7)
}

// evaluate is the mean time of n evaluations, each of another action.
func evaluate(guardrails, grant *policy.Set, in policy.Input, n int) (time.Duration, error) {
	start := time.Now()
	for i := range n {
		in.Action.ID = fmt.Sprintf("a-%020d", i)
		if d := policy.Evaluate(guardrails, grant, in); d.Verdict != action.Allow {
			return 0, fmt.Errorf("the sample's read was not let through: %+v", d)
		}
	}
	return time.Since(start) / time.Duration(n), nil
}
