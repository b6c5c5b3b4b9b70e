package policy

import (
	"iter"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// index finds the policies whose scope can match, by the scope alone: what is
// in a condition is left to the evaluator. Entities that no scope names have no
// number; "any", the zero UID, has number 0.
type index struct {
	numbers map[types.EntityUID]uint32
	at      map[scopeKey][]int32
}

// scopeKey is the part of a policy's scope that the index looks at, by number.
type scopeKey struct{ principal, action, resource uint32 }

func buildIndex(entries []*entry) index {
	ix := index{numbers: map[types.EntityUID]uint32{{}: 0}, at: map[scopeKey][]int32{}}
	number := func(uid types.EntityUID) uint32 {
		n, ok := ix.numbers[uid]
		if !ok {
			n = uint32(len(ix.numbers))
			ix.numbers[uid] = n
		}
		return n
	}
	for i, e := range entries {
		p := (*ast.Policy)(e.policy.AST())
		for _, a := range actionKeys(p.Action) {
			k := scopeKey{number(scopeEntity(p.Principal)), number(a), number(scopeEntity(p.Resource))}
			ix.at[k] = append(ix.at[k], int32(i))
		}
	}
	return ix
}

// known adds the numbers of those entities that some scope names.
func (ix *index) known(out []uint32, uids []types.EntityUID) []uint32 {
	for _, uid := range uids {
		if n, ok := ix.numbers[uid]; ok {
			out = append(out, n)
		}
	}
	return out
}

// scopeEntity is the entity that a principal or resource must be or be in.
// "is T" without an entity is not indexed.
func scopeEntity(n any) types.EntityUID {
	switch s := n.(type) {
	case ast.ScopeTypeEq:
		return s.Entity
	case ast.ScopeTypeIn:
		return s.Entity
	case ast.ScopeTypeIsIn:
		return s.Entity
	}
	return types.EntityUID{}
}

func actionKeys(n ast.IsActionScopeNode) []types.EntityUID {
	if s, ok := n.(ast.ScopeTypeInSet); ok {
		uids := slices.Clone(s.Entities)
		slices.SortFunc(uids, func(a, b types.EntityUID) int { return cmpUID(a, b) })
		return slices.Compact(uids)
	}
	return []types.EntityUID{scopeEntity(n)}
}

func cmpUID(a, b types.EntityUID) int {
	switch {
	case a == b:
		return 0
	case a.Type < b.Type || a.Type == b.Type && a.ID < b.ID:
		return -1
	}
	return 1
}

// candidates are the positions of the policies that can match, in order. Each
// entity is taken with its ancestors and with "any".
func (ix *index) candidates(r *request) []int32 {
	var room [16]uint32
	principals, resources, actions := ix.known(room[:0:3], r.principals), ix.known(room[3:3:6], r.resources), ix.known(room[6:6], r.actions)
	found := make([]int32, 0, 16)
	for _, p := range principals {
		for _, a := range actions {
			for _, res := range resources {
				found = append(found, ix.at[scopeKey{p, a, res}]...)
			}
		}
	}
	// A policy for several actions may be found by more than one of them.
	slices.Sort(found)
	return slices.Compact(found)
}

// pick is a cedar.PolicyIterator over chosen entries.
type pick []*entry

func (p pick) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for _, e := range p {
			if !yield(cedar.PolicyID(e.id), e.policy) {
				return
			}
		}
	}
}
