package server_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/examples/helpdesk"
	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/estate/agent"
	"github.com/sallyport-dev/sallyport/internal/estate/provider"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// rig is a server with the sample tenant, in front of the real estate.
type rig struct {
	*testing.T
	s        *server.Server
	estate   *estate.Estate
	provider *provider.Provider
	keys     map[string]ssh.Signer
	ports    helpdesk.Ports
}

const providerKey = "sk-estate-" + "0123456789abcdef0123456789abcdef"

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, keys: map[string]ssh.Signer{}}
	var err error
	if r.estate, err = estate.Serve(t.Context(), estate.Config{AdminAddr: "127.0.0.1:0"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.estate.Close() })
	if r.provider, err = provider.Serve(t.Context(), provider.Config{Key: providerKey, Model: "scripted-1", Behaviour: provider.Honest, Pace: 100 * time.Millisecond, Patience: 60}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.provider.Close() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	admin := &http.Server{Handler: r.provider.Admin()}
	go admin.Serve(l)
	t.Cleanup(func() { admin.Close() })
	port := func(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }
	r.ports = helpdesk.Ports{Production: port(r.estate.Addr(estate.Production)), Sandbox: port(r.estate.Addr(estate.Sandbox)),
		Provider: port(r.provider.URL()), EstateAdmin: port(r.estate.AdminURL()), ProviderAdmin: port(l.Addr().String())}
	r.open(t.TempDir())
	r.apply()
	for _, stage := range []estate.Stage{estate.Sandbox, estate.Production} {
		for name, app := range map[string]estate.App{"iam-helpdesk": estate.IAM, "tickets-helpdesk": estate.Tickets} {
			r.secret(name+"/"+string(stage), r.estate.Credentials(stage, app).Password.Reveal())
		}
	}
	r.secret("provider-key", providerKey)
	return r
}

func (r *rig) open(dir string) {
	r.Helper()
	var err error
	if r.s, err = server.Open(r.Context(), server.Config{Data: dir}); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if err := r.s.Close(); err != nil {
			r.Error(err)
		}
	})
}

func as(person string) server.Caller { return server.Caller{UID: os.Getuid(), Person: person} }

func (r *rig) secret(name, value string) {
	r.Helper()
	if err := r.s.PutSecret(r.Context(), "", as("sven"), name, []byte(value)); err != nil {
		r.Fatal(err)
	}
}

// apply declares the sample tenant with fresh keys for its people.
func (r *rig) apply() {
	r.Helper()
	read := func(path string) ([]byte, error) {
		switch {
		case path == "estate-ca.pem":
			return r.estate.CAPEM(), nil
		case path == "provider-ca.pem":
			return r.provider.CAPEM(), nil
		case strings.HasPrefix(path, "keys/"):
			return r.key(strings.TrimSuffix(strings.TrimPrefix(path, "keys/"), ".pub")), nil
		}
		return fs.ReadFile(helpdesk.Files, path)
	}
	files, err := helpdesk.Render(r.ports)
	if err != nil {
		r.Fatal(err)
	}
	var sources []resource.Source
	for n, b := range files {
		sources = append(sources, resource.Source{Name: n, Data: b})
	}
	all, err := resource.Decode(sources)
	if err != nil {
		r.Fatal(err)
	}
	if err := resource.Inline(all, func(_, path string) ([]byte, error) { return read(path) }); err != nil {
		r.Fatal(err)
	}
	if _, err := r.s.Apply(r.Context(), as("noor"), all); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) key(person string) []byte {
	if r.keys[person] == nil {
		_, priv, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			r.Fatal(err)
		}
		if r.keys[person], err = ssh.NewSignerFromKey(priv); err != nil {
			r.Fatal(err)
		}
	}
	return ssh.MarshalAuthorizedKey(r.keys[person].PublicKey())
}

// approveAll signs everything that waits, as one person.
func (r *rig) approveAll(ctx context.Context, person string) int {
	list, err := r.s.Approvals(ctx, "", approval.Pending)
	if err != nil {
		if ctx.Err() == nil {
			r.Error(err)
		}
		return 0
	}
	n := 0
	for _, a := range list {
		sig, err := approval.Sign(a.Statement, r.keys[person])
		if err != nil {
			r.Error(err)
			continue
		}
		if _, err := r.s.Approve(ctx, "", a.ID(), person, sig); err != nil {
			r.Logf("approve %s %s: %v", a.Statement.Kind, a.Statement.Subject, err)
			continue
		}
		n++
	}
	return n
}

// approver signs whatever comes until the test is over: a scripted approver.
func (r *rig) approver(person string) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			r.approveAll(ctx, person)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	r.Cleanup(func() { cancel(); <-done })
}

