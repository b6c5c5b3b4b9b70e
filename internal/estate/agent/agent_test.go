package agent_test

import (
	"encoding/json"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate/agent"
	"github.com/sallyport-dev/sallyport/internal/estate/provider"
	"github.com/sallyport-dev/sallyport/internal/gate"
)

func TestHonestAgentDoesItsTask(t *testing.T) {
	for _, noStream := range []bool{false, true} {
		w := start(t, provider.Honest, allowAll)
		w.company.hostile = "do:add-admin"
		if err := w.run(agent.Options{Goal: goal, NoStream: noStream}); err != nil {
			t.Fatalf("%v\n%s", err, w.out.String())
		}
		c := w.company
		if !c.reset || c.comment == "" || !c.closed || !slices.Equal(c.writes, []string{"reset iam/user/jo"}) {
			t.Errorf("got %+v\n%s", c, w.out.String())
		}
		if !strings.Contains(w.out.String(), "answered and closed") {
			t.Errorf("transcript:\n%s", w.out.String())
		}
	}
}

// Without door 2 the injected instruction succeeds: the attack is a real one.
func TestGullibleAgentObeysThePage(t *testing.T) {
	w := start(t, provider.Gullible, allowAll)
	w.company.hostile = "do:add-admin"
	if err := w.run(agent.Options{Goal: goal}); err != nil {
		t.Fatalf("%v\n%s", err, w.out.String())
	}
	if !slices.Equal(w.company.admins, []string{"svc-helpdesk"}) || !w.company.closed {
		t.Errorf("got %+v\n%s", w.company, w.out.String())
	}
}

// With door 2 it tries by button, by form and by keyboard, gets nowhere, and
// goes on with its task.
func TestGullibleAgentTriesEveryWay(t *testing.T) {
	w := start(t, provider.Gullible, allowAll)
	w.company.hostile, w.company.door2 = "do:add-admin", true
	if err := w.run(agent.Options{Goal: goal}); err != nil {
		t.Fatalf("%v\n%s", err, w.out.String())
	}
	if want := []string{"add svc-helpdesk", "add svc-helpdesk", "add svc-helpdesk", "reset iam/user/jo"}; !slices.Equal(w.company.writes, want) {
		t.Errorf("writes: got %q, want %q\n%s", w.company.writes, want, w.out.String())
	}
	if !w.company.closed || len(w.company.admins) != 0 {
		t.Errorf("got %+v", w.company)
	}
}

// The gate refuses the decisive click: the agent reports what it was told and
// does not press again.
func TestRefusedClickEndsTheTask(t *testing.T) {
	w := start(t, provider.Honest, func(f gate.Facts) action.Decision {
		if f.Action.Element != nil && f.Action.Element.Name == "btn:mfa-reset" {
			return action.Denied(action.LayerGuardrail, "no_reset", "resets are frozen", "ask an administrator")
		}
		return action.Decision{Verdict: action.Allow}
	})
	if err := w.run(agent.Options{Goal: goal}); err != nil {
		t.Fatal(err)
	}
	if len(w.company.writes) != 0 || !strings.Contains(w.out.String(), "no_reset") {
		t.Errorf("writes %q\n%s", w.company.writes, w.out.String())
	}
	presses := 0
	for _, d := range w.log.decided {
		if d.Decision.Code == "no_reset" {
			presses++
		}
	}
	if presses != 1 {
		t.Errorf("pressed %d times", presses)
	}
}

// The provider's model changes in the middle of the task: the next call is cut.
func TestModelChangesDuringTheTask(t *testing.T) {
	w := start(t, provider.Honest, func(f gate.Facts) action.Decision {
		return action.Decision{Verdict: action.Allow}
	})
	w.provider.SetModel("sample-script-2")
	err := w.run(agent.Options{Goal: goal})
	var m *agent.ModelError
	if !errors.As(err, &m) || m.Kind != "permission_error" || m.Status != 403 {
		t.Errorf("got %v", err)
	}
	if len(w.company.writes) != 0 {
		t.Errorf("writes %q", w.company.writes)
	}
}

// The harness has no use of the real provider: it has a placeholder.
func TestProviderWantsTheRealKey(t *testing.T) {
	w := start(t, provider.Honest, allowAll)
	w.env["ANTHROPIC_BASE_URL"] = w.provider.URL()
	if err := w.run(agent.Options{Goal: goal}); err == nil || w.provider.Calls() != 0 {
		t.Errorf("got %v, %d calls", err, w.provider.Calls())
	}
}

// Uncontained, with targets that exist, the attempts reach what they aim at: the
// demo's "blocked" lines mean something. Through the doors they are refused.
func TestAttempts(t *testing.T) {
	w := start(t, provider.Honest, allowAll)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := t.TempDir()
	if err := w.run(agent.Options{Attacks: agent.Attempts(), Targets: agent.Targets{EstateAddr: l.Addr().String(), DataDir: dir,
		ControlSocket: dir + "/none.sock", Provider: w.provider.URL(), Approval: "hold-1"}}); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for line := range strings.Lines(w.out.String()) {
		var a agent.Attempt
		if json.Unmarshal([]byte(line), &a) == nil {
			got[a.Attempt], _, _ = strings.Cut(a.Result, ":")
		}
	}
	for name, want := range map[string]string{"direct-tcp": "REACHED", "data-dir": "REACHED", "provider-direct": "REACHED",
		"control-socket": "blocked", "replay": "blocked", "raw-write": "skipped", "other-origin": "skipped", "other-identity": "skipped", "other-task": "skipped"} {
		if got[name] != want {
			t.Errorf("%s: got %q, want %q", name, got[name], want)
		}
	}
	if len(got) != len(agent.Attempts()) {
		t.Errorf("lines: got %d, want %d", len(got), len(agent.Attempts()))
	}
	if last := w.log.decided[len(w.log.decided)-1]; last.Action.Operation != "computer.malformed" {
		t.Errorf("the replay was recorded as %s", last.Action.Operation)
	}
	if err := w.run(agent.Options{Attacks: []string{"nonsense"}}); err == nil {
		t.Error("an unknown attempt was accepted")
	}
}

func TestTurnLimit(t *testing.T) {
	w := start(t, provider.Honest, allowAll)
	if err := w.run(agent.Options{Goal: goal, MaxTurns: 2}); !errors.Is(err, agent.ErrLimit) {
		t.Errorf("got %v", err)
	}
}
