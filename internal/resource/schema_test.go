package resource_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/sallyport-dev/sallyport/internal/resource"
)

func compile(t *testing.T, kind string) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(resource.Schema(kind)))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertVocabs()
	if err := c.AddResource(kind+".json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(kind + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSchemaAgreesWithDecode: what Decode accepts, the schema of the kind
// accepts; and a field more, a field less or another type it refuses.
func TestSchemaAgreesWithDecode(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "valid.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	rs, err := decode(string(text))
	if err != nil {
		t.Fatal(err)
	}
	covered := map[string]bool{}
	for _, r := range rs {
		covered[r.Kind] = true
		s := compile(t, r.Kind)
		b, err := r.Canonical()
		if err != nil {
			t.Fatal(err)
		}
		check := func(change func(doc, spec map[string]any)) error {
			var doc map[string]any
			if err := json.Unmarshal(b, &doc); err != nil {
				t.Fatal(err)
			}
			change(doc, doc["spec"].(map[string]any))
			return s.Validate(doc)
		}
		if err := check(func(_, _ map[string]any) {}); err != nil {
			t.Errorf("%s %s: %v", r.Kind, r.Metadata.Name, err)
		}
		for name, change := range map[string]func(doc, spec map[string]any){
			"another_field":  func(_, spec map[string]any) { spec["surprise"] = true },
			"no_spec":        func(doc, _ map[string]any) { delete(doc, "spec") },
			"another_kind":   func(doc, _ map[string]any) { doc["kind"] = "Other" },
			"outside_field":  func(doc, _ map[string]any) { doc["status"] = map[string]any{} },
			"spec_is_a_list": func(doc, _ map[string]any) { doc["spec"] = []any{} },
			"no_name":        func(doc, _ map[string]any) { delete(doc["metadata"].(map[string]any), "name") },
			"empty_spec":     func(doc, _ map[string]any) { doc["spec"] = map[string]any{} },
		} {
			if check(change) == nil {
				t.Errorf("%s %s: the schema accepts %s", r.Kind, r.Metadata.Name, name)
			}
		}
	}
	for _, kind := range resource.Kinds() {
		if !covered[kind] && kind != resource.KindWitness {
			t.Errorf("testdata/valid.yaml has no %s", kind)
		}
		if !strings.Contains(string(resource.Schema(kind)), `"https://json-schema.org/draft/2020-12/schema"`) {
			t.Errorf("schema of %s names no draft", kind)
		}
	}
	if resource.Schema("Secret") != nil {
		t.Error("an unknown kind has a schema")
	}
}

// TestSchemaTakesPlainText where Decode does: a limit of a capability may be a
// text or {any: true}.
func TestSchemaTakesPlainText(t *testing.T) {
	s := compile(t, resource.KindCapability)
	doc := func(where any) any {
		return map[string]any{"apiVersion": "sallyport/v1", "kind": "Capability", "metadata": map[string]any{"name": "c", "tenant": "t"},
			"spec": map[string]any{"version": "1", "stages": []any{"sandbox"}, "budgets": map[string]any{"actions": 1, "seconds": 1},
				"operations": []any{map[string]any{"operation": "a.b", "max": 1, "where": map[string]any{"x": where}}}}}
	}
	for _, ok := range []any{"{{user}}", map[string]any{"any": true}} {
		if err := s.Validate(doc(ok)); err != nil {
			t.Errorf("%v: %v", ok, err)
		}
	}
	for _, bad := range []any{1, map[string]any{"all": true}, []any{}} {
		if s.Validate(doc(bad)) == nil {
			t.Errorf("the schema accepts %v", bad)
		}
	}
}
