package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/policy"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/replay"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/surface/egress"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// replayLimit bounds one replay; what was not reached by then is said.
const replayLimit = time.Minute

// Replay decides what is on record again, as if all had been applied and approved;
// nothing is. Without resources it decides by what is in force.
//
// That it was asked for is recorded before any decision is read, and after the
// filter was checked: it names what exists, so that the record is short. Payloads are
// opened for an auditor only: by a policy of their own making, anybody else could ask
// what is in them.
func (s *Server) Replay(ctx context.Context, tenantName string, c Caller, all []resource.Resource, f replay.Filter) (replay.Report, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return replay.Report{}, err
	}
	person, err := t.require(c, "replay decisions", resource.RolePolicy, resource.RoleAuditor)
	if err != nil {
		return replay.Report{}, err
	}
	if f.Limit < 0 || f.Limit > replay.MaxLimit {
		return replay.Report{}, problem(Invalid, "invalid_limit", fmt.Sprintf("limit is %d, and at most %d decisions are replayed at once", f.Limit, replay.MaxLimit), "name a task, an agent or a later time")
	}
	w, changed, err := t.wouldBe(person, all)
	if err != nil {
		return replay.Report{}, err
	}
	_, roles, err := t.identify(c)
	if err != nil {
		return replay.Report{}, err
	}
	rules := &recordedRules{t: t, w: w, open: slices.Contains(roles, resource.RoleAuditor), tasks: map[string]task.Task{}, ruled: map[string]*ruled{}}
	have, err := t.tasks.List(ctx)
	if err != nil {
		return replay.Report{}, err
	}
	var tasks []replay.Task
	for _, x := range have {
		rules.tasks[x.ID] = x
		tasks = append(tasks, replay.Task{ID: x.ID, Agent: x.Agent, Chain: x.Chain, Opened: x.Opened, Ended: x.Ended})
	}
	if err := rules.known(f); err != nil {
		return replay.Report{}, err
	}
	_, err = t.log.Append(ctx, record.Draft{Type: "policy.replayed", Actor: "person:" + person,
		Body: map[string]any{"resources": changed, "filter": f, "payloads": rules.open}})
	if err != nil {
		return replay.Report{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, replayLimit)
	defer cancel()
	return replay.Run(ctx, t.log, tasks, rules, f)
}

// wouldBe is the world after an apply and its approvals, and what changes for it.
func (t *tenant) wouldBe(author string, all []resource.Resource) (*world, []line, error) {
	now := t.current()
	for _, r := range all {
		name := r.Metadata.Tenant
		if r.Kind == resource.KindTenant {
			name = r.Metadata.Name
		}
		if name != t.name {
			return nil, nil, problem(Invalid, "other_tenant", fmt.Sprintf("%s/%s is of tenant %s, and the records are of %s", r.Kind, r.Metadata.Name, name, t.name), "replay one tenant at a time")
		}
	}
	next, done := merge(now.resources, all, author, nil)
	w, err := buildWorld(next)
	if err != nil {
		return nil, nil, problem(Invalid, "invalid_resources", err.Error(), "correct the files and replay again")
	}
	if w.trustDomain != now.trustDomain || w.demo != now.demo {
		return nil, nil, problem(Invalid, "tenant_fixed", "the trust domain of a tenant and whether it is a demonstration cannot be changed", "leave the Tenant as it is")
	}
	return w, lines(next, done, now.resources), nil
}

// recordedRules implements replay.Rules by a world that may never be in force.
type recordedRules struct {
	t     *tenant
	w     *world
	open  bool // payloads may be opened
	tasks map[string]task.Task
	ruled map[string]*ruled
}

// known refuses a filter that selects nothing by its spelling.
func (r *recordedRules) known(f replay.Filter) error {
	if _, ok := r.tasks[f.Task]; f.Task != "" && !ok {
		return problem(Invalid, "no_such_task", "there is no task "+strconv.Quote(f.Task), "see: sallyport task list")
	}
	if f.Agent == "" || r.w.agents[f.Agent] != nil {
		return nil
	}
	for _, x := range r.tasks {
		if x.Agent == f.Agent {
			return nil
		}
	}
	return problem(Invalid, "no_such_agent", "there is no agent "+strconv.Quote(f.Agent), "see: sallyport get Agent")
}

// ruled is what would decide about a task.
type ruled struct {
	policy decider
	tier   string
	params map[string]string
	apps   map[string]bool
	why    string // it could not have been opened
}

// of compiles what decides about a task, as its session does when it is admitted.
func (r *recordedRules) of(id string) *ruled {
	if r.ruled[id] == nil {
		r.ruled[id] = r.compile(r.tasks[id])
	}
	return r.ruled[id]
}

// compile refuses what open refuses, as far as it is a matter of what is declared.
// Whether a part may still be delegated is not asked.
func (r *recordedRules) compile(x task.Task) *ruled {
	a, spec := r.w.agents[x.Agent], r.w.capabilities[x.Capability]
	out := &ruled{params: x.Params}
	if a != nil {
		out.apps, out.tier = a.apps, a.tier
	}
	switch {
	case a == nil:
		out.why = "there is no agent " + x.Agent
	case spec == nil || !slices.Contains(a.spec.Capabilities, x.Capability):
		out.why = "agent " + x.Agent + " does not have capability " + x.Capability
	case !slices.Contains(spec.Stages, x.Stage):
		out.why = fmt.Sprintf("capability %s does not cover stage %s", x.Capability, x.Stage)
	}
	if out.why != "" {
		return out
	}
	in, err := spec.Instantiate(x.Capability, x.Params)
	if err == nil {
		err = r.w.spelled(in)
	}
	var grant *policy.Set
	if err == nil {
		grant, err = compile(r.t.name, x.Agent, x.ID, in, r.w)
	}
	if err != nil {
		out.why = err.Error()
	}
	out.policy = r.w.decider(a, grant)
	return out
}

