package approval_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
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

// ssh-keygen signs the bytes that we print, for every key type that counts;
// and it accepts what Sign made.
func TestSSHKeygen(t *testing.T) {
	dir := t.TempDir()
	run := func(stdin []byte, args ...string) []byte {
		t.Helper()
		cmd := exec.Command("ssh-keygen", args...)
		cmd.Stdin = strings.NewReader(string(stdin))
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("ssh-keygen %v: %v", args, err)
		}
		return out
	}
	for _, kind := range []string{"ed25519", "ecdsa"} {
		f := newFixture(t)
		path := filepath.Join(dir, kind)
		run(nil, "-q", "-t", kind, "-N", "", "-C", "jo", "-f", path)
		pub, err := os.ReadFile(path + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		f.put(approval.Person{Name: "jo", Roles: []string{"approver"}, Keys: []string{string(pub)}})
		s := f.request(draft())
		msg, err := s.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, kind+".statement")
		if err := os.WriteFile(file, msg, 0o600); err != nil {
			t.Fatal(err)
		}
		run(nil, "-Y", "sign", "-n", approval.Namespace, "-f", path, file)
		sig, err := os.ReadFile(file + ".sig")
		if err != nil {
			t.Fatal(err)
		}
		if a, err := f.eng.Grant(t.Context(), s.Nonce, "jo", sig, nil); err != nil || a.State != approval.Granted {
			t.Errorf("%s: signature by ssh-keygen: got %s, %v", kind, a.State, err)
		}

		private, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := ssh.ParsePrivateKey(private)
		if err != nil {
			t.Fatal(err)
		}
		ours := filepath.Join(dir, kind+".ours")
		if err := os.WriteFile(ours, f.sign(s, signer), 0o600); err != nil {
			t.Fatal(err)
		}
		allowed := filepath.Join(dir, kind+".allowed")
		if err := os.WriteFile(allowed, []byte("jo "+string(pub)), 0o600); err != nil {
			t.Fatal(err)
		}
		run(msg, "-Y", "verify", "-n", approval.Namespace, "-f", allowed, "-I", "jo", "-s", ours)

		// The same key and bytes, for another purpose.
		os.Remove(file + ".sig")
		run(nil, "-Y", "sign", "-n", "file", "-f", path, file)
		other, err := os.ReadFile(file + ".sig")
		if err != nil {
			t.Fatal(err)
		}
		s2 := f.request(draft())
		_, err = f.eng.Grant(t.Context(), s2.Nonce, "jo", other, nil)
		f.want(err, "signature_invalid")
	}
}

