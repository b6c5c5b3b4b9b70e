package api

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/server"
)

// accessPath is where the AuthZEN Access Request and Approval Profile (draft 1)
// is served. What the gate holds is a denial that can be requested; its question
// to the people is the access request. So a submission asks nobody anew: it finds
// the question, proves that it is about the very same request, and gets the
// task's handle. Nothing here lets anything pass: after the approval the agent
// sends the request again, and the gate decides again.
const accessPath = "/access/v1/requests"

// Denial is an AuthZEN evaluation that was denied and can be requested, with
// what was evaluated (sections 4 and 5 of the profile). It is bound twice:
// evaluation_id names the question, which holds the digest; binding_token is
// signed over both and short-lived, so that a denial cannot be made up or kept.
type Denial struct {
	Subject  Entity        `json:"subject"`
	Action   AccessAction  `json:"action"`
	Resource Entity        `json:"resource"`
	Decision bool          `json:"decision"` // false
	Context  DenialContext `json:"context"`
}

// Entity is an AuthZEN subject or resource.
type Entity struct {
	Type string `json:"type"`
	ID   string `json:"id"`
}

// AccessAction is an AuthZEN action.
type AccessAction struct {
	Name string `json:"name"`
}

// DenialContext is the decision context of a denial that can be requested.
type DenialContext struct {
	EvaluationID  string        `json:"evaluation_id"`
	EvaluatedAt   time.Time     `json:"evaluated_at"`
	Reason        string        `json:"reason"` // approval_required
	AccessRequest AccessRequest `json:"access_request"`
}

// AccessRequest says where and until when it can be requested.
type AccessRequest struct {
	Endpoint  string    `json:"endpoint"` // a path on the same socket
	ExpiresAt time.Time `json:"expires_at"`
	// BindingToken is a JWS (ES256) by the tenant's key for tokens; read the
	// denial again for a fresh one. A question that is answered has none.
	BindingToken string `json:"binding_token,omitempty"`
}

// AccessSubmission is the body of POST /access/v1/requests.
type AccessSubmission struct {
	Subject  Entity        `json:"subject"`
	Action   AccessAction  `json:"action"`
	Resource Entity        `json:"resource"`
	Denial   AccessBinding `json:"denial"`
}

// AccessBinding echoes the denial.
type AccessBinding struct {
	EvaluationID string    `json:"evaluation_id"`
	BindingToken string    `json:"binding_token"`
	EvaluatedAt  time.Time `json:"evaluated_at,omitzero"`
	ExpiresAt    time.Time `json:"expires_at"`
	Reason       string    `json:"reason,omitempty"`
}

// AccessTask is the answer to a submission and to a poll.
type AccessTask struct {
	Task   TaskHandle    `json:"task"`
	Result *AccessResult `json:"result,omitempty"` // when it is approved
}

// TaskHandle is where an access request stands.
type TaskHandle struct {
	ID string `json:"id"`
	// Status is pending, approved, denied, expired or cancelled: the question is
	// pending; granted or used; rejected by an approver; expired; withdrawn by
	// its requester or closed with the task.
	Status         string            `json:"status"`
	StatusEndpoint string            `json:"status_endpoint"`
	ExpiresAt      time.Time         `json:"expires_at"`
	Progress       Progress          `json:"progress"`
	Links          map[string]string `json:"links,omitempty"`
}

// Progress counts the people who have signed.
type Progress struct {
	Current int `json:"current_step"`
	Total   int `json:"total_steps"`
}

// AccessResult tells the enforcement point to ask again.
type AccessResult struct {
	Mode     string         `json:"mode"` // reevaluate
	Approval AccessApproval `json:"approval"`
}

// AccessApproval names an approval. It bears nothing: it is worth one release of
// the request that was signed, by the task that asked.
type AccessApproval struct {
	ID            string    `json:"id"`
	ApprovedAt    time.Time `json:"approved_at"`
	ApprovedUntil time.Time `json:"approved_until"` // when it is used, that moment
}

// accessProblem is RFC 9457 with the members of our own refusals.
type accessProblem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	*server.Problem
}

func (a *api) accessRoutes(mux *http.ServeMux) {
	a.handle(mux, "POST "+accessPath, a.access(a.submitAccess))
	a.handle(mux, "GET "+accessPath+"/{id}", a.access(func(c *call) (int, approval.Approval, error) {
		x, err := a.s.Approval(c.Context(), c.tenant, c.PathValue("id"))
		return http.StatusOK, x, err
	}))
	a.handle(mux, "POST "+accessPath+"/{id}/cancel", a.access(func(c *call) (int, approval.Approval, error) {
		if _, err := a.s.Asked(c.Context(), c.tenant, c.caller, c.PathValue("id")); err != nil {
			return 0, approval.Approval{}, err
		}
		x, err := a.s.Reject(detached(c), c.tenant, c.caller, c.PathValue("id"), "withdrawn by its requester")
		return http.StatusOK, x, err
	}))
}

