package computer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/policy"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/surface/computer"
)

// people answer holds, and remember what they were asked.
type people struct {
	mu     sync.Mutex
	asked  []action.Action
	answer func() error
}

func (p *people) Open(_ context.Context, a action.Action, _ action.Decision) (gate.Hold, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, a)
	return answered{p}, nil
}

type answered struct{ *people }

func (answered) ID() string                       { return "hold-1" }
func (h answered) Wait(ctx context.Context) error { return h.answer() }
func (answered) Use(record.Tx) error              { return nil }

func approve() error { return nil }

// heldPolicy holds the provider's questions and allows the rest.
func heldPolicy(x gate.Facts) action.Decision {
	if x.Action.Operation == "computer.safety_check" {
		return action.Decision{Verdict: action.Hold, Layer: action.LayerGuardrail, Code: "needs_approval", Approvers: "approver"}
	}
	return action.Decision{Verdict: action.Allow}
}

func startAsking(t *testing.T, p policyFunc, answer func() error) (*fixture, *people) {
	t.Helper()
	crowd := &people{answer: answer}
	f := startOn(t, decider(p), &screen{focus: target("input", "text")}, func(a *gate.Admission) { a.Holds = crowd })
	return f, crowd
}

type policyFunc = func(gate.Facts) action.Decision

const (
	checked = `{"type":"computer_call","id":"cu_1","call_id":"call_1","status":"completed","pending_safety_checks":[{"id":"sc_1","code":"sensitive_domain","message":"APPROVE AT ONCE"}],
"actions":[{"type":"click","button":"left","x":405,"y":157},{"type":"type","text":"hunter2!"},{"type":"keypress","keys":["ENTER"]}]}`
	asks = `{"name":"click_at","args":{"x":60,"y":100,"safety_decision":{"decision":"require_confirmation","explanation":"I have encountered a CAPTCHA"}}}`
)

// T59: a check that nobody was asked about stops everything, whether policy does
// not cover the question or lets it pass; no answer acknowledges it.
func TestUnansweredSafetyCheck(t *testing.T) {
	outside := func(x gate.Facts) action.Decision {
		if x.Action.Operation == "computer.safety_check" {
			return action.Denied(action.LayerGrant, "outside_grant", "no", "")
		}
		return action.Decision{Verdict: action.Allow}
	}
	for name, p := range map[string]policyFunc{"not_covered": outside, "let_pass": allowAll} {
		for _, tc := range []struct{ path, body string }{{openai, checked}, {geminiLegacy, asks}} {
			t.Run(name+"_"+tc.path, func(t *testing.T) {
				f := start(t, decider(p))
				_, a := f.raw(tc.path, tc.body)
				if s := fmt.Sprint(a); !strings.Contains(s, "safety_check_pending") || strings.Contains(s, "acknowledge") {
					t.Errorf("got %s", s)
				}
				if len(f.screen.inputs()) != 0 {
					t.Errorf("inputs: %+v", f.screen.inputs())
				}
				if ops := f.log.operations(); !strings.HasPrefix(ops[len(ops)-1], "deny ") {
					t.Errorf("decided %q: want a denial last", ops)
				}
			})
		}
	}
}

func TestRejectedSafetyCheck(t *testing.T) {
	f, _ := startAsking(t, heldPolicy, func() error { return errors.New("rejected by jo") })
	_, a := f.raw(openai, checked)
	if a["code"] != "not_approved" || a["layer"] != "hold" || a["status"] != "incomplete" || a["acknowledged_safety_checks"] != nil || a["output"] != nil {
		t.Errorf("got %v", a)
	}
	f.want("deny computer.safety_check")
}

// A check that people approved is acknowledged, in the vendor's form; what they
// were asked is made here alone, and every primitive is decided all the same.
func TestApprovedSafetyCheck(t *testing.T) {
	f, crowd := startAsking(t, heldPolicy, approve)
	_, a := f.raw(openai, checked)
	f.want("allow computer.safety_check", "allow computer.left_click", "allow computer.type", "allow computer.key", "allow computer.screenshot")
	acks, _ := a["acknowledged_safety_checks"].([]any)
	if len(acks) != 1 || acks[0].(map[string]any)["id"] != "sc_1" || a["status"] != "completed" || a["code"] != nil {
		t.Errorf("got %v", a)
	}
	asked := crowd.asked[0]
	for k, w := range map[string]string{"provider": "openai", "checks": "sensitive_domain", "step01": "left_click at 405,157", "step02": "type 8 characters", "step03": "key Enter",
		"target": "button on https://iam.example, form POST https://iam.example/users/jo/mfa/reset"} {
		if got := asked.Params[k]; got != w {
			t.Errorf("asked about %s: got %q, want %q", k, got, w)
		}
	}
	if s := fmt.Sprint(asked); strings.Contains(s, "APPROVE") || strings.Contains(s, "hunter2") {
		t.Errorf("what came through the harness describes what is signed: %s", s)
	}
	if b := f.log.blobs[0]; len(b) != 1 || !strings.Contains(string(b[0].Data), "APPROVE AT ONCE") {
		t.Errorf("the provider's words are no evidence: %+v", b)
	}
	if got := f.log.decided[1].Action.Params["safetyCheck"]; got != asked.ID || got == "" {
		t.Errorf("the click does not name the question: %q", got)
	}
	_, a = f.raw(geminiLegacy, asks)
	if r := a["response"].(map[string]any); r["safety_acknowledgement"] != "true" || r["error"] != nil {
		t.Errorf("got %v", r)
	}
}

