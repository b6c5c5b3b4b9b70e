package approval_test

import (
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// inForce is a directory that knows which policy and boundary are in force, and
// passkeys of the people beside their keys.
type inForce struct{ directory }

type force struct{ Policy, Boundary, Resources action.Digest }

func (inForce) Current(tx record.Tx, s approval.Statement) error {
	var now force
	if err := tx.Get("force", "now", &now); err != nil {
		return err
	}
	if (force{s.PolicyDigest, s.BoundaryDigest, s.ResourcesDigest}) != now {
		return &approval.Refusal{Code: "changed", Reason: "it was asked under another policy or boundary"}
	}
	return nil
}

func (d inForce) People(tx record.Tx) ([]approval.Person, error) {
	all, err := d.directory.People(tx)
	if err != nil {
		return nil, err
	}
	err = tx.List("passkey", func(name string, raw []byte) error {
		var line string
		err := json.Unmarshal(raw, &line)
		for i := range all {
			if all[i].Name == name {
				all[i].Keys = []string{line}
			}
		}
		return err
	})
	return all, err
}

func (f *fixture) set(kind, id string, v any) {
	f.Helper()
	if _, err := f.log.Append(f.Context(), record.Draft{Type: "resource.applied", Change: func(tx record.Tx) error { return tx.Put(kind, id, v) }}); err != nil {
		f.Fatal(err)
	}
}

// Whatever changes of policy, boundary or resources between question, answer and
// use: nothing is released.
//
// Threats: T50, I5, I8 (approval)
func TestChangeKillsTheApproval(t *testing.T) {
	d := func(s string) action.Digest { return canon.Digest([]byte(s)) }
	start := force{d("policy"), d("boundary"), d("resources")}
	for name, then := range map[string]force{
		"policy_change":    {d("policy 2"), d("boundary"), d("resources")},
		"boundary_change":  {d("policy"), d("boundary 2"), d("resources")},
		"resources_change": {d("policy"), d("boundary"), d("resources 2")},
		"all_gone":         {},
	} {
		for _, when := range []string{"before_the_answer", "before_the_use"} {
			t.Run(name+"_"+when, func(t *testing.T) {
				f := newFixture(t)
				f.eng = approval.New(f.log, inForce{}, func() time.Time { return time.Unix(0, f.now.Load()) })
				f.set("force", "now", start)
				k := newPasskey(t, "ES256")
				f.put(approval.Person{Name: "jo", Roles: []string{"approver"}})
				f.set("passkey", "jo", k.line())
				ask := draft()
				ask.Fill = func(tx record.Tx, s *approval.Statement) error {
					var now force
					err := tx.Get("force", "now", &now)
					s.PolicyDigest, s.BoundaryDigest, s.ResourcesDigest = now.Policy, now.Boundary, now.Resources
					return err
				}
				s := f.request(ask)
				if when == "before_the_answer" {
					f.set("force", "now", then)
					_, err := f.eng.Grant(t.Context(), s.Nonce, "jo", k.approve(s), nil)
					f.want(err, "changed")
				} else {
					if _, err := f.eng.Grant(t.Context(), s.Nonce, "jo", k.approve(s), nil); err != nil {
						t.Fatal(err)
					}
					f.set("force", "now", then)
					f.want(f.use(s.Nonce, s.Digest), "changed")
				}
				if n := len(f.entries("action.decided")); n != 0 {
					t.Errorf("releases: got %d, want 0", n)
				}
			})
		}
	}
}

// Another request, another task, another tenant's page: the digest that is about
// to be released is what counts.
//
// Threats: T50, I1, I2 (approval)
func TestRequestChangeKillsTheApproval(t *testing.T) {
	f := newFixture(t)
	k := newPasskey(t, "ES256")
	f.holder("jo", k.line())
	s := f.request(draft())
	if _, err := f.eng.Grant(t.Context(), s.Nonce, "jo", k.approve(s), nil); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"", "Request", "request ", "another request"} {
		f.want(f.use(s.Nonce, canon.Digest([]byte(d))), "digest_mismatch")
	}
	if n := len(f.entries("action.decided")); n != 0 {
		t.Errorf("releases: got %d, want 0", n)
	}
	if err := f.use(s.Nonce, s.Digest); err != nil {
		t.Errorf("the request that was approved: got %v", err)
	}
}

