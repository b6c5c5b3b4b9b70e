package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/examples/helpdesk"
	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/capability"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/policy"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/internal/store"
)

// Names in the sample tenant.
const (
	tenantName     = "brightwell"
	agentName      = "helpdesk"
	capabilityName = "reset-mfa"
	policySetName  = "company"
	taskName       = "bench"
	iamHost        = "iam.brightwell.localhost"
)

var taskParams = map[string]string{"user": "jo", "ticket": "4711"}

// sample is the sample tenant, with its applications at a port of ours.
type sample struct {
	resources  []resource.Resource
	connectors *connector.Set
	keys       map[string]ssh.Signer // of the people
}

// newSample reads the shipped example. Both stages are at port of the loopback,
// with certificates of ca.
func newSample(port string, ca []byte) (*sample, error) {
	files, err := helpdesk.Render(helpdesk.Ports{Production: port, Sandbox: port})
	if err != nil {
		return nil, err
	}
	var sources []resource.Source
	for n, b := range files {
		if !strings.Contains(n, "/") { // suites, and the agent that has them, are folders of their own
			sources = append(sources, resource.Source{Name: n, Data: b})
		}
	}
	s := &sample{keys: map[string]ssh.Signer{}}
	if s.resources, err = resource.Decode(sources); err != nil {
		return nil, err
	}
	err = resource.Inline(s.resources, func(_, path string) ([]byte, error) {
		switch {
		case strings.HasSuffix(path, "-ca.pem"):
			return ca, nil
		case strings.HasPrefix(path, "keys/"):
			return s.key(strings.TrimSuffix(strings.TrimPrefix(path, "keys/"), ".pub"))
		}
		return fs.ReadFile(helpdesk.Files, path)
	})
	if err != nil {
		return nil, err
	}
	s.connectors, err = resource.Connectors(s.resources, tenantName)
	return s, err
}

func (s *sample) key(person string) ([]byte, error) {
	if s.keys[person] == nil {
		_, priv, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, err
		}
		if s.keys[person], err = ssh.NewSignerFromKey(priv); err != nil {
			return nil, err
		}
	}
	return ssh.MarshalAuthorizedKey(s.keys[person].PublicKey()), nil
}

// guardrails parses the tenant's and the shipped policies, and as many more as
// it takes to have n; shape writes the i-th of them.
func (s *sample) guardrails(n int, shape func(i int) string) (*policy.Set, error) {
	own, ok := resource.Of[policy.SetSpec](s.resources, tenantName, policySetName)
	if !ok {
		return nil, fmt.Errorf("the sample has no policy set %s", policySetName)
	}
	files := own.Files()
	set, err := policy.Parse(files)
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	for i := range n - len(set.IDs()) {
		text.WriteString(shape(i))
		text.WriteByte('\n')
	}
	files["bench.cedar"] = []byte(text.String())
	return policy.Parse(files)
}

// scoped is a guardrail as companies write most of them: about one operation of
// one application.
func scoped(i int) string {
	return fmt.Sprintf(`@id("bench/p%d") forbid (principal, action == Action::"app%d.thing.change", resource == App::"app%d")
when { context.count > %d && context.labels.contains("pii") };`, i, i, i, i%7)
}

// grant compiles what one task of the sample may do.
func (s *sample) grant(task string) (*policy.Set, error) {
	c, ok := resource.Of[capability.Spec](s.resources, tenantName, capabilityName)
	if !ok {
		return nil, fmt.Errorf("the sample has no capability %s", capabilityName)
	}
	in, err := c.Instantiate(capabilityName, taskParams)
	if err != nil {
		return nil, err
	}
	return policy.CompileGrant(resource.Grant(in, tenantName, agentName, task, resource.DeclaredIn(s.resources, tenantName)))
}

// read is the action of a warm read, which the grant covers: what door 2 makes
// of GET /users/jo.
func (s *sample) read(origin string) (action.Action, error) {
	return s.action(action.Request{Method: "GET", Origin: origin, Path: "/users/jo", Destination: "empty"}, "")
}

// write is one that the grant does not cover.
func (s *sample) write(origin string) (action.Action, error) {
	const form = "_csrf=0123456789abcdef"
	return s.action(action.Request{Method: "POST", Origin: origin, Path: "/users/ana/disable", Destination: "document", BodyType: "application/x-www-form-urlencoded",
		BodySize: int64(len(form)), BodyDigest: canon.Digest([]byte(form))}, form)
}

func (s *sample) action(r action.Request, body string) (action.Action, error) {
	m, err := s.connectors.Recognize(action.Production, r, []byte(body))
	if err != nil {
		return action.Action{}, err
	}
	if !m.Matched {
		return action.Action{}, fmt.Errorf("%s %s is not recognised: %s", r.Method, r.Path, m.Why)
	}
	d, err := canon.DigestOf(r)
	return action.Action{Tenant: tenantName, Task: taskName, Agent: agentName, Surface: action.Egress, Source: "browser", Operation: m.Operation,
		Effect: m.Effect, App: m.Connector, Params: m.Params, Labels: m.Labels, Request: &r, Explained: "a-0", Digest: d}, err
}

// disk is a ledger with one tenant on SQLite in a folder of its own.
type disk struct {
	store  *store.SQLite
	ledger *ledger.Ledger
	log    *ledger.Log
}

func newDisk(ctx context.Context, dir string) (*disk, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := seal.Create(filepath.Join(dir, "root"))
	if err != nil {
		return nil, err
	}
	d := &disk{}
	if d.store, err = store.OpenSQLite(dir); err != nil {
		return nil, err
	}
	if d.ledger, err = ledger.Open(ctx, d.store, root); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if d.log, err = d.ledger.Create(ctx, tenantName, tenantName+".example/log"); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *disk) Close() error {
	var errs []error
	if d.ledger != nil {
		errs = append(errs, d.ledger.Close())
	}
	return errors.Join(append(errs, d.store.Close())...)
}

// decider speaks policy to the gate, as a server's task does.
type decider struct{ guardrails, grant *policy.Set }

func (d decider) Decide(f gate.Facts) action.Decision {
	return policy.Evaluate(d.guardrails, d.grant, input(f))
}

func input(f gate.Facts) policy.Input {
	return policy.Input{Action: f.Action, Stage: f.Stage, Tier: f.Tier, TaskParams: f.Params, Labels: f.Labels, Counts: f.Counts,
		Certified: f.Certified, Demo: true, Source: f.Action.Source}
}

type nobody struct{}

func (nobody) Open(context.Context, action.Action, action.Decision) (gate.Hold, error) {
	return nil, errors.New("nobody can be asked")
}

// newGate numbers its actions.
func newGate() *gate.Gate {
	var n atomic.Int64
	return gate.New(func() string { return fmt.Sprintf("a-%020d", n.Add(1)) })
}

// admit lets one task of the sample act on the production stage.
func (s *sample) admit(g *gate.Gate, d *disk, guardrails *policy.Set, task string) error {
	grant, err := s.grant(task)
	if err != nil {
		return err
	}
	return g.Admit(gate.Admission{Tenant: tenantName, Task: task, Agent: agentName, Stage: action.Production, Tier: "privileged",
		Params: taskParams, Policy: decider{guardrails, grant}, Holds: nobody{}, Log: d.log, Deadline: time.Now().Add(12 * time.Hour),
		MaxActions: 1 << 40, HoldLimit: time.Second, Certified: func() error { return nil }})
}
