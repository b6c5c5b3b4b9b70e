package server_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/readiness"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// How a change is noticed; a row of the table in docs/certification.md says it.
const (
	atCall   = "at the call"
	atApply  = "at apply"
	inWatch  = "within a second, or before the next privileged action"
	atLaunch = "at the launch, since it is the process's for its life"
	atStart  = "at the server's start, since no task outlives a server"
)

// change is how one fact changes in the test.
type change struct {
	name string // as the table says, with <name> for what people name
	seen string // on record, where that is another
	how  string
	do   func(k *facts)
}

func (c change) fact() string {
	if c.seen != "" {
		return c.seen
	}
	return c.name
}

// edit is a change of the resources by a person.
func edit(person, file, old, text string) func(*facts) {
	return func(k *facts) { k.apply(person, rig.Replace(file, old, text)) }
}

// body is a change of what the harness asks its model.
func body(name string, v any) func(*facts) {
	return func(k *facts) { k.body[name] = v }
}

var changes = []change{
	{"model.requested", "", atCall, body("model", "scripted-0")},
	{"model.id", "", atCall, func(k *facts) { k.model.answer.Model = "scripted-2" }},
	{"model.account", "", atCall, func(k *facts) { k.model.account = "another" }},
	{"model.geo", "", atCall, func(k *facts) { k.model.answer.Usage.Geo = "elsewhere" }},
	{"model.peer", "", atCall, func(k *facts) { k.model.by = 1 }},
	{"model.sampling", "", atCall, body("top_p", 0.5)},
	{"sampling.<name>", "sampling.temperature", atCall, body("temperature", 0.9)},
	{"prompt.system", "", atCall, body("system", "You are an administrator.")},
	{"tools", "", atCall, body("tools", []any{map[string]any{"name": "shell", "input_schema": map[string]any{"type": "object"}}})},

	toolChanges[0], toolChanges[1], toolChanges[2], toolChanges[3], toolChanges[4],

	{"model.endpoint", "", atApply, edit("mara", "agent.yaml", "endpoint: https://127.0.0.1", "endpoint: https://localhost")},
	{"model.provider", "", atApply, edit("mara", "agent.yaml", "provider: anthropic", "provider: another")},
	{"model.location", "", atApply, edit("mara", "agent.yaml", "location: this machine", "location: elsewhere")},
	{"model.kind", "", atApply, edit("mara", "agent.yaml", "scripted: true", "scripted: false")},
	{"model.key", "", atApply, edit("mara", "agent.yaml", "sealed: provider-key", "sealed: another-key")},
	{"model.betas", "", atApply, edit("mara", "agent.yaml", "betas: [computer-use-2025-11-24]", "betas: [computer-use-2025-11-24, another]")},
	{"model.roots", "", atApply, func(k *facts) {
		k.apply("mara", func(files map[string][]byte) {
			files["people.yaml"] = append(slices.Clone(files["people.yaml"]), "---\napiVersion: sallyport/v1\nkind: Person\nmetadata: {name: ola, tenant: brightwell}\nspec: {displayName: Ola, email: ola@brightwell.example, roles: [owner]}\n"...)
			files["provider-ca.pem"] = append(slices.Clone(files["provider-ca.pem"]), k.EstateCA...)
		})
	}},
	{"harness.path", "", atApply, edit("mara", "agent.yaml", "/agent}", "/another}")},
	{"harness.name", "", atApply, func(k *facts) {
		k.apply("mara", rig.Replace("agent.yaml", "harness: {path: "+k.dir+"/agent}", "harness: {name: reference}"))
	}},
	{"browser.kind", "", atApply, edit("mara", "agent.yaml", "kind: shell", "kind: full")},
	{"browser.protocol", "", atApply, edit("mara", "agent.yaml", "kind: shell", "kind: shell, protocol: pinned")},
	{"identity.workload.<n>", "identity.workload.0", atApply, edit("mara", "agent.yaml", "policySets:", "workloads: [{issuer: \"https://ci.example\", claims: {sub: helper}}]\n  policySets:")},
	{"agent.owner", "", atApply, edit("mara", "agent.yaml", "owner: mara\n  deputy: tom", "owner: tom\n  deputy: mara")},
	{"agent.deputy", "", atApply, edit("mara", "agent.yaml", "deputy: tom", "deputy: ola")},
	{"drift.rules", "", atApply, edit("mara", "agent.yaml", "policySets:", "drift: [{facts: [model.account], then: hold}]\n  policySets:")},
	{"connector.<name>", "connector.iam", atApply, edit("noor", "connectors.yaml", "description: The directory,", "description: A directory,")},
	{"capability.<name>", "capability.reset-mfa", atApply, edit("noor", "capability.yaml", "actions: 2000", "actions: 1999")},
	{"policy.<name>", "policy.company", atApply, edit("noor", "policies/company.cedar", "context.request.bodySize > 4000", "context.request.bodySize > 4000000")},
	{"suite.<name>", "suite.helpdesk-core", atApply, edit("noor", "suite.yaml", "required: {success: 20", "required: {success: 21")},
	{"credential.<name>", "credential.iam-helpdesk", atApply, edit("sven", "credentials.yaml", "sealed: iam-helpdesk}", "sealed: another}")},
	{"tier", "", atApply, func(k *facts) {
		k.apply("noor", func(files map[string][]byte) {
			rig.Replace("connectors.yaml", "effect: privileged\n      readBack: {path: \"/api/users/{user}\", pointer: /mfaResetAt", "effect: write\n      readBack: {path: \"/api/users/{user}\", pointer: /mfaResetAt")(files)
			rig.Replace("connectors.yaml", "tool: wipe, effect: privileged", "tool: wipe, effect: write")(files)
		})
	}},

	{"browser.binary", "", inWatch, func(k *facts) { k.touch("browser/chromium") }},
	{"harness.binary", "", inWatch, func(k *facts) { k.touch("agent") }},
	{"harness.files", "", inWatch, func(k *facts) { k.touch("bound/tool") }},

	{"harness.args", "", atLaunch, func(k *facts) { k.harness.Args = []string{"other"} }},
	{"harness.environment", "", atLaunch, func(k *facts) { k.harness.Env = []string{"A=b"} }},
	{"browser.version", "", atLaunch, func(k *facts) { k.launch["browser.version"] = "2" }},
	{"browser.flags", "", atLaunch, func(k *facts) { k.launch["browser.flags"] = "sha256:other" }},

	{"sallyport.binary", "", atStart, nil},
	{"containment", "", atStart, nil},
	{"policy.shipped", "", atStart, nil},
}

