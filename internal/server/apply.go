package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/capability"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// Applied says what apply did with one resource.
type Applied struct {
	Kind    string        `json:"kind"`
	Name    string        `json:"name"`
	Change  string        `json:"change"` // created, changed, unchanged, or proposed: in force once it is approved
	Digest  action.Digest `json:"digest"`
	Pending string        `json:"pending,omitempty"` // the approval that it waits for
}

// Apply declares resources, decoded and with their files inlined
// (resource.Receive): all of them or none. The first apply of a tenant makes it
// and is the operator's; later ones need the role of each kind.
func (s *Server) Apply(ctx context.Context, c Caller, all []resource.Resource) ([]Applied, error) {
	return s.ApplyFrom(ctx, c, all, nil)
}

// ApplyFrom is Apply with where the caller says that they come from, or nil.
func (s *Server) ApplyFrom(ctx context.Context, c Caller, all []resource.Resource, from *Provenance) ([]Applied, error) {
	if err := from.check(); err != nil {
		return nil, err
	}
	tenant := ""
	for _, r := range all {
		name := r.Metadata.Tenant
		if r.Kind == resource.KindTenant {
			name = r.Metadata.Name
		}
		if tenant == "" {
			tenant = name
		}
		if name != tenant {
			return nil, problem(Invalid, "two_tenants", fmt.Sprintf("%s:%d: metadata.tenant: %s, but the resources before are of %s", r.File, r.Line, name, tenant),
				"apply one tenant at a time; nothing was applied")
		}
	}
	if len(all) == 0 {
		return nil, problem(Invalid, "no_resources", "the files declare nothing", "give files with apiVersion: "+resource.APIVersion)
	}
	t, err := s.tenant(tenant)
	if err != nil {
		return s.bootstrap(ctx, c, tenant, all, from)
	}
	for _, r := range all {
		id := r.Kind + "/" + r.Metadata.Name
		if t.current().resources[id].Digest == r.Digest {
			continue
		}
		if _, err := t.require(c, "apply a "+r.Kind, writers[r.Kind]...); err != nil {
			return nil, err
		}
	}
	person, _, err := t.identify(c)
	if err != nil {
		return nil, err
	}
	if err := checkServers(ctx, all, t.current().resources); err != nil {
		return nil, err
	}
	return t.apply(ctx, person, all, from)
}

// bootstrap makes a tenant with everything of its first apply, in one
// transaction. A crash between the log's creation and that leaves an empty log,
// which the next first apply takes over.
func (s *Server) bootstrap(ctx context.Context, c Caller, name string, all []resource.Resource, from *Provenance) ([]Applied, error) {
	i := slices.IndexFunc(all, func(r resource.Resource) bool { return r.Kind == resource.KindTenant })
	if i < 0 {
		return nil, problem(NotFound, "no_such_tenant", "there is no tenant "+strconv.Quote(name), "declare it: kind: Tenant")
	}
	if !c.operator() {
		return nil, problem(Refused, "operator_only", "a new tenant is made by the user that the server runs as", "ask the operator")
	}
	known := func(r resource.Resource) bool { return r.Kind == resource.KindPerson && r.Metadata.Name == c.Person }
	if !slices.ContainsFunc(all, known) {
		return nil, problem(Refused, "person_unknown", "the first apply of a tenant is made as one of its people, and --as names none of them",
			"apply with --as NAME, where NAME is a Person in the files")
	}
	// The whole world is checked before anything is made.
	next, done := merge(nil, all, c.Person, from)
	w, err := buildWorld(next)
	if err != nil {
		return nil, problem(Invalid, "invalid_resources", err.Error(), "correct the files and apply again; nothing was applied")
	}
	if err := checkServers(ctx, all, nil); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	log, err := s.ledger.Tenant(ctx, name)
	if errors.Is(err, record.ErrNotFound) {
		log, err = s.ledger.Create(ctx, name, w.trustDomain+"/log")
	}
	if err != nil {
		return nil, err
	}
	changed := lines(next, done, nil)
	_, err = log.Append(ctx, record.Draft{Type: "tenant.created", Actor: c.account(),
		Body:   createdBody{name, w.trustDomain, w.demo, c.Person, changed, from},
		Change: func(tx record.Tx) error { return putAll(tx, next, changed) }})
	if err != nil {
		return nil, err
	}
	t, err := s.openTenant(ctx, name)
	if err != nil {
		return nil, err
	}
	s.tenants[name] = t
	return t.withPending(ctx, c.Person, done)
}

