package connector

import (
	"fmt"
	"slices"
	"strconv"
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

// spell puts the parameters of a match into their one spelling.
func (s *Spec) spell(params map[string]string) *refusal {
	for _, name := range s.Numbers {
		v, ok := params[name]
		if n, err := strconv.ParseInt(v, 10, 64); ok && (err != nil || strconv.FormatInt(n, 10) != v) {
			return refuse("value_form", "a parameter that is read as a number is not a plain whole number")
		}
	}
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
		return !slices.Contains(s.Numbers, param) || s.spell(map[string]string{param: value}) == nil
	}
	f, ok := Fold(value)
	return ok && f == value
}

func (c *checker) spellings() {
	list := func(at string, names, others []string) {
		for i, name := range names {
			at := fmt.Sprintf("%s[%d]", at, i)
			if slices.Contains(names[:i], name) || slices.Contains(others, name) {
				c.bad(at, "%q is named twice", name)
			}
			if !c.spec.HasParam(name) {
				c.bad(at, "no operation has a parameter %q", name)
			}
		}
	}
	list("fold", c.spec.Fold, nil)
	list("numbers", c.spec.Numbers, c.spec.Fold)
}
