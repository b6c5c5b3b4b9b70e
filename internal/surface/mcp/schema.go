package mcp

import (
	"bytes"
	"errors"
	"maps"
	"regexp"
	"regexp/syntax"
	"slices"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

// schema is a tool's input schema, ready to validate.
type schema struct {
	arguments []string // the properties that it names
	compiled  *jsonschema.Schema

	mu   sync.Mutex
	left int // steps of the reading or validation that runs
}

// maxSteps bounds the reading of one schema, and one validation, to about a second. A
// step is a schema that is asked: references can double them at each of many levels. What
// is large counts for more: what it is asked about, the schemas in it, and patterns, whose
// matching takes the length of the text times that of the program (RE2).
const (
	maxSteps   = 200_000
	stepText   = 64      // bytes of a text
	stepMatch  = 100     // bytes, times instructions
	maxPattern = 1 << 10 // bytes
)

func (s *schema) spend(steps int) {
	if s.left -= steps; s.left < 0 {
		panic(errSteps)
	}
}

// within reports whether f kept within the steps.
func (s *schema) within(f func()) (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = maxSteps
	defer func() {
		if v := recover(); v == errSteps {
			ok = false
		} else if v != nil {
			panic(v)
		}
	}()
	f()
	return true
}

// asked counts one schema with its parts, each time that it is asked.
type asked struct {
	s     *schema
	parts int
}

// Validate implements jsonschema.SchemaExt.
func (a asked) Validate(_ *jsonschema.ValidatorContext, v any) {
	size := 0 // a part goes through the value, whether or not it is counted itself
	switch v := v.(type) {
	case string:
		size = len(v) / stepText
	case []any:
		size = len(v)
	case map[string]any:
		size = len(v)
	}
	a.s.spend(a.parts * (1 + size))
}

// count makes asked of a schema. A part that does not fit is not asked to its end, so it
// counts here.
func (s *schema) count(_ *jsonschema.CompilerContext, doc map[string]any) (jsonschema.SchemaExt, error) {
	parts := 1
	for _, v := range doc {
		switch v := v.(type) {
		case []any:
			parts += len(v)
		case map[string]any:
			parts += len(v)
		}
	}
	return asked{s, parts}, nil
}

// pattern is a regular expression whose matches count.
type pattern struct {
	*regexp.Regexp
	s    *schema
	size int
}

// MatchString implements jsonschema.Regexp.
func (p pattern) MatchString(text string) bool {
	p.s.spend(1 + len(text)*p.size/stepMatch)
	return p.Regexp.MatchString(text)
}

// pattern reads a regular expression. Seven bytes of one can be a program of thousands
// of instructions.
func (s *schema) pattern(text string) (jsonschema.Regexp, error) {
	if len(text) > maxPattern {
		return nil, errSteps
	}
	tree, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, err
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return nil, err
	}
	s.spend(len(program.Inst))
	re, err := regexp.Compile(text)
	return pattern{re, s, len(program.Inst)}, err
}

// nowhere loads nothing: a schema that another place completes could be completed
// otherwise tomorrow.
type nowhere struct{}

func (nowhere) Load(string) (any, error) { return nil, errors.New("only the schema itself is read") }

var (
	errSchema = errors.New("its input schema is no JSON Schema of an object that stands alone")
	errMirror = errors.New("its input schema wants arguments in header fields")
	errSteps  = errors.New("its input schema takes too many steps")
)

func newSchema(raw canon.Value) (*schema, error) {
	raw, err := canon.Marshal(raw)
	if err != nil {
		return nil, errSchema
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	top, ok := doc.(map[string]any)
	if err != nil || !ok || top["type"] != "object" {
		return nil, errSchema
	}
	if bytes.Contains(raw, []byte("x-mcp-header")) {
		return nil, errMirror
	}
	s := &schema{}
	if !s.within(func() { err = s.compile(doc) }) {
		return nil, errSteps
	}
	if err != nil {
		return nil, errSchema
	}
	properties, _ := top["properties"].(map[string]any)
	s.arguments = slices.Sorted(maps.Keys(properties))
	return s, nil
}

func (s *schema) compile(doc any) (err error) {
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(nowhere{})
	c.UseRegexpEngine(s.pattern)
	const at, steps = "tool:input", "tool:steps"
	if err := errors.Join(c.AddResource(steps, true), c.AddResource(at, doc)); err != nil {
		return err
	}
	anything, err := c.Compile(steps)
	if err != nil {
		return err
	}
	c.AssertVocabs()
	c.RegisterVocabulary(&jsonschema.Vocabulary{URL: steps, Schema: anything, Compile: s.count})
	s.compiled, err = c.Compile(at)
	return err
}

// valid reports whether arguments fit.
func (s *schema) valid(arguments []byte) (ok bool) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(arguments))
	return err == nil && s.within(func() { ok = s.compiled.Validate(doc) == nil }) && ok
}
