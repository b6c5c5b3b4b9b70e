package resource

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml/ast"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// decoder fills one value from one YAML document and collects what is wrong.
// The struct tags are those of JSON: a field without omitempty must be given.
type decoder struct {
	file  string
	base  int // lines of the file before the document
	errs  Errors
	lines map[string]int
}

// What a type may bring to its own reading.
type (
	enumerated interface{ Values() []string } // the only texts it may have
	textual    interface{ SetText(string) }   // may be written as a plain text
	// hinter says what to do instead about a field that is not there, or with
	// "" about a value of the wrong shape. "" is no hint.
	hinter interface{ Hint(field string) string }
)

// enums are those of package action, which has no Values.
var enums = map[reflect.Type][]string{
	reflect.TypeFor[action.Effect](): {string(action.Observe), string(action.Read), string(action.Write), string(action.Privileged), string(action.Irreversible)},
	reflect.TypeFor[action.Stage]():  {string(action.Sandbox), string(action.Shadow), string(action.Production)},
}

// keysOf are the only keys that a map with keys of a type may have. What is
// declared for a stage is where applications are, and shadow has production's.
func keysOf(t reflect.Type) []string {
	if t == reflect.TypeFor[action.Stage]() {
		return []string{string(action.Sandbox), string(action.Production)}
	}
	return enumOf(t)
}

func enumOf(t reflect.Type) []string {
	if vs, ok := enums[t]; ok {
		return vs
	}
	if e, ok := reflect.New(t).Interface().(enumerated); ok {
		return e.Values()
	}
	return nil
}

func (d *decoder) bad(line int, path, format string, args ...any) {
	d.errs = append(d.errs, &Error{File: d.file, Line: line, Path: path, Problem: fmt.Sprintf(format, args...)})
}

// lineOf is the line of the file where a node begins.
func (d *decoder) lineOf(n ast.Node) int { return d.base + nodeLine(n) }

func nodeLine(n ast.Node) int {
	switch n := n.(type) {
	case *ast.MappingNode:
		if len(n.Values) > 0 && !n.IsFlowStyle {
			return nodeLine(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return nodeLine(n.Key)
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 0
}

// shape names a node as its author would.
func shape(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode, *ast.LiteralNode:
		return "a text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "true or false"
	case *ast.NullNode:
		return "nothing"
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		return "an anchor or alias"
	case *ast.TagNode:
		return "a tag"
	}
	return "something else"
}

// want reports a node of the wrong shape.
func (d *decoder) want(n ast.Node, v reflect.Value, path, what string) {
	hint := ""
	if h, ok := v.Addr().Interface().(hinter); ok {
		hint = h.Hint("")
	}
	switch {
	case hint != "":
		d.bad(d.lineOf(n), path, "%s", hint)
	case what == "a text" && (shape(n) == "a number" || shape(n) == "true or false"):
		d.bad(d.lineOf(n), path, "want a text, got %s: put it in quotes", shape(n))
	case shape(n) == "nothing":
		d.bad(d.lineOf(n), path, "want %s, got nothing: leave the field out or give a value", what)
	case shape(n) == "an anchor or alias" || shape(n) == "a tag":
		d.bad(d.lineOf(n), path, "want %s, got %s: these are not accepted, write the value out", what, shape(n))
	default:
		d.bad(d.lineOf(n), path, "want %s, got %s", what, shape(n))
	}
}

// text is the value of a text node.
func text(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	}
	return "", false
}

// members are the pairs of a mapping.
func members(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

// decode fills v, which is settable, from n.
func (d *decoder) decode(n ast.Node, v reflect.Value, path string) {
	d.lines[path] = d.lineOf(n)
	if s, ok := text(n); ok {
		if t, ok := v.Addr().Interface().(textual); ok {
			if d.plain(n, path, s) {
				t.SetText(s)
			}
			return
		}
	}
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		d.decode(n, p.Elem(), path)
		v.Set(p)
	case reflect.Struct:
		d.structure(n, v, path)
	case reflect.Map:
		d.mapping(n, v, path)
	case reflect.Slice:
		d.list(n, v, path)
	case reflect.String:
		d.string(n, v, path)
	case reflect.Int, reflect.Int64:
		d.integer(n, v, path)
	case reflect.Bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			d.want(n, v, path, "true or false")
			return
		}
		v.SetBool(b.Value)
	default:
		panic("sallyport: internal error: resource field of kind " + v.Kind().String())
	}
}

func (d *decoder) string(n ast.Node, v reflect.Value, path string) {
	s, ok := text(n)
	if !ok {
		d.want(n, v, path, "a text")
		return
	}
	if !d.plain(n, path, s) {
		return
	}
	if vs := enumOf(v.Type()); vs != nil && !slices.Contains(vs, s) {
		d.bad(d.lineOf(n), path, "want one of %s", strings.Join(vs, ", "))
		return
	}
	v.SetString(s)
}