// unchanged are facts that this agent has not.
var unchanged = []change{{"model.signature", "", atApply, nil}, {"harness.provenance", "", atLaunch, nil}, {"watch", "", atApply, nil}}

// facts is one server for all changes, and what its agent is made of.
type facts struct {
	*rig.Rig
	t       *testing.T
	model   *speaks
	notes   *notes
	dir     string
	base    func(map[string][]byte)
	harness server.Harness
	launch  map[string]string
	body    map[string]any
	touched map[string][]byte
	by      string // who changed the resources
	from    int64  // where the records of this change begin
}

func newFacts(t *testing.T) *facts {
	k := &facts{t: t, model: &speaks{}, notes: newNotes(t), dir: t.TempDir()}
	var cas [2][]byte
	for i := range cas {
		k.model.certs[i], cas[i] = root(t)
	}
	up := httptest.NewUnstartedServer(k.model)
	up.Config.SetKeepAlivesEnabled(false) // each call is a connection
	up.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		k.model.mu.Lock()
		defer k.model.mu.Unlock()
		return &tls.Config{Certificates: []tls.Certificate{k.model.certs[k.model.by]}}, nil
	}}
	up.StartTLS()
	t.Cleanup(up.Close)
	program, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"agent", "another", "browser/chromium", "bound/tool"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(k.dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(k.dir, name), program, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	k.base = func(files map[string][]byte) {
		rig.Replace("agent.yaml", "harness: {name: reference}", "harness: {path: "+k.dir+"/agent}")(files)
		at := bytes.Index(files["agent.yaml"], []byte("endpoint: "))
		line, _, _ := bytes.Cut(files["agent.yaml"][at:], []byte("\n"))
		rig.Replace("agent.yaml", string(line), "endpoint: "+up.URL+"\n    sampling: {temperature: {max: \"0.3\"}}")(files)
		rig.Replace("tenant.yaml", "  retention: ninety-days", "  issuers: [{issuer: \"https://ci.example\"}]\n  retention: ninety-days")(files)
		files["people.yaml"] = append(slices.Clone(files["people.yaml"]), "---\napiVersion: sallyport/v1\nkind: Person\nmetadata: {name: ola, tenant: brightwell}\nspec: {displayName: Ola, email: ola@brightwell.example, roles: [owner]}\n"...)
		files["provider-ca.pem"] = append(slices.Clone(cas[0]), cas[1]...)
		k.notes.declare(files)
	}
	k.Rig = rig.New(t, rig.Options{Edit: k.base})
	k.Ready(t)
	// After the server looked for what it needs: no browser is started here.
	t.Setenv("SALLYPORT_CHROMIUM", filepath.Join(k.dir, "browser/chromium"))
	return k
}

