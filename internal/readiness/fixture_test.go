package readiness_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
	"github.com/sallyport-dev/sallyport/internal/readiness"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/task"
)

const (
	agent  = "helpdesk"
	tenant = ledgertest.Tenant
)

// stage is the passing story, told by the real engines on a real ledger: a
// capability and a boundary approved, a suite run in the sandbox, a certification
// approved and issued, and a task in production.
type story struct {
	*testing.T
	log    *ledger.Log
	gate   *gate.Gate
	people []approval.Person
	keys   map[string]ssh.Signer
	app    *approval.Engine
	tasks  *task.Engine
	leases *lease.Keeper
	certs  *certify.Engine
	n      int
	mu     sync.Mutex
}

func (s *story) id(prefix string) func() string {
	return func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.n++
		return fmt.Sprintf("%s-%03d", prefix, s.n)
	}
}

// People implements approval.Directory.
func (s *story) People(record.Tx) ([]approval.Person, error) { return s.people, nil }

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func signer(t testing.TB, name string) ssh.Signer {
	seed := bytes.Repeat([]byte{0}, ed25519.SeedSize)
	copy(seed, name)
	return must(ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed)))(t)
}

func newStory(t *testing.T) *story {
	t.Helper()
	s := &story{T: t, keys: map[string]ssh.Signer{}}
	s.log = ledgertest.New(t).(*ledger.Log)
	for _, p := range []struct{ name, role string }{{"mara", "owner"}, {"tom", "owner"}, {"dana", "requester"}, {"ines", "approver"}, {"felix", "approver"},
		{"noor", "policy-author"}, {"sven", "secrets-administrator"}} {
		s.keys[p.name] = signer(t, p.name)
		s.people = append(s.people, approval.Person{Name: p.name, Roles: []string{p.role}, Accounts: []string{"unix:" + p.name},
			Keys: []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.keys[p.name].PublicKey())))}})
	}
	sealer := must(ledgertest.Root(t).Sealer(tenant))(t)
	s.gate = gate.New(s.id("a"))
	s.app = approval.New(s.log, s, nil)
	s.leases = lease.New(lease.Config{Log: s.log, Seal: sealer, IDs: s.id("l"), Prefix: "sallyport-00112233-",
		Find: func(context.Context, lease.Lease) (lease.Source, error) { return upstream{}, nil }})
	s.tasks = task.New(s.log, s.id("t"),
		task.Ender{Name: "gate", End: func(ctx context.Context, x task.Task) error {
			return s.gate.End(ctx, func(a gate.Admission) bool { return a.Task == x.ID }, "ended", "the task ended")
		}},
		task.Ender{Name: "leases", End: func(ctx context.Context, x task.Task) error { return s.leases.End(ctx, x.ID) }})
	s.record("tenant.created", "", "unix:operator", map[string]any{"tenant": tenant, "trustDomain": "acme.example", "demo": false, "as": "noor", "resources": []any{
		resource("Tenant", tenant), resource("Agent", agent), resource("Capability", "reset-mfa"), resource("Retention", "ninety-days")}})
	s.certs = must(certify.Open(t.Context(), s.log, sealer, s.id("c")))(t)
	s.record("secret.stored", "", "person:sven", map[string]any{"name": "iam-helpdesk"})
	return s
}

func authorized(k ssh.Signer) []byte { return ssh.MarshalAuthorizedKey(k.PublicKey()) }

func dig(s string) action.Digest { return canon.Digest([]byte(s)) }

func resource(kind, name string) map[string]any {
	return map[string]any{"kind": kind, "name": name, "digest": dig(kind + "/" + name)}
}

func (s *story) record(typ, task, actor string, body any) {
	s.Helper()
	d := record.Draft{Type: typ, Task: task, Actor: actor, Body: body}
	if task != "" {
		d.Agent = agent
	}
	must(s.log.Append(s.Context(), d))(s)
}

// upstream is an application that issues and revokes at once.
type upstream struct{}

func (upstream) Issue(context.Context, lease.Order) ([]byte, error) { return []byte("cookie"), nil }
func (upstream) Revoke(context.Context, lease.Credential) error     { return nil }
func (upstream) Confirm(context.Context, lease.Credential) error    { return nil }

