package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/types"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// Grant is what one task may do: a capability with its parameters filled in.
// The zero value permits nothing.
type Grant struct {
	Tenant, Agent, Task string
	Capability          string // name; part of the policy ids
	Rules               []Rule
	// Reads are the applications whose recognised reads are covered.
	Reads []string
	// Computer lists the computer-surface operations that are covered, on the
	// applications of Rules and Reads and on the boundary itself.
	Computer []string
	// Inference covers calls to the model on the inference surface.
	Inference bool
	// Caps bound single operations of any surface, computer actions included.
	Caps map[string]int64
	// Databases are the credential sources to whose database a session may be
	// opened; what it may do there is up to the source's own roles.
	Databases []string
	// Hosts are the credential sources to whose host a session may be opened and
	// signed in; what it may do there is up to the certificate and the account.
	Hosts []string
	// ToolServers are the applications whose list of tools may be asked for.
	ToolServers []string
	// Labels take effect once the task carries the label.
	Labels []LabelRule
	// Control covers the boundary's own steps for the applications of Rules and
	// Reads: signing in and out.
	Control bool
}

// LabelRule holds what reaches at least Reach once the task carries Label, or
// denies it when Hold is empty.
type LabelRule struct {
	Label string
	Reach action.Effect
	Hold  string // role
}

// Rule covers one operation.
type Rule struct {
	Operation string
	App       string
	// Params are the parameters the operation may have. An action with a
	// parameter that is not named here, or lacking one that is not optional, is
	// outside.
	Params map[string]Constraint
	// Max is how often it may be allowed in the task; at least 1.
	Max int64
	// Hold is the role that must approve each use, or "".
	Hold string
}

// Constraint limits one parameter. The zero value allows only the empty string.
type Constraint struct {
	Any      bool
	Equals   string // when Any is false
	Optional bool   // it may be absent
}

// CompileGrant turns a grant into Cedar permits, and forbids for its holds.
// Values enter through the syntax tree, never as text. Ids are
// grant/<capability>/<n> in the order of Rules, then reads, computer,
// inference, control, databases, hosts, lists of tools; holds are grant/<capability>/hold/<n>, and what caps and
// labels forbid is grant/<capability>/limit/<n>.
func CompileGrant(g Grant) (*Set, error) {
	if g.Agent == "" || g.Task == "" || g.Capability == "" {
		return nil, errors.New("compile grant: agent, task and capability must be named")
	}
	c := compiler{g: g}
	for i, r := range g.Rules {
		if err := c.rule(r); err != nil {
			return nil, fmt.Errorf("compile grant %s: rule %d: %w", g.Capability, i, err)
		}
	}
	c.scopes()
	c.sessions(action.Database, c.g.Databases, "database.connect")
	c.sessions(action.SSH, c.g.Hosts, "ssh.connect", "ssh.sign")
	c.sessions(action.MCP, c.g.ToolServers, "mcp.list")
	if err := c.limits(); err != nil {
		return nil, fmt.Errorf("compile grant %s: %w", g.Capability, err)
	}
	entries := make([]*entry, 0, len(c.out))
	for _, e := range c.out {
		// The text form is what is shown, recorded and digested, so it is also
		// what is evaluated.
		var p cedar.Policy
		if err := p.UnmarshalCedar(e.policy.MarshalCedar()); err != nil {
			return nil, fmt.Errorf("compile grant %s: %s: %w", g.Capability, e.id, err)
		}
		e.policy = &p
		if err := checkTypes(e); err != nil {
			return nil, fmt.Errorf("compile grant %s: %s: %w", g.Capability, e.id, err)
		}
		entries = append(entries, e)
	}
	return newSet(entries)
}

type compiler struct {
	g    Grant
	n    int
	held int
	out  []*entry
}

func (c *compiler) permit() *ast.Policy {
	c.n++
	return c.annotate(ast.Permit(), fmt.Sprintf("grant/%s/%d", c.g.Capability, c.n))
}