// line is one applied resource in a record.
type line struct {
	Kind   string        `json:"kind"`
	Name   string        `json:"name"`
	Digest action.Digest `json:"digest"`
	Before action.Digest `json:"before,omitempty"`
}

// appliedBody is the body of resource.applied.
type appliedBody struct {
	Resources []line      `json:"resources"`           // in force with the record
	Proposed  []line      `json:"proposed,omitempty"`  // in force once approved
	Withdrawn []line      `json:"withdrawn,omitempty"` // proposed before, and no more
	Claimed   *Provenance `json:"claimed,omitempty"`
}

// createdBody is the body of tenant.created.
type createdBody struct {
	Tenant      string      `json:"tenant"`
	TrustDomain string      `json:"trustDomain"`
	Demo        bool        `json:"demo"`
	As          string      `json:"as"`
	Resources   []line      `json:"resources"`
	Claimed     *Provenance `json:"claimed,omitempty"`
}

// lines are what is in force and was not.
func lines(next map[string]stored, done []Applied, before map[string]stored) []line {
	out := []line{}
	for _, d := range done {
		id := d.Kind + "/" + d.Name
		if s := next[id]; s.Digest != before[id].Digest {
			out = append(out, line{d.Kind, d.Name, s.Digest, before[id].Digest})
		}
	}
	return out
}

func putAll(tx record.Tx, next map[string]stored, changed []line) error {
	for _, l := range changed {
		s := next[l.Kind+"/"+l.Name]
		if err := putResource(tx, s); err != nil {
			return err
		}
	}
	return nil
}

// withPending adds the approvals that the resources wait for. What the author may apply
// and has named is asked about again after a no.
func (t *tenant) withPending(ctx context.Context, author string, done []Applied) ([]Applied, error) {
	again := map[string]bool{}
	for _, d := range done {
		again[d.Kind+"/"+d.Name] = t.world.mayApply(author, d.Kind)
	}
	pending, err := t.askApprovals(ctx, t.world, again)
	for i, d := range done {
		done[i].Pending = pending[d.Kind+"/"+d.Name]
	}
	return done, err
}

// merge lays resources over those that exist and says what changes.
func merge(have map[string]stored, all []resource.Resource, author string, from *Provenance) (map[string]stored, []Applied) {
	out := maps.Clone(have)
	if out == nil {
		out = map[string]stored{}
	}
	var done []Applied
	for _, r := range all {
		a := Applied{Kind: r.Kind, Name: r.Metadata.Name, Digest: r.Digest, Change: "created"}
		id := a.Kind + "/" + a.Name
		if old, ok := have[id]; ok {
			a.Change = "changed"
			if old.Digest == r.Digest {
				a.Change = "unchanged"
				done = append(done, a)
				continue
			}
		}
		canonical, err := r.Canonical()
		if err != nil {
			panic("sallyport: internal error: a decoded resource has no canonical form: " + err.Error())
		}
		out[id] = stored{Kind: r.Kind, Name: a.Name, Digest: r.Digest, Author: author, Applied: time.Now().UTC(), Claimed: from, Canonical: canonical}
		done = append(done, a)
	}
	return out, done
}

// apply checks the new world, records it with the change, and asks for the
// approvals that it needs. A crash after the record leaves a request to make,
// which the next start makes.
func (t *tenant) apply(ctx context.Context, author string, all []resource.Resource, from *Provenance) ([]Applied, error) {
	before := t.current()
	done, err := t.declare(ctx, author, all, from)
	t.lapseChanged(context.WithoutCancel(ctx))
	t.endShadows(before)
	return done, err
}

func (t *tenant) declare(ctx context.Context, author string, all []resource.Resource, from *Provenance) ([]Applied, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.world
	next, done := merge(before.resources, all, author, from)
	// Again, now that nothing changes meanwhile: what was no change when the caller's
	// roles were looked at takes back what another has applied since.
	for _, d := range done {
		if d.Change != "unchanged" && !before.mayApply(author, d.Kind) {
			return nil, problem(Refused, "role_missing", fmt.Sprintf("%s may not apply a %s, and %s was changed meanwhile", author, d.Kind, d.Name), "apply what is yours, or ask somebody who has the role: sallyport get Person")
		}
	}
	w, err := buildWorld(next)
	if err != nil {
		return nil, problem(Invalid, "invalid_resources", err.Error(), "correct the files and apply again; nothing was applied")
	}
	if w.trustDomain != before.trustDomain {
		return nil, problem(Refused, "trust_domain_fixed", "the trust domain of a tenant cannot be changed", "make another tenant")
	}
	if w.demo != before.demo {
		return nil, problem(Refused, "demo_fixed", "a tenant cannot become a demonstration, nor stop being one", "make another tenant")
	}
	w, wait, err := t.propose(ctx, author, w, next, done)
	if err != nil {
		return nil, err
	}
	if changed := lines(next, done, before.resources); len(changed)+len(wait.held)+len(wait.ended) > 0 {
		_, err = t.log.Append(ctx, record.Draft{Type: "resource.applied", Actor: "person:" + author,
			Body:   appliedBody{changed, wait.lines(before.resources), wait.ended, from},
			Change: func(tx record.Tx) error { return errors.Join(putAll(tx, next, changed), wait.put(tx)) }})
		if err != nil {
			return nil, err
		}
		t.world = w
		t.endForeign(before, w)
		if err := t.trust(ctx, w); err != nil {
			return nil, err
		}
	}
	return t.withPending(ctx, author, done)
}