// reset puts everything back.
func (k *facts) reset() {
	k.t.Helper()
	if k.by != "" {
		k.apply(k.by, nil)
		k.by = ""
	}
	k.model.mu.Lock()
	k.model.by, k.model.account, k.model.garbage = 0, "brightwell", ""
	k.model.answer.Type, k.model.answer.Model, k.model.answer.Usage.Geo = "message", "scripted-1", "eu"
	k.model.mu.Unlock()
	k.notes.is("notes")
	for name, b := range k.touched {
		if err := os.WriteFile(filepath.Join(k.dir, name), b, 0o755); err != nil {
			k.t.Fatal(err)
		}
	}
	k.touched = map[string][]byte{}
	if log, err := k.Server.Log(""); err != nil {
		k.t.Fatal(err)
	} else if h, err := log.Head(context.Background()); err != nil {
		k.t.Fatal(err)
	} else {
		k.from = h.Size
	}
	k.harness = server.Harness{Path: k.dir + "/agent", Bind: []string{k.dir + "/bound"}}
	k.launch = map[string]string{"browser.version": "1", "browser.flags": "sha256:flags"}
	k.body = map[string]any{"model": "scripted-1", "max_tokens": 10, "temperature": 0.2, "system": k.prompt(), "messages": []any{map[string]any{"role": "user", "content": "go on"}}}
}

// prompt is the agent's, as it is declared.
func (k *facts) prompt() string {
	k.t.Helper()
	all, err := k.Resources(k.base)
	if err != nil {
		k.t.Fatal(err)
	}
	for _, r := range all {
		if spec, ok := r.Spec.(*resource.AgentSpec); ok {
			return spec.SystemPrompt.Text
		}
	}
	panic("there is no agent")
}

// touch changes a file, as who can write there does.
func (k *facts) touch(name string) {
	k.t.Helper()
	path := filepath.Join(k.dir, name)
	b, err := os.ReadFile(path)
	if err == nil {
		k.touched[name] = b
		err = os.WriteFile(path, append(slices.Clone(b), 0), 0o755)
	}
	if err != nil {
		k.t.Fatal(err)
	}
}

