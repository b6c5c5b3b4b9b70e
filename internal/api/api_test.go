package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/apitest"
	"github.com/sallyport-dev/sallyport/internal/api/client"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/cli"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/receipt"
)

// The test binary is also the sample harness that the server launches.
func TestMain(m *testing.M) {
	apitest.Main()
	if len(os.Args) > 1 && os.Args[1] == "sample-agent" {
		os.Exit(cli.SampleAgent(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// TestServer runs everything against one server, since starting one examines
// the machine.
//
// Threats: R4 (policy, approval)
func TestServer(t *testing.T) {
	r := apitest.Start(t)
	t.Run("sockets_are_private", func(t *testing.T) { socketsArePrivate(t, r) })
	t.Run("nothing_without_a_tenant", func(t *testing.T) {
		_, err := r.As("dana").Tasks(t.Context())
		wantRefusal(t, err, "tenant_unclear", http.StatusNotFound)
	})
	r.Apply(t)
	t.Run("strict_requests", func(t *testing.T) { strictRequests(t, r) })
	t.Run("roles_refused", func(t *testing.T) { rolesRefused(t, r) })
	t.Run("self_approval_refused", func(t *testing.T) { selfApproval(t, r) })
	t.Run("signature_refused", func(t *testing.T) { signatureRefused(t, r) })
	t.Run("answer_outlives_its_caller", func(t *testing.T) { answerOutlives(t, r) })
	r.ApproveAll(t, "ines")
	t.Run("approval_used_once", func(t *testing.T) { approvalUsedOnce(t, r) })
	t.Run("secret_never_read_back", func(t *testing.T) { secretNotReadBack(t, r) })
	t.Run("task_life", func(t *testing.T) { taskLife(t, r) })
	t.Run("certify_refusal_is_a_status", func(t *testing.T) {
		_, err := r.As("dana").Certify(t.Context(), "helpdesk", "", false, nil)
		wantRefusal(t, err, "role_missing", http.StatusForbidden)
		_, err = r.As("mara").Certify(t.Context(), "nobody", "", false, nil)
		wantRefusal(t, err, "no_such_agent", http.StatusNotFound)
	})
	t.Run("evidence", func(t *testing.T) { evidence(t, r) })
	t.Run("launch", func(t *testing.T) { launches(t, r) })
	t.Run("public", func(t *testing.T) { public(t, r) })
	t.Run("held_actions", func(t *testing.T) { heldActions(t, r) })
	t.Run("roles", func(t *testing.T) { roles(t, r) })
	t.Run("stop_cuts_what_streams", func(t *testing.T) { stopCuts(t, r) })
}

func wantRefusal(t *testing.T, err error, code string, status int) {
	t.Helper()
	var no *client.Refusal
	if !errors.As(err, &no) {
		t.Fatalf("got %v, want a refusal %s", err, code)
	}
	if no.Code != code || no.Status != status || no.Reason == "" || no.Next == "" {
		t.Errorf("got %d %+v, want %d %s with a reason and a next step", no.Status, no.Problem, status, code)
	}
}

func socketsArePrivate(t *testing.T, r *apitest.Rig) {
	for path, want := range map[string]os.FileMode{r.Data: 0o700, filepath.Join(r.Data, api.SocketName): 0o600, filepath.Join(r.Data, api.LaunchName): 0o600} {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := fi.Mode().Perm(); got != want {
			t.Errorf("%s: mode %o, want %o", filepath.Base(path), got, want)
		}
	}
}

// send is one raw request on the socket.
func send(t *testing.T, r *apitest.Rig, method, path string, header http.Header, body io.Reader) (int, string) {
	t.Helper()
	c := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", r.Faces.Socket())
	}}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://x"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func strictRequests(t *testing.T, r *apitest.Rig) {
	as := http.Header{api.AsHeader: {"dana"}}
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		code                     string
	}{
		{"unknown_route", "GET", "/api/v1/nothing", "", 404, "no_such_route"},
		{"root", "GET", "/", "", 404, "no_such_route"},
		{"unknown_method", "DELETE", "/api/v1/tasks", "", 404, "no_such_route"},
		{"path_with_dots", "GET", "/api/v1/approvals/..%2f..%2fsecrets", "", 404, "no_such_approval"},
		{"unknown_query", "GET", "/api/v1/tasks?all=1", "", 400, "invalid_query"},
		{"query_twice", "GET", "/api/v1/tasks?tenant=brightwell&tenant=other", "", 400, "invalid_query"},
		{"query_unreadable", "GET", "/api/v1/tasks?tenant=%zz", "", 400, "invalid_query"},
		{"other_tenant", "GET", "/api/v1/tasks?tenant=other", "", 404, "no_such_tenant"},
		{"unknown_member", "POST", "/api/v1/tasks", `{"capability":"reset-mfa","role":"owner"}`, 400, "invalid_body"},
		{"hidden_member", "POST", "/api/v1/tasks", `{"capability":"reset-mfa","suite":"helpdesk-core"}`, 400, "invalid_body"},
		{"member_in_other_case", "POST", "/api/v1/tasks", `{"Capability":"reset-mfa"}`, 400, "invalid_body"},
		{"member_twice", "POST", "/api/v1/tasks", `{"capability":"x","capability":"reset-mfa"}`, 400, "invalid_body"},
		{"trailing_data", "POST", "/api/v1/tasks", `{"capability":"reset-mfa"}{}`, 400, "invalid_body"},
		{"no_body", "POST", "/api/v1/tasks", ``, 400, "invalid_body"},
		{"deep", "POST", "/api/v1/tasks", strings.Repeat("[", 100000), 400, "invalid_body"},
		{"not_utf8", "POST", "/api/v1/tasks", "{\"capability\":\"\xff\"}", 400, "invalid_body"},
		{"oversized", "POST", "/api/v1/tasks", `{"capability":"` + strings.Repeat("a", 1<<20) + `"}`, 413, "too_large"},
		{"oversized_secret", "PUT", "/api/v1/secrets/x", strings.Repeat("a", 1<<20), 413, "too_large"},
		{"unknown_state", "GET", "/api/v1/approvals?state=all", "", 400, "invalid_state"},
		{"unknown_kind", "GET", "/api/v1/resources/Pod", "", 400, "unknown_kind"},
		{"apply_unknown_kind", "POST", "/api/v1/apply", `{"resources":[{"apiVersion":"sallyport/v1","kind":"Pod","metadata":{"name":"x"},"spec":{}}]}`, 400, "invalid_resources"},
		{"apply_nothing", "POST", "/api/v1/apply", `{"resources":[]}`, 400, "no_resources"},
		{"kill_of_unknown_scope", "POST", "/api/v1/revoke", `{"scope":"everything","reason":"x"}`, 400, "unknown_scope"},
		{"kill_without_reason", "POST", "/api/v1/revoke", `{"scope":"agent/helpdesk","reason":""}`, 400, "reason_missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, body := send(t, r, c.method, c.path, as, strings.NewReader(c.body))
			var p server.Problem
			if err := json.Unmarshal([]byte(body), &p); err != nil || status != c.status || p.Code != c.code || p.Reason == "" || p.Next == "" {
				t.Errorf("got %d %s, want %d %s with a reason and a next step", status, body, c.status, c.code)
			}
			if strings.Contains(body, r.Data) {
				t.Errorf("the answer names the data folder: %s", body)
			}
		})
	}
}

