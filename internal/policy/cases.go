package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// Cases is a file of policy tests.
type Cases struct {
	Cases []Case `json:"cases"`
}

// Case is one action in one state, and what must come of it.
type Case struct {
	Name   string     `json:"name"`
	Action CaseAction `json:"action"`
	// Grant is the capability of the task and Params are its parameters;
	// without one nothing is permitted, so that only guardrails are tested.
	Grant  string            `json:"grant,omitempty"`
	Params map[string]string `json:"params,omitempty"`

	Agent     string           `json:"agent,omitempty"`     // default "agent"
	Stage     action.Stage     `json:"stage,omitempty"`     // default sandbox
	Tier      string           `json:"tier,omitempty"`      // default privileged
	Labels    []string         `json:"labels,omitempty"`    // on the task so far
	Counts    map[string]int64 `json:"counts,omitempty"`    // allowed so far
	Certified *bool            `json:"certified,omitempty"` // default true
	Demo      bool             `json:"demo,omitempty"`
	Source    string           `json:"source,omitempty"` // default browser
	Pinned    *bool            `json:"pinned,omitempty"` // default true

	Expect Expect `json:"expect"`
}

// CaseAction is what policy sees of an action.
type CaseAction struct {
	Surface   string            `json:"surface"`
	Operation string            `json:"operation"`
	Effect    action.Effect     `json:"effect"`
	App       string            `json:"app,omitempty"`
	Params    map[string]string `json:"params,omitempty"`
	Adds      []string          `json:"adds,omitempty"` // labels
	Explained bool              `json:"explained,omitempty"`
	Element   *CaseElement      `json:"element,omitempty"`
	Request   *CaseRequest      `json:"request,omitempty"`
}

// CaseElement is a grounded element.
type CaseElement struct {
	Origin        string `json:"origin,omitempty"`
	Tag           string `json:"tag,omitempty"`
	Name          string `json:"name,omitempty"`
	Link          string `json:"link,omitempty"`
	FormAction    string `json:"formAction,omitempty"`
	FormMethod    string `json:"formMethod,omitempty"`
	InputType     string `json:"inputType,omitempty"`
	Uninspectable string `json:"uninspectable,omitempty"`
}

// CaseRequest is a request.
type CaseRequest struct {
	Method   string `json:"method,omitempty"`
	Origin   string `json:"origin,omitempty"`
	Path     string `json:"path,omitempty"`
	Query    string `json:"query,omitempty"`
	BodySize int64  `json:"bodySize,omitempty"`
}

// Expect is what must come of a case. Empty fields are not looked at.
type Expect struct {
	Verdict   action.Verdict `json:"verdict"`
	Layer     action.Layer   `json:"layer,omitempty"`
	Code      string         `json:"code,omitempty"`
	Approvers string         `json:"approvers,omitempty"`
	Policies  []string       `json:"policies,omitempty"` // each must be among the decision's
}

// Result is what came of a case. Problem is empty when it was as expected.
type Result struct {
	Name     string          `json:"name"`
	Decision action.Decision `json:"decision"`
	Problem  string          `json:"problem,omitempty"`
}

// Report is what came of all cases.
type Report struct {
	Results []Result `json:"results"`
	Failed  int      `json:"failed"`
	// Untested are the policies of the set that decided no case, without the
	// shipped ones.
	Untested []string `json:"untested,omitempty"`
}

// Test runs cases against guardrails. grant makes the grant of a capability for
// agent "agent" (or the case's) in task "test" of tenant "test"; it is asked
// only for cases that name one.
func Test(guardrails *Set, cases []Case, grant func(capability, agent string, params map[string]string) (*Set, error)) Report {
	var rep Report
	used := map[string]bool{}
	for _, c := range cases {
		r := Result{Name: c.Name}
		in := c.input()
		var g *Set
		var err error
		if c.Grant != "" {
			g, err = grant(c.Grant, in.Action.Agent, c.Params)
		}
		if err != nil {
			r.Problem = err.Error()
		} else {
			r.Decision = Evaluate(guardrails, g, in)
			r.Problem = c.Expect.differs(r.Decision)
		}
		for _, id := range r.Decision.Policies {
			used[id] = true
		}
		if r.Problem != "" {
			rep.Failed++
		}
		rep.Results = append(rep.Results, r)
	}
	for _, e := range guardrails.entries {
		if !used[e.id] && !strings.HasPrefix(e.id, "base/") {
			rep.Untested = append(rep.Untested, e.id)
		}
	}
	return rep
}

