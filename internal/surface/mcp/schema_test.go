package mcp

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestSchemaSteps: a schema that a server makes costly costs no more than a bound, and
// nothing fits it. It is asked one that takes 2^40 steps.
//
// Threats: M1 (form)
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
	s, err := newSchema([]byte(`{"type":"object","properties":{"a":{"$ref":"#/$defs/n"}},"$defs":{"n":{"type":"object","properties":{"next":{"$ref":"#/$defs/n"}},"additionalProperties":false}}}`))
	if err != nil || !s.valid([]byte(`{"a":{"next":{"next":{}}}}`)) || s.valid([]byte(`{"a":{"next":{"other":{}}}}`)) {
		t.Errorf("a list: %v", err)
	}
}
