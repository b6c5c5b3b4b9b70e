package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/apitest"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/receipt"
)

// heldActions runs the sample agent, whose privileged operations are held, and
// answers as people and enforcement points do.
func heldActions(t *testing.T, r *apitest.Rig) {
	k := apitest.NewPasskey(t)
	r.SetPasskeys(t, "ines", k)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() {
		_, err := r.As("mara").Certify(ctx, "helpdesk", "", false, nil)
		ran <- err
		close(ran)
	}()
	defer func() { cancel(); <-ran }()
	a := held(t, r, ran)
	t.Run("what_a_browser_is_asked", func(t *testing.T) { browserAsked(t, r, a) })
	t.Run("access_request", func(t *testing.T) { accessRequest(t, r, a) })
	t.Run("passkey", func(t *testing.T) { byPasskey(t, r, a, k) })
	t.Run("access_request_approved", func(t *testing.T) {
		var got api.AccessTask
		access(t, r, "mara", "GET", "/"+a.Approval.ID(), nil, http.StatusOK, &got)
		if got.Task.Status != "approved" || got.Result == nil || got.Result.Mode != "reevaluate" || got.Result.Approval.ID != a.Approval.ID() ||
			got.Result.Approval.ApprovedAt.IsZero() || got.Result.Approval.ApprovedUntil.After(a.Approval.Statement.Expires) {
			t.Errorf("got %+v %+v", got.Task, got.Result)
		}
		problem(t, r, "mara", "POST", "/"+a.Approval.ID()+"/cancel", nil, http.StatusConflict, "invalid_task_state")
	})
	t.Run("access_request_cancelled", func(t *testing.T) {
		next := held(t, r, ran)
		problem(t, r, "dana", "POST", "/"+next.Approval.ID()+"/cancel", nil, http.StatusNotFound, "unknown_task")
		var got api.AccessTask
		access(t, r, "mara", "POST", "/"+next.Approval.ID()+"/cancel", nil, http.StatusOK, &got)
		if got.Task.Status != "cancelled" || got.Result != nil {
			t.Errorf("got %+v %+v", got.Task, got.Result)
		}
		_, err := r.As("ines").Approve(t.Context(), next, r.Keys["ines"])
		wantRefusal(t, err, "not_pending", http.StatusForbidden)
	})
	t.Run("change_kills_the_question", func(t *testing.T) { changeKills(t, r, ran) })
	t.Run("quality", func(t *testing.T) {
		q, err := r.As("lin").ApprovalQuality(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range q.People {
			if p.Person == "ines" && p.Signed >= 3 && p.FastestMillis <= p.MedianMillis && p.Hasty <= p.Signed {
				return
			}
		}
		t.Errorf("got %+v, want how ines decides", q)
	})
	t.Run("offline", func(t *testing.T) { verifiedOffline(t, r) })
}

// verifiedOffline: what passkeys approved is verified from a bundle alone, and so
// is that the picture which an approval names was given to the agent.
func verifiedOffline(t *testing.T, r *apitest.Rig) {
	var b bytes.Buffer
	if err := r.As("lin").Export(t.Context(), &b, api.Export{}); err != nil {
		t.Fatal(err)
	}
	rep, err := receipt.Verify(&b, receipt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	passkeys := 0
	for _, a := range rep.Approvals {
		if a.Signer.Verified && strings.HasPrefix(a.Signature, "{") {
			passkeys++
		}
	}
	if passkeys == 0 || rep.Pictures == 0 || rep.Seen != rep.Pictures {
		t.Errorf("got %d approvals by passkey; %d pictures named, %d found", passkeys, rep.Pictures, rep.Seen)
	}
}

// held waits for an action that is held.
func held(t *testing.T, r *apitest.Rig, ran <-chan error) api.Approval {
	t.Helper()
	for limit := time.Now().Add(time.Minute); ; {
		list, err := r.As("ines").Approvals(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range list {
			if x.Hold {
				a, err := r.As("ines").Approval(t.Context(), x.ID())
				if err != nil {
					t.Fatal(err)
				}
				return a
			}
		}
		select {
		case err := <-ran:
			t.Fatalf("the run ended: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(limit) {
			t.Fatal("nothing was held")
		}
	}
}

func browserAsked(t *testing.T, r *apitest.Rig, a api.Approval) {
	st, err := approval.ParseStatement(a.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	want, err := st.Challenge()
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Passkeys) != 1 || a.Passkeys[0].Challenge != want || a.Passkeys[0].UserVerification != "required" || len(a.Passkeys[0].AllowCredentials) != 1 {
		t.Errorf("got %+v, want the one passkey of ines", a.Passkeys)
	}
	other, err := r.As("lin").Approval(t.Context(), st.Nonce)
	if err != nil || len(other.Passkeys) != 0 {
		t.Errorf("passkeys of lin: got %+v, %v", other.Passkeys, err)
	}
	// Everything that must die with a change is in what is signed.
	for name, v := range map[string]string{"tenant": st.Tenant, "task": st.Task, "agent": st.Agent, "operation": st.Operation, "digest": string(st.Digest),
		"request": string(st.RequestDigest), "boundary": string(st.BoundaryDigest), "policy": string(st.PolicyDigest), "declared": string(st.ResourcesDigest), "nonce": st.Nonce} {
		if v == "" || !strings.Contains(a.Text, v) {
			t.Errorf("%s %q is not shown", name, v)
		}
	}
}

// access sends to the access request endpoint and reads the answer.
func access(t *testing.T, r *apitest.Rig, person, method, path string, in any, want int, out any) {
	t.Helper()
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	status, body := send(t, r, method, "/access/v1/requests"+path, http.Header{api.AsHeader: {person}, "Idempotency-Key": {"k1"}}, bytes.NewReader(b))
	if status != want {
		t.Fatalf("%s %s: got %d %s, want %d", method, path, status, body, want)
	}
	if err := json.Unmarshal([]byte(body), out); err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
}

func problem(t *testing.T, r *apitest.Rig, person, method, path string, in any, want int, urn string) {
	t.Helper()
	var p struct {
		Type, Title, Code, Next string
		Status                  int
	}
	access(t, r, person, method, path, in, want, &p)
	if p.Type != "urn:openid:authzen:access-request:error:"+urn || p.Status != want || p.Title == "" || p.Code == "" || p.Next == "" {
		t.Errorf("%s %s: got %+v, want %s", method, path, p, urn)
	}
}

func accessRequest(t *testing.T, r *apitest.Rig, a api.Approval) {
	d := a.Denial
	if d == nil || d.Decision || d.Context.Reason != "approval_required" || d.Resource.ID != string(a.Approval.Statement.Digest) {
		t.Fatalf("denial: got %+v", d)
	}
	good := api.AccessSubmission{Subject: d.Subject, Action: d.Action, Resource: d.Resource,
		Denial: api.AccessBinding{EvaluationID: d.Context.EvaluationID, BindingToken: d.Context.AccessRequest.BindingToken, EvaluatedAt: d.Context.EvaluatedAt, ExpiresAt: d.Context.AccessRequest.ExpiresAt, Reason: d.Context.Reason}}
	for range 2 { // the same denial is the same task
		var got api.AccessTask
		access(t, r, "mara", "POST", "", good, http.StatusAccepted, &got)
		if got.Task.ID != a.Approval.ID() || got.Task.Status != "pending" || got.Result != nil || got.Task.StatusEndpoint != "/access/v1/requests/"+a.Approval.ID() {
			t.Errorf("got %+v %+v", got.Task, got.Result)
		}
		access(t, r, "mara", "GET", "/"+got.Task.ID, nil, http.StatusOK, &got)
	}
	for name, edit := range map[string]func(*api.AccessSubmission){
		"other_agent":      func(s *api.AccessSubmission) { s.Subject.ID = "other" },
		"other_type":       func(s *api.AccessSubmission) { s.Subject.Type = "user" },
		"other_operation":  func(s *api.AccessSubmission) { s.Action.Name = "iam.user.delete" },
		"other_request":    func(s *api.AccessSubmission) { s.Resource.ID = "sha256:" + strings.Repeat("0", 64) },
		"no_request":       func(s *api.AccessSubmission) { s.Resource = api.Entity{} },
		"later_expiry":     func(s *api.AccessSubmission) { s.Denial.ExpiresAt = s.Denial.ExpiresAt.Add(time.Hour) },
		"no_expiry":        func(s *api.AccessSubmission) { s.Denial.ExpiresAt = time.Time{} },
		"other_time":       func(s *api.AccessSubmission) { s.Denial.EvaluatedAt = s.Denial.EvaluatedAt.Add(time.Second) },
		"other_reason":     func(s *api.AccessSubmission) { s.Denial.Reason = "x" },
		"other_evaluation": func(s *api.AccessSubmission) { s.Denial.EvaluationID = strings.Repeat("a", 26) },
		"no_evaluation":    func(s *api.AccessSubmission) { s.Denial.EvaluationID = "" },
		"no_token":         func(s *api.AccessSubmission) { s.Denial.BindingToken = "" },
		"other_token":      func(s *api.AccessSubmission) { s.Denial.BindingToken += "A" },
		"unsigned_token": func(s *api.AccessSubmission) {
			s.Denial.BindingToken = s.Denial.BindingToken[:strings.LastIndex(s.Denial.BindingToken, ".")+1]
		},
	} {
		bad := good
		edit(&bad)
		t.Run(name, func(t *testing.T) {
			problem(t, r, "mara", "POST", "", bad, http.StatusBadRequest, "invalid_denial_binding")
		})
	}
	problem(t, r, "dana", "POST", "", good, http.StatusBadRequest, "invalid_denial_binding") // it is not hers
	problem(t, r, "mara", "GET", "/"+strings.Repeat("a", 26), nil, http.StatusNotFound, "unknown_task")
	problem(t, r, "mara", "GET", "/x", nil, http.StatusNotFound, "unknown_task")
	used, err := r.As("mara").Approvals(t.Context(), approval.Used)
	if err != nil || len(used) == 0 || used[0].Hold {
		t.Fatalf("used approvals: got %d, %v", len(used), err)
	}
	problem(t, r, "mara", "GET", "/"+used[0].ID(), nil, http.StatusNotFound, "unknown_task") // no held action
	if status, body := send(t, r, "POST", "/access/v1/requests", http.Header{api.AsHeader: {"mara"}}, strings.NewReader(`{"items":[]}`)); status != http.StatusBadRequest {
		t.Errorf("unknown member: got %d %s", status, body)
	}
}

func byPasskey(t *testing.T, r *apitest.Rig, a api.Approval, k *apitest.Passkey) {
	id := a.Approval.ID()
	good := k.Get(t, a.Passkeys[0])
	send := func(in any) (int, string) {
		t.Helper()
		b, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		return send(t, r, "POST", "/api/v1/approvals/"+id+"/approve", nil, bytes.NewReader(b))
	}
	if status, body := send(api.ApproveRequest{Person: "ines", Assertion: good, Signature: "x"}); status != http.StatusBadRequest {
		t.Errorf("both: got %d %s", status, body)
	}
	if status, body := send(api.ApproveRequest{Person: "ines"}); status != http.StatusBadRequest {
		t.Errorf("neither: got %d %s", status, body)
	}
	_, err := r.As("felix").ApproveByPasskey(t.Context(), id, good)
	wantRefusal(t, err, "key_not_theirs", http.StatusForbidden)
	_, err = r.As("ines").ApproveByPasskey(t.Context(), id, apitest.NewPasskey(t).Get(t, a.Passkeys[0]))
	wantRefusal(t, err, "signature_invalid", http.StatusForbidden)
	touched := *k
	touched.Flags = 1
	_, err = r.As("ines").ApproveByPasskey(t.Context(), id, touched.Get(t, a.Passkeys[0]))
	wantRefusal(t, err, "signature_invalid", http.StatusForbidden)
	out, err := r.As("ines").ApproveByPasskey(t.Context(), id, good)
	if err != nil || out.State != approval.Granted || len(out.Signatures) != 1 || out.TookMillis < 0 {
		t.Fatalf("got %s, %v", out.State, err)
	}
	_, err = r.As("ines").ApproveByPasskey(t.Context(), id, good)
	wantRefusal(t, err, "not_pending", http.StatusForbidden)
	if err := json.Unmarshal([]byte(out.Signatures[0].Signature), &map[string]any{}); err != nil {
		t.Errorf("what is kept is not the assertion: %v", err)
	}
}

// changeKills: between question and answer somebody changes what the agent may
// do. The question that was asked before is worth nothing then.
func changeKills(t *testing.T, r *apitest.Rig, ran <-chan error) {
	a := held(t, r, ran)
	all, err := r.As("noor").Resources(t.Context(), resource.KindPolicySet, "")
	if err != nil || len(all) == 0 {
		t.Fatalf("policy sets: got %d, %v", len(all), err)
	}
	before, err := resource.FromCanonical(all[0])
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Metadata   resource.Metadata `json:"metadata"`
		Spec       map[string]any    `json:"spec"`
	}
	if err := json.Unmarshal(all[0], &doc); err != nil {
		t.Fatal(err)
	}
	first := doc.Spec["policies"].([]any)[0].(map[string]any)
	first["text"] = first["text"].(string) + "// changed\n"
	changed, err := canon.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	after, err := resource.FromCanonical(changed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.As("noor").Apply(t.Context(), []resource.Resource{after}); err != nil {
		t.Fatal(err)
	}
	// Nobody can answer it any more, so nobody is asked: neither then, nor when it
	// is as it was again, nor about the boundary that was declared in between.
	pending := func() (out []approval.Approval) {
		t.Helper()
		out, err := r.As("ines").Approvals(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	between := ""
	for _, x := range pending() {
		if x.ID() == a.Approval.ID() {
			t.Error("the question is still open")
		}
		if !x.Hold {
			between = x.ID()
		}
	}
	_, err = r.As("ines").Approve(t.Context(), a, r.Keys["ines"])
	wantRefusal(t, err, "not_pending", http.StatusForbidden)
	if _, err := r.As("noor").Apply(t.Context(), []resource.Resource{before}); err != nil {
		t.Fatal(err)
	}
	_, err = r.As("ines").Approve(t.Context(), a, r.Keys["ines"])
	wantRefusal(t, err, "not_pending", http.StatusForbidden)
	if between == "" {
		t.Error("the change asked for no approval")
	}
	for _, x := range pending() {
		if x.ID() == between {
			t.Error("the boundary that is not declared any more is still asked about")
		}
	}
	if x, err := r.As("ines").Approval(t.Context(), between); err != nil || x.Approval.State != approval.Rejected || x.Approval.By != "" {
		t.Errorf("got %+v, %v", x.Approval, err)
	}
}
