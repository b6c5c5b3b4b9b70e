package lease_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// rig is a real application with a keeper in front of it.
type rig struct {
	t      *testing.T
	estate *estate.Estate
	log    *gatetest.Log
	source *lease.Form
	broken atomic.Bool // the upstream cannot be reached
	lying  atomic.Bool // it answers that a session is ended, and does nothing
	ids    atomic.Int64
}

func newRig(t *testing.T) *rig {
	t.Helper()
	e, err := estate.Serve(t.Context(), estate.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	r := &rig{t: t, estate: e, log: gatetest.NewLog("acme")}
	c := e.HTTPClient()
	c.Jar = nil
	c.Transport = transport{r, c.Transport}
	cred := e.Credentials(estate.Production, estate.IAM)
	r.source = &lease.Form{Client: c, Account: cred.Username,
		Password: func(context.Context) ([]byte, error) { return []byte(cred.Password.Reveal()), nil },
		Recipe: lease.Recipe{Origin: e.URL(estate.Production, estate.IAM), LoginPath: "/login", UserField: "username", PasswordField: "password",
			CSRFField: "_csrf", LogoutPath: "/logout", ConfirmPath: "/api/users", ConfirmStatus: 401,
			SessionsPath: "/account/sessions", RevokePath: "/account/sessions/{id}/revoke"}}
	return r
}

type transport struct {
	r    *rig
	next http.RoundTripper
}

func (t transport) RoundTrip(q *http.Request) (*http.Response, error) {
	if t.r.broken.Load() {
		return nil, errors.New("upstream is down")
	}
	if t.r.lying.Load() && q.Method == http.MethodPost && q.URL.Path != "/login" {
		return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody, Header: http.Header{}, Request: q}, nil
	}
	return t.next.RoundTrip(q)
}

// keeper is a new process on the same log.
func (r *rig) keeper() *lease.Keeper {
	return lease.New(lease.Config{Log: r.log, Seal: leasetest.Plain{}, Prefix: leasetest.Prefix, IDs: func() string { return fmt.Sprintf("l-%d", r.ids.Add(1)) },
		Find: func(_ context.Context, l lease.Lease) (lease.Source, error) {
			if l.Source != "iam-helpdesk" {
				return nil, errors.New("no such source")
			}
			return r.source, nil
		}})
}

func (r *rig) issue(k *lease.Keeper) (lease.Lease, []byte, error) {
	return k.Issue(r.t.Context(), lease.Request{Task: "t-1", Agent: "helper", Source: "iam-helpdesk",
		Audience: r.source.Recipe.Origin, Account: r.source.Account, Purpose: "reset-mfa", Until: time.Now().Add(time.Hour)})
}

// alive asks the application how many sessions exist.
func (r *rig) alive() int {
	r.t.Helper()
	n := 0
	for _, ss := range r.estate.Copy(estate.Production).State().Sessions {
		n += len(ss)
	}
	return n
}

func (r *rig) types() string {
	var out []string
	for _, e := range r.log.All() {
		out = append(out, strings.TrimPrefix(e.Type, "lease."))
	}
	return strings.Join(out, " ")
}

