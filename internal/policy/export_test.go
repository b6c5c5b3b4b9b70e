package policy

import (
	"slices"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// TestingOnlyWhole decides as Evaluate does, but asks every policy of both sets:
// the slow and obvious evaluator that the index is held against.
func TestingOnlyWhole(guardrails, grant *Set, in Input) action.Decision {
	whole := func(s *Set) outcome {
		at := make([]int32, len(s.entries))
		for i := range at {
			at[i] = int32(i)
		}
		return s.collect(newRequest(in), at)
	}
	g := whole(guardrails)
	if d, denied := denial(action.LayerGuardrail, g); denied {
		return d
	}
	t := whole(grant)
	if d, denied := denial(action.LayerGrant, t); denied {
		return d
	}
	if len(t.permits) == 0 {
		return outsideGrant(grant, in)
	}
	return permitted(g, t)
}

// TestingOnlyUnchecked parses guardrails without type checks and without the
// shipped ones: for policies that only a hole in the checks could let in.
func TestingOnlyUnchecked(file string) (*Set, error) {
	list, ps := parseFile("unchecked.cedar", []byte(file))
	if len(ps) > 0 {
		return nil, joinProblems(ps)
	}
	var entries []*entry
	for _, p := range list {
		e, _ := annotated(p, author)
		entries = append(entries, e)
	}
	return newSet(slices.Clone(entries))
}
