package resource

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/capability"
	"github.com/sallyport-dev/sallyport/internal/connector"
)

// Validate checks resources against each other: all must be the whole of what
// will be in force. The error is Errors. A reference never crosses tenants.
func Validate(all []Resource) error {
	v := &validator{all: all, spiffeIDs: map[string]string{}}
	v.unique()
	for i := range all {
		v.one(&all[i])
	}
	v.origins()
	return v.errs.orNil()
}

type validator struct {
	all       []Resource
	errs      Errors
	spiffeIDs map[string]string // of agents: the agent's name, by the ID
}

func (v *validator) bad(r *Resource, path, format string, args ...any) {
	v.errs = append(v.errs, r.problem(path, format, args...))
}

// unique: no name twice, and outside a demonstration no two persons behind one
// account of the machine: one of them could approve the other's change.
func (v *validator) unique() {
	type key struct{ tenant, kind, name string }
	seen, users := map[key]*Resource{}, map[key]string{}
	keys := map[key]string{}
	domains := map[string]string{}
	for i := range v.all {
		r := &v.all[i]
		k := key{r.Metadata.Tenant, r.Kind, r.Metadata.Name}
		if first := seen[k]; first != nil {
			v.bad(r, "metadata.name", "%s %s is declared before, at %s:%d", r.Kind, r.Metadata.Name, first.File, first.Line)
		}
		seen[k] = r
		if r.Kind != KindTenant && Find(v.all, r.Metadata.Tenant, KindTenant, r.Metadata.Tenant) == nil {
			v.bad(r, "metadata.tenant", "there is no tenant %q", r.Metadata.Tenant)
		}
		if t, ok := r.Spec.(*TenantSpec); ok {
			if other, dup := domains[t.TrustDomain]; dup && other != r.Metadata.Name {
				v.bad(r, "spec.trustDomain", "is the trust domain of tenant %s", other)
			}
			domains[t.TrustDomain] = r.Metadata.Name
		}
		p, ok := r.Spec.(*PersonSpec)
		if !ok {
			continue
		}
		u := key{r.Metadata.Tenant, "user", p.UnixUser}
		if other, dup := users[u]; dup && p.UnixUser != "" && other != r.Metadata.Name && !v.demo(r.Metadata.Tenant) {
			v.bad(r, "spec.unixUser", "is the account of %s already: one account is one person", other)
		}
		users[u] = r.Metadata.Name
		for j, text := range p.SSHKeys {
			k := key{r.Metadata.Tenant, "key", keyMaterial(text)}
			if other, dup := keys[k]; dup && other != r.Metadata.Name {
				v.bad(r, fmt.Sprintf("spec.sshKeys[%d]", j), "is the key of %s already", other)
			}
			keys[k] = r.Metadata.Name
		}
		for j, text := range p.passkeyLines() {
			k := key{r.Metadata.Tenant, "key", keyMaterial(text)}
			if other, dup := keys[k]; dup && other != r.Metadata.Name {
				v.bad(r, fmt.Sprintf("spec.passkeys[%d]", j), "is the key of %s already", other)
			}
			keys[k] = r.Metadata.Name
		}
	}
}

func (v *validator) demo(tenant string) bool {
	t, ok := Of[TenantSpec](v.all, tenant, tenant)
	return ok && t.Demo
}

// refer checks one name.
func (v *validator) refer(r *Resource, path, kind, name string) bool {
	if Find(v.all, r.Metadata.Tenant, kind, name) != nil {
		return true
	}
	v.bad(r, path, "there is no %s %q in tenant %s", kind, name, r.Metadata.Tenant)
	return false
}

func (v *validator) referAll(r *Resource, path, kind string, names []string) {
	for i, n := range names {
		v.refer(r, fmt.Sprintf("%s[%d]", path, i), kind, n)
	}
}

// person checks that somebody exists and has a role.
func (v *validator) person(r *Resource, path, name string, role Role) {
	if !v.refer(r, path, KindPerson, name) {
		return
	}
	if p, _ := Of[PersonSpec](v.all, r.Metadata.Tenant, name); !slices.Contains(p.Roles, role) {
		v.bad(r, path, "%s does not have the role %s", name, role)
	}
}

