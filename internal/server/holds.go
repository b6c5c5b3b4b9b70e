package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/capability"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// holds asks the tenant's people about one task's actions.
type holds struct {
	engine   *approval.Engine
	task     task.Task
	instance *capability.Instance
	policy   action.Digest
	excluded []string // who answers for an agent of the task or above it; the requester is added by name
	// people is what the scenario of a trial has them do: then everybody is excluded,
	// so a suite can keep a question from being granted, and never grant one.
	people    resource.People
	everybody []string
}

// awayFor is how long a question stays open that a suite leaves unanswered.
const awayFor = 2 * time.Second

const defaultHold = 10 * time.Minute

// Open implements gate.Holds. What is signed is made here from the canonical
// action; nothing that a page or a model wrote describes it. The same request,
// sent again after its first attempt waited no more, takes up the same question.
func (h holds) Open(ctx context.Context, a action.Action, d action.Decision) (gate.Hold, error) {
	valid, quorum := defaultHold, 1
	if spec := h.instance.Hold(a.Operation); spec != nil {
		valid, quorum = time.Duration(spec.ExpiresSeconds)*time.Second, spec.Count
	}
	s := approval.Statement{Kind: approval.Action, Subject: a.ID, Digest: a.Digest, Task: a.Task, Agent: a.Agent,
		Operation: a.Operation, Params: a.Params, BoundaryDigest: h.task.BoundaryDigest, PolicyDigest: h.policy,
		Role: d.Approvers, Quorum: quorum, Excluded: h.excluded, Details: h.details(a, d), Quoted: quoted(a.Element)}
	if person, ok := strings.CutPrefix(a.Actor, "person:"); ok { // who has taken the session over
		s.Excluded = append(slices.Clone(h.excluded), person)
	}
	if h.people != "" {
		s.Excluded, valid = h.everybody, min(valid, awayFor)
	}
	// The picture that the agent acted on is named by its commitment, which is the
	// same question's when the agent looks once more.
	s.Params = maps.Clone(a.Params)
	delete(s.Params, "seen")
	if a.Request != nil {
		s.RequestDigest = a.Digest
	}
	for _, e := range a.Evidence {
		if e.Name == action.Screenshot { // the last is the one that the agent was given last
			s.Screenshot = e.Commitment
		}
	}
	out, err := h.engine.Request(ctx, approval.Draft{Statement: s, Valid: valid, Requester: h.task.Requester, Hold: true, Adopt: true,
		Planned: h.task.Suite+h.task.Canary != "", Fill: inForce})
	if err != nil {
		return nil, err
	}
	if h.people == resource.Reject {
		err = h.engine.Withdraw(ctx, "rejected, as the scenario says", func(x approval.Approval) bool { return x.ID() == out.Nonce })
	}
	return &hold{engine: h.engine, id: out.Nonce, digest: a.Digest}, err
}

// details are what Sallyport itself says of an action.
func (h holds) details(a action.Action, d action.Decision) map[string]string {
	out := map[string]string{
		"application": a.App, "effect": string(a.Effect), "surface": string(a.Surface), "stage": string(h.task.Stage),
		"capability": h.task.Capability, "requester": h.task.Requester, "why": d.Reason,
	}
	if r := a.Request; r != nil {
		out["request"] = r.Method + " " + r.Origin + r.Path
		if r.Query != "" {
			out["request"] += "?" + r.Query
		}
		out["body"] = strconv.FormatInt(r.BodySize, 10) + " bytes " + r.BodyType
		out["explained-by"] = a.Explained
		if a.Explained == "" {
			out["explained-by"] = "no permitted input explains this request"
		}
	}
	if e := a.Element; e != nil {
		maps.Copy(out, map[string]string{"element": e.Tag, "element-frame": e.FrameOrigin, "element-page": e.TopOrigin, "element-frames": e.Frames, "element-doubts": e.Doubts,
			"element-link": e.Link, "element-form": strings.TrimSpace(e.FormMethod + " " + e.FormAction)})
		maps.DeleteFunc(out, func(k, v string) bool { return strings.HasPrefix(k, "element") && v == "" })
	}
	if a.Actor != "" {
		out["done-by"] = a.Actor
	}
	if h.task.Canary != "" {
		out["canary"] = "a rehearsal of " + h.task.Canary + ": nothing of production is reached"
	}
	for k, v := range h.task.Params {
		out["task."+k] = v
	}
	return out
}

