package identity_test

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/identity/spiretest"
)

const (
	deskID    = "spiffe://acme.example/desk"
	payrollID = "spiffe://acme.example/payroll"
)

// fixed attests everybody as one workload.
type fixed identity.Workload

func (w fixed) Attest(context.Context, identity.Peer) (identity.Workload, error) {
	return identity.Workload(w), nil
}

// spired is a tenant whose SVIDs are SPIRE's, and a client at the socket of a task.
type spired struct {
	*fixture
	t     *testing.T
	spire *spiretest.Agent
	c     *workloadapi.Client
}

func newSpired(t *testing.T, cfg identity.Config) *spired {
	t.Helper()
	a := spiretest.Start(t, "acme.example")
	s := newSpiredAt(t, cfg, a.Socket)
	s.spire = a
	return s
}

func newSpiredAt(t *testing.T, cfg identity.Config, socket string) *spired {
	t.Helper()
	s := &spired{t: t}
	var err error
	if cfg.SPIRE, err = identity.NewSPIRE(socket); err != nil {
		t.Fatal(err)
	}
	s.fixture = newFixture(t, cfg)
	s.live.chain = []string{"t-0"}
	s.issuer.UseSPIRE(true)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.issuer.RunSPIRE(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	w := aWorkload()
	w.SPIFFEID = deskID
	sock := s.serve(t, fixed(w))
	if s.c, err = workloadapi.New(t.Context(), workloadapi.WithAddr("unix://"+sock)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.c.Close() })
	return s
}

func (s *spired) until(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("waited too long for %s", what)
		}
	}
}

func (s *spired) held() {
	s.t.Helper()
	s.until("the SVID", func() bool { return s.issuer.Held(deskID, true) == nil })
}

func (s *spired) x509() (*x509svid.SVID, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	return s.c.FetchX509SVID(ctx)
}

// TestSPIREPassesOn: a contained agent gets the SVID that SPIRE has for it, at its
// own socket, and no other; each is on record before, with the tasks above; and
// nothing is signed here.
//
// Threats: E14 (door, authority)
func TestSPIREPassesOn(t *testing.T) {
	s := newSpired(t, identity.Config{})
	if _, err := s.x509(); err == nil {
		t.Error("an SVID was given before SPIRE had one")
	}
	s.spire.Register(payrollID, time.Hour)
	s.until("the other SVID", func() bool { return s.issuer.Held(payrollID, true) == nil })
	if _, err := s.x509(); err == nil {
		t.Error("the SVID of another workload was given")
	}
	s.spire.Register(deskID, time.Hour)
	s.held()
	x, err := s.c.FetchX509Context(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(x.SVIDs) != 1 || x.SVIDs[0].ID.String() != deskID || !x.SVIDs[0].PrivateKey.Public().(*ecdsa.PublicKey).Equal(x.SVIDs[0].Certificates[0].PublicKey) {
		t.Errorf("got %v", x.SVIDs)
	}
	if id, _, err := x509svid.Verify(x.SVIDs[0].Certificates, x.Bundles); err != nil || id.String() != deskID {
		t.Errorf("by the bundle: %v, %v", id, err)
	}
	j, err := s.c.FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: "https://api.example"})
	if err != nil || j.ID.String() != deskID {
		t.Fatalf("got %v, %v", j, err)
	}
	if v, err := s.c.ValidateJWTSVID(t.Context(), j.Marshal(), "https://api.example"); err != nil || v.ID != j.ID {
		t.Errorf("got %v, %v", v, err)
	}
	if _, err := s.c.FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: "a", Subject: spiffeid.RequireFromString(payrollID)}); err == nil {
		t.Error("the JWT-SVID of another workload was given")
	}
	issued := s.entries(t, "identity.issued")
	if len(issued) != 2 {
		t.Fatalf("%d issues are on record, want 2: %v", len(issued), issued)
	}
	for _, b := range append(issued, s.entries(t, "identity.attested")...) {
		if b["subject"] != deskID || b["attestedBy"] != nil && b["attestedBy"] != "spire" {
			t.Errorf("recorded: %v", b)
		}
		if c, _ := b["chain"].([]any); len(c) != 1 || c[0] != "t-0" {
			t.Errorf("recorded without the task above: %v", b)
		}
	}
	if _, err := s.issuer.IssueX509(t.Context(), aWorkload()); err == nil {
		t.Error("an X.509-SVID was signed here")
	}
	if _, err := s.issuer.IssueJWT(t.Context(), aWorkload(), "a"); err == nil {
		t.Error("a JWT-SVID was given to a workload that SPIRE does not know")
	}
	w := httptest.NewRecorder()
	if s.issuer.BundleEndpoint().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil)); w.Code != http.StatusNotFound {
		t.Errorf("a bundle of our own is served: %d", w.Code)
	}
	s.issuer.Revoke("t-1")
	if _, err := s.x509(); err == nil {
		t.Error("an SVID was given after the end of the task")
	}
}