// apply applies the resources with a change.
func (k *facts) apply(person string, change func(map[string][]byte)) {
	k.t.Helper()
	all, err := k.Resources(func(files map[string][]byte) {
		k.base(files)
		if change != nil {
			change(files)
		}
	})
	if err == nil {
		_, err = k.Server.Apply(k.t.Context(), rig.As(person), all)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	k.by = person
}

// start opens a task and starts it without a browser.
func (k *facts) start(t *testing.T, stage action.Stage) (task.Task, *server.Bare, error) {
	t.Helper()
	x := k.OpenTask(t, rig.Intent(stage, "jo", "4711"))
	b, err := k.Server.StartBare(context.WithoutCancel(t.Context()), x.ID, k.harness, k.launch)
	return x, b, err
}

// call asks the model once.
func (k *facts) call(t *testing.T, b *server.Bare) int {
	t.Helper()
	raw, err := json.Marshal(k.body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(b.Model, "application/json", bytes.NewReader(raw))
	if err != nil {
		return 0 // the task ended while it asked
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 200 {
		t.Logf("the model: %s", text)
	}
	return resp.StatusCode
}

// certify measures a task in the sandbox, and certifies what was seen.
func (k *facts) certify(t *testing.T, other map[string]string) certify.Certification {
	t.Helper()
	return k.certifySeen(t, other, true)
}

// certifySeen does it with the tools called or not.
func (k *facts) certifySeen(t *testing.T, other map[string]string, tools bool) certify.Certification {
	t.Helper()
	rig.Await(t, "the approvals", func() bool { return len(k.Pending(t)) == 0 })
	x, b, err := k.start(t, action.Sandbox)
	if err != nil {
		t.Fatal(err)
	}
	if s := k.call(t, b); s != 200 {
		t.Fatalf("the model answered %d", s)
	}
	if tools && !k.note(t, b) {
		t.Fatal("the tool did not answer")
	}
	now, err := k.Server.Boundary(t.Context(), "", "helpdesk", "")
	if err != nil {
		t.Fatal(err)
	}
	c, err := b.Certify(t.Context(), rig.Passed(now), other)
	if err != nil || c.State != certify.Proposed {
		t.Fatalf("%s %v %v", c.State, c.Shortfall, err)
	}
	if _, err := k.Server.CloseTask(t.Context(), "", rig.As("dana"), x.ID); err != nil {
		t.Fatal(err)
	}
	rig.Await(t, "the certification to become live", func() bool { c = k.Certification(t, c.ID); return c.State != certify.Proposed })
	return c
}

// read is an effect that the task may have: a page of a person.
func (k *facts) read(t *testing.T, b *server.Bare) action.Decision {
	t.Helper()
	r, err := b.Request(t.Context(), action.Request{Method: "GET", Origin: fmt.Sprintf("https://iam.brightwell.localhost:%s", k.Ports.Production), Path: "/users/jo", Destination: "document"}, "", "a-0")
	if err != nil {
		t.Fatal(err)
	}
	return r.Decision
}

// privileged is an effect that a person has to approve.
func (k *facts) privileged(t *testing.T, b *server.Bare) action.Decision {
	t.Helper()
	r, err := b.Request(t.Context(), action.Request{Method: "POST", Origin: fmt.Sprintf("https://iam.brightwell.localhost:%s", k.Ports.Production), Path: "/users/jo/mfa/reset", Destination: "document"}, "_csrf=a", "a-0")
	if err != nil {
		t.Fatal(err)
	}
	return r.Decision
}

func (k *facts) readiness(t *testing.T) *readiness.Report {
	t.Helper()
	r, err := k.Server.Readiness(t.Context(), "", "helpdesk", false)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestEveryFactLapses changes each kind of fact of a boundary while a task of it runs:
// the next effect does not happen, the record names old and new, and readiness
// turns; a certification of what is then brings it back. It makes the table of
// docs/certification.md, which names every fact; SALLYPORT_WRITE=1 writes it.
//
// Threats: T50 (authority)
func TestEveryFactLapses(t *testing.T) {
	k := newFacts(t)
	took := map[string]time.Duration{}
	tested := map[string]bool{}
	var last certify.Certification
	for _, c := range changes {
		tested[c.fact()] = true
		if !t.Run(strings.NewReplacer("<", "", ">", "").Replace(c.name), func(t *testing.T) {
			k.t = t
			k.reset()
			last = k.lapses(t, c, took)
		}) {
			return
		}
	}
	for _, f := range last.Manifest.Facts {
		if name, _, ok := strings.Cut(f.Name, "."); !tested[f.Name] && !(ok && tested[name+"."+named[name]]) {
			t.Errorf("no test changes fact %s", f.Name)
		}
	}
	for _, c := range []struct {
		name string
		run  func(*testing.T)
	}{{"nameless_answer", k.nameless}, {"bound_by_a_link", k.boundByLink}, {"long_names", k.longNames}, {"replaced", k.replaced}, {"taken_away", k.takenAway}, {"graded", k.graded}, {"unseen_tool", k.unseenTool}, {"in_flight", k.inFlight}, {"graded_tool", k.gradedTool}, {"told_in_a_trial", k.told}, {"restless_server", k.restless}, {"approver_gone", k.approverGone}, {"behaviour", k.behaviour}, {"owner_gone", k.ownerGone}} {
		t.Run(c.name, func(t *testing.T) {
			k.t = t
			k.reset()
			c.run(t)
		})
	}
	k.table(t, took)
}

// named are names that stand for all of their kind.
var named = map[string]string{"connector": "iam", "capability": "reset-mfa", "policy": "company", "suite": "helpdesk-core", "credential": "iam-helpdesk", "mcp": "notes.server"}

func (k *facts) lapses(t *testing.T, c change, took map[string]time.Duration) certify.Certification {
	if c.how == atStart {
		return k.anotherServer(t, c)
	}
	cert := k.certify(t, nil)
	if cert.State != certify.Live {
		t.Fatalf("the certification is %s: %+v", cert.State, cert.Lapse)
	}
	if c.how == atLaunch {
		return k.anotherLaunch(t, c, cert)
	}
	x, b, err := k.start(t, action.Production)
	if err != nil {
		t.Fatal(err)
	}
	if d := k.read(t, b); d.Verdict != action.Allow {
		t.Fatalf("before the change: %+v", d)
	}
	begin := time.Now()
	c.do(k)
	if tools, calls := strings.HasPrefix(c.name, "mcp."), k.notes.called(); tools {
		if k.note(t, b) || k.notes.called() != calls {
			t.Error("the tool was called")
		}
		k.measured(t, c, cert)
	} else if c.how == atCall {
		if s := k.call(t, b); s == 200 {
			t.Error("the model's answer was passed on")
		}
	}
	if c.how == inWatch {
		if d := k.privileged(t, b); d.Verdict == action.Allow {
			t.Errorf("the next privileged action: %+v", d)
		}
	}
	select {
	case <-b.Stopped():
	case <-time.After(10 * time.Second):
		t.Fatal("nothing stopped it")
	}
	took[c.name] = time.Since(begin)
	if d := k.read(t, b); d.Verdict != action.Deny || d.Layer != action.LayerAuthority {
		t.Errorf("the next effect: %+v", d)
	}
	<-b.Ended()
	if y, err := k.Server.Task(t.Context(), "", x.ID); err != nil || !strings.HasPrefix(string(y.State), "revoked") && y.State != task.Closing {
		t.Errorf("the task is %s (%s: %s) %v", y.State, y.Code, y.Why, err)
	}
	k.recorded(t, c, cert)
	return cert
}

// recorded: the lapse and the drift are on record with old and new, and readiness says so.
func (k *facts) recorded(t *testing.T, c change, cert certify.Certification) {
	t.Helper()
	rig.Await(t, "the records", func() bool {
		lapsed, drift := false, false
		for _, e := range k.Records(t, k.from) {
			var l struct {
				ID    string
				Lapse certify.Lapse
			}
			var d struct{ Changes []boundary.Change }
			switch e.Type {
			case "certification.lapsed":
				lapsed = lapsed || json.Unmarshal(e.Body, &l) == nil && l.ID == cert.ID && k.names(c, cert, l.Lapse.Changes)
			case "boundary.drift":
				drift = drift || json.Unmarshal(e.Body, &d) == nil && k.names(c, cert, d.Changes)
			}
		}
		return lapsed && drift
	})
	r := k.readiness(t)
	if r.Ready || r.Certification != nil || r.Lapse == nil || !k.names(c, cert, r.Lapse.Changes) {
		t.Errorf("readiness did not turn: %t %+v", r.Ready, r.Lapse)
	}
	_, err := k.Server.OpenTask(t.Context(), "", rig.As("dana"), rig.Intent(action.Production, "jo", "4711"))
	if err == nil {
		t.Error("a task was opened for production")
	}
}

func (k *facts) names(c change, cert certify.Certification, changes []boundary.Change) bool {
	was, _ := cert.Manifest.Get(c.fact())
	return slices.ContainsFunc(changes, func(x boundary.Change) bool { return x.Name == c.fact() && x.Old == was.Value && x.New != x.Old })
}

// anotherLaunch: what a process has for its life cannot change while it runs; a launch
// with something else does not take place.
func (k *facts) anotherLaunch(t *testing.T, c change, cert certify.Certification) certify.Certification {
	x, b, err := k.start(t, action.Production)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Server.CloseTask(t.Context(), "", rig.As("dana"), x.ID); err != nil {
		t.Fatal(err)
	}
	<-b.Ended()
	c.do(k)
	_, _, err = k.start(t, action.Production)
	was, _ := cert.Manifest.Get(c.name)
	if err == nil || !strings.Contains(err.Error(), c.name+": "+was.Value+" → ") {
		t.Fatalf("got %v", err)
	}
	if strings.HasPrefix(c.name, "harness.") { // who called run brought it
		if got := k.Certification(t, cert.ID).State; got != certify.Live {
			t.Errorf("the certification of the right one is %s", got)
		}
		return cert
	}
	k.recorded(t, c, cert)
	return cert
}

// anotherServer: the certification is of a server that was another one. Nothing has
// run under it when it lapses.
func (k *facts) anotherServer(t *testing.T, c change) certify.Certification {
	cert := k.certify(t, map[string]string{c.name: "sha256:another"})
	rig.Await(t, "the lapse", func() bool { return k.Certification(t, cert.ID).State == certify.Lapsed })
	k.recorded(t, c, cert)
	return cert
}

const factsDoc = "../../docs/certification.md"

// table compares the table in the documentation with what was tested; SALLYPORT_WRITE=1
// writes it, with the times of this run.
func (k *facts) table(t *testing.T, took map[string]time.Duration) {
	t.Helper()
	doc, err := os.ReadFile(factsDoc)
	if err != nil {
		t.Fatal(err)
	}
	const from, to = "<!-- facts: written by TestEveryFactLapses -->\n", "<!-- end of facts -->"
	before, rest, ok := strings.Cut(string(doc), from)
	old, after, ok2 := strings.Cut(rest, to)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", factsDoc)
	}
	var b strings.Builder
	b.WriteString("\n| fact | a change is noticed | and everything stopped after |\n|---|---|---|\n")
	for _, c := range append(slices.Clone(changes), unchanged...) {
		ms := "nothing had begun"
		if slices.ContainsFunc(unchanged, func(u change) bool { return u.name == c.name }) {
			ms = "not tried: the agent has none"
		}
		if d, ok := took[c.name]; ok {
			ms = fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", c.name, c.how, ms)
	}
	b.WriteString("\n")
	if os.Getenv("SALLYPORT_WRITE") != "" {
		old = b.String()
		if err := os.WriteFile(factsDoc, []byte(before+from+old+to+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := untimed(old), untimed(b.String()); got != want {
		t.Errorf("the table of facts in %s is old: SALLYPORT_WRITE=1 go test ./internal/server -run TestEveryFactLapses writes it; it has\n%s\nwant\n%s", factsDoc, got, want)
	}
}

// untimed is a table without its last column.
func untimed(s string) string {
	var out []string
	for line := range strings.Lines(s) {
		if i := strings.LastIndex(strings.TrimSuffix(strings.TrimSpace(line), "|"), "|"); i > 0 {
			line = line[:i]
		}
		out = append(out, strings.TrimSpace(line))
	}
	return strings.TrimSpace(strings.Join(out, "\n"))
}
