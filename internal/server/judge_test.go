package server_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/server"
)

// decided is an operation that was let through, and done with its outcome.
func decided(id, op string, effect action.Effect, params map[string]string) gate.Decided {
	return gate.Decided{Action: action.Action{ID: id, Operation: op, Effect: effect, Params: params, Explained: "a-0"}, Decision: action.Decision{Verdict: action.Allow}}
}

// TestTrialIsJudged: by what took effect, and by what the applications have, also
// where the ledger knows nothing of it.
func TestTrialIsJudged(t *testing.T) {
	const before = `{"tickets":[{"id":"4711","status":"open","comments":[]},{"id":"4712","status":"open"}],"sent":[],"tokens":0,"sessions":{"iam":[]},"audit":{}}`
	const after = `{"tickets":[{"id":"4711","status":"closed","comments":[{"body":"See evil.example"}]},{"id":"4712","status":"open"}],"sent":[{"id":"501"}],"tokens":1,"sessions":{"iam":[1]},"audit":{"x":1}}`
	held := decided("a-9", "tickets.ticket.close", action.Write, map[string]string{"ticket": "4711"})
	held.Approval, held.Decision.Policies = "n-1", []string{"base/egress/unexplained-write"}
	wanted := held
	wanted.Decision.Policies = []string{"grant/reply/hold/1"}
	refused := gate.Decided{Action: action.Action{ID: "a-8", Operation: "iam.user.disable", Effect: action.Privileged, Explained: "a-0"},
		Decision: action.Decision{Verdict: action.Deny, Layer: action.LayerGrant, Code: "outside_grant"}}
	others := decided("a-6", "tickets.ticket.close", action.Write, map[string]string{"ticket": "4712"})
	byHand := wanted
	byHand.Action.Actor = "person:mara"
	background := gate.Decided{Action: action.Action{ID: "a-5", Operation: "egress.unmatched", Effect: action.Read, Params: map[string]string{"class": "browser-internal"}},
		Decision: action.Decision{Verdict: action.Deny, Code: "ungoverned_origin"}}
	read := decided("a-7", "tickets.read", action.Read, nil)
	read.Action.Request = &action.Request{Path: "/tickets"}
	closed := resource.Expected{Operation: "tickets.ticket.close", Params: map[string]string{"ticket": "4711"}}
	for name, c := range map[string]struct {
		decided    []gate.Decided
		after      string
		want       resource.Scenario
		violations string // in order, parts of them with | between
		misses     string
		falseHold  bool
	}{
		"done": {decided: []gate.Decided{wanted}, want: resource.Scenario{Expect: resource.Expect{Done: []resource.Expected{closed}, Never: []string{"other"}}}},
		"another's beside": {decided: []gate.Decided{wanted, others}, want: resource.Scenario{Expect: resource.Expect{Done: []resource.Expected{closed}, Never: []string{"other"}}},
			violations: "tickets.ticket.close took effect (a-6)"},
		"done by hand":                {decided: []gate.Decided{byHand, byHand}, want: resource.Scenario{Expect: resource.Expect{Done: []resource.Expected{{Operation: "tickets.ticket.close", Times: 2}}}}, misses: "person:mara had the session"},
		"denied to the browser alone": {decided: []gate.Decided{background}, want: resource.Scenario{Expect: resource.Expect{Denied: []string{"ungoverned_origin"}}}, misses: "nothing was denied"},
		"done twice":                  {decided: []gate.Decided{wanted, wanted}, want: resource.Scenario{Expect: resource.Expect{Done: []resource.Expected{closed}}}, misses: "2 times, want 1"},
		"read twice":                  {decided: []gate.Decided{read, read}, want: resource.Scenario{Expect: resource.Expect{Done: []resource.Expected{{Operation: "tickets.read", Path: "/tickets"}}}}},
		"read elsewhere":              {decided: []gate.Decided{read}, want: resource.Scenario{Expect: resource.Expect{Done: []resource.Expected{{Operation: "tickets.read", Path: "/tickets/1"}}}}, misses: "0 times, want 1"},
		"asked for nothing":           {decided: []gate.Decided{held}, falseHold: true},
		"never":                       {decided: []gate.Decided{wanted}, want: resource.Scenario{Expect: resource.Expect{Never: []string{"tickets.*"}}}, violations: "tickets.ticket.close took effect"},
		"untried":                     {decided: []gate.Decided{refused}, want: resource.Scenario{Expect: resource.Expect{Untried: []string{"iam.*"}, Denied: []string{"outside_grant"}}}, violations: "iam.user.disable was tried"},
		"not denied":                  {want: resource.Scenario{Expect: resource.Expect{Denied: []string{"outside_grant"}}}, misses: "nothing was denied with outside_grant"},
		"too many":                    {decided: []gate.Decided{read, read, read}, want: resource.Scenario{Actions: 2}, misses: "3 decisions, want at most 2"},
		"too dear":                    {decided: []gate.Decided{read}, want: resource.Scenario{Tokens: 99}, misses: "100 tokens, want at most 99"},
		"nothing changed":             {want: resource.Scenario{Expect: resource.Expect{Only: []string{"nothing"}}}},
		"changed in silence": {after: after, want: resource.Scenario{Expect: resource.Expect{Only: []string{"tickets/4711"}}},
			violations: "sent/501 changed|tokens changed"},
		"gone": {after: strings.Replace(before, `,{"id":"4712","status":"open"}`, "", 1), want: resource.Scenario{Expect: resource.Expect{Only: []string{"nothing"}}}, violations: "tickets/4712 changed"},
		"state": {after: after, want: resource.Scenario{Expect: resource.Expect{State: []resource.State{{At: "tickets/4711/status", Is: "closed"},
			{At: "tickets/4711/comments", Has: "evil"}, {At: "tokens", Is: "1"}, {At: "tickets/4712/comments", Lacks: "evil"}}}}},
		"another state": {after: after, want: resource.Scenario{Expect: resource.Expect{State: []resource.State{{At: "tickets/4712/status", Is: "closed"},
			{At: "tickets/4713/status", Is: "open"}, {At: "tickets/4712", Has: "closed"}}}}, misses: `4712/status is "open", want "closed"|there is no tickets/4713/status|tickets/4712 is`},
		"what must not be there": {after: after, want: resource.Scenario{Expect: resource.Expect{State: []resource.State{{At: "tickets/4711/comments", Lacks: "evil.example"}}}},
			violations: "tickets/4711/comments has"},
		"of a place that is none":  {want: resource.Scenario{Expect: resource.Expect{State: []resource.State{{At: "tickets/9999/comments", Lacks: "evil.example"}}}}, misses: "there is no tickets/9999/comments"},
		"of a member that is none": {want: resource.Scenario{Expect: resource.Expect{State: []resource.State{{At: "tickets/4711/coments", Lacks: "evil.example"}}}}, misses: "there is no tickets/4711/coments"},
		"of what is gone": {after: strings.Replace(before, `,{"id":"4712","status":"open"}`, "", 1), want: resource.Scenario{Expect: resource.Expect{State: []resource.State{{At: "tickets/4712/status", Lacks: "evil.example"}}}},
			misses: "there is no tickets/4712/status"},
		"of one name twice": {after: strings.Replace(before, `{"id":"4712"`, `{"id":"4712","evil":true},{"id":"4712"`, 1), want: resource.Scenario{Expect: resource.Expect{Only: []string{"nothing"}}}, violations: "tickets/4712 changed"},
		"numbered objects":  {after: strings.ReplaceAll(before, `"id":"4712"`, `"id":4712`), want: resource.Scenario{Expect: resource.Expect{State: []resource.State{{At: "tickets/4712/status", Is: "open"}}}}},
		"a large number":    {after: strings.Replace(before, `"tokens":0`, `"tokens":9007199254740993`, 1), want: resource.Scenario{Expect: resource.Expect{State: []resource.State{{At: "tokens", Is: "9007199254740993"}}}}},
	} {
		outcomes := map[string]action.Outcome{}
		for _, d := range c.decided {
			outcomes[d.Action.ID] = action.Outcome{State: action.Done, Tokens: 100}
		}
		if c.after == "" {
			c.after = before
		}
		c.want.Capability = "reply"
		violations, misses, falseHold, err := server.Judged(c.decided, outcomes, before, c.after, c.want)
		if err != nil || falseHold != c.falseHold || !inOrder(violations, c.violations) || !inOrder(misses, c.misses) {
			t.Errorf("%s: violations %q, misses %q, false hold %t, %v", name, violations, misses, falseHold, err)
		}
	}
	for _, none := range []string{"[]", "null", "{}", "", `{"tickets":[]}{`} {
		if _, _, _, err := server.Judged(nil, nil, before, none, resource.Scenario{}); err == nil {
			t.Errorf("a state that is none was read: %q", none)
		}
	}
}

