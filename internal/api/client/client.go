// Package client talks to a running server over its Unix sockets. The command
// line uses it, and so may any program on this machine.
//
// Not trusted: the server's words about what is signed. Approve signs the bytes
// that the server sent, after they were read strictly; a caller shows what it
// reads in those bytes, not the server's text.
package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/notify"
	"github.com/sallyport-dev/sallyport/internal/readiness"
	"github.com/sallyport-dev/sallyport/internal/replay"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/internal/separation"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/internal/watch"
)

// Client calls one server as one person. Its methods may be used from several
// goroutines.
type Client struct {
	socket string
	tenant string
	person string
	http   *http.Client
}

// New makes a client of the server whose API socket is at path. tenant may be
// empty where there is one; person may be empty where this user is one.
func New(path, tenant, person string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err != nil {
			return nil, &Unreachable{Path: path, Err: err}
		}
		return c, nil
	}
	return &Client{socket: path, tenant: tenant, person: person,
		http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableCompression: true}}}
}

// As is the same client as another person.
func (c *Client) As(person string) *Client {
	d := *c
	d.person = person
	return &d
}

// Unreachable says that no server answers. The caller should say how to start
// one.
type Unreachable struct {
	Path string
	Err  error
}

func (u *Unreachable) Error() string { return "no server answers at " + u.Path }
func (u *Unreachable) Unwrap() error { return u.Err }

// Refusal is what a server answers when it does not do what was asked.
type Refusal struct {
	Status int // HTTP
	server.Problem
}

func (r *Refusal) Error() string { return r.Problem.Error() }

// Invalid reports whether the request itself was wrong, not its moment or its
// sender.
func (r *Refusal) Invalid() bool {
	return r.Status == http.StatusBadRequest || r.Status == http.StatusRequestEntityTooLarge
}

// maxAnswer bounds an answer that is not streamed.
const maxAnswer = 256 << 20

