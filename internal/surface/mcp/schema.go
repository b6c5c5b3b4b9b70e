package mcp

import (
	"bytes"
	"errors"
	"maps"
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
	left int // steps of the validation that runs
}

// maxSteps bounds one validation, in schemas that are asked: references can double them at
// each of many levels.
const maxSteps = 100_000

// nowhere loads nothing: a schema that another place completes could be completed
// otherwise tomorrow.
type nowhere struct{}

func (nowhere) Load(string) (any, error) { return nil, errors.New("only the schema itself is read") }

var (
	errSchema = errors.New("its input schema is no JSON Schema of an object that stands alone")
	errMirror = errors.New("its input schema wants arguments in header fields")
	errSteps  = errors.New("the validation takes too many steps")
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
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(nowhere{})
	const at, steps = "tool:input", "tool:steps"
	if c.AddResource(steps, true) != nil || c.AddResource(at, doc) != nil {
		return nil, errSchema
	}
	anything, err := c.Compile(steps)
	if err != nil {
		return nil, errSchema
	}
	c.AssertVocabs()
	c.RegisterVocabulary(&jsonschema.Vocabulary{URL: steps, Schema: anything, Compile: func(*jsonschema.CompilerContext, map[string]any) (jsonschema.SchemaExt, error) { return s, nil }})
	if s.compiled, err = c.Compile(at); err != nil {
		return nil, errSchema
	}
	properties, _ := top["properties"].(map[string]any)
	s.arguments = slices.Sorted(maps.Keys(properties))
	return s, nil
}

// Validate implements jsonschema.SchemaExt, for every schema of the tool: it counts.
func (s *schema) Validate(*jsonschema.ValidatorContext, any) {
	if s.left--; s.left < 0 {
		panic(errSteps)
	}
}

// valid reports whether arguments fit.
func (s *schema) valid(arguments []byte) (ok bool) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(arguments))
	if err != nil {
		return false
	}
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
	return s.compiled.Validate(doc) == nil
}
