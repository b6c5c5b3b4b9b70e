package connector

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// MCP is a server of the Model Context Protocol over Streamable HTTP, at one of the
// connector's origins. What of its tools is not an operation of kind tool is neither
// shown nor called.
type MCP struct {
	Origin string `json:"origin,omitempty"` // name; may be left out when there is one
	Path   string `json:"path"`
	// Server is what the server must call itself (serverInfo.name); anything, if it is
	// left out.
	Server string `json:"server,omitempty"`
}

// inArguments is where the arguments of a tool are, for checker.fields.
const inArguments BodyType = "arguments"

// toolForm is what a tool may be called here. Servers may use other names; such a tool
// cannot be declared, so that no two names look alike.
var toolForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$`)

// SameTool reports whether a reader could take one name for the other: they differ
// by case or separators at most.
func SameTool(a, b string) bool {
	plain := strings.NewReplacer("-", "", "_", "", ".", "")
	return strings.EqualFold(plain.Replace(a), plain.Replace(b))
}

func (c *checker) mcp() {
	m := c.spec.MCP
	declared := slices.ContainsFunc(c.spec.Operations, func(op Operation) bool { return op.Kind == KindTool })
	if m == nil {
		if declared {
			c.bad("mcp", "operations are tools: say where the server of tools is")
		}
		return
	}
	if !declared {
		c.bad("mcp", "no operation is of kind: tool, so nothing could be called there")
	}
	c.originName(m.Origin, "mcp.origin")
	if t, err := parseTemplate(m.Path); err != nil || len(templateParams(t)) > 0 {
		c.bad("mcp.path", "want a plain path")
	}
	if len(m.Server) > 100 || strings.ContainsFunc(m.Server, func(r rune) bool { return r < ' ' || r > '~' }) {
		c.bad("mcp.server", "want at most 100 printable ASCII characters")
	}
}

// tool checks an operation of kind tool.
func (c *checker) tool(op *Operation, at string) {
	if op.Origin+op.Method+op.Path != "" || op.Query != nil || op.Body != nil || op.ReadBack != nil {
		c.bad(at, "a tool has neither origin, method, path, query, body nor readBack")
	}
	if !toolForm.MatchString(op.Tool) {
		c.bad(at+".tool", "want the name of a tool: letters, digits, and _ . - between them")
	}
	c.fields(op.Arguments, inArguments, at+".arguments", map[string]bool{})
	for name, f := range op.Arguments {
		if f.Param == "" && f.Const == nil {
			c.bad(at+".arguments."+name, "want param or const: every argument is decided")
		}
	}
}

// atTools reports whether an origin, by name, is that of the MCP server.
func (c *checker) atTools(origin string) bool {
	m := c.spec.MCP
	return m != nil && c.spec.originName(m.Origin) == c.spec.originName(origin)
}

// toolsAt reports whether a path could be that of the MCP server.
func (t *target) toolsAt(parts []string) bool {
	m := t.spec.MCP
	if m == nil || t.spec.originName(m.Origin) != t.origin.Name {
		return false
	}
	path, err := parseTemplate(m.Path)
	return err != nil || resembles(path, parts)
}

// ToolServer is where the tools of a connector are, in one stage.
type ToolServer struct {
	URL    string
	Origin Origin
	Server string   // what it must call itself, or ""
	Tools  []string // declared, sorted
	Takes  []Take   // what requests to it may be sent with
}

// Tools finds the server of a connector's tools; false if it has none in the stage.
func (s *Set) Tools(stage action.Stage, name string) (ToolServer, bool) {
	spec := s.specs[name]
	if spec == nil || spec.MCP == nil {
		return ToolServer{}, false
	}
	for _, o := range spec.Stages[stage].Origins {
		if o.Name != spec.originName(spec.MCP.Origin) {
			continue
		}
		out := ToolServer{URL: o.URL + spec.MCP.Path, Origin: o, Server: spec.MCP.Server, Takes: s.origins[stage][o.URL].takes(string(action.MCP) + ".list")}
		for _, op := range spec.Operations {
			if op.Kind == KindTool {
				out.Tools = append(out.Tools, op.Tool)
			}
		}
		slices.Sort(out.Tools)
		return out, true
	}
	return ToolServer{}, false
}

// HasTool reports whether a tool has the operation.
func (s *Spec) HasTool(operation string) bool {
	return slices.ContainsFunc(s.Operations, func(op Operation) bool { return op.Kind == KindTool && op.Name == operation })
}

// ToolOperation is the operation of a connector's tool.
func (s *Spec) ToolOperation(tool string) (*Operation, bool) {
	i := slices.IndexFunc(s.Operations, func(op Operation) bool { return op.Kind == KindTool && op.Tool == tool })
	if i < 0 {
		return nil, false
	}
	return &s.Operations[i], true
}

// RecognizeTool says what a call of a declared tool means. arguments are canonical
// JSON. What does not match is a Match that is not Matched, with its code.
func (s *Set) RecognizeTool(name, tool string, arguments []byte) (Match, error) {
	spec := s.specs[name]
	if spec == nil {
		return Match{}, fmt.Errorf("there is no connector %s", name)
	}
	op, ok := spec.ToolOperation(tool)
	if !ok {
		return Match{}, fmt.Errorf("connector %s declares no tool %s", name, tool)
	}
	m := Match{Allowed: true, Connector: name, Operation: op.Name, Effect: op.Effect}
	t := taken{params: map[string]string{}}
	got, ref := readBody(Body{Type: BodyJSON}, "application/json", arguments)
	if ref == nil {
		op.values(got, arguments)
		ref = t.take(Fields{Fields: op.Arguments}, got)
	}
	if ref == nil {
		ref = spec.spell(t.params)
	}
	if ref != nil {
		m.Code, m.Why = ref.code, ref.why
		return m, nil
	}
	m.Matched, m.Params = true, t.params
	m.Labels = slices.Compact(slices.Sorted(slices.Values(op.Labels)))
	return m, nil
}

// values gives the arguments that may be any value their canonical text.
func (o *Operation) values(got map[string]value, arguments []byte) {
	var raw map[string]canon.Value
	if json.Unmarshal(arguments, &raw) != nil {
		return // a value without a type is refused
	}
	for name, f := range o.Arguments {
		if v, ok := raw[name]; ok && f.Type == TypeJSON {
			got[name] = value{text: string(v), typ: TypeJSON}
		}
	}
}
