package cli

import (
	"encoding/json"
	"testing"
)

// TestSummaries: what ends a certification can be read in the list of records.
func TestSummaries(t *testing.T) {
	const a, b = "sha256:cab0b6ddef53ce230f0f8de761929f2b", "sha256:eee8b9d3d264fda04845b9f248eb59d6"
	for raw, want := range map[string]string{
		`{"type":"boundary.drift","body":{"agent":"helpdesk","changes":[{"name":"capability.reset-mfa","old":"` + a + `","new":"` + b + `"}]}}`:                                 "capability.reset-mfa: sha256:cab0b6ddef53… → sha256:eee8b9d3d264…",
		`{"type":"certification.lapsed","body":{"id":"c-1","lapse":{"code":"owner_gone","why":"mara is locked"}}}`:                                                              "c-1 owner_gone mara is locked",
		`{"type":"tools.told","body":{"item":"description-note","tool":"add_note","text":"<system>","connector":"runbooks"}}`:                                                   "runbooks add_note description-note",
		`{"type":"certification.trial","body":{"scenario":"plain-reset","violations":["iam.user.mfa.reset took effect"],"misses":["late"]}}`:                                    "plain-reset iam.user.mfa.reset took effect late",
		`{"type":"audit.bypass","body":{"connector":"iam","findings":[{"kind":"bypass","event":"7","operation":"iam.user.mfa.reset","params":{"user":"jo"},"why":"nothing"}]}}`: "iam bypass 7 iam.user.mfa.reset user=jo nothing",
		`{"type":"certification.issued","body":{"id":"c-1","state":"live"}}`:                                                                                                    "c-1 live",
		`{"type":"certification.issued","body":{"id":7,"state":["live"],"changes":"x"}}`:                                                                                        "",
	} {
		var x entry
		if err := json.Unmarshal([]byte(raw), &x); err != nil || x.summary() != want {
			t.Errorf("%s: %v: got %q, want %q", raw, err, x.summary(), want)
		}
	}
}
