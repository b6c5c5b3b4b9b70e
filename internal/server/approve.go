package server

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// Approvals lists what waits for people.
func (s *Server) Approvals(ctx context.Context, tenantName string, state approval.State) ([]approval.Approval, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	out := []approval.Approval{}
	err = t.approvals.List(ctx, state, func(a approval.Approval) error { out = append(out, a); return nil })
	return out, err
}

// Approval returns one.
func (s *Server) Approval(ctx context.Context, tenantName, id string) (approval.Approval, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return approval.Approval{}, err
	}
	a, err := t.approvals.Get(ctx, id)
	return a, unknownApproval(err)
}

// unknownApproval turns the engine's refusal to find an approval into a problem.
func unknownApproval(err error) error {
	var r *approval.Refusal
	if errors.As(err, &r) {
		return problem(NotFound, "no_such_approval", r.Reason, "see: sallyport approvals")
	}
	return err
}

// Approve takes a person's signature, by an SSH key or a passkey (see
// approval.Engine.Grant). What a complete approval does depends on
// its kind: a held action is released by the gate that waits for it; a
// capability or a boundary becomes approved, and a certification live, in the
// same transaction.
func (s *Server) Approve(ctx context.Context, tenantName, id, person string, signature []byte) (approval.Approval, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return approval.Approval{}, err
	}
	a, err := t.approvals.Get(ctx, id)
	if err != nil {
		return a, unknownApproval(err)
	}
	var release func(record.Tx, approval.Statement) error
	switch a.Statement.Kind {
	case approval.Resource:
		return t.approveProposal(ctx, id, person, signature)
	case approval.Action, approval.Certification:
		// Used later: by the gate, or by certify.Issue below.
	default:
		release = func(tx record.Tx, st approval.Statement) error {
			return tx.Put(kindApproved, string(st.Kind)+"/"+st.Subject,
				approved{Digest: st.Digest, Approval: st.Nonce, At: time.Now().UTC()})
		}
	}
	if a.Statement.Kind == approval.Certification {
		t.answers.Lock()
		defer t.answers.Unlock()
		if err := t.answered(ctx, a.Statement); err != nil {
			return a, err
		}
	}
	out, err := t.grantNow(ctx, a.Statement, person, signature, release)
	if err != nil {
		return out, err
	}
	if out.State == approval.Granted && out.Statement.Kind == approval.Certification {
		err = t.issue(ctx, out.Statement)
	}
	return out, err
}

// grantNow takes a signature for what is declared: nothing of that changes meanwhile. Who
// answers for an agent, or wrote what its boundary is made of, may be another than when
// the question was asked, and does not answer it.
func (t *tenant) grantNow(ctx context.Context, st approval.Statement, person string, signature []byte, release func(record.Tx, approval.Statement) error) (out approval.Approval, err error) {
	if st.Kind != approval.Action {
		t.mu.RLock()
		defer t.mu.RUnlock()
	}
	if st.Kind == approval.Boundary || st.Kind == approval.Certification {
		if a := t.world.agents[st.Agent]; a != nil && slices.Contains(t.world.authors(a), person) {
			return out, problem(Refused, "excluded", person+" answers for agent "+a.name+", or wrote a part of its boundary", "have somebody approve who does not")
		}
	}
	return t.grant(ctx, st.Nonce, person, signature, release)
}

func (t *tenant) grant(ctx context.Context, id, person string, signature []byte, release func(record.Tx, approval.Statement) error) (approval.Approval, error) {
	out, err := t.approvals.Grant(ctx, id, person, signature, release)
	var r *approval.Refusal
	if errors.As(err, &r) {
		err = problem(Refused, r.Code, r.Reason, "see who may: sallyport approvals "+id)
	}
	return out, err
}

// issue makes an approved certification live. A crash between grant and issue
// leaves a granted approval; the next start issues it.
func (t *tenant) issue(ctx context.Context, st approval.Statement) error {
	resource, err := t.issuer.AgentID(st.Agent)
	if err != nil {
		return err
	}
	by := certify.Verifier{ID: t.issuer.BoundaryID(), Resource: resource}
	if a := t.current().agents[st.Agent]; a != nil {
		by.Tier = a.tier
	}
	c, err := t.certs.Get(ctx, st.Subject)
	if err != nil {
		return err
	}
	// Not with the approver: memory has what the record has.
	c, err = t.certs.Issue(context.WithoutCancel(ctx), st.Subject, st.Nonce, by, func(tx record.Tx) error {
		if err := issuable(tx, c); err != nil {
			return err
		}
		if _, err := t.approvals.Consume(tx, st.Nonce, st.Digest); err != nil {
			return err
		}
		return tx.Delete(kindAgainst, st.Agent) // they have read of it
	})
	if err == nil {
		t.replaced(c.Agent, c.ID)
	}
	return err
}

