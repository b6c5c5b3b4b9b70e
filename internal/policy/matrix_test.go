package policy_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

var update = flag.Bool("update", false, "write testdata/matrix.txt anew")

// TestMatrix is principal × operation × state, with the shipped guardrails and
// one grant, as a text that a person can read. A change of policy shows as a
// change of the text.
func TestMatrix(t *testing.T) {
	base, grant := parse(t, ""), resetGrant(t)
	var b strings.Builder
	b.WriteString("Shipped guardrails with the grant reset-mfa{user: jo, ticket: 4711} of agent helpdesk, task T1.\n" +
		"state: stage, tier and what else is unusual. Regenerate with: go test ./internal/policy -run Matrix -update\n\n")
	fmt.Fprintf(&b, "%-9s %-46s %-34s %s\n", "agent", "operation", "state", "decision")
	for _, agent := range []string{"helpdesk", "payroll"} {
		for _, op := range matrixOperations {
			for _, state := range matrixStates {
				in := policy.Input{Action: op.action, Stage: action.Sandbox, Tier: "privileged", Certified: true, Pinned: true}
				in.Action.Tenant, in.Action.Task, in.Action.Agent, in.Action.Explained = "acme", "T1", agent, "A1"
				if op.action.Surface == action.Control {
					in.Source = policy.SourceBoundary
				}
				if op.action.Actor != "" {
					in.Source = policy.SourcePerson
				}
				state.change(&in)
				d := policy.Evaluate(base, grant, in)
				what := fmt.Sprintf("%s %s [%s]", d.Verdict, d.Code, strings.Join(d.Policies, " "))
				fmt.Fprintf(&b, "%-9s %-46s %-34s %s\n", agent, op.name, state.name, what)
			}
		}
	}
	const file = "testdata/matrix.txt"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got, lines := strings.Split(b.String(), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(got), len(lines)) {
		g, w := "", ""
		if i < len(got) {
			g = got[i]
		}
		if i < len(lines) {
			w = lines[i]
		}
		if g != w {
			t.Errorf("line %d:\n got %s\nwant %s", i+1, g, w)
		}
	}
}

var matrixOperations = []struct {
	name   string
	action action.Action
}{
	{"iam.user.mfa.reset jo", egress("iam.user.mfa.reset", action.Privileged, "iam", "user", "jo")},
	{"iam.user.mfa.reset ana", egress("iam.user.mfa.reset", action.Privileged, "iam", "user", "ana")},
	{"iam.group.member.add", egress("iam.group.member.add", action.Privileged, "iam", "group", "admins")},
	{"tickets.close 4711", egress("tickets.close", action.Write, "tickets", "ticket", "4711")},
	{"tickets.delete 4711", egress("tickets.delete", action.Irreversible, "tickets", "ticket", "4711")},
	{"iam.read", egress("iam.read", action.Read, "iam")},
	{"pay.read", egress("pay.read", action.Read, "pay")},
	{"unmatched read of iam", egress("egress.unmatched", action.Read, "iam")},
	{"unmatched write to iam", egress("egress.unmatched", action.Write, "iam")},
	{"write to an ungoverned origin", egress("egress.unmatched", action.Write, "")},
	{"computer.screenshot", action.Action{Surface: action.Computer, Operation: "computer.screenshot", Effect: action.Observe}},
	{"computer.left_click on iam", click("iam", action.Element{FrameOrigin: "https://iam.example", Tag: "button"})},
	{"computer.left_click on pay", click("pay", action.Element{FrameOrigin: "https://pay.example", Tag: "button"})},
	{"computer.left_click on a canvas", click("iam", action.Element{FrameOrigin: "https://iam.example", Uninspectable: "canvas"})},
	{"computer.type into a password field", typing(action.Element{FrameOrigin: "https://iam.example", InputType: "password"})},
	{"the same by a person", byPerson(typing(action.Element{FrameOrigin: "https://iam.example", InputType: "password"}))},
	{"computer.type a placeholder into it", placeholder(typing(action.Element{FrameOrigin: "https://iam.example", InputType: "password"}))},
	{"computer.drag (not granted)", action.Action{Surface: action.Computer, Operation: "computer.drag", Effect: action.Read, App: "iam"}},
	{"inference.messages", action.Action{Surface: action.Inference, Operation: "inference.messages", Effect: action.Read, Request: &action.Request{Origin: "https://model.example"}}},
	{"control.signin", action.Action{Surface: action.Control, Operation: "control.signin", Effect: action.Read, App: "iam"}},
}

func egress(op string, e action.Effect, app string, param ...string) action.Action {
	a := action.Action{Surface: action.Egress, Operation: op, Effect: e, App: app,
		Request: &action.Request{Method: "POST", Origin: "https://" + app + ".example", Path: "/"}}
	if len(param) == 2 {
		a.Params = map[string]string{param[0]: param[1]}
	}
	return a
}

func placeholder(a action.Action) action.Action {
	a.Params = map[string]string{"placeholder": "payroll-token", "textLength": "30"}
	return a
}

func click(app string, e action.Element) action.Action {
	return action.Action{Surface: action.Computer, Operation: "computer.left_click", Effect: action.Read, App: app, Element: &e}
}

// byPerson is what somebody does who has taken the session over.
func byPerson(a action.Action) action.Action {
	a.Actor = "person:ines"
	return a
}

func typing(e action.Element) action.Action {
	return action.Action{Surface: action.Computer, Operation: "computer.type", Effect: action.Read, App: "iam", Element: &e}
}

var matrixStates = []struct {
	name   string
	change func(*policy.Input)
}{
	{"sandbox privileged", func(*policy.Input) {}},
	{"production privileged", func(in *policy.Input) { in.Stage = action.Production }},
	{"production privileged uncertified", func(in *policy.Input) { in.Stage, in.Certified = action.Production, false }},
	{"sandbox standard", func(in *policy.Input) { in.Tier = "standard" }},
	{"untrusted-content read", func(in *policy.Input) { in.Labels = []string{"untrusted-content"} }},
	{"secret read", func(in *policy.Input) { in.Labels = []string{"secret"} }},
	{"unexplained", func(in *policy.Input) { in.Action.Explained = "" }},
	{"unexplained from harness", func(in *policy.Input) { in.Action.Explained, in.Source = "", policy.SourceHarness }},
	{"done once before", func(in *policy.Input) { in.Counts = map[string]int64{in.Action.Operation: 1} }},
	{"not pinned", func(in *policy.Input) { in.Pinned = false }},
	{"another task", func(in *policy.Input) { in.Action.Task = "T2" }},
}
