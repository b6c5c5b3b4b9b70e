package connector

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// ErrBody says that the body is not the one that the request's digest and size
// describe. The caller must not send the request.
var ErrBody = errors.New("body is not the one of the request")

// Match is what a request means.
type Match struct {
	// Allowed says that the origin belongs to a connector of the stage. Nothing
	// else of an origin that does not is set but Operation, Effect and Code.
	Allowed   bool
	Connector string
	// Matched says that Operation was recognised; otherwise it is
	// egress.unmatched, Effect is read or write, and Code and Why say why.
	Matched   bool
	Operation string
	Effect    action.Effect
	Params    map[string]string
	Labels    []string
	Code, Why string
	ReadBack  *Plan  // nil when the operation has none
	Secrets   []Slot // where door 2 puts secrets in, in the order of the body
	Takes     []Take // the credentials that door 2 may put into the header
	Override  string // the method that a field declared for it asks for, as "_method" does
	Local     bool   // the origin may resolve to a loopback or private address
	CA        string // PEM of the only trusted roots, or ""
}

// Plan is a read-back, ready to be sent.
type Plan struct {
	Origin  string
	Path    string
	Pointer string
	Equals  *string
	Changed bool
	Newer   bool
}

// Unmatched is the operation of a request that nothing describes.
const Unmatched = string(action.Egress) + ".unmatched"

// Set is the connectors of one tenant, checked and ready. It does not change.
type Set struct {
	specs   map[string]*Spec
	origins map[action.Stage]map[string]*target
}

// target is one origin of one connector.
type target struct {
	connector string
	spec      *Spec
	origin    Origin
	ops       []*compiled
	urls      map[string]string // origin name to URL, in the stage
}

type compiled struct {
	Operation
	path []segment
	back []segment
}

