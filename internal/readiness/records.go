package readiness

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// take keeps what one record says. Types that say nothing about readiness are
// passed over.
func (h *history) take(e record.Entry) error {
	switch e.Type {
	case "tenant.created", "resource.applied":
		return h.takeApplied(e)
	case "secret.stored":
		s := secret{ref: at(e), person: strings.TrimPrefix(e.Actor, "person:")}
		var b struct {
			Name string `json:"name"`
		}
		err := json.Unmarshal(e.Body, &b)
		s.name = b.Name
		h.secrets = append(h.secrets, s)
		return err
	case "certification.key":
		var b struct {
			Public []byte `json:"public"`
		}
		err := json.Unmarshal(e.Body, &b)
		h.certKeys = append(h.certKeys, certKey{at(e), b.Public})
		return err
	case "approval.granted", "hold.approved":
		g := granted{ref: at(e), actor: e.Actor}
		err := json.Unmarshal(e.Body, &g)
		// Capabilities are shared: their approvals name no agent.
		if g.Statement.Agent == "" || g.Statement.Agent == h.agent || e.Agent == h.agent {
			h.granted = append(h.granted, g)
		}
		return err
	}
	if strings.HasPrefix(e.Type, "audit.") { // of a connector, which agents share
		return h.takeAudit(e)
	}
	if e.Agent != h.agent {
		return nil
	}
	switch kind, _, _ := strings.Cut(e.Type, "."); kind {
	case "certification", "boundary":
		return h.takeCertification(e)
	case "task":
		return h.takeTask(e)
	case "identity":
		return h.takeIdentity(e)
	case "lease":
		return h.takeLease(e)
	case "action":
		return h.takeAction(e)
	case "behaviour", "canary":
		return h.takeBehaviour(e)
	}
	return nil
}

func (h *history) takeApplied(e record.Entry) error {
	var b struct {
		As        string `json:"as"`
		Resources []struct {
			Kind   string        `json:"kind"`
			Name   string        `json:"name"`
			Digest action.Digest `json:"digest"`
		} `json:"resources"`
	}
	if err := json.Unmarshal(e.Body, &b); err != nil {
		return err
	}
	author := strings.TrimPrefix(e.Actor, "person:")
	if e.Type == "tenant.created" {
		author = b.As
	}
	for _, r := range b.Resources {
		id := r.Kind + "/" + r.Name
		h.applied[id] = append(h.applied[id], applied{at(e), r.Digest, author})
	}
	return nil
}

func (h *history) takeCertification(e record.Entry) error {
	switch e.Type {
	case "certification.suite":
		var r certify.SuiteRecord
		if err := json.Unmarshal(e.Body, &r); err != nil {
			return err
		}
		h.suites[r.Certification] = append(h.suites[r.Certification], r)
	case "certification.run", "certification.issued":
		c := certRun{ref: at(e)}
		if err := json.Unmarshal(e.Body, &c.Certification); err != nil {
			return err
		}
		if e.Type == "certification.run" {
			for _, r := range h.suites[c.ID] {
				c.With(r)
			}
			h.runs[c.ID] = c
			return nil
		}
		h.issued[c.ID] = c
		h.issues = append(h.issues, c)
	case "certification.lapsed":
		l := lapse{ref: at(e)}
		if err := json.Unmarshal(e.Body, &l); err != nil {
			return err
		}
		h.lapsed[l.ID] = l
	case "boundary.drift":
		d := drift{ref: at(e), task: e.Task}
		if err := json.Unmarshal(e.Body, &d); err != nil {
			return err
		}
		h.drifts = append(h.drifts, d)
	}
	return nil
}

func (h *history) life(id string) *life {
	if h.lives[id] == nil {
		h.lives[id] = &life{Task: task.Task{ID: id}}
	}
	return h.lives[id]
}

func (h *history) takeTask(e record.Entry) error {
	if e.Type == "task.refused" {
		return nil // of a part that never was
	}
	var t task.Task
	if err := json.Unmarshal(e.Body, &t); err != nil {
		return err
	}
	if t.ID == "" || t.ID != e.Task {
		return fmt.Errorf("it names task %q and is about %q", e.Task, t.ID)
	}
	l := h.life(t.ID)
	l.Task = t
	switch e.Type {
	case "task.opened":
		l.opened = at(e)
	case "task.active":
		l.started = at(e)
	case "task.closing":
		l.closing, l.closingAt = true, at(e)
	case "task.closed", "task.revoked", "task.failed":
		l.over = at(e)
	default:
		return fmt.Errorf("its type is not known")
	}
	return nil
}

func (h *history) takeIdentity(e record.Entry) error {
	r := identityRecord{ref: at(e)}
	if err := json.Unmarshal(e.Body, &r); err != nil {
		return err
	}
	l := h.life(e.Task)
	switch e.Type {
	case "identity.attested":
		l.attested = append(l.attested, r)
	case "identity.issued":
		l.identities = append(l.identities, r)
	}
	return nil
}

func (h *history) takeLease(e record.Entry) error {
	var l lease.Lease
	if err := json.Unmarshal(e.Body, &l); err != nil {
		return err
	}
	if l.ID == "" || l.Task != e.Task {
		return fmt.Errorf("it names task %q and its lease is of %q", e.Task, l.Task)
	}
	x := h.leases[l.ID]
	if x == nil {
		x = &leaseLife{}
		h.leases[l.ID] = x
		h.order = append(h.order, l.ID)
		t := h.life(l.Task)
		t.leases = append(t.leases, l.ID)
	}
	x.Lease, x.last, x.typ = l, at(e), e.Type
	switch e.Type {
	case "lease.requested":
		x.requested = at(e)
	case "lease.issued":
		x.issued = at(e)
	case "lease.revoked":
		x.revoked = at(e)
	}
	return nil
}

func (h *history) takeAction(e record.Entry) error {
	switch e.Type {
	case "action.decided":
		d := decided{ref: at(e), task: e.Task}
		if err := json.Unmarshal(e.Body, &d.gateDecided); err != nil {
			return err
		}
		if d.Action.ID == "" || d.Action.Task != e.Task || d.Action.Agent != e.Agent {
			return fmt.Errorf("it names task %q, and its action is of %q", e.Task, d.Action.Task)
		}
		d.Action.Element, d.Action.Request, d.Action.Evidence = nil, nil, nil // not asked for; there may be many
		h.decisions[d.Action.ID] = len(h.decided)
		h.decided = append(h.decided, d)
	case "action.outcome":
		o := outcome{ref: at(e)}
		if err := json.Unmarshal(e.Body, &o); err != nil {
			return err
		}
		i, ok := h.decisions[o.Action]
		if !ok || h.decided[i].seq != o.Decided || !h.decided[i].allowed() {
			h.loose = append(h.loose, o)
		}
		h.outcomes[o.Action] = o
	}
	return nil
}
