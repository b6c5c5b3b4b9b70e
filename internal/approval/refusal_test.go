package approval_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
)

// Each case differs from a good approval in one thing.
//
// Threats: T50, I1, I2, I4, I8 (approval)
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
			if _, err := f.eng.Reject(f.Context(), s.Nonce, "jo", "no", nil); err != nil {
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

// A signature for one tenant is shown to another that has the same people and
// even the same request.
//
// Threats: I2 (approval)
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

// Threats: T50, I1, I8 (approval)
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