func (c Case) input() Input {
	or := func(s, d string) string {
		if s == "" {
			return d
		}
		return s
	}
	yes := func(b *bool) bool { return b == nil || *b }
	a := action.Action{
		ID: "test", Tenant: "test", Task: "test", Agent: or(c.Agent, "agent"),
		Surface: action.Surface(c.Action.Surface), Operation: c.Action.Operation, Effect: c.Action.Effect,
		App: c.Action.App, Params: c.Action.Params, Labels: c.Action.Adds,
	}
	if c.Action.Explained {
		a.Explained = "test"
	}
	if e := c.Action.Element; e != nil {
		a.Element = &action.Element{FrameOrigin: e.Origin, TopOrigin: e.Origin, Tag: e.Tag, Name: e.Name, Link: e.Link,
			FormAction: e.FormAction, FormMethod: e.FormMethod, InputType: e.InputType, Uninspectable: e.Uninspectable}
	}
	if q := c.Action.Request; q != nil {
		a.Request = &action.Request{Method: q.Method, Origin: q.Origin, Path: q.Path, Query: q.Query, BodySize: q.BodySize}
	}
	return Input{
		Action: a, Stage: action.Stage(or(string(c.Stage), string(action.Sandbox))).Conditions(), Tier: or(c.Tier, "privileged"),
		TaskParams: c.Params, Labels: c.Labels, Counts: c.Counts, Certified: yes(c.Certified), Demo: c.Demo,
		Source: c.Source, Pinned: yes(c.Pinned),
	}
}

// differs says what is not as expected, or "".
func (x Expect) differs(d action.Decision) string {
	var out []string
	not := func(what, got, want string) {
		if want != "" && got != want {
			out = append(out, fmt.Sprintf("%s is %q, want %q", what, got, want))
		}
	}
	not("verdict", string(d.Verdict), string(x.Verdict))
	not("layer", string(d.Layer), string(x.Layer))
	not("code", d.Code, x.Code)
	not("approvers", d.Approvers, x.Approvers)
	for _, id := range x.Policies {
		if !slices.Contains(d.Policies, id) {
			out = append(out, fmt.Sprintf("policies are %v, want %s among them", d.Policies, id))
		}
	}
	return strings.Join(out, "; ")
}

// Explain is a decision in words, over several lines, for a terminal. It says
// nothing that came from a page.
func Explain(in Input, d action.Decision) string {
	var b strings.Builder
	a := in.Action
	fmt.Fprintf(&b, "%s: %s", strings.ToUpper(string(d.Verdict)), d.Reason)
	if d.Verdict == action.Hold {
		fmt.Fprintf(&b, " (role %s)", d.Approvers)
	}
	fmt.Fprintf(&b, "\n  action    %s (%s) on the %s surface", a.Operation, a.Effect, a.Surface)
	if a.App != "" {
		fmt.Fprintf(&b, " of %s", a.App)
	}
	for _, k := range slices.Sorted(maps.Keys(a.Params)) {
		fmt.Fprintf(&b, "\n            %s = %q", k, a.Params[k])
	}
	fmt.Fprintf(&b, "\n  task      %s by agent %s, stage %s, tier %s", a.Task, a.Agent, in.Stage, in.Tier)
	if len(in.Labels) > 0 {
		fmt.Fprintf(&b, "\n  labels    %s", strings.Join(slices.Sorted(slices.Values(in.Labels)), ", "))
	}
	fmt.Fprintf(&b, "\n  layer     %s (%s)", d.Layer, d.Code)
	for _, id := range d.Policies {
		fmt.Fprintf(&b, "\n  policy    %s", id)
	}
	if d.Next != "" {
		fmt.Fprintf(&b, "\n  next      %s", d.Next)
	}
	return b.String() + "\n"
}
