package capability_test

import (
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/capability"
)

// Each case widens one thing, and is refused for that thing; what narrows passes.
func TestWithin(t *testing.T) {
	spec := func() *capability.Spec {
		return &capability.Spec{Version: "1", Stages: []action.Stage{action.Sandbox},
			Parameters: []capability.Parameter{{Name: "user", Pattern: "[a-z]+"}},
			Operations: []capability.Operation{
				{Operation: "iam.user.reset", Where: map[string]capability.Where{"user": {Value: "{{user}}"}}, Max: 2},
				{Operation: "tickets.comment", Where: map[string]capability.Where{"text": {Any: true}, "cc": {Value: "x", Optional: true}}, Max: 3}},
			Reads: []string{"iam", "tickets"}, Surfaces: capability.Surfaces{Inference: true, Computer: &[]string{"left_click", "type"}},
			Budgets:     capability.Budgets{Actions: 10, Seconds: 60, PerOperation: map[string]int64{"tickets.comment": 2}},
			Credentials: []string{"iam-desk"}, Audiences: []string{"https://api.example"},
			Holds:  []capability.Hold{{Operation: "iam.user.reset", Approvers: "approver", Count: 2}},
			Labels: []capability.LabelRule{{Label: "untrusted-content", Reach: action.Privileged}}}
	}
	instance := func(s *capability.Spec, user string) *capability.Instance {
		t.Helper()
		in, err := s.Instantiate("c", map[string]string{"user": user})
		if err != nil {
			t.Fatal(err)
		}
		return in
	}
	above := instance(spec(), "jo")
	for name, c := range map[string]struct {
		edit func(*capability.Spec)
		want string // "" passes
	}{
		"same":              {func(*capability.Spec) {}, ""},
		"fewer_operations":  {func(s *capability.Spec) { s.Operations, s.Holds = s.Operations[1:], nil }, ""},
		"less_often":        {func(s *capability.Spec) { s.Operations[0].Max = 1 }, ""},
		"fixed_text":        {func(s *capability.Spec) { s.Operations[1].Where["text"] = capability.Where{Value: "hello"} }, ""},
		"optional_left_out": {func(s *capability.Spec) { delete(s.Operations[1].Where, "cc") }, ""},
		"more_people":       {func(s *capability.Spec) { s.Holds[0].Count = 3 }, ""},
		"no_reads":          {func(s *capability.Spec) { s.Reads = nil }, ""},
		"other_operation": {func(s *capability.Spec) {
			s.Operations[1].Operation = "tickets.close"
			s.Budgets.PerOperation["tickets.close"] = 1
		}, "tickets.close"},
		"same_name_other_app": {func(s *capability.Spec) { s.Operations[1].App = "payments" }, "tickets.comment"},
		"more_often":          {func(s *capability.Spec) { s.Operations[0].Max = 3 }, "at most 3"},
		"any_value":           {func(s *capability.Spec) { s.Operations[0].Where["user"] = capability.Where{Any: true} }, "parameter user"},
		"other_value":         {func(s *capability.Spec) { s.Operations[0].Where["user"] = capability.Where{Value: "admin"} }, "parameter user"},
		"may_be_absent": {func(s *capability.Spec) {
			s.Operations[0].Where["user"] = capability.Where{Value: "{{user}}", Optional: true}
		}, "may be absent"},
		"parameter_left_out":    {func(s *capability.Spec) { delete(s.Operations[0].Where, "user") }, "is missing"},
		"parameter_added":       {func(s *capability.Spec) { s.Operations[0].Where["role"] = capability.Where{Any: true} }, "parameter role"},
		"no_hold":               {func(s *capability.Spec) { s.Holds = nil }, "holds it"},
		"hold_by_others":        {func(s *capability.Spec) { s.Holds[0].Approvers = "requester" }, "holds it"},
		"fewer_people":          {func(s *capability.Spec) { s.Holds[0].Count = 1 }, "holds it"},
		"hold_open_longer":      {func(s *capability.Spec) { s.Holds[0].ExpiresSeconds = 900 }, "holds it"},
		"more_reads":            {func(s *capability.Spec) { s.Reads = append(s.Reads, "hr") }, "reads"},
		"more_computer":         {func(s *capability.Spec) { s.Surfaces.Computer = nil }, "computer"},
		"more_credentials":      {func(s *capability.Spec) { s.Credentials = append(s.Credentials, "root") }, "credentials"},
		"more_audiences":        {func(s *capability.Spec) { s.Audiences = append(s.Audiences, "https://b.example") }, "audiences"},
		"more_delegates":        {func(s *capability.Spec) { s.Delegates = []capability.Delegate{{Agent: "a", Capability: "c"}} }, ""},
		"more_actions":          {func(s *capability.Spec) { s.Budgets.Actions = 11 }, "budgets.actions"},
		"operation_unbudgeted":  {func(s *capability.Spec) { s.Budgets.PerOperation = nil }, "perOperation"},
		"no_label_rule":         {func(s *capability.Spec) { s.Labels = nil }, "labels"},
		"label_held_not_denied": {func(s *capability.Spec) { s.Labels[0].Hold = "approver" }, "labels"},
	} {
		s := spec()
		c.edit(s)
		err := instance(s, "jo").Within(above)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if err := instance(spec(), "admin").Within(above); err == nil || strings.Contains(err.Error(), "admin") {
		t.Errorf("another parameter: got %v, want an error without the value", err)
	}
	quiet := spec()
	quiet.Surfaces.Inference = false
	if err := above.Within(instance(quiet, "jo")); err == nil || !strings.Contains(err.Error(), "inference") {
		t.Errorf("inference above: got %v", err)
	}
}
