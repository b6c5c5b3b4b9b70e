package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/capability"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// holds asks the tenant's people about one task's actions.
type holds struct {
	engine   *approval.Engine
	task     task.Task
	instance *capability.Instance
	policy   action.Digest
	excluded []string // agent's owner and deputy; the requester is added by name
}

const defaultHold = 10 * time.Minute

// Open implements gate.Holds. What is signed is made here from the canonical
// action; nothing that a page or a model wrote describes it.
func (h holds) Open(ctx context.Context, a action.Action, d action.Decision) (gate.Hold, error) {
	valid, quorum := defaultHold, 1
	if spec := h.instance.Hold(a.Operation); spec != nil {
		valid, quorum = time.Duration(spec.ExpiresSeconds)*time.Second, spec.Count
	}
	s := approval.Statement{Kind: approval.Action, Subject: a.ID, Digest: a.Digest, Task: a.Task, Agent: a.Agent,
		Operation: a.Operation, Params: a.Params, BoundaryDigest: h.task.BoundaryDigest, PolicyDigest: h.policy,
		Role: d.Approvers, Quorum: quorum, Excluded: h.excluded,
		Details: map[string]string{
			"application": a.App, "effect": string(a.Effect), "surface": string(a.Surface), "stage": string(h.task.Stage),
			"capability": h.task.Capability, "requester": h.task.Requester, "why": d.Reason,
		}}
	if r := a.Request; r != nil {
		s.RequestDigest = a.Digest
		s.Details["request"] = r.Method + " " + r.Origin + r.Path
		s.Details["body"] = strconv.FormatInt(r.BodySize, 10) + " bytes " + r.BodyType
		s.Details["explained-by"] = a.Explained
		if a.Explained == "" {
			s.Details["explained-by"] = "no permitted input explains this request"
		}
	}
	for k, v := range h.task.Params {
		s.Details["task."+k] = v
	}
	out, err := h.engine.Request(ctx, approval.Draft{Statement: s, Valid: valid, Requester: h.task.Requester, Hold: true})
	if err != nil {
		return nil, err
	}
	return &hold{engine: h.engine, id: out.Nonce, digest: a.Digest}, nil
}

type hold struct {
	engine *approval.Engine
	id     string
	digest action.Digest
}

func (h *hold) ID() string { return h.id }

func (h *hold) Wait(ctx context.Context) error {
	a, err := h.engine.Wait(ctx, h.id)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return errors.New("nobody answered in time")
	case err != nil:
		return err
	case a.State == approval.Granted:
		return nil
	case a.State == approval.Rejected:
		return fmt.Errorf("rejected by %s", a.By)
	}
	return fmt.Errorf("the approval is %s", a.State)
}

func (h *hold) Use(tx record.Tx) error {
	_, err := h.engine.Consume(tx, h.id, h.digest)
	return err
}
