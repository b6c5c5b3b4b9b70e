package resource

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Limits on what is read.
const (
	MaxFileBytes = 1 << 20
	maxDocuments = 500
	// The parser's time grows with the square of the keys of one mapping:
	// 10,000 take about a second.
	maxKeys   = 10_000
	maxFlow   = 32  // open brackets
	maxIndent = 120 // characters before the first word of a line
)

var (
	kindNames  = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
	tenantName = kindNames
)

// Decode reads resources from files, in order. The error is Errors, with every
// mistake in every file; no resource is returned with it.
func Decode(sources []Source) ([]Resource, error) {
	var all []Resource
	var errs Errors
	for _, s := range sources {
		rs, es := decodeFile(s)
		all, errs = append(all, rs...), append(errs, es...)
	}
	if err := errs.orNil(); err != nil {
		return nil, err
	}
	return all, nil
}

// DecodeInto reads one YAML document of any strict form: v is a pointer to a
// struct with JSON tags. The error is Errors.
func DecodeInto(s Source, v any) error {
	docs, errs := parse(s)
	if len(errs) == 0 && len(docs) != 1 {
		errs = append(errs, &Error{File: s.Name, Problem: fmt.Sprintf("want one document, got %d", len(docs))})
	}
	if len(errs) > 0 {
		return errs
	}
	d := &decoder{file: s.Name, base: docs[0].line, lines: map[string]int{}}
	d.decode(docs[0].node, reflect.ValueOf(v).Elem(), "")
	return d.errs.orNil()
}

func decodeFile(s Source) ([]Resource, Errors) {
	docs, errs := parse(s)
	var rs []Resource
	for _, doc := range docs {
		r, es := decodeResource(s.Name, doc)
		rs, errs = append(rs, r), append(errs, es...)
	}
	return rs, errs
}

// parse bounds a file, parses it and returns its documents that are not empty.
func parse(s Source) (docs []document, errs Errors) {
	fail := func(line int, format string, args ...any) ([]document, Errors) {
		return nil, Errors{{File: s.Name, Line: line, Problem: fmt.Sprintf(format, args...)}}
	}
	if len(s.Data) > MaxFileBytes {
		return fail(0, "file is %d bytes, limit %d", len(s.Data), MaxFileBytes)
	}
	if !utf8.Valid(s.Data) {
		return fail(0, "file is not UTF-8")
	}
	if line := tooDeep(s.Data); line > 0 {
		return fail(line, "nested too deep")
	}
	chunks, line := split(s.Data)
	if line > 0 {
		return fail(line, "want --- alone on its line between documents, and no directives")
	}
	if len(chunks) > maxDocuments {
		return fail(0, "%d documents, limit %d", len(chunks), maxDocuments)
	}
	keys := 0
	for _, c := range chunks {
		tokens, n := tokenize(c.text)
		if keys += n; keys > maxKeys {
			return fail(c.line+1, "more than %d fields in one file", maxKeys)
		}
		doc, line, problem := parseOne(tokens)
		switch {
		case problem != "":
			errs = append(errs, &Error{File: s.Name, Line: c.line + line, Problem: problem})
		case doc != nil:
			docs = append(docs, document{doc, c.line})
		}
	}
	return docs, errs
}

// document is the content of one YAML document, and how many lines stand
// before it in the file.
type document struct {
	node ast.Node
	line int
}

type chunk struct {
	text []byte
	line int
}

// split cuts a file at its document markers (YAML 1.2.2 section 9.1.2: "---" in
// column 0 ends a document wherever it stands). It is done here because the
// parser drops everything after a document without content. The line of a
// marker with content, of "...", or of a directive is returned as wrong.
func split(data []byte) ([]chunk, int) {
	var chunks []chunk
	cur := chunk{}
	n := 0
	for line := range bytes.Lines(data) {
		n++
		switch rest, marker := bytes.CutPrefix(line, []byte("---")); {
		case marker && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0):
			if rest = bytes.TrimSpace(rest); len(rest) > 0 && rest[0] != '#' {
				return nil, n
			}
			chunks = append(chunks, cur)
			cur = chunk{line: n}
			continue
		case bytes.HasPrefix(line, []byte("...")) || bytes.HasPrefix(line, []byte("%")):
			return nil, n
		}
		cur.text = append(cur.text, line...)
	}
	return append(chunks, cur), 0
}