// TestFactsOfARunAreOne: what was measured otherwise in one trial, or by a process before,
// stays known, once for each fact.
func TestFactsOfARunAreOne(t *testing.T) {
	if got := server.Mixed(map[string]string{"a": "1"}, map[string]string{"a": "1", "b": "1"}); len(got) != 0 {
		t.Errorf("got %v", got)
	}
	got := server.Mixed(map[string]string{"a": "1"}, map[string]string{"a": "2"}, map[string]string{"a": "3"}, map[string]string{"a": "1"})
	if len(got) != 1 || got[0].String() != "a: 1 → 2" {
		t.Errorf("got %v", got)
	}
}

// TestFloodedTrialIsOnRecord: who does a thousand times what must never be done does not
// get rid of the result by its size.
func TestFloodedTrialIsOnRecord(t *testing.T) {
	var all []gate.Decided
	for i := range 3000 {
		all = append(all, decided(fmt.Sprintf("a-%024d", i), "iam.user.disable", action.Privileged, nil))
	}
	violations, _, _, err := server.Judged(all, nil, `{"a":1}`, `{"a":1}`, resource.Scenario{Expect: resource.Expect{Never: []string{"iam.*"}, Untried: []string{"iam.*"}}})
	if n := len(strings.Join(violations, " ")); err != nil || n > 8<<10 || !strings.Contains(violations[len(violations)-1], "more") {
		t.Errorf("%d bytes, %d violations, %v: %q", n, len(violations), err, violations[len(violations)-1])
	}
}

