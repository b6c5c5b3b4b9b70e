package server_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/estate/provider"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/replay"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// shadows lets tasks of the sample's capability be opened in shadow, and its agent
// open parts.
func shadows(files map[string][]byte) {
	parts(files)
	rig.Replace("capability.yaml", "stages: [sandbox, production]", "stages: [shadow, production]")(files)
	files["orders.yaml"] = []byte(database)
}

func refusedAs(t *testing.T, what string, err error, code string) {
	t.Helper()
	if p, ok := errors.AsType[*server.Problem](err); !ok || p.Code != code {
		t.Errorf("%s: got %v, want %s", what, err, code)
	}
}

// database is a source that makes a role for each task.
const database = `apiVersion: sallyport/v1
kind: CredentialSource
metadata: {name: orders, tenant: brightwell}
spec:
  type: postgresql
  postgresql:
    effect: read
    roles: [reader]
    admin: {role: boundary, secret: {sealed: db}}
    stages:
      production: {address: "127.0.0.1:5432", database: orders}
`

// TestShadow: tasks in shadow of an agent that was never certified.
//
// Threats: T61 (shadow, authority)
func TestShadow(t *testing.T) {
	r := rig.New(t, rig.Options{Edit: shadows})
	t.Run("agent_does_its_work", func(t *testing.T) { agentInShadow(t, r) })
	t.Run("nothing_leaves_it", func(t *testing.T) { outOfShadow(t, r) })
}

// An agent does its whole work on production's applications, and they are as they
// were. The record says what each step would have been, people are asked nothing, and
// replay reads it.
func agentInShadow(t *testing.T, r *rig.Rig) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	r.Provider.SetBehaviour(provider.Presuming)
	in := rig.Intent(action.Shadow, "jo", "4711")
	in.Agent = "helpdesk"
	_, err := r.Server.OpenTask(t.Context(), "", rig.As("dana"), in)
	refusedAs(t, "opened before the capability was approved", err, "not_approved")
	for _, a := range r.Pending(t) {
		if a.Statement.Kind == approval.Capability && !strings.Contains(a.Statement.Details["stages"], "shadow (reads production") {
			t.Errorf("who approves the capability sees %q", a.Statement.Details)
		}
	}
	r.Ready(t)
	before := r.State(action.Production)
	x, out := r.Run(t, in, rig.SampleAgent...)
	if x.State != task.Closed || !strings.Contains(out, "Ticket 4711 is answered and closed.") {
		t.Fatalf("got %s: %s\n%s", x.State, x.Why, out)
	}
	if got := rig.Changes(before, r.State(action.Production)); len(got) > 0 {
		t.Errorf("changed: %q\n%s", got, out)
	}
	r.NoSessions(t, action.Production)
	var would []string
	reads := 0
	for _, d := range r.Decisions(t, x.ID) {
		if d.Stage != action.Shadow {
			t.Errorf("%s is on record in stage %s", d.Action.Operation, d.Stage)
		}
		switch {
		case d.Would != nil && d.Decision.Verdict == action.Deny:
			would = append(would, d.Action.Operation+" "+string(d.Would.Verdict))
		case d.Decision.Verdict == action.Allow && d.Action.Surface == action.Egress && d.Action.App == "iam":
			reads++
		}
	}
	if want := []string{"iam.user.mfa.reset hold", "tickets.ticket.comment allow", "tickets.ticket.close allow"}; !slices.Equal(would, want) {
		t.Errorf("would have been: got %q, want %q\n%s", would, want, out)
	}
	if reads == 0 {
		t.Error("nothing was read in production")
	}
	all, err := r.Server.Approvals(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(all, func(a approval.Approval) bool { return a.Statement.Kind == approval.Action }) {
		t.Error("people were asked about what did not happen")
	}
	rep, err := r.Server.Replay(t.Context(), "", rig.As("noor"), nil, replay.Filter{Task: x.ID})
	if err != nil || rep.Replayed < reads+3 || len(rep.Differences) > 0 {
		t.Errorf("replay under what is in force: %+v, %v", rep, err)
	}
	// Without the hold it would be allowed.
	looser, err := r.Resources(func(files map[string][]byte) {
		shadows(files)
		rig.Replace("capability.yaml", "  holds:\n    - operation: iam.user.mfa.reset\n      approvers: approver\n      expiresSeconds: 600\n", "")(files)
	})
	if err != nil {
		t.Fatal(err)
	}
	rep, err = r.Server.Replay(t.Context(), "", rig.As("lin"), looser, replay.Filter{Task: x.ID})
	if err != nil || len(rep.Differences) == 0 || rep.Differences[0].Old.Verdict != action.Hold || rep.Differences[0].Old.Operation != "iam.user.mfa.reset" {
		t.Errorf("replay without the hold: %+v, %v", rep, err)
	}
}