// tokenize reads the words of one document and counts its keys.
func tokenize(text []byte) (tokens token.Tokens, keys int) {
	// As in parseOne; without tokens the document cannot be parsed either.
	defer func() {
		if p := recover(); p != nil {
			tokens, keys = nil, maxKeys+1
		}
	}()
	tokens = lexer.Tokenize(string(text))
	for _, t := range tokens {
		if t.Type == token.MappingValueType || t.Type == token.MappingKeyType {
			keys++
		}
	}
	return tokens, keys
}

// parseOne parses one document; nil without a problem is an empty one.
func parseOne(tokens token.Tokens) (doc ast.Node, line int, problem string) {
	const unreadable = "cannot be read as YAML"
	// The parser is not ours: a panic on some input is that input's fault.
	defer func() {
		if p := recover(); p != nil {
			doc, line, problem = nil, 1, unreadable
		}
	}()
	f, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var se *yaml.SyntaxError
		if errors.As(err, &se) && se.Token != nil && se.Token.Position != nil {
			// The message names the grammar's complaint, not the text around it.
			return nil, se.Token.Position.Line, se.Message
		}
		return nil, 1, unreadable
	}
	want := 0
	for _, t := range tokens {
		if scalarToken(t.Type) {
			want++
		}
	}
	var c scalarCount
	for _, d := range f.Docs {
		if d.Body != nil {
			ast.Walk(&c, d.Body)
		}
	}
	// A second look at what the parser made: every word of the text is in the
	// tree, or the document is refused.
	if int(c) != want || len(f.Docs) > 1 && want > 0 {
		return nil, 1, unreadable
	}
	if want == 0 && (len(f.Docs) == 0 || isEmpty(f.Docs[0].Body)) {
		return nil, 0, ""
	}
	return f.Docs[0].Body, 0, ""
}

func isEmpty(n ast.Node) bool {
	switch n.(type) {
	case nil, *ast.NullNode, *ast.CommentNode, *ast.CommentGroupNode:
		return true
	}
	return false
}

func scalarToken(t token.Type) bool {
	switch t {
	case token.StringType, token.SingleQuoteType, token.DoubleQuoteType, token.BoolType, token.IntegerType,
		token.BinaryIntegerType, token.OctetIntegerType, token.HexIntegerType, token.FloatType,
		token.InfinityType, token.NanType:
		return true
	}
	return false
}

// scalarCount counts the scalars of a tree, keys included.
type scalarCount int

func (c *scalarCount) Visit(n ast.Node) ast.Visitor {
	switch n := n.(type) {
	case *ast.LiteralNode:
		if n.Value != nil && n.Value.Value != "" {
			*c++
		}
		return nil
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		*c++
	}
	return c
}

// tooDeep returns the first line that nests deeper than is read, or 0. It
// counts brackets in texts too: a limit may be early, not late. Block style
// nests by what stands before the first word of a line, so bounding that bounds
// the depth.
func tooDeep(data []byte) int {
	depth := 0
	for i, line := range bytes.Split(data, []byte("\n")) {
		lead := len(line) - len(bytes.TrimLeft(line, " \t-?:!&*|>"))
		if lead > maxIndent {
			return i + 1
		}
		for _, c := range line {
			switch c {
			case '[', '{':
				depth++
			case ']', '}':
				depth = max(0, depth-1)
			}
			if depth > maxFlow {
				return i + 1
			}
		}
	}
	return 0
}

// envelope is the outside of every resource. The spec is read by kind.
type envelope struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   Metadata `json:"metadata"`
}

