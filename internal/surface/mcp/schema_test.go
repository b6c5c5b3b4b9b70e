package mcp

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestSchemaSteps: a schema that a server makes costly costs no more than a bound, and
// nothing fits it. It is asked one that takes 2^40 steps.
//
// Threats: G12, M1 (form)
func TestSchemaSteps(t *testing.T) {
	var defs []string
	for i := range 40 {
		defs = append(defs, fmt.Sprintf(`"d%d":{"allOf":[{"$ref":"#/$defs/d%d"},{"$ref":"#/$defs/d%d"}]}`, i, i+1, i+1))
	}
	for name, raw := range map[string]string{
		"2020":     `{"type":"object","$ref":"#/$defs/d0","$defs":{` + strings.Join(defs, ",") + `,"d40":{}}}`,
		"draft_07": `{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","allOf":[{"$ref":"#/$defs/d0"}],"$defs":{` + strings.Join(defs, ",") + `,"d40":{}}}`,
		"itself":   `{"type":"object","allOf":[{"$ref":"#"}]}`,
	} {
		s, err := newSchema([]byte(raw))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		done := make(chan bool)
		go func() { done <- s.valid([]byte(`{}`)) }()
		select {
		case ok := <-done:
			if ok {
				t.Errorf("%s: something fits", name)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: it goes on", name)
		}
	}
	costly(t)
	s, err := newSchema([]byte(`{"type":"object","properties":{"a":{"$ref":"#/$defs/n"}},"$defs":{"n":{"type":"object","properties":{"next":{"$ref":"#/$defs/n"}},"additionalProperties":false}}}`))
	if err != nil || !s.valid([]byte(`{"a":{"next":{"next":{}}}}`)) || s.valid([]byte(`{"a":{"next":{"other":{}}}}`)) {
		t.Errorf("a list: %v", err)
	}
}

// costly are schemas of a size that is read, each of which used to take minutes, or the
// memory of the machine, while a kill waited for it: patterns of few bytes that are large
// programs, to read and to match; parts that do not fit, asked again and again; texts and
// objects that each of them goes through.
func costly(t *testing.T) {
	t.Helper()
	many := func(n int, part string) string { return strings.TrimSuffix(strings.Repeat(part+",", n), ",") }
	var wide []string
	for i := range 16 {
		wide = append(wide, fmt.Sprintf(`"w%d":{"allOf":[{"$ref":"#/$defs/w%d"},{"$ref":"#/$defs/w%d"},%s]}`, i, i+1, i+1, many(150, `{"type":"null"}`)))
	}
	text, members := strings.Repeat("a", 60<<10), ""
	for i := range 6000 {
		members += fmt.Sprintf(`"%d":0,`, i)
	}
	of := func(property string) string { return `{"type":"object","properties":{"a":` + property + `}}` }
	for name, tc := range map[string]struct{ schema, arguments string }{
		"programs":       {of(`{"allOf":[` + many(2900, `{"pattern":"b{1000}"}`) + `]}`), `{"a":"b"}`},
		"property_names": {of(`{"patternProperties":{"` + strings.Repeat("a{900}", 160) + `":{}}}`), `{"a":{}}`},
		"matches":        {of(`{"allOf":[` + many(30, `{"pattern":"(a?){500}b"}`) + `]}`), `{"a":"` + text + `"}`},
		"one_match":      {of(`{"pattern":"` + strings.Repeat("(a?){900}", 40) + `b"}`), `{"a":"` + text + `"}`},
		"wide":           {`{"type":"object","$ref":"#/$defs/w0","$defs":{` + strings.Join(wide, ",") + `,"w16":{}}}`, `{}`},
		"texts":          {of(`{"allOf":[` + many(3000, `{"maxLength":1}`) + `]}`), `{"a":"` + text + `"}`},
		"objects":        {of(`{"allOf":[` + many(1800, `{"unevaluatedProperties":{}}`) + `]}`), `{"a":{` + members + `"x":0}}`},
	} {
		if len(tc.schema) > maxDefinition || len(tc.arguments) > maxArguments {
			t.Fatalf("%s: %d and %d bytes are not read", name, len(tc.schema), len(tc.arguments))
		}
		done := make(chan string)
		go func() {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			s, err := newSchema([]byte(tc.schema))
			fits := err == nil && s.valid([]byte(tc.arguments))
			runtime.ReadMemStats(&after)
			if n := (after.TotalAlloc - before.TotalAlloc) >> 20; n > 1<<10 {
				done <- fmt.Sprintf("it takes %d MiB", n)
			}
			done <- map[bool]string{true: "something fits"}[fits]
		}()
		select {
		case wrong := <-done:
			if wrong != "" {
				t.Errorf("%s: %s", name, wrong)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: it goes on", name)
		}
	}
	for name, tc := range map[string]struct{ schema, arguments string }{
		"pattern": {of(`{"type":"string","pattern":"^[A-Za-z0-9_.-]{1,64}$","maxLength":64}`), `{"a":"abc"}`},
		"text":    {of(`{"type":"string","minLength":1,"maxLength":65536}`), `{"a":"` + text + `"}`},
		"items":   {of(`{"type":"array","items":{"type":"object","properties":{"id":{"type":"integer"},"name":{"type":"string"}},"required":["id"]}}`), `{"a":[` + many(1500, `{"id":1,"name":"n"}`) + `]}`},
		"objects": {of(`{"type":"object","additionalProperties":{"type":"integer"}}`), `{"a":{` + members + `"x":0}}`},
	} {
		if s, err := newSchema([]byte(tc.schema)); err != nil || !s.valid([]byte(tc.arguments)) {
			t.Errorf("%s: what is usual does not fit: %v", name, err)
		}
	}
}
