package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// What ends a certification beside a change of one fact, and what does not, on the
// server of TestEveryFactLapses.

// nameless: what the provider answers is no message of any model.
func (k *facts) nameless(t *testing.T) {
	c := change{"model.id", "", atCall, func(k *facts) { k.model.garbage = "<html>" }}
	k.lapses(t, c, map[string]time.Duration{})
}

// boundByLink: what a harness sees is what the link leads to, and so is what is measured.
func (k *facts) boundByLink(t *testing.T) {
	link := filepath.Join(k.dir, "linked")
	if err := os.Symlink(filepath.Join(k.dir, "bound"), link); err != nil {
		t.Fatal(err)
	}
	k.harness.Bind = []string{link}
	k.lapses(t, change{"harness.files", "", inWatch, func(k *facts) { k.touch("bound/tool") }}, map[string]time.Duration{})
	// The link may lead elsewhere since the launch was allowed.
	again := filepath.Join(k.dir, "again")
	if err := errors.Join(os.Symlink(k.Dir, again), os.Rename(again, link)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := k.start(t, action.Sandbox); err == nil || !strings.Contains(err.Error(), "bind_of_state") {
		t.Errorf("the server's own folder: %v", err)
	}
}

// longNames: what the harness or the provider says is longer than a record may be. It
// lapses, and is on record, as anything else.
func (k *facts) longNames(t *testing.T) {
	long := strings.Repeat("\u001b[2J m\n", 20<<10)
	for _, c := range []change{
		{"model.requested", "", atCall, body("model", long)},
		{"sampling.temperature", "", atCall, body("temperature", long)},
		{"model.id", "", atCall, func(k *facts) { k.model.answer.Model = long }},
	} {
		k.reset()
		k.lapses(t, c, map[string]time.Duration{})
	}
}

// takenAway: what was declared, and measured as declared, is not declared any more.
func (k *facts) takenAway(t *testing.T) {
	k.lapses(t, change{"prompt.system", "", atApply, edit("mara", "agent.yaml", "  systemPrompt: {file: prompts/helpdesk.md}\n", "")}, map[string]time.Duration{})
}

// replaced: another certification of the same boundary is issued. What runs under the one
// before it ends, since nothing of it would pass, and a task that was opened under it does
// not begin: neither is to have credentials.
func (k *facts) replaced(t *testing.T) {
	k.certify(t, nil)
	_, b, err := k.start(t, action.Production)
	if err != nil {
		t.Fatal(err)
	}
	waits := k.OpenTask(t, rig.Intent(action.Production, "jo", "4711"))
	now := k.certify(t, nil)
	select {
	case <-b.Ended():
	case <-time.After(10 * time.Second):
		t.Error("nothing ended it")
	}
	if _, err := k.Server.StartBare(context.WithoutCancel(t.Context()), waits.ID, k.harness, k.launch); err == nil || !strings.Contains(err.Error(), now.ID) {
		t.Errorf("a task of before began: %v", err)
	}
	if _, b, err = k.start(t, action.Production); err != nil {
		t.Fatal(err)
	}
	if d := k.read(t, b); d.Verdict != action.Allow {
		t.Errorf("a task of now: %+v", d)
	}
}

// graded: a rule grades one fact. Its change is on record, the task goes on, what is
// privileged waits for a person although policy would not ask, also after a restart;
// readiness turns. Another fact lapses as before, and a new certification ends the hold.
func (k *facts) graded(t *testing.T) {
	rule := rig.Replace("agent.yaml", "policySets:", "drift: [{facts: [model.a*, browser.flags], then: hold}]\n  policySets:")
	k.apply("mara", rule)
	cert := k.certify(t, nil)
	_, b, err := k.start(t, action.Production)
	if err != nil {
		t.Fatal(err)
	}
	k.call(t, b)
	k.model.account = "another"
	for range 2 { // once on record
		if s := k.call(t, b); s != 200 {
			t.Fatalf("the model answered %d after a graded drift", s)
		}
	}
	if d := k.read(t, b); d.Verdict != action.Allow {
		t.Errorf("a read after a graded drift: %+v", d)
	}
	disable := func() action.Decision {
		a := action.Action{Surface: action.Egress, Source: "browser", Operation: "iam.user.mfa.reset", App: "iam", Effect: action.Privileged, Params: map[string]string{"user": "jo"}, Explained: "a-0",
			Request: &action.Request{Method: "POST", Origin: "https://iam.brightwell.localhost", Path: "/users/jo/mfa/reset"}}
		return b.Act(t.Context(), a).Decision
	}
	k.Approver(rig.Nobody)
	done := make(chan action.Decision, 1)
	go func() { done <- disable() }()
	rig.Await(t, "the question", func() bool { return len(k.Pending(t)) == 1 })
	k.Approver(rig.Ines)
	if d := <-done; d.Verdict != action.Allow || d.Code != "approved" {
		t.Errorf("a privileged action that was approved: %+v", d)
	}
	c := k.Certification(t, cert.ID)
	want := []boundary.Change{{Name: "model.account", Old: "brightwell", New: "another"}}
	if c.State != certify.Live || !slices.Equal(c.Graded, want) {
		t.Errorf("the certification is %s with %v", c.State, c.Graded)
	}
	n := 0
	for _, e := range k.Records(t, k.from) {
		if e.Type == "boundary.drift" && strings.Contains(string(e.Body), `"graded":"hold"`) {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the drift is on record %d times", n)
	}
	if r := k.readiness(t); r.Ready || r.Lapse != nil || !strings.Contains(fmt.Sprint(r), "what is privileged is held for people") {
		t.Errorf("readiness: %t %+v", r.Ready, r.Lapse)
	}
	now, err := k.Server.Boundary(t.Context(), "", "helpdesk", "live")
	if err != nil || !slices.Equal(now.Graded, want) {
		t.Errorf("the boundary shows %v, %v", now, err)
	}
	k.model.answer.Model = "scripted-2"
	if s := k.call(t, b); s == 200 {
		t.Error("another model's answer was passed on")
	}
	<-b.Ended()
	if c := k.Certification(t, cert.ID); c.State != certify.Lapsed {
		t.Errorf("the certification is %s after a material drift", c.State)
	}
	k.model.answer.Model = "scripted-1"
	c = k.certify(t, nil)
	if c.State != certify.Live || len(c.Graded) != 0 {
		t.Errorf("certified again it is %s with %v", c.State, c.Graded)
	}
	// Whoever brings another harness ends nothing, whatever else drifted.
	k.harness.Args, k.launch["browser.flags"] = []string{"other"}, "sha256:other"
	if _, _, err := k.start(t, action.Production); err == nil || !strings.Contains(err.Error(), "harness.args") {
		t.Errorf("another harness: %v", err)
	}
	if c = k.Certification(t, c.ID); c.State != certify.Live || len(c.Graded) != 1 {
		t.Errorf("after another harness it is %s with %v: %+v", c.State, c.Graded, c.Lapse)
	}
}

// approverGone: who approved the certification loses the role. What they approved ends
// before the change is answered.
func (k *facts) approverGone(t *testing.T) {
	cert := k.certify(t, nil)
	_, b, err := k.start(t, action.Production)
	if err != nil {
		t.Fatal(err)
	}
	k.apply("kofi", func(files map[string][]byte) {
		files["people.yaml"] = bytes.Replace(files["people.yaml"], []byte("roles: [approver]\n  sshKeyFiles: [keys/ines"), []byte("roles: [auditor]\n  sshKeyFiles: [keys/ines"), 1)
	})
	if d := k.read(t, b); d.Verdict != action.Deny {
		t.Errorf("the next effect: %+v", d)
	}
	if l := k.Certification(t, cert.ID).Lapse; l == nil || l.Code != "approver_gone" || !strings.Contains(l.Why, "ines") {
		t.Errorf("the lapse is %+v", l)
	}
	k.Approver(func(approval.Approval) string { return "felix" })
	k.reset()
	rig.Await(t, "the approvals", func() bool { return len(k.Pending(t)) == 0 })
	k.Approver(rig.Ines)
}

// behaviour: what watches how an agent behaves ends its certification by a code of its own.
func (k *facts) behaviour(t *testing.T) {
	cert := k.certify(t, nil)
	_, b, err := k.start(t, action.Production)
	if err != nil {
		t.Fatal(err)
	}
	b.Lapse(t.Context(), "canary_failed", "a canary failed")
	if d := k.read(t, b); d.Verdict != action.Deny {
		t.Errorf("the next effect: %+v", d)
	}
	if l := k.Certification(t, cert.ID).Lapse; l == nil || l.Code != "canary_failed" {
		t.Errorf("the lapse is %+v", l)
	}
}

// ownerGone: who answers for the agent is locked, by what their identity provider says.
func (k *facts) ownerGone(t *testing.T) {
	cert := k.certify(t, nil)
	_, b, err := k.start(t, action.Production)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Lock(t.Context(), "mara"); err != nil {
		t.Fatal(err)
	}
	if d := k.read(t, b); d.Verdict != action.Deny {
		t.Errorf("the next effect: %+v", d)
	}
	if l := k.Certification(t, cert.ID).Lapse; l == nil || l.Code != "owner_gone" || !strings.Contains(l.Why, "mara") {
		t.Errorf("the lapse is %+v", l)
	}
}

// What cannot be read is not gone. Nothing passes without the store, and the
// certification is there when it is back.
func TestStoreAwayEndsNoCertification(t *testing.T) {
	k := newFacts(t)
	k.reset()
	k.certify(t, nil)
	_, b, err := k.start(t, action.Production)
	if err != nil {
		t.Fatal(err)
	}
	k.StopApprover()
	k.Server.LoseStore()
	if !b.LookAgain(t.Context()) {
		t.Error("the certification ended with the store")
	}
	if d := k.read(t, b); d.Verdict != action.Deny {
		t.Errorf("without the store: %+v", d)
	}
	// What must never happen ends it all the same.
	if err := b.Violate(t.Context(), "ticket-orders-admin", false); err == nil || k.Server.Live("helpdesk") != "" {
		t.Errorf("after a violation that cannot be recorded %q is in force: %v", k.Server.Live("helpdesk"), err)
	}
	if err := k.Server.Close(); err == nil {
		t.Error("it closed what was closed")
	}
	k.Server = nil
}
