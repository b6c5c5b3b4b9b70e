package server

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/capability"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/policy"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/separation"
	"github.com/sallyport-dev/sallyport/internal/signals"
	"github.com/sallyport-dev/sallyport/internal/surface/egress"
)

const kindResource = "resource"

// stored is a declared resource as it is kept: object kind "resource", id
// Kind/name.
type stored struct {
	Kind    string        `json:"kind"`
	Name    string        `json:"name"`
	Digest  action.Digest `json:"digest"`
	Author  string        `json:"author"`
	Applied time.Time     `json:"applied"`
	Version int           `json:"version"` // from 1; set where it is put in force, and only good in the store
	Claimed *Provenance   `json:"claimed,omitempty"`
	// Canonical is the resource in RFC 8785 form.
	Canonical json.RawMessage `json:"canonical"`
}

func (s stored) id() string { return s.Kind + "/" + s.Name }

// world is what a tenant declares, parsed and cross-checked. It does not change;
// apply makes a new one.
type world struct {
	demo         bool
	trustDomain  string
	retention    string
	retentions   map[string]*resource.RetentionSpec
	resources    map[string]stored // by Kind/name
	people       map[string]*resource.PersonSpec
	connectors   *connector.Set
	capabilities map[string]*capability.Spec
	sources      map[string]*resource.CredentialSourceSpec
	suites       map[string]*resource.SuiteSpec
	federations  []identity.Federation
	issuers      []identity.OIDC
	spire        bool // SVIDs are SPIRE's
	agents       map[string]*agent
	transmitters map[string]transmitter // by issuer
	receivers    []receiving
	notify       []resource.TargetSpec
}

// agent is a declared agent with what follows from it.
type agent struct {
	name          string
	spec          *resource.AgentSpec
	owner, deputy string
	connectors    []string
	apps          map[string]bool
	browserKind   string
	protocol      string // profile of the browser protocol's surface
	model         string
	endpoint      string
	roots         *x509.CertPool // of the endpoint; nil means the machine's
	betas         []string
	guardrails    *policy.Set
	tier          string
	tierWhy       string
	declared      boundary.Manifest
	built         *resource.Built // what the harness's program must be of; nil means anything
}

// builtBy is the fact that says who builds the harness.
func (a *agent) builtBy() string { return fmt.Sprintf("%s by key %s", a.built.Builder, a.built.Key) }

// messages is the one URL at which the agent's model is called (Anthropic
// Messages API).
func (a *agent) messages() string { return a.endpoint + "/v1/messages" }

// buildWorld parses resources and checks them against each other.
func buildWorld(all map[string]stored) (*world, error) {
	w := &world{resources: all, people: map[string]*resource.PersonSpec{}, capabilities: map[string]*capability.Spec{},
		sources: map[string]*resource.CredentialSourceSpec{}, suites: map[string]*resource.SuiteSpec{}, agents: map[string]*agent{}, retentions: map[string]*resource.RetentionSpec{}}
	connectors := map[string]*connector.Spec{}
	sets := map[string]*policy.SetSpec{}
	agents := map[string]*resource.AgentSpec{}
	var parsed []resource.Resource
	for _, id := range slices.Sorted(maps.Keys(all)) {
		r, err := resource.FromCanonical(all[id].Canonical)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", id, err)
		}
		r.File = id
		parsed = append(parsed, r)
		name := r.Metadata.Name
		switch spec := r.Spec.(type) {
		case *resource.TenantSpec:
			w.demo, w.trustDomain, w.retention, w.notify = spec.Demo, spec.TrustDomain, spec.Retention, spec.Notify
			_, err := targets(spec.Notify, declaredOnly)
			if err := errors.Join(w.identities(spec), w.signals(spec), err); err != nil {
				return nil, err
			}
		case *resource.RetentionSpec:
			w.retentions[name] = spec
		case *resource.PersonSpec:
			w.people[name] = spec
		case *connector.Spec:
			connectors[name] = spec
		case *capability.Spec:
			w.capabilities[name] = spec
		case *policy.SetSpec:
			sets[name] = spec
		case *resource.CredentialSourceSpec:
			w.sources[name] = spec
		case *resource.SuiteSpec:
			w.suites[name] = spec
		case *resource.WitnessSpec:
			return nil, fmt.Errorf("%s: this version asks no witnesses; leave the resource out", id)
		case *resource.AgentSpec:
			agents[name] = spec
		}
	}
	if err := resource.Validate(parsed); err != nil {
		return nil, err
	}
	var err error
	if w.connectors, err = connector.NewSet(connectors); err != nil {
		return nil, err
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(agents)) {
		a, err := w.agent(name, agents[name], sets)
		if err != nil {
			errs = append(errs, fmt.Errorf("agent %s: %w", name, err))
			continue
		}
		w.agents[name] = a
	}
	return w, errors.Join(errs...)
}

