package policy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// Severities of a Problem. Only an error keeps a set from being used.
const (
	SeverityError   = "error"
	SeverityWarning = "warning"
)

// Problem is one finding of Check, with its place.
type Problem struct {
	File     string `json:"file"`
	Line     int    `json:"line"` // from 1; 0 when the whole file is meant
	Policy   string `json:"policy,omitempty"`
	Severity string `json:"severity"`
	Message  string `json:"message"`
}

// String is "file:line: policy id: message".
func (p Problem) String() string {
	at := p.File
	if p.Line > 0 {
		at = fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	if p.Policy != "" {
		return at + ": policy " + p.Policy + ": " + p.Message
	}
	return at + ": " + p.Message
}

// Vocabulary is what the tenant's connectors declare. With it, Check can tell
// a misspelt name from a rule for later.
type Vocabulary struct {
	Operations map[string][]string // operation to the names of its parameters
	Apps       []string
	// Decides reports whether an operation is decided with the parameter in this
	// spelling, and whether its application compares it without case. Of a
	// parameter that several applications have, some may. Nil checks no values.
	Decides func(param, value string) (spelling, folded bool)
}

// Check lints guardrails: everything that Parse refuses, and with a
// vocabulary every name that no connector declares. All problems are reported,
// by file and line.
func Check(files map[string][]byte, v *Vocabulary) []Problem {
	entries, problems := read(files, author)
	if v != nil {
		for _, e := range entries {
			problems = append(problems, v.check(e)...)
		}
	}
	slices.SortFunc(problems, func(a, b Problem) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		return a.Line - b.Line
	})
	return problems
}

func (v *Vocabulary) check(e *entry) []Problem {
	m := findMentions((*ast.Policy)(e.policy.AST()))
	var ps []Problem
	warn := func(format string, args ...any) {
		ps = append(ps, problemAt(e.policy, e.id, SeverityWarning, fmt.Sprintf(format, args...)))
	}
	params := map[string]bool{}
	for _, names := range v.Operations {
		for _, n := range names {
			params[n] = true
		}
	}
	for _, op := range m.operations {
		if _, ok := v.Operations[string(op.ID)]; !ok && !boundaryOperation.MatchString(string(op.ID)) {
			warn("no connector declares operation %q", op.ID)
		}
	}
	for _, app := range m.apps {
		if !slices.Contains(v.Apps, app) {
			warn("there is no connector %q", app)
		}
	}
	for _, k := range m.keys["params"] {
		if !params[string(k)] {
			warn("no operation has a parameter %q", k)
		}
	}
	for _, k := range m.keys["counts"] {
		if _, ok := v.Operations[string(k)]; !ok {
			warn("counts: no connector declares operation %q", k)
		}
	}
	for _, c := range m.compared {
		if v.Decides == nil || !params[c.param] {
			continue
		}
		switch spelling, folded := v.Decides(c.param, c.text); {
		case !spelling:
			warn("parameter %q is never %q: its connector decides it in another spelling (fold, numbers)", c.param, c.text)
		case !folded && strings.ToLower(c.text) != strings.ToUpper(c.text):
			warn("parameter %q is compared exactly: if an application takes %q for the same in another case, name it in the connector's fold", c.param, c.text)
		}
	}
	return ps
}

// boundaryOperation is an operation of a surface itself, not of a connector.
var boundaryOperation = regexp.MustCompile(`^(computer|egress|inference|control)\.`)

// source says who wrote a policy: each has its own names and its own rules.
type source int

const (
	author  source = iota // a tenant's policy author: only forbid
	shipped               // embedded: only forbid, ids base/...
)

