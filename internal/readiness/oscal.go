package readiness

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"
)

// oscalVersion is the release of the OSCAL models that the export follows.
const oscalVersion = "1.2.2"

// object is one JSON object of the export.
type object map[string]any

// OSCAL writes the report as OSCAL assessment-results: one result, an
// observation and a finding per condition, the ledger's records as relevant
// evidence. Control ids are those of our own catalogue. The same report gives the
// same identifiers.
func (r *Report) OSCAL(w io.Writer) error {
	var observations, findings []object
	var reviewed []string
	for _, c := range r.Conditions {
		reviewed = append(reviewed, c.Controls...)
		observations = append(observations, r.observation(c))
		findings = append(findings, r.finding(c))
	}
	slices.Sort(reviewed)
	include := []object{}
	for _, id := range slices.Compact(reviewed) {
		include = append(include, object{"control-id": id})
	}
	at := r.Generated.UTC().Format(time.RFC3339)
	props := []object{prop("decision", r.Decision), prop("tenant", r.Tenant), prop("agent", r.Agent), prop("stage", r.Stage), prop("tier", r.Tier)}
	if r.Ledger.Root != "" {
		props = append(props, prop("checkpoint-origin", r.Ledger.Origin), prop("checkpoint-size", strconv.FormatInt(r.Ledger.Size, 10)), prop("checkpoint-root", r.Ledger.Root))
	}
	for _, m := range r.Markings {
		props = append(props, prop("marking", m))
	}
	doc := object{"assessment-results": object{
		"uuid": r.uuid("document"),
		"metadata": object{"title": "Readiness of agent " + text(r.Agent), "last-modified": at, "version": at, "oscal-version": oscalVersion,
			"remarks": "Mappings to frameworks are evidence towards them, not a claim of conformity."},
		"import-ap": object{"href": "#" + r.uuid("plan"), "remarks": "The ten conditions of " + Schema + "; there is no plan of its own."},
		"results": []object{{
			"uuid": r.uuid("result"), "title": r.Decision, "description": "May the agent act in production, as it is now? Unknown counts as not satisfied.",
			"start": at, "end": at, "props": props,
			"reviewed-controls": object{"control-selections": []object{{"include-controls": include}}},
			"observations":      observations, "findings": findings,
		}},
		"back-matter": object{"resources": []object{{"uuid": r.uuid("plan"), "title": "Ten conditions of a production-ready deployment", "description": Schema}}},
	}}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(doc)
}

func (r *Report) observation(c Result) object {
	evidence := []object{}
	for _, f := range c.Findings {
		e := object{"description": text(sentence(f.Saw)), "props": []object{prop("state", string(f.State))}}
		p := e["props"].([]object)
		if f.Grade != "" {
			p = append(p, prop("grade", string(f.Grade)))
		}
		for _, seq := range f.Records {
			p = append(p, prop("ledger-record", strconv.FormatInt(seq, 10)))
		}
		e["props"] = p
		evidence = append(evidence, e)
	}
	return object{"uuid": r.uuid("observation", c.ID), "title": c.Title, "description": text(c.Summary), "methods": []string{"TEST"},
		"types": []string{"control-objective"}, "collected": r.Generated.UTC().Format(time.RFC3339), "relevant-evidence": evidence}
}

func (r *Report) finding(c Result) object {
	state := object{"state": "not-satisfied", "reason": "fail"}
	switch c.State {
	case Pass:
		state = object{"state": "satisfied", "reason": "pass"}
	case Unknown:
		state["reason"] = "other"
		state["remarks"] = "unknown counts as not satisfied"
	}
	f := object{"uuid": r.uuid("finding", c.ID), "title": c.Title, "description": text(c.Summary),
		"target":               object{"type": "objective-id", "target-id": c.ID, "title": c.Question, "status": state},
		"related-observations": []object{{"observation-uuid": r.uuid("observation", c.ID)}}}
	if c.Next != "" {
		f["remarks"] = "Next: " + text(c.Next)
	}
	return f
}

// text is never empty, which OSCAL asks of its texts.
func text(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func prop(name, value string) object {
	return object{"name": name, "value": text(value), "ns": "https://sallyport.dev/ns/readiness"}
}

// uuid makes a name-based identifier in the form of RFC 9562 section 5.5 (with
// SHA-256 in place of SHA-1).
func (r *Report) uuid(parts ...string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00%s\x00%s\x00%d\x00%s", Schema, r.Tenant, r.Agent, r.Generated.UnixNano(), r.Ledger.Root)
	for _, p := range parts {
		fmt.Fprintf(h, "\x00%s", p)
	}
	b := h.Sum(nil)[:16]
	b[6], b[8] = b[6]&0x0f|0x50, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
