package connector

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// readGraphQL reads a GraphQL request and gives the arguments of the root
// fields that it executes. Not read, and so refused: batches, persisted
// documents and other extensions, subscriptions, uploads.
func readGraphQL(want GraphQL, r action.Request, body []byte) (map[string]value, *refusal) {
	req, ref := graphEnvelope(r, body)
	if ref != nil {
		return nil, ref
	}
	doc, ok := parseGraphQL(req.document)
	if !ok {
		return nil, refuse("graphql_syntax", "the document is not in the subset of GraphQL that is read")
	}
	op, ref := doc.choose(req.operation)
	if ref != nil {
		return nil, ref
	}
	if op.kind != string(want.Type) || want.Name != "" && op.name != want.Name {
		return nil, refuse("graphql_operation", "the document is another operation")
	}
	roots, ref := doc.roots(op)
	if ref != nil {
		return nil, ref
	}
	variables, ref := op.bind(req.variables)
	if ref != nil {
		return nil, ref
	}
	out := map[string]value{}
	for i, f := range roots {
		if !slices.Contains(want.Root, f.field) {
			return nil, refuse("graphql_field", "the document selects another field")
		}
		if slices.ContainsFunc(roots[:i], func(g graphSelection) bool { return g.field == f.field }) {
			return nil, refuse("graphql_field_twice", "the document does the same twice")
		}
		prefix := ""
		if len(want.Root) > 1 {
			prefix = f.field + "."
		}
		for _, a := range f.arguments {
			v, given, ref := a.value.resolve(variables)
			if ref != nil {
				return nil, ref
			}
			if given && !flatten(out, prefix+a.name, v) {
				return nil, refuse("too_many_fields", "the operation has too many arguments")
			}
		}
	}
	return out, nil
}

// choose is the operation that a server executes (section 6.1, GetOperation).
func (d graphDocument) choose(name string) (graphOperation, *refusal) {
	unclear := refuse("graphql_operation_name", "the request does not say which operation of the document it is")
	for i, op := range d.operations {
		if op.name == "" && len(d.operations) > 1 ||
			slices.ContainsFunc(d.operations[:i], func(o graphOperation) bool { return o.name == op.name }) {
			return graphOperation{}, unclear
		}
	}
	if name == "" && len(d.operations) == 1 {
		return d.operations[0], nil
	}
	i := slices.IndexFunc(d.operations, func(o graphOperation) bool { return o.name == name })
	if name == "" || i < 0 {
		return graphOperation{}, unclear
	}
	return d.operations[i], nil
}

// roots are the fields of the root type, out of all fragments. Whether a
// fragment's type fits is not known here: all are taken to apply. Conditions
// are refused, since they make the effect depend on more than the fields.
func (d graphDocument) roots(op graphOperation) ([]graphSelection, *refusal) {
	var out []graphSelection
	open := map[string]bool{}
	var walk func([]graphSelection) *refusal
	walk = func(all []graphSelection) *refusal {
		for _, s := range all {
			if s.directives {
				return refuse("graphql_directive", "a directive decides whether a root field is executed")
			}
			if s.field != "" {
				if out = append(out, s); len(out) > maxFields {
					return refuse("too_many_fields", "the document selects too many fields")
				}
				continue
			}
			inner := s.selected
			if s.spread != "" {
				fragment, known := d.fragments[s.spread]
				if !known || open[s.spread] {
					return refuse("graphql_fragment", "a fragment is not defined, or contains itself")
				}
				open[s.spread] = true
				inner = fragment
			}
			ref := walk(inner)
			if delete(open, s.spread); ref != nil {
				return ref
			}
		}
		return nil
	}
	ref := walk(op.selected)
	return out, ref
}

// bind gives each variable of the operation its value (section 6.1.2). A
// variable that is not declared may be another spelling of one that is.
func (op graphOperation) bind(given map[string]any) (map[string]any, *refusal) {
	out := map[string]any{}
	known := 0
	for _, v := range op.variables {
		if value, ok := given[v.name]; ok {
			out[v.name] = value
			known++
			continue
		}
		out[v.name] = absent{}
		if v.value != nil {
			value, _, ref := v.value.resolve(nil)
			if ref != nil {
				return nil, ref
			}
			out[v.name] = value
		}
	}
	if known != len(given) {
		return nil, refuse("graphql_variable", "a variable is given that the operation does not declare")
	}
	return out, nil
}

// absent is the value of a variable that has none.
type absent struct{}

// enum is an enum value written in the document; in variables it is a string.
type enum string

// resolve is the JSON of a value with the variables put in; given is false for
// a variable without a value.
func (v graphValue) resolve(variables map[string]any) (out any, given bool, ref *refusal) {
	switch v.kind {
	case '$':
		value, ok := variables[v.text]
		if !ok {
			return nil, false, refuse("graphql_variable", "a variable is used that the operation does not declare")
		}
		_, none := value.(absent)
		return value, !none, nil
	case '[':
		list := make([]any, len(v.list))
		for i, e := range v.list {
			if list[i], _, ref = e.resolve(variables); ref != nil {
				return nil, false, ref
			}
		}
		return list, true, nil
	case '{':
		object := map[string]any{}
		for _, m := range v.members {
			value, given, ref := m.value.resolve(variables)
			if ref != nil {
				return nil, false, ref
			}
			if given {
				object[m.name] = value
			}
		}
		return object, true, nil
	case tokenString:
		return v.text, true, nil
	case tokenInt, tokenFloat:
		return json.Number(v.text), true, nil
	}
	switch v.text {
	case "true", "false":
		return v.text == "true", true, nil
	case "null":
		return nil, true, nil
	}
	return enum(v.text), true, nil
}

// flatten names the members of objects by their path. Lists have no type, so
// that no field but an ignored one can accept them. It is false for too many.
func flatten(out map[string]value, name string, v any) bool {
	if e, is := v.(enum); is {
		v = string(e)
	}
	object, is := v.(map[string]any)
	if !is || len(object) == 0 {
		out[name] = scalar(v)
		return len(out) <= maxFields
	}
	for k, m := range object {
		if strings.Contains(k, ".") {
			k = strconv.Quote(k) // no member that could be declared
		}
		if !flatten(out, name+"."+k, m) {
			return false
		}
	}
	return true
}
