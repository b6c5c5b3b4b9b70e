package mcp

import (
	"bytes"
	"errors"
	"maps"
	"slices"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

// schema is a tool's input schema, ready to validate.
type schema struct {
	arguments []string // the properties that it names
	compiled  *jsonschema.Schema
}

// nowhere loads nothing: a schema that another place completes could be completed
// otherwise tomorrow.
type nowhere struct{}

func (nowhere) Load(string) (any, error) { return nil, errors.New("only the schema itself is read") }

var (
	errSchema = errors.New("its input schema is no JSON Schema of an object that stands alone")
	errMirror = errors.New("its input schema wants arguments in header fields")
)

func newSchema(raw canon.Value) (*schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	top, ok := doc.(map[string]any)
	if err != nil || !ok || top["type"] != "object" {
		return nil, errSchema
	}
	if bytes.Contains(raw, []byte("x-mcp-header")) {
		return nil, errMirror
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(nowhere{})
	const at = "tool:input"
	if c.AddResource(at, doc) != nil {
		return nil, errSchema
	}
	s := &schema{}
	if s.compiled, err = c.Compile(at); err != nil {
		return nil, errSchema
	}
	properties, _ := top["properties"].(map[string]any)
	s.arguments = slices.Sorted(maps.Keys(properties))
	return s, nil
}

// valid reports whether arguments fit.
func (s *schema) valid(arguments []byte) bool {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(arguments))
	return err == nil && s.compiled.Validate(doc) == nil
}
