package resource

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
)

// Schema is the JSON Schema (draft 2020-12) of a kind, made from the same
// structs that Decode fills, or nil. It says what can be said of one field;
// what fields mean together is said by Decode and Validate.
func Schema(kind string) []byte {
	spec := NewSpec(kind)
	if spec == nil {
		return nil
	}
	meta := schemaOf(reflect.TypeFor[Metadata]())
	if kind != KindTenant {
		meta["required"] = []string{"name", "tenant"}
	}
	b, err := json.MarshalIndent(map[string]any{
		"$schema":              "https://json-schema.org/draft/2020-12/schema",
		"$id":                  "https://sallyport.dev/schema/v1/" + strings.ToLower(kind) + ".json",
		"title":                kind,
		"type":                 "object",
		"additionalProperties": false,
		"required":             []string{"apiVersion", "kind", "metadata", "spec"},
		"properties": map[string]any{
			"apiVersion": map[string]any{"const": APIVersion},
			"kind":       map[string]any{"const": kind},
			"metadata":   meta,
			"spec":       schemaOf(reflect.TypeOf(spec).Elem()),
		},
	}, "", "  ")
	if err != nil {
		panic("sallyport: internal error: schema of " + kind + ": " + err.Error())
	}
	return append(b, '\n')
}

func schemaOf(t reflect.Type) map[string]any {
	var s map[string]any
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.Struct:
		props := map[string]any{}
		required := []string{}
		for name, f := range fieldsOf(t) {
			props[name] = schemaOf(t.Field(f.index).Type)
			if f.required {
				required = append(required, name)
			}
		}
		slices.Sort(required)
		s = map[string]any{"type": "object", "additionalProperties": false, "properties": props}
		if len(required) > 0 {
			s["required"] = required
		}
	case reflect.Map:
		s = map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem())}
		if vs := keysOf(t.Key()); vs != nil {
			s["propertyNames"] = map[string]any{"enum": vs}
		}
	case reflect.Slice:
		s = map[string]any{"type": "array", "items": schemaOf(t.Elem())}
	case reflect.String:
		s = map[string]any{"type": "string"}
		if vs := enumOf(t); vs != nil {
			s["enum"] = vs
		}
	case reflect.Int, reflect.Int64:
		s = map[string]any{"type": "integer", "minimum": -(1 << 53), "maximum": 1 << 53}
	case reflect.Bool:
		s = map[string]any{"type": "boolean"}
	default:
		panic("sallyport: internal error: resource field of kind " + t.Kind().String())
	}
	if _, ok := reflect.New(t).Interface().(textual); ok {
		return map[string]any{"anyOf": []any{map[string]any{"type": "string"}, s}}
	}
	return s
}