func (c *compiler) annotate(p *ast.Policy, id string) *ast.Policy {
	return p.Annotate("id", types.String(id)).PrincipalEq(uid("Agent", c.g.Agent))
}

// add finishes a policy: it holds for this task of this tenant only.
func (c *compiler) add(p *ast.Policy, e entry) {
	same := ast.Context().Access("task").Equal(ast.String(c.g.Task)).
		And(ast.Context().Access("tenant").Equal(ast.String(c.g.Tenant)))
	e.policy = cedar.NewPolicyFromAST(p.When(same))
	c.out = append(c.out, &e)
}

func (c *compiler) rule(r Rule) error {
	switch {
	case !operationForm.MatchString(r.Operation):
		return fmt.Errorf("operation %q is not of the form app.thing.verb", r.Operation)
	case r.App == "":
		return fmt.Errorf("operation %s names no application", r.Operation)
	case r.Max < 1:
		return fmt.Errorf("operation %s: count is %d, want at least 1", r.Operation, r.Max)
	case r.Hold != "" && !slices.Contains(roles, r.Hold):
		return fmt.Errorf("operation %s: hold names role %q", r.Operation, r.Hold)
	}
	op, app := uid("Action", r.Operation), uid("App", r.App)
	names := make([]string, 0, len(r.Params))
	for name := range r.Params {
		names = append(names, name)
	}
	slices.Sort(names)
	var all, required []types.Value
	for _, n := range names {
		all = append(all, types.String(n))
		if !r.Params[n].Optional {
			required = append(required, types.String(n))
		}
	}
	p := c.permit()
	p.ActionEq(op).ResourceEq(app)
	p.When(ast.Context().Access("count").LessThan(ast.Long(r.Max)))
	present := ast.Context().Access("paramNames")
	switch {
	case len(all) == 0:
		p.When(present.IsEmpty())
	case len(required) == len(all):
		p.When(present.Equal(ast.Value(types.NewSet(all...))))
	default:
		p.When(ast.Value(types.NewSet(all...)).ContainsAll(present))
		if len(required) > 0 {
			p.When(present.ContainsAll(ast.Value(types.NewSet(required...))))
		}
	}
	for _, n := range names {
		k, name, params := r.Params[n], types.String(n), ast.Context().Access("params")
		equal := params.Access(name).Equal(ast.String(k.Equals))
		switch {
		case k.Any:
		case k.Optional:
			p.When(ast.IfThenElse(params.Has(name), equal, ast.True()))
		default:
			p.When(params.Has(name).And(equal))
		}
	}
	c.add(p, entry{id: annotation(p, "id")})
	if r.Hold != "" {
		c.held++
		id := fmt.Sprintf("grant/%s/hold/%d", c.g.Capability, c.held)
		h := c.annotate(ast.Forbid(), id).Annotate("hold", types.String(r.Hold)).ActionEq(op).ResourceEq(app)
		c.add(h, entry{
			id: id, forbid: true, hold: r.Hold,
			reason: "capability " + c.g.Capability + " asks a person to approve each " + r.Operation,
		})
	}
	return nil
}

