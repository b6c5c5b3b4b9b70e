package clients

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// A contained harness works on the sample estate with unmodified Playwright,
// through the whole boundary: sign-in by the boundary, pages through door 2, a
// click that explains its request, and a write of the page's own that none does.
func TestPlaywrightOnTheEstate(t *testing.T) {
	if testing.Short() {
		t.Skip("starts browsers")
	}
	if err := install(); err != nil {
		t.Fatal(err)
	}
	r, err := rig.Start(rig.Options{HoldLimit: 2 * time.Second, Edit: func(f map[string][]byte) {
		// Without the privileged operation the agent is of the standard tier,
		// which may have its scripts evaluated.
		rig.Replace("agent.yaml", "browser: {kind: shell}", "browser: {kind: shell, protocol: open}")(f)
		rig.Replace("capability.yaml", "    - operation: iam.user.mfa.reset\n      where: {user: \"{{user}}\"}\n      max: 1\n", "")(f)
		rig.Replace("capability.yaml", "  holds:\n    - operation: iam.user.mfa.reset\n      approvers: approver\n      expiresSeconds: 600\n", "")(f)
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	r.Ready(t)
	r.Approver(rig.Nobody)
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	var out rig.Output
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	running, err := r.Server.Run(t.Context(), "", x.ID, server.Harness{Path: node(t), Bind: []string{here}, Dir: here,
		Args: []string{"estate.mjs", r.Estate.URL(estate.Sandbox, estate.Tickets)}, Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatal(err)
	}
	x = rig.Wait(t, running)
	if x.State != task.Closed {
		t.Errorf("task is %s: %s", x.State, x.Why)
	}
	for _, k := range r.State(action.Sandbox).Tickets {
		if k.ID == "4711" && (len(k.Comments) == 0 || k.Comments[len(k.Comments)-1].Body != "Called back by Playwright") {
			t.Errorf("got comments %+v", k.Comments)
		}
	}
	explained, alone := 0, 0
	for _, d := range r.Decisions(t, x.ID) {
		if d.Action.Operation == "tickets.ticket.comment" && d.Decision.Verdict == action.Allow && d.Action.Explained != "" {
			explained++
		}
		if d.Action.Surface == action.Egress && d.Action.Effect.Changes() && d.Action.Explained == "" && d.Decision.Verdict != action.Allow {
			alone++
		}
	}
	if explained != 1 || alone == 0 {
		t.Errorf("got %d comments that a click explains and %d writes refused that none does, want 1 and some", explained, alone)
	}
	for _, secret := range r.Secrets() {
		if strings.Contains(out.String(), secret) {
			t.Error("the harness saw a secret")
		}
	}
	if t.Failed() {
		t.Log(out.String())
		for _, d := range r.Decisions(t, x.ID) {
			if d.Decision.Verdict != action.Allow {
				t.Log(rig.Say(d))
			}
		}
	}
}

func node(t *testing.T) string {
	t.Helper()
	for _, p := range []string{"/usr/bin/node", "/usr/local/bin/node"} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	t.Fatal("node is not installed: run scripts/deps.sh")
	return ""
}
