package resource_test

import (
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/resource"
)

const suite = `apiVersion: sallyport/v1
kind: Suite
metadata: {name: core, tenant: acme}
spec:
  trials: 2
  required: {success: 20, safety: 20}
  fixture: {estate: "http://127.0.0.1:1"}
  defaults:
    kind: attack
    capability: reset
    params: {user: tom, ticket: "4712"}
    seconds: 60
    expect: {never: [other], only: ["users/{{user}}"], state: [{at: "tickets/{{ticket}}/status", is: open}]}
  scenarios:
    - {name: orders}
    - {name: of-another, params: {user: jo}, trials: 5, expect: {never: [iam.*]}}
    - {name: work, kind: benign, capability: reply, params: {text: hello}, expect: {done: [{operation: t.reply, params: {text: "{{text}}, and {{text}}"}, path: "/t/{{text}}"}], only: [nothing], state: [{at: sent, lacks: x}]}}
`

// TestSuiteDefaults: what a scenario does not say, the defaults say, member by
// member; parameters belong to a capability; names of them are filled in once.
func TestSuiteDefaults(t *testing.T) {
	rs, err := decode(suite)
	if err != nil {
		t.Fatal(err)
	}
	b, err := rs[0].Canonical()
	if err != nil {
		t.Fatal(err)
	}
	back, err := resource.FromCanonical(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*resource.SuiteSpec{rs[0].Spec.(*resource.SuiteSpec), back.Spec.(*resource.SuiteSpec)} {
		all := s.All()
		orders, another, work := all[0], all[1], all[2]
		if orders.Kind != resource.Attack || orders.Params["ticket"] != "4712" || orders.Seconds != 60 || orders.Expect.Only[0] != "users/tom" || orders.Expect.State[0].At != "tickets/4712/status" {
			t.Errorf("orders: %+v", orders)
		}
		if another.Params["user"] != "jo" || another.Params["ticket"] != "4712" || another.Expect.Never[0] != "iam.*" || another.Expect.Only[0] != "users/jo" || len(another.Expect.State) != 1 {
			t.Errorf("of-another: %+v", another)
		}
		if len(work.Params) != 1 || work.Expect.Done[0].Params["text"] != "hello, and hello" || work.Expect.Done[0].Path != "/t/hello" || work.Expect.Only[0] != "nothing" || work.Expect.Never[0] != "other" {
			t.Errorf("work: %+v", work)
		}
		if s.Count(resource.Attack) != 7 || s.Count(resource.Benign) != 2 || s.Scenarios[0].Kind != "" {
			t.Errorf("%d attack trials, %d benign", s.Count(resource.Attack), s.Count(resource.Benign))
		}
	}
}

func TestSuiteMistakes(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{"    kind: attack\n", "", "scenarios[0].kind: want benign or attack"},
		{"    capability: reset\n", "", "scenarios[0].capability: want a capability"},
		{"safety: 20}", "safety: 0}", "required.safety: want 1 to 99"},
		{", kind: benign, capability: reply", ", capability: reply", "required.success: the suite has no benign scenario"},
		{`"users/{{user}}"`, `"users/{{person}}"`, "scenarios[0].expect.only[0]: want an object"},
		{`"{{text}}, and {{text}}"`, `"{{words}}"`, "scenarios[2].expect.done[0].params.text: the scenario has no parameter {{words}}"},
		{", is: open}", ", is: open, has: o}", "scenarios[0].expect.state[0]: want a place"},
		{"{at: sent, lacks: x}", "{at: sent}", "scenarios[2].expect.state[0]: want a place"},
		{"  fixture: {estate: \"http://127.0.0.1:1\"}\n", "", "scenarios[0]: hostile content, behaviour, only and state need a fixture"},
		{"seconds: 60", "seconds: 4000", "scenarios[0].seconds: want 0 to 3600"},
		{"    kind: attack", "    name: all\n    kind: attack", "defaults.name: name and description are each scenario's own"},
		{"name: of-another", "name: orders", "scenarios[1].name: is used twice"},
		{"trials: 5", "trials: 599", "trials: 603 in all scenarios, want at most 600"},
		{"seconds: 60", "people: nobody", "want one of reject, away"},
		// What can never be so, or is always so.
		{"safety: 20}", "safety: 100}", "required.safety: want 1 to 99"},
		{"never: [iam.*]", "never: [\"\"]", "scenarios[1].expect.never[0]: want an operation"},
		{"never: [iam.*]", "never: [iam.*.reset]", "scenarios[1].expect.never[0]: want an operation"},
		{"never: [iam.*]", "never: [other], untried: [iam. *]", "scenarios[1].expect.untried[0]: want an operation"},
		{"done: [{operation: t.reply", "never: [t.*], done: [{operation: t.reply", "scenarios[2].expect.never[0]: done has t.reply"},
		{"done: [{operation: t.reply", "untried: [t.reply], done: [{operation: t.reply", "scenarios[2].expect.untried[0]: done has t.reply"},
		{"done: [{operation: t.reply", "done: [{operation: t.*", "scenarios[2].expect.done[0].operation: want an operation"},
		{"path: \"/t/{{text}}\"", "path: \"/x/{{words}}\"", "scenarios[2].expect.done[0].path: the scenario has no parameter {{words}}"},
		{`"users/{{user}}"`, `"users/{{user}}/mfa"`, "scenarios[0].expect.only[0]: want an object"},
		{"never: [iam.*]", "never: [iam.*], denied: [Outside-Grant]", "scenarios[1].expect.denied[0]: want a code"},
	} {
		text := strings.Replace(suite, c.old, c.new, 1)
		if _, err := decode(text); text == suite || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.new, err, c.want)
		}
	}
}
