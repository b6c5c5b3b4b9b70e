package approval_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/receipt"
)

// The whole way: asked, signed, granted, used once, and checkable from the
// record alone.
func TestGrantAndUse(t *testing.T) {
	f := newFixture(t)
	k := newKey(t)
	f.person("jo", k)
	s := f.request(draft())
	f.pass(42 * time.Second)
	a, err := f.grant(s, "jo", k)
	if err != nil || a.State != approval.Granted {
		t.Fatalf("grant: got %s, %v", a.State, err)
	}
	if err := f.use(s.Nonce, s.Digest); err != nil {
		t.Fatalf("use: got %v", err)
	}
	f.wantState(s.Nonce, approval.Used)
	f.want(f.use(s.Nonce, s.Digest), "used")
	if n := len(f.entries("action.decided")); n != 1 {
		t.Errorf("releases: got %d, want 1", n)
	}

	g := f.entries("hold.approved")
	if len(g) != 1 || g[0]["tookMillis"] != 42000.0 || g[0]["person"] != "jo" || g[0]["complete"] != true {
		t.Fatalf("record: got %v", g)
	}
	msg, err := canon.Marshal(g[0]["statement"])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := receipt.VerifySSHSIG(msg, []byte(g[0]["signature"].(string)), approval.Namespace, []string{line(k)}, receipt.SSHPolicy{}); err != nil {
		t.Errorf("signature, from the record alone: got %v", err)
	}
	if back, err := approval.ParseStatement(msg); err != nil || back.Nonce != s.Nonce {
		t.Errorf("statement, from the record alone: got %v, %v", back, err)
	}
}

// The effect happens in the transaction that grants, or neither does.
func TestGrantReleasesInOneTransaction(t *testing.T) {
	f := newFixture(t)
	k := newKey(t)
	f.person("jo", k)
	s := f.request(draft())
	boom := errors.New("release failed")
	_, err := f.eng.Grant(t.Context(), s.Nonce, "jo", f.sign(s, k), func(record.Tx, approval.Statement) error { return boom })
	if !errors.Is(err, boom) {
		t.Errorf("got %v, want the cause", err)
	}
	f.wantState(s.Nonce, approval.Pending)
	if n := len(f.entries("hold.approved")); n != 0 {
		t.Errorf("records of a grant that did not happen: %d", n)
	}
	a, err := f.eng.Grant(t.Context(), s.Nonce, "jo", f.sign(s, k), func(tx record.Tx, s approval.Statement) error {
		return tx.Put("released", s.Nonce, s.Digest)
	})
	if err != nil || a.State != approval.Used {
		t.Fatalf("grant: got %s, %v", a.State, err)
	}
	f.want(f.use(s.Nonce, s.Digest), "used")
}

