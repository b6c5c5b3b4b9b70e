package server_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// TestPartsAreRefused: what a door would not let an agent ask for, and what its
// requests meet when the task is over, taken over, or has too many parts.
//
// Threats: E11, E13 (authority)
func TestPartsAreRefused(t *testing.T) {
	r := rig.New(t, rig.Options{Edit: func(files map[string][]byte) {
		files["capability.yaml"] = append(files["capability.yaml"], "  delegates: [{agent: second, capability: reset-mfa}]\n  audiences: [https://api.example]\n"...)
		files["second.yaml"] = files["agent.yaml"]
		rig.Replace("second.yaml", "name: helpdesk\n", "name: second\n")(files)
		// It changes nothing itself, and gives away what does.
		files["third.yaml"] = files["agent.yaml"]
		rig.Replace("third.yaml", "name: helpdesk\n", "name: third\n")(files)
		rig.Replace("third.yaml", "capabilities: [reset-mfa]", "capabilities: [look]")(files)
		rig.Replace("third.yaml", "  suites: [helpdesk-core]\n", "")(files)
		files["look.yaml"] = []byte("apiVersion: sallyport/v1\nkind: Capability\nmetadata: {name: look, tenant: brightwell}\nspec:\n  description: Looks.\n  version: \"1\"\n" +
			"  stages: [sandbox]\n  reads: [tickets]\n  budgets: {actions: 10, seconds: 60}\n  delegates: [{agent: second, capability: reset-mfa}]\n")
	}})
	// Who approves a capability is shown what it gives to others.
	for _, q := range r.Pending(t) {
		if d := q.Statement.Details; q.Statement.Kind == approval.Capability && q.Statement.Subject == "reset-mfa" && (d["delegates"] != "reset-mfa to agent second" || d["audiences"] != "https://api.example") {
			t.Errorf("the question says %v", d)
		}
	}
	r.Ready(t)
	third, err := r.Server.Boundary(t.Context(), "", "third", "")
	if err != nil {
		t.Fatal(err)
	}
	f, _ := third.Get("tier")
	if want := "capability look gives to agent second capability reset-mfa reaches iam.user.mfa.reset (privileged)"; f.Value != "privileged" || third.TierWhy != want {
		t.Errorf("the tier of who gives it away: %s, %s; want %s", f.Value, third.TierWhy, want)
	}
	in := rig.Intent(action.Sandbox, "jo", "4711")
	in.Agent = "helpdesk"
	x := r.OpenTask(t, in)
	a, err := r.Server.StartAsker(t.Context(), x.ID)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(want string) {
		t.Helper()
		err := a.Ask(t.Context(), "second", "reset-mfa", in.Params)
		if p, ok := errors.AsType[*server.Problem](err); !ok || p.Code != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	a.Take(true)
	refused("taken_over")
	a.Take(false)
	release, err := a.Hold()
	if err != nil {
		t.Fatal(err)
	}
	refused("too_many_parts")
	release()
	if _, err := r.Server.CloseTask(t.Context(), "", rig.As("dana"), x.ID); err != nil {
		t.Fatal(err)
	}
	refused("no_authority")
	all, err := r.Server.Tasks(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 {
		t.Errorf("there are %d tasks, want the first alone", len(all))
	}
}

// TestHoldOfAPartIsApprovedFromAbove: who answers for an agent gives the work to
// another one, and would then approve what that is held for. Who answers for any
// agent above must not.
//
// Threats: I4 (approval)
func TestHoldOfAPartIsApprovedFromAbove(t *testing.T) {
	approver := func(files map[string][]byte, name string) {
		mail := "email: " + name + "@brightwell.example\n  roles: ["
		rig.Replace("people.yaml", mail+"owner]", mail+"owner, approver]")(files)
	}
	r := rig.New(t, rig.Options{Edit: func(files map[string][]byte) {
		parts(files)
		approver(files, "mara")
		approver(files, "tom")
		for _, name := range []string{"otto", "olga"} {
			files["people.yaml"] = fmt.Appendf(files["people.yaml"], "---\napiVersion: sallyport/v1\nkind: Person\nmetadata: {name: %s, tenant: brightwell}\n"+
				"spec: {displayName: %s, email: %s@brightwell.example, roles: [owner], sshKeyFiles: [keys/%s.pub]}\n", name, name, name, name)
		}
		rig.Replace("second.yaml", "owner: mara\n  deputy: tom", "owner: otto\n  deputy: olga")(files)
	}})
	r.Ready(t)
	r.Approver(rig.Nobody)
	p := &past{Rig: r}
	_, top, part := p.open(t)
	_ = top
	ctx := t.Context()
	ran := make(chan string, 1)
	go func() {
		got, err := part.Request(ctx, action.Request{Method: "POST", Origin: p.origin("iam"), Path: "/users/jo/mfa/reset"}, "_csrf=a", "a-0")
		ran <- fmt.Sprint(got.Decision.Verdict, err)
	}()
	var held []approval.Approval
	rig.Await(t, "the hold", func() bool { held = r.Pending(t); return len(held) == 1 })
	for _, who := range []string{"otto", "olga", "mara", "tom"} {
		err := r.Sign(ctx, held[0], who)
		if p, ok := errors.AsType[*server.Problem](err); !ok || p.Code != "excluded" {
			t.Errorf("%s: got %v, want excluded", who, err)
		}
	}
	if err := r.Sign(ctx, held[0], "ines"); err != nil {
		t.Errorf("somebody else: %v", err)
	}
	if got := <-ran; got != "allow <nil>" && got != "allow<nil>" {
		t.Errorf("got %s", got)
	}
	// In a part of a trial people do what its scenario has them do, and none opens one.
	in := rig.Intent(action.Sandbox, "jo", "4711")
	in.Agent = "helpdesk"
	above := r.OpenTask(t, server.Tried(in, "helpdesk-core/plain-reset"))
	p.start(t, above.ID)
	in.Agent, in.Parent = "second", above.ID
	if below := r.OpenTask(t, server.OpenedBy(in, "helpdesk")); below.Suite != above.Suite {
		t.Errorf("a part of a trial of %q is of %q", above.Suite, below.Suite)
	}
	if _, err := r.Server.OpenTask(ctx, "", rig.As("dana"), in); !problemIs(err, "of_a_trial") {
		t.Errorf("a person opened a part of a trial: %v", err)
	}
}

func problemIs(err error, code string) bool {
	p, ok := errors.AsType[*server.Problem](err)
	return ok && p.Code == code
}