// access answers in the profile's forms.
func (a *api) access(f func(*call) (int, approval.Approval, error)) func(*call) (any, error) {
	return func(c *call) (any, error) {
		code, x, err := f(c)
		if err == nil && !x.Hold {
			err = notFound("no_such_approval", "no held action is waiting under this name", "see: sallyport approvals")
		}
		if err != nil {
			a.refuseAccess(c, err)
			return written, nil
		}
		t := accessTask(x)
		if t.Task.Status == "pending" {
			c.w.Header().Set("Retry-After", "2")
		}
		if code != http.StatusOK {
			c.w.Header().Set("Location", t.Task.StatusEndpoint)
		}
		answer(c.w, code, t)
		return written, nil
	}
}

func (a *api) refuseAccess(c *call, err error) {
	p, code := a.problem(c.Context(), c.Method+" "+c.URL.Path, err)
	out := accessProblem{Type: "about:blank", Title: p.Reason, Status: code, Problem: p}
	const urn = "urn:openid:authzen:access-request:error:"
	switch p.Code {
	case "no_such_approval":
		out.Type = urn + "unknown_task"
	case "invalid_denial_binding":
		out.Type = urn + p.Code
	case "expired_denial":
		out.Type, out.Status = urn+p.Code, http.StatusGone
	case "not_pending":
		out.Type, out.Status = urn+"invalid_task_state", http.StatusConflict
	}
	answerAs(c.w, "application/problem+json", out.Status, out)
}

// submitAccess binds a submission to the question that a held action opened:
// subject, action and resource (the digest of the exact request) must be those
// of the signed statement. The same denial always gives the same task, with or
// without an Idempotency-Key.
func (a *api) submitAccess(c *call) (int, approval.Approval, error) {
	var in AccessSubmission
	if err := c.read(maxRequest, &in); err != nil {
		return 0, approval.Approval{}, err
	}
	x, err := a.s.Asked(c.Context(), c.tenant, c.caller, in.Denial.EvaluationID)
	if err != nil {
		var p *server.Problem
		if errors.As(err, &p) && p.Kind == server.NotFound {
			err = unbound()
		}
		return 0, x, err
	}
	d := denial(x)
	switch {
	case in.Subject != d.Subject || in.Action != d.Action || in.Resource != d.Resource || !in.Denial.ExpiresAt.Equal(d.Context.AccessRequest.ExpiresAt) ||
		!in.Denial.EvaluatedAt.IsZero() && !in.Denial.EvaluatedAt.Equal(d.Context.EvaluatedAt) || in.Denial.Reason != "" && in.Denial.Reason != d.Context.Reason:
		return 0, x, unbound()
	case a.s.Bound(c.Context(), c.tenant, accessPath, in.Denial.BindingToken, x) != nil:
		return 0, x, unbound()
	case x.State == approval.Expired || x.State == approval.Pending && !time.Now().Before(x.Statement.Expires):
		return 0, x, &server.Problem{Code: "expired_denial", Reason: "the question has expired", Next: "have the agent send its request again"}
	case x.State == approval.Pending:
		return http.StatusAccepted, x, nil
	}
	return http.StatusCreated, x, nil
}

// bindable is the denial with a fresh token.
func (a *api) bindable(c *call, x approval.Approval) (*Denial, error) {
	d := denial(x)
	if x.State != approval.Pending {
		return d, nil
	}
	var err error
	d.Context.AccessRequest.BindingToken, err = a.s.Bind(c.Context(), c.tenant, accessPath, x)
	return d, err
}

func unbound() error {
	return invalid("invalid_denial_binding", "this is not the request that was held", "echo the denial: GET /api/v1/approvals/ID")
}

func denial(x approval.Approval) *Denial {
	s := x.Statement
	return &Denial{Subject: Entity{"agent", s.Agent}, Action: AccessAction{s.Operation}, Resource: Entity{"request", string(s.Digest)},
		Context: DenialContext{EvaluationID: s.Nonce, EvaluatedAt: s.NotBefore, Reason: "approval_required",
			AccessRequest: AccessRequest{Endpoint: accessPath, ExpiresAt: s.Expires}}}
}

func accessTask(x approval.Approval) AccessTask {
	at := accessPath + "/" + x.ID()
	t := AccessTask{Task: TaskHandle{ID: x.ID(), StatusEndpoint: at, ExpiresAt: x.Statement.Expires,
		Progress: Progress{min(len(x.Signatures)+1, x.Statement.Quorum), x.Statement.Quorum}}}
	switch x.State {
	case approval.Pending:
		t.Task.Status, t.Task.Links = "pending", map[string]string{"cancel": at + "/cancel"}
	case approval.Granted, approval.Used:
		t.Task.Status = "approved"
		t.Result = &AccessResult{"reevaluate", AccessApproval{x.ID(), x.Closed, x.Statement.Expires}}
		if x.State == approval.Used {
			t.Result.Approval.ApprovedUntil = x.Closed
		}
	case approval.Rejected:
		t.Task.Status = "denied"
		if x.By == "" || strings.EqualFold(x.By, x.Requester) {
			t.Task.Status = "cancelled"
		}
	default:
		t.Task.Status = "expired"
	}
	return t
}