func (c *Client) send(ctx context.Context, method, path string, q url.Values, body io.Reader) (*http.Response, error) {
	if q == nil {
		q = url.Values{}
	}
	if c.tenant != "" {
		q.Set("tenant", c.tenant)
	}
	u := "http://sallyport/api/v1/" + path
	if len(q) > 0 {
		u += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, err
	}
	if c.person != "" {
		req.Header.Set(api.AsHeader, c.person)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var u *Unreachable
		if errors.As(err, &u) {
			return nil, u
		}
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	r := &Refusal{Status: resp.StatusCode}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil || json.Unmarshal(b, &r.Problem) != nil || r.Code == "" {
		r.Problem = server.Problem{Code: "unreadable_answer", Reason: "the server answered " + resp.Status + " and no reason"}
	}
	return nil, r
}

// call sends in, if not nil, as JSON and reads the answer into out.
func (c *Client) call(ctx context.Context, method, path string, q url.Values, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	resp, err := c.send(ctx, method, path, q, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("answer of the server: %w", err)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("answer of the server: %w", err)
	}
	return nil
}

// seg is one segment of a path.
func seg(s string) string { return url.PathEscape(s) }

// Apply declares resources that were decoded and inlined.
func (c *Client) Apply(ctx context.Context, all []resource.Resource) ([]server.Applied, error) {
	return c.ApplyFrom(ctx, all, nil)
}

// ApplyFrom is Apply with where they come from, or nil.
func (c *Client) ApplyFrom(ctx context.Context, all []resource.Resource, from *server.Provenance) ([]server.Applied, error) {
	docs, err := canonical(all)
	if err != nil {
		return nil, err
	}
	var out api.ApplyResponse
	err = c.call(ctx, http.MethodPost, "apply", nil, api.ApplyRequest{Resources: docs, Claimed: from}, &out)
	return out.Resources, err
}

func canonical(all []resource.Resource) (docs []canon.Value, err error) {
	for i := range all {
		b, err := all[i].Canonical()
		if err != nil {
			return nil, err
		}
		docs = append(docs, canon.Value(b))
	}
	return docs, nil
}

// Replay decides again what is on record, under resources that are not applied; all
// may be empty.
func (c *Client) Replay(ctx context.Context, all []resource.Resource, f replay.Filter) (replay.Report, error) {
	var out replay.Report
	docs, err := canonical(all)
	if err != nil {
		return out, err
	}
	return out, c.call(ctx, http.MethodPost, "policy/replay", nil, api.ReplayRequest{Resources: docs, Filter: f}, &out)
}

// Resources reads declared resources: of one kind, or of all when kind is
// empty; one, when name is given.
func (c *Client) Resources(ctx context.Context, kind, name string) ([]json.RawMessage, error) {
	path := "resources"
	if kind != "" {
		path += "/" + seg(kind)
	}
	if name != "" {
		path += "/" + seg(name)
	}
	var out []json.RawMessage
	return out, c.call(ctx, http.MethodGet, path, nil, nil, &out)
}

// Changes lists the versions of a resource, the one in force last.
func (c *Client) Changes(ctx context.Context, kind, name string) ([]server.Change, error) {
	var out []server.Change
	return out, c.call(ctx, http.MethodGet, "changes/"+seg(kind)+"/"+seg(name), nil, nil, &out)
}

// Version is what a resource was in one of its versions.
func (c *Client) Version(ctx context.Context, kind, name string, n int) (json.RawMessage, error) {
	var out json.RawMessage
	return out, c.call(ctx, http.MethodGet, "changes/"+seg(kind)+"/"+seg(name)+"/"+strconv.Itoa(n), nil, nil, &out)
}

// OpenTask declares an intent.
func (c *Client) OpenTask(ctx context.Context, in server.Intent) (task.Task, error) {
	var out task.Task
	return out, c.call(ctx, http.MethodPost, "tasks", nil, in, &out)
}

// Task reads one task.
func (c *Client) Task(ctx context.Context, id string) (task.Task, error) {
	var out task.Task
	return out, c.call(ctx, http.MethodGet, "tasks/"+seg(id), nil, nil, &out)
}

// Tasks lists all tasks.
func (c *Client) Tasks(ctx context.Context) ([]task.Task, error) {
	var out []task.Task
	return out, c.call(ctx, http.MethodGet, "tasks", nil, nil, &out)
}

// CloseTask ends a task.
func (c *Client) CloseTask(ctx context.Context, id string) (task.Task, error) {
	var out task.Task
	return out, c.call(ctx, http.MethodPost, "tasks/"+seg(id)+"/close", nil, nil, &out)
}

// Approvals lists approvals in a state; empty means pending.
func (c *Client) Approvals(ctx context.Context, state approval.State) ([]approval.Approval, error) {
	var out []approval.Approval
	return out, c.call(ctx, http.MethodGet, "approvals", url.Values{"state": {string(state)}}, nil, &out)
}

// Approval reads one, with what is signed.
func (c *Client) Approval(ctx context.Context, id string) (api.Approval, error) {
	var out api.Approval
	return out, c.call(ctx, http.MethodGet, "approvals/"+seg(id), nil, nil, &out)
}

// Approve signs an approval that Approval returned, as the client's person.
func (c *Client) Approve(ctx context.Context, a api.Approval, key ssh.Signer) (approval.Approval, error) {
	var out approval.Approval
	st, err := approval.ParseStatement(a.Bytes)
	if err != nil {
		return out, err
	}
	sig, err := approval.Sign(st, key)
	if err != nil {
		return out, err
	}
	in := api.ApproveRequest{Person: c.person, Signature: string(sig)}
	return out, c.call(ctx, http.MethodPost, "approvals/"+seg(st.Nonce)+"/approve", nil, in, &out)
}

// ApproveByPasskey sends what a browser gave for one of the Passkeys of an
// approval, as the client's person: AuthenticationResponseJSON (WebAuthn level 3,
// section 5.1).
func (c *Client) ApproveByPasskey(ctx context.Context, id string, assertion []byte) (approval.Approval, error) {
	var out approval.Approval
	if err := canon.Check(assertion, 1<<20); err != nil {
		return out, fmt.Errorf("assertion: %w", err)
	}
	in := api.ApproveRequest{Person: c.person, Assertion: assertion}
	return out, c.call(ctx, http.MethodPost, "approvals/"+seg(id)+"/approve", nil, in, &out)
}

// ApprovalQuality says how people decide.
func (c *Client) ApprovalQuality(ctx context.Context) (approval.Quality, error) {
	var out approval.Quality
	return out, c.call(ctx, http.MethodGet, "approvals/quality", nil, nil, &out)
}

// Reject closes an approval with no.
func (c *Client) Reject(ctx context.Context, id, reason string) (approval.Approval, error) {
	var out approval.Approval
	return out, c.call(ctx, http.MethodPost, "approvals/"+seg(id)+"/reject", nil, api.RejectRequest{Reason: reason}, &out)
}

// Revoke is the kill. It returns the tasks that it ended.
func (c *Client) Revoke(ctx context.Context, scope, reason string) ([]task.Task, error) {
	var out []task.Task
	return out, c.call(ctx, http.MethodPost, "revoke", nil, api.RevokeRequest{Scope: scope, Reason: reason}, &out)
}

// Identity is where the tenant's keys and federations stand.
func (c *Client) Identity(ctx context.Context) (server.Identity, error) {
	var out server.Identity
	return out, c.call(ctx, http.MethodGet, "identity", nil, nil, &out)
}

// Boundary is what an agent is made of now; against is as in server.Boundary.
func (c *Client) Boundary(ctx context.Context, agent, against string) (*server.Boundary, error) {
	var q url.Values
	if against != "" {
		q = url.Values{"against": {against}}
	}
	out := &server.Boundary{}
	return out, c.call(ctx, http.MethodGet, "boundary/"+seg(agent), q, nil, out)
}

// Behaviour is how an agent behaves in production.
func (c *Client) Behaviour(ctx context.Context, agent string) (*server.Behaviour, error) {
	out := &server.Behaviour{}
	return out, c.call(ctx, http.MethodGet, "behaviour/"+seg(agent), nil, nil, out)
}

// RunCanary runs one canary of an agent now.
func (c *Client) RunCanary(ctx context.Context, agent, scenario string) (watch.Canary, error) {
	var out watch.Canary
	return out, c.call(ctx, http.MethodPost, "behaviour/"+seg(agent)+"/canaries/"+seg(scenario), nil, nil, &out)
}

// Reconciliations says how applications' own audit logs agree with the records.
func (c *Client) Reconciliations(ctx context.Context) ([]server.Reconciliation, error) {
	var out []server.Reconciliation
	return out, c.call(ctx, http.MethodGet, "reconciliation", nil, nil, &out)
}

// Reconcile reads the audit log of a connector's application now; of all, if it is empty.
func (c *Client) Reconcile(ctx context.Context, connector string) ([]server.Reconciliation, error) {
	var out []server.Reconciliation
	q := url.Values{}
	if connector != "" {
		q.Set("connector", connector)
	}
	return out, c.call(ctx, http.MethodPost, "reconciliation", q, nil, &out)
}

// Separation lists who could do what must not meet in one person.
func (c *Client) Separation(ctx context.Context) ([]separation.Finding, error) {
	var out []separation.Finding
	return out, c.call(ctx, http.MethodGet, "separation", nil, nil, &out)
}

// Notify says how telling the tenant's targets goes.
func (c *Client) Notify(ctx context.Context) ([]notify.Standing, error) {
	var out []notify.Standing
	return out, c.call(ctx, http.MethodGet, "notify", nil, nil, &out)
}

// Reinstate gives back what security events took from a person.
func (c *Client) Reinstate(ctx context.Context, person, reason string, breakGlass bool) (server.Identity, error) {
	var out server.Identity
	return out, c.call(ctx, http.MethodPost, "identity/reinstate", nil, api.ReinstateRequest{Person: person, Reason: reason, BreakGlass: breakGlass}, &out)
}

// RotateKeys makes new signing keys now.
func (c *Client) RotateKeys(ctx context.Context) (server.Identity, error) {
	var out server.Identity
	return out, c.call(ctx, http.MethodPost, "identity/rotate", nil, nil, &out)
}

// RefreshBundles fetches the bundles of federated trust domains now.
func (c *Client) RefreshBundles(ctx context.Context) (server.Identity, error) {
	var out server.Identity
	return out, c.call(ctx, http.MethodPost, "identity/refresh", nil, nil, &out)
}

// Certify runs a suite; progress hears of each trial. The end of ctx ends the
// run.
func (c *Client) Certify(ctx context.Context, agent, suite string, changed bool, progress func(string)) (certify.Certification, error) {
	var none certify.Certification
	b, err := json.Marshal(api.CertifyRequest{Agent: agent, Suite: suite, Changed: changed})
	if err != nil {
		return none, err
	}
	resp, err := c.send(ctx, http.MethodPost, "certifications", nil, bytes.NewReader(b))
	if err != nil {
		return none, err
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return none, fmt.Errorf("certification was cut off: %w", err)
		}
		var l api.CertifyLine
		if err := json.Unmarshal(line, &l); err != nil {
			return none, fmt.Errorf("answer of the server: %w", err)
		}
		switch {
		case l.Problem != nil:
			return none, &Refusal{Status: http.StatusForbidden, Problem: *l.Problem}
		case l.Certification != nil:
			return *l.Certification, nil
		case progress != nil:
			progress(l.Progress)
		}
	}
}

