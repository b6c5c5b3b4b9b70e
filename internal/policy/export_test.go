package policy

import (
	"slices"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// TestingOnlyWhole decides as Evaluate does, but asks every policy of both sets:
// the slow and obvious evaluator that the index is held against. Its context has
// everything in it, whatever the policies look at.
func TestingOnlyWhole(guardrails, grant *Set, in Input) action.Decision {
	whole := func(s *Set) outcome {
		at := make([]int32, len(s.entries))
		for i := range at {
			at[i] = int32(i)
		}
		all := &Set{entries: s.entries, uses: slices.Repeat([]attributeSet{everything}, len(s.entries))}
		return all.collect(newRequest(&in), at)
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
		return outsideGrant(grant, &in)
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

// TestingOnlyAttributes are the names of the context's members.
func TestingOnlyAttributes() []string {
	var names []string
	for _, a := range attributes {
		names = append(names, string(a.name))
	}
	return names
}