// Decide implements replay.Rules as the gate asks policy: a certification is live
// whenever it is asked at all.
func (r *recordedRules) Decide(a action.Action, stage action.Stage, done []replay.Done) (action.Decision, error) {
	for _, d := range done {
		if why := r.of(d.Task).why; why != "" {
			return action.Denied(action.LayerAuthority, "not_opened", "task could not have been opened: "+why, "see the capability and the agent"), nil
		}
	}
	var out action.Decision
	for i, d := range done {
		x := r.of(d.Task)
		f := gate.Facts{Action: a, Stage: stage.Conditions(), Tier: x.tier, Params: x.params, Labels: d.Labels, Counts: d.Counts, Certified: true}
		if i == 0 {
			out = x.policy.Decide(f)
			continue
		}
		if !gate.AsksAbove(out, a) {
			break
		}
		f.Action.Task, f.Action.Agent = d.Task, r.tasks[d.Task].Agent
		out = gate.Stricter(out, x.policy.Decide(f))
	}
	return out, nil
}

// Name implements replay.Rules. What no connector names is as it was.
func (r *recordedRules) Name(ctx context.Context, a action.Action, stage action.Stage) (action.Action, error) {
	apps := r.of(a.Task).apps
	switch {
	case a.Surface == action.Egress && a.Request != nil:
		return r.request(ctx, a, recognizer{r.w.connectors, stage.Conditions(), apps})
	case a.Surface == action.Computer && a.Element != nil:
		a.App = r.screen(a, stage.Conditions(), apps)
	}
	return a, nil
}

// screen is the application that an input was on; one from an application to
// another is on neither.
func (r *recordedRules) screen(a action.Action, stage action.Stage, apps map[string]bool) string {
	owner := func(origin string) string {
		if name, ok := r.w.connectors.Owner(stage, origin); ok && apps[name] {
			return name
		}
		return ""
	}
	app := owner(a.Element.FrameOrigin)
	for _, other := range []string{"toOrigin", "fromOrigin"} {
		if o, ok := a.Params[other]; ok && owner(o) != app {
			return ""
		}
	}
	if a.App == "" && strings.HasSuffix(a.Operation, "_up") {
		return "" // where the button went down is not on record
	}
	return app
}

// request names a request again. Where its connector is the one that named it, the
// record has the name, and its body stays closed.
func (r *recordedRules) request(ctx context.Context, a action.Action, c recognizer) (action.Action, error) {
	var body []byte
	if a.Request.BodySize > 0 || a.Request.BodyDigest != "" {
		if r.unchanged(a, c) {
			return a, nil
		}
		var err error
		if body, err = r.body(ctx, a); err != nil {
			return a, err
		}
	}
	rec, err := c.Recognize(*a.Request, body)
	if err != nil {
		return a, replay.Unknown("its request is not recognisable")
	}
	if code := egress.Doubt(*a.Request, rec, body); code != "" {
		return a, replay.Unknown("it would have no canonical form: " + code)
	}
	if len(rec.Secrets) == 0 && bytes.Contains(bytes.ToLower(body), []byte(action.PlaceholderPrefix)) {
		return a, replay.Unknown("it names a secret where the connector would have none put in")
	}
	now := egress.Name(a, *a.Request, rec)
	if s, ok := a.Params["stripped"]; ok {
		now.Params["stripped"] = s
	}
	if a.Source == "browser" && now.Effect.Changes() != a.Effect.Changes() {
		return a, replay.Unknown("it would change something, or no longer: whether an input explains such a request is not on record")
	}
	return now, nil
}

// unchanged reports whether the connector of the request's origin is the one that
// recognised it: declared before the task was opened, and not since.
func (r *recordedRules) unchanged(a action.Action, c recognizer) bool {
	name, ok := r.w.connectors.Owner(c.stage, a.Request.Origin)
	if !ok || !c.apps[name] {
		return a.App == ""
	}
	return name == a.App && r.w.resources[resource.KindConnector+"/"+name].Applied.Before(r.tasks[a.Task].Opened)
}

// body opens what the record has of the request's body.
func (r *recordedRules) body(ctx context.Context, a action.Action) ([]byte, error) {
	i := slices.IndexFunc(a.Evidence, func(e action.Evidence) bool { return e.Name == "request-body" })
	switch {
	case i < 0:
		return nil, replay.Unknown("body was not kept")
	case !r.open:
		return nil, replay.Unknown("body is for an auditor, and its connector is another")
	}
	b, err := r.t.log.Payload(ctx, a.Evidence[i])
	if errors.Is(err, ledger.ErrErased) {
		return nil, replay.Unknown("body is gone")
	}
	if err != nil && ctx.Err() == nil {
		return nil, replay.Unknown("body cannot be read")
	}
	return b, err
}