var errUnresolved = errors.New("is a path: the client puts the content in its place before it sends anything")

func (v *validator) one(r *Resource) {
	// Nothing here opens a path. A spec whose references are all resolved asks
	// for none.
	if s, ok := r.Spec.(resolver); ok {
		if err := s.Resolve(func(string) ([]byte, error) { return nil, errUnresolved }); err != nil {
			v.bad(r, "spec", "%v", err)
		}
	}
	switch s := r.Spec.(type) {
	case *TenantSpec:
		if s.Retention != "" {
			v.refer(r, "spec.retention", KindRetention, s.Retention)
		}
		v.referAll(r, "spec.witnesses", KindWitness, s.Witnesses)
		for i, p := range s.Reviewers {
			v.person(r, fmt.Sprintf("spec.reviewers[%d]", i), p, RoleAuditor)
		}
		v.signals(r, s)
		v.notify(r, s)
	case *PersonSpec:
		v.subjects(r, s)
	case *CredentialSourceSpec:
		v.declaredRoles(r, s.DeclaredRoles)
		if s.Connector != "" && v.refer(r, "spec.connector", KindConnector, s.Connector) {
			c, _ := Of[connector.Spec](v.all, r.Metadata.Tenant, s.Connector)
			if s.SignsIn() && c.SignIn == nil {
				v.bad(r, "spec.connector", "connector %s says nothing about signing in", s.Connector)
			}
			if s.LDAP != nil && c.SignIn != nil && c.SignIn.Sessions == nil {
				v.bad(r, "spec.connector", "connector %s does not say how to find an account's sessions: signIn.sessions", s.Connector)
			}
			if other := v.rotatesToo(r, s); other != "" {
				v.bad(r, "spec.secret.sealed", "credential source %s rotates the same secret: each service account has one of its own", other)
			}
			if asks := c.SignIn != nil && c.SignIn.Login.TOTP != nil; s.SignsIn() && asks != (s.TOTP != nil) {
				if asks {
					v.bad(r, "spec.totp", "connector %s asks for a one-time code at the sign-in: give totp: {sealed: NAME}, of an account that stays", s.Connector)
				} else {
					v.bad(r, "spec.totp", "connector %s does not say where a one-time code goes: signIn.login.totp", s.Connector)
				}
			}
			if n := len(c.SecretUse(r.Metadata.Name).Origins); s.Type == SourceField && n != 1 {
				v.bad(r, "spec.connector", "operations of connector %s take secret %s at %d origins, want one", s.Connector, r.Metadata.Name, n)
			}
			reads := c.Audit != nil && c.Audit.Credential.Source == r.Metadata.Name
			if n := len(takenAt(c, r.Metadata.Name)); s.PutIn() && n != 1 && !reads {
				v.bad(r, "spec.connector", "requests to %d origins of connector %s take %s, want one (takes), or that its audit log is read with it (audit.credential)", n, s.Connector, r.Metadata.Name)
			}
		}
	case *connector.Spec:
		v.takes(r, s)
		v.audit(r, s)
		v.fields(r, s)
		v.declaredRoles(r, s.DeclaredRoles)
	case *capability.Spec:
		v.capability(r, s)
	case *SuiteSpec:
		v.suite(r, s)
	case *AgentSpec:
		v.agent(r, s)
	}
}

// takenAt are the origins at which a connector takes the credential of a source.
func takenAt(c *connector.Spec, source string) map[string]bool {
	at := map[string]bool{}
	for _, t := range c.TakesOf(source) {
		at[t.Origin] = true
	}
	return at
}

// takes: each source is one of this connector, and gives what is taken. One that is not
// there may come later, as that of a field: it names its connector, which has to take it,
// and who declares the one is not who declares the other.
func (v *validator) takes(r *Resource, s *connector.Spec) {
	for i, t := range s.Takes {
		at := fmt.Sprintf("spec.takes[%d]", i)
		src, ok := Of[CredentialSourceSpec](v.all, r.Metadata.Tenant, t.Source)
		if !ok {
			continue
		}
		if src.Connector != r.Metadata.Name {
			v.bad(r, at+".source", "%s is not for this connector", t.Source)
		} else if problem := src.takenAs(t.As); problem != "" {
			v.bad(r, at+".as", "%s %s", t.Source, problem)
		}
	}
}