// Certifications lists the history of an agent, or of all.
func (c *Client) Certifications(ctx context.Context, agent string) ([]certify.Certification, error) {
	var out []certify.Certification
	return out, c.call(ctx, http.MethodGet, "certifications", url.Values{"agent": {agent}}, nil, &out)
}

// Readiness decides whether an agent may act in production, as it is now.
func (c *Client) Readiness(ctx context.Context, agent string, probe bool) (*readiness.Report, error) {
	var out readiness.Report
	return &out, c.call(ctx, http.MethodGet, "readiness/"+seg(agent), url.Values{"probe": {strconv.FormatBool(probe)}}, nil, &out)
}

// PutSecret stores a secret under a name.
func (c *Client) PutSecret(ctx context.Context, name string, value []byte) error {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = seg(p)
	}
	resp, err := c.send(ctx, http.MethodPut, "secrets/"+strings.Join(parts, "/"), nil, bytes.NewReader(value))
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Keys says what wraps the server's keys.
func (c *Client) Keys(ctx context.Context) (seal.RingState, error) {
	var out seal.RingState
	return out, c.call(ctx, http.MethodGet, "keys", nil, nil, &out)
}

// Secrets lists the names of the stored secrets.
func (c *Client) Secrets(ctx context.Context) ([]server.Secret, error) {
	var out []server.Secret
	return out, c.call(ctx, http.MethodGet, "secrets", nil, nil, &out)
}