// plain refuses characters that a reader would not see, or that reorder what
// they see. Line breaks and tabs are fine.
func (d *decoder) plain(n ast.Node, path, s string) bool {
	if i := strings.IndexFunc(s, hidden); i >= 0 {
		d.bad(d.lineOf(n), path, "has a control or formatting character")
		return false
	}
	return true
}

func hidden(r rune) bool {
	return r != '\n' && r != '\t' && (unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Cs) || r == unicode.ReplacementChar)
}

func (d *decoder) integer(n ast.Node, v reflect.Value, path string) {
	i, ok := n.(*ast.IntegerNode)
	if !ok {
		d.want(n, v, path, "a whole number")
		return
	}
	var x int64
	switch val := i.Value.(type) {
	case int64:
		x = val
	case uint64:
		x = int64(min(val, 1<<62))
	default:
		d.want(n, v, path, "a whole number")
		return
	}
	// "0x10", "1_000" and "010" are numbers to some readers and not to others.
	if i.Token.Value != strconv.FormatInt(x, 10) {
		d.bad(d.lineOf(n), path, "want a whole number in plain digits")
		return
	}
	if x > 1<<53 || x < -(1<<53) {
		d.bad(d.lineOf(n), path, "want a whole number within 2^53")
		return
	}
	v.SetInt(x)
}

func (d *decoder) list(n ast.Node, v reflect.Value, path string) {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		d.want(n, v, path, "a list")
		return
	}
	out := reflect.MakeSlice(v.Type(), len(s.Values), len(s.Values))
	for i, item := range s.Values {
		d.decode(item, out.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
	v.Set(out)
}

// pairs reads the keys of a mapping: texts, each once.
func (d *decoder) pairs(ms []*ast.MappingValueNode, path string) []*ast.MappingValueNode {
	seen := map[string]int{}
	var out []*ast.MappingValueNode
	for _, m := range ms {
		key, ok := m.Key.(*ast.StringNode)
		if !ok {
			d.bad(d.lineOf(m.Key), path, "want a plain text as key, got %s", shape(m.Key))
			continue
		}
		if first, dup := seen[key.Value]; dup {
			d.bad(d.lineOf(key), join(path, key.Value), "is given twice, first in line %d", first)
			continue
		}
		if !d.plain(key, path, key.Value) {
			continue
		}
		seen[key.Value] = d.lineOf(key)
		out = append(out, m)
	}
	return out
}

func (d *decoder) mapping(n ast.Node, v reflect.Value, path string) {
	ms, ok := members(n)
	if !ok {
		d.want(n, v, path, "a mapping")
		return
	}
	out := reflect.MakeMap(v.Type())
	for _, m := range d.pairs(ms, path) {
		key := m.Key.(*ast.StringNode).Value
		at := join(path, key)
		kt := v.Type().Key()
		if vs := keysOf(kt); vs != nil && !slices.Contains(vs, key) {
			d.bad(d.lineOf(m.Key), at, "want one of %s", strings.Join(vs, ", "))
			continue
		}
		item := reflect.New(v.Type().Elem()).Elem()
		d.decode(m.Value, item, at)
		d.lines[at] = d.lineOf(m.Key)
		out.SetMapIndex(reflect.ValueOf(key).Convert(kt), item)
	}
	v.Set(out)
}

func (d *decoder) structure(n ast.Node, v reflect.Value, path string) {
	ms, ok := members(n)
	if !ok {
		d.want(n, v, path, "a mapping")
		return
	}
	fields := fieldsOf(v.Type())
	given := map[string]bool{}
	for _, m := range d.pairs(ms, path) {
		key := m.Key.(*ast.StringNode).Value
		at := join(path, key)
		f, known := fields[key]
		if !known {
			d.unknown(m, v, path, key, fields)
			continue
		}
		given[key] = true
		d.decode(m.Value, v.Field(f.index), at)
		d.lines[at] = d.lineOf(m.Key)
		if s := v.Field(f.index); f.required && s.Kind() == reflect.String && s.Len() == 0 && len(d.errs) == 0 {
			d.bad(d.lineOf(m.Key), at, "must not be empty")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if fields[name].required && !given[name] {
			d.bad(d.lineOf(n), join(path, name), "is missing")
		}
	}
}

func (d *decoder) unknown(m *ast.MappingValueNode, v reflect.Value, path, key string, fields map[string]field) {
	if h, ok := v.Addr().Interface().(hinter); ok {
		if hint := h.Hint(key); hint != "" {
			d.bad(d.lineOf(m.Key), join(path, key), "%s", hint)
			return
		}
	}
	d.bad(d.lineOf(m.Key), join(path, key), "is not a field here; want some of %s", strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// field is one field of a struct by its JSON name.
type field struct {
	index    int
	required bool
}

func fieldsOf(t reflect.Type) map[string]field {
	out := map[string]field{}
	for i := range t.NumField() {
		name, opts, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		out[name] = field{i, !strings.Contains(opts, "omitempty")}
	}
	return out
}