func TestLeaseLivesAndEnds(t *testing.T) {
	r := newRig(t)
	k := r.keeper()
	l, secret, err := r.issue(k)
	if err != nil {
		t.Fatal(err)
	}
	if r.alive() != 1 {
		t.Fatalf("got %d sessions, want 1", r.alive())
	}
	if cs, err := lease.ParseCookies(secret); err != nil || len(cs) == 0 {
		t.Fatalf("got %v %v", cs, err)
	}
	if err := k.End(t.Context(), "t-other"); err != nil || r.alive() != 1 {
		t.Errorf("ending another task: %v, %d sessions", err, r.alive())
	}
	if err := k.End(t.Context(), l.Task); err != nil {
		t.Fatal(err)
	}
	if r.alive() != 0 {
		t.Errorf("got %d sessions after the end, want 0", r.alive())
	}
	if got := r.types(); got != "requested issued revoking revoked" {
		t.Errorf("got records %q", got)
	}
	// Neither password nor cookie is in a record, and the state forgot them.
	cs, _ := lease.ParseCookies(secret)
	for _, e := range r.log.All() {
		for _, c := range append(cs, lease.Cookie{Value: r.estate.Credentials(estate.Production, estate.IAM).Password.Reveal()}) {
			if strings.Contains(string(e.Body), c.Value) {
				t.Errorf("a secret is in record %s", e.Type)
			}
		}
	}
	if err := r.log.View(t.Context(), func(tx record.Tx) error {
		var kept lease.Lease
		if err := tx.Get("lease.over", l.ID, &kept); err != nil || kept.Sealed != nil {
			t.Errorf("got %v, sealed %d bytes", err, len(kept.Sealed))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// A process dies after any of its records. The next one finds what it left.
func TestCrashAtEveryRecordLeavesNothingAlive(t *testing.T) {
	for crash := 1; crash <= 4; crash++ {
		t.Run(fmt.Sprintf("after_record_%d", crash), func(t *testing.T) {
			r := newRig(t)
			n := 0
			r.log.Fail = func(record.Draft) error {
				if n++; n > crash {
					return errors.New("killed")
				}
				return nil
			}
			k := r.keeper()
			if l, _, err := r.issue(k); err == nil {
				_ = k.End(t.Context(), l.Task)
			}
			r.log.Fail = nil
			if err := r.keeper().Recover(t.Context()); err != nil {
				t.Fatal(err)
			}
			if r.alive() != 0 {
				t.Errorf("%d sessions are alive; records: %s", r.alive(), r.types())
			}
			open, err := r.keeper().Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range open { // its session may come late
				if crash != 1 || l.Attempts > 0 || !l.Lasts.After(time.Now()) {
					t.Errorf("open: %+v", l)
				}
			}
		})
	}
}

// The process died between sign-in and its record, with the cookie in memory
// only: the session is found by its label.
func TestOrphanIsFoundByItsLabel(t *testing.T) {
	r := newRig(t)
	const label = leasetest.Prefix + "l-1"
	if _, err := r.source.Issue(t.Context(), lease.Order{Label: label}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.source.Issue(t.Context(), lease.Order{Label: "somebody else's browser"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.log.Append(t.Context(), record.Draft{Type: "lease.requested", Change: func(tx record.Tx) error {
		return tx.Put("lease", "l-1", lease.Lease{ID: "l-1", Label: label, Task: "t-1", Source: "iam-helpdesk", State: lease.Requested})
	}}); err != nil {
		t.Fatal(err)
	}
	if err := r.keeper().Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.alive(); got != 1 {
		t.Errorf("got %d sessions, want only the other one", got)
	}
}

func TestUpstreamDownIsVisibleAndTriedAgain(t *testing.T) {
	r := newRig(t)
	k := r.keeper()
	l, _, err := r.issue(k)
	if err != nil {
		t.Fatal(err)
	}
	r.broken.Store(true)
	if err := k.End(t.Context(), l.Task); err == nil {
		t.Fatal("an unreachable upstream confirmed a revocation")
	}
	open, err := k.Open(t.Context())
	if err != nil || len(open) != 1 || open[0].State != lease.Revoking || open[0].Why == "" {
		t.Fatalf("got %+v %v", open, err)
	}
	r.broken.Store(false)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	go k.Run(ctx)
	for r.alive() != 0 && ctx.Err() == nil {
		time.Sleep(20 * time.Millisecond)
	}
	if r.alive() != 0 {
		t.Error("the revocation was not tried again")
	}
}

// A target that says yes to a sign-out and ends nothing is found out.
func TestRevocationThatDidNothing(t *testing.T) {
	r := newRig(t)
	k := r.keeper()
	l, _, err := r.issue(k)
	if err != nil {
		t.Fatal(err)
	}
	r.source.Recipe.LogoutPath = "/login" // answers, ends nothing
	r.source.Recipe.RevokePath = "/account/sessions/none-{id}/revoke"
	if err := k.End(t.Context(), l.Task); err == nil {
		t.Error("a revocation without effect was confirmed")
	}
	if r.alive() == 0 {
		t.Error("the rig did not do what the test is about")
	}
}

func TestNoRecordNoLease(t *testing.T) {
	r := newRig(t)
	r.log.Fail = func(record.Draft) error { return errors.New("disk full") }
	if _, secret, err := r.issue(r.keeper()); err == nil || secret != nil {
		t.Error("got a credential without a record")
	}
	if r.alive() != 0 {
		t.Error("signed in before the record was durable")
	}
}

// The ledger cannot write any more: the session is ended all the same, and the
// lease stays open until that can be recorded.
func TestEndedWithoutALedger(t *testing.T) {
	r := newRig(t)
	k := r.keeper()
	l, _, err := r.issue(k)
	if err != nil {
		t.Fatal(err)
	}
	r.log.Fail = func(record.Draft) error { return errors.New("disk full") }
	if err := k.End(t.Context(), l.Task); err == nil {
		t.Error("an end that was not recorded counts as confirmed")
	}
	if r.alive() != 0 {
		t.Error("a full disk keeps a session alive")
	}
	r.log.Fail = nil
	if err := k.End(t.Context(), l.Task); err != nil {
		t.Fatal(err)
	}
	if open, _ := k.Open(t.Context()); len(open) != 0 {
		t.Errorf("got %v, want none open", open)
	}
}

// TestLeaseOfAnotherTenant: whoever knows the id, the label, the task and the
// credential of a lease of another tenant, at the same application, neither uses,
// nor ends, nor counts, nor sweeps it away.
//
// Threats: K3 (lease)
func TestLeaseOfAnotherTenant(t *testing.T) {
	r := newRig(t)
	l, secret, err := r.issue(r.keeper())
	if err != nil {
		t.Fatal(err)
	}
	log := gatetest.NewLog("northgate")
	revoked := 0
	other := lease.New(lease.Config{Log: log, Seal: leasetest.Plain{}, Prefix: "sallyport-0ther-", IDs: func() string { return l.ID },
		Find: func(context.Context, lease.Lease) (lease.Source, error) {
			return &telling{r.source, []string{l.Label}, &revoked}, nil
		},
		Upstreams: func() []lease.Upstream { return []lease.Upstream{{Source: l.Source, Audience: l.Audience}} }})
	if err := other.EndOne(t.Context(), l.ID); err == nil {
		t.Error("another tenant ended the lease by its id")
	}
	if err := other.Use(t.Context(), l, "a-1"); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("another tenant used the lease: %v", err)
	}
	if err := errors.Join(other.End(t.Context(), l.Task), other.Sweep(t.Context()), other.Recover(t.Context())); err != nil {
		t.Error(err)
	}
	if all, err := other.All(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("another tenant sees %v, %v", all, err)
	}
	if revoked != 0 || r.alive() != 1 || r.source.Confirm(t.Context(), lease.Credential{Label: l.Label, Secret: secret}) == nil {
		t.Errorf("%d revocations, %d sessions", revoked, r.alive())
	}
	for _, e := range log.All() {
		t.Errorf("record %s of another tenant", e.Type)
	}
	// Its own lease, of the very same id, ends alone.
	if _, _, err := other.Issue(t.Context(), lease.Request{Task: l.Task, Agent: l.Agent, Source: l.Source, Audience: l.Audience, Account: l.Account, Purpose: l.Purpose, Until: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if err := other.End(t.Context(), l.Task); err != nil || revoked != 1 || r.alive() != 1 {
		t.Errorf("%v; %d revocations, %d sessions, want the first tenant's", err, revoked, r.alive())
	}
}

// telling is a source that lists more than it is asked for.
type telling struct {
	*lease.Form
	labels  []string
	revoked *int
}

func (h *telling) List(context.Context, string) ([]string, error) { return h.labels, nil }

func (h *telling) Revoke(ctx context.Context, c lease.Credential) error {
	*h.revoked++
	return h.Form.Revoke(ctx, c)
}

func TestWrongPasswordIsNeverIssued(t *testing.T) {
	r := newRig(t)
	r.source.Password = func(context.Context) ([]byte, error) { return []byte("wrong"), nil }
	_, _, err := r.issue(r.keeper())
	if !errors.Is(err, lease.ErrNotIssued) || strings.Contains(err.Error(), "wrong") {
		t.Errorf("got %v", err)
	}
	if open, _ := r.keeper().Open(t.Context()); len(open) != 0 {
		t.Errorf("got %v, want none open", open)
	}
}

func TestSealedValueStaysInItsPlace(t *testing.T) {
	r := newRig(t)
	k := r.keeper()
	l, _, err := r.issue(k)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.log.Append(t.Context(), record.Draft{Type: "tamper", Change: func(tx record.Tx) error {
		var kept lease.Lease
		if err := tx.Get("lease", l.ID, &kept); err != nil {
			return err
		}
		kept.Sealed = append([]byte("lease/other\x00"), kept.Sealed...)
		b, err := json.Marshal(kept)
		if err != nil {
			return err
		}
		return tx.Put("lease", l.ID, json.RawMessage(b))
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.End(t.Context(), l.Task); err == nil {
		t.Error("a credential sealed for another lease was used")
	}
}

// held is a source whose sign-in takes until it is let go.
type held struct {
	lease.Source
	began, release chan struct{}
}

func (h held) Issue(ctx context.Context, o lease.Order) ([]byte, error) {
	close(h.began)
	<-h.release
	return h.Source.Issue(ctx, o)
}

// The task ends while its credential comes into being. End waits for it and ends
// it: it must not take "nothing there yet" for "ended".
//
// Threats: T57 (lease)
func TestEndDuringIssue(t *testing.T) {
	r := newRig(t)
	h := held{r.source, make(chan struct{}), make(chan struct{})}
	k := lease.New(lease.Config{Log: r.log, Seal: leasetest.Plain{}, Prefix: leasetest.Prefix, IDs: func() string { return "l-1" },
		Find: func(context.Context, lease.Lease) (lease.Source, error) { return h, nil }})
	issued := make(chan error, 1)
	go func() { _, _, err := r.issue(k); issued <- err }()
	<-h.began
	ended := make(chan error, 1)
	go func() { ended <- k.End(t.Context(), "t-1") }()
	select {
	case err := <-ended:
		t.Errorf("the end did not wait: %v", err)
	case <-time.After(50 * time.Millisecond): // time for an end that does not wait
	}
	close(h.release)
	if err := <-issued; err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if got, want := r.types(), "requested issued revoking revoked"; got != want || r.alive() != 0 {
		t.Errorf("got %q and %d sessions, want %q and none", got, r.alive(), want)
	}
}

// A task that is over when the request would be recorded gets nothing.
//
// Threats: T57 (lease)
func TestNoLeaseForATaskThatEnded(t *testing.T) {
	r := newRig(t)
	over := errors.New("the task is over")
	_, secret, err := r.keeper().Issue(t.Context(), lease.Request{Task: "t-1", Agent: "helper", Source: "iam-helpdesk",
		Audience: r.source.Recipe.Origin, Account: r.source.Account, Purpose: "reset-mfa", Until: time.Now().Add(time.Hour), Live: func(record.Tx) error { return over }})
	if !errors.Is(err, over) || secret != nil || r.types() != "" || r.alive() != 0 {
		t.Errorf("got %v, records %q, %d sessions", err, r.types(), r.alive())
	}
}

// The application says that sessions are ended and they are not, for a while.
// What the attempts opened themselves must not outlive the lease either.
func TestAttemptsLeaveNothingBehind(t *testing.T) {
	r := newRig(t)
	k := r.keeper()
	if _, _, err := r.issue(k); err != nil {
		t.Fatal(err)
	}
	r.lying.Store(true)
	for range 3 {
		if err := k.End(t.Context(), "t-1"); err == nil {
			t.Fatal("a revocation that did nothing counts as one")
		}
	}
	if r.alive() < 2 {
		t.Fatalf("%d sessions: the attempts opened none, so nothing is tested", r.alive())
	}
	r.lying.Store(false)
	if err := k.End(t.Context(), "t-1"); err != nil {
		t.Fatal(err)
	}
	if r.alive() != 0 {
		t.Errorf("%d sessions outlive the lease", r.alive())
	}
}