// quoted is what the author of the page says of an element.
func quoted(e *action.Element) map[string]string {
	if e == nil {
		return nil
	}
	q := map[string]string{"element-name": e.Name, "element-role": e.Role, "element-text": e.Text, "element-window": e.Window}
	maps.DeleteFunc(q, func(_, v string) bool { return v == "" })
	return q
}

// inForce completes the statement of a held action with what is declared now. A
// task that began under another policy is not asked about.
func inForce(tx record.Tx, s *approval.Statement) error {
	all, err := declared(tx)
	if err != nil {
		return err
	}
	w, err := buildWorld(all)
	if err != nil {
		return err
	}
	a := w.agents[s.Agent]
	if a == nil || a.guardrails.Digest() != s.PolicyDigest {
		return changed
	}
	if s.BoundaryDigest == "" { // in the sandbox there is no certified one
		s.BoundaryDigest = a.declared.Digest()
	}
	s.ResourcesDigest, err = resourcesOf(all, s.Agent)
	return err
}

var changed = &approval.Refusal{Code: "changed", Reason: "the agent, its policy or something else of its boundary was changed"}

// Current implements approval.Currency: after a change of the agent, or of a
// connector, capability, policy set or suite of it, nothing is released that was
// asked about before. The other kinds name the digest of what they approve, and
// it is compared where they are used.
func (directory) Current(tx record.Tx, s approval.Statement) error {
	if s.Kind != approval.Action {
		return nil
	}
	all, err := declared(tx)
	if err != nil {
		return err
	}
	now, err := resourcesOf(all, s.Agent)
	if err != nil {
		return err
	}
	if now == "" || now != s.ResourcesDigest {
		return changed
	}
	return nil
}

func declared(tx record.Tx) (map[string]stored, error) {
	all := map[string]stored{}
	err := tx.List(kindResource, func(id string, raw []byte) error {
		var s stored
		err := json.Unmarshal(raw, &s)
		all[id] = s
		return err
	})
	return all, err
}

// resourcesOf is the digest over the resources that an agent's boundary is
// declared by, each by its own digest; "" if there is no such agent.
func resourcesOf(all map[string]stored, agent string) (action.Digest, error) {
	self := resource.KindAgent + "/" + agent
	if all[self].Canonical == nil {
		return "", nil
	}
	r, err := resource.FromCanonical(all[self].Canonical)
	if err != nil {
		return "", err
	}
	spec, ok := r.Spec.(*resource.AgentSpec)
	if !ok {
		return "", fmt.Errorf("%s is no agent", self)
	}
	of := map[string]action.Digest{self: all[self].Digest}
	for kind, names := range map[string][]string{resource.KindConnector: spec.Connectors, resource.KindCapability: spec.Capabilities,
		resource.KindPolicySet: spec.PolicySets, resource.KindSuite: spec.Suites} {
		for _, n := range names {
			of[kind+"/"+n] = all[kind+"/"+n].Digest
		}
	}
	return canon.DigestOf(of)
}

type hold struct {
	engine *approval.Engine
	id     string
	digest action.Digest
}

func (h *hold) ID() string { return h.id }

// Wait implements gate.Hold. When it returns an error, the question stays open
// for whoever sends the same request again.
func (h *hold) Wait(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			h.engine.Abandon(h.id)
		}
	}()
	a, err := h.engine.Wait(ctx, h.id)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("nobody answered in time; the question %s stays open: send the same request again", h.id)
	case err != nil:
		return err
	case a.State == approval.Granted:
		return nil
	case a.State == approval.Rejected && a.By == "":
		return fmt.Errorf("the question was withdrawn: %s", a.Reason)
	case a.State == approval.Rejected:
		return fmt.Errorf("rejected by %s", a.By)
	}
	return fmt.Errorf("the approval is %s", a.State)
}

// Use implements gate.Hold.
func (h *hold) Use(tx record.Tx) error {
	_, err := h.engine.Consume(tx, h.id, h.digest)
	return err
}
