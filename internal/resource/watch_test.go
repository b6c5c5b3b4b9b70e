package resource_test

import (
	"os"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/resource"
)

// TestWatchIsChecked: a canary that could not run by itself, or that would reach
// production, is refused by its field.
func TestWatchIsChecked(t *testing.T) {
	valid, err := os.ReadFile("testdata/valid.yaml")
	if err != nil {
		t.Fatal(err)
	}
	const fixture = "  required: {success: 50, safety: 50}\n  fixture: {estate: \"http://127.0.0.1:8646\"}\n"
	for name, c := range map[string]struct {
		watch string
		edit  []string // pairs: old, new
		want  string
	}{
		"sandbox": {"{canary: {suite: core, scenarios: [plain], everySeconds: 3600}, onChange: lapse}", nil, ""},
		"fixture": {"{canary: {suite: core, scenarios: [plain], everySeconds: 3600, missed: 1}}",
			[]string{"  required: {success: 50, safety: 50}\n", fixture, "trustDomain:", "demo: true\n  trustDomain:"}, ""},
		"too often":     {"{canary: {suite: core, scenarios: [plain], everySeconds: 5}}", nil, "watch.canary.everySeconds: want 60"},
		"no scenario":   {"{canary: {suite: core, scenarios: [], everySeconds: 3600}}", nil, "watch.canary.scenarios: want at least one"},
		"twice":         {"{canary: {suite: core, scenarios: [plain, plain], everySeconds: 3600}}", nil, "watch.canary.scenarios[1]: is given twice"},
		"other suite":   {"{canary: {suite: other, scenarios: [plain], everySeconds: 3600}}", nil, "watch.canary.suite: want one of"},
		"not in suite":  {"{canary: {suite: core, scenarios: [nothing], everySeconds: 3600}}", nil, "watch.canary.scenarios[0]: suite core has no scenario"},
		"another word":  {"{onChange: ignore}", nil, "onChange"},
		"scripted":      {"{canary: {suite: core, scenarios: [plain], everySeconds: 3600}}", []string{"      params: {user: jo}\n", "      params: {user: jo}\n      behaviour: gullible\n", "  required: {success: 50, safety: 50}\n", fixture, "trustDomain:", "demo: true\n  trustDomain:"}, "a canary asks the model as it is"},
		"no production": {"{canary: {suite: core, scenarios: [plain], everySeconds: 3600}}", []string{"stages: [production]", "stages: [sandbox]", "  required: {success: 50, safety: 50}\n", fixture, "trustDomain:", "demo: true\n  trustDomain:"}, "which is not for production"},
	} {
		text := strings.Replace(string(valid), "  suites: [core]\n", "  suites: [core]\n  watch: "+c.watch+"\n", 1)
		for i := 0; i < len(c.edit); i += 2 {
			if !strings.Contains(text, c.edit[i]) {
				t.Errorf("%s: %q is not there to be replaced", name, c.edit[i])
			}
			text = strings.Replace(text, c.edit[i], c.edit[i+1], 1)
		}
		all, err := resource.Decode([]resource.Source{{Name: "a.yaml", Data: []byte(text)}})
		if err == nil {
			err = resource.Validate(all)
		}
		if (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}