// TestSPIREBreaks: rotation reaches the agent; while SPIRE is away no task may
// start and what runs keeps its SVID until it expires; what SPIRE takes back, or
// what is not its, is over at once.
//
// Threats: E14 (door)
func TestSPIREBreaks(t *testing.T) {
	s := newSpired(t, identity.Config{})
	s.spire.Register(deskID, 5*time.Second)
	s.held()
	first, err := s.x509()
	if err != nil {
		t.Fatal(err)
	}
	s.spire.Register(deskID, 5*time.Second)
	s.until("the next SVID", func() bool {
		v, err := s.x509()
		return err == nil && v.Certificates[0].SerialNumber.Cmp(first.Certificates[0].SerialNumber) != 0
	})

	s.spire.Stop()
	s.until("the break to be seen", func() bool { return s.issuer.Held(deskID, true) != nil })
	if st := s.issuer.SPIREState(); st.Broken == "" || len(st.SVIDs) != 1 {
		t.Errorf("it is shown as %+v", st)
	}
	if err := s.issuer.Held(deskID, false); err == nil {
		if _, err := s.x509(); err != nil {
			t.Errorf("a running task lost what it has: %v", err)
		}
	} else if r, ok := errors.AsType[*identity.Refusal](err); !ok || r.Code != "expired" {
		t.Errorf("got %v", err)
	}
	s.until("the SVID to expire", func() bool {
		r, ok := errors.AsType[*identity.Refusal](s.issuer.Held(deskID, false))
		return ok && r.Code == "expired"
	})
	if _, err := s.x509(); err == nil {
		t.Error("an expired SVID was given")
	}

	s.spire.Register(deskID, time.Hour)
	s.spire.Serve()
	s.held()
	changes := []string{}
	s.until("the record of the recovery", func() bool {
		changes = changes[:0]
		for _, b := range s.entries(t, "identity.source") {
			changes = append(changes, b["change"].(string))
		}
		n := len(changes)
		return n > 1 && slices.Equal(changes[n-2:], []string{"failing", "recovered"}) && s.issuer.SPIREState().Broken == ""
	})

	s.spire.Remove(deskID)
	s.until("the withdrawal", func() bool { return s.issuer.Held(deskID, false) != nil })
	if _, err := s.x509(); err == nil {
		t.Error("an SVID that was taken back was given")
	}

	ca, key := s.spire.NewCA("acme.example")
	s.spire.RegisterBy(deskID, time.Hour, ca, key)
	s.spire.Register(payrollID, time.Hour)
	s.until("the other SVID", func() bool { return s.issuer.Held(payrollID, true) == nil })
	if err := s.issuer.Held(deskID, false); err == nil {
		t.Error("an SVID that does not verify by SPIRE's bundle is used")
	}
}