func decodeResource(file string, doc document) (Resource, Errors) {
	d := &decoder{file: file, base: doc.line, lines: map[string]int{}}
	r := Resource{File: file, Line: d.lineOf(doc.node), lines: d.lines}
	ms, ok := members(doc.node)
	if !ok {
		d.bad(r.Line, "", "want a resource: apiVersion, kind, metadata, spec")
		return r, d.errs
	}
	// The envelope without its spec, then the spec as its kind says.
	outer := &ast.MappingNode{BaseNode: &ast.BaseNode{}}
	var spec *ast.MappingValueNode
	for _, m := range ms {
		if key, ok := m.Key.(*ast.StringNode); ok && key.Value == "spec" {
			if spec != nil {
				d.bad(d.lineOf(key), "spec", "is given twice, first in line %d", d.lineOf(spec.Key))
			}
			spec = m
			continue
		}
		outer.Values = append(outer.Values, m)
	}
	var env envelope
	if len(outer.Values) == 0 {
		d.bad(r.Line, "", "want a resource: apiVersion, kind, metadata, spec")
		return r, d.errs
	}
	d.decode(outer, reflect.ValueOf(&env).Elem(), "")
	r.APIVersion, r.Kind, r.Metadata = env.APIVersion, env.Kind, env.Metadata
	d.header(&r)
	r.Spec = NewSpec(r.Kind)
	switch {
	case r.Spec == nil:
		return r, d.errs
	case spec == nil:
		d.bad(r.Line, "spec", "is missing")
		return r, d.errs
	}
	d.decode(spec.Value, reflect.ValueOf(r.Spec).Elem(), "spec")
	d.lines["spec"] = d.lineOf(spec.Key)
	if len(d.errs) == 0 {
		r.check(func(e *Error) { d.errs = append(d.errs, e) })
	}
	if len(d.errs) == 0 {
		if err := r.digest(); err != nil {
			d.bad(r.Line, "", "%v", err)
		}
	}
	return r, d.errs
}

func (d *decoder) header(r *Resource) {
	if r.APIVersion != "" && r.APIVersion != APIVersion {
		d.bad(r.line("apiVersion"), "apiVersion", "want %s", APIVersion)
	}
	if r.Kind != "" && NewSpec(r.Kind) == nil {
		d.bad(r.line("kind"), "kind", "want one of %v", Kinds())
	}
	if n := r.Metadata.Name; n != "" && !kindNames.MatchString(n) {
		d.bad(r.line("metadata.name"), "metadata.name", "want lower-case letters, digits and hyphens, at most 63")
	}
	if r.Kind == KindTenant {
		if r.Metadata.Tenant == "" {
			r.Metadata.Tenant = r.Metadata.Name
		}
		if r.Metadata.Tenant != r.Metadata.Name {
			d.bad(r.line("metadata.tenant"), "metadata.tenant", "a tenant belongs to itself")
		}
		return
	}
	switch {
	case r.Metadata.Tenant == "":
		d.bad(r.line("metadata"), "metadata.tenant", "is missing")
	case !tenantName.MatchString(r.Metadata.Tenant):
		d.bad(r.line("metadata.tenant"), "metadata.tenant", "want lower-case letters, digits and hyphens, at most 63")
	}
}

// check asks the spec what is wrong with it beyond its types.
func (r *Resource) check(report func(*Error)) {
	if s, ok := r.Spec.(interface {
		Validate(name string, report func(path, problem string))
	}); ok {
		s.Validate(r.Metadata.Name, func(path, problem string) {
			at := "spec"
			if path != "" {
				at = "spec." + path
			}
			report(r.problem(at, "%s", problem))
		})
	}
}

// resolver is a spec that can refer to files.
type resolver interface {
	// Resolve puts the content of each file in the place of its path. With an
	// error of read it changes nothing that was not read.
	Resolve(read func(path string) ([]byte, error)) error
}

// Inline puts the content of referred files (policies, prompts, public keys,
// certificates) into the resources and checks them again. read gets the path as
// written and the file that it was written in. The client calls it before
// anything is sent: a server never opens a path that a resource names.
func Inline(rs []Resource, read func(from, path string) ([]byte, error)) error {
	var errs Errors
	for i := range rs {
		r := &rs[i]
		if s, ok := r.Spec.(resolver); ok {
			err := s.Resolve(func(path string) ([]byte, error) { return read(r.File, path) })
			if err != nil {
				errs = append(errs, r.problem("spec", "%v", err))
				continue
			}
			r.check(func(e *Error) { errs = append(errs, e) })
		}
		if err := r.digest(); err != nil {
			errs = append(errs, r.problem("", "%v", err))
		}
	}
	return errs.orNil()
}