// lapseChanged ends the certifications of boundaries that an apply has changed, and
// of those behind which nobody stands any more.
func (t *tenant) lapseChanged(ctx context.Context) {
	w := t.current()
	for _, a := range w.agents {
		c, err := t.certs.Live(a.name, action.Production)
		if err != nil {
			continue
		}
		t.drift(ctx, a, c.Manifest, lapseChanged, drifted(a, c.Manifest))
		if code, why := t.unsupported(ctx, w, a, c); code != "" {
			t.lapse(ctx, a.name, certify.Lapse{Code: code, Why: why})
		}
	}
}

// drifted says in what the declared boundary of an agent is not the certified one.
func drifted(a *agent, certified boundary.Manifest) []boundary.Change {
	now := boundary.Measure{}
	for _, f := range a.declared.Facts {
		now[f.Name] = f.Value
	}
	return append(certified.Drift(now), undeclared(certified, a.declared)...)
}

// subject of what people approve: object kind "approved", id kind/name, holds
// the digest that was approved last.
type approved struct {
	Digest   action.Digest `json:"digest"`
	Approval string        `json:"approval"`
	At       time.Time     `json:"at"`
}

const kindApproved = "approved"

// approvalValid is how long a declared thing may wait for its approval.
const approvalValid = 7 * 24 * time.Hour

// askApprovals makes the requests that are missing: one for each capability and
// each agent's boundary whose digest is not the approved one. again are the resources of
// which a no is no answer any more.
func (t *tenant) askApprovals(ctx context.Context, w *world, again map[string]bool) (map[string]string, error) {
	if err := t.withdrawSuperseded(ctx, w); err != nil {
		return nil, err
	}
	pending := map[string]string{} // kind/name to approval
	asked := map[string]string{}   // kind/name/digest to approval
	err := t.approvals.List(ctx, approval.Pending, func(a approval.Approval) error {
		asked[string(a.Statement.Kind)+"/"+a.Statement.Subject+"/"+string(a.Statement.Digest)] = a.ID()
		return nil
	})
	if err != nil {
		return nil, err
	}
	ask := func(kind approval.Kind, id string, st approval.Statement, authors []string) error {
		key := string(kind) + "/" + st.Subject
		ok, err := t.isApproved(ctx, key, st.Digest)
		if err != nil || ok {
			return err
		}
		if have := asked[key+"/"+string(st.Digest)]; have != "" {
			pending[id] = have
			return nil
		}
		if no, err := t.rejected(ctx, key, st.Digest); err != nil || no && !again[id] {
			return err
		}
		slices.Sort(authors)
		st.Kind, st.Role, st.Excluded = kind, string(resource.RoleApprover), slices.Compact(authors)
		out, err := t.approvals.Request(ctx, approval.Draft{Statement: st, Valid: approvalValid})
		pending[id] = out.Nonce
		return err
	}
	proposed, err := t.proposed(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range slices.Sorted(maps.Keys(proposed)) {
		p := proposed[id]
		st, authors, err := w.askFor(p)
		if err != nil {
			return nil, err
		}
		if err := ask(approval.Resource, id, st, authors); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.capabilities)) {
		r, spec := w.resources[resource.KindCapability+"/"+name], w.capabilities[name]
		st := approval.Statement{Subject: name, Digest: r.Digest, Details: map[string]string{
			"version": spec.Version, "author": r.Author, "description": spec.Description, "reads": strings.Join(spec.Reads, ", "),
			"credentials": strings.Join(spec.Credentials, ", "), "audiences": strings.Join(spec.Audiences, ", "), "delegates": delegatesOf(spec), "budget": fmt.Sprintf("%d actions in %d s", spec.Budgets.Actions, spec.Budgets.Seconds),
			"stages": stagesOf(spec)}}
		for name, line := range operationsOf(spec) {
			st.Details["operation."+name] = line
		}
		if err := ask(approval.Capability, r.id(), st, []string{r.Author}); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.agents)) {
		a := w.agents[name]
		if err := ask(approval.Boundary, resource.KindAgent+"/"+name, a.askFor(), w.authors(a)); err != nil {
			return nil, err
		}
	}
	return pending, nil
}