// NewSet checks the connectors, each and together. The error joins everything
// that is wrong.
func NewSet(specs map[string]*Spec) (*Set, error) {
	var errs []error
	s := &Set{specs: specs, origins: map[action.Stage]map[string]*target{}}
	owner := map[string]string{} // origin to connector/stage: no origin twice, not even in two stages
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		spec, bad := specs[name], false
		spec.Validate(name, func(path, problem string) {
			bad = true
			errs = append(errs, fmt.Errorf("connector %s: %s: %s", name, path, problem))
		})
		if bad {
			continue
		}
		for stage, st := range spec.Stages {
			for _, o := range st.Origins {
				here := name + "/" + string(stage)
				if other, dup := owner[o.URL]; dup {
					errs = append(errs, fmt.Errorf("connector %s: origin %s is also claimed by %s", name, o.URL, other))
				}
				owner[o.URL] = here
				s.add(name, spec, stage, o)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Set) add(name string, spec *Spec, stage action.Stage, o Origin) {
	t := &target{connector: name, spec: spec, origin: o, urls: map[string]string{}}
	origins := spec.Stages[stage].Origins
	for _, each := range origins {
		t.urls[each.Name] = each.URL
	}
	for _, op := range spec.Operations {
		if op.Kind == KindTool {
			continue // no request is one
		}
		if op.Origin == o.Name || op.Origin == "" && len(origins) == 1 {
			c := &compiled{Operation: op}
			c.path, _ = parseTemplate(op.Path) // Validate refused what does not parse
			if op.ReadBack != nil {
				c.back, _ = parseTemplate(op.ReadBack.Path)
			}
			t.ops = append(t.ops, c)
		}
	}
	if s.origins[stage] == nil {
		s.origins[stage] = map[string]*target{}
	}
	s.origins[stage][o.URL] = t
}

// Owner is the connector that an origin belongs to in a stage.
func (s *Set) Owner(stage action.Stage, origin string) (string, bool) {
	t, ok := s.origins[stage][origin]
	if !ok {
		return "", false
	}
	return t.connector, true
}

// Names lists the connectors, sorted.
func (s *Set) Names() []string { return slices.Sorted(maps.Keys(s.specs)) }

// Spec is a connector by name, or nil.
func (s *Set) Spec(name string) *Spec { return s.specs[name] }

// Recognize recovers the operation. The error is ErrBody or nil: a request that
// means nothing is a Match that is not Matched.
func (s *Set) Recognize(stage action.Stage, r action.Request, body []byte) (Match, error) {
	if int64(len(body)) != r.BodySize || r.BodyDigest != "" && canon.Digest(body) != r.BodyDigest ||
		r.BodyDigest == "" && len(body) > 0 {
		return Match{}, ErrBody
	}
	t, ok := s.origins[stage][r.Origin]
	if !ok {
		return Match{Operation: Unmatched, Effect: unmatchedEffect(r), Code: "ungoverned_origin",
			Why: "the origin belongs to no connector of this stage"}, nil
	}
	m := Match{Allowed: true, Connector: t.connector, Local: t.origin.Local, CA: t.origin.CA}
	t.recognize(&m, r, body)
	if m.Matched {
		m.Takes = t.takes(m.Operation)
	}
	return m, nil
}

// unmatchedEffect: only a plain GET or HEAD without a body may count as a read.
func unmatchedEffect(r action.Request) action.Effect {
	if (r.Method == "GET" || r.Method == "HEAD") && r.BodySize == 0 && r.Destination != "websocket" {
		return action.Read
	}
	return action.Write
}

func (t *target) recognize(m *Match, r action.Request, body []byte) {
	m.Operation, m.Effect = Unmatched, unmatchedEffect(r)
	parts, err := splitPath(r.Path)
	if err != nil {
		m.Code, m.Why = "ambiguous_path", "the path can be read in two ways"
		// An unreadable path may be any operation's.
		m.Effect = action.Write
		return
	}
	if t.toolsAt(parts) {
		m.Code, m.Why = "mcp_endpoint", "tools are called at the door for them"
		m.Effect = action.Write
		return
	}
	kind := KindRequest
	if r.Destination == "websocket" {
		kind = KindWebSocket
	}
	near := t.byPath(parts)
	var matched []Match
	var hit *compiled
	m.Code, m.Why = "no_operation", "no operation has this method and path"
	for _, op := range near {
		// What comes close to a write is not a harmless read.
		// A GraphQL endpoint may execute what it is sent by any method.
		if op.Effect.Changes() && (op.Method == r.Method || r.Method == "HEAD") || op.Body != nil && op.Body.Type == BodyGraphQL {
			m.Effect = action.Write
		}
		try, ref := op.match(*m, kind, r, parts, body)
		if ref == nil {
			ref = t.spec.spell(try.Params)
		}
		if ref == nil {
			matched, hit = append(matched, try), op
		} else if ref.code != "no_operation" {
			m.Code, m.Why = ref.code, ref.why
		}
	}
	switch {
	case len(matched) > 1:
		m.Effect = action.Write
		m.Code, m.Why = "ambiguous", "more than one operation matches"
	case t.resembling(m, r, parts, near, hit):
		m.Code, m.Why = "similar_path", "the path differs from an operation's by its case or by a slash at its end"
	case hit == nil && !slices.ContainsFunc(near, func(op *compiled) bool { return op.hasMethod(r) }):
		t.byDefault(m, r)
	case hit == nil: // "iam.user.read" with a field more is not "iam.read": its labels and rules would be lost
	default:
		*m = matched[0]
		t.plan(m, hit)
	}
}

// resembling keeps apart what servers that do not mind case or a slash at the
// end would not: a path that is no operation's of this method, and not a mere
// read since it is nearly one's; and a path whose parameter is nearly the word of
// a narrower operation. A second spelling that is in use is declared as another
// request of the operation.
func (t *target) resembling(m *Match, r action.Request, parts []string, near []*compiled, hit *compiled) bool {
	if hit == nil && slices.ContainsFunc(near, func(op *compiled) bool { return op.hasMethod(r) }) {
		return false
	}
	found := false
	for _, op := range t.ops {
		if !op.hasMethod(r) || !resembles(op.path, parts) || hit != nil && relate(withoutSlash(hit.path), withoutSlash(op.path)) != wider {
			continue
		}
		if _, exact := matchPath(op.path, parts); exact {
			continue
		}
		found = true
		if op.Effect.Changes() || hit != nil && hit.Effect.Changes() || op.Body != nil && op.Body.Type == BodyGraphQL {
			m.Effect = action.Write
		}
	}
	return found
}

// byPath are the operations whose path matches, without those for which a
// narrower path of the same method matches too: "/users/new" is never
// "/users/{user}", whatever the bodies say.
func (t *target) byPath(parts []string) []*compiled {
	var near []*compiled
	for _, op := range t.ops {
		if _, ok := matchPath(op.path, parts); ok {
			near = append(near, op)
		}
	}
	return slices.DeleteFunc(near, func(a *compiled) bool {
		return slices.ContainsFunc(t.ops, func(b *compiled) bool {
			_, ok := matchPath(b.path, parts)
			return ok && a.Method == b.Method && relate(a.path, b.path) == wider
		})
	})
}

// hasMethod reports whether the operation is had by r's method; HEAD is GET without
// the answer.
func (c *compiled) hasMethod(r action.Request) bool {
	return c.Method == r.Method || r.Method == "HEAD" && c.Method == "GET"
}

// match tries one operation whose path matches.
func (c *compiled) match(m Match, kind Kind, r action.Request, parts []string, body []byte) (Match, *refusal) {
	opKind := c.Kind
	if opKind == "" {
		opKind = KindRequest
	}
	// HEAD is GET without the answer, so only for what GET merely reads.
	sameMethod := c.Method == r.Method || r.Method == "HEAD" && c.Method == "GET" && !c.Effect.Changes()
	if !sameMethod || opKind != kind {
		return m, refuse("no_operation", "no operation has this method and path")
	}
	t := taken{}
	t.params, _ = matchPath(c.path, parts)
	ref := c.fields(&t, r, body)
	if ref != nil {
		return m, ref
	}
	m.Matched, m.Operation, m.Effect, m.Params, m.Override = true, c.Name, c.Effect, t.params, t.override
	m.Labels = slices.Compact(slices.Sorted(slices.Values(c.Labels)))
	m.Code, m.Why = "", ""
	if len(t.secrets) > 0 {
		if m.Secrets, ref = c.Body.slots(t.secrets, body); ref != nil {
			return m, ref
		}
	}
	return m, nil
}

// fields reads query and body as the operation says.
func (c *compiled) fields(t *taken, r action.Request, body []byte) *refusal {
	b := Body{Type: BodyNone}
	if c.Body != nil {
		b = *c.Body
	}
	if b.Type != BodyGraphQL || r.Method != "GET" {
		query, ref := readPairs(r.Query)
		if ref != nil {
			return ref
		}
		if ref := t.take(queryOf(&c.Operation), query); ref != nil {
			return ref
		}
	}
	var fields map[string]value
	var ref *refusal
	if b.Type == BodyGraphQL {
		fields, ref = readGraphQL(*b.GraphQL, r, body)
	} else {
		fields, ref = readBody(b, r.BodyType, body)
	}
	if ref != nil {
		return ref
	}
	return t.take(Fields{b.Fields, b.AllowExtra}, fields)
}

// plan fills in the read-back. A parameter that no path can carry leaves the
// operation without one, so that its result is reported as unknown.
func (t *target) plan(m *Match, op *compiled) {
	rb := op.ReadBack
	if rb == nil {
		return
	}
	path, ok := expand(op.back, m.Params)
	if !ok {
		return
	}
	origin := t.origin.URL
	if rb.Origin != "" {
		origin = t.urls[rb.Origin]
	}
	m.ReadBack = &Plan{Origin: origin, Path: path, Pointer: rb.Pointer, Equals: rb.Equals, Changed: rb.Changed, Newer: rb.Newer}
}

// byDefault is for what no operation describes: preflights, assets, reads.
func (t *target) byDefault(m *Match, r action.Request) {
	known := func(what string) {
		m.Matched, m.Operation, m.Effect = true, t.connector+"."+what, action.Read
		m.Code, m.Why = "", ""
	}
	switch {
	case r.Method == "OPTIONS" && r.BodySize == 0 && r.Destination != "websocket":
		known("preflight")
	case m.Effect != action.Read:
	case t.asset(r):
		known("asset")
	case t.spec.Reads == ReadsAllow:
		known("read")
	}
}

func (t *target) asset(r action.Request) bool {
	return slices.ContainsFunc(t.spec.Assets, func(prefix string) bool {
		return len(r.Path) > len(prefix) && r.Path[:len(prefix)] == prefix
	})
}
