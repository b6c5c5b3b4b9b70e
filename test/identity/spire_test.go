package identity

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/identity/spiretest"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// spired is a tenant with the lines of the page for SPIRE as the issuer.
func spired(t *testing.T, socket string) *rig.Rig {
	t.Helper()
	blocks := page(t, strings.NewReplacer())
	after := func(file, line, name string) func(map[string][]byte) {
		return rig.Replace(file, line, line+strings.TrimRight(blocks[name], "\n")+"\n")
	}
	r := rig.New(t, rig.Options{SPIRE: socket, Edit: func(f map[string][]byte) {
		after("tenant.yaml", "  reviewers: [lin]\n", "tenant-spire")(f)
		after("agent.yaml", "  reviewBy: \"2027-05-31\"\n", "agent-spire")(f)
		rig.Replace("capability.yaml", "  credentials: [iam-helpdesk, tickets-helpdesk]\n", "  credentials: [iam-helpdesk, tickets-helpdesk]\n  audiences: [https://api.example]\n")(f)
	}})
	r.Ready(t)
	return r
}

const spireID = "spiffe://brightwell.example/agent/helpdesk"

// runs a program that gets its SVIDs and a token with them, and stays.
func getsSVIDs(t *testing.T, r *rig.Rig, x task.Task) *server.Running {
	t.Helper()
	var out rig.Output
	running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, "program", "svids", "stay"))
	if err != nil {
		t.Fatal(err)
	}
	rig.Await(t, "SPIRE's SVIDs and a token inside", func() bool {
		s := out.String()
		return strings.Contains(s, "x509 "+spireID+" ") && strings.Contains(s, "jwt "+spireID+" [ticket-system]") && strings.Contains(s, "exchanged Bearer")
	})
	for _, e := range r.Records(t, 0) {
		var b struct{ Kind, Subject, AttestedBy, SPIFFEID string }
		if e.Type == "task.active" && e.Task == x.ID {
			if err := json.Unmarshal(e.Body, &b); err != nil || b.SPIFFEID != spireID {
				t.Errorf("what others are told of is %q, %v", b.SPIFFEID, err)
			}
		}
		if e.Type != "identity.issued" || e.Task != x.ID {
			continue
		}
		if err := json.Unmarshal(e.Body, &b); err != nil {
			t.Fatal(err)
		}
		if b.Subject != spireID || b.Kind != "access" && b.AttestedBy != "spire" {
			t.Errorf("on record: %+v", b)
		}
	}
	return running
}

// TestSPIREPage: what docs/operate/identity.md says of SPIRE as the issuer. No task
// starts without SPIRE's SVID; with it the harness has it and the task's evidence
// names it; and the task ends when SPIRE takes it back.
//
// Threats: E14 (authority)
func TestSPIREPage(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	spire := spiretest.Start(t, "brightwell.example")
	r := spired(t, spire.Socket)
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	var out rig.Output
	_, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, "program", "svids"))
	wantProblem(t, err, "no_identity")
	spire.Register(spireID, 10*time.Minute)
	shown := func() server.Identity {
		id, err := r.Server.Identity(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	rig.Await(t, "SPIRE's SVID", func() bool { s := shown().SPIRE; return s != nil && s.Broken == "" && len(s.SVIDs) == 1 })
	running := getsSVIDs(t, r, x)
	spire.Remove(spireID)
	if y := rig.Wait(t, running); y.State != task.Failed || y.Code != "identity_lost" {
		t.Errorf("the task is %s %s: %s", y.State, y.Code, y.Why)
	}
	if s := shown().SPIRE; s.Broken == "" || len(s.SVIDs) != 0 {
		t.Errorf("it is shown as %+v", s)
	}
	report, err := r.Server.Readiness(t.Context(), "", "helpdesk", false)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "SVIDs are SPIRE's, of the agent and not of one task") {
		t.Errorf("readiness does not say that SPIRE's SVIDs outlive the task: %s", text)
	}
}