var (
	idForm   = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*$`)
	codeForm = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

	// roles that a hold may ask; the same words as a Person's roles.
	roles = []string{
		"owner", "requester", "approver", "policy-author", "identity-administrator",
		"secrets-administrator", "auditor", "operator",
	}
)

// read parses files in order of name and collects every problem.
func read(files map[string][]byte, src source) ([]*entry, []Problem) {
	var entries []*entry
	var problems []Problem
	first := map[string]*cedar.Policy{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		list, ps := parseFile(name, files[name])
		problems = append(problems, ps...)
		for _, p := range list {
			e, ps := annotated(p, src)
			if other, dup := first[e.id]; dup && e.id != "" {
				ps = append(ps, problemAt(p, e.id, SeverityError,
					fmt.Sprintf("@id is already used at %s:%d", other.Position().Filename, other.Position().Line)))
			}
			first[e.id] = p
			if err := checkTypes(e); err != nil {
				ps = append(ps, problemAt(p, e.id, SeverityError, err.Error()))
			}
			problems = append(problems, ps...)
			entries = append(entries, e)
		}
	}
	return entries, problems
}

var linePattern = regexp.MustCompile(`<input>:(\d+):\d+|line (\d+)`)

func parseFile(name string, text []byte) (cedar.PolicyList, []Problem) {
	fail := func(line int, msg string) (cedar.PolicyList, []Problem) {
		return nil, []Problem{{File: name, Line: line, Severity: SeverityError, Message: msg}}
	}
	if len(text) > MaxFileBytes {
		return fail(0, fmt.Sprintf("file is %d bytes, limit %d", len(text), MaxFileBytes))
	}
	if line := tooDeep(text); line > 0 {
		return fail(line, fmt.Sprintf("a policy is nested deeper than %d or longer than %d bytes", maxDepth, maxPolicyBytes))
	}
	list, err := cedar.NewPolicyListFromBytes(name, text)
	if err != nil {
		line := 0
		if m := linePattern.FindStringSubmatch(err.Error()); m != nil {
			fmt.Sscan(m[1]+m[2], &line)
		}
		return fail(line, err.Error())
	}
	if len(list) > MaxPolicies {
		return fail(0, fmt.Sprintf("%d policies, limit %d", len(list), MaxPolicies))
	}
	return list, nil
}

// tooDeep returns the line where a policy gets longer than maxPolicyBytes, or
// where brackets or a run of prefix operators and conditionals nest deeper than
// maxDepth, or 0. It counts brackets in texts and comments too: a limit may be
// early, not late. Only a semicolon outside both ends a policy.
func tooDeep(text []byte) int {
	line, depth, run, length := 1, 0, 0, 0
	var quoted, comment bool
	for i, c := range text {
		length++
		switch {
		case c == '\n':
			line++
			comment = false
			continue
		case comment:
		case c == '"' && !escaped(text, i):
			quoted = !quoted
		case !quoted && c == '/' && i+1 < len(text) && text[i+1] == '/':
			comment = true
		case !quoted && c == ';':
			depth, run, length = 0, 0, 0
		}
		switch {
		case c == '(' || c == '[' || c == '{':
			depth++
		case c == ')' || c == ']' || c == '}':
			depth = max(0, depth-1)
		case c == '!' || c == '-' || c == 'i' && i+1 < len(text) && text[i+1] == 'f':
			// These nest without brackets: if a then b else if ...
			run++
		}
		if depth > maxDepth || run > 16*maxDepth || length > maxPolicyBytes {
			return line
		}
	}
	return 0
}

// escaped reports whether an odd number of backslashes stands before i.
func escaped(text []byte, i int) bool {
	n := 0
	for i-n > 0 && text[i-n-1] == '\\' {
		n++
	}
	return n%2 == 1
}

// annotated reads the annotations. The entry is returned even with problems,
// so that all of them can be reported.
func annotated(p *cedar.Policy, src source) (*entry, []Problem) {
	e := &entry{policy: p, forbid: p.Effect() == cedar.Forbid}
	var ps []Problem
	bad := func(format string, args ...any) {
		ps = append(ps, problemAt(p, e.id, SeverityError, fmt.Sprintf(format, args...)))
	}
	notes := p.Annotations()
	e.id = string(notes["id"])
	for _, k := range slices.Sorted(maps.Keys(notes)) {
		v := string(notes[k])
		switch k {
		case "id":
		case "hold":
			e.hold = v
			if !slices.Contains(roles, v) {
				bad("@hold(%q): want one of %s", v, strings.Join(roles, ", "))
			}
		case "code":
			e.code = v
			if !codeForm.MatchString(v) {
				bad("@code(%q): want lower-case letters, digits and _", v)
			}
		case "reason":
			e.reason = v
		case "next":
			e.next = v
		default:
			bad("unknown annotation @%s; want id, hold, code, reason or next", k)
		}
	}
	switch {
	case e.id == "":
		bad("needs an @id(\"...\"): evidence refers to policies by it")
	case !idForm.MatchString(e.id) || len(e.id) > 120:
		bad("@id(%q): want lower-case words separated by . _ - /", e.id)
	case src == author && (strings.HasPrefix(e.id, "base/") || strings.HasPrefix(e.id, "grant/")):
		bad("@id(%q): base/ and grant/ are taken", e.id)
	}
	if !e.forbid {
		bad("is a permit; guardrails only forbid, a capability permits")
	}
	if e.hold != "" && e.code != "" {
		bad("has both @hold and @code; a hold has no code of its own")
	}
	return e, ps
}

func problemAt(p *cedar.Policy, id, severity, msg string) Problem {
	pos := p.Position()
	return Problem{File: pos.Filename, Line: pos.Line, Policy: id, Severity: severity, Message: msg}
}
