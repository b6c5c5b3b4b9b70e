// Package identity gives agents an identity of their own: one SPIFFE trust
// domain per tenant, X.509-SVIDs and JWT-SVIDs that live for minutes, over the
// standard Workload API, and the documents with which others verify them
// (SPIFFE bundle endpoint, OIDC discovery, JWKS). It is the only importer of
// go-spiffe. It also exchanges tokens of running tasks (RFC 8693), believes other
// trust domains and issuers as far as the tenant declares them, and can leave its
// keys to a signer.
//
// Invariants:
//   - No record, no SVID: an SVID leaves this package only after its
//     identity.issued record is durable.
//   - An SVID, but for that of our own bundle endpoint, names a running task: the caller was launched for that task (or
//     attested otherwise), and Authority said so at this issue, not before.
//   - After Revoke returned, nothing more is issued for the task and its
//     streams end.
//   - A token says at most what the one says that it was exchanged for, and ends
//     with it and with the task.
//   - Other trust domains and issuers are verified by their own keys, and only
//     for their own names.
//   - Only ES256 and P-256, no SVID longer than MaxTTL, one issuer per trust
//     domain, name-constrained to it.
//
// Order of writes of an issue: (1) the SVID is signed in memory, (2) the
// record identity.issued is appended, (3) revocation is asked again, (4) the
// SVID is handed out. A crash after 2 leaves a record of an SVID that nobody
// holds; the other order could leave an SVID that nobody knows of.
//
// Not trusted: the caller's word for who it is (the kernel is asked), the pid
// alone (pids are reused: a pidfd is held), tokens and certificates shown to
// the verifiers, the page, the harness. Trusted: the kernel, the store's
// integrity for public parts, and the Sealer for private keys. A thief of the
// store without the sealing key holds no signing key.
//
// Record bodies written here: identity.authority (authorityBody),
// identity.attested (attestedBody), identity.issued (issuedBody),
// identity.refused (refusedBody), identity.federated (federatedBody),
// identity.revoked (revokedBody).
package identity

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Lifetimes. MaxTTL is the longest life of an SVID that a Config may ask for
// and that the verifiers here accept.
const (
	DefaultTTL = 5 * time.Minute
	MaxTTL     = 10 * time.Minute
)

// skew is how far an SVID is backdated, and how far another clock may be off.
const skew = 10 * time.Second

// Workload is who an attested caller is.
type Workload struct {
	Tenant string
	Agent  string
	Task   string
	// Selectors say how it was attested, e.g. "launch:netns:4026532001". They
	// are written into the record of every issue.
	Selectors []string
	// SPIFFEID is how SPIRE knows the agent, where it issues the SVIDs.
	SPIFFEID string
	// Chain are the tasks above the task, as Authority said at this issue.
	Chain []string
}

// Authority says whether a task may act now: its epoch, its task state, its
// certification. It is asked on every issue. Any error means no. It also says
// which tasks the task is a part of, nearest first, for the record.
type Authority interface {
	Live(ctx context.Context, tenant, task string) (chain []string, err error)
}

// Refusal is a denial with a stable code. Its text is fit for the caller: it
// carries no cause from inside.
type Refusal struct {
	Code   string // e.g. not_launched, task_ended, bad_audience
	Reason string
}

func (r *Refusal) Error() string { return "identity: " + r.Code + ": " + r.Reason }

func refuse(code, reason string) error { return &Refusal{code, reason} }

// ErrUnavailable says that the step could not be recorded or a key could not
// be read. Nothing was issued; the caller may try again.
var ErrUnavailable = errors.New("identity is not available")

// Subject is what a verified SVID says.
type Subject struct {
	ID      string // spiffe://<trust domain>/agent/<agent>/task/<task>
	Agent   string
	Task    string
	Expires time.Time
}

// TrustDomain checks the name of a trust domain: lower-case letters, digits,
// hyphens and dots as in a DNS name of at most 255 bytes (SPIFFE-ID section
// 2.1 allows more; a name constraint does not), with a letter, so that it
// cannot be read as an address.
func TrustDomain(name string) (string, error) {
	if len(name) > 255 {
		return "", errors.New("trust domain is longer than 255 bytes")
	}
	if strings.Contains(name, "/") || strings.Contains(name, ":") {
		return "", fmt.Errorf("trust domain %q: want a name, not an identifier", name)
	}
	td, err := spiffeid.TrustDomainFromString(name)
	if err != nil {
		return "", fmt.Errorf("trust domain: %w", err)
	}
	letter := false
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || strings.Contains(label, "_") {
			return "", fmt.Errorf("trust domain %q: bad label", name)
		}
		letter = strings.ContainsAny(label, "abcdefghijklmnopqrstuvwxyz") // of the last label
	}
	if !letter {
		return "", fmt.Errorf("trust domain %q: reads as an address", name)
	}
	return td.Name(), nil
}

// workloadID makes the SPIFFE ID. Agent and task must be path segments
// (SPIFFE-ID section 2.2).
func workloadID(td spiffeid.TrustDomain, w Workload) (spiffeid.ID, error) {
	if w.Agent == "" || w.Task == "" {
		return spiffeid.ID{}, refuse("no_subject", "the workload has no agent or no task")
	}
	id, err := spiffeid.FromSegments(td, "agent", w.Agent, "task", w.Task)
	if err != nil || len(id.String()) > 2048 {
		return spiffeid.ID{}, refuse("bad_subject", "agent or task cannot be part of a SPIFFE ID")
	}
	return id, nil
}

// elsewhereID is the SPIFFE ID of a workload elsewhere in a task. It is below the
// task's own, and no verifier here takes it for the task.
func elsewhereID(td spiffeid.TrustDomain, w Workload, name string) (spiffeid.ID, error) {
	if w.Agent == "" || w.Task == "" || name == "" {
		return spiffeid.ID{}, refuse("no_svid", "the workload is declared to get tokens, and no SVIDs")
	}
	id, err := spiffeid.FromSegments(td, "agent", w.Agent, "task", w.Task, "workload", name)
	if err != nil || len(id.String()) > 2048 {
		return spiffeid.ID{}, refuse("bad_subject", "agent, task or workload cannot be part of a SPIFFE ID")
	}
	return id, nil
}

// parseAny is parseID that also takes the ID of a workload elsewhere.
func parseAny(td spiffeid.TrustDomain, s string) (Subject, error) {
	sub, err := parseID(td, s)
	n := strings.LastIndex(s, "/workload/")
	if err == nil || n < 0 {
		return sub, err
	}
	if sub, err = parseID(td, s[:n]); err != nil {
		return Subject{}, err
	}
	if id, err := spiffeid.FromString(s); err != nil || strings.Count(id.Path(), "/") != 6 {
		return Subject{}, refuse("bad_subject", "the subject does not name a workload of an agent's task")
	}
	sub.ID = s
	return sub, nil
}

// parseID is the reverse of workloadID: any other shape is refused.
func parseID(td spiffeid.TrustDomain, s string) (Subject, error) {
	id, err := spiffeid.FromString(s)
	if err != nil {
		return Subject{}, refuse("bad_subject", "the subject is not a SPIFFE ID")
	}
	if !id.MemberOf(td) {
		return Subject{}, refuse("wrong_trust_domain", "the subject belongs to another trust domain")
	}
	seg := strings.Split(strings.TrimPrefix(id.Path(), "/"), "/")
	if len(seg) != 4 || seg[0] != "agent" || seg[2] != "task" {
		return Subject{}, refuse("bad_subject", "the subject does not name an agent's task")
	}
	return Subject{ID: s, Agent: seg[1], Task: seg[3]}, nil
}