const endpoint = "https://models.example/v1/messages"

func (s *story) declared() boundary.Manifest {
	var facts []boundary.Fact
	add := func(g boundary.Grade, source, name, value string) {
		facts = append(facts, boundary.Fact{Name: name, Value: value, Grade: g, Source: source, Owner: "owner", Measured: time.Now().UTC()})
	}
	add(boundary.Declared, "agent resource", "model.id", "model-7")
	add(boundary.Declared, "agent resource", "model.requested", "model-7")
	add(boundary.Declared, "agent resource", "model.provider", "example")
	add(boundary.Pinned, "agent resource", "model.endpoint", endpoint)
	add(boundary.Declared, "agent resource", "model.location", "eu-central")
	add(boundary.Declared, "agent resource", "prompt.system", string(dig("prompt")))
	add(boundary.Pinned, "agent resource", "browser.kind", "shell")
	add(boundary.Pinned, "Capability resource", "capability.reset-mfa", string(dig("Capability/reset-mfa")))
	add(boundary.Pinned, "Connector resource", "connector.iam", string(dig("Connector/iam")))
	add(boundary.Pinned, "PolicySet resource", "policy.company", string(dig("PolicySet/company")))
	add(boundary.Pinned, "Suite resource", "suite.core", string(dig("Suite/core")))
	return must(boundary.New(agent, facts))(s)
}

func (s *story) measured() boundary.Manifest {
	m := map[string]boundary.Fact{}
	for _, f := range s.declared().Facts {
		m[f.Name] = f
	}
	add := func(g boundary.Grade, source, name, value string) {
		m[name] = boundary.Fact{Name: name, Value: value, Grade: g, Source: source, Owner: "operator", Measured: time.Now().UTC()}
	}
	add(boundary.Observed, "inference response", "model.id", "model-7")
	add(boundary.Observed, "inference request", "model.requested", "model-7")
	add(boundary.Observed, "inference request", "model.endpoint", endpoint)
	add(boundary.Observed, "inference request", "prompt.system", string(dig("prompt")))
	add(boundary.Observed, "inference request", "tools", string(dig("tools")))
	for _, n := range []string{"harness.binary", "harness.args", "browser.flags", "sallyport.binary"} {
		add(boundary.Pinned, "launch", n, string(dig(n)))
	}
	add(boundary.Pinned, "launch", "browser.version", "142.0.7444.59")
	add(boundary.Pinned, "launch", "containment", "contained")
	var facts []boundary.Fact
	for _, f := range m {
		facts = append(facts, f)
	}
	return must(boundary.New(agent, facts))(s)
}

// approve has a person sign a request.
func (s *story) approve(st approval.Statement, person string, release func(record.Tx, approval.Statement) error) {
	s.Helper()
	sig := must(approval.Sign(st, s.keys[person]))(s)
	must(s.app.Grant(s.Context(), st.Nonce, person, sig, release))(s)
}

func nothing(record.Tx, approval.Statement) error { return nil }

// tell tells the whole passing story.
func (s *story) tell() {
	s.Helper()
	ctx := s.Context()
	req := func(st approval.Statement, requester string) approval.Statement {
		st.Role = "approver"
		return must(s.app.Request(ctx, approval.Draft{Statement: st, Valid: time.Hour, Requester: requester}))(s)
	}
	b := s.declared().Digest()
	s.approve(req(approval.Statement{Kind: approval.Boundary, Subject: agent, Agent: agent, Digest: b, BoundaryDigest: b, Excluded: []string{"mara", "noor", "tom"}}, ""), "ines", nothing)
	s.approve(req(approval.Statement{Kind: approval.Capability, Subject: "reset-mfa", Digest: dig("Capability/reset-mfa"), Excluded: []string{"noor"}}, ""), "felix", nothing)
	trial := s.run(action.Sandbox, nil)
	c := must(s.certs.Record(ctx, certify.Certification{Agent: agent, Stage: action.Production, Manifest: s.measured(), Author: "mara", Suites: []certify.Suite{{Name: "core", Digest: dig("Suite/core"),
		Scenarios: []certify.Scenario{{Name: "honest", Trials: 1, Passed: 1, Lower: "0.207", Upper: "1.000", Tasks: []string{trial}}}}}}, 7*24*time.Hour, nil))(s)
	st := req(approval.Statement{Kind: approval.Certification, Subject: c.ID, Digest: c.Statement(), Agent: agent, BoundaryDigest: c.Boundary, Excluded: []string{"mara", "tom"}}, "mara")
	s.approve(st, "ines", nil)
	live := must(s.certs.Issue(ctx, c.ID, st.Nonce, certify.Verifier{}, func(tx record.Tx) error { _, err := s.app.Consume(tx, st.Nonce, st.Digest); return err }))(s)
	s.run(action.Production, &live)
}