// loadWorld builds the world from the tenant's state.
func loadWorld(ctx context.Context, log record.Log) (*world, error) {
	all := map[string]stored{}
	err := log.View(ctx, func(tx record.Tx) error {
		clear(all)
		return tx.List(kindResource, func(id string, raw []byte) error {
			var s stored
			err := json.Unmarshal(raw, &s)
			all[id] = s
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return buildWorld(all)
}

func (w *world) agent(name string, spec *resource.AgentSpec, sets map[string]*policy.SetSpec) (*agent, error) {
	a := &agent{name: name, spec: spec, owner: spec.Owner, deputy: spec.Deputy, connectors: spec.Connectors, apps: map[string]bool{},
		browserKind: "shell", protocol: "sealed", model: spec.Model.ID, endpoint: spec.Model.Endpoint, betas: spec.Model.Betas}
	if spec.Browser != nil {
		a.browserKind = string(spec.Browser.Kind)
		if p := spec.Browser.Protocol; p != "" {
			a.protocol = string(p)
		}
	}
	for _, c := range spec.Connectors {
		a.apps[c] = true
	}
	if spec.Model.CA != "" {
		a.roots = x509.NewCertPool()
		if !a.roots.AppendCertsFromPEM([]byte(spec.Model.CA)) {
			return nil, errors.New("model.ca is not PEM")
		}
	}
	if p := spec.Harness.Provenance; p != nil {
		b, err := p.Verify()
		if err != nil {
			return nil, fmt.Errorf("harness.provenance: %w", err)
		}
		a.built = &b
	}
	files := map[string][]byte{}
	for _, s := range spec.PolicySets {
		for f, text := range sets[s].Files() {
			files[s+"/"+f] = text
		}
	}
	var err error
	if a.guardrails, err = policy.Parse(files); err != nil {
		return nil, err
	}
	a.tier, a.tierWhy = w.tier(a)
	if a.tier == "privileged" && a.protocol == "open" {
		return nil, fmt.Errorf("browser.protocol is open, and the agent is privileged (%s): a script of the harness could do what no input explains; "+
			"want sealed or pinned", a.tierWhy)
	}
	a.declared, err = w.declare(a)
	return a, err
}

// tier follows from what the agent can reach, not from a label: the operation of
// the greatest effect over all its capabilities and their applications, and the
// effect of the databases and hosts that they open; also through the agents that it
// may give parts of its tasks to, and those that they may.
func (w *world) tier(a *agent) (tier, why string) {
	tier, why = "light", "no operation that changes anything is reachable"
	raise := func(effect action.Effect, path string) {
		switch {
		case effect.AtLeast(action.Privileged) && tier != "privileged":
			tier, why = "privileged", path
		case effect.Changes() && tier == "light":
			tier, why = "standard", path
		}
	}
	seen := map[string]bool{}
	var walk func(name, path string)
	walk = func(name, path string) {
		spec := w.capabilities[name]
		if spec == nil || seen[name] {
			return
		}
		seen[name] = true
		path += "capability " + name
		for _, source := range spec.Credentials {
			if src := w.sources[source]; src != nil && src.Database() != "" {
				raise(src.Database(), fmt.Sprintf("%s reaches database %s (%s)", path, source, src.Database()))
			} else if src != nil && src.SSH != nil {
				raise(src.SSH.Effect, fmt.Sprintf("%s reaches host %s (%s)", path, source, src.SSH.Effect))
			}
		}
		for _, op := range spec.Operations {
			app := op.App
			if app == "" {
				app, _, _ = strings.Cut(op.Operation, ".")
			}
			effect := action.Irreversible // of an operation that no connector describes
			if spec := w.connectors.Spec(app); spec != nil {
				for _, o := range spec.Operations {
					if o.Name == op.Operation {
						effect = o.Effect
					}
				}
			}
			raise(effect, fmt.Sprintf("%s reaches %s (%s)", path, op.Operation, effect))
		}
		for _, d := range spec.Delegates {
			walk(d.Capability, path+" gives to agent "+d.Agent+" ")
		}
	}
	for _, name := range a.spec.Capabilities {
		walk(name, "")
	}
	return tier, why
}

// declare makes the manifest of what the resources say. What is enforced by
// digest is pinned; the rest is declared until it is measured.
func (w *world) declare(a *agent) (boundary.Manifest, error) {
	now := time.Now().UTC()
	var facts []boundary.Fact
	add := func(g boundary.Grade, source, name, value string) {
		facts = append(facts, boundary.Fact{Name: name, Value: value, Grade: g, Source: source, Owner: ownerOf(name), Measured: now})
	}
	const here = "agent resource"
	m := a.spec.Model
	add(boundary.Declared, here, "model.id", m.ID)
	add(boundary.Declared, here, "model.requested", m.ID)
	add(boundary.Declared, here, "model.provider", m.Provider)
	add(boundary.Pinned, here, "model.endpoint", a.messages()) // the inference surface calls nothing else
	add(boundary.Declared, here, "model.location", m.Location)
	kind := "real"
	if m.Scripted {
		kind = "scripted"
	}
	add(boundary.Declared, here, "model.kind", kind)
	if m.Signature != nil {
		signed, err := m.Signature.Verify()
		if err != nil {
			return boundary.Manifest{}, fmt.Errorf("model.signature: %w", err)
		}
		add(boundary.Declared, "model signature", "model.signature", fmt.Sprintf("%s manifest %s by key %s", signed.Root, signed.Manifest, signed.Key))
	}
	add(boundary.Declared, here, "model.key", m.Key.Sealed)
	// The inference surface trusts no other roots, and lets no other beta pass.
	roots := "machine"
	if m.CA != "" {
		roots = string(canon.Digest([]byte(m.CA)))
	}
	add(boundary.Pinned, here, "model.roots", roots)
	add(boundary.Pinned, here, "model.betas", strings.Join(slices.Sorted(slices.Values(m.Betas)), ","))
	for name, b := range m.Sampling {
		add(boundary.Pinned, here, "sampling."+string(name), b.String())
	}
	if len(a.spec.Drift) > 0 {
		text, err := canon.Marshal(a.spec.Drift)
		if err != nil {
			return boundary.Manifest{}, err
		}
		add(boundary.Pinned, here, "drift.rules", string(text))
	}
	add(boundary.Declared, here, "agent.owner", a.owner)
	add(boundary.Declared, here, "agent.deputy", a.deputy) // who may approve nothing of it
	add(boundary.Pinned, "derived", "tier", a.tier)
	if p := a.spec.SystemPrompt; p != nil {
		add(boundary.Declared, here, "prompt.system", string(canon.Digest([]byte(p.Text))))
	}
	if h := a.spec.Harness; h.Name != "" {
		add(boundary.Declared, here, "harness.name", h.Name)
	} else {
		add(boundary.Declared, here, "harness.path", h.Path)
		if h.Provenance != nil {
			add(boundary.Pinned, here, "harness.provenance", a.builtBy()) // no other program is started
		}
	}
	add(boundary.Pinned, here, "browser.kind", a.browserKind)
	add(boundary.Pinned, here, "browser.protocol", a.protocol)
	pin := func(prefix, kind string, names []string) {
		for _, n := range names {
			add(boundary.Pinned, kind+" resource", prefix+"."+n, string(w.resources[kind+"/"+n].Digest))
		}
	}
	pin("connector", resource.KindConnector, a.spec.Connectors)
	pin("capability", resource.KindCapability, a.spec.Capabilities)
	pin("credential", resource.KindCredentialSource, append(w.credentialsOf(a), w.auditorsOf(a)...))
	pin("policy", resource.KindPolicySet, a.spec.PolicySets)
	pin("suite", resource.KindSuite, a.spec.Suites)
	if w.spire {
		add(boundary.Pinned, "Tenant resource", "identity.source", string(resource.IdentitySPIRE))
		add(boundary.Pinned, here, "identity.spiffeID", a.spec.SPIFFEID)
	}
	for i, e := range a.spec.Workloads {
		text, err := canon.Marshal(e)
		if err != nil {
			return boundary.Manifest{}, err
		}
		add(boundary.Pinned, here, fmt.Sprintf("identity.workload.%d", i), string(text))
	}
	if x := a.spec.Watch; x != nil {
		text, err := canon.Marshal(x)
		if err != nil {
			return boundary.Manifest{}, err
		}
		add(boundary.Pinned, here, "watch", string(text))
	}
	add(boundary.Pinned, "built in", "policy.shipped", string(shippedPolicies()))
	return boundary.New(a.name, facts)
}

// credentialsOf are the sources that an agent's capabilities lease from.
func (w *world) credentialsOf(a *agent) []string {
	var all []string
	for _, c := range a.spec.Capabilities {
		all = append(all, w.capabilities[c].Credentials...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// auditorsOf are the sources with which the audit logs of an agent's applications are
// read, as far as they are declared yet.
func (w *world) auditorsOf(a *agent) (out []string) {
	for _, c := range a.spec.Connectors {
		if x := w.connectors.Spec(c).Audit; x != nil && w.sources[x.Credential.Source] != nil {
			out = append(out, x.Credential.Source)
		}
	}
	return out
}

func shippedPolicies() action.Digest {
	d, err := canon.DigestOf(policy.BaseFiles())
	if err != nil {
		panic("sallyport: internal error: " + err.Error())
	}
	return d
}

// audience is the one origin to which the credential of a source goes in a
// stage: where it signs in, or where the connector's fields take it.
func (w *world) audience(name string, src *resource.CredentialSourceSpec, stage action.Stage) (string, error) {
	if src.Vault != nil && src.Vault.Database != nil {
		if st, ok := src.Vault.Stages[stage]; ok {
			return st.PostgreSQL.Audience(), nil
		}
		return "", fmt.Errorf("credential source %s has no database in stage %s", name, stage)
	}
	spec := w.connectors.Spec(src.Connector)
	var origin string
	switch {
	case spec == nil:
		return "", fmt.Errorf("there is no connector %s", src.Connector)
	case src.SignsIn() && spec.SignIn == nil:
		return "", fmt.Errorf("connector %s does not say how to sign in", src.Connector)
	case src.SignsIn():
		origin = spec.SignIn.Origin
	case src.PutIn():
		for _, t := range spec.TakesOf(name) {
			origin = t.Origin // the same in all, as resource.Validate saw
		}
	default:
		use := spec.SecretUse(name)
		if len(use.Origins) != 1 {
			return "", fmt.Errorf("connector %s takes the secret of %s at %d origins", src.Connector, name, len(use.Origins))
		}
		origin = use.Origins[0]
	}
	for _, o := range spec.Stages[stage].Origins {
		if o.Name == origin {
			return o.URL, nil
		}
	}
	return "", fmt.Errorf("connector %s has no origin %s in stage %s", src.Connector, origin, stage)
}

// carries says why a request of the connector could not carry a source's secret.
func (w *world) carries(name string, src *resource.CredentialSourceSpec, secret []byte) error {
	for _, t := range w.connectors.Spec(src.Connector).TakesOf(name) {
		err := t.Check(string(secret))
		if err == nil && t.As == connector.AsCertificate {
			err = egress.CheckCertificate(string(secret))
		}
		if err != nil {
			return fmt.Errorf("credential source %s: %s does not take it: %w", name, t.As, err)
		}
	}
	for _, t := range w.connectors.Spec(src.Connector).SecretUse(name).Types {
		if err := connector.CheckSecret(t, string(secret)); err != nil {
			return fmt.Errorf("credential source %s: a %s body cannot carry it: %w; store another with sallyport secret put %s", name, t, err, src.Secret.Sealed)
		}
	}
	return nil
}

// directory shows the tenant's people to the approval engine.
type directory struct{}

// People implements approval.Directory: it reads the transaction, so that a
// person removed before the commit is removed for the commit.
func (directory) People(tx record.Tx) ([]approval.Person, error) {
	var out []approval.Person
	demo := false
	bars, err := signals.Bars(tx)
	if err != nil {
		return nil, err
	}
	err = tx.List(kindResource, func(_ string, raw []byte) error {
		var s stored
		if err := json.Unmarshal(raw, &s); err != nil {
			return err
		}
		if s.Kind != resource.KindPerson && s.Kind != resource.KindTenant {
			return nil
		}
		r, err := resource.FromCanonical(s.Canonical)
		if err != nil {
			return err
		}
		switch spec := r.Spec.(type) {
		case *resource.TenantSpec:
			demo = spec.Demo
		case *resource.PersonSpec:
			p := approval.Person{Name: s.Name, Keys: spec.ApprovalKeys()}
			for _, role := range spec.Roles {
				p.Roles = append(p.Roles, string(role))
			}
			p.Barred, p.Locked = bars[s.Name].Since, bars[s.Name].Locked
			if spec.UnixUser != "" {
				p.Accounts = append(p.Accounts, "unix:"+spec.UnixUser)
			}
			if spec.Email != "" {
				p.Accounts = append(p.Accounts, "mail:"+separation.Mailbox(spec.Email))
			}
			for _, x := range spec.Subjects {
				p.Accounts = append(p.Accounts, "subject:"+x.Issuer+" "+x.Subject)
			}
			out = append(out, p)
		}
		return nil
	})
	if demo {
		// In a demonstration one person plays all of them on one account.
		for i := range out {
			out[i].Accounts = nil
		}
	}
	return out, err
}