// Whatever is tried to make something of such a task take effect.
func outOfShadow(t *testing.T, r *rig.Rig) {
	applyAs(t, r, "noor", func(files map[string][]byte) {
		shadows(files)
		files["capability.yaml"] = append(files["capability.yaml"], "  audiences: [https://api.example]\n"...)
		rig.Replace("capability.yaml", "credentials: [iam-helpdesk, tickets-helpdesk]", "credentials: [iam-helpdesk, tickets-helpdesk, orders]")(files)
	})
	r.Ready(t)
	in := rig.Intent(action.Shadow, "jo", "4711")
	in.Agent = "helpdesk"
	_, err := r.Server.OpenTask(t.Context(), "", rig.As("dana"), in)
	refusedAs(t, "a credential that is made for the task", err, "not_in_shadow")
	applyAs(t, r, "noor", func(files map[string][]byte) {
		shadows(files)
		files["capability.yaml"] = append(files["capability.yaml"], "  audiences: [https://api.example]\n"...)
	})
	r.Ready(t)
	x := r.OpenTask(t, in)
	a, err := r.Server.StartAsker(t.Context(), x.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, above := range []string{"", x.ID} {
		for _, stage := range []action.Stage{action.Production, action.Sandbox} {
			other := in
			other.Stage, other.Parent = stage, above
			_, err := r.Server.OpenTask(t.Context(), "", rig.As("dana"), other)
			code := map[action.Stage]string{action.Production: "no_certification", action.Sandbox: "stage_not_covered"}[stage]
			refusedAs(t, "a task in "+string(stage)+" under "+above, err, code)
		}
	}
	part := in
	part.Agent, part.Parent = "second", x.ID
	r.OpenTask(t, part)
	all, err := r.Server.Tasks(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, y := range all {
		if y.Stage != action.Shadow {
			t.Errorf("task %s is in %s", y.ID, y.Stage)
		}
	}
	if err := a.Tokens(t.Context()); err == nil {
		t.Error("tokens of a task in shadow are given")
	}
	origin := "https://iam.brightwell.localhost:" + r.Ports.Production
	for _, q := range []action.Request{
		{Method: "POST", Path: "/users/jo/mfa/reset"}, {Method: "DELETE", Path: "/users/jo/mfa/reset"}, {Method: "POST", Path: "/users/jo"},
		{Method: "GET", Path: "/users/jo", Destination: "websocket"}, {Method: "GET", Path: "/users/jo/mfa/reset"},
	} {
		q.Origin = origin
		body := ""
		if q.Method == "POST" {
			body = "_csrf=a"
		}
		for _, explained := range []string{"", "a-0"} {
			res, err := a.Request(gate.WithPatience(t.Context(), 0), q, body, explained)
			if err == nil && res.Decision.Verdict == action.Allow && (q.Method != "GET" || q.Destination != "") {
				t.Errorf("%s %s %s was let through", q.Method, q.Path, q.Destination)
			}
		}
	}
	for _, s := range []action.Surface{action.Database, action.SSH, action.Control} {
		if res := a.Act(t.Context(), action.Action{Surface: s, Source: "harness", Operation: string(s) + ".connect", Effect: action.Read, App: "orders"}); res.Outcome != nil {
			t.Errorf("%s was dispatched", s)
		}
	}
	// What people approved is what production is read under, and no longer.
	read := func() gate.Result {
		t.Helper()
		res, err := a.Request(t.Context(), action.Request{Method: "GET", Origin: origin, Path: "/users/jo"}, "", "a-0")
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	if res := read(); res.Decision.Verdict != action.Allow {
		t.Errorf("a read before a change: %+v", res.Decision)
	}
	applyAs(t, r, "noor", func(files map[string][]byte) {
		shadows(files)
		files["capability.yaml"] = append(files["capability.yaml"], "  audiences: [https://api.example]\n"...)
		files["policies/company.cedar"] = append(files["policies/company.cedar"], "// tighter\n"...)
	})
	if res := read(); res.Decision.Verdict == action.Allow || res.Decision.Code != "changed" {
		t.Errorf("a read under rules that are not declared any more: %+v", res.Decision)
	}
}