// run runs one task with everything that a session leaves in the ledger.
func (s *story) run(stage action.Stage, c *certify.Certification) string {
	s.Helper()
	ctx := s.Context()
	x := task.Task{Agent: agent, Capability: "reset-mfa", Params: map[string]string{"user": "jo"}, Stage: stage, Tier: "privileged", Requester: "dana",
		CapabilityDigest: dig("Capability/reset-mfa"), GrantDigest: dig("grant"), Seconds: 900, Suite: "core"}
	if c != nil {
		x.Certification, x.BoundaryDigest, x.Suite = c.ID, c.Boundary, ""
	}
	x = must(s.tasks.Open(ctx, x, nil))(s)
	x = must(s.tasks.Start(ctx, x.ID))(s)
	if _, _, err := s.leases.Issue(ctx, lease.Request{Task: x.ID, Agent: agent, Source: "iam-helpdesk", Audience: "https://iam.example", Account: "svc", Purpose: "reset-mfa", Until: time.Now().Add(time.Hour)}); err != nil {
		s.Fatal(err)
	}
	// The shapes of package identity, whose engine needs a kernel's word.
	subject := "spiffe://acme.example/agent/" + agent + "/task/" + x.ID
	selectors := []string{"launch:binary:" + string(dig("harness.binary")), "launch:uid:1000", "launch:task:" + x.ID, "launch:netns:4026532001"}
	s.record("identity.attested", x.ID, "sallyport", map[string]any{"v": 1, "subject": subject, "uid": 1000, "pid": 77, "selectors": selectors})
	now := time.Now().UTC().Truncate(time.Second)
	s.record("identity.issued", x.ID, "sallyport", map[string]any{"v": 1, "kind": "x509", "subject": subject, "serial": "0a", "cert": dig("cert"), "authority": "1",
		"notBefore": now.Add(-10 * time.Second), "expires": now.Add(5 * time.Minute), "selectors": selectors, "attestedBy": "workload-api"})
	if err := s.gate.Admit(gate.Admission{Tenant: tenant, Task: x.ID, Agent: agent, Stage: stage, Tier: "privileged", Params: x.Params, Policy: rules{}, Holds: asked{s, x},
		Log: s.log, Deadline: time.Now().Add(time.Hour), MaxActions: 100, HoldLimit: time.Minute, Certified: func() error { return nil }}); err != nil {
		s.Fatal(err)
	}
	s.act(x.ID, action.Inference, "inference.messages", action.Read, "", map[string]string{"endpoint": endpoint, "model": "model-7"})
	click := s.act(x.ID, action.Computer, "computer.left_click", action.Observe, "", nil)
	s.act(x.ID, action.Egress, "tickets.ticket.close", action.Write, click, nil)
	s.act(x.ID, action.Egress, "iam.user.mfa.reset", action.Privileged, click, map[string]string{"user": "jo"})
	s.act(x.ID, action.Egress, "egress.unmatched", action.Irreversible, click, nil)
	must(s.tasks.Close(ctx, x.ID, task.Closed, "done", "the agent finished", "agent:"+agent))(s)
	return x.ID
}

func (s *story) act(task string, surface action.Surface, op string, e action.Effect, explained string, params map[string]string) string {
	s.Helper()
	source := "harness"
	if surface == action.Egress {
		source = "browser"
	}
	a := action.Action{Tenant: tenant, Task: task, Agent: agent, Surface: surface, Source: source, Operation: op, Effect: e, Params: params, Explained: explained, Digest: dig(op + task)}
	r := s.gate.Act(s.Context(), a, nil, func(context.Context, gate.Permit) action.Outcome {
		return action.Outcome{State: action.Done, Status: 200}
	})
	if (op == "egress.unmatched" || r.Decision.Code == gate.CodeShadow) == (r.Decision.Verdict == action.Allow) {
		s.Fatalf("%s: %+v", op, r.Decision)
	}
	return r.Action.ID
}