// withdrawSuperseded closes the questions that nobody can answer to any effect: of
// a capability, boundary or certification that is not what is declared now, and of
// actions of an agent that has been changed since.
func (t *tenant) withdrawSuperseded(ctx context.Context, w *world) error {
	certs, err := t.certs.History(ctx, "")
	if err != nil {
		return err
	}
	proposed, err := t.proposed(ctx)
	if err != nil {
		return err
	}
	changed := map[string]bool{} // certifications of a boundary that is declared otherwise now
	for _, c := range certs {
		a := w.agents[c.Agent]
		changed[c.ID] = a == nil || len(drifted(a, c.Manifest)) > 0
	}
	err = t.approvals.Withdraw(ctx, "superseded: another version is declared now", func(a approval.Approval) bool {
		s := a.Statement
		switch s.Kind {
		case approval.Capability:
			r, ok := w.resources[resource.KindCapability+"/"+s.Subject]
			return !ok || r.Digest != s.Digest
		case approval.Boundary:
			x := w.agents[s.Subject]
			return x == nil || x.declared.Digest() != s.Digest || a.State == approval.Pending && !maps.Equal(x.askFor().Details, s.Details)
		case approval.Certification:
			return a.State == approval.Pending && changed[s.Subject]
		case approval.Resource:
			return a.State == approval.Pending && !w.asks(proposed[s.Subject], s)
		}
		return false
	})
	return errors.Join(err, t.approvals.WithdrawStale(ctx))
}

// stagesOf is where tasks of a capability may run, for people.
func stagesOf(spec *capability.Spec) string {
	var out []string
	for _, s := range spec.Stages {
		if s == action.Shadow {
			s += " (reads production, with no certification)"
		}
		out = append(out, string(s))
	}
	return strings.Join(out, ", ")
}

// delegatesOf is what other agents can be given to do, for people.
func delegatesOf(spec *capability.Spec) string {
	var out []string
	for _, d := range spec.Delegates {
		out = append(out, d.Capability+" to agent "+d.Agent)
	}
	return strings.Join(out, ", ")
}

// operationsOf is what a capability covers, for people: one line an operation.
func operationsOf(spec *capability.Spec) map[string]string {
	out := map[string]string{}
	for _, o := range spec.Operations {
		line := fmt.Sprintf("at most %d", o.Max)
		for _, f := range slices.Sorted(maps.Keys(o.Where)) {
			w := o.Where[f]
			if w.Any {
				line += ", " + f + " any"
			} else {
				line += ", " + f + " = " + w.Value
			}
			if w.Optional {
				line += " or absent"
			}
		}
		for _, h := range spec.Holds {
			if h.Operation == o.Operation {
				line += ", held for " + h.Approvers
			}
		}
		out[o.Operation] = line
	}
	return out
}

// Resources lists declared resources, of one kind or of all, as canonical JSON.
func (s *Server) Resources(tenantName, kind, name string) ([]json.RawMessage, error) {
	var out []json.RawMessage
	tenants := s.all()
	if kind != resource.KindTenant || tenantName != "" {
		t, err := s.tenant(tenantName)
		if err != nil {
			return nil, err
		}
		tenants = []*tenant{t}
	}
	if kind != "" && resource.NewSpec(kind) == nil {
		return nil, problem(Invalid, "unknown_kind", "there is no kind "+strconv.Quote(kind), "use one of "+strings.Join(resource.Kinds(), ", "))
	}
	for _, t := range tenants {
		w := t.current()
		for _, id := range slices.Sorted(maps.Keys(w.resources)) {
			r := w.resources[id]
			if (kind == "" || r.Kind == kind) && (name == "" || r.Name == name) {
				out = append(out, r.Canonical)
			}
		}
	}
	if name != "" && len(out) == 0 {
		return nil, problem(NotFound, "no_such_resource", "there is no "+kind+" "+strconv.Quote(name), "see: sallyport get "+kind)
	}
	return out, nil
}
