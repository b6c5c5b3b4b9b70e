package policy

import (
	"encoding/json"
	"maps"
	"math/bits"
	"regexp"
	"slices"
	"unicode/utf8"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// Input is everything a decision depends on.
type Input struct {
	Action     action.Action
	Stage      action.Stage
	Tier       string            // light, standard, privileged: derived from what the boundary can reach
	TaskParams map[string]string // the declared intent
	Labels     []string          // on the task so far
	Counts     map[string]int64  // per operation, allowed in the task so far
	Certified  bool              // a live certification of the boundary as measured now
	Demo       bool              // tenant is a demonstration
	// Source is what sent the action: "browser", "harness" or "boundary", or
	// "person", by hand in a session taken over. Anything else counts as browser,
	// the strictest.
	Source string
	// Pinned says that an inference call goes to the endpoint and model that
	// the boundary pins. Only meaningful on the inference surface.
	Pinned bool
}

// Sources of an action.
const (
	SourceBrowser  = "browser"
	SourceHarness  = "harness"
	SourceBoundary = "boundary"
	SourcePerson   = "person"
)

// Limits on what an action may bring into an evaluation.
const (
	maxParams     = 64
	maxValueBytes = 16 << 10
)

// operationForm keeps operations apart from the group names, which contain "/".
var operationForm = regexp.MustCompile(`^[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)+$`)

// request is an Input in Cedar's terms, with the ancestors the index asks for.
// It is the types.EntityGetter of its own evaluation. Its context is made for
// the policies that are asked: see within.
type request struct {
	in                             *Input
	cedar                          types.Request
	has                            attributeSet      // in the context of cedar
	group                          groups            // of the action
	principals, actions, resources []types.EntityUID // self, ancestors, any
	room                           [6]types.EntityUID
}

// Get makes the entity: few policies ask for one.
func (r *request) Get(uid types.EntityUID) (types.Entity, bool) {
	e := types.Entity{UID: uid}
	switch {
	case uid == r.cedar.Principal:
		e.Parents = types.NewEntityUIDSet(r.principals[1])
	case uid == r.cedar.Action:
		e.Parents = r.group.set
	case uid == r.cedar.Resource && len(r.resources) == 3:
		e.Parents = types.NewEntityUIDSet(r.resources[1])
	}
	// Groups and origins have no ancestors and no attributes.
	return e, true
}

// malformed says why an input has no Cedar form, or "".
func (in Input) malformed() string {
	a := in.Action
	switch {
	case !operationForm.MatchString(a.Operation) || len(a.Operation) > 200:
		return "operation name is not of the form app.thing.verb"
	case a.Agent == "":
		return "action names no agent"
	case len(a.Params) > maxParams || len(in.TaskParams) > maxParams:
		return "too many parameters"
	}
	for _, m := range []map[string]string{a.Params, in.TaskParams} {
		for k, v := range m {
			if len(k)+len(v) > maxValueBytes || !utf8.ValidString(k) || !utf8.ValidString(v) {
				return "a parameter is too long or not UTF-8"
			}
		}
	}
	return ""
}

func newRequest(in *Input) *request {
	a := &in.Action
	r := &request{in: in, group: groupsOf(a.Surface, a.Effect)}
	r.cedar = types.Request{Principal: uid("Agent", a.Agent), Action: uid("Action", a.Operation), Context: types.NewRecord(nil)}
	r.principals = append(r.room[:0:3], r.cedar.Principal, uid("Tenant", a.Tenant), types.EntityUID{})
	r.actions = append(append(append(make([]types.EntityUID, 0, 2+len(r.group.list)), r.cedar.Action), r.group.list...), types.EntityUID{})
	origin := targetOrigin(a)
	switch {
	case a.App != "":
		r.cedar.Resource = uid("App", a.App)
	case origin != "":
		r.cedar.Resource = uid("Origin", origin)
	default:
		r.cedar.Resource = uid("Boundary", "self")
	}
	r.resources = append(r.room[3:3], r.cedar.Resource)
	if a.App != "" && origin != "" {
		r.resources = append(r.resources, uid("Origin", origin))
	}
	r.resources = append(r.resources, types.EntityUID{})
	return r
}

func uid(t types.EntityType, id string) types.EntityUID {
	return types.EntityUID{Type: t, ID: types.String(id)}
}

func targetOrigin(a *action.Action) string {
	if a.Request != nil {
		return a.Request.Origin
	}
	if a.Element != nil {
		return a.Element.FrameOrigin
	}
	return ""
}

// groups are those that an action is in, by its surface and effect.
type groups struct {
	list []types.EntityUID
	set  types.EntityUIDSet
}

// knownGroups are the groups of the actions that there are.
var knownGroups = func() map[action.Surface]map[action.Effect]groups {
	m := map[action.Surface]map[action.Effect]groups{}
	for _, s := range []action.Surface{action.Computer, action.Egress, action.Inference, action.Control} {
		m[s] = map[action.Effect]groups{}
		for _, e := range effects {
			m[s][e] = makeGroups(s, e)
		}
	}
	return m
}()

func groupsOf(s action.Surface, e action.Effect) groups {
	if g, ok := knownGroups[s][e]; ok {
		return g
	}
	return makeGroups(s, e)
}

// makeGroups: an effect that is not one of the five is in every reach group,
// so that no rule overlooks it.
func makeGroups(s action.Surface, effect action.Effect) groups {
	list := []types.EntityUID{uid("Action", "surface/"+string(s))}
	if _, err := action.ParseEffect(string(effect)); err != nil {
		list = append(list, uid("Action", "effect/unknown"))
	} else {
		list = append(list, uid("Action", "effect/"+string(effect)))
	}
	for _, e := range effects {
		if effect.AtLeast(e) {
			list = append(list, uid("Action", "reach/"+string(e)))
		}
	}
	return groups{list: list, set: types.NewEntityUIDSet(list...)}
}

var effects = []action.Effect{action.Observe, action.Read, action.Write, action.Privileged, action.Irreversible}

// attributes are the members of the context, with the place of each in an
// attributeSet. One without a value is absent.
var attributes = [...]struct {
	name types.String
	of   func(in *Input) types.Value
}{
	{"tenant", func(in *Input) types.Value { return types.String(in.Action.Tenant) }},
	{"task", func(in *Input) types.Value { return types.String(in.Action.Task) }},
	{"stage", func(in *Input) types.Value { return types.String(in.Stage) }},
	{"tier", func(in *Input) types.Value { return types.String(in.Tier) }},
	{"surface", func(in *Input) types.Value { return types.String(in.Action.Surface) }},
	{"source", func(in *Input) types.Value {
		switch in.Source {
		case SourceHarness, SourceBoundary, SourcePerson:
			return types.String(in.Source)
		}
		return types.String(SourceBrowser)
	}},
	{"operation", func(in *Input) types.Value { return types.String(in.Action.Operation) }},
	{"effect", func(in *Input) types.Value { return types.String(in.Action.Effect) }},
	{"app", func(in *Input) types.Value { return types.String(in.Action.App) }},
	{"params", func(in *Input) types.Value { return stringRecord(in.Action.Params) }},
	{"paramNames", func(in *Input) types.Value { return stringSet(slices.Collect(maps.Keys(in.Action.Params))) }},
	{"taskParams", func(in *Input) types.Value { return stringRecord(in.TaskParams) }},
	{"labels", func(in *Input) types.Value { return stringSet(in.Labels) }},
	{"adds", func(in *Input) types.Value { return stringSet(in.Action.Labels) }},
	{"count", func(in *Input) types.Value { return types.Long(in.Counts[in.Action.Operation]) }},
	{"counts", func(in *Input) types.Value {
		counts := make(types.RecordMap, len(in.Counts))
		for op, n := range in.Counts {
			counts[types.String(op)] = types.Long(n)
		}
		return types.NewRecord(counts)
	}},
	{"total", func(in *Input) types.Value {
		var total int64
		for _, n := range in.Counts {
			total += n
		}
		return types.Long(total)
	}},
	{"explained", func(in *Input) types.Value { return types.Boolean(in.Action.Explained != "") }},
	{"unmatched", func(in *Input) types.Value { return types.Boolean(in.Action.Unmatched()) }},
	{"pinned", func(in *Input) types.Value { return types.Boolean(in.Pinned) }},
	{"certified", func(in *Input) types.Value { return types.Boolean(in.Certified) }},
	{"demo", func(in *Input) types.Value { return types.Boolean(in.Demo) }},
	{"element", func(in *Input) types.Value {
		e := in.Action.Element
		if e == nil {
			return nil
		}
		return types.NewRecord(types.RecordMap{
			"origin": types.String(e.FrameOrigin), "topOrigin": types.String(e.TopOrigin), "url": types.String(e.URL),
			"tag": types.String(e.Tag), "role": types.String(e.Role), "name": types.String(e.Name),
			"link": types.String(e.Link), "formAction": types.String(e.FormAction), "formMethod": types.String(e.FormMethod),
			"inputType": types.String(e.InputType), "uninspectable": types.Boolean(e.Uninspectable != ""),
			"why": types.String(e.Uninspectable),
		})
	}},
	{"request", func(in *Input) types.Value {
		q := in.Action.Request
		if q == nil {
			return nil
		}
		return types.NewRecord(types.RecordMap{
			"method": types.String(q.Method), "origin": types.String(q.Origin), "path": types.String(q.Path),
			"query": types.String(q.Query), "bodyType": types.String(q.BodyType), "bodySize": types.Long(q.BodySize),
			"destination": types.String(q.Destination), "redirected": types.Boolean(q.RedirectOf != ""),
		})
	}},
}

// attributeSet has a bit for each of attributes.
type attributeSet uint32

const everything = attributeSet(1<<len(attributes) - 1)

// within is the request with those attributes in its context, at least. Cedar's
// records are costly to make, and most policies look at few of them.
func (r *request) within(set attributeSet) types.Request {
	if set&^r.has == 0 {
		return r.cedar
	}
	r.has |= set
	m := make(types.RecordMap, bits.OnesCount32(uint32(r.has)))
	for i, a := range attributes {
		if r.has&(1<<i) == 0 {
			continue
		}
		if v := a.of(r.in); v != nil {
			m[a.name] = v
		}
	}
	r.cedar.Context = types.NewRecord(m)
	return r.cedar
}

// attributesOf are the attributes that a policy looks at, by its JSON form
// (docs.cedarpolicy.com, "JSON policy format"): context.x is an access of x to
// the variable. A policy that uses the context in any other way looks at all.
func attributesOf(p *cedar.Policy) (attributeSet, error) {
	raw, err := p.MarshalJSON()
	if err != nil {
		return 0, err
	}
	var tree any
	if err := json.Unmarshal(raw, &tree); err != nil {
		return 0, err
	}
	return lookedAt(tree), nil
}

func lookedAt(node any) (set attributeSet) {
	switch n := node.(type) {
	case []any:
		for _, v := range n {
			set |= lookedAt(v)
		}
	case map[string]any:
		if n["Var"] == "context" {
			return everything
		}
		for k, v := range n {
			access, ok := v.(map[string]any)
			if ok && (k == "." || k == "has") && isContext(access["left"]) {
				set |= attribute(access["attr"])
				continue
			}
			set |= lookedAt(v)
		}
	}
	return set
}

func isContext(node any) bool {
	n, ok := node.(map[string]any)
	return ok && len(n) == 1 && n["Var"] == "context"
}

// attribute is the set of one. A name that is not known is never present, so
// nothing needs to be made for it.
func attribute(name any) attributeSet {
	for i, a := range attributes {
		if string(a.name) == name {
			return 1 << i
		}
	}
	return 0
}

func stringRecord(m map[string]string) types.Record {
	r := make(types.RecordMap, len(m))
	for k, v := range m {
		r[types.String(k)] = types.String(v)
	}
	return types.NewRecord(r)
}

func stringSet(list []string) types.Set {
	vs := make([]types.Value, 0, len(list))
	for _, s := range list {
		vs = append(vs, types.String(s))
	}
	return types.NewSet(vs...)
}
