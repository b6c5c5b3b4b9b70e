package readiness

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every condition names controls that exist, and every id of a mapping is one
// that the catalogue gives to one of them.
func TestCatalogue(t *testing.T) {
	if len(conditions) != 10 {
		t.Fatalf("got %d conditions", len(conditions))
	}
	seen := map[string]bool{}
	for _, c := range conditions {
		if seen[c.id] || c.title == "" || !strings.HasSuffix(c.question, "?") || c.check == nil || len(c.controls) == 0 {
			t.Errorf("condition %q is not whole", c.id)
		}
		seen[c.id] = true
		want := map[string][]string{}
		for _, id := range c.controls {
			k, ok := control(id)
			if !ok {
				t.Errorf("%s: there is no control %s", c.id, id)
			}
			for f, ids := range k.Map {
				want[f] = append(want[f], ids...)
			}
		}
		got := mapping(c.controls)
		for f, ids := range want {
			for _, id := range ids {
				if !slices.Contains(got[f], id) {
					t.Errorf("%s: %s of %s is lost", c.id, id, f)
				}
			}
			for _, id := range got[f] {
				if !slices.Contains(ids, id) {
					t.Errorf("%s: %s is no id of %s in the catalogue", c.id, id, f)
				}
			}
		}
	}
	for _, list := range required {
		for _, r := range list {
			if !seen[r.control] {
				t.Errorf("requirement %s belongs to no condition", r.name)
			}
		}
	}
	for _, p := range probes {
		if !seen[p.condition] {
			t.Errorf("probe of no condition %q", p.condition)
		}
	}
}

// The catalogue itself: ids are unique, frameworks are described, and the ids of
// those with a known form have it.
func TestCatalogueIsWellFormed(t *testing.T) {
	forms := map[string]string{
		"owasp_asi": `^ASI(0[1-9]|10)$`, "owasp_t": `^T([1-9]|1[0-7])$`, "owasp_nhi": `^NHI([1-9]|10)$`, "owasp_llm": `^LLM(0[1-9]|10)$`, "csa_maestro": `^L[1-7]$`,
		"aarm": `^R[1-9]$`, "csa_atf": `^[IBDSR]-[1-5]$`, "ai_rmf": `^(GOVERN|MAP|MEASURE|MANAGE) \d\.\d{1,2}$`, "csf": `^(GV|ID|PR|DE|RS|RC)\.[A-Z]{2}-\d{2}$`,
		"sp800_53": `^[A-Z]{2}-\d{1,2}(\(\d{1,2}\))?~?$`,
	}
	c := controls()
	if len(c.Controls) < 40 {
		t.Errorf("got %d controls", len(c.Controls))
	}
	seen := map[string]bool{}
	for _, k := range c.Controls {
		if seen[k.ID] || k.Title == "" || k.Statement == "" || !regexp.MustCompile(`^SP-[A-Z]{2}-\d{2}$`).MatchString(k.ID) {
			t.Errorf("control %q is not whole", k.ID)
		}
		seen[k.ID] = true
		for f, ids := range k.Map {
			if c.Frameworks[f].Name == "" || c.Frameworks[f].Check == "" {
				t.Errorf("%s maps to framework %q, which is not described", k.ID, f)
			}
			for _, id := range ids {
				if form := forms[f]; form != "" && !regexp.MustCompile(form).MatchString(id) {
					t.Errorf("%s: %q is no id of %s", k.ID, id, f)
				}
			}
		}
	}
}