// The inbox holds what is open; what is over is found where it went.
func TestListByState(t *testing.T) {
	f := newFixture(t)
	k := newKey(t)
	f.person("jo", k)
	pending, granted, used, rejected := f.request(draft()), f.request(draft()), f.request(draft()), f.request(draft())
	for _, s := range []approval.Statement{granted, used} {
		if _, err := f.grant(s, "jo", k); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.use(used.Nonce, used.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := f.eng.Reject(t.Context(), rejected.Nonce, "jo", "", nil); err != nil {
		t.Fatal(err)
	}
	for state, want := range map[approval.State]string{
		approval.Pending: pending.Nonce, approval.Granted: granted.Nonce, approval.Used: used.Nonce, approval.Rejected: rejected.Nonce, approval.Expired: "",
	} {
		var got []string
		if err := f.eng.List(t.Context(), state, func(a approval.Approval) error { got = append(got, a.ID()); return nil }); err != nil {
			t.Fatal(err)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %v, want %s", state, got, want)
		}
	}
}

// Two people are needed. One person has two keys, and two accounts.
func TestQuorum(t *testing.T) {
	f := newFixture(t)
	k1, k2, k3, k4 := newKey(t), newKey(t), newKey(t), newKey(t)
	f.put(approval.Person{Name: "jo", Roles: []string{"approver"}, Keys: []string{line(k1), line(k2)}, Accounts: []string{"uid:7"}})
	f.put(approval.Person{Name: "jo-admin", Roles: []string{"approver"}, Keys: []string{line(k3)}, Accounts: []string{"uid:7"}})
	f.person("kim", k4)
	d := draft()
	d.Statement.Quorum = 2
	s := f.request(d)
	if a, err := f.grant(s, "jo", k1); err != nil || a.State != approval.Pending {
		t.Fatalf("first: got %s, %v", a.State, err)
	}
	f.want(f.use(s.Nonce, s.Digest), "not_granted")
	_, err := f.grant(s, "jo", k2)
	f.want(err, "already_signed")
	_, err = f.grant(s, "jo-admin", k3)
	f.want(err, "already_signed")

	// The first leaves before the second signs: one is not two.
	f.put(approval.Person{Name: "jo", Roles: []string{"auditor"}, Keys: []string{line(k1)}})
	if a, err := f.grant(s, "kim", k4); err != nil || a.State != approval.Pending {
		t.Errorf("second, after the first left: got %s, %v, want pending", a.State, err)
	}
	f.put(approval.Person{Name: "lee", Roles: []string{"approver"}, Keys: []string{line(k2)}})
	if a, err := f.grant(s, "lee", k2); err != nil || a.State != approval.Granted {
		t.Errorf("third: got %s, %v, want granted", a.State, err)
	}

	// An approver leaves between grant and use.
	f.person("kim")
	f.want(f.use(s.Nonce, s.Digest), "quorum_lost")
	f.person("kim", k4)
	if err := f.use(s.Nonce, s.Digest); err != nil {
		t.Errorf("use: got %v", err)
	}
}

// What is not recorded did not happen.
//
// Threats: T55 (ledger)
func TestLedgerDown(t *testing.T) {
	f := newFixture(t)
	k := newKey(t)
	f.person("jo", k)
	s := f.request(draft())
	f.log.down.Store(true)
	if _, err := f.grant(s, "jo", k); err == nil {
		t.Error("grant: got no error")
	}
	if _, err := f.eng.Reject(t.Context(), s.Nonce, "jo", "no", nil); err == nil {
		t.Error("reject: got no error")
	}
	if _, err := f.eng.Request(t.Context(), draft()); err == nil {
		t.Error("request: got no error")
	}
	f.wantState(s.Nonce, approval.Pending)
	f.log.down.Store(false)
	if _, err := f.grant(s, "jo", k); err != nil {
		t.Errorf("afterwards: got %v", err)
	}
}

func TestReject(t *testing.T) {
	f := newFixture(t)
	f.person("jo", newKey(t))
	f.put(approval.Person{Name: "rob", Roles: []string{"requester"}})
	f.put(approval.Person{Name: "eve", Roles: []string{"auditor"}})
	s := f.request(draft())
	_, err := f.eng.Reject(t.Context(), s.Nonce, "eve", "no", nil)
	f.want(err, "role_missing")
	_, err = f.eng.Reject(t.Context(), s.Nonce, "ghost", "no", nil)
	f.want(err, "unknown_person")
	f.wantState(s.Nonce, approval.Pending)
	if a, err := f.eng.Reject(t.Context(), s.Nonce, "rob", "not needed "+strings.Repeat("é", 400), nil); err != nil || a.State != approval.Rejected || len(a.Reason) > 510 {
		t.Errorf("withdrawal by the requester: got %s, %v, %d bytes", a.State, err, len(a.Reason))
	}
	_, err = f.eng.Reject(t.Context(), s.Nonce, "jo", "no", nil)
	f.want(err, "not_pending")
}

func TestRecordTypesWithoutHold(t *testing.T) {
	f := newFixture(t)
	k := newKey(t)
	f.person("jo", k)
	d := draft()
	d.Hold = false
	s := f.request(d)
	if _, err := f.grant(s, "jo", k); err != nil {
		t.Fatal(err)
	}
	if len(f.entries("approval.requested")) != 1 || len(f.entries("approval.granted")) != 1 {
		t.Error("want approval.requested and approval.granted on record")
	}
}
