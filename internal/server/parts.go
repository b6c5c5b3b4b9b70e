package server

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/sallyport-dev/sallyport/internal/capability"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// maxDepth bounds how many tasks can be above one.
const maxDepth = 4

// part makes x a part of a running task, for another agent or the same: for the
// same requester and stage, and in nothing wider than the task above it. Time and
// budgets of that one go on counting for both, and it reaches the same copy of a
// suite's fixture, where people and tools are those of the scenario.
func (t *tenant) part(ctx context.Context, w *world, x *task.Task, in *capability.Instance, parent string) error {
	p, err := t.tasks.Get(ctx, parent)
	if err != nil || p.State != task.Active {
		return problem(Refused, "parent_not_running", "task "+strconv.Quote(parent)+" does not run", "open it without a parent, or under a running task")
	}
	spec := w.capabilities[p.Capability]
	switch {
	case p.Requester != x.Requester:
		return problem(Refused, "not_your_task", "the task above is of "+p.Requester, "let "+p.Requester+" open it")
	case p.Suite != "" && x.OpenedBy == "": // it would do the work of what is tried
		return problem(Refused, "of_a_trial", "the task above is a trial of a certification", "let the agent do it")
	case p.Stage != x.Stage:
		return problem(Refused, "other_stage", fmt.Sprintf("the task above is in stage %s", p.Stage), "open it for that stage")
	case len(p.Chain)+1 > maxDepth:
		return problem(Refused, "too_deep", fmt.Sprintf("%d tasks are above it already", maxDepth), "open it under one of them")
	case spec == nil || w.resources[resource.KindCapability+"/"+p.Capability].Digest != p.CapabilityDigest:
		return problem(Refused, "changed", "the capability of the task above is not the one under which it was opened", "end it and open a new one")
	}
	above, err := spec.Instantiate(p.Capability, p.Params)
	if err != nil {
		return err
	}
	if err := in.Within(above); err != nil {
		return problem(Refused, "wider_than_parent", err.Error(), "ask for less: a part of a task cannot do what the task cannot")
	}
	left := int64(time.Until(p.Started.Add(time.Duration(p.Seconds) * time.Second)).Seconds())
	if left < 1 {
		return problem(Refused, "parent_not_running", "the time of the task above is spent", "open a new one")
	}
	x.Seconds, x.Routes, x.Told, x.Suite, x.Canary = min(x.Seconds, left), p.Routes, p.Told, p.Suite, p.Canary
	x.Chain = append([]string{p.ID}, slices.Clone(p.Chain)...)
	return nil
}

// answerable are the owner and the deputy of the task's agent and of every agent
// above it. None of them approves what the task is held for: who gives work to
// another agent would approve their own.
func (t *tenant) answerable(ctx context.Context, w *world, x task.Task) (out []string, err error) {
	agents := []string{x.Agent}
	for _, id := range x.Chain {
		above, err := t.tasks.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		agents = append(agents, above.Agent)
	}
	for _, name := range agents {
		a := w.agents[name]
		if a == nil {
			return nil, fmt.Errorf("agent %s of task %s or above it is not declared", name, x.ID)
		}
		out = append(out, a.owner, a.deputy)
	}
	return out, nil
}
