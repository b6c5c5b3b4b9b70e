package resource_test

import (
	"os"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/resource"
)

// agentWith is the errors of the sample agent with two lines more.
func agentWith(t *testing.T, model, spec string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/valid.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(b), "location: eu}", "location: eu"+model+"}", 1)
	text = strings.Replace(text, "  connectors: [iam]\n  capabilities: [disable]\n", "  connectors: [iam]\n  capabilities: [disable]\n"+spec, 1)
	all, err := decode(text)
	if err == nil {
		err = resource.Validate(all)
	}
	if err == nil {
		return ""
	}
	return err.Error()
}

// What checks, holds and is the agent cannot be graded down, whatever its owner
// writes; nor can the rules themselves.
func TestDriftRules(t *testing.T) {
	for _, tc := range []struct{ rule, want string }{
		{"{facts: [browser.version, model.*], then: hold}", ""},
		{"{facts: ['*'], then: hold}", ""},
		{"{facts: [suite.core], then: lapse}", ""},
		{"{facts: [suite.core], then: hold}", "spec.drift[0].facts[0]: always lapses"},
		{"{facts: [browser.kind, policy.*], then: hold}", "spec.drift[0].facts[1]: always lapses"},
		{"{facts: [containment], then: hold}", "always lapses"},
		{"{facts: [harness.binary], then: hold}", "always lapses"},
		{"{facts: [sallyport.binary], then: hold}", "always lapses"},
		{"{facts: [drift.rules], then: hold}", "always lapses"},
		{"{facts: [tier], then: hold}", "always lapses"},
		{"{facts: [watch], then: hold}", "always lapses"},
		{"{facts: ['connector.*'], then: hold}", "always lapses"},
		{"{facts: ['m[o]del.id'], then: hold}", "want the name of a fact"},
		{"{facts: [], then: hold}", "spec.drift[0].facts"},
		{"{facts: [tools], then: ignore}", "want one of lapse, hold"},
	} {
		if got := agentWith(t, "", "  drift: ["+tc.rule+"]\n"); (tc.want == "") != (got == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: got %q, want %q", tc.rule, got, tc.want)
		}
	}
	s := resource.AgentSpec{Drift: []resource.DriftRule{{Facts: []string{"model.id"}, Then: resource.Lapse}, {Facts: []string{"*"}, Then: resource.HoldPrivileged}}}
	for fact, want := range map[string]resource.Consequence{"model.id": resource.Lapse, "model.geo": resource.HoldPrivileged, "browser.version": resource.HoldPrivileged,
		"suite.core": resource.Lapse, "policy.shipped": resource.Lapse, "containment": resource.Lapse, "harness.files": resource.Lapse, "sallyport.binary": resource.Lapse,
		"watch": resource.Lapse, "connector.iam": resource.Lapse, "browser.protocol": resource.Lapse, "model.kind": resource.Lapse,
		"tier": resource.Lapse, "drift.rules": resource.Lapse, "agent.owner": resource.Lapse, "capability.x": resource.Lapse, "credential.x": resource.Lapse, "identity.source": resource.Lapse} {
		if got := s.Consequence(fact, true); got != want {
			t.Errorf("%s: got %s, want %s", fact, got, want)
		}
		if got := s.Consequence(fact, false); got != resource.Lapse {
			t.Errorf("%s, which was not certified: got %s", fact, got)
		}
	}
}

func TestSamplingBounds(t *testing.T) {
	for bound, want := range map[string]string{
		`temperature: {max: "0.3"}`:             "",
		`temperature: {min: "0", max: "1"}`:     "",
		`top_k: {min: "5"}`:                     "",
		`temperature: {}`:                       "spec.model.sampling.temperature",
		`temperature: {min: "1", max: "0.5"}`:   "spec.model.sampling.temperature",
		`temperature: {max: "1e1"}`:             "spec.model.sampling.temperature",
		`temperature: {max: "-1"}`:              "spec.model.sampling.temperature",
		`temperature: {max: "NaN"}`:             "spec.model.sampling.temperature",
		`temperature: {max: "0x1"}`:             "spec.model.sampling.temperature",
		`temperature: {max: 0.3}`:               "want a text",
		`frequency_penalty: {min: "1"}`:         "spec.model.sampling",
		`temperature: {max: "0.3", other: "1"}`: "is not a field here",
	} {
		if got := agentWith(t, ", sampling: {"+bound+"}", ""); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", bound, got, want)
		}
	}
	for _, tc := range []struct {
		b    resource.Bound
		text string
		in   []string
		out  []string
	}{
		{resource.Bound{Max: "0.3"}, "at most 0.3", []string{"0.3", "0", "-1", "3e-1"}, []string{"0.31", `"0.1"`, "null", "[0.1]", "true", ""}},
		{resource.Bound{Min: "0.5", Max: "0.5"}, "0.5", []string{"0.5", "0.50"}, []string{"0.49", "0.51"}},
		{resource.Bound{Min: "1", Max: "2"}, "1 to 2", []string{"1", "2", "1.5"}, []string{"0.9", "2.1"}},
		{resource.Bound{Min: "1"}, "at least 1", []string{"1", "1e9"}, []string{"0"}},
	} {
		if tc.b.String() != tc.text {
			t.Errorf("got %q, want %q", tc.b, tc.text)
		}
		for _, v := range tc.in {
			if !tc.b.Has(v) {
				t.Errorf("%s has not %s", tc.b, v)
			}
		}
		for _, v := range tc.out {
			if tc.b.Has(v) {
				t.Errorf("%s has %s", tc.b, v)
			}
		}
	}
}