func rolesRefused(t *testing.T, r *apitest.Rig) {
	ctx := t.Context()
	for name, f := range map[string]func() error{
		"task_by_owner":      func() error { _, err := r.As("mara").OpenTask(ctx, server.Intent{Capability: "reset-mfa"}); return err },
		"secret_by_approver": func() error { return r.As("ines").PutSecret(ctx, "provider-key", []byte("x")) },
		"rotate_by_owner":    func() error { _, err := r.As("mara").RotateKeys(ctx); return err },
		"refresh_by_auditor": func() error { _, err := r.As("lin").RefreshBundles(ctx); return err },
		"close_by_auditor":   func() error { _, err := r.As("lin").CloseTask(ctx, "x"); return err },
	} {
		t.Run(name, func(t *testing.T) { wantRefusal(t, f(), "role_missing", http.StatusForbidden) })
	}
	_, err := r.As("mallory").Revoke(ctx, "tenant/brightwell", "x")
	wantRefusal(t, err, "person_unknown", http.StatusForbidden)
	_, err = r.As("").OpenTask(ctx, server.Intent{Capability: "reset-mfa"})
	wantRefusal(t, err, "person_unknown", http.StatusForbidden)
}

func pending(t *testing.T, r *apitest.Rig, kind approval.Kind) api.Approval {
	t.Helper()
	list, err := r.As("ines").Approvals(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if a.Statement.Kind == kind {
			x, err := r.As("ines").Approval(t.Context(), a.ID())
			if err != nil {
				t.Fatal(err)
			}
			return x
		}
	}
	t.Fatalf("no %s waits for approval", kind)
	return api.Approval{}
}

