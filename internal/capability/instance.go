package capability

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// Instance is a capability with its parameters filled in: the declared intent
// of one task. Every field is part of the canonical form.
type Instance struct {
	Capability  string            `json:"capability"`
	Version     string            `json:"version"`
	Stages      []action.Stage    `json:"stages"`
	Params      map[string]string `json:"params"`
	Rules       []Rule            `json:"rules"`
	Reads       []string          `json:"reads"`
	Computer    []string          `json:"computer"` // operations, e.g. computer.left_click
	Inference   bool              `json:"inference"`
	Budgets     Budgets           `json:"budgets"`
	Credentials []string          `json:"credentials"`
	Audiences   []string          `json:"audiences,omitempty"`
	Delegates   []Delegate        `json:"delegates,omitempty"`
	Labels      []LabelRule       `json:"labels"`
}

// Rule is one covered operation. Its parameters are exactly those of Params.
type Rule struct {
	Operation string           `json:"operation"`
	App       string           `json:"app"`
	Params    map[string]Value `json:"params"`
	Max       int64            `json:"max"`
	Hold      *Hold            `json:"hold,omitempty"` // with its defaults filled in
}

// Value is what one parameter must be.
type Value struct {
	Any      bool   `json:"any,omitempty"`
	Equals   string `json:"equals,omitempty"`
	Optional bool   `json:"optional,omitempty"` // may be absent
}

// Defaults of a Hold.
const (
	defaultHoldSeconds = 600
	defaultHoldCount   = 1
)

// Instantiate fills in the parameters. The error joins one for every parameter
// that is missing, unknown or not of its form; each names the parameter and
// none repeats its value.
func (s *Spec) Instantiate(name string, params map[string]string) (*Instance, error) {
	var errs []error
	s.Validate(name, func(path, problem string) {
		errs = append(errs, fmt.Errorf("capability %s: %s: %s", name, path, problem))
	})
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if err := s.checkParams(name, params); err != nil {
		return nil, err
	}
	in := &Instance{
		Capability: name, Version: s.Version, Stages: sorted(s.Stages),
		Params: map[string]string{}, Rules: []Rule{}, Reads: sorted(s.Reads), Computer: []string{},
		Inference: s.Surfaces.Inference, Budgets: s.Budgets, Credentials: sorted(s.Credentials),
		Audiences: slices.Sorted(slices.Values(s.Audiences)), Delegates: slices.Clone(s.Delegates),
		Labels: append([]LabelRule{}, s.Labels...),
	}
	maps.Copy(in.Params, params)
	computer := DefaultComputer
	if s.Surfaces.Computer != nil {
		computer = *s.Surfaces.Computer
	}
	for _, op := range sorted(computer) {
		in.Computer = append(in.Computer, string(action.Computer)+"."+op)
	}
	for _, op := range s.Operations {
		r, err := s.rule(op, params)
		if err != nil {
			return nil, fmt.Errorf("capability %s: %s: %w", name, op.Operation, err)
		}
		in.Rules = append(in.Rules, r)
	}
	return in, nil
}

func (s *Spec) rule(op Operation, params map[string]string) (Rule, error) {
	r := Rule{Operation: op.Operation, App: op.App, Params: map[string]Value{}, Max: op.Max}
	if r.App == "" {
		r.App, _, _ = strings.Cut(op.Operation, ".")
	}
	if n, ok := s.Budgets.PerOperation[op.Operation]; ok {
		r.Max = min(r.Max, n)
	}
	for field, w := range op.Where {
		v, err := fill(w.Value, func(p string) (string, bool) { t, ok := params[p]; return t, ok })
		if err != nil {
			return Rule{}, fmt.Errorf("where.%s: %w", field, err)
		}
		r.Params[field] = Value{Any: w.Any, Equals: v, Optional: w.Optional}
	}
	for _, h := range s.Holds {
		if h.Operation != op.Operation {
			continue
		}
		if h.Count == 0 {
			h.Count = defaultHoldCount
		}
		if h.ExpiresSeconds == 0 {
			h.ExpiresSeconds = defaultHoldSeconds
		}
		r.Hold = &h
	}
	return r, nil
}

// Canonical is the RFC 8785 form.
func (in *Instance) Canonical() ([]byte, error) { return canon.Marshal(in) }

// Digest is over Canonical.
func (in *Instance) Digest() (action.Digest, error) { return canon.DigestOf(in) }

// Hold is the hold on an operation, or nil.
func (in *Instance) Hold(operation string) *Hold {
	for _, r := range in.Rules {
		if r.Operation == operation {
			return r.Hold
		}
	}
	return nil
}

func (s *Spec) checkParams(capability string, params map[string]string) error {
	var errs []error
	bad := func(name, format string, args ...any) {
		errs = append(errs, fmt.Errorf("capability %s: parameter %q %s", capability, name, fmt.Sprintf(format, args...)))
	}
	known := map[string]bool{}
	for _, p := range s.Parameters {
		known[p.Name] = true
		v, ok := params[p.Name]
		if !ok {
			bad(p.Name, "is missing")
			continue
		}
		if why := p.check(v); why != "" {
			bad(p.Name, "%s", why)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(params)) {
		if !known[name] {
			bad(name, "is not a parameter of the capability")
		}
	}
	return errors.Join(errs...)
}

// check says what is wrong with a value, or "".
func (p Parameter) check(v string) string {
	limit := p.MaxLen
	if limit == 0 {
		limit = DefaultMaxLen
	}
	switch {
	case len(v) > limit:
		return fmt.Sprintf("is longer than %d bytes", limit)
	case !utf8.ValidString(v):
		return "is not UTF-8"
	case strings.ContainsFunc(v, hides):
		return "has a control or formatting character"
	case len(p.Enum) > 0:
		if !slices.Contains(p.Enum, v) {
			return "is not one of " + strings.Join(p.Enum, ", ")
		}
		return ""
	}
	re, err := compilePattern(p.Pattern)
	if err != nil || p.Pattern == "" {
		return "has no usable pattern"
	}
	if !re.MatchString(v) {
		return "does not match " + p.Pattern
	}
	return ""
}

// hides: characters that an approver would not see, or that reorder what they
// see (bidirectional controls are in Cf).
func hides(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co, unicode.Cs) || r == utf8.RuneError
}

// compilePattern anchors the author's pattern. It is compiled alone first, so
// that "a)|(b" cannot break out of the anchors.
func compilePattern(p string) (*regexp.Regexp, error) {
	if _, err := regexp.Compile(p); err != nil {
		return nil, err
	}
	return regexp.Compile(`\A(?:` + p + `)\z`)
}

// fill puts values in place of {{name}}, in one pass.
func fill(text string, value func(name string) (string, bool)) (string, error) {
	var b strings.Builder
	for {
		before, rest, open := strings.Cut(text, "{{")
		if strings.Contains(before, "}}") {
			return "", errors.New("}} without {{")
		}
		b.WriteString(before)
		if !open {
			return b.String(), nil
		}
		name, after, closed := strings.Cut(rest, "}}")
		name = strings.TrimSpace(name)
		if !closed || !paramForm.MatchString(name) {
			return "", errors.New("want {{parameter}}")
		}
		v, ok := value(name)
		if !ok {
			return "", fmt.Errorf("there is no parameter %q", name)
		}
		b.WriteString(v)
		text = after
	}
}

func sorted[T ~string](list []T) []T {
	return slices.Compact(append([]T{}, slices.Sorted(slices.Values(list))...))
}
