package readiness

import (
	"strings"

	"github.com/sallyport-dev/sallyport/internal/boundary"
)

// requirement is how well a fact must be known. A name that ends with a dot
// stands for all facts under it. must: at least one such fact must be there.
type requirement struct {
	name    string
	grade   boundary.Grade
	must    bool
	control string // the condition that asks for it
}

// What each tier requires. Where inference runs (model.location) and by whom
// (model.provider) is declared by the owner: no wire shows it, so it is required
// and never shown as more than declared. What the wire shows is the endpoint.
var required = map[string][]requirement{
	"light": {
		{"model.location", boundary.Declared, true, "inference-location"},
		{"model.id", boundary.Observed, true, "inference-location"},
		{"model.endpoint", boundary.Observed, true, "inference-location"},
		{"harness.binary", boundary.Observed, true, "owner-environment"},
		{"containment", boundary.Observed, true, "owner-environment"},
		{"connector.", boundary.Pinned, true, "owner-environment"},
		{"policy.", boundary.Pinned, true, "recertification"},
		{"mcp.", boundary.Observed, false, "recertification"},
	},
	"standard":   full,
	"privileged": full,
}

var full = []requirement{
	{"model.location", boundary.Declared, true, "inference-location"},
	{"model.provider", boundary.Declared, true, "inference-location"},
	{"model.id", boundary.Observed, true, "inference-location"},
	{"model.requested", boundary.Observed, true, "inference-location"},
	{"model.endpoint", boundary.Observed, true, "inference-location"},
	{"prompt.system", boundary.Observed, true, "recertification"},
	{"tools", boundary.Observed, true, "recertification"},
	{"model.sampling", boundary.Observed, false, "recertification"},
	{"mcp.", boundary.Observed, false, "recertification"},
	{"policy.", boundary.Pinned, true, "recertification"},
	{"suite.", boundary.Pinned, true, "recertification"},
	{"capability.", boundary.Pinned, true, "recertification"},
	{"harness.binary", boundary.Pinned, true, "owner-environment"},
	{"harness.args", boundary.Pinned, true, "owner-environment"},
	{"harness.environment", boundary.Pinned, false, "owner-environment"},
	{"harness.files", boundary.Pinned, false, "owner-environment"},
	{"browser.", boundary.Pinned, true, "owner-environment"},
	{"connector.", boundary.Pinned, true, "owner-environment"},
	{"containment", boundary.Pinned, true, "owner-environment"},
	{"sallyport.binary", boundary.Pinned, false, "owner-environment"},
}

func (r requirement) covers(name string) bool {
	return name == r.name || strings.HasSuffix(r.name, ".") && strings.HasPrefix(name, r.name)
}

// needs is the grade that the tier requires of a fact; empty when it asks none.
func needs(tier, fact string) boundary.Grade {
	for _, r := range required[tier] {
		if r.covers(fact) {
			return r.grade
		}
	}
	return ""
}

// grades checks the facts that this condition answers for.
func (k *check) grades(m boundary.Manifest, refs []ref) {
	const next = "certify the agent again, so that the fact is measured: sallyport certify "
	for _, r := range required[k.e.tier()] {
		if r.control != k.def.id {
			continue
		}
		found := false
		for _, f := range m.Facts {
			if !r.covers(f.Name) {
				continue
			}
			found = true
			switch {
			case f.Value == "" && r.must:
				k.fact(Fail, next+k.e.w.Agent, refs, f, "fact %s is empty", f.Name)
			case !f.Grade.AtLeast(r.grade):
				k.fact(Fail, next+k.e.w.Agent, refs, f, "fact %s is only %s; the %s tier requires %s", f.Name, f.Grade, k.e.tier(), r.grade)
			default:
				k.fact(Pass, "", refs, f, "fact %s is %s, from %s", f.Name, short(f.Value), f.Source)
			}
		}
		if !found && r.must {
			k.add(Unknown, next+k.e.w.Agent, refs, Finding{Saw: "the certified boundary says nothing about " + strings.TrimSuffix(r.name, "."), Fact: r.name})
		}
	}
}

// short keeps digests readable.
func short(v string) string {
	if rest, ok := strings.CutPrefix(v, "sha256:"); ok && len(rest) > 16 {
		return "sha256:" + rest[:16] + "…"
	}
	if r := []rune(v); len(r) > 120 {
		return string(r[:120]) + "…"
	}
	return v
}
