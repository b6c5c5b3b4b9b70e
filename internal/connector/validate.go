package connector

import (
	"crypto/x509"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
)

var (
	operationForm = regexp.MustCompile(`^[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)+$`)
	nameForm      = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
	labelForm     = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	methods       = []string{"GET", "POST", "PUT", "PATCH", "DELETE"}
	// reserved are the operations that Recognize makes by itself.
	reserved = []string{"read", "asset", "preflight", "unmatched", "malformed"}
)

// checker reports what is wrong with one specification.
type checker struct {
	spec   *Spec
	name   string
	report func(path, problem string)
	names  map[string]bool // of origins, in every stage
}

func (c *checker) bad(path, format string, args ...any) { c.report(path, fmt.Sprintf(format, args...)) }

// Validate reports everything that is wrong, by field path. name is the name
// of the resource.
func (s *Spec) Validate(name string, report func(path, problem string)) {
	c := &checker{spec: s, name: name, report: report, names: map[string]bool{}}
	if !nameForm.MatchString(name) || slices.Contains(surfaces, action.Surface(name)) {
		c.bad("", "connector name %q: want lower-case letters, digits and hyphens, and not the name of a surface", name)
	}
	c.stages()
	c.signIn()
	for i, ck := range s.BrokeredCookies {
		if ck == "" || strings.ContainsAny(ck, " ;,=\t") {
			c.bad(fmt.Sprintf("brokeredCookies[%d]", i), "want a cookie name or *")
		}
	}
	for i, a := range s.Assets {
		parts, err := splitPath(a)
		if err != nil || len(parts) < 2 || parts[len(parts)-1] != "" {
			c.bad(fmt.Sprintf("assets[%d]", i), "want a plain path prefix that begins and ends with /")
		}
	}
	c.spellings()
	c.mcp()
	c.takes()
	c.audit()
	first := map[string]*Operation{}
	for i := range s.Operations {
		op, at := &s.Operations[i], fmt.Sprintf("operations[%d]", i)
		// One effect may be had by a form and by an API: one name for both, so
		// that no rule overlooks one of them.
		if o := first[op.Name]; o == nil {
			first[op.Name] = op
		} else if o.Effect != op.Effect || !slices.Equal(paramsOf(o), paramsOf(op)) {
			c.bad(at+".name", "%s is declared before with another effect or other parameters", op.Name)
		}
		c.operation(op, at)
		for j := range i {
			c.overlap(&s.Operations[j], op, at)
		}
	}
}

func paramsOf(o *Operation) []string {
	all, _ := o.Params()
	return all
}

var surfaces = []action.Surface{action.Computer, action.Egress, action.Inference, action.Database, action.SSH, action.MCP, action.Control}

func (c *checker) stages() {
	if len(c.spec.Stages) == 0 {
		c.bad("stages", "want at least one stage")
	}
	var first []string
	for _, stage := range slices.Sorted(maps.Keys(c.spec.Stages)) {
		at := "stages." + string(stage)
		if _, err := action.ParseStage(string(stage)); err != nil {
			c.bad(at, "%v", err)
		}
		st := c.spec.Stages[stage]
		if len(st.Origins) == 0 {
			c.bad(at+".origins", "want at least one origin")
		}
		names := map[string]bool{}
		for i, o := range st.Origins {
			c.origin(o, fmt.Sprintf("%s.origins[%d]", at, i))
			if names[o.Name] {
				c.bad(fmt.Sprintf("%s.origins[%d].name", at, i), "origin %q is named twice", o.Name)
			}
			names[o.Name] = true
		}
		list := slices.Sorted(maps.Keys(names))
		if first == nil {
			first, c.names = list, names
		} else if !slices.Equal(first, list) {
			c.bad(at+".origins", "every stage must have the origins %s", strings.Join(first, ", "))
		}
	}
}

func (c *checker) origin(o Origin, at string) {
	if !nameForm.MatchString(o.Name) {
		c.bad(at+".name", "want lower-case letters, digits and hyphens")
	}
	if o.URL == "" || o.URL != plainOrigin(o.URL) {
		c.bad(at+".url", "want https://host[:port] in lower case, without default port, path or user")
	} else if strings.HasPrefix(o.URL, "http:") && !o.Local {
		c.bad(at+".url", "plain http is only for a local origin")
	}
	if o.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(o.CA)) {
		c.bad(at+".ca", "want PEM certificates")
	}
	if o.CA != "" && o.CAFile != "" {
		c.bad(at+".caFile", "give ca or caFile, not both")
	}
}

var hostForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)

// plainOrigin is the one spelling of an origin, or "".
func plainOrigin(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.User != nil {
		return ""
	}
	host := u.Hostname()
	if !hostForm.MatchString(host) && !strings.Contains(host, ":") {
		return ""
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	out := u.Scheme + "://" + host
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != p || u.Scheme == "https" && n == 443 || u.Scheme == "http" && n == 80 {
			return ""
		}
		out += ":" + p
	}
	return out
}

func (c *checker) originName(name, at string) {
	switch {
	case name == "" && len(c.names) > 1:
		c.bad(at, "the connector has several origins: name one")
	case name != "" && !c.names[name]:
		c.bad(at, "there is no origin %q", name)
	}
}

func (c *checker) signIn() {
	s := c.spec.SignIn
	if s == nil {
		return
	}
	c.originName(s.Origin, "signIn.origin")
	path := func(at, p string) {
		if _, err := splitPath(p); err != nil {
			c.bad("signIn."+at, "want a plain path")
		}
	}
	path("login.path", s.Login.Path)
	path("logout.path", s.Logout.Path)
	path("confirm.path", s.Confirm.Path)
	fields := map[string]string{"login.username": s.Login.Username, "login.password": s.Login.Password}
	if c := s.Login.TOTP; c != nil {
		if fields["login.totp.field"] = c.Field; c.Path != "" {
			path("login.totp.path", c.Path)
		}
	}
	for at, f := range fields {
		if f == "" {
			c.bad("signIn."+at, "want the name of a form field")
		}
	}
	if s.Login.Success != 0 && (s.Login.Success < 200 || s.Login.Success > 399) {
		c.bad("signIn.login.success", "want an HTTP status from 200 to 399")
	}
	if s.Confirm.Status < 200 || s.Confirm.Status > 499 {
		c.bad("signIn.confirm.status", "want an HTTP status from 200 to 499")
	}
	if s.Sessions == nil {
		return
	}
	path("sessions.list", s.Sessions.List)
	t, err := parseTemplate(s.Sessions.Revoke)
	if err != nil || !slices.Equal(templateParams(t), []string{"id"}) {
		c.bad("signIn.sessions.revoke", "want a path with {id} in it")
	}
}

func templateParams(t []segment) []string {
	var names []string
	for _, s := range t {
		if s.param != "" {
			names = append(names, s.param)
		}
	}
	return names
}

func (c *checker) operation(op *Operation, at string) {
	rest, ok := strings.CutPrefix(op.Name, c.name+".")
	switch {
	case !ok || !operationForm.MatchString(op.Name):
		c.bad(at+".name", "want %s.thing.verb in lower case", c.name)
	case slices.Contains(reserved, rest):
		c.bad(at+".name", "%s is made by the boundary itself", op.Name)
	}
	if _, err := action.ParseEffect(string(op.Effect)); err != nil || op.Effect == action.Observe {
		c.bad(at+".effect", "want read, write, privileged or irreversible")
	}
	if op.Reversible && op.Effect == action.Irreversible {
		c.bad(at+".reversible", "an irreversible operation cannot be reversible")
	}
	for i, l := range op.Labels {
		if !labelForm.MatchString(l) {
			c.bad(fmt.Sprintf("%s.labels[%d]", at, i), "want lower-case letters, digits and hyphens")
		}
	}
	if op.Kind == KindTool {
		c.tool(op, at)
		return
	}
	if op.Tool != "" || op.Arguments != nil {
		c.bad(at, "tool and arguments are of kind: tool")
	}
	c.originName(op.Origin, at+".origin")
	if !slices.Contains(methods, op.Method) {
		c.bad(at+".method", "want one of %s", strings.Join(methods, ", "))
	}
	t, err := parseTemplate(op.Path)
	if err != nil {
		c.bad(at+".path", "%v", err)
	}
	params := map[string]bool{}
	for _, p := range templateParams(t) {
		params[p] = true
	}
	if op.Kind == KindWebSocket && (op.Method != "GET" || op.Body != nil) {
		c.bad(at+".kind", "a websocket handshake is a GET without a body")
	}
	if op.Query != nil {
		c.fields(op.Query.Fields, BodyForm, at+".query.fields", params)
		for name, f := range op.Query.Fields {
			if f.Secret != "" {
				c.bad(at+".query.fields."+name+".secret", "a secret belongs into a body: addresses are logged on their way")
			}
		}
	}
	c.body(op, at+".body", params)
	c.readBack(op, at+".readBack", params)
}

