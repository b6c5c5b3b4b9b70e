package api

import (
	"net/http"

	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// Approval is an approval with what is signed.
type Approval struct {
	Approval approval.Approval `json:"approval"`
	Bytes    []byte            `json:"bytes"` // canonical bytes of the statement, base64
	Text     string            `json:"text"`  // the same, for people
	// Passkeys are what to ask of a browser that the caller signs with, one for
	// each relying party of their passkeys. A page that shows anything but Text
	// shows something else than is signed.
	Passkeys []PasskeyOptions `json:"passkeys,omitempty"`
	// Denial is how an enforcement point refers to a held action that waits.
	Denial *Denial `json:"denial,omitempty"`
}

// PasskeyOptions is PublicKeyCredentialRequestOptionsJSON (WebAuthn level 3,
// section 5.1.9).
type PasskeyOptions struct {
	Challenge        string       `json:"challenge"`
	RPID             string       `json:"rpId"`
	AllowCredentials []Credential `json:"allowCredentials"`
	UserVerification string       `json:"userVerification"` // required
}

// Credential is PublicKeyCredentialDescriptorJSON.
type Credential struct {
	ID   string `json:"id"`
	Type string `json:"type"` // public-key
}

// ApproveRequest is the body of POST approvals/ID/approve. It has one of
// Signature and Assertion.
type ApproveRequest struct {
	Person    string `json:"person"`
	Signature string `json:"signature,omitempty"` // armored SSHSIG over Approval.Bytes
	// Assertion is what PublicKeyCredential.toJSON() gave for one of Passkeys.
	Assertion canon.Value `json:"assertion,omitempty"`
}

// RejectRequest is the body of POST approvals/ID/reject.
type RejectRequest struct {
	Reason string `json:"reason"`
}

func (a *api) approvalRoutes(mux *http.ServeMux) {
	a.handle(mux, "GET "+v1+"approvals", a.approvals, "state")
	a.handle(mux, "GET "+v1+"approvals/quality", func(c *call) (any, error) { return a.s.ApprovalQuality(c.Context(), c.tenant) })
	a.handle(mux, "GET "+v1+"approvals/{id}", a.approval)
	a.handle(mux, "POST "+v1+"approvals/{id}/approve", a.approve)
	a.handle(mux, "POST "+v1+"approvals/{id}/reject", a.reject)
	a.accessRoutes(mux)
}

func (a *api) approvals(c *call) (any, error) {
	state := approval.State(c.URL.Query().Get("state"))
	switch state {
	case "":
		state = approval.Pending
	case approval.Pending, approval.Granted, approval.Used, approval.Rejected, approval.Expired:
	default:
		return nil, invalid("invalid_state", "there is no such state", "use pending, granted, used, rejected or expired")
	}
	return list(a.s.Approvals(c.Context(), c.tenant, state))
}

func (a *api) approval(c *call) (any, error) {
	x, err := a.s.Approval(c.Context(), c.tenant, c.PathValue("id"))
	if err != nil {
		return nil, err
	}
	out := Approval{Approval: x, Text: approval.Render(x.Statement)}
	if out.Bytes, err = x.Statement.Bytes(); err != nil {
		return nil, err
	}
	if x.State == approval.Pending {
		if out.Passkeys, err = a.passkeys(c, x.Statement); err != nil {
			return nil, err
		}
	}
	if x.Hold {
		out.Denial, err = a.bindable(c, x)
	}
	return out, err
}

func (a *api) passkeys(c *call, s approval.Statement) (out []PasskeyOptions, err error) {
	keys, err := a.s.Passkeys(c.tenant, c.caller)
	if err != nil {
		return nil, err
	}
	challenge, err := s.Challenge()
	if err != nil {
		return nil, err
	}
	at := map[string]int{}
	for _, k := range keys {
		i, ok := at[k.RPID]
		if !ok {
			i, at[k.RPID] = len(out), len(out)
			out = append(out, PasskeyOptions{Challenge: challenge, RPID: k.RPID, UserVerification: "required"})
		}
		out[i].AllowCredentials = append(out[i].AllowCredentials, Credential{k.ID, "public-key"})
	}
	return out, nil
}

func (a *api) approve(c *call) (any, error) {
	var in ApproveRequest
	if err := c.read(maxRequest, &in); err != nil {
		return nil, err
	}
	if (in.Signature == "") == (len(in.Assertion) == 0) {
		return nil, invalid("invalid_body", "want a signature or an assertion, and not both", "send one of them")
	}
	if in.Person == "" {
		in.Person = c.caller.Person
	}
	signature := []byte(in.Signature)
	if len(in.Assertion) > 0 {
		signature = in.Assertion
	}
	return a.s.Approve(detached(c), c.tenant, c.PathValue("id"), in.Person, signature)
}

func (a *api) reject(c *call) (any, error) {
	var in RejectRequest
	if err := c.read(maxRequest, &in); err != nil {
		return nil, err
	}
	return a.s.Reject(detached(c), c.tenant, c.caller, c.PathValue("id"), in.Reason)
}