// A key that only a running ssh-agent holds.
func TestSSHAgent(t *testing.T) {
	f := newFixture(t)
	dir, err := os.MkdirTemp("", "spag")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	sock := filepath.Join(dir, "s")
	cmd := exec.Command("ssh-agent", "-D", "-a", sock)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	var conn net.Conn
	for limit := time.Now().Add(20 * time.Second); ; {
		if conn, err = net.Dial("unix", sock); err == nil {
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("ssh-agent does not answer: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	defer conn.Close()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := agent.NewClient(conn)
	if err := c.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		t.Fatal(err)
	}
	keys, err := c.Signers()
	if err != nil || len(keys) != 1 {
		t.Fatalf("keys of the agent: got %d, %v", len(keys), err)
	}
	f.person("jo", keys[0])
	if a, err := f.grant(f.request(draft()), "jo", keys[0]); err != nil || a.State != approval.Granted {
		t.Errorf("got %s, %v", a.State, err)
	}
}

// Types of keys that do not count are refused before anything is signed.
func TestSignRefusesWeakKeys(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := approval.Sign(shown(), k); err == nil {
		t.Error("RSA: signed, want an error")
	}
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
	if _, err := f.eng.Reject(t.Context(), rejected.Nonce, "jo", ""); err != nil {
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

// Each case differs from a good approval in one thing.
func TestGrantRefusals(t *testing.T) {
	jo, eve := newKey(t), newKey(t)
	for name, c := range map[string]struct {
		code string
		try  func(f *fixture) error
	}{
		"key_of_nobody": {"signature_invalid", func(f *fixture) error {
			_, err := f.grant(f.request(draft()), "jo", eve)
			return err
		}},
		"key_of_another_person": {"key_not_theirs", func(f *fixture) error {
			f.person("eve", eve)
			_, err := f.grant(f.request(draft()), "jo", eve)
			return err
		}},
		"unknown_person": {"unknown_person", func(f *fixture) error {
			_, err := f.grant(f.request(draft()), "nobody", jo)
			return err
		}},
		"name_in_other_case": {"unknown_person", func(f *fixture) error {
			_, err := f.grant(f.request(draft()), "Jo", jo)
			return err
		}},
		"key_of_two_people": {"key_shared", func(f *fixture) error {
			f.person("eve", eve, jo)
			_, err := f.grant(f.request(draft()), "jo", jo)
			return err
		}},
		"key_removed_since_the_request": {"signature_invalid", func(f *fixture) error {
			s := f.request(draft())
			sig := f.sign(s, jo)
			f.person("jo")
			_, err := f.eng.Grant(f.Context(), s.Nonce, "jo", sig, nil)
			return err
		}},
		"role_missing": {"role_missing", func(f *fixture) error {
			f.put(approval.Person{Name: "jo", Roles: []string{"approver2", "Approver"}, Keys: []string{line(jo)}})
			_, err := f.grant(f.request(draft()), "jo", jo)
			return err
		}},
		"self_approval_by_requester": {"excluded", func(f *fixture) error {
			d := draft()
			d.Requester = "jo"
			_, err := f.grant(f.request(d), "jo", jo)
			return err
		}},
		"self_approval_by_author": {"excluded", func(f *fixture) error {
			d := draft()
			d.Statement.Excluded = []string{"zed", "jo"}
			_, err := f.grant(f.request(d), "jo", jo)
			return err
		}},
		"self_approval_by_second_account": {"excluded", func(f *fixture) error {
			f.put(approval.Person{Name: "rob", Accounts: []string{"uid:1001"}})
			f.put(approval.Person{Name: "jo", Roles: []string{"approver"}, Keys: []string{line(jo)}, Accounts: []string{"oidc:jo", "uid:1001"}})
			_, err := f.grant(f.request(draft()), "jo", jo)
			return err
		}},
		"self_approval_under_a_new_name": {"excluded", func(f *fixture) error {
			f.put(approval.Person{Name: "rob", Accounts: []string{"uid:1001"}})
			s := f.request(draft())
			f.put(approval.Person{Name: "rob"})
			f.put(approval.Person{Name: "jo", Roles: []string{"approver"}, Keys: []string{line(jo)}, Accounts: []string{"UID:1001"}})
			_, err := f.grant(s, "jo", jo)
			return err
		}},
		"after_expiry": {"expired", func(f *fixture) error {
			s := f.request(draft())
			f.pass(time.Hour)
			_, err := f.grant(s, "jo", jo)
			return err
		}},
		"before_its_time": {"not_yet_valid", func(f *fixture) error {
			d := draft()
			d.Statement.NotBefore = time.Unix(0, f.now.Load()).Add(time.Minute)
			_, err := f.grant(f.request(d), "jo", jo)
			return err
		}},
		"clock_back": {"not_yet_valid", func(f *fixture) error {
			s := f.request(draft())
			f.pass(-time.Hour)
			_, err := f.grant(s, "jo", jo)
			return err
		}},
		"replay_on_another_request": {"signature_invalid", func(f *fixture) error {
			first, second := f.request(draft()), f.request(draft())
			_, err := f.eng.Grant(f.Context(), second.Nonce, "jo", f.sign(first, jo), nil)
			return err
		}},
		"replay_on_another_task": {"signature_invalid", func(f *fixture) error {
			s := f.request(draft())
			d := draft()
			d.Statement.Task = "t-2"
			other := f.request(d)
			_, err := f.eng.Grant(f.Context(), other.Nonce, "jo", f.sign(s, jo), nil)
			return err
		}},
		"changed_parameter": {"signature_invalid", func(f *fixture) error {
			s := f.request(draft())
			changed := s
			changed.Params = map[string]string{"user": "nora"}
			_, err := f.eng.Grant(f.Context(), s.Nonce, "jo", f.sign(changed, jo), nil)
			return err
		}},
		"changed_exclusion": {"signature_invalid", func(f *fixture) error {
			s := f.request(draft())
			changed := s
			changed.Excluded = nil
			_, err := f.eng.Grant(f.Context(), s.Nonce, "jo", f.sign(changed, jo), nil)
			return err
		}},
		"rejected_before": {"not_pending", func(f *fixture) error {
			s := f.request(draft())
			if _, err := f.eng.Reject(f.Context(), s.Nonce, "jo", "no"); err != nil {
				return err
			}
			_, err := f.grant(s, "jo", jo)
			return err
		}},
		"task_ended_before": {"not_pending", func(f *fixture) error {
			s := f.request(draft())
			if err := f.eng.CancelTask(f.Context(), "t-1", "killed"); err != nil {
				return err
			}
			_, err := f.grant(s, "jo", jo)
			return err
		}},
		"unknown_id": {"not_found", func(f *fixture) error {
			_, err := f.eng.Grant(f.Context(), strings.Repeat("a", 26), "jo", nil, nil)
			return err
		}},
		"malformed_id": {"not_found", func(f *fixture) error {
			_, err := f.eng.Grant(f.Context(), "../person/jo", "jo", nil, nil)
			return err
		}},
		"no_signature": {"signature_invalid", func(f *fixture) error {
			_, err := f.eng.Grant(f.Context(), f.request(draft()).Nonce, "jo", nil, nil)
			return err
		}},
		"security_key_not_touched": {"signature_invalid", func(f *fixture) error {
			k := newSecurityKey(t, 0)
			f.person("jo", k)
			_, err := f.grant(f.request(draft()), "jo", k)
			return err
		}},
		"software_key_where_verification_is_required": {"user_verification", func(f *fixture) error {
			d := draft()
			d.Statement.UserVerification = true
			_, err := f.grant(f.request(d), "jo", jo)
			return err
		}},
		"touch_where_verification_is_required": {"user_verification", func(f *fixture) error {
			k := newSecurityKey(t, 1)
			f.person("jo", k)
			d := draft()
			d.Statement.UserVerification = true
			_, err := f.grant(f.request(d), "jo", k)
			return err
		}},
		"flags_changed_after_signing": {"signature_invalid", func(f *fixture) error {
			k := newSecurityKey(t, 1)
			f.person("jo", k)
			d := draft()
			d.Statement.UserVerification = true
			s := f.request(d)
			_, err := f.grant(s, "jo", flagsForged{k})
			return err
		}},
		"key_with_options": {"signature_invalid", func(f *fixture) error {
			f.put(approval.Person{Name: "jo", Roles: []string{"approver"}, Keys: []string{"no-touch-required " + line(jo)}})
			_, err := f.grant(f.request(draft()), "jo", jo)
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.person("jo", jo)
			f.want(c.try(f), c.code)
			refused := f.entries("approval.refused")
			if len(refused) != 1 || refused[0]["code"] != c.code {
				t.Errorf("refusal on record: got %v, want one %s", refused, c.code)
			}
			if n := len(f.entries("hold.approved")); n != 0 {
				t.Errorf("grants on record: got %d", n)
			}
		})
	}
}

// flagsForged claims user verification for a signature that was only touched.
type flagsForged struct{ *securityKey }

func (k flagsForged) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	s, err := k.securityKey.Sign(nil, data)
	s.Rest[0] |= 4
	return s, err
}

func TestSecurityKeyVerifiedUser(t *testing.T) {
	f := newFixture(t)
	k := newSecurityKey(t, 5)
	f.person("jo", k)
	d := draft()
	d.Statement.UserVerification = true
	if a, err := f.grant(f.request(d), "jo", k); err != nil || a.State != approval.Granted {
		t.Fatalf("got %s, %v", a.State, err)
	}
	if g := f.entries("hold.approved")[0]; g["userVerified"] != true || g["counter"] != 42.0 {
		t.Errorf("record: got %v", g)
	}
}

// A signature for one tenant is shown to another that has the same people and
// even the same request.
func TestReplayOnAnotherTenant(t *testing.T) {
	l, _ := ledgertest.NewLedger(t)
	k := newKey(t)
	var fs []*fixture
	for _, tenant := range []string{"a", "b"} {
		log, err := l.Create(t.Context(), tenant, tenant+".example/log")
		if err != nil {
			t.Fatal(err)
		}
		f := fixtureOn(t, log)
		f.person("jo", k)
		fs = append(fs, f)
	}
	sa, sb := fs[0].request(draft()), fs[1].request(draft())
	_, err := fs[1].eng.Grant(t.Context(), sa.Nonce, "jo", fs[0].sign(sa, k), nil)
	fs[1].want(err, "not_found")
	_, err = fs[1].eng.Grant(t.Context(), sb.Nonce, "jo", fs[0].sign(sa, k), nil)
	fs[1].want(err, "signature_invalid")
	forged := sb
	forged.Tenant = "a"
	_, err = fs[1].eng.Grant(t.Context(), sb.Nonce, "jo", fs[1].sign(forged, k), nil)
	fs[1].want(err, "signature_invalid")
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

func TestUseRefusals(t *testing.T) {
	f := newFixture(t)
	k := newKey(t)
	f.person("jo", k)
	s := f.request(draft())
	f.want(f.use(s.Nonce, s.Digest), "not_granted")
	if _, err := f.grant(s, "jo", k); err != nil {
		t.Fatal(err)
	}
	f.want(f.use(s.Nonce, canon.Digest([]byte("another request"))), "digest_mismatch")
	f.want(f.use(s.Nonce, ""), "digest_mismatch")
	f.pass(time.Hour)
	f.want(f.use(s.Nonce, s.Digest), "expired")
	if err := f.eng.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.wantState(s.Nonce, approval.Expired)
	f.want(f.use(s.Nonce, s.Digest), "not_granted")
	if n := len(f.entries("hold.expired")); n != 1 {
		t.Errorf("expiries on record: got %d, want 1", n)
	}
}

// Many approve at once, on two nodes, where one is enough: exactly one wins,
// and the effect happens once.
func TestConcurrentGrants(t *testing.T) {
	f := newFixture(t)
	const n = 8
	keys := make([]ssh.Signer, n)
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	for i := range keys {
		keys[i] = newKey(t)
		f.person(names[i], keys[i])
	}
	s := f.request(draft())
	nodes := []*approval.Engine{f.eng, f.engine()}
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		sig := f.sign(s, keys[i])
		wg.Go(func() {
			_, errs[i] = nodes[i%2].Grant(t.Context(), s.Nonce, names[i], sig, func(tx record.Tx, s approval.Statement) error {
				return tx.Put("released", names[i], s.Digest)
			})
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		f.want(err, "not_pending")
	}
	released := 0
	if err := f.log.View(t.Context(), func(tx record.Tx) error {
		return tx.List("released", func(string, []byte) error { released++; return nil })
	}); err != nil {
		t.Fatal(err)
	}
	if won != 1 || released != 1 || len(f.entries("hold.approved")) != 1 {
		t.Errorf("got %d winners, %d releases, %d records, want one of each", won, released, len(f.entries("hold.approved")))
	}
}

// Two of three sign at once: both count, and the quorum is reached once.
func TestConcurrentQuorum(t *testing.T) {
	f := newFixture(t)
	d := draft()
	d.Statement.Quorum = 3
	s := f.request(d)
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c"} {
		k := newKey(t)
		f.person(name, k)
		sig := f.sign(s, k)
		wg.Go(func() {
			if _, err := f.eng.Grant(t.Context(), s.Nonce, name, sig, nil); err != nil {
				t.Errorf("%s: got %v", name, err)
			}
		})
	}
	wg.Wait()
	f.wantState(s.Nonce, approval.Granted)
	complete := 0
	for _, g := range f.entries("hold.approved") {
		if g["complete"] == true {
			complete++
		}
	}
	if complete != 1 {
		t.Errorf("records that complete the quorum: got %d, want 1", complete)
	}
}

func TestConcurrentUse(t *testing.T) {
	f := newFixture(t)
	k := newKey(t)
	f.person("jo", k)
	s := f.request(draft())
	if _, err := f.grant(s, "jo", k); err != nil {
		t.Fatal(err)
	}
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = f.use(s.Nonce, s.Digest) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			f.want(err, "used")
		}
	}
	if won != 1 || len(f.entries("action.decided")) != 1 {
		t.Errorf("got %d uses and %d releases, want one", won, len(f.entries("action.decided")))
	}
}

// What is not recorded did not happen.
func TestLedgerDown(t *testing.T) {
	f := newFixture(t)
	k := newKey(t)
	f.person("jo", k)
	s := f.request(draft())
	f.log.down.Store(true)
	if _, err := f.grant(s, "jo", k); err == nil {
		t.Error("grant: got no error")
	}
	if _, err := f.eng.Reject(t.Context(), s.Nonce, "jo", "no"); err == nil {
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
	_, err := f.eng.Reject(t.Context(), s.Nonce, "eve", "no")
	f.want(err, "role_missing")
	_, err = f.eng.Reject(t.Context(), s.Nonce, "ghost", "no")
	f.want(err, "unknown_person")
	f.wantState(s.Nonce, approval.Pending)
	if a, err := f.eng.Reject(t.Context(), s.Nonce, "rob", "not needed "+strings.Repeat("é", 400)); err != nil || a.State != approval.Rejected || len(a.Reason) > 510 {
		t.Errorf("withdrawal by the requester: got %s, %v, %d bytes", a.State, err, len(a.Reason))
	}
	_, err = f.eng.Reject(t.Context(), s.Nonce, "jo", "no")
	f.want(err, "not_pending")
}

// Whoever waits for a person is woken by the decision, here or on another
// node, and by the clock.
func TestWait(t *testing.T) {
	f := newFixture(t)
	k := newKey(t)
	f.person("jo", k)
	wait := func(s approval.Statement) <-chan approval.State {
		c := make(chan approval.State, 1)
		go func() {
			a, err := f.eng.Wait(t.Context(), s.Nonce)
			if err != nil {
				t.Errorf("wait: %v", err)
			}
			c <- a.State
		}()
		return c
	}
	got := func(c <-chan approval.State, want approval.State) {
		t.Helper()
		select {
		case s := <-c:
			if s != want {
				t.Errorf("woken: got %s, want %s", s, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("not woken in 20 s")
		}
	}
	s := f.request(draft())
	c := wait(s)
	if _, err := f.engine().Grant(t.Context(), s.Nonce, "jo", f.sign(s, k), nil); err != nil {
		t.Fatal(err)
	}
	got(c, approval.Granted)
	s = f.request(draft())
	c = wait(s)
	f.pass(time.Hour)
	got(c, approval.Expired)

	s = f.request(draft())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.eng.Wait(ctx, s.Nonce); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

func TestRequestRefused(t *testing.T) {
	f := newFixture(t)
	for name, edit := range map[string]func(*approval.Draft){
		"no_kind":          func(d *approval.Draft) { d.Statement.Kind = "" },
		"unknown_kind":     func(d *approval.Draft) { d.Statement.Kind = "Action" },
		"no_subject":       func(d *approval.Draft) { d.Statement.Subject = "" },
		"no_digest":        func(d *approval.Draft) { d.Statement.Digest = "" },
		"short_digest":     func(d *approval.Draft) { d.Statement.Digest = "sha256:00" },
		"bad_request":      func(d *approval.Draft) { d.Statement.RequestDigest = "md5:00" },
		"no_role":          func(d *approval.Draft) { d.Statement.Role = "" },
		"quorum_negative":  func(d *approval.Draft) { d.Statement.Quorum = -1 },
		"quorum_large":     func(d *approval.Draft) { d.Statement.Quorum = 10 },
		"no_time":          func(d *approval.Draft) { d.Valid = 0 },
		"forever":          func(d *approval.Draft) { d.Valid = 10 * 365 * 24 * time.Hour },
		"bad_field_name":   func(d *approval.Draft) { d.Statement.Details = map[string]string{"a\nb": "c"} },
		"invalid_utf8":     func(d *approval.Draft) { d.Statement.Details = map[string]string{"a": "\xff"} },
		"invalid_utf8_sub": func(d *approval.Draft) { d.Statement.Subject = "\xff" },
		"too_large":        func(d *approval.Draft) { d.Statement.Quoted = map[string]string{"a": strings.Repeat("x", 200<<10)} },
	} {
		d := draft()
		edit(&d)
		if _, err := f.eng.Request(t.Context(), d); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if n := len(f.entries("hold.opened")); n != 0 {
		t.Errorf("records: got %d, want 0", n)
	}
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