func (c *checker) readBack(op *Operation, at string, params map[string]bool) {
	rb := op.ReadBack
	if rb == nil {
		return
	}
	if rb.Origin != "" {
		c.originName(rb.Origin, at+".origin")
	}
	t, err := parseTemplate(rb.Path)
	if err != nil {
		c.bad(at+".path", "%v", err)
	}
	for _, p := range templateParams(t) {
		if !params[p] {
			c.bad(at+".path", "the operation has no parameter {%s}", p)
		}
	}
	if rb.Pointer != "" && !strings.HasPrefix(rb.Pointer, "/") {
		c.bad(at+".pointer", "want a JSON pointer (RFC 6901)")
	}
	n := 0
	for _, set := range []bool{rb.Equals != nil, rb.Changed, rb.Newer} {
		if set {
			n++
		}
	}
	if n != 1 {
		c.bad(at, "want exactly one of equals, changed, newer")
	}
}

// overlap reports two operations that one request could match. A path that is
// narrower than the other takes precedence and is no overlap.
func (c *checker) overlap(a, b *Operation, at string) {
	if a.Kind == KindTool || b.Kind == KindTool {
		if a.Kind == b.Kind && SameTool(a.Tool, b.Tool) {
			c.bad(at+".tool", "%s and %s are of one tool", a.Name, b.Name)
		}
		return
	}
	if a.Method != b.Method || a.Origin != b.Origin || (a.Kind == KindWebSocket) != (b.Kind == KindWebSocket) {
		return
	}
	ta, errA := parseTemplate(a.Path)
	tb, errB := parseTemplate(b.Path)
	if errA != nil || errB != nil {
		return
	}
	switch relate(ta, tb) {
	case equal, crossing:
	default:
		return
	}
	if fieldsApart(queryOf(a), queryOf(b)) || bodiesApart(a.Body, b.Body) {
		return
	}
	c.bad(at, "a request could be both %s and %s: tell them apart by path or by a const field", a.Name, b.Name)
}

func queryOf(o *Operation) Fields {
	if o.Query == nil {
		return Fields{}
	}
	return *o.Query
}

func bodiesApart(a, b *Body) bool {
	if a == nil {
		a = &Body{Type: BodyNone}
	}
	if b == nil {
		b = &Body{Type: BodyNone}
	}
	if g, h := a.GraphQL, b.GraphQL; g != nil && h != nil {
		shared := slices.ContainsFunc(g.Root, func(f string) bool { return slices.Contains(h.Root, f) })
		if g.Type != h.Type || !shared || g.Name != "" && h.Name != "" && g.Name != h.Name {
			return true
		}
		if len(g.Root) != len(h.Root) {
			return false // the arguments have other names
		}
	}
	types := []BodyType{a.Type, b.Type}
	if slices.Contains(types, BodyGraphQL) && slices.Contains(types, BodyJSON) {
		return false // a GraphQL request is a JSON object too
	}
	return a.Type != b.Type || a.Media != b.Media || fieldsApart(Fields{a.Fields, a.AllowExtra}, Fields{b.Fields, b.AllowExtra})
}

// fieldsApart: one needs what the other refuses.
func fieldsApart(a, b Fields) bool {
	one := func(a, b Fields) bool {
		for name, f := range a.Fields {
			g, ok := b.Fields[name]
			switch {
			case f.Optional:
			case !ok && !b.AllowExtra:
				return true
			case ok && f.Const != nil && g.Const != nil && *f.Const != *g.Const:
				return true
			}
		}
		return false
	}
	return one(a, b) || one(b, a)
}

// Params lists the parameters that an operation can have, sorted; Required
// those that it always has.
func (o *Operation) Params() (all, required []string) {
	groups := []map[string]Field{queryOf(o).Fields, o.Arguments}
	if o.Kind != KindTool {
		t, err := parseTemplate(o.Path)
		if err != nil {
			return nil, nil
		}
		all = templateParams(t)
		required = slices.Clone(all)
	}
	if o.Body != nil {
		groups = append(groups, o.Body.Fields)
	}
	for _, fs := range groups {
		for _, f := range fs {
			if f.Param == "" {
				continue
			}
			all = append(all, f.params()...)
			if !f.Optional {
				required = append(required, f.params()...)
			}
		}
	}
	slices.Sort(all)
	slices.Sort(required)
	return all, required
}
