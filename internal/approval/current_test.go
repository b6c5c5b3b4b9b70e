package approval_test

import (
	"encoding/json"
	"errors"
	"fmt"
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
	f.pass(time.Hour)
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
	for name, edit := range map[string]func(*approval.Draft){
		"other_request":    func(d *approval.Draft) { d.Statement.Digest = canon.Digest([]byte("b")) },
		"other_task":       func(d *approval.Draft) { d.Statement.Task = "t-2" },
		"other_params":     func(d *approval.Draft) { d.Statement.Params = map[string]string{"user": "nora"} },
		"other_details":    func(d *approval.Draft) { d.Statement.Details = map[string]string{"why": "x"} },
		"other_policy":     func(d *approval.Draft) { d.Statement.PolicyDigest = canon.Digest([]byte("p")) },
		"other_role":       func(d *approval.Draft) { d.Statement.Role = "owner" },
		"other_quorum":     func(d *approval.Draft) { d.Statement.Quorum = 2 },
		"other_exclusions": func(d *approval.Draft) { d.Requester = "zed" },
		"asked_afresh":     func(d *approval.Draft) { d.Adopt = false },
	} {
		if s := ask(edit); s.Nonce == first.Nonce {
			t.Errorf("%s: took up the answer to another question", name)
		}
	}
	f.eng.Abandon(first.Nonce)
	if _, err := f.grant(first, "jo", k); err != nil {
		t.Fatal(err)
	}
	again := ask(func(d *approval.Draft) {
		d.Statement.Subject, d.Statement.Screenshot = "the next attempt", canon.Digest([]byte("looked once more"))
	})
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

// The same thing asked anew with other content takes the place of a question for
// whose answer nobody waits any more. What somebody waits for, what is answered,
// and what is about something else stays.
//
// Threats: T50, I5 (approval)
func TestSupersededQuestionIsWithdrawn(t *testing.T) {
	f := newFixture(t)
	k := newKey(t)
	f.person("jo", k)
	ask := func(content string, edit ...func(*approval.Draft)) approval.Statement {
		d := draft()
		d.Adopt, d.Statement.Digest = true, canon.Digest([]byte(content))
		for _, e := range edit {
			e(&d)
		}
		return f.request(d)
	}
	state := func(s approval.Statement, want approval.State) approval.Approval {
		t.Helper()
		a, err := f.eng.Get(t.Context(), s.Nonce)
		if err != nil || a.State != want {
			t.Errorf("%s: got %s, %v, want %s", s.Subject, a.State, err, want)
		}
		return a
	}
	waited, old := ask("waited for"), ask("old")
	granted := ask("granted")
	other := ask("old", func(d *approval.Draft) { d.Statement.Params = map[string]string{"user": "nora"} })
	elsewhere := ask("old", func(d *approval.Draft) { d.Statement.Task = "t-2" })
	if _, err := f.grant(granted, "jo", k); err != nil {
		t.Fatal(err)
	}
	for _, s := range []approval.Statement{old, granted, other, elsewhere} {
		f.eng.Abandon(s.Nonce)
	}
	next := ask("new")
	state(waited, approval.Pending)
	state(granted, approval.Granted)
	state(other, approval.Pending)
	state(elsewhere, approval.Pending)
	state(next, approval.Pending)
	if a := state(old, approval.Rejected); a.By != "" || a.Reason != "superseded by "+next.Nonce {
		t.Errorf("got %q by %q", a.Reason, a.By)
	}
	_, err := f.grant(old, "jo", k)
	f.want(err, "not_pending")
	// One that is the same stays for whoever asked it.
	twin := ask("new")
	f.eng.Abandon(next.Nonce)
	f.eng.Abandon(twin.Nonce)
	one := ask("new")
	state(next, approval.Pending)
	state(twin, approval.Pending)
	// What has expired is not taken up.
	f.eng.Abandon(one.Nonce)
	f.pass(time.Hour)
	if s := ask("new"); s.Nonce == next.Nonce || s.Nonce == twin.Nonce {
		t.Error("an expired question was taken up")
	}
	// It was no answer of people: the same may be asked again.
	if s := ask("old"); s.Nonce == old.Nonce {
		t.Error("a withdrawn question was taken up")
	}
}

// After a change of policy, boundary or resources nobody can answer what was
// asked before, so it is not shown to people as if they could.
//
// Threats: I5 (approval)
func TestStaleQuestionsAreWithdrawn(t *testing.T) {
	f := newFixture(t)
	f.eng = approval.New(f.log, inForce{}, func() time.Time { return time.Unix(0, f.now.Load()) })
	d := func(s string) action.Digest { return canon.Digest([]byte(s)) }
	now := force{d("policy"), d("boundary"), d("resources")}
	f.set("force", "now", now)
	ask := draft()
	ask.Statement.PolicyDigest, ask.Statement.BoundaryDigest, ask.Statement.ResourcesDigest = now.Policy, now.Boundary, now.Resources
	s := f.request(ask)
	count := func(state approval.State) (n int) {
		if err := f.eng.List(t.Context(), state, func(approval.Approval) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if err := f.eng.WithdrawStale(t.Context()); err != nil || count(approval.Pending) != 1 {
		t.Fatalf("what is in force was withdrawn: %v", err)
	}
	now.Resources = d("others")
	f.set("force", "now", now)
	if err := f.eng.WithdrawStale(t.Context()); err != nil || count(approval.Pending) != 0 {
		t.Fatalf("still pending: %v", err)
	}
	if a, err := f.eng.Get(t.Context(), s.Nonce); err != nil || a.State != approval.Rejected || a.By != "" {
		t.Errorf("got %+v, %v", a, err)
	}
}

// A flood of nearly the same: after three times no to an operation, whatever its
// parameters, people are not asked about it in that task any more; and the
// people with one role are asked so often in an hour, by however many tasks.
//
// Threats: T52 (approval)
func TestNearlyTheSameIsNotAskedForEver(t *testing.T) {
	f := newFixture(t)
	f.person("jo", newKey(t))
	ask := func(task, user string) (approval.Statement, error) {
		d := draft()
		d.Statement.Task, d.Statement.Params = task, map[string]string{"user": user}
		return f.eng.Request(t.Context(), d)
	}
	asked := 0
	for i := range 10 {
		s, err := ask("t-1", fmt.Sprint("user", i))
		if i >= approval.MaxRejected {
			f.want(err, "rejected_before")
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		asked++
		if _, err := f.eng.Reject(t.Context(), s.Nonce, "jo", "no", nil); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := ask("t-2", "user0"); err != nil {
		t.Errorf("another task: %v", err)
	} else if _, err := f.eng.Reject(t.Context(), s.Nonce, "jo", "no", nil); err != nil {
		t.Fatal(err)
	}
	for asked++; asked < approval.MaxAskedPerHour; asked++ {
		id := fmt.Sprint("t-", asked)
		if _, err := ask(id, "mira"); err != nil {
			t.Fatalf("question %d: %v", asked, err)
		}
		if err := f.eng.CancelTask(t.Context(), id, "over"); err != nil {
			t.Fatal(err)
		}
	}
	_, err := ask("t-last", "mira")
	f.want(err, "too_many_asked")
	run := draft() // a certification run is what people started
	run.Planned, run.Statement.Task = true, "t-run"
	f.request(run)
	f.pass(time.Hour)
	if _, err := ask("t-last", "mira"); err != nil {
		t.Errorf("an hour later: %v", err)
	}
}

// One approval, fifty nodes: exactly one release.
//
// Threats: I3 (approval)
func TestFiftyNodesRaceOneApproval(t *testing.T) {
	f := newFixture(t)
	k := newKey(t)
	f.person("jo", k)
	s := f.request(draft())
	if _, err := f.grant(s, "jo", k); err != nil {
		t.Fatal(err)
	}
	if won := f.race(50, s); won != 1 {
		t.Errorf("got %d releases, want exactly one", won)
	}
	if n := len(f.entries("action.decided")); n != 1 {
		t.Errorf("releases on record: got %d, want 1", n)
	}
}

// Two gateways, one approval: exactly one release, round after round.
//
// Threats: I3 (approval)
func TestTwoGatewaysRaceOneApproval(t *testing.T) {
	f := newFixture(t)
	k := newKey(t)
	f.person("jo", k)
	const rounds = 20
	for range rounds {
		s := f.request(draft())
		if _, err := f.grant(s, "jo", k); err != nil {
			t.Fatal(err)
		}
		if won := f.race(2, s); won != 1 {
			t.Errorf("got %d releases, want exactly one", won)
		}
	}
	if n := len(f.entries("action.decided")); n != rounds {
		t.Errorf("releases on record: got %d, want %d", n, rounds)
	}
}

// race lets nodes, each with an engine of its own, use one approval at once.
func (f *fixture) race(nodes int, s approval.Statement) (won int) {
	f.Helper()
	errs := make([]error, nodes)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range nodes {
		e := f.engine()
		wg.Go(func() {
			<-start
			_, errs[i] = e.Use(f.Context(), s.Nonce, s.Digest, record.Draft{Type: "action.decided", Body: map[string]int{"node": i}})
		})
	}
	close(start)
	wg.Wait()
	for _, err := range errs {
		if err == nil {
			won++
		} else if r, ok := errors.AsType[*approval.Refusal](err); !ok || r.Code != "used" {
			f.Errorf("got %v, want used", err)
		}
	}
	return won
}