func (r *rig) certify() certify.Certification {
	r.Helper()
	c, err := r.s.Certify(r.Context(), "", as("mara"), "helpdesk", "", func(s string) { r.Log(s) })
	if err != nil {
		r.Fatal(err)
	}
	if c.State == certify.Failed {
		r.Fatalf("certification failed: %+v %v", c.Scenarios, c.Shortfall)
	}
	for range 100 {
		all, err := r.s.Certifications(r.Context(), "", "helpdesk")
		if err != nil {
			r.Fatal(err)
		}
		for _, x := range all {
			if x.ID == c.ID && x.State == certify.Live {
				return x
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	r.Fatal("the certification did not become live")
	return c
}

func (r *rig) harness(out *bytes.Buffer, args ...string) server.Harness {
	self, err := os.Executable()
	if err != nil {
		r.Fatal(err)
	}
	return server.Harness{Path: self, Args: append([]string{"sample-agent"}, args...), Stdout: out, Stderr: out}
}

func (r *rig) run(stage action.Stage, args ...string) (task.Task, string) {
	r.Helper()
	return r.runFor(stage, "jo", "4711", args...)
}

func (r *rig) runFor(stage action.Stage, user, ticket string, args ...string) (task.Task, string) {
	r.Helper()
	x, err := r.s.OpenTask(r.Context(), "", as("dana"), server.Intent{Capability: "reset-mfa", Stage: stage, Params: map[string]string{"user": user, "ticket": ticket}})
	if err != nil {
		r.Fatal(err)
	}
	var out bytes.Buffer
	running, err := r.s.Run(r.Context(), "", x.ID, r.harness(&out, args...))
	if err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Minute)
	defer cancel()
	_, x, err = running.Wait(ctx)
	if err != nil {
		r.Errorf("%v\n%s", err, &out)
	}
	return x, out.String()
}

func TestHonestAgentInTheSandbox(t *testing.T) {
	r := newRig(t)
	if r.approveAll(t.Context(), "ines") < 2 {
		t.Fatal("capability and boundary were not approved")
	}
	r.approver("ines")
	x, out := r.run(action.Sandbox)
	t.Log(out)
	if x.State != task.Closed {
		t.Fatalf("got %s: %s", x.State, x.Why)
	}
	st := r.estate.Copy(estate.Sandbox).State()
	for _, u := range st.Users {
		if u.ID == "jo" && u.MFA != "reset-required" {
			t.Errorf("jo's MFA is %s", u.MFA)
		}
	}
	for app, ss := range st.Sessions {
		if len(ss) > 0 {
			t.Errorf("%s still has %d sessions", app, len(ss))
		}
	}
	_ = agent.SystemPrompt()
}

func TestStory(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	if r.approveAll(ctx, "noor") != 0 {
		t.Fatal("the author approved her own change")
	}
	if _, err := r.s.OpenTask(ctx, "", as("dana"), server.Intent{Capability: "reset-mfa", Params: map[string]string{"user": "jo", "ticket": "4711"}}); err == nil {
		t.Fatal("a task was opened under a capability that nobody approved")
	}
	r.approver("ines")
	r.await("approvals", func() bool { l, _ := r.s.Approvals(ctx, "", approval.Pending); return len(l) == 0 })
	cert := r.certify()
	for _, f := range cert.Manifest.Facts {
		t.Logf("%-20s %-9s %s", f.Name, f.Grade, f.Value)
	}

	x, out := r.run(action.Production)
	if x.State != task.Closed {
		t.Fatalf("got %s: %s\n%s", x.State, x.Why, out)
	}
	if got := r.user("jo"); got != "reset-required" {
		t.Errorf("jo's MFA is %s", got)
	}

	// The model falls for what a ticket says.
	before := r.estate.Copy(estate.Production).State()
	if err := r.estate.Copy(estate.Production).SetHostile("ticket-text"); err != nil {
		t.Fatal(err)
	}
	r.provider.SetBehaviour(provider.Gullible)
	x, out = r.runFor(action.Production, "sam", "4712")
	t.Logf("%s %s\n%s", x.State, x.Why, out)
	after := r.estate.Copy(estate.Production).State()
	if len(after.Evil) != len(before.Evil) || len(after.Sent) != len(before.Sent) || members(after) != members(before) {
		t.Errorf("the estate was changed")
	}
	r.provider.SetBehaviour(provider.Honest)

	// The provider answers with another model.
	r.provider.SetModel("scripted-2")
	x, out = r.run(action.Production)
	if x.State != task.Revoked || x.Code != "lapsed" {
		t.Errorf("got %s %s %s\n%s", x.State, x.Code, x.Why, out)
	}
	if _, err := r.s.OpenTask(ctx, "", as("dana"), server.Intent{Capability: "reset-mfa", Params: map[string]string{"user": "jo", "ticket": "4711"}}); err == nil {
		t.Error("a task was opened without a live certification")
	}
	for app, ss := range r.estate.Copy(estate.Production).State().Sessions {
		if len(ss) > 0 {
			t.Errorf("%s still has %d sessions", app, len(ss))
		}
	}
}

func members(s estate.State) string {
	for _, g := range s.Groups {
		if g.ID == "global-administrators" {
			return strings.Join(g.Members, " ")
		}
	}
	return "?"
}

func (r *rig) user(id string) string {
	for _, u := range r.estate.Copy(estate.Production).State().Users {
		if u.ID == id {
			return u.MFA
		}
	}
	return "?"
}

func (r *rig) await(what string, ok func() bool) {
	r.Helper()
	for range 200 {
		if ok() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	r.Fatalf("waited too long for %s", what)
}