// fields: what goes into a body is a secret for fields, and nothing else.
func (v *validator) fields(r *Resource, s *connector.Spec) {
	for i, op := range s.Operations {
		if op.Body == nil {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(op.Body.Fields)) {
			source := op.Body.Fields[name].Secret
			if src, ok := Of[CredentialSourceSpec](v.all, r.Metadata.Tenant, source); ok && src.Type != SourceField {
				v.bad(r, fmt.Sprintf("spec.operations[%d].body.fields.%s.secret", i, name), "%s is of type %s, and a field takes a static-field", source, src.Type)
			}
		}
	}
}

// clash: no request takes two of the capability's credentials in one place.
func (v *validator) clash(r *Resource, at string, c *connector.Spec, source string, before []string) {
	for _, t := range c.TakesOf(source) {
		for _, b := range before {
			for _, o := range c.TakesOf(b) {
				if b != source && t.Clash(o) {
					v.bad(r, at, "requests of one operation would take both %s and %s in the same place: name one", b, source)
				}
			}
		}
	}
}

// maxDatabases of one task: each has an address in the harness's namespace.
const maxDatabases = 8

// maxTools of one agent: each is two facts of its boundary, and a certification has all
// of them in one record.
const maxTools = 32

// maxHosts of one task, for the same reason.
const maxHosts = 3

func (v *validator) capability(r *Resource, s *capability.Spec) {
	tenant := r.Metadata.Tenant
	apps := map[string]bool{}
	for i, op := range s.Operations {
		at := fmt.Sprintf("spec.operations[%d]", i)
		app := op.App
		if app == "" {
			app, _, _ = strings.Cut(op.Operation, ".")
		}
		apps[app] = true
		if v.refer(r, at+".operation", KindConnector, app) {
			c, _ := Of[connector.Spec](v.all, tenant, app)
			v.operation(r, at, c, op)
		}
	}
	v.toolNames(r, s)
	for i, app := range s.Reads {
		apps[app] = true
		v.refer(r, fmt.Sprintf("spec.reads[%d]", i), KindConnector, app)
	}
	databases, hosts := 0, 0
	for i, n := range s.Credentials {
		at := fmt.Sprintf("spec.credentials[%d]", i)
		if !v.refer(r, at, KindCredentialSource, n) {
			continue
		}
		if c, _ := Of[CredentialSourceSpec](v.all, tenant, n); c.Connector != "" && !apps[c.Connector] {
			v.bad(r, at, "%s is for connector %s, which the capability does not use", n, c.Connector)
		} else if app, _ := Of[connector.Spec](v.all, tenant, c.Connector); c.PutIn() && app != nil {
			v.clash(r, at, app, n, s.Credentials[:i])
		} else if c.Database() != "" {
			if databases++; databases > maxDatabases {
				v.bad(r, at, "one task opens at most %d databases", maxDatabases)
			}
		} else if c.SSH != nil {
			if hosts++; hosts > maxHosts {
				v.bad(r, at, "one task signs in to at most %d hosts", maxHosts)
			}
		}
	}
	for i, d := range s.Delegates {
		at := fmt.Sprintf("spec.delegates[%d]", i)
		if v.refer(r, at+".agent", KindAgent, d.Agent) && v.refer(r, at+".capability", KindCapability, d.Capability) {
			if a, _ := Of[AgentSpec](v.all, tenant, d.Agent); !slices.Contains(a.Capabilities, d.Capability) {
				v.bad(r, at, "agent %s does not have capability %s", d.Agent, d.Capability)
			}
		}
	}
	for i, h := range s.Holds {
		at := fmt.Sprintf("spec.holds[%d]", i)
		v.role(r, at+".approvers", h.Approvers, max(1, h.Count))
	}
	for i, l := range s.Labels {
		if l.Hold != "" {
			v.role(r, fmt.Sprintf("spec.labels[%d].hold", i), l.Hold, 1)
		}
	}
}