// scopes adds what is covered by kind and not by operation.
func (c *compiler) scopes() {
	matched := ast.Not(ast.Context().Access("unmatched"))
	reads := slices.Compact(slices.Sorted(slices.Values(c.g.Reads)))
	for _, app := range reads {
		p := c.permit()
		p.ActionIn(uid("Action", "effect/"+string(action.Read))).ResourceEq(uid("App", app))
		p.When(ast.Context().Access("surface").Equal(ast.String(string(action.Egress))).And(matched))
		c.add(p, entry{id: annotation(p, "id")})
	}
	resources := []types.EntityUID{uid("Boundary", "self")}
	apps := slices.Clone(reads)
	for _, r := range c.g.Rules {
		apps = append(apps, r.App)
	}
	slices.Sort(apps)
	for _, app := range slices.Compact(apps) {
		resources = append(resources, uid("App", app))
	}
	harmless := ast.Not(ast.Action().In(ast.Value(uid("Action", "reach/"+string(action.Privileged)))))
	if len(c.g.Computer) > 0 {
		ops := make([]types.EntityUID, 0, len(c.g.Computer))
		for _, op := range slices.Compact(slices.Sorted(slices.Values(c.g.Computer))) {
			ops = append(ops, uid("Action", op))
		}
		for _, res := range resources {
			p := c.permit()
			p.ActionInSet(ops...).ResourceEq(res)
			p.When(ast.Context().Access("surface").Equal(ast.String(string(action.Computer))).And(harmless).And(matched))
			c.add(p, entry{id: annotation(p, "id")})
		}
	}
	if c.g.Inference {
		p := c.permit()
		p.ActionIn(uid("Action", "surface/"+string(action.Inference)))
		p.When(ast.Context().Access("pinned").And(harmless).And(matched))
		c.add(p, entry{id: annotation(p, "id")})
	}
	if c.g.Control {
		for _, res := range resources {
			p := c.permit()
			p.ActionIn(uid("Action", "surface/"+string(action.Control))).ResourceEq(res)
			p.When(ast.Context().Access("source").Equal(ast.String(SourceBoundary)).And(harmless).And(matched))
			c.add(p, entry{id: annotation(p, "id")})
		}
	}
}

// sessions of credential sources are reached by a few operations each, and so are
// lists of tools.
func (c *compiler) sessions(surface action.Surface, sources []string, operations ...string) {
	for _, name := range slices.Compact(slices.Sorted(slices.Values(sources))) {
		for _, op := range operations {
			p := c.permit()
			p.ActionEq(uid("Action", op)).ResourceEq(uid("App", name))
			p.When(ast.Context().Access("surface").Equal(ast.String(string(surface))).And(ast.Not(ast.Context().Access("unmatched"))))
			c.add(p, entry{id: annotation(p, "id")})
		}
	}
}

// limits adds what caps and labels forbid or hold.
func (c *compiler) limits() error {
	for i, op := range slices.Sorted(maps.Keys(c.g.Caps)) {
		if !operationForm.MatchString(op) || c.g.Caps[op] < 1 {
			return fmt.Errorf("cap on %q is %d, want at least 1", op, c.g.Caps[op])
		}
		p := c.annotate(ast.Forbid(), fmt.Sprintf("grant/%s/limit/%d", c.g.Capability, i+1))
		p.ActionEq(uid("Action", op)).When(ast.Context().Access("count").GreaterThanOrEqual(ast.Long(c.g.Caps[op])))
		c.add(p, entry{
			id: annotation(p, "id"), forbid: true, code: CodeCountSpent,
			reason: "capability " + c.g.Capability + " allows " + op + " no more often in one task",
			next:   "open another task of " + c.g.Capability,
		})
	}
	for i, l := range c.g.Labels {
		if _, err := action.ParseEffect(string(l.Reach)); err != nil || l.Label == "" || l.Hold != "" && !slices.Contains(roles, l.Hold) {
			return fmt.Errorf("label rule %d: want a label, an effect, and a role or none", i)
		}
		p := c.annotate(ast.Forbid(), fmt.Sprintf("grant/%s/limit/%d", c.g.Capability, len(c.g.Caps)+i+1))
		if l.Hold != "" {
			p.Annotate("hold", types.String(l.Hold))
		}
		p.ActionIn(uid("Action", "reach/"+string(l.Reach))).When(ast.Context().Access("labels").Contains(ast.String(l.Label)))
		c.add(p, entry{
			id: annotation(p, "id"), forbid: true, hold: l.Hold,
			reason: "capability " + c.g.Capability + " limits what follows " + l.Label,
		})
	}
	return nil
}

func annotation(p *ast.Policy, key types.AnnotationKey) string {
	for _, a := range p.Annotations {
		if a.Key == key {
			return string(a.Value)
		}
	}
	return ""
}

// capability is the name in the ids of a compiled grant.
func (s *Set) capability() string {
	if len(s.entries) == 0 {
		return "(empty)"
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(s.entries[0].id, "grant/"), "/")
	return name
}