// selfApproval: who made a change, or owns what it is about, tries to approve it.
func selfApproval(t *testing.T, r *apitest.Rig) {
	for person, kind := range map[string]approval.Kind{"noor": approval.Capability, "mara": approval.Boundary, "tom": approval.Boundary} {
		a := pending(t, r, kind)
		_, err := r.As(person).Approve(t.Context(), a, r.Keys[person])
		wantRefusal(t, err, "excluded", http.StatusForbidden)
	}
}

func signatureRefused(t *testing.T, r *apitest.Rig) {
	a, other := pending(t, r, approval.Capability), pending(t, r, approval.Boundary)
	_, err := r.As("felix").Approve(t.Context(), a, r.Keys["ines"])
	wantRefusal(t, err, "key_not_theirs", http.StatusForbidden)
	_, err = r.As("dana").Approve(t.Context(), a, r.Keys["dana"])
	wantRefusal(t, err, "role_missing", http.StatusForbidden)
	// A signature over one statement, sent for another.
	sig, err := approval.Sign(other.Approval.Statement, r.Keys["ines"])
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(api.ApproveRequest{Person: "ines", Signature: string(sig)})
	if err != nil {
		t.Fatal(err)
	}
	status, got := send(t, r, "POST", "/api/v1/approvals/"+a.Approval.ID()+"/approve", nil, bytes.NewReader(body))
	if status != http.StatusForbidden || !strings.Contains(got, "signature_invalid") {
		t.Errorf("signature of another statement: got %d %s", status, got)
	}
	// Bytes that are not the statement's canonical ones are not signed at all.
	bad := a
	bad.Bytes = append([]byte(" "), a.Bytes...)
	if _, err := r.As("ines").Approve(t.Context(), bad, r.Keys["ines"]); err == nil {
		t.Error("the client signed bytes that are not canonical")
	}
}

// answerOutlives: who answers a question and hangs up has answered it. Cut off in
// between, what is kept and what is in force would be two things.
func answerOutlives(t *testing.T, r *apitest.Rig) {
	yes, no := pending(t, r, approval.Capability), pending(t, r, approval.Boundary)
	sig, err := approval.Sign(yes.Approval.Statement, r.Keys["ines"])
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		a    api.Approval
		path string
		body any
		want approval.State
	}{
		{no, "reject", api.RejectRequest{Reason: "not yet"}, approval.Rejected},
		{yes, "approve", api.ApproveRequest{Person: "ines", Signature: string(sig)}, approval.Used},
	} {
		b, err := json.Marshal(c.body)
		if err != nil {
			t.Fatal(err)
		}
		id := c.a.Approval.ID()
		q := httptest.NewRequest("POST", "/api/v1/approvals/"+id+"/"+c.path, bytes.NewReader(b))
		q.Header.Set(api.AsHeader, "ines")
		w := api.HungUp(r.Server, q)
		if got, err := r.As("ines").Approval(t.Context(), id); err != nil || got.Approval.State != c.want {
			t.Errorf("%s: got %s, %v; answered %s", c.path, got.Approval.State, err, w.Body)
		}
	}
	r.ApplyAs(t, "mara") // whose agent it is: asks again what was said no to
}

