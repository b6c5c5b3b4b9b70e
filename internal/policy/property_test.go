package policy_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"pgregory.net/rapid"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

var (
	someOps  = []string{"iam.a.x", "iam.a.y", "pay.b.x", "tickets.c.x"}
	someApps = []string{"iam", "pay", "tickets"}
)

// aPolicy draws a guardrail with any kind of scope.
func aPolicy(t *rapid.T, id string) string {
	pick := func(label string, of ...string) string { return rapid.SampledFrom(of).Draw(t, label) }
	principal := pick("principal", "principal", `principal == Agent::"a1"`, `principal in Tenant::"acme"`, `principal is Agent`,
		`principal is Agent in Tenant::"acme"`, `principal == Agent::"a2"`, `principal in Agent::"a1"`)
	act := pick("action", "action", `action == Action::"iam.a.x"`, `action in Action::"effect/write"`, `action in Action::"reach/privileged"`,
		`action in [Action::"iam.a.x", Action::"reach/read"]`, `action in [Action::"pay.b.x", Action::"pay.b.x"]`, `action in Action::"surface/egress"`)
	res := pick("resource", "resource", `resource == App::"iam"`, `resource in Origin::"https://iam"`, `resource is App`, `resource is Boundary`,
		`resource is App in Origin::"https://pay"`, `resource == Boundary::"self"`, `resource == Origin::"https://evil"`)
	when := pick("when", "", `when { context.labels.contains("pii") }`, `when { context.count + 9223372036854775806 > 0 }`,
		`when { context has element && context.element.uninspectable }`, `unless { context.explained }`,
		`when { context.total > 1 || context.counts has "iam.a.x" }`, `when { context.paramNames.contains("p") && context.source == "browser" }`,
		`when { context has request && context.request.origin == "https://pay" }`, `when { if context.certified then context.demo else context.pinned }`,
		`when { {c: context.stage, d: [context.tier]}.c == "production" }`, `when { context.params has p && context.params.p == "v" }`)
	hold := pick("hold", "", "", `@hold("approver")`, `@hold("owner")`)
	return fmt.Sprintf("@id(%q) %s forbid (%s, %s, %s) %s;", id, hold, principal, act, res, when)
}

func anInput(t *rapid.T) policy.Input {
	str := func(label string, of ...string) string { return rapid.SampledFrom(of).Draw(t, label) }
	a := action.Action{
		Tenant: str("tenant", "acme", "other"), Task: "T", Agent: str("agent", "a1", "a2", "a3"),
		Surface:   action.Surface(str("surface", "egress", "computer", "inference", "database", "control")),
		Operation: str("operation", append(someOps, "egress.unmatched")...), App: str("app", "", "iam", "pay", "tickets"),
		Effect: action.Effect(str("effect", "observe", "read", "write", "privileged", "irreversible", "odd")),
		Params: map[string]string{"p": str("value", "v", "w")}, Explained: str("explained", "", "A1"),
	}
	switch str("target", "none", "request", "element") {
	case "request":
		a.Request = &action.Request{Origin: str("origin", "https://iam", "https://pay", "https://evil")}
	case "element":
		a.Element = &action.Element{FrameOrigin: "https://iam", Uninspectable: str("why", "", "canvas")}
	}
	in := policy.Input{Action: a, Stage: action.Stage(str("stage", "sandbox", "production")), Tier: str("tier", "light", "privileged"),
		Certified: rapid.Bool().Draw(t, "certified"), Pinned: rapid.Bool().Draw(t, "pinned"), Source: str("source", "", "harness", "boundary")}
	if rapid.Bool().Draw(t, "label") {
		in.Labels = []string{"pii", "untrusted-content"}
	}
	in.Counts = map[string]int64{a.Operation: rapid.Int64Range(0, 3).Draw(t, "count")}
	return in
}

// TestIndexNeverChangesAnAnswer holds the indexed decision, reasons included,
// against the evaluation of every policy.
func TestIndexNeverChangesAnAnswer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var text strings.Builder
		for i := range rapid.IntRange(0, 12).Draw(t, "policies") {
			text.WriteString(aPolicy(t, fmt.Sprintf("p%d", i)) + "\n")
		}
		guardrails, err := policy.Parse(map[string][]byte{"p.cedar": []byte(text.String())})
		if err != nil {
			t.Fatal(err)
		}
		g := policy.Grant{Tenant: "acme", Agent: "a1", Task: "T", Capability: "c", Reads: someApps[:rapid.IntRange(0, 3).Draw(t, "reads")],
			Inference: rapid.Bool().Draw(t, "inference"), Control: rapid.Bool().Draw(t, "control")}
		for i, op := range someOps[:rapid.IntRange(0, 4).Draw(t, "rules")] {
			g.Rules = append(g.Rules, policy.Rule{Operation: op, App: someApps[i%3], Max: 2, Params: map[string]policy.Constraint{"p": {Equals: "v"}}})
		}
		grant, err := policy.CompileGrant(g)
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			in := anInput(t)
			got, want := policy.Evaluate(guardrails, grant, in), policy.TestingOnlyWhole(guardrails, grant, in)
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("indexed %+v, whole %+v, input %+v\n%s", got, want, in, text.String())
			}
		}
	})
}