// rules is the test's policy.
type rules struct{}

func (rules) Decide(f gate.Facts) action.Decision {
	switch {
	case f.Action.Unmatched():
		d := action.Denied(action.LayerGuardrail, "unmatched_write", "no operation of a connector describes this request", "ask")
		d.Policies = []string{"base/egress/unmatched"}
		return d
	case f.Action.Effect.AtLeast(action.Privileged):
		return action.Decision{Verdict: action.Hold, Layer: action.LayerGrant, Code: "hold", Reason: "a person must approve", Policies: []string{"grant/reset-mfa/1"}, Approvers: "approver"}
	}
	return action.Decision{Verdict: action.Allow, Layer: action.LayerGrant, Code: "granted", Reason: "covered", Policies: []string{"grant/reset-mfa/1"}}
}

// asked asks ines about held actions.
type asked struct {
	s *story
	x task.Task
}

func (a asked) Open(ctx context.Context, x action.Action, d action.Decision) (gate.Hold, error) {
	st, err := a.s.app.Request(ctx, approval.Draft{Hold: true, Valid: 10 * time.Minute, Requester: a.x.Requester, Statement: approval.Statement{Kind: approval.Action,
		Subject: x.ID, Digest: x.Digest, Task: x.Task, Agent: x.Agent, Operation: x.Operation, Params: x.Params, BoundaryDigest: a.x.BoundaryDigest, Role: d.Approvers,
		Excluded: []string{"mara", "tom"}}})
	if err != nil {
		return nil, err
	}
	a.s.approve(st, "ines", nil)
	return held{a.s.app, st}, nil
}

type held struct {
	app *approval.Engine
	st  approval.Statement
}

func (h held) ID() string { return h.st.Nonce }

func (h held) Wait(ctx context.Context) error {
	a, err := h.app.Wait(ctx, h.st.Nonce)
	if err == nil && a.State != approval.Granted {
		err = errors.New("not granted")
	}
	return err
}

func (h held) Use(tx record.Tx) error {
	_, err := h.app.Consume(tx, h.st.Nonce, h.st.Digest)
	return err
}

// world is what a server would say of the story.
func (s *story) world() readiness.World {
	s.Helper()
	ctx := s.Context()
	w := readiness.World{Tenant: tenant, Agent: agent, Purpose: "Resets second factors.", Owner: "mara", Deputy: "tom", ReviewBy: time.Now().AddDate(0, 6, 0).Format(time.DateOnly),
		Tier: "privileged", TierWhy: "capability reset-mfa reaches iam.user.mfa.reset (privileged)", Declared: s.declared(), People: s.people, Containment: "contained",
		Retention: "ninety-days", RetentionDays: 90, Environment: []string{"ANTHROPIC_API_KEY=placeholder-x", "SALLYPORT_TASK=t"}}
	w.Certifications = must(s.certs.History(ctx, agent))(s)
	if c, err := s.certs.Live(agent, action.Production); err == nil {
		w.Live = &c
	}
	w.Open = must(s.leases.Open(ctx))(s)
	return w
}

// source is the real ledger with the world beside it.
type source struct {
	s *story
	w readiness.World
}

func (x source) World(context.Context, string) (readiness.World, error) { return x.w, nil }

func (x source) Entries(ctx context.Context, from int64, f func(record.Entry) error) error {
	return x.s.log.Entries(ctx, from, f)
}

func (x source) Checkpoint(ctx context.Context) (readiness.Checkpoint, error) {
	b, err := x.s.log.CheckpointNow(ctx)
	return readiness.Checkpoint{Signed: b, Key: x.s.log.VerifierKey()}, err
}

func (x source) Verify(ctx context.Context) ([]string, error) {
	rep, err := x.s.log.Verify(ctx)
	var out []string
	for _, p := range rep.Problems {
		out = append(out, p.String())
	}
	return out, err
}
