package replay

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// decided is what is read of the body of an action.decided record.
type decided struct {
	Action   action.Action   `json:"action"`
	Decision action.Decision `json:"decision"`
	// Would is what policy decided in the stage shadow, where that let nothing through.
	Would *action.Decision `json:"would"`
	Stage action.Stage     `json:"stage"`
	Chain []string         `json:"chain"`
}

// counted reports whether the gate counted it: it passed, or would have.
func (d decided) counted() bool { return d.Decision.Verdict == action.Allow || d.Would != nil }

// read refuses a record that is not of its task, tenant and place in the tree.
func read(e record.Entry, tenant string, line []string) (decided, error) {
	var d decided
	if err := json.Unmarshal(e.Body, &d); err != nil {
		return d, Unknown("the record cannot be read")
	}
	a := d.Action
	if e.Tenant != tenant || a.Tenant != tenant || a.Task != e.Task || a.Agent != e.Agent || len(line) == 0 || !slices.Equal(d.Chain, line[1:]) {
		return d, Unknown("the record is of another task or tenant than its action")
	}
	a.Evidence = slices.Clone(e.Evidence) // as the ledger holds it, not as the action was told
	d.Action = a
	return d, nil
}

// Layers and codes of decisions that came before policy, or after it. The words
// are the record's (package gate).
const (
	codeApproved  = "approved"
	codeTwoHolds  = "two_holds"
	codeMalformed = "malformed" // by policy; other codes of layer form are the door's own
	codeApproval  = "needs_approval"
)

// asked is what policy decided of it: for people, where they were asked, whatever
// they answered. Unknown is returned for what policy was not asked about.
func (d decided) asked() (action.Decision, error) {
	if d.Would != nil {
		return *d.Would, nil
	}
	x := d.Decision
	held := false
	switch {
	case strings.HasSuffix(d.Action.Operation, ".malformed"):
		return x, Unknown("it has no canonical form on record")
	case x.Layer == action.LayerForm && x.Code != codeMalformed:
		return x, Unknown("it has no canonical form on record")
	case x.Layer == action.LayerAuthority:
		return x, Unknown("decided before policy: " + x.Code)
	case x.Layer == action.LayerHold:
		held = x.Code != codeTwoHolds
	case x.Verdict == action.Allow:
		held = x.Code == codeApproved
	}
	if held {
		x.Verdict, x.Code, x.Layer = action.Hold, codeApproval, holder(x.Policies)
	}
	return x, nil
}

// holder is the layer that asked for people: the tenant's guardrails, if one of
// them did. Policies of grants are named grant/CAPABILITY/N.
func holder(policies []string) action.Layer {
	if slices.ContainsFunc(policies, func(id string) bool { return !strings.HasPrefix(id, "grant/") }) {
		return action.LayerGuardrail
	}
	return action.LayerGrant
}