// TestParameterValuesAreData: whatever a requester fills in, the grant's text
// parses back to the same number of policies, covers exactly that value, and
// no other.
func TestParameterValuesAreData(t *testing.T) {
	base, err := policy.Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	hostile := []string{
		`jo"`, `\`, `\"`, `" || true || "`, "jo\n};\npermit(principal,action,resource);", `"); permit (principal, action, resource); @id("x`,
		"*", `\*`, "${jo}", "{{user}}", "\u202ejo", "jo\x00", "'", "//", "/* */", "@hold(\"approver\")", `\u{22}`, "✂", "é", "e\u0301",
	}
	value := rapid.OneOf(rapid.SampledFrom(hostile), rapid.String())
	rapid.Check(t, func(t *rapid.T) {
		v, other := value.Draw(t, "value"), value.Draw(t, "other")
		g, err := policy.CompileGrant(policy.Grant{Tenant: "acme", Agent: v + "a", Task: v + "t", Capability: "c",
			Rules: []policy.Rule{{Operation: "iam.a.x", App: v + "app", Max: 1, Params: map[string]policy.Constraint{v: {Equals: v}}}}})
		if err != nil {
			t.Fatal(err)
		}
		list, err := cedar.NewPolicyListFromBytes("grant", []byte(g.Text()))
		if err != nil || len(list) != 1 {
			t.Fatalf("text parses to %d policies (%v)\n%s", len(list), err, g.Text())
		}
		decide := func(name, val string) action.Verdict {
			return policy.Evaluate(base, g, policy.Input{Stage: action.Sandbox, Tier: "privileged", Certified: true, Action: action.Action{
				Tenant: "acme", Agent: v + "a", Task: v + "t", Surface: action.Egress, Operation: "iam.a.x", App: v + "app", Effect: action.Privileged,
				Explained: "A", Params: map[string]string{name: val}}}).Verdict
		}
		if got := decide(v, v); got != action.Allow {
			t.Fatalf("own value: got %s, want allow\n%s", got, g.Text())
		}
		if other != v && (decide(v, other) != action.Deny || decide(other, v) != action.Deny) {
			t.Fatalf("value %q passes for %q\n%s", other, v, g.Text())
		}
	})
}

// FuzzParse: whatever an author sends, there is an answer and no panic, and
// what is accepted only forbids.
func FuzzParse(f *testing.F) {
	f.Add(`@id("x") forbid (principal, action, resource) when { context.count > 1 };`)
	f.Add(`@id("x") @hold("owner") forbid (principal in Tenant::"a", action in [Action::"a.b"], resource) unless { context has element };`)
	f.Add(`permit(principal,action,resource);`)
	f.Add("@id(\"x\")forbid(principal,action,resource)when{!!!!!-(-1)==[{}].contains(ip(\"1\"))};")
	grant, err := policy.CompileGrant(policy.Grant{Agent: "a", Task: "t", Capability: "none"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := policy.Parse(map[string][]byte{"f.cedar": []byte(text)})
		if err != nil {
			return
		}
		d := policy.Evaluate(s, grant, policy.Input{Action: action.Action{Agent: "a", Operation: "a.b", Effect: action.Read, Surface: action.Egress}})
		if d.Verdict != action.Deny {
			t.Errorf("guardrails %q allowed something: %+v", text, d)
		}
	})
}

func bench(b *testing.B, n int) {
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, "@id(\"p%d\") forbid (principal, action == Action::\"app%d.thing.do\", resource == App::\"app%d\") when { context.count > %d && context.labels.contains(\"pii\") };\n",
			i, i%50, i, i%7)
	}
	s, err := policy.Parse(map[string][]byte{"bench.cedar": []byte(text.String())})
	if err != nil {
		b.Fatal(err)
	}
	grant, err := policy.CompileGrant(policy.Grant{Tenant: "acme", Agent: "a1", Task: "T", Capability: "c",
		Rules: []policy.Rule{{Operation: "app7.thing.do", App: "app7", Max: 5, Params: map[string]policy.Constraint{"p": {Equals: "v"}}}}})
	if err != nil {
		b.Fatal(err)
	}
	in := policy.Input{Action: action.Action{Tenant: "acme", Task: "T", Agent: "a1", Surface: action.Egress, Operation: "app7.thing.do", App: "app7",
		Effect: action.Write, Params: map[string]string{"p": "v"}, Explained: "A", Request: &action.Request{Method: "POST", Origin: "https://app7", Path: "/x"}},
		Stage: action.Sandbox, Tier: "privileged", Certified: true, Labels: []string{"pii"}}
	if d := policy.Evaluate(s, grant, in); d.Verdict != action.Allow {
		b.Fatalf("got %+v, want allow", d)
	}
	b.ReportAllocs()
	for b.Loop() {
		in.Action.ID = fmt.Sprint(rand.Uint32())
		policy.Evaluate(s, grant, in)
	}
}

func BenchmarkEvaluate10(b *testing.B)    { bench(b, 10) }
func BenchmarkEvaluate100(b *testing.B)   { bench(b, 100) }
func BenchmarkEvaluate1000(b *testing.B)  { bench(b, 1000) }
func BenchmarkEvaluate10000(b *testing.B) { bench(b, 10000) }
