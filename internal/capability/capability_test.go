package capability_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/capability"
)

func spec() *capability.Spec {
	return &capability.Spec{
		Version: "1", Stages: []action.Stage{action.Production, action.Sandbox},
		Parameters: []capability.Parameter{
			{Name: "user", Pattern: "[a-z][a-z0-9-]*", MaxLen: 20},
			{Name: "ticket", Pattern: "[0-9]+"},
			{Name: "reason", Enum: []string{"lost", "stolen"}},
			{Name: "note", Pattern: "(?s).*"},
		},
		Operations: []capability.Operation{
			{Operation: "iam.user.mfa.reset", Where: map[string]capability.Where{"user": {Value: "{{user}}"}}, Max: 1},
			{Operation: "tickets.comment", Where: map[string]capability.Where{"ticket": {Value: "T-{{ ticket }}/{{reason}}"}, "text": {Any: true}, "note": {Value: "{{note}}"}}, Max: 5},
		},
		Reads: []string{"tickets", "iam", "iam"}, Surfaces: capability.Surfaces{Inference: true},
		Budgets: capability.Budgets{Actions: 100, Seconds: 60, PerOperation: map[string]int64{"tickets.comment": 2, "computer.type": 9}},
		Holds:   []capability.Hold{{Operation: "iam.user.mfa.reset", Approvers: "approver"}},
	}
}

func params() map[string]string {
	return map[string]string{"user": "jo", "ticket": "4711", "reason": "lost", "note": "n"}
}

func TestInstantiate(t *testing.T) {
	in, err := spec().Instantiate("reset-mfa", params())
	if err != nil {
		t.Fatal(err)
	}
	hold := &capability.Hold{Operation: "iam.user.mfa.reset", Approvers: "approver", Count: 1, ExpiresSeconds: 600}
	want := []capability.Rule{
		{Operation: "iam.user.mfa.reset", App: "iam", Params: map[string]capability.Value{"user": {Equals: "jo"}}, Max: 1, Hold: hold},
		{Operation: "tickets.comment", App: "tickets", Max: 2, Params: map[string]capability.Value{
			"ticket": {Equals: "T-4711/lost"}, "text": {Any: true}, "note": {Equals: "n"}}},
	}
	if !reflect.DeepEqual(in.Rules, want) {
		t.Errorf("got %+v, want %+v", in.Rules, want)
	}
	if got := strings.Join(in.Reads, " "); got != "iam tickets" {
		t.Errorf("reads: got %s, want them sorted and once", got)
	}
	if len(in.Computer) != len(capability.DefaultComputer) || in.Computer[0] != "computer.cursor_position" {
		t.Errorf("computer: got %v, want the default actions", in.Computer)
	}
	if in.Hold("iam.user.mfa.reset") == nil || in.Hold("tickets.comment") != nil {
		t.Error("holds are not on the operations that they are declared for")
	}
	none := spec()
	none.Surfaces.Computer = &[]string{}
	if in, err := none.Instantiate("reset-mfa", params()); err != nil || len(in.Computer) != 0 {
		t.Errorf("empty list: got %v, %v, want no computer action", in.Computer, err)
	}
}

// TestParameters: every attack on the blank of a capability, by name.
func TestParameters(t *testing.T) {
	for _, tt := range []struct{ name, param, value, want string }{
		{"anchored_front", "user", "1jo", `parameter "user" does not match`},
		{"anchored_back", "user", "jo;x", `parameter "user" does not match`},
		{"newline_at_end", "user", "jo\n", `parameter "user" has a control`},
		{"second_line", "ticket", "4711\n4712", `parameter "ticket" has a control`},
		{"empty", "user", "", `parameter "user" does not match`},
		{"too_long", "user", strings.Repeat("a", 21), `parameter "user" is longer than 20 bytes`},
		{"default_length", "note", strings.Repeat("a", 129), `parameter "note" is longer than 128 bytes`},
		{"not_in_list", "reason", "LOST", `parameter "reason" is not one of lost, stolen`},
		{"nul", "note", "a\x00", `parameter "note" has a control`},
		{"bidi", "note", "a\u202eb", `parameter "note" has a control or formatting`},
		{"zero_width", "note", "a\u200bb", `parameter "note" has a control or formatting`},
		{"line_separator", "note", "a\u2028b", `parameter "note" has a control or formatting`},
		{"byte_order_mark", "note", "\ufeffa", `parameter "note" has a control or formatting`},
		{"tag_characters", "note", "a\U000E0041", `parameter "note" has a control or formatting`},
		{"invalid_utf8", "note", "\xff", `parameter "note" is not UTF-8`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := params()
			p[tt.param] = tt.value
			_, err := spec().Instantiate("reset-mfa", p)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if len(tt.value) > 8 && strings.Contains(err.Error(), tt.value) {
				t.Errorf("the error repeats the value: %v", err)
			}
		})
	}
	_, err := spec().Instantiate("reset-mfa", map[string]string{"user": "jo", "x": "1", "reason": "?"})
	for _, want := range []string{`"ticket" is missing`, `"note" is missing`, `"x" is not a parameter`, `"reason" is not one of`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want all problems, %q among them", err, want)
		}
	}
}

