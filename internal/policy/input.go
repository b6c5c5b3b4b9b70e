package policy

import (
	"regexp"
	"unicode/utf8"

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
	// Source is what sent the action: "browser", "harness" or "boundary".
	// Anything else counts as browser, the strictest.
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
)

// Limits on what an action may bring into an evaluation.
const (
	maxParams     = 64
	maxValueBytes = 16 << 10
)

// operationForm keeps operations apart from the group names, which contain "/".
var operationForm = regexp.MustCompile(`^[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)+$`)

// request is an Input in Cedar's terms, with the ancestors the index asks for.
// It is the types.EntityGetter of its own evaluation.
type request struct {
	cedar                          types.Request
	principals, actions, resources []types.EntityUID // self, ancestors, any
	entities                       [3]types.Entity
}

func (r request) Get(uid types.EntityUID) (types.Entity, bool) {
	for _, e := range r.entities {
		if e.UID == uid {
			return e, true
		}
	}
	// Groups and origins have no ancestors and no attributes.
	return types.Entity{UID: uid}, true
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

func newRequest(in Input) request {
	a := in.Action
	r := request{}
	r.cedar.Principal = uid("Agent", a.Agent)
	tenant := uid("Tenant", a.Tenant)
	r.entities[0] = types.Entity{UID: r.cedar.Principal, Parents: types.NewEntityUIDSet(tenant)}
	r.principals = []types.EntityUID{r.cedar.Principal, tenant, {}}

	r.cedar.Action = uid("Action", a.Operation)
	groups := actionGroups(a)
	r.entities[1] = types.Entity{UID: r.cedar.Action, Parents: types.NewEntityUIDSet(groups...)}
	r.actions = append(append([]types.EntityUID{r.cedar.Action}, groups...), types.EntityUID{})

	origin := targetOrigin(a)
	switch {
	case a.App != "":
		r.cedar.Resource = uid("App", a.App)
		r.resources = []types.EntityUID{r.cedar.Resource, {}}
		if origin != "" {
			o := uid("Origin", origin)
			r.entities[2] = types.Entity{UID: r.cedar.Resource, Parents: types.NewEntityUIDSet(o)}
			r.resources = []types.EntityUID{r.cedar.Resource, o, {}}
		}
	case origin != "":
		r.cedar.Resource = uid("Origin", origin)
		r.resources = []types.EntityUID{r.cedar.Resource, {}}
	default:
		r.cedar.Resource = uid("Boundary", "self")
		r.resources = []types.EntityUID{r.cedar.Resource, {}}
	}
	r.cedar.Context = newContext(in)
	return r
}

func uid(t types.EntityType, id string) types.EntityUID {
	return types.EntityUID{Type: t, ID: types.String(id)}
}

func targetOrigin(a action.Action) string {
	if a.Request != nil {
		return a.Request.Origin
	}
	if a.Element != nil {
		return a.Element.FrameOrigin
	}
	return ""
}

// actionGroups: an effect that is not one of the five is in every reach group,
// so that no rule overlooks it.
func actionGroups(a action.Action) []types.EntityUID {
	groups := []types.EntityUID{uid("Action", "surface/"+string(a.Surface))}
	if _, err := action.ParseEffect(string(a.Effect)); err != nil {
		groups = append(groups, uid("Action", "effect/unknown"))
	} else {
		groups = append(groups, uid("Action", "effect/"+string(a.Effect)))
	}
	for _, e := range effects {
		if a.Effect.AtLeast(e) {
			groups = append(groups, uid("Action", "reach/"+string(e)))
		}
	}
	return groups
}

var effects = []action.Effect{action.Observe, action.Read, action.Write, action.Privileged, action.Irreversible}

func newContext(in Input) types.Record {
	a := in.Action
	source := in.Source
	if source != SourceHarness && source != SourceBoundary {
		source = SourceBrowser
	}
	var total int64
	counts := types.RecordMap{}
	for op, n := range in.Counts {
		counts[types.String(op)] = types.Long(n)
		total += n
	}
	names := make([]types.Value, 0, len(a.Params))
	for k := range a.Params {
		names = append(names, types.String(k))
	}
	m := types.RecordMap{
		"tenant": types.String(a.Tenant), "task": types.String(a.Task),
		"stage": types.String(in.Stage), "tier": types.String(in.Tier),
		"surface": types.String(a.Surface), "source": types.String(source),
		"operation": types.String(a.Operation), "effect": types.String(a.Effect), "app": types.String(a.App),
		"params": stringRecord(a.Params), "paramNames": types.NewSet(names...), "taskParams": stringRecord(in.TaskParams),
		"labels": stringSet(in.Labels), "adds": stringSet(a.Labels),
		"count": types.Long(in.Counts[a.Operation]), "counts": types.NewRecord(counts), "total": types.Long(total),
		"explained": types.Boolean(a.Explained != ""), "unmatched": types.Boolean(a.Unmatched()),
		"pinned": types.Boolean(in.Pinned), "certified": types.Boolean(in.Certified), "demo": types.Boolean(in.Demo),
	}
	if e := a.Element; e != nil {
		m["element"] = types.NewRecord(types.RecordMap{
			"origin": types.String(e.FrameOrigin), "topOrigin": types.String(e.TopOrigin), "url": types.String(e.URL),
			"tag": types.String(e.Tag), "role": types.String(e.Role), "name": types.String(e.Name),
			"link": types.String(e.Link), "formAction": types.String(e.FormAction), "formMethod": types.String(e.FormMethod),
			"inputType": types.String(e.InputType), "uninspectable": types.Boolean(e.Uninspectable != ""),
			"why": types.String(e.Uninspectable),
		})
	}
	if q := a.Request; q != nil {
		m["request"] = types.NewRecord(types.RecordMap{
			"method": types.String(q.Method), "origin": types.String(q.Origin), "path": types.String(q.Path),
			"query": types.String(q.Query), "bodyType": types.String(q.BodyType), "bodySize": types.Long(q.BodySize),
			"destination": types.String(q.Destination), "redirected": types.Boolean(q.RedirectOf != ""),
		})
	}
	return types.NewRecord(m)
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