func approvalUsedOnce(t *testing.T, r *apitest.Rig) {
	c := r.As("felix")
	list, err := c.Approvals(t.Context(), approval.Used)
	if err != nil || len(list) != 2 {
		t.Fatalf("used approvals: got %d, %v; want 2", len(list), err)
	}
	a, err := c.Approval(t.Context(), list[0].ID())
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Approve(t.Context(), a, r.Keys["felix"])
	wantRefusal(t, err, "not_pending", http.StatusForbidden)
	_, err = c.Reject(t.Context(), a.Approval.ID(), "too late")
	wantRefusal(t, err, "not_pending", http.StatusForbidden)
}

func secretNotReadBack(t *testing.T, r *apitest.Rig) {
	list, err := r.As("sven").Secrets(t.Context())
	if err != nil || len(list) != len(r.Sample.Secrets) {
		t.Fatalf("secrets: got %d, %v; want %d", len(list), err, len(r.Sample.Secrets))
	}
	for _, path := range []string{"/api/v1/secrets", "/api/v1/secrets/provider-key"} {
		if _, body := send(t, r, "GET", path, nil, nil); strings.Contains(body, r.Sample.Secrets["provider-key"]) || strings.Contains(body, `"sealed"`) {
			t.Errorf("%s shows a secret", path)
		}
	}
}