// Leases lists the credentials that tasks hold or held, without themselves.
func (c *Client) Leases(ctx context.Context) ([]lease.Lease, error) {
	var out []lease.Lease
	return out, c.call(ctx, http.MethodGet, "leases", nil, nil, &out)
}

// launchSocket is beside the API's.
func (c *Client) launchSocket() string {
	return filepath.Join(filepath.Dir(c.socket), api.LaunchName)
}

// Records reads a page of the log.
func (c *Client) Records(ctx context.Context, f api.Filter, kind string) (api.Records, error) {
	q := url.Values{"from": {strconv.FormatInt(f.From, 10)}, "limit": {strconv.FormatInt(f.Limit, 10)},
		"last": {strconv.FormatBool(f.Last)}, "task": {f.Task}, "type": {kind}}
	var out api.Records
	return out, c.call(ctx, http.MethodGet, "ledger", q, nil, &out)
}

// Record reads one record.
func (c *Client) Record(ctx context.Context, seq int64) (json.RawMessage, error) {
	var out json.RawMessage
	return out, c.call(ctx, http.MethodGet, "ledger/"+strconv.FormatInt(seq, 10), nil, nil, &out)
}

// Payload reads one piece of evidence of a record, as an auditor.
func (c *Client) Payload(ctx context.Context, seq int64, n int) ([]byte, error) {
	resp, err := c.send(ctx, http.MethodGet, fmt.Sprintf("ledger/%d/payload/%d", seq, n), nil, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
}

// VerifyLedger has the server read its whole log again.
func (c *Client) VerifyLedger(ctx context.Context) (api.Verified, error) {
	var out api.Verified
	return out, c.call(ctx, http.MethodGet, "ledger/verify", nil, nil, &out)
}

// Prove proves that a record is in the log.
func (c *Client) Prove(ctx context.Context, seq int64) (api.Proof, error) {
	var out api.Proof
	return out, c.call(ctx, http.MethodGet, "ledger/proof/"+strconv.FormatInt(seq, 10), nil, nil, &out)
}

// Export writes a bundle to w. After an error, what was written is no bundle.
func (c *Client) Export(ctx context.Context, w io.Writer, in api.Export) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	resp, err := c.send(ctx, http.MethodPost, "ledger/export", nil, bytes.NewReader(b))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("export was cut off: %w", err)
	}
	return nil
}

// Doctor has the server examine its machine.
func (c *Client) Doctor(ctx context.Context) (api.Doctor, error) {
	var out api.Doctor
	return out, c.call(ctx, http.MethodGet, "doctor", nil, nil, &out)
}