// toolNames: a task finds the tools of all its applications in one list, so no two of
// them may be taken for one another.
func (v *validator) toolNames(r *Resource, s *capability.Spec) {
	type named struct{ app, tool string }
	var before []named
	for _, app := range capabilityApps(s) {
		c, ok := Of[connector.Spec](v.all, r.Metadata.Tenant, app)
		if !ok {
			continue
		}
		for _, op := range c.Operations {
			for _, o := range before {
				if op.Kind == connector.KindTool && o.app != app && connector.SameTool(o.tool, op.Tool) {
					v.bad(r, "spec.operations", "tool %s of connector %s could be taken for tool %s of connector %s: one task has one of them", op.Tool, app, o.tool, o.app)
				}
			}
			if op.Kind == connector.KindTool {
				before = append(before, named{app, op.Tool})
			}
		}
	}
}

// operation: it is declared, and Where names exactly what it always has, and
// nothing that it never has.
func (v *validator) operation(r *Resource, at string, c *connector.Spec, op capability.Operation) {
	i := slices.IndexFunc(c.Operations, func(o connector.Operation) bool { return o.Name == op.Operation })
	if i < 0 {
		v.bad(r, at+".operation", "no connector declares %s", op.Operation)
		return
	}
	all, required := c.Operations[i].Params()
	for _, name := range slices.Sorted(maps.Keys(op.Where)) {
		if !slices.Contains(all, name) {
			v.bad(r, at+".where."+name, "%s has no parameter %q", op.Operation, name)
		}
	}
	for _, name := range required {
		if _, ok := op.Where[name]; !ok {
			v.bad(r, at+".where", "says nothing about parameter %q of %s; limit it, or write {any: true}", name, op.Operation)
		}
	}
}

// role: it is one, and enough people have it.
func (v *validator) role(r *Resource, path, role string, people int) {
	if !slices.Contains(Roles, Role(role)) {
		v.bad(r, path, "there is no role %q", role)
		return
	}
	n := 0
	for _, o := range v.all {
		if p, ok := o.Spec.(*PersonSpec); ok && o.Metadata.Tenant == r.Metadata.Tenant && slices.Contains(p.Roles, Role(role)) {
			n++
		}
	}
	if n < people {
		v.bad(r, path, "asks %d with the role %s, and there are %d", people, role, n)
	}
}

func (v *validator) suite(r *Resource, s *SuiteSpec) {
	if s.Fixture != nil && !v.demo(r.Metadata.Tenant) {
		v.bad(r, "spec.fixture", "only a demo tenant has a sample estate")
	}
	checked := map[string]bool{} // many scenarios are the same task, and a world is made for each question to people
	operations := v.operations(r.Metadata.Tenant)
	for i, sc := range s.All() {
		at := fmt.Sprintf("spec.scenarios[%d]", i)
		known := func(field, pattern string) {
			if pattern != "other" && !slices.ContainsFunc(operations, func(o string) bool { return Covers(pattern, o) }) {
				v.bad(r, at+".expect."+field, "no connector has an operation %s", pattern)
			}
		}
		for j, p := range sc.Expect.Never {
			known(fmt.Sprintf("never[%d]", j), p)
		}
		for j, p := range sc.Expect.Untried {
			known(fmt.Sprintf("untried[%d]", j), p)
		}
		for j, e := range sc.Expect.Done {
			known(fmt.Sprintf("done[%d].operation", j), e.Operation)
		}
		task := fmt.Sprint(sc.Capability, sc.Params)
		if checked[task] {
			continue
		}
		checked[task] = true
		if !v.refer(r, at+".capability", KindCapability, sc.Capability) {
			continue
		}
		c, _ := Of[capability.Spec](v.all, r.Metadata.Tenant, sc.Capability)
		if _, err := c.Instantiate(sc.Capability, sc.Params); err != nil {
			v.bad(r, at+".params", "%v", err)
		}
	}
}

// doors are what actions are named at the doors where no connector names them, beside
// the inputs to the screen.
var doors = []string{"egress.unmatched", "egress.websocket", "egress.malformed", "inference.messages", "inference.malformed", "computer.malformed",
	"database.connect", "database.malformed", "ssh.connect", "ssh.sign", "ssh.malformed"}

