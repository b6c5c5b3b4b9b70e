// Package capability turns a capability and its parameters into what one task
// may do.
//
// Invariants:
//   - People approve capabilities; nothing here reads what a model said.
//   - A parameter is data: it is put in place of {{name}} once, and its value is
//     never read again as a template, a pattern or a policy.
//   - What a capability does not name is not covered: operations, parameters of
//     operations, applications, surfaces.
//   - The same capability with the same parameters gives the same canonical
//     form, which is what a requester declares and an approver signs.
//
// Not trusted: parameter values. They are checked against the declared pattern
// or list, and may not hold characters that hide or reorder text.
package capability

import (
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// Spec is the body of a resource of kind Capability. Fields without omitempty
// must be given. The zero value covers nothing.
type Spec struct {
	Description string `json:"description,omitempty"`
	Version     string `json:"version"`
	// Stages in which tasks of it may be opened.
	Stages     []action.Stage `json:"stages"`
	Parameters []Parameter    `json:"parameters,omitempty"`
	Operations []Operation    `json:"operations,omitempty"`
	// Reads are the connectors whose recognised reads are covered.
	Reads    []string `json:"reads,omitempty"`
	Surfaces Surfaces `json:"surfaces,omitempty"`
	Budgets  Budgets  `json:"budgets"`
	// Credentials are the credential sources that a task may lease from.
	Credentials []string `json:"credentials,omitempty"`
	// Audiences are whom tokens of a task may be for; none means no tokens.
	Audiences []string `json:"audiences,omitempty"`
	// Delegates are what other agents may be given to do as parts of a task, by the
	// task's own agent; none means nothing.
	Delegates []Delegate `json:"delegates,omitempty"`
	Holds     []Hold     `json:"holds,omitempty"`
	// Labels says what a label on the task forbids or holds from then on.
	Labels []LabelRule `json:"labels,omitempty"`
}

// Parameter is one blank of the declared intent, filled in by the requester.
// It has a Pattern or an Enum.
type Parameter struct {
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	Pattern     string   `json:"pattern,omitempty"` // RE2; always matched whole
	Enum        []string `json:"enum,omitempty"`
	MaxLen      int      `json:"maxLen,omitempty"` // bytes; 0 means DefaultMaxLen
}

// Limits of a parameter's value, in bytes.
const (
	DefaultMaxLen = 128
	MaxMaxLen     = 4096
)

// Operation is one operation that is covered.
type Operation struct {
	Operation string `json:"operation"`
	// App is the connector; by default the operation's first word.
	App string `json:"app,omitempty"`
	// Where limits each parameter. A parameter that is not named here must be
	// absent, and one that is named must be there, unless it says optional.
	Where map[string]Where `json:"where,omitempty"`
	// Max is how often a task may do it, at least 1.
	Max int64 `json:"max"`
}

// Where limits one parameter: to a text with {{name}} in it, or not at all. In
// YAML it is the text itself, {value: TEXT} or {any: true}.
type Where struct {
	Value string `json:"value,omitempty"`
	Any   bool   `json:"any,omitempty"`
	// Optional lets the parameter be absent.
	Optional bool `json:"optional,omitempty"`
}

// SetText is how a plain YAML string becomes a Where.
func (w *Where) SetText(s string) { w.Value = s }

// Surfaces are the ways to act. The zero value is the computer surface with
// DefaultComputer and no inference.
type Surfaces struct {
	// Computer lists computer actions; nil means DefaultComputer.
	Computer  *[]string `json:"computer,omitempty"`
	Inference bool      `json:"inference,omitempty"`
}

// DefaultComputer are the computer actions that a capability covers unless it
// lists its own. They act only on the capability's applications.
var DefaultComputer = []string{
	"cursor_position", "double_click", "drag", "hold_key", "home", "key", "left_click", "left_mouse_down",
	"left_mouse_up", "middle_click", "move", "right_click", "safety_check", "screenshot", "scroll", "triple_click", "type", "wait",
	"zoom",
}

// NamedComputer are computer actions that a capability covers only if it names
// them: they say yes to a page, or give it files.
var NamedComputer = []string{"accept_dialog", "upload"}

// Budgets bound a task as a whole.
type Budgets struct {
	Actions int64 `json:"actions"` // let through, on all surfaces
	Seconds int64 `json:"seconds"` // from opening to the end
	// PerOperation bounds single operations, computer actions included.
	PerOperation map[string]int64 `json:"perOperation,omitempty"`
}

// Hold asks people to approve each use of an operation.
type Hold struct {
	Operation string `json:"operation"`
	Approvers string `json:"approvers"`       // role
	Count     int    `json:"count,omitempty"` // people; 0 means 1
	// ExpiresSeconds is how long the question stays open; 0 means 600.
	ExpiresSeconds int64 `json:"expiresSeconds,omitempty"`
}

// Delegate is another agent with one of its capabilities. What a part may do is
// within what the task may all the same.
type Delegate struct {
	Agent      string `json:"agent"`
	Capability string `json:"capability"`
}

// LabelRule takes effect once the task carries Label: operations that reach at
// least Reach are held for Hold, or denied when Hold is empty.
type LabelRule struct {
	Label string        `json:"label"`
	Reach action.Effect `json:"reach"`
	Hold  string        `json:"hold,omitempty"` // role
}

var (
	nameForm      = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
	paramForm     = regexp.MustCompile(`^[a-z][A-Za-z0-9]{0,62}$`)
	operationForm = regexp.MustCompile(`^[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)+$`)
	versionForm   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+-]{0,62}$`)
)

// Validate reports everything that is wrong, by field path. name is the name
// of the resource.
func (s *Spec) Validate(name string, report func(path, problem string)) {
	c := checker{s, func(path, format string, args ...any) { report(path, fmt.Sprintf(format, args...)) }}
	if !nameForm.MatchString(name) {
		c.bad("", "capability name %q: want lower-case letters, digits and hyphens", name)
	}
	if !versionForm.MatchString(s.Version) {
		c.bad("version", "want letters, digits, dots, plus and hyphens")
	}
	if len(s.Stages) == 0 {
		c.bad("stages", "want at least one stage")
	}
	for i, st := range s.Stages {
		if _, err := action.ParseTaskStage(string(st)); err != nil {
			c.bad(fmt.Sprintf("stages[%d]", i), "%v", err)
		}
	}
	params := c.parameters()
	ops := c.operations(params)
	if s.Surfaces.Computer != nil {
		for i, op := range *s.Surfaces.Computer {
			if known := slices.Concat(DefaultComputer, NamedComputer); !slices.Contains(known, op) {
				c.bad(fmt.Sprintf("surfaces.computer[%d]", i), "unknown computer action %q; want some of %s", op, strings.Join(known, ", "))
			}
		}
	}
	c.budgets()
	c.audiences()
	c.delegates()
	c.holds(ops)
	for i, l := range s.Labels {
		if _, err := action.ParseEffect(string(l.Reach)); err != nil {
			c.bad(fmt.Sprintf("labels[%d].reach", i), "%v", err)
		}
		if l.Label == "" {
			c.bad(fmt.Sprintf("labels[%d].label", i), "want a label")
		}
	}
}

type checker struct {
	spec *Spec
	bad  func(path, format string, args ...any)
}

func (c checker) parameters() map[string]bool {
	seen := map[string]bool{}
	for i, p := range c.spec.Parameters {
		at := fmt.Sprintf("parameters[%d]", i)
		if !paramForm.MatchString(p.Name) {
			c.bad(at+".name", "want a name of letters and digits")
		}
		if seen[p.Name] {
			c.bad(at+".name", "parameter %q is declared twice", p.Name)
		}
		seen[p.Name] = true
		if (p.Pattern == "") == (len(p.Enum) == 0) {
			c.bad(at, "parameter %q: want a pattern or an enum, and not both", p.Name)
		}
		if _, err := compilePattern(p.Pattern); err != nil {
			c.bad(at+".pattern", "%v", err)
		}
		if p.MaxLen < 0 || p.MaxLen > MaxMaxLen {
			c.bad(at+".maxLen", "want 0 to %d bytes", MaxMaxLen)
		}
	}
	return seen
}

func (c checker) operations(params map[string]bool) map[string]bool {
	ops := map[string]bool{}
	for i, op := range c.spec.Operations {
		at := fmt.Sprintf("operations[%d]", i)
		if !operationForm.MatchString(op.Operation) {
			c.bad(at+".operation", "want app.thing.verb in lower case")
		}
		if ops[op.Operation] {
			c.bad(at+".operation", "%s is listed twice: its count would be shared", op.Operation)
		}
		ops[op.Operation] = true
		if op.Max < 1 {
			c.bad(at+".max", "want at least 1")
		}
		for _, name := range slices.Sorted(maps.Keys(op.Where)) {
			w, at := op.Where[name], at+".where."+name
			if w.Any && w.Value != "" {
				c.bad(at, "want a text or {any: true}, not both")
			}
			if _, err := fill(w.Value, func(p string) (string, bool) { return "", params[p] }); err != nil {
				c.bad(at, "%v", err)
			}
		}
	}
	return ops
}

func (c checker) budgets() {
	b := c.spec.Budgets
	if b.Actions < 1 {
		c.bad("budgets.actions", "want at least 1")
	}
	if b.Seconds < 1 || b.Seconds > 24*60*60 {
		c.bad("budgets.seconds", "want 1 to 86400")
	}
	for _, op := range slices.Sorted(maps.Keys(b.PerOperation)) {
		if !operationForm.MatchString(op) || b.PerOperation[op] < 1 {
			c.bad("budgets.perOperation."+op, "want an operation and at least 1")
		}
	}
}

func (c checker) audiences() {
	seen := map[string]bool{}
	for i, a := range c.spec.Audiences {
		u, err := url.Parse(a)
		switch at := fmt.Sprintf("audiences[%d]", i); {
		case err != nil || u.Scheme != "https" && u.Scheme != "spiffe" || u.Host == "" || u.User != nil || u.Fragment != "" || u.String() != a || len(a) > 255:
			c.bad(at, "want https://host/path or a SPIFFE ID")
		case seen[a]:
			c.bad(at, "is given twice")
		}
		seen[a] = true
	}
}

func (c checker) delegates() {
	seen := map[Delegate]bool{}
	for i, d := range c.spec.Delegates {
		switch at := fmt.Sprintf("delegates[%d]", i); {
		case !nameForm.MatchString(d.Agent):
			c.bad(at+".agent", "want an agent's name")
		case !nameForm.MatchString(d.Capability):
			c.bad(at+".capability", "want a capability's name")
		case seen[d]:
			c.bad(at, "is given twice")
		}
		seen[d] = true
	}
}

func (c checker) holds(ops map[string]bool) {
	seen := map[string]bool{}
	for i, h := range c.spec.Holds {
		at := fmt.Sprintf("holds[%d]", i)
		if !ops[h.Operation] {
			c.bad(at+".operation", "the capability does not cover %s", h.Operation)
		}
		if seen[h.Operation] {
			c.bad(at+".operation", "%s has two holds", h.Operation)
		}
		seen[h.Operation] = true
		if h.Approvers == "" {
			c.bad(at+".approvers", "want a role")
		}
		if h.Count < 0 || h.Count > 10 {
			c.bad(at+".count", "want 1 to 10 people")
		}
		if h.ExpiresSeconds < 0 || h.ExpiresSeconds > 24*60*60 {
			c.bad(at+".expiresSeconds", "want 1 to 86400")
		}
	}
}