// Many gateways, each with its own engine over one store, race for one approval.
//
// Threats: T50, I3 (approval)
func TestGatewaysRaceForOneApproval(t *testing.T) {
	f := newFixture(t)
	k := newPasskey(t, "ES256")
	f.holder("jo", k.line())
	const rounds, nodes = 8, 10
	for range rounds {
		s := f.request(draft())
		if _, err := f.eng.Grant(t.Context(), s.Nonce, "jo", k.approve(s), nil); err != nil {
			t.Fatal(err)
		}
		errs := make([]error, nodes)
		var wg sync.WaitGroup
		for i := range nodes {
			e := f.engine()
			wg.Go(func() {
				_, errs[i] = e.Use(t.Context(), s.Nonce, s.Digest, record.Draft{Type: "action.decided", Body: map[string]int{"node": i}})
			})
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else if r, ok := errors.AsType[*approval.Refusal](err); !ok || r.Code != "used" {
				t.Errorf("got %v, want used", err)
			}
		}
		if won != 1 {
			t.Errorf("got %d winners, want 1", won)
		}
	}
	if n := len(f.entries("action.decided")); n != rounds {
		t.Errorf("releases: got %d, want %d", n, rounds)
	}
}

// Whoever asks without end is refused: of one task, of one person, in all.
//
// Threats: T52 (approval)
func TestDripBudget(t *testing.T) {
	f := newFixture(t)
	ask := func(task string) error {
		d := draft()
		d.Statement.Task = task
		_, err := f.eng.Request(t.Context(), d)
		return err
	}
	for range approval.MaxOpenPerTask {
		if err := ask("t-1"); err != nil {
			t.Fatal(err)
		}
	}
	f.want(ask("t-1"), "too_many_open")
	opened := approval.MaxOpenPerTask
	for i := 2; opened < approval.MaxOpenPerPerson; i++ {
		for range approval.MaxOpenPerTask {
			if err := ask("t-" + string(rune('a'+i))); err != nil {
				t.Fatal(err)
			}
			opened++
		}
	}
	f.want(ask("t-last"), "too_many_open")
	if n := len(f.entries("hold.opened")); n != approval.MaxOpenPerPerson {
		t.Errorf("questions on record: got %d, want %d", n, approval.MaxOpenPerPerson)
	}
	// What people decide about the boundary itself is not held back by it.
	d := draft()
	d.Hold, d.Statement.Kind = false, approval.Capability
	f.request(d)

	// Answering makes room, until the task has asked too often in its life.
	for i := approval.MaxOpenPerTask; i < approval.MaxAskedPerTask; i++ {
		if err := f.eng.CancelTask(t.Context(), "t-1", "answered"); err != nil {
			t.Fatal(err)
		}
		if err := ask("t-1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.eng.CancelTask(t.Context(), "t-1", "answered"); err != nil {
		t.Fatal(err)
	}
	f.want(ask("t-1"), "too_many_asked")
}

// A client that cannot wait sends the same request again and finds its answer:
// one question, one release.
func TestAdopt(t *testing.T) {
	f := newFixture(t)
	k := newKey(t)
	f.person("jo", k)
	ask := func(edit func(*approval.Draft)) approval.Statement {
		d := draft()
		d.Adopt = true
		if edit != nil {
			edit(&d)
		}
		return f.request(d)
	}
	first := ask(nil)
	if other := ask(nil); other.Nonce == first.Nonce {
		t.Error("two who wait at once share one answer")
	}
	f.eng.Abandon(first.Nonce)
	for name, edit := range map[string]func(*approval.Draft){
		"other_request":    func(d *approval.Draft) { d.Statement.Digest = canon.Digest([]byte("b")) },
		"other_task":       func(d *approval.Draft) { d.Statement.Task = "t-2" },
		"other_params":     func(d *approval.Draft) { d.Statement.Params = map[string]string{"user": "nora"} },
		"other_details":    func(d *approval.Draft) { d.Statement.Details = map[string]string{"why": "x"} },
		"other_policy":     func(d *approval.Draft) { d.Statement.PolicyDigest = canon.Digest([]byte("p")) },
		"other_screenshot": func(d *approval.Draft) { d.Statement.Screenshot = canon.Digest([]byte("s")) },
		"other_role":       func(d *approval.Draft) { d.Statement.Role = "owner" },
		"other_quorum":     func(d *approval.Draft) { d.Statement.Quorum = 2 },
		"other_exclusions": func(d *approval.Draft) { d.Requester = "zed" },
		"asked_afresh":     func(d *approval.Draft) { d.Adopt = false },
	} {
		if s := ask(edit); s.Nonce == first.Nonce {
			t.Errorf("%s: took up the answer to another question", name)
		}
	}
	if _, err := f.grant(first, "jo", k); err != nil {
		t.Fatal(err)
	}
	again := ask(func(d *approval.Draft) { d.Statement.Subject = "the next attempt" })
	if again.Nonce != first.Nonce {
		t.Fatalf("got question %s, want the answered one", again.Nonce)
	}
	if err := f.use(again.Nonce, again.Digest); err != nil {
		t.Fatal(err)
	}
	f.eng.Abandon(first.Nonce)
	if err := f.eng.CancelTask(t.Context(), "t-2", "over"); err != nil {
		t.Fatal(err)
	}
	f.want(f.use(again.Nonce, again.Digest), "used")
}
