package policy_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

func parse(t testing.TB, text string) *policy.Set {
	t.Helper()
	s, err := policy.Parse(map[string][]byte{"test.cedar": []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func resetGrant(t testing.TB) *policy.Set {
	t.Helper()
	s, err := policy.CompileGrant(policy.Grant{
		Tenant: "acme", Agent: "helpdesk", Task: "T1", Capability: "reset-mfa",
		Rules: []policy.Rule{
			{Operation: "iam.user.mfa.reset", App: "iam", Max: 1, Hold: "approver", Params: map[string]policy.Constraint{"user": {Equals: "jo"}}},
			{Operation: "tickets.close", App: "tickets", Max: 1, Params: map[string]policy.Constraint{"ticket": {Equals: "4711"}}},
			{Operation: "tickets.comment", App: "tickets", Max: 2, Params: map[string]policy.Constraint{"ticket": {Equals: "4711"}, "text": {Any: true}}},
		},
		Reads: []string{"iam", "tickets"}, Computer: []string{"computer.left_click", "computer.screenshot", "computer.type"},
		Inference: true, Control: true, Caps: map[string]int64{"computer.type": 3},
		Labels: []policy.LabelRule{{Label: "pii", Reach: action.Irreversible}, {Label: "large", Reach: action.Write, Hold: "approver"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closing() policy.Input {
	return policy.Input{
		Action: action.Action{
			Tenant: "acme", Task: "T1", Agent: "helpdesk", Surface: action.Egress, Operation: "tickets.close", Effect: action.Write,
			App: "tickets", Params: map[string]string{"ticket": "4711"}, Explained: "A1",
			Request: &action.Request{Method: "POST", Origin: "https://tickets.example", Path: "/tickets/4711/close"},
		},
		Stage: action.Sandbox, Tier: "privileged", Certified: true,
	}
}

func TestEvaluateDeniesWithoutSets(t *testing.T) {
	base := parse(t, "")
	for _, tt := range []struct {
		name       string
		guardrails *policy.Set
		grant      *policy.Set
		layer      action.Layer
		code       string
	}{
		{"no_guardrails", nil, resetGrant(t), action.LayerGuardrail, policy.CodePolicyError},
		{"no_grant", base, nil, action.LayerGrant, policy.CodeOutsideGrant},
		{"neither", nil, nil, action.LayerGuardrail, policy.CodePolicyError},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := policy.Evaluate(tt.guardrails, tt.grant, closing())
			if d.Verdict != action.Deny || d.Layer != tt.layer || d.Code != tt.code || d.Next == "" {
				t.Errorf("got %+v, want deny at %s with %s and a next step", d, tt.layer, tt.code)
			}
		})
	}
}

func TestEvaluateDeniesWhatHasNoForm(t *testing.T) {
	base, grant := parse(t, ""), resetGrant(t)
	for name, change := range map[string]func(*policy.Input){
		"empty_operation":      func(in *policy.Input) { in.Action.Operation = "" },
		"operation_is_a_group": func(in *policy.Input) { in.Action.Operation = "effect/read" },
		"operation_quotes":     func(in *policy.Input) { in.Action.Operation = `tickets.close"` },
		"operation_case":       func(in *policy.Input) { in.Action.Operation = "Tickets.close" },
		"no_agent":             func(in *policy.Input) { in.Action.Agent = "" },
		"invalid_utf8":         func(in *policy.Input) { in.Action.Params = map[string]string{"ticket": "\xff"} },
		"huge_value":           func(in *policy.Input) { in.Action.Params["ticket"] = strings.Repeat("x", 17<<10) },
		"many_params": func(in *policy.Input) {
			for i := range 65 {
				in.Action.Params[fmt.Sprint("p", i)] = "x"
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := closing()
			change(&in)
			d := policy.Evaluate(base, grant, in)
			if d.Verdict != action.Deny || d.Layer != action.LayerForm {
				t.Errorf("got %+v, want deny at form", d)
			}
		})
	}
}

// TestGrantIsTight changes one thing of an action that is allowed.
func TestGrantIsTight(t *testing.T) {
	base, grant := parse(t, ""), resetGrant(t)
	if d := policy.Evaluate(base, grant, closing()); d.Verdict != action.Allow {
		t.Fatalf("got %+v, want allow", d)
	}
	for _, tt := range []struct {
		name   string
		change func(*policy.Input)
		code   string
	}{
		{"another_tenant", func(in *policy.Input) { in.Action.Tenant = "other" }, "outside_grant"},
		{"another_task", func(in *policy.Input) { in.Action.Task = "T2" }, "outside_grant"},
		{"another_agent", func(in *policy.Input) { in.Action.Agent = "payroll" }, "outside_grant"},
		{"another_application", func(in *policy.Input) { in.Action.App = "iam" }, "outside_grant"},
		{"no_application", func(in *policy.Input) { in.Action.App = "" }, "ungoverned_origin"},
		{"another_operation", func(in *policy.Input) { in.Action.Operation = "tickets.delete" }, "outside_grant"},
		{"another_value", func(in *policy.Input) { in.Action.Params["ticket"] = "4712" }, "outside_grant"},
		{"value_case", func(in *policy.Input) { in.Action.Params["ticket"] = "4711 " }, "outside_grant"},
		{"no_value", func(in *policy.Input) { delete(in.Action.Params, "ticket") }, "outside_grant"},
		{"one_more_value", func(in *policy.Input) { in.Action.Params["force"] = "yes" }, "outside_grant"},
		{"once_more", func(in *policy.Input) { in.Counts = map[string]int64{"tickets.close": 1} }, "count_spent"},
		{"huge_count", func(in *policy.Input) { in.Counts = map[string]int64{"tickets.close": 1 << 62} }, "count_spent"},
		{"uncertified_production", func(in *policy.Input) { in.Stage, in.Certified = action.Production, false }, "no_certification"},
		{"unknown_stage", func(in *policy.Input) { in.Stage, in.Certified = "staging", false }, "no_certification"},
		{"unknown_effect", func(in *policy.Input) { in.Action.Effect, in.Tier = "harmless", "standard" }, "irreversible"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := closing()
			tt.change(&in)
			if d := policy.Evaluate(base, grant, in); d.Verdict != action.Deny || d.Code != tt.code {
				t.Errorf("got %+v, want deny with %s", d, tt.code)
			}
		})
	}
}

// A parameter that may be absent is still what it must be when it is there.
func TestOptionalParameters(t *testing.T) {
	base := parse(t, "")
	grant := func(params map[string]policy.Constraint) *policy.Set {
		s, err := policy.CompileGrant(policy.Grant{Tenant: "acme", Agent: "helpdesk", Task: "T1", Capability: "c",
			Rules: []policy.Rule{{Operation: "tickets.close", App: "tickets", Max: 1, Params: params}}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	some := grant(map[string]policy.Constraint{"ticket": {Equals: "4711"}, "reason": {Equals: "done", Optional: true}, "note": {Any: true, Optional: true}})
	only := grant(map[string]policy.Constraint{"reason": {Equals: "done", Optional: true}})
	for _, tt := range []struct {
		name   string
		grant  *policy.Set
		params map[string]string
		want   action.Verdict
	}{
		{"required_alone", some, map[string]string{"ticket": "4711"}, action.Allow},
		{"all", some, map[string]string{"ticket": "4711", "reason": "done", "note": "x"}, action.Allow},
		{"one_optional", some, map[string]string{"ticket": "4711", "note": ""}, action.Allow},
		{"optional_with_another_value", some, map[string]string{"ticket": "4711", "reason": "no"}, action.Deny},
		{"required_is_missing", some, map[string]string{"reason": "done", "note": "x"}, action.Deny},
		{"one_that_is_not_named", some, map[string]string{"ticket": "4711", "force": "1"}, action.Deny},
		{"nothing", some, nil, action.Deny},
		{"nothing_is_required", only, nil, action.Allow},
		{"only_one_given", only, map[string]string{"reason": "done"}, action.Allow},
		{"only_one_wrong", only, map[string]string{"reason": "x"}, action.Deny},
		{"only_another", only, map[string]string{"note": "done"}, action.Deny},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := closing()
			in.Action.Params = tt.params
			if d := policy.Evaluate(base, tt.grant, in); d.Verdict != tt.want {
				t.Errorf("got %+v, want %s", d, tt.want)
			}
		})
	}
}

// TestErringForbidDenies: Cedar skips a forbid that errs, so that a permit
// answers allow. The attack is a value that makes the guardrail err.
func TestErringForbidDenies(t *testing.T) {
	guardrails := parse(t, `@id("overflow") forbid (principal, action, resource)
		when { context.count + 9223372036854775807 < 0 };`)
	in := closing()
	grant := resetGrant(t)
	if d := policy.Evaluate(guardrails, grant, in); d.Verdict != action.Allow {
		t.Fatalf("without an error: got %+v, want allow", d)
	}
	in.Action.Operation, in.Counts = "tickets.comment", map[string]int64{"tickets.comment": 1}
	in.Action.Params["text"] = "x"
	d := policy.Evaluate(guardrails, grant, in)
	if d.Verdict != action.Deny || d.Code != policy.CodePolicyError || !slices.Equal(d.Policies, []string{"overflow"}) {
		t.Errorf("got %+v, want deny with policy_error of overflow", d)
	}
	unchecked, err := policy.TestingOnlyUnchecked(`@id("missing") forbid (principal, action, resource) when { context.missing == 1 };`)
	if err != nil {
		t.Fatal(err)
	}
	if d := policy.Evaluate(unchecked, grant, closing()); d.Verdict != action.Deny || d.Code != policy.CodePolicyError {
		t.Errorf("missing attribute: got %+v, want deny with policy_error", d)
	}
}

func TestForbidWinsOverHold(t *testing.T) {
	guardrails := parse(t, `
		@id("z-hold") @hold("approver") forbid (principal, action, resource);
		@id("a-deny") @code("never") @reason("no") forbid (principal, action == Action::"tickets.close", resource);`)
	d := policy.Evaluate(guardrails, resetGrant(t), closing())
	if d.Verdict != action.Deny || d.Code != "never" || !slices.Equal(d.Policies, []string{"a-deny"}) {
		t.Errorf("got %+v, want deny by a-deny", d)
	}
}

// TestHoldNeverPermits: what a person would have to approve must be covered
// all the same, or an approval would grant.
func TestHoldNeverPermits(t *testing.T) {
	guardrails := parse(t, `@id("hold") @hold("approver") forbid (principal, action, resource);`)
	in := closing()
	in.Action.Params["ticket"] = "4712"
	if d := policy.Evaluate(guardrails, resetGrant(t), in); d.Verdict != action.Deny || d.Code != "outside_grant" {
		t.Errorf("got %+v, want deny with outside_grant", d)
	}
}

func TestTwoRolesConflict(t *testing.T) {
	guardrails := parse(t, `
		@id("one") @hold("approver") forbid (principal, action, resource);
		@id("two") @hold("owner") forbid (principal, action, resource);`)
	d := policy.Evaluate(guardrails, resetGrant(t), closing())
	if d.Verdict != action.Deny || d.Code != policy.CodeConflict || !slices.Equal(d.Policies, []string{"one", "two"}) {
		t.Errorf("got %+v, want deny with %s", d, policy.CodeConflict)
	}
}

func TestCapsAndLabels(t *testing.T) {
	base, grant := parse(t, ""), resetGrant(t)
	in := closing()
	in.Labels = []string{"large"}
	if d := policy.Evaluate(base, grant, in); d.Verdict != action.Hold || d.Approvers != "approver" {
		t.Errorf("label: got %+v, want hold", d)
	}
	in = closing()
	in.Action.Surface, in.Action.Operation, in.Action.Effect, in.Action.Params = action.Computer, "computer.type", action.Read, nil
	in.Action.Element, in.Action.Request = &action.Element{FrameOrigin: "https://tickets.example"}, nil
	if d := policy.Evaluate(base, grant, in); d.Verdict != action.Allow {
		t.Errorf("typing: got %+v, want allow", d)
	}
	in.Counts = map[string]int64{"computer.type": 3}
	if d := policy.Evaluate(base, grant, in); d.Verdict != action.Deny || d.Code != policy.CodeCountSpent {
		t.Errorf("typing once more: got %+v, want deny with count_spent", d)
	}
}

func TestParseRefuses(t *testing.T) {
	ok := `@id("x") forbid (principal, action, resource);`
	for _, tt := range []struct{ name, text, want string }{
		{"permit", `@id("x") permit (principal, action, resource);`, "p.cedar:1: policy x: is a permit"},
		{"no_id", "\n\nforbid (principal, action, resource);", "p.cedar:3: needs an @id"},
		{"id_twice", ok + "\n" + ok, "p.cedar:2: policy x: @id is already used at p.cedar:1"},
		{"shipped_name", `@id("base/x") forbid (principal, action, resource);`, "base/ and grant/ are taken"},
		{"grant_name", `@id("grant/a/1") forbid (principal, action, resource);`, "base/ and grant/ are taken"},
		{"id_newline", `@id("x\ny") forbid (principal, action, resource);`, "want lower-case words"},
		{"misspelt_annotation", `@id("x") @hodl("approver") forbid (principal, action, resource);`, "unknown annotation @hodl"},
		{"unknown_role", `@id("x") @hold("root") forbid (principal, action, resource);`, `@hold("root"): want one of owner`},
		{"hold_and_code", `@id("x") @hold("owner") @code("a") forbid (principal, action, resource);`, "both @hold and @code"},
		{"unknown_attribute", `@id("x") forbid (principal, action, resource) when { context.labals.contains("pii") };`, "labals"},
		{"attribute_without_has", `@id("x") forbid (principal, action, resource) when { context.params.user == "jo" };`, "user"},
		{"element_without_has", `@id("x") forbid (principal, action, resource) when { context.element.uninspectable };`, "element"},
		{"wrong_type", `@id("x") forbid (principal, action, resource) when { context.count == "1" };`, "p.cedar:1: policy x:"},
		{"unknown_entity", `@id("x") forbid (principal == User::"jo", action, resource);`, "User"},
		{"unknown_group", `@id("x") forbid (principal, action in Action::"effect/wirte", resource);`, "wirte"},
		{"syntax", ok + "\nforbid (principal, action;", "p.cedar:2"},
		{"deep", `@id("x") forbid (principal, action, resource) when { ` + strings.Repeat("(", 100) + "true" + strings.Repeat(")", 100) + " };", "nested deeper"},
		{"deep_not", `@id("x") forbid (principal, action, resource) when { ` + strings.Repeat("!", 5000) + "true };", "nested deeper"},
		{"deep_if", `@id("x") forbid (principal, action, resource) when { ` + strings.Repeat("if true then true else ", 5000) + "true };", "nested deeper"},
		{"long_chain", `@id("x") forbid (principal, action, resource) when { true` + strings.Repeat("&&true", 50_000) + " };", "nested deeper"},
		{"long_chain_with_semicolons", `@id("x") forbid (principal, action, resource) when { true` + strings.Repeat(`&&";"==";"`, 50_000) + " };", "nested deeper"},
		{"deep_with_semicolons", `@id("x") forbid (principal, action, resource) when { ` + strings.Repeat(`";"==";"&&(`, 100) + "true" + strings.Repeat(")", 100) + " };", "nested deeper"},
		{"deep_with_commented_quote", "@id(\"x\") forbid (principal, action, resource) when { // \"\n" + strings.Repeat(`";"==";"&&(`, 100) + "true" + strings.Repeat(")", 100) + " };", "nested deeper"},
		{"template", `@id("x") forbid (principal == ?principal, action, resource);`, "p.cedar:1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := map[string][]byte{"p.cedar": []byte(tt.text)}
			_, err := policy.Parse(files)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want an error with %q", err, tt.want)
			}
			if len(policy.Check(files, nil)) == 0 {
				t.Error("Check finds nothing in what Parse refuses")
			}
		})
	}
}

func TestCheckKnowsTheVocabulary(t *testing.T) {
	v := &policy.Vocabulary{Operations: map[string][]string{"iam.user.disable": {"user"}}, Apps: []string{"iam"}}
	files := map[string][]byte{"p.cedar": []byte(`@id("a") forbid (principal, action == Action::"iam.user.disable", resource == App::"iam")
		when { context.params has user && context.params.user == "jo" };
@id("b") forbid (principal, action == Action::"iam.user.disabel", resource == App::"aim")
		when { context.params has usr && context.params.usr == "jo" && context.counts has "iam.x.y" };
@id("c") forbid (principal, action == Action::"computer.left_click", resource);`)}
	var got []string
	for _, p := range policy.Check(files, v) {
		if p.Line != 3 || p.Severity != policy.SeverityWarning {
			t.Errorf("got %+v, want warnings in line 3", p)
		}
		got = append(got, p.Message)
	}
	all := strings.Join(got, "\n")
	for _, want := range []string{`"iam.user.disabel"`, `"aim"`, `"usr"`, `"iam.x.y"`} {
		if !strings.Contains(all, want) {
			t.Errorf("got %s, want a warning about %s", all, want)
		}
	}
}

// TestCheckKnowsSpellings: a text that a folded parameter never is, and one that
// another case would slip past.
func TestCheckKnowsSpellings(t *testing.T) {
	v := &policy.Vocabulary{Operations: map[string][]string{"iam.x": {"user", "group", "ticket"}}, Apps: []string{"iam"},
		Decides: func(param, value string) (bool, bool) {
			return param != "user" || value == strings.ToLower(value), param == "user"
		}}
	for cond, want := range map[string]string{
		`context.params.user == "Jo"`: "is never", `"Jo" == context.params.user`: "is never", `["a", "Jo"].contains(context.params.user)`: "is never", `context.params.user == "jo"`: "",
		`context.params.group == "admins"`: "compared exactly", `context.params.group != "admins"`: "compared exactly", `["admins"].contains(context.params.group)`: "compared exactly", `context.params.ticket == "4711"`: "",
	} {
		for _, name := range []string{"user", "group", "ticket"} {
			if strings.Contains(cond, "."+name) {
				cond = "context.params has " + name + " && " + cond
			}
		}
		var got []string
		for _, p := range policy.Check(map[string][]byte{"p.cedar": []byte(`@id("a") forbid (principal, action == Action::"iam.x", resource) when { ` + cond + ` };`)}, v) {
			got = append(got, p.Message)
		}
		if len(got) > 1 || strings.Join(got, "") == "" != (want == "") || !strings.Contains(strings.Join(got, ""), want) {
			t.Errorf("%s: got %q, want %q", cond, got, want)
		}
	}
}

// Threats: I6 (policy)
func TestShippedGuardrailsCannotBeLeftOut(t *testing.T) {
	ids := parse(t, "").IDs()
	if len(ids) < 10 || !slices.IsSorted(ids) {
		t.Fatalf("got %v, want the shipped guardrails in order", ids)
	}
	for _, id := range ids {
		if !strings.HasPrefix(id, "base/") {
			t.Errorf("got %s in a set without policies of its own", id)
		}
	}
}

func TestCompileGrantRefuses(t *testing.T) {
	rule := policy.Rule{Operation: "a.b", App: "a", Max: 1}
	grant := func(change func(*policy.Grant, *policy.Rule)) policy.Grant {
		g, r := policy.Grant{Tenant: "t", Agent: "a", Task: "k", Capability: "c"}, rule
		change(&g, &r)
		g.Rules = append(g.Rules, r)
		return g
	}
	for name, g := range map[string]policy.Grant{
		"no_agent":       grant(func(g *policy.Grant, _ *policy.Rule) { g.Agent = "" }),
		"no_task":        grant(func(g *policy.Grant, _ *policy.Rule) { g.Task = "" }),
		"no_application": grant(func(_ *policy.Grant, r *policy.Rule) { r.App = "" }),
		"group_name":     grant(func(_ *policy.Grant, r *policy.Rule) { r.Operation = "reach/observe" }),
		"count_zero":     grant(func(_ *policy.Grant, r *policy.Rule) { r.Max = 0 }),
		"count_negative": grant(func(_ *policy.Grant, r *policy.Rule) { r.Max = -1 }),
		"unknown_role":   grant(func(_ *policy.Grant, r *policy.Rule) { r.Hold = "anyone" }),
		"cap_zero":       grant(func(g *policy.Grant, _ *policy.Rule) { g.Caps = map[string]int64{"a.b": 0} }),
		"label_effect":   grant(func(g *policy.Grant, _ *policy.Rule) { g.Labels = []policy.LabelRule{{Label: "x", Reach: "much"}} }),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := policy.CompileGrant(g); err == nil {
				t.Error("got no error")
			}
		})
	}
	empty, err := policy.CompileGrant(policy.Grant{Tenant: "acme", Agent: "helpdesk", Task: "T1", Capability: "none"})
	if err != nil {
		t.Fatal(err)
	}
	if d := policy.Evaluate(parse(t, ""), empty, closing()); d.Verdict != action.Deny || d.Code != "outside_grant" {
		t.Errorf("empty grant: got %+v, want deny", d)
	}
}

func TestExplainNamesEverything(t *testing.T) {
	in := closing()
	in.Action.Operation, in.Action.Effect, in.Action.App = "iam.user.mfa.reset", action.Privileged, "iam"
	in.Action.Params = map[string]string{"user": "jo"}
	in.Labels = []string{"pii", "a"}
	d := policy.Evaluate(parse(t, ""), resetGrant(t), in)
	got := policy.Explain(in, d)
	for _, want := range []string{"HOLD", "role approver", "iam.user.mfa.reset (privileged)", `user = "jo"`, "labels    a, pii", "grant/reset-mfa/hold/1", "next"} {
		if !strings.Contains(got, want) {
			t.Errorf("got\n%s\nwant %q in it", got, want)
		}
	}
}

// Every attribute that an author may use is made, and none that is not declared.
func TestContextIsTheSchemas(t *testing.T) {
	_, body, _ := strings.Cut(policy.Schema(), "type Context = {")
	body, _, _ = strings.Cut(body, "\n};")
	var declared []string
	for _, m := range regexp.MustCompile(`(?m)^  (\w+)\??:`).FindAllStringSubmatch(body, -1) {
		declared = append(declared, m[1])
	}
	if got := policy.TestingOnlyAttributes(); len(declared) == 0 || !slices.Equal(got, declared) {
		t.Errorf("got %q, want %q", got, declared)
	}
}

// TestHostGrant: a task opens and signs sessions at the hosts of its own credential
// sources, and nothing else.
func TestHostGrant(t *testing.T) {
	grant, err := policy.CompileGrant(policy.Grant{Tenant: "acme", Agent: "helpdesk", Task: "T1", Capability: "look", Hosts: []string{"build"}})
	if err != nil {
		t.Fatal(err)
	}
	base := parse(t, "")
	for name, c := range map[string]struct {
		change func(*action.Action)
		want   action.Verdict
	}{
		"connect":       {func(*action.Action) {}, action.Allow},
		"sign":          {func(a *action.Action) { a.Operation = "ssh.sign" }, action.Allow},
		"other_host":    {func(a *action.Action) { a.App = "gateway" }, action.Deny},
		"other_task":    {func(a *action.Action) { a.Task = "T2" }, action.Deny},
		"other_surface": {func(a *action.Action) { a.Surface = action.Egress }, action.Deny},
		"database":      {func(a *action.Action) { a.Surface, a.Operation = action.Database, "database.connect" }, action.Deny},
	} {
		in := policy.Input{Stage: action.Sandbox, Tier: "standard", Certified: true, Source: policy.SourceHarness, Action: action.Action{Tenant: "acme", Task: "T1", Agent: "helpdesk",
			Surface: action.SSH, Operation: "ssh.connect", Effect: action.Write, App: "build"}}
		c.change(&in.Action)
		if d := policy.Evaluate(base, grant, in); d.Verdict != c.want {
			t.Errorf("%s: got %s %s %v, want %s", name, d.Verdict, d.Code, d.Policies, c.want)
		}
	}
}

// TestDatabaseGrant: a task opens the databases of its own credential sources, and
// nothing else follows from having one.
func TestDatabaseGrant(t *testing.T) {
	grant, err := policy.CompileGrant(policy.Grant{Tenant: "acme", Agent: "helpdesk", Task: "T1", Capability: "look", Databases: []string{"orders-db"},
		Caps: map[string]int64{"database.connect": 2}})
	if err != nil {
		t.Fatal(err)
	}
	base := parse(t, "")
	for name, c := range map[string]struct {
		change func(*policy.Input)
		want   action.Verdict
	}{
		"own":              {func(*policy.Input) {}, action.Allow},
		"another":          {func(in *policy.Input) { in.Action.App = "salaries-db" }, action.Deny},
		"another_task":     {func(in *policy.Input) { in.Action.Task = "T2" }, action.Deny},
		"by_http":          {func(in *policy.Input) { in.Action.Surface = action.Egress }, action.Deny},
		"other_operation":  {func(in *policy.Input) { in.Action.Operation = "database.copy" }, action.Deny},
		"too_often":        {func(in *policy.Input) { in.Counts = map[string]int64{"database.connect": 2} }, action.Deny},
		"after_a_secret":   {func(in *policy.Input) { in.Labels = []string{"secret"}; in.Action.Effect = action.Write }, action.Deny},
		"read_after_it":    {func(in *policy.Input) { in.Labels = []string{"secret"} }, action.Allow},
		"no_certification": {func(in *policy.Input) { in.Stage, in.Certified = action.Production, false }, action.Deny},
		"after_a_page": {func(in *policy.Input) {
			in.Labels = []string{"untrusted-content"}
			in.Action.Effect = action.Privileged
		}, action.Hold},
	} {
		in := policy.Input{Stage: action.Sandbox, Tier: "privileged", Certified: true, Source: policy.SourceHarness, Action: action.Action{Tenant: "acme", Task: "T1", Agent: "helpdesk",
			Surface: action.Database, Operation: "database.connect", Effect: action.Read, App: "orders-db"}}
		c.change(&in)
		if d := policy.Evaluate(base, grant, in); d.Verdict != c.want {
			t.Errorf("%s: got %s %s %v, want %s", name, d.Verdict, d.Code, d.Policies, c.want)
		}
	}
}
