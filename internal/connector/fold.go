package connector

import (
	"fmt"
	"slices"
	"strings"
)

// Fold is the one spelling of a value that an application compares without case:
// the ASCII letters in lower case. Values with other characters than visible
// ASCII and single inner spaces have none: applications fold, compose and trim
// those in ways of their own.
func Fold(value string) (string, bool) {
	for i := range len(value) {
		if value[i] < ' ' || value[i] > '~' {
			return "", false
		}
	}
	if strings.Join(strings.Fields(value), " ") != value {
		return "", false
	}
	return strings.ToLower(value), true
}

// fold puts the parameters of a match into their one spelling.
func (s *Spec) fold(params map[string]string) *refusal {
	for _, name := range s.Fold {
		v, ok := params[name]
		if !ok {
			continue
		}
		if params[name], ok = Fold(v); !ok {
			return refuse("value_form", "a parameter that is compared without case has characters whose case is not certain")
		}
	}
	return nil
}

// HasParam reports whether an operation has the parameter.
func (s *Spec) HasParam(name string) bool {
	return slices.ContainsFunc(s.Operations, func(o Operation) bool { return slices.Contains(paramsOf(&o), name) })
}

// Decides reports whether value is the spelling in which the parameter is
// decided: a rule that compares it with another one never matches.
func (s *Spec) Decides(param, value string) bool {
	if !slices.Contains(s.Fold, param) {
		return true
	}
	f, ok := Fold(value)
	return ok && f == value
}

func (c *checker) fold() {
	for i, name := range c.spec.Fold {
		at := fmt.Sprintf("fold[%d]", i)
		if slices.Contains(c.spec.Fold[:i], name) {
			c.bad(at, "%q is named twice", name)
		}
		if !c.spec.HasParam(name) {
			c.bad(at, "no operation has a parameter %q", name)
		}
	}
}
