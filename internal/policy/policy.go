// Package policy decides actions with Cedar: first the tenant's guardrails,
// then the task's own grant.
//
// Invariants:
//   - A guardrail can only forbid or hold; nothing but a grant permits.
//   - Outside the grant nothing is allowed, whatever the guardrails say.
//   - Any evaluation error denies (Cedar itself would skip an erring forbid).
//   - The same input and the same sets give the same decision, byte for byte:
//     policies are named by @id and listed in order.
//   - The index never changes an answer: it only leaves out policies whose
//     scope cannot match.
//
// What a policy can speak about is in schema.cedarschema; Parse refuses what
// does not type-check against it. The shipped guardrails are part of every
// parsed set and cannot be switched off.
//
// Not trusted: parameter values and page text. They reach Cedar as values,
// never as policy text.
package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// Limits of one set. Cedar has no time limit: its cost is bounded by the text.
const (
	MaxPolicies  = 20_000
	MaxFileBytes = 8 << 20
	maxDepth     = 64 // nesting of one policy
	// maxPolicyBytes bounds one policy: "a && a && ..." nests as deep as it is long.
	maxPolicyBytes = 64 << 10
)

// Set is a parsed, checked and indexed set of policies. It does not change.
type Set struct {
	entries []*entry       // by id
	uses    []attributeSet // of the context, by entry
	index   index
}

// entry is one policy with what its annotations say.
type entry struct {
	id     string
	policy *cedar.Policy
	forbid bool
	hold   string // role that must approve; forbid only
	code   string // stable code of the denial, "" for the default
	reason string // one sentence for people
	next   string // next legal step
}

// Parse reads guardrails (file name to text) and adds the shipped ones. The
// error joins every Problem found; none of the set is usable then.
func Parse(files map[string][]byte) (*Set, error) {
	entries, problems := read(files, author)
	for _, p := range problems {
		if p.Severity == SeverityError {
			return nil, joinProblems(problems)
		}
	}
	return newSet(append(entries, baseEntries()...))
}

func joinProblems(ps []Problem) error {
	var errs []error
	for _, p := range ps {
		if p.Severity == SeverityError {
			errs = append(errs, errors.New(p.String()))
		}
	}
	return errors.Join(errs...)
}

func newSet(entries []*entry) (*Set, error) {
	if len(entries) > MaxPolicies {
		return nil, fmt.Errorf("policy set: %d policies, limit %d", len(entries), MaxPolicies)
	}
	slices.SortFunc(entries, func(a, b *entry) int { return strings.Compare(a.id, b.id) })
	for i := 1; i < len(entries); i++ {
		if entries[i].id == entries[i-1].id {
			return nil, fmt.Errorf("policy set: @id %q is used twice", entries[i].id)
		}
	}
	uses := make([]attributeSet, len(entries))
	for i, e := range entries {
		var err error
		if uses[i], err = attributesOf(e.policy); err != nil {
			return nil, fmt.Errorf("policy set: %s: %w", e.id, err)
		}
	}
	return &Set{entries: entries, uses: uses, index: buildIndex(entries)}, nil
}

// IDs lists the policies, sorted.
func (s *Set) IDs() []string {
	ids := make([]string, 0, len(s.entries))
	for _, e := range s.entries {
		ids = append(ids, e.id)
	}
	return ids
}

// Text is the set as Cedar, by id. It parses back to the same policies.
func (s *Set) Text() string {
	var b strings.Builder
	for i, e := range s.entries {
		if i > 0 {
			b.WriteString("\n\n")
		}
		b.Write(e.policy.MarshalCedar())
	}
	b.WriteByte('\n')
	return b.String()
}

// Digest is over Text: what a boundary manifest pins.
func (s *Set) Digest() action.Digest { return canon.Digest([]byte(s.Text())) }
