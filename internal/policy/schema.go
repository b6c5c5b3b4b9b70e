package policy

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
)

//go:embed schema.cedarschema
var schemaText []byte

// Schema is the Cedar schema that every policy is checked against.
func Schema() string { return string(schemaText) }

var baseSchema = sync.OnceValue(func() *resolved.Schema {
	var s schema.Schema
	s.SetFilename("schema.cedarschema")
	if err := s.UnmarshalCedar(schemaText); err != nil {
		panic("sallyport: internal error: embedded schema: " + err.Error())
	}
	r, err := s.Resolve()
	if err != nil {
		panic("sallyport: internal error: embedded schema: " + err.Error())
	}
	return r
})

// mentions is what a policy says by name and the base schema leaves open:
// operations, and the keys of the three open records.
type mentions struct {
	operations []types.EntityUID
	apps       []string
	keys       map[types.String][]types.String // params, taskParams, counts
	compared   []comparison
}

// comparison of a parameter of the operation with a text.
type comparison struct{ param, text string }

var openRecords = []types.String{"params", "taskParams", "counts"}

// findMentions walks a policy. Its depth was bounded when it was parsed.
func findMentions(p *ast.Policy) mentions {
	m := mentions{keys: map[types.String][]types.String{}}
	for _, n := range []any{p.Principal, p.Action, p.Resource} {
		switch s := n.(type) {
		case ast.ScopeTypeInSet:
			for _, e := range s.Entities {
				m.entity(e)
			}
		default:
			m.entity(scopeEntity(n))
		}
	}
	for _, c := range p.Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			m.node(n)
			return true
		})
	}
	return m
}

func (m *mentions) node(n ast.IsNode) {
	switch n := n.(type) {
	case ast.NodeTypeAccess:
		m.key(n.StrOpNode)
	case ast.NodeTypeHas:
		m.key(n.StrOpNode)
	case ast.NodeValue:
		m.value(n.Value)
	case ast.NodeTypeIsIn:
		m.node(n.Entity)
	case ast.NodeTypeEquals:
		m.compare(n.Left, n.Right)
		m.compare(n.Right, n.Left)
	case ast.NodeTypeNotEquals:
		m.compare(n.Left, n.Right)
		m.compare(n.Right, n.Left)
	case ast.NodeTypeContains: // of a set of texts
		if set, ok := n.Left.(ast.NodeTypeSet); ok {
			for _, e := range set.Elements {
				m.compare(n.Right, e)
			}
		}
	}
}

// compare notes a parameter that is held against a text.
func (m *mentions) compare(a, b ast.IsNode) {
	param, ok := a.(ast.NodeTypeAccess)
	if !ok {
		return
	}
	inner, ok := param.Arg.(ast.NodeTypeAccess)
	if !ok || inner.Value != "params" {
		return
	}
	if v, ok := b.(ast.NodeValue); ok {
		if text, ok := v.Value.(types.String); ok {
			m.compared = append(m.compared, comparison{string(param.Value), string(text)})
		}
	}
}

// key notes context.<open record>.<key>.
func (m *mentions) key(n ast.StrOpNode) {
	inner, ok := n.Arg.(ast.NodeTypeAccess)
	if !ok || !slices.Contains(openRecords, inner.Value) {
		return
	}
	if v, ok := inner.Arg.(ast.NodeTypeVariable); ok && v.Name == "context" {
		m.keys[inner.Value] = append(m.keys[inner.Value], n.Value)
	}
}

func (m *mentions) value(v types.Value) {
	switch v := v.(type) {
	case types.EntityUID:
		m.entity(v)
	case types.Set:
		for e := range v.All() {
			m.value(e)
		}
	}
}

func (m *mentions) entity(e types.EntityUID) {
	switch {
	case e.Type == "Action" && !strings.Contains(string(e.ID), "/"):
		m.operations = append(m.operations, e)
	case e.Type == "App":
		m.apps = append(m.apps, string(e.ID))
	}
}

// checkTypes validates one policy against the schema, extended by what the
// policy itself names: an operation may be in every group, a parameter is an
// optional string.
func checkTypes(e *entry) error {
	p := (*ast.Policy)(e.policy.AST())
	if err := validate.New(extend(baseSchema(), findMentions(p))).Policy("", p); err != nil {
		return fmt.Errorf("%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return nil
}

func extend(base *resolved.Schema, m mentions) *resolved.Schema {
	if len(m.operations) == 0 && len(m.keys) == 0 {
		return base
	}
	var groups []types.EntityUID
	var applies resolved.AppliesTo
	for u, a := range base.Actions {
		groups = append(groups, u)
		applies = *a.AppliesTo
	}
	ctx := maps.Clone(applies.Context)
	for field, keys := range m.keys {
		var t resolved.IsType = resolved.StringType{}
		if field == "counts" {
			t = resolved.LongType{}
		}
		rec := resolved.RecordType{}
		for _, k := range keys {
			rec[k] = resolved.Attribute{Type: t, Optional: true}
		}
		at := ctx[field]
		at.Type = rec
		ctx[field] = at
	}
	applies.Context = ctx
	ext := *base
	ext.Actions = make(map[types.EntityUID]resolved.Action, len(base.Actions)+len(m.operations))
	for u, a := range base.Actions {
		a.AppliesTo = &applies
		ext.Actions[u] = a
	}
	parents := types.NewEntityUIDSet(groups...)
	for _, op := range m.operations {
		ext.Actions[op] = resolved.Action{Entity: types.Entity{UID: op, Parents: parents}, AppliesTo: &applies}
	}
	return &ext
}