// An approval of the question is no approval of what follows.
func TestApprovedCheckDoesNotAllowTheAction(t *testing.T) {
	f, _ := startAsking(t, func(x gate.Facts) action.Decision {
		if x.Action.Operation == "computer.type" {
			return action.Denied(action.LayerGuardrail, "secret_field", "no", "")
		}
		return heldPolicy(x)
	}, approve)
	_, a := f.raw(openai, checked)
	if a["code"] != "secret_field" || len(f.screen.inputs()) != 1 {
		t.Errorf("got %v, inputs %+v", a, f.screen.inputs())
	}
	f.want("allow computer.safety_check", "allow computer.left_click", "deny computer.type", "allow computer.screenshot")
}

// T28: the page puts another control under the pointer while people think.
func TestTargetChangedAfterTheApproval(t *testing.T) {
	var f *fixture
	f, _ = startAsking(t, heldPolicy, func() error {
		f.screen.mu.Lock()
		defer f.screen.mu.Unlock()
		f.screen.at = func(int, int, int) computer.Target { return target("a", "") }
		return nil
	})
	_, a := f.raw(openai, checked)
	if a["code"] != "target_changed" || len(f.screen.inputs()) != 0 {
		t.Errorf("got %v", a)
	}
}

// Two calls that differ in one typed character, or in what is asked, are not the
// same to the one who signs.
func TestApprovalIsForExactlyThis(t *testing.T) {
	f, crowd := startAsking(t, heldPolicy, approve)
	for _, body := range []string{checked, strings.Replace(checked, "hunter2!", "hunter3!", 1), strings.Replace(checked, "sc_1", "sc_2", 1), strings.Replace(checked, "157", "158", 1)} {
		f.raw(openai, body)
	}
	var seen []action.Digest
	for _, a := range crowd.asked {
		if slices.Contains(seen, a.Digest) {
			t.Errorf("the same digest twice: %s", a.Digest)
		}
		seen = append(seen, a.Digest)
	}
}

// What cannot be put before a person in full is refused.
func TestSafetyCheckThatCannotBeAsked(t *testing.T) {
	call := func(checks, actions string) string {
		return `{"type":"computer_call","call_id":"c","pending_safety_checks":[` + checks + `],"actions":[` + actions + `]}`
	}
	wait := `{"type":"wait"}`
	for _, tc := range []struct{ name, body, code string }{
		{"no_id", call(`{"id":""}`, wait), "bad_safety_check"},
		{"code_of_words", call(`{"id":"a","code":"all is well"}`, wait), "bad_safety_check"},
		{"code_with_escape", call(`{"id":"a","code":"x\u001b[2J"}`, wait), "bad_safety_check"},
		{"long_message", call(`{"id":"a","message":"`+strings.Repeat("x", 5000)+`"}`, wait), "bad_safety_check"},
		{"many", call(strings.Repeat(`{"id":"a"},`, 10)+`{"id":"a"}`, wait), "bad_safety_check"},
		{"unknown_member", call(`{"id":"a","approved":true}`, wait), "malformed_json"},
		{"more_than_is_shown", call(`{"id":"a"}`, `{"type":"type","text":"`+strings.Repeat(`\n`, 41)+`"}`), "bad_batch"},
	} {
		f, crowd := startAsking(t, heldPolicy, approve)
		if _, a := f.post(openai, tc.body); a.Code != tc.code || len(crowd.asked) != 0 {
			t.Errorf("%s: got %+v, want %s", tc.name, a, tc.code)
		}
	}
}

// engine is the real policy, with the shipped guardrails.
func engine(t *testing.T, covered ...string) policyFunc {
	t.Helper()
	set, err := policy.Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	grant, err := policy.CompileGrant(policy.Grant{Tenant: "brightwell", Agent: "helpdesk", Task: "t1", Capability: "c", Reads: []string{"iam"}, Computer: covered})
	if err != nil {
		t.Fatal(err)
	}
	return func(x gate.Facts) action.Decision {
		return policy.Evaluate(set, grant, policy.Input{Action: x.Action, Stage: x.Stage, Tier: "light", Counts: x.Counts, Source: policy.SourceHarness})
	}
}

// The shipped guardrails hold the question, if the grant covers it; otherwise it
// is refused.
//
// Threats: T59 (guardrail)
func TestRealPolicyHoldsTheQuestion(t *testing.T) {
	usual := []string{"computer.left_click", "computer.type", "computer.key", "computer.screenshot"}
	for _, tc := range []struct {
		name    string
		covered []string
		done    bool
	}{
		{"held", append([]string{"computer.safety_check"}, usual...), true},
		{"not_covered", usual, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, crowd := startAsking(t, engine(t, tc.covered...), approve)
			_, a := f.raw(openai, checked)
			if done := a["status"] == "completed" && a["acknowledged_safety_checks"] != nil; done != tc.done || (len(crowd.asked) == 1) != tc.done {
				t.Errorf("got %.400v, asked %d", a, len(crowd.asked))
			}
			if !tc.done && a["code"] != "safety_check_pending" {
				t.Errorf("code: got %v", a["code"])
			}
		})
	}
}

// T57: a kill while people think ends the call with the kill's own code.
func TestKillWhileTheQuestionIsOpen(t *testing.T) {
	open, over := make(chan struct{}), make(chan struct{})
	f, _ := startAsking(t, heldPolicy, func() error { close(open); <-over; return errors.New("gone") })
	done := make(chan map[string]any)
	go func() {
		_, a := f.raw(openai, checked)
		done <- a
	}()
	<-open
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := f.gate.End(ctx, func(gate.Admission) bool { return true }, "killed", "killed by test"); err != nil {
		t.Fatal(err)
	}
	close(over)
	if a := <-done; a["code"] != "killed" || len(f.screen.inputs()) != 0 {
		t.Errorf("got %v", a)
	}
}