// TestValuesAreFilledInOnce: a value that looks like a template stays a value.
func TestValuesAreFilledInOnce(t *testing.T) {
	p := params()
	p["note"] = "{{user}} {{note}}"
	in, err := spec().Instantiate("reset-mfa", p)
	if err != nil {
		t.Fatal(err)
	}
	if got := in.Rules[1].Params["note"].Equals; got != p["note"] {
		t.Errorf("got %q, want %q", got, p["note"])
	}
}

func TestCanonicalForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := params()
		p["note"] = rapid.StringMatching(`[ -~]{0,60}`).Draw(t, "note")
		a, err := spec().Instantiate("reset-mfa", p)
		if err != nil {
			t.Fatal(err)
		}
		other := spec()
		other.Reads, other.Stages = []string{"iam", "tickets"}, []action.Stage{action.Sandbox, action.Production}
		b, err := other.Instantiate("reset-mfa", p)
		if err != nil {
			t.Fatal(err)
		}
		ca, errA := a.Canonical()
		cb, errB := b.Canonical()
		if errA != nil || errB != nil || !bytes.Equal(ca, cb) {
			t.Fatalf("the same intent has two forms:\n%s\n%s", ca, cb)
		}
		p["note"] += "x"
		c, err := spec().Instantiate("reset-mfa", p)
		if err != nil {
			t.Fatal(err)
		}
		da, _ := a.Digest()
		if dc, _ := c.Digest(); da == dc {
			t.Fatal("two intents have one digest")
		}
	})
}

func TestSpecErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*capability.Spec)
		want   string
	}{
		{"no_version", func(s *capability.Spec) { s.Version = "" }, "version"},
		{"no_stage", func(s *capability.Spec) { s.Stages = nil }, "stages"},
		{"unknown_stage", func(s *capability.Spec) { s.Stages[0] = "staging" }, "stages[0]"},
		{"parameter_twice", func(s *capability.Spec) { s.Parameters = append(s.Parameters, s.Parameters[0]) }, "declared twice"},
		{"parameter_without_form", func(s *capability.Spec) { s.Parameters[0].Pattern = "" }, "pattern or an enum"},
		{"pattern_breaks_out", func(s *capability.Spec) { s.Parameters[0].Pattern = "a)|(.*" }, "parameters[0].pattern"},
		{"pattern_syntax", func(s *capability.Spec) { s.Parameters[0].Pattern = "[" }, "parameters[0].pattern"},
		{"unknown_parameter", func(s *capability.Spec) { s.Operations[0].Where["user"] = capability.Where{Value: "{{usr}}"} }, `no parameter "usr"`},
		{"open_braces", func(s *capability.Spec) { s.Operations[0].Where["user"] = capability.Where{Value: "{{user"} }, "want {{parameter}}"},
		{"closing_braces", func(s *capability.Spec) { s.Operations[0].Where["user"] = capability.Where{Value: "user}}"} }, "}} without {{"},
		{"any_and_value", func(s *capability.Spec) { s.Operations[0].Where["user"] = capability.Where{Value: "x", Any: true} }, "not both"},
		{"count_zero", func(s *capability.Spec) { s.Operations[0].Max = 0 }, "operations[0].max"},
		{"operation_twice", func(s *capability.Spec) { s.Operations = append(s.Operations, s.Operations[0]) }, "listed twice"},
		{"no_action_budget", func(s *capability.Spec) { s.Budgets.Actions = 0 }, "budgets.actions"},
		{"endless", func(s *capability.Spec) { s.Budgets.Seconds = 1 << 40 }, "budgets.seconds"},
		{"hold_on_nothing", func(s *capability.Spec) { s.Holds[0].Operation = "iam.user.disable" }, "does not cover"},
		{"unknown_computer_action", func(s *capability.Spec) { s.Surfaces.Computer = &[]string{"exec"} }, `unknown computer action "exec"`},
		{"label_effect", func(s *capability.Spec) { s.Labels = []capability.LabelRule{{Label: "x", Reach: "much"}} }, "labels[0].reach"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := spec()
			tt.change(s)
			if _, err := s.Instantiate("reset-mfa", params()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestPatternIsMatchedWhole: alternation and flags of the author do not undo
// the anchors.
func TestPatternIsMatchedWhole(t *testing.T) {
	for _, pattern := range []string{"jo|ana", "(?m)^jo$", "jo$|^ana", `(?i)jo`, `(?U)j.*o`} {
		s := spec()
		s.Parameters[0].Pattern = pattern
		p := params()
		for _, v := range []string{"jox", "xjo", "anax", "jo ana"} {
			p["user"] = v
			if pattern == `(?U)j.*o` && strings.HasPrefix(v, "j") && strings.HasSuffix(v, "o") {
				continue
			}
			if _, err := s.Instantiate("reset-mfa", p); err == nil {
				t.Errorf("pattern %s accepts %q", pattern, v)
			}
		}
	}
}