func taskLife(t *testing.T, r *apitest.Rig) {
	c := r.As("dana")
	in := server.Intent{Capability: "reset-mfa", Stage: "sandbox", Params: map[string]string{"user": "jo", "ticket": "4711"}}
	x, err := c.OpenTask(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Task(t.Context(), x.ID); err != nil || got.State != "proposed" || got.Requester != "dana" {
		t.Errorf("got %+v, %v", got, err)
	}
	if x, err = c.CloseTask(t.Context(), x.ID); err != nil || x.State != "closed" {
		t.Errorf("close: got %s, %v", x.State, err)
	}
	in.Params["user"] = "../admin"
	_, err = c.OpenTask(t.Context(), in)
	wantRefusal(t, err, "invalid_parameters", http.StatusBadRequest)
	in.Stage = "prod"
	_, err = c.OpenTask(t.Context(), in)
	wantRefusal(t, err, "stage_not_covered", http.StatusForbidden)
	in.Stage, in.Params["user"] = "production", "jo"
	_, err = c.OpenTask(t.Context(), in)
	wantRefusal(t, err, "no_certification", http.StatusForbidden)
	_, err = c.Task(t.Context(), "t-nope")
	wantRefusal(t, err, "no_such_task", http.StatusNotFound)
}

// evidence: only an auditor opens it, and that is on record.
func evidence(t *testing.T, r *apitest.Rig) {
	ctx := t.Context()
	_, err := r.As("dana").Payload(ctx, 0, 0)
	wantRefusal(t, err, "role_missing", http.StatusForbidden)
	_, err = r.As("lin").Payload(ctx, 0, 0)
	wantRefusal(t, err, "no_such_evidence", http.StatusNotFound)
	_, err = r.As("lin").Payload(ctx, 1<<40, 0)
	wantRefusal(t, err, "no_such_evidence", http.StatusNotFound)
	_, err = r.As("lin").Record(ctx, 1<<40)
	wantRefusal(t, err, "no_such_record", http.StatusNotFound)
	for path, code := range map[string]string{"/api/v1/ledger/-1": "invalid_seq", "/api/v1/ledger/0x1": "invalid_seq", "/api/v1/ledger?from=-1": "invalid_query",
		"/api/v1/ledger?limit=x": "invalid_query", "/api/v1/ledger/0/payload/-1": "invalid_payload", "/api/v1/ledger/proof/zero": "invalid_seq"} {
		if status, body := send(t, r, "GET", path, http.Header{api.AsHeader: {"lin"}}, nil); status != 400 || !strings.Contains(body, code) {
			t.Errorf("%s: got %d %s, want 400 %s", path, status, body, code)
		}
	}
	page, err := r.As("lin").Records(ctx, api.Filter{Limit: 5000}, "")
	if err != nil || int64(len(page.Records)) != min(page.Size, 1000) {
		t.Errorf("page: got %d of %d records, %v", len(page.Records), page.Size, err)
	}
	if v, err := r.As("lin").VerifyLedger(ctx); err != nil || !v.OK {
		t.Errorf("verify: got %+v, %v", v, err)
	}
	p, err := r.As("lin").Prove(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	if seq, _, err := receipt.VerifyProof([]byte(p.Proof), p.Record, p.Key); err != nil || seq != 0 {
		t.Errorf("proof: got record %d, %v", seq, err)
	}
	var b bytes.Buffer
	if err := r.As("lin").Export(ctx, &b, api.Export{}); err != nil {
		t.Fatal(err)
	}
	rep, err := receipt.Verify(&b, receipt.Options{Key: p.Key})
	if err != nil || len(rep.Approvals) != 2 {
		t.Errorf("bundle: got %d approvals, %v; want 2", len(rep.Approvals), err)
	}
	err = r.As("lin").Export(ctx, &b, api.Export{From: 5, To: 2})
	wantRefusal(t, err, "invalid_range", http.StatusBadRequest)
}

func public(t *testing.T, r *apitest.Rig) {
	get := func(path, host string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+r.Faces.Addr()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if host != "" {
			req.Host = host
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: answers to other origins", path)
		}
		return resp.StatusCode, string(b)
	}
	for _, c := range []struct {
		name, path, host string
		want             int
	}{
		{"alive", "/healthz", "", 200},
		{"ready", "/readyz", "", 200},
		{"by_name", "/healthz", "localhost:1", 200},
		{"by_ipv6", "/healthz", "[::1]:1", 200},
		{"by_the_issuer's_name", "/healthz", "Sallyport.Example", 200},
		{"rebound_name", "/healthz", "evil.example", 421},
		{"rebound_name_like_ours", "/healthz", "sallyport.example.evil.example", 421},
		{"no_host", "/healthz", ".", 421},
		{"no_api", "/api/v1/tasks", "", 404},
		{"discovery", "/t/brightwell/.well-known/openid-configuration", "", 200},
		{"keys", "/t/brightwell/keys", "", 200},
		{"bundle", "/t/brightwell/bundle", "", 200},
		{"bundle_of_nobody", "/t/other/bundle", "", 404},
		{"bundle_of_no_name", "/t//bundle", "", 404},
		{"checkpoint", "/log/brightwell/checkpoint", "", 200},
		{"tile", "/log/brightwell/tile/0/000.p/1", "", 200},
		{"tile_of_nobody", "/log/other/tile/0/000.p/1", "", 404},
		{"no_records", "/log/brightwell/tile/entries/000.p/1", "", 403},
		{"no_records_by_another_spelling", "/log/brightwell/tile/%65ntries/000.p/1", "", 403},
		{"no_records_by_dots", "/log/brightwell/tile/0/../entries/000.p/1", "", 403},
		{"no_other_file", "/../root.key", "", 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, body := get(c.path, c.host)
			if status != c.want {
				t.Errorf("got %d %s, want %d", status, body, c.want)
			}
		})
	}
}

// stopCuts: a certification streams, and the server is stopped.
func stopCuts(t *testing.T, r *apitest.Rig) {
	defer r.Approver(t, "ines")()
	first := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		once := false
		_, err := r.As("mara").Certify(context.Background(), "helpdesk", "", false, func(string) {
			if !once {
				once = true
				close(first)
			}
		})
		done <- err
	}()
	select {
	case <-first:
	case err := <-done:
		t.Fatalf("the run ended before its first trial: %v", err)
	case <-time.After(2 * time.Minute):
		t.Fatal("no trial began")
	}
	stopped := make(chan struct{})
	go func() { defer close(stopped); r.Stop(t) }()
	select {
	case <-stopped:
	case <-time.After(time.Minute):
		t.Fatal("the server does not stop")
	}
	if err := <-done; err == nil {
		t.Error("a certification that was cut off succeeded")
	}
	_, err := r.As("dana").Tasks(t.Context())
	var gone *client.Unreachable
	if !errors.As(err, &gone) {
		t.Errorf("after the stop: got %v, want unreachable", err)
	}
}