// operations are the names of everything that can be done in a tenant.
func (v *validator) operations(tenant string) []string {
	out := slices.Clone(doors)
	for _, input := range slices.Concat(capability.DefaultComputer, capability.NamedComputer) {
		out = append(out, "computer."+input)
	}
	for _, r := range v.all {
		if c, ok := r.Spec.(*connector.Spec); ok && r.Metadata.Tenant == tenant {
			out = append(out, r.Metadata.Name+".read")
			for _, o := range c.Operations {
				out = append(out, o.Name)
			}
		}
	}
	return out
}

func (v *validator) agent(r *Resource, s *AgentSpec) {
	v.person(r, "spec.owner", s.Owner, RoleOwner)
	v.workloads(r, s)
	v.person(r, "spec.deputy", s.Deputy, RoleOwner)
	v.referAll(r, "spec.connectors", KindConnector, s.Connectors)
	v.referAll(r, "spec.capabilities", KindCapability, s.Capabilities)
	v.referAll(r, "spec.policySets", KindPolicySet, s.PolicySets)
	v.referAll(r, "spec.suites", KindSuite, s.Suites)
	for i, name := range s.Suites {
		suite, ok := Of[SuiteSpec](v.all, r.Metadata.Tenant, name)
		if !ok {
			continue
		}
		for _, sc := range suite.All() {
			if !slices.Contains(s.Capabilities, sc.Capability) {
				v.bad(r, fmt.Sprintf("spec.suites[%d]", i), "scenario %s of %s is of capability %s, which the agent does not have", sc.Name, name, sc.Capability)
			}
		}
	}
	tools := 0
	for _, app := range s.Connectors {
		if c, ok := Of[connector.Spec](v.all, r.Metadata.Tenant, app); ok {
			for _, op := range c.Operations {
				if op.Kind == connector.KindTool {
					tools++
				}
			}
		}
	}
	if tools > maxTools {
		v.bad(r, "spec.connectors", "they declare %d tools, and an agent has at most %d: leave out those that no capability needs", tools, maxTools)
	}
	v.canary(r, s)
	if s.Model.Scripted && !v.demo(r.Metadata.Tenant) {
		v.bad(r, "spec.model.scripted", "only a demo tenant accepts a scripted model")
	}
	for i, name := range s.Capabilities {
		c, ok := Of[capability.Spec](v.all, r.Metadata.Tenant, name)
		if !ok {
			continue
		}
		for _, app := range capabilityApps(c) {
			if !slices.Contains(s.Connectors, app) {
				v.bad(r, fmt.Sprintf("spec.capabilities[%d]", i), "%s uses connector %s, which the agent does not have", name, app)
			}
		}
	}
}

func capabilityApps(c *capability.Spec) []string {
	apps := slices.Clone(c.Reads)
	for _, op := range c.Operations {
		app := op.App
		if app == "" {
			app, _, _ = strings.Cut(op.Operation, ".")
		}
		apps = append(apps, app)
	}
	slices.Sort(apps)
	return slices.Compact(apps)
}

// origins: two connectors of a tenant never claim one origin.
func (v *validator) origins() {
	owner := map[string]*Resource{}
	for i := range v.all {
		r := &v.all[i]
		c, ok := r.Spec.(*connector.Spec)
		if !ok {
			continue
		}
		for _, stage := range slices.Sorted(maps.Keys(c.Stages)) {
			for j, o := range c.Stages[stage].Origins {
				k := r.Metadata.Tenant + " " + o.URL
				if first := owner[k]; first != nil {
					v.bad(r, fmt.Sprintf("spec.stages.%s.origins[%d].url", stage, j), "is claimed before, at %s:%d", first.File, first.Line)
				}
				owner[k] = r
			}
		}
	}
}

// rotatesToo names another source that exchanges the same secret.
func (v *validator) rotatesToo(r *Resource, s *CredentialSourceSpec) string {
	if s.LDAP == nil || s.LDAP.Mode != LDAPRotate || s.Secret == nil {
		return ""
	}
	for _, o := range v.all {
		x, ok := o.Spec.(*CredentialSourceSpec)
		if ok && o.Metadata.Tenant == r.Metadata.Tenant && o.Metadata.Name != r.Metadata.Name && x.LDAP != nil && x.LDAP.Mode == LDAPRotate &&
			x.Secret != nil && x.Secret.Sealed == s.Secret.Sealed {
			return o.Metadata.Name
		}
	}
	return ""
}