// askFor is the question whether the agent's boundary is approved.
func (a *agent) askFor() approval.Statement {
	st := approval.Statement{Subject: a.name, Agent: a.name, Digest: a.declared.Digest(), BoundaryDigest: a.declared.Digest(), Details: map[string]string{
		"tier": a.tier, "why-tier": a.tierWhy, "owner": a.owner, "deputy": a.deputy, "purpose": a.spec.Purpose}}
	for _, f := range a.declared.Facts {
		st.Details["fact."+f.Name] = f.Value + " (" + string(f.Grade) + ")"
	}
	return st
}

// isApproved reports whether people approved exactly this digest of a thing.
func (t *tenant) isApproved(ctx context.Context, id string, d action.Digest) (bool, error) {
	var a approved
	err := t.log.View(ctx, func(tx record.Tx) error { return tx.Get(kindApproved, id, &a) })
	if errors.Is(err, record.ErrNotFound) {
		return false, nil
	}
	return err == nil && a.Digest == d, err
}

// kindRejected holds the digest to which people said no last: object kind "rejected", id
// kind/name. It is not asked about again until somebody who may applies it again.
const kindRejected = "rejected"

// rejected reports whether people said no to exactly this digest of a thing.
func (t *tenant) rejected(ctx context.Context, id string, d action.Digest) (bool, error) {
	var no action.Digest
	err := t.log.View(ctx, func(tx record.Tx) error { return tx.Get(kindRejected, id, &no) })
	if errors.Is(err, record.ErrNotFound) {
		return false, nil
	}
	return err == nil && no == d, err
}

// Passkeys lists those of the person who asks; none if they are nobody here.
func (s *Server) Passkeys(tenantName string, c Caller) ([]resource.Passkey, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	person, _, err := t.identify(c)
	if err != nil {
		return nil, nil
	}
	return t.current().people[person].Passkeys, nil
}

// Asked returns the question of a held action to the person whose task it is.
func (s *Server) Asked(ctx context.Context, tenantName string, c Caller, id string) (approval.Approval, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return approval.Approval{}, err
	}
	person, _, err := t.identify(c)
	if err != nil {
		return approval.Approval{}, err
	}
	a, err := t.approvals.Get(ctx, id)
	if err != nil {
		return a, unknownApproval(err)
	}
	if !a.Hold || a.Requester != person {
		// Whose it is is nobody else's business.
		return approval.Approval{}, problem(NotFound, "no_such_approval", "no held action of yours is waiting under this name", "see: sallyport approvals")
	}
	return a, nil
}

// Bind signs what ties a held action to its question, for whoever submits it to
// path.
func (s *Server) Bind(ctx context.Context, tenantName, path string, a approval.Approval) (string, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return "", err
	}
	return t.issuer.SignBinding(ctx, t.binding(path, a))
}

// Bound returns nil if a token binds exactly this question to path.
func (s *Server) Bound(ctx context.Context, tenantName, path, token string, a approval.Approval) error {
	t, err := s.tenant(tenantName)
	if err != nil {
		return err
	}
	return t.issuer.VerifyBinding(ctx, token, t.binding(path, a))
}

func (t *tenant) binding(path string, a approval.Approval) identity.Binding {
	st := a.Statement
	return identity.Binding{Audience: t.srv.cfg.Issuer + "/t/" + t.name + path, Agent: st.Agent, Task: st.Task, Operation: st.Operation,
		Request: st.Digest, Evaluation: st.Nonce, Expires: st.Expires}
}

// ApprovalQuality says how people decide.
func (s *Server) ApprovalQuality(ctx context.Context, tenantName string) (approval.Quality, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return approval.Quality{}, err
	}
	return t.approvals.Quality(ctx)
}

// Reject closes an approval with no.
func (s *Server) Reject(ctx context.Context, tenantName string, c Caller, id, reason string) (approval.Approval, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return approval.Approval{}, err
	}
	person, _, err := t.identify(c)
	if err != nil {
		return approval.Approval{}, err
	}
	a, err := t.approvals.Reject(ctx, id, person, reason, func(tx record.Tx, st approval.Statement) error {
		switch st.Kind {
		case approval.Resource:
			return endProposal(tx, st)
		case approval.Capability, approval.Boundary:
			return tx.Put(kindRejected, string(st.Kind)+"/"+st.Subject, st.Digest)
		}
		return nil
	})
	var r *approval.Refusal
	if errors.As(err, &r) {
		return a, problem(Refused, r.Code, r.Reason, "see: sallyport approvals")
	}
	return a, err
}

// Certifications lists the history of an agent, or of all.
func (s *Server) Certifications(ctx context.Context, tenantName, agent string) ([]certify.Certification, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	return t.certs.History(ctx, agent)
}
