package policy

import (
	"iter"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// scopeKey is the part of a policy's scope that the index looks at. The zero
// UID stands for "any".
type scopeKey struct{ principal, action, resource types.EntityUID }

// index finds the policies whose scope can match, by the scope alone: what is
// in a condition is left to the evaluator.
type index map[scopeKey][]int32

func buildIndex(entries []*entry) index {
	ix := index{}
	for i, e := range entries {
		p := (*ast.Policy)(e.policy.AST())
		for _, a := range actionKeys(p.Action) {
			k := scopeKey{scopeEntity(p.Principal), a, scopeEntity(p.Resource)}
			ix[k] = append(ix[k], int32(i))
		}
	}
	return ix
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
func (ix index) candidates(r request) []int32 {
	var found []int32
	for _, p := range r.principals {
		for _, a := range r.actions {
			for _, res := range r.resources {
				found = append(found, ix[scopeKey{p, a, res}]...)
			}
		}
	}
	// A policy for several actions may be found by more than one of them.
	slices.Sort(found)
	return slices.Compact(found)
}

// pick is a cedar.PolicyIterator over chosen entries.
type pick struct {
	entries []*entry
	at      []int32
}

func (p pick) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for _, i := range p.at {
			if !yield(cedar.PolicyID(p.entries[i].id), p.entries[i].policy) {
				return
			}
		}
	}
}