// TestSPIRETokens: the agent's JWT-SVID of SPIRE is exchanged at the door of its
// task for tokens that name the task; others' SVIDs, and the same one elsewhere,
// are not.
//
// Threats: E14, F8 (door)
func TestSPIRETokens(t *testing.T) {
	s := newSpired(t, identity.Config{Grants: func(_ context.Context, task string) (identity.Grant, error) {
		if task != "t-1" {
			return identity.Grant{}, errors.New("no such task")
		}
		return identity.Grant{Agent: "helpdesk", SPIFFEID: deskID, Capability: "reset-mfa", Scopes: []string{"iam.user.mfa.reset"}, Audiences: []string{api, payrollID},
			Until: time.Now().Add(time.Hour), Elsewhere: []identity.Elsewhere{{SPIFFEID: payrollID}}}, nil
	}})
	s.spire.Register(deskID, time.Hour)
	s.held()
	ask := func(h http.Handler, more ...string) (int, string) {
		f := url.Values{"grant_type": {exchange}, "subject_token_type": {jwtType}, "resource": {api}}
		for i := 0; i < len(more); i += 2 {
			f.Set(more[i], more[i+1])
		}
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(f.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	inside, outside := s.issuer.TaskTokenHandler("t-1"), s.issuer.TokenHandler()
	mine, theirs := s.spire.JWT(deskID, issuerURL), s.spire.JWT(payrollID, issuerURL)
	s.until("a token", func() bool { code, _ := ask(inside, "subject_token", mine); return code == http.StatusOK })
	_, body := ask(inside, "subject_token", mine)
	token := field(t, body, "access_token")
	active := func(tok string) string {
		f := url.Values{"token": {tok}, "client_assertion_type": {spiffeBy}, "client_assertion": {mine}}
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(f.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		s.issuer.IntrospectionHandler().ServeHTTP(w, r)
		return w.Body.String()
	}
	if got := active(token); !strings.Contains(got, `"active":true`) || !strings.Contains(got, `"txn":"t-1"`) || !strings.Contains(got, `"sub":"`+deskID+`"`) {
		t.Errorf("introspection: %s", got)
	}
	code, body := ask(outside, "subject_token", theirs, "task", "t-1")
	if code != http.StatusOK {
		t.Fatalf("another workload of the same SPIRE, that the agent declares: %d %s", code, body)
	}
	if got := active(field(t, body, "access_token")); !strings.Contains(got, `"act":{"sub":"`+payrollID+`"}`) {
		t.Errorf("introspection: %s", got)
	}
	for name, a := range map[string]struct {
		h    http.Handler
		more []string
	}{
		"outside_without_a_task":  {outside, []string{"subject_token", mine}},
		"its_own_svid_outside":    {outside, []string{"subject_token", mine, "task", "t-1"}},
		"another_agent_inside":    {inside, []string{"subject_token", theirs}},
		"other_task":              {s.issuer.TaskTokenHandler("t-2"), []string{"subject_token", mine}},
		"client_assertion_of_us":  {inside, []string{"subject_token", mine, "requested_token_type", asserts}},
		"other_audience":          {inside, []string{"subject_token", s.spire.JWT(deskID, "https://elsewhere.example")}},
		"signed_by_nobody":        {inside, []string{"subject_token", mine[:strings.LastIndex(mine, ".")+1] + strings.Repeat("A", 86)}},
		"a_token_for_an_svid":     {inside, []string{"subject_token", token}},
		"a_wider_scope_is_no_way": {inside, []string{"subject_token", mine, "scope", "iam.user.delete"}},
	} {
		if code, body := ask(a.h, a.more...); code == http.StatusOK {
			t.Errorf("%s: got %s", name, body)
		}
	}
	s.issuer.Revoke("t-1")
	if got := active(token); strings.Contains(got, `"active":true`) {
		t.Errorf("after the task: %s", got)
	}
}

// TestSPIREContract: in test-long against a real SPIRE server and agent: SVIDs of
// both kinds are passed on, verify by its bundle and at its own validation; the
// other entries of the same user are not; a break and a withdrawal are seen.
func TestSPIREContract(t *testing.T) {
	real := spiretest.StartPeer(t, "acme.example")
	s := newSpiredAt(t, identity.Config{}, real.At())
	real.Register(payrollID, time.Hour)
	remove := real.Register(deskID, time.Hour)
	s.held()
	x, err := s.c.FetchX509Context(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if id, _, err := x509svid.Verify(x.SVIDs[0].Certificates, x.Bundles); err != nil || id.String() != deskID || len(x.SVIDs) != 1 {
		t.Errorf("got %v, %v", x.SVIDs, err)
	}
	j, err := s.c.FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: api})
	if err != nil || j.ID.String() != deskID {
		t.Fatalf("got %v, %v", j, err)
	}
	direct, err := workloadapi.New(t.Context(), workloadapi.WithAddr("unix://"+real.At()))
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	for name, c := range map[string]*workloadapi.Client{"ours": s.c, "SPIRE's": direct} {
		if v, err := c.ValidateJWTSVID(t.Context(), j.Marshal(), api); err != nil || v.ID != j.ID {
			t.Errorf("%s validation: %v, %v", name, v, err)
		}
	}
	if n := len(s.entries(t, "identity.issued")); n != 2 {
		t.Errorf("%d issues are on record, want 2", n)
	}
	real.Stop()
	s.until("the break to be seen", func() bool { return s.issuer.Held(deskID, true) != nil })
	if _, err := s.x509(); err != nil {
		t.Errorf("a running task lost what it has: %v", err)
	}
	real.Serve()
	s.held()
	remove()
	s.until("the withdrawal", func() bool { return s.issuer.Held(deskID, false) != nil })
	if _, err := s.x509(); err == nil {
		t.Error("an SVID that was taken back was given")
	}
}

func field(t *testing.T, body, name string) string {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	v, _ := m[name].(string)
	return v
}
