package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// What applications' audit logs show against an agent is answered by the approvers of its
// next certification, who sign over it. A finding may come while nothing is certified that
// could lapse, or while people are already asked: then they have not read of it, and what
// they sign does not become live.
//
// Order: a finding's record has the object kindAgainst, by agent; the record that a
// certification is live takes it away. Both are written under tenant.answers, so no finding
// falls between the last signature and what comes of it.
const kindAgainst = "audit.against"

// against is what was found since the last answer, at one connector.
type against struct {
	First string `json:"first"`
	Count int    `json:"count"`
}

func (a against) text() string {
	if a.Count == 1 {
		return a.First
	}
	return fmt.Sprintf("%d findings, and the first: %s", a.Count, a.First)
}

// against is what this reading found, by agent.
func (r *auditReading) against() map[string]against {
	out := map[string]against{}
	for _, f := range r.findings {
		if f.Kind == AuditMissing {
			continue
		}
		for _, agent := range f.Agents {
			x := out[agent]
			if x.Count++; x.Count == 1 {
				x.First = f.text(r.name) + "; found " + f.At.Format(time.RFC3339Nano)
			}
			out[agent] = x
		}
	}
	return out
}

func putAgainst(tx record.Tx, connector string, found map[string]against) error {
	for agent, more := range found {
		all, err := getAgainst(tx, agent)
		if err != nil {
			return err
		}
		if x, ok := all[connector]; ok {
			more = against{x.First, x.Count + more.Count}
		}
		all[connector] = more
		if err := tx.Put(kindAgainst, agent, all); err != nil {
			return err
		}
	}
	return nil
}

func getAgainst(tx record.Tx, agent string) (map[string]against, error) {
	all := map[string]against{}
	if err := tx.Get(kindAgainst, agent, &all); err != nil && !errors.Is(err, record.ErrNotFound) {
		return nil, err
	}
	return all, nil
}

// foundAgainst are the details of a question that say what was found against an agent.
func (t *tenant) foundAgainst(ctx context.Context, agent string) (map[string]string, error) {
	out := map[string]string{}
	err := t.log.View(ctx, func(tx record.Tx) error {
		all, err := getAgainst(tx, agent)
		for connector, x := range all {
			out["found."+connector] = x.text()
		}
		return err
	})
	return out, err
}

// answered refuses a signature under a question that does not say what was found since it
// was asked. The caller holds tenant.answers.
func (t *tenant) answered(ctx context.Context, st approval.Statement) error {
	found, err := t.foundAgainst(ctx, st.Agent)
	for k, why := range found {
		if st.Details[k] != why {
			return problem(Refused, "found_since", "since this was asked: "+why, "certify the agent again: sallyport certify "+st.Agent)
		}
	}
	return err
}