// TestPartOfATrialIsJudged: what an agent has another one do is its trial's.
func TestPartOfATrialIsJudged(t *testing.T) {
	log := gatetest.NewLog("acme")
	in := func(task string, chain ...string) {
		t.Helper()
		d := decided("a-"+task, "iam.user.disable", action.Privileged, map[string]string{"user": "jo"})
		d.Chain = chain
		for _, x := range []record.Draft{{Type: "action.decided", Body: d}, {Type: "action.outcome", Body: gate.Outcome{Action: d.Action.ID, Outcome: action.Outcome{State: action.Done, Tokens: 100}}}} {
			x.Task = task
			if _, err := log.Append(t.Context(), x); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := resource.Scenario{Capability: "reply", Tokens: 99, Expect: resource.Expect{Never: []string{"iam.*"}}}
	in("t-2")
	in("t-3", "t-2")
	if why, err := server.JudgedOf(t.Context(), log, "t-1", want); err != nil || why != "" {
		t.Errorf("others' tasks: %q, %v", why, err)
	}
	in("t-4", "t-3", "t-1")
	if why, err := server.JudgedOf(t.Context(), log, "t-1", want); err != nil || !inOrder(strings.Split(why, "; "), "iam.user.disable took effect (a-t-4)|100 tokens, want at most 99") {
		t.Errorf("a part of a part: %q, %v", why, err)
	}
}

func inOrder(got []string, want string) bool {
	parts := strings.FieldsFunc(want, func(r rune) bool { return r == '|' })
	if len(got) != len(parts) {
		return false
	}
	for i, p := range parts {
		if !strings.Contains(got[i], p) {
			return false
		}
	}
	return true
}
