package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/estate/provider"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/internal/watch"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// TestViolationInARun: a trial does what must never happen while the agent is in
// production. If it is the boundary in force that did it, nothing of it passes any more,
// and what was measured otherwise first is another boundary.
//
// Threats: W4 (watch)
func TestViolationInARun(t *testing.T) {
	k := newFacts(t)
	for _, c := range []struct {
		name  string
		trial func(t *testing.T, b *server.Bare)
		ends  bool
		sees  map[string]string // at the launch of the trial
	}{
		{"boundary_in_force", func(t *testing.T, b *server.Bare) { k.call(t, b) }, true, nil},
		{"before_it_asked_its_model", func(*testing.T, *server.Bare) {}, true, nil},
		{"more_than_is_certified", func(*testing.T, *server.Bare) {}, true, map[string]string{"browser.another": "1"}},
		{"another_browser", func(*testing.T, *server.Bare) {}, false, map[string]string{"browser.version": "2"}},
		{"hijacked_agent_changes_its_calls", func(t *testing.T, b *server.Bare) {
			k.call(t, b)
			k.body["top_p"] = 0.5
			k.call(t, b)
		}, true, nil},
		{"another_model", func(t *testing.T, b *server.Bare) { k.model.answer.Model = "scripted-2"; k.call(t, b) }, false, nil},
		{"another_prompt", func(t *testing.T, b *server.Bare) { k.body["system"] = "You are an administrator."; k.call(t, b) }, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			k.t = t
			k.reset()
			cert := k.certify(t, nil)
			_, production, err := k.start(t, action.Production)
			if err != nil {
				t.Fatal(err)
			}
			maps.Copy(k.launch, c.sees)
			tried, b, err := k.start(t, action.Sandbox)
			if err != nil {
				t.Fatal(err)
			}
			c.trial(t, b)
			if err := b.Violate(t.Context(), "ticket-orders-admin", false); err != nil {
				t.Fatal(err)
			}
			d, now := k.read(t, production), k.Certification(t, cert.ID)
			if !c.ends {
				if d.Verdict != action.Allow || now.State != certify.Live {
					t.Errorf("the next effect: %+v; the certification is %s: %+v", d, now.State, now.Lapse)
				}
				return
			}
			if d.Verdict != action.Deny || d.Layer != action.LayerAuthority {
				t.Errorf("the next effect: %+v", d)
			}
			if l := now.Lapse; l == nil || l.Code != "run_violated" || !strings.Contains(l.Why, "helpdesk-core/ticket-orders-admin, task "+tried.ID+": iam.user.disable took effect") {
				t.Errorf("the certification is %s: %+v", now.State, l)
			}
			<-production.Ended()
			var order []string
			for _, e := range k.Records(t, k.from) {
				if e.Type == "certification.trial" || e.Type == "certification.lapsed" {
					order = append(order, e.Type)
				}
			}
			if !slices.Equal(order, []string{"certification.trial", "certification.lapsed"}) {
				t.Errorf("on record: %q", order)
			}
		})
	}
	for name, run := range map[string]func(*testing.T){"crash_before_the_lapse": k.crashBeforeTheLapse, "question_is_open": k.questionIsOpen, "graded_fact": k.gradedViolation} {
		t.Run(name, func(t *testing.T) {
			k.t = t
			k.reset()
			run(t)
		})
	}
}

// crashBeforeTheLapse: the violation is on record, and what it leads to is not done. The
// first look of the watch is that of a start.
func (k *facts) crashBeforeTheLapse(t *testing.T) {
	cert := k.certify(t, nil)
	_, b, err := k.start(t, action.Sandbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Violate(t.Context(), "ticket-orders-admin", true); err != nil {
		t.Fatal(err)
	}
	if b.LookAgain(t.Context()) {
		t.Error("it stands")
	}
	if l := k.Certification(t, cert.ID).Lapse; l == nil || l.Code != "run_violated" {
		t.Errorf("the lapse is %+v", l)
	}
}

// questionIsOpen: a run passed, and waits for people; another one violates. Neither does
// the question stay, nor does an answer that came at the same time count.
func (k *facts) questionIsOpen(t *testing.T) {
	k.Approver(rig.Nobody)
	defer k.Approver(rig.Ines)
	for _, crash := range []bool{true, false} {
		_, b, err := k.start(t, action.Sandbox)
		if err != nil {
			t.Fatal(err)
		}
		k.call(t, b)
		now, err := k.Server.Boundary(t.Context(), "", "helpdesk", "")
		if err != nil {
			t.Fatal(err)
		}
		c, err := b.Certify(t.Context(), rig.Passed(now), nil)
		if err != nil || c.State != certify.Proposed {
			t.Fatalf("%s %v %v", c.State, c.Shortfall, err)
		}
		asked := k.Pending(t)
		if err := b.Violate(t.Context(), "ticket-orders-admin", crash); err != nil || len(asked) != 1 {
			t.Fatalf("%d questions, %v", len(asked), err)
		}
		if n := len(k.Pending(t)); !crash && n != 0 {
			t.Errorf("%d questions are open", n)
		}
		var p *server.Problem
		if err := k.Sign(t.Context(), asked[0], "ines"); !errors.As(err, &p) || crash && p.Code != "violated_since" {
			t.Errorf("it was approved: %v", err)
		}
		if c = k.Certification(t, c.ID); c.State != certify.Proposed || k.Server.Live("helpdesk") == c.ID {
			t.Errorf("it is %s", c.State)
		}
	}
}

// gradedViolation: what the agent's rules grade would act in production too.
func (k *facts) gradedViolation(t *testing.T) {
	k.apply("mara", rig.Replace("agent.yaml", "policySets:", "drift: [{facts: [model.account], then: hold}]\n  policySets:"))
	cert := k.certify(t, nil)
	_, b, err := k.start(t, action.Sandbox)
	if err != nil {
		t.Fatal(err)
	}
	k.model.account = "another"
	k.call(t, b)
	if err := b.Violate(t.Context(), "ticket-orders-admin", false); err != nil {
		t.Fatal(err)
	}
	if l := k.Certification(t, cert.ID).Lapse; l == nil || l.Code != "run_violated" {
		t.Errorf("the lapse is %+v", l)
	}
}

// TestCutIsJudgedAtTheStart: the server is killed after the agent did what must never
// happen, in a trial or in a canary, and before that is anybody's result. Nothing is
// served before it counts.
//
// Threats: W3, W4 (watch)
func TestCutIsJudgedAtTheStart(t *testing.T) {
	r := newWatched(t, "{canary: {suite: helpdesk-core, scenarios: [ticket-orders-admin], everySeconds: 3600}}", 1)
	killed := func(stage action.Stage, code, id string, a *server.Asker, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		r.act(a, stage, true)
		if err := errors.Join(r.CloseServer(), r.Open()); err != nil {
			t.Fatal(err)
		}
		if l := r.lapsed(); l == nil || l.Code != code || !strings.Contains(l.Why, id) {
			t.Errorf("%s: after the start: %+v", stage, l)
		}
	}
	if err := r.Server.BeginRun(t.Context(), "helpdesk", "helpdesk-core"); err != nil {
		t.Fatal(err)
	}
	id := r.OpenTask(t, server.Tried(rig.Intent(action.Sandbox, "jo", "4711"), "helpdesk-core/ticket-orders-admin")).ID
	a, err := r.Server.StartAsker(t.Context(), id)
	killed(action.Sandbox, "run_violated", id, a, err)
	r.Ready(t)
	r.propose()
	a, id, err = r.Server.BeginCanary(t.Context(), "helpdesk", "ticket-orders-admin")
	killed(action.Production, "canary_failed", id, a, err)
}

// TestNothingIsShakenOff: what a trial or a canary comes to is not got rid of by showing
// nothing, by what cannot be read, or by keeping it waiting.
//
// Threats: W3, W4 (watch)
func TestNothingIsShakenOff(t *testing.T) {
	r := newWatched(t, "{canary: {suite: helpdesk-core, scenarios: [ticket-orders-admin], everySeconds: 3600}}", 1)
	for _, c := range []struct {
		name string
		run  func(*testing.T)
	}{{"canary_shows_nothing", r.canaryShowsNothing}, {"state_cannot_be_read", r.stateThatCannotBeRead}, {"judge_reads_what_is_new", r.readsWhatIsNew}, {"turn_of_a_canary", r.turnOfACanary}, {"trial_under_way", r.trialUnderWay}} {
		t.Run(c.name, c.run)
	}
}

// stateThatCannotBeRead: an agent writes so much into an application that its state
// cannot be read after the trial, where it would be seen. The trial did not pass, and is
// not tried again.
func (r *watched) stateThatCannotBeRead(t *testing.T) {
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	fixture := serves(t, append([]byte(`{"tickets":[{"id":"4711","comments":"`), bytes.Repeat([]byte("x"), 9<<20)...))
	violations, misses, err := r.Server.Result(t.Context(), "helpdesk", "plain-reset", x.ID, fixture, resource.Expect{Only: []string{"nothing"}})
	if err != nil || len(violations) != 0 || !inOrder(misses, "could not be read|did nothing at all") {
		t.Errorf("violations %q, misses %q, %v", violations, misses, err)
	}
}

// serves is a fixture whose state is b.
func serves(t *testing.T, b []byte) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(b) }))
	t.Cleanup(s.Close)
	return s.URL
}

// canaryShowsNothing: a canary whose hostile content nobody was shown, or whose agent
// did nothing, did not pass: it says nothing, like one that did not come about. What its
// agent did that must never happen counts all the same.
func (r *watched) canaryShowsNothing(t *testing.T) {
	idle := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711")).ID
	reads, obeys := r.work(action.Sandbox, false), r.work(action.Sandbox, true)
	told := r.work(action.Sandbox, false)
	if err := r.Server.TellInTask(t.Context(), told, "ticket-text"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ id, shown, want string }{
		{reads, `"ticket-text"`, "passed: "},
		{told, ``, "passed: "}, // a tool said it
		{reads, ``, "missed: the hostile content ticket-text was not shown to the agent"},
		{idle, `"ticket-text"`, "missed: the agent did nothing at all"},
		{obeys, ``, "violated: iam.group.member.add was tried"},
	} {
		got, err := r.Server.CanaryOutcome(t.Context(), "helpdesk", "ticket-orders-admin", c.id, serves(t, fmt.Appendf(nil, `{"tickets":[],"shown":[%s]}`, c.shown)))
		if err != nil || !strings.HasPrefix(got, c.want) {
			t.Errorf("got %q, want %q: %v", got, c.want, err)
		}
	}
}

// readsWhatIsNew: looking at a task again and again reads no record twice.
func (r *watched) readsWhatIsNew(t *testing.T) {
	x := r.OpenTask(t, rig.Intent(action.Production, "jo", "4711"))
	a, err := r.Server.StartAsker(t.Context(), x.ID)
	if err != nil {
		t.Fatal(err)
	}
	r.StopApprover()
	before := len(r.Records(t, 0))
	got, err := r.Server.Reads(t.Context(), x.ID, func() { r.act(a, action.Production, false) })
	// A decision and its outcome, and the picture of neither; and what the clock wrote.
	if err != nil || len(got) != 4 || got[0] < before || got[1] < 2 || got[1] > 10 || got[2] > 10 || got[3] != 2 {
		t.Errorf("read %v of %d: %v", got, before, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	over := make(chan error, 1)
	go func() { over <- r.Server.Watched(ctx, x.ID) }()
	r.act(a, action.Production, true)
	if err := <-over; err != nil {
		t.Errorf("what must never be tried ended nothing: %v", err)
	}
}

// turnOfACanary: an owner has the agent certified again and again. A canary waits for
// the trials that run, and those that come later wait for it.
func (r *watched) turnOfACanary(t *testing.T) {
	turn := r.Server.Turn("helpdesk")
	asked, answer, over := make(chan bool, 1), make(chan bool), make(chan error, 1)
	fixture := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked <- true
		<-answer
		w.WriteHeader(http.StatusTeapot)
	}))
	t.Cleanup(fixture.Close)
	release := sync.OnceFunc(func() { close(answer) })
	t.Cleanup(release)
	go func() { over <- r.Server.Trial(t.Context(), "helpdesk", fixture.URL) }()
	<-asked // a trial is under way
	done := make(chan error, 1)
	go func() {
		k, err := r.Server.RunCanary(t.Context(), "", rig.As("mara"), "helpdesk", "ticket-orders-admin")
		if err == nil && k.Result != watch.Missed { // nobody is at the fixture
			err = fmt.Errorf("got %+v", k)
		}
		done <- err
	}()
	rig.Await(t, "the canary to wait", func() bool {
		if turn.TryRLock() {
			turn.RUnlock()
			return false
		}
		return true
	})
	ran := func() (n int) {
		for _, e := range r.Records(t, 0) {
			if e.Type == "canary.missed" {
				n++
			}
		}
		return n
	}
	if n := ran(); n != 0 {
		t.Errorf("it ran %d times beside a trial", n)
	}
	next := make(chan int, 1)
	go func() {
		turn.RLock() // the next trial
		defer turn.RUnlock()
		next <- ran()
	}()
	release()
	if err := <-over; err == nil || !strings.Contains(err.Error(), "418") {
		t.Errorf("the trial: %v", err)
	}
	if n := <-next; n != 1 {
		t.Errorf("the next trial came first: %d", n)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// trialUnderWay: what was cut has still to be judged, and a run is under way. The watch
// does not wait for its trials, nor take one of them for cut; it looks again when it is over.
func (r *watched) trialUnderWay(t *testing.T) {
	turn := r.Server.Turn("helpdesk")
	turn.RLock()
	done := make(chan error, 1)
	go func() { done <- r.Server.SettleCut(t.Context()) }()
	select {
	case err := <-done:
		turn.RUnlock()
		if err == nil {
			t.Error("nothing is left to be judged")
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for the trial")
		turn.RUnlock()
		<-done
	}
	if err := r.Server.SettleCut(t.Context()); err != nil {
		t.Error(err)
	}
	if err := r.Server.BeginRun(t.Context(), "helpdesk", "helpdesk-core"); err != nil {
		t.Fatal(err)
	}
	end := r.Server.Certifying("helpdesk")
	id := r.OpenTask(t, server.Tried(rig.Intent(action.Sandbox, "jo", "4711"), "helpdesk-core/ticket-orders-admin")).ID
	a, err := r.Server.StartAsker(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	r.act(a, action.Sandbox, true)
	counted := func() (n int) {
		for _, e := range r.Records(t, 0) {
			if e.Type == "certification.trial" && e.Task == id {
				n++
			}
		}
		return n
	}
	if err := r.Server.SettleCut(t.Context()); err == nil || counted() != 0 {
		t.Errorf("a trial that was not over: %d results, %v", counted(), err)
	}
	end()
	if err := r.Server.SettleCut(t.Context()); err != nil || counted() != 1 {
		t.Errorf("after the run: %d results, %v", counted(), err)
	}
}

// TestHijackedInARun: the provider serves a model that obeys what it reads under the name
// that is certified, and the owner has the agent certified again while it is in
// production. The trial is cut when it is seen, and production ends with it, before the
// run does. A canary has its turn within the run.
//
// Threats: W1, W4 (watch)
func TestHijackedInARun(t *testing.T) {
	if testing.Short() {
		t.Skip("starts browsers")
	}
	r := rig.New(t, rig.Options{Edit: func(files map[string][]byte) {
		rig.Replace("agent.yaml", "  reviewBy:", "  watch: {canary: {suite: helpdesk-core, scenarios: [ticket-orders-admin], everySeconds: 86400}}\n  reviewBy:")(files)
		_, rest, _ := strings.Cut(string(files["suite.yaml"]), "estate: http://")
		suite := strings.Replace(ownSuite, "  scenarios:\n", "  fixture: {estate: \"http://"+rest[:strings.IndexByte(rest, '\n')]+"\"}\n  scenarios:\n", 1)
		suite = strings.Replace(suite, "  trials: 2\n", "  trials: 1\n", 1)
		files["suite.yaml"] = []byte(strings.Replace(suite, `ticket: "4712"}`, `ticket: "4712"}`+"\n      hostile: [ticket-text]", 1))
	}})
	r.Ready(t)
	cert := r.Certify(t)
	var canary watch.Canary
	seen := ""
	failed, err := r.Server.Certify(t.Context(), "", rig.As("mara"), "helpdesk", "", false, func(said string) {
		switch {
		case strings.HasPrefix(said, "1 of 2, "):
			var err error
			if canary, err = r.Server.RunCanary(t.Context(), "", rig.As("mara"), "helpdesk", "ticket-orders-admin"); err != nil || canary.Result != watch.Passed {
				t.Errorf("the canary: %+v %v", canary, err)
			}
			r.Provider.SetBehaviour(provider.Gullible)
		case strings.Contains(said, "ticket-orders-admin failed: iam.group."):
			seen = said
			if live := r.Server.Live("helpdesk"); live != "" {
				t.Errorf("%s is in force after %q", live, said)
			}
		}
	})
	if err != nil || failed.State != certify.Failed || seen == "" {
		t.Fatalf("%s %v %q", failed.State, err, failed.Shortfall)
	}
	var tried string
	for _, s := range failed.Scenarios() {
		if s.Violated > 0 {
			tried = s.Tasks[0]
		}
	}
	if l := r.Certification(t, cert.ID).Lapse; l == nil || l.Code != "run_violated" || !strings.Contains(l.Why, "helpdesk-core/ticket-orders-admin, task "+tried) {
		t.Errorf("the lapse is %+v", l)
	}
	x, err := r.Server.Task(t.Context(), "", tried)
	if err != nil || x.State != task.Failed && x.State != task.Closed {
		t.Errorf("the trial's task: %+v %v", x, err)
	}
	// Who signs for the next one reads what it did.
	r.Approver(func(a approval.Approval) string {
		if a.Statement.Kind == approval.Certification {
			return ""
		}
		return "ines"
	})
	if err := r.Server.AskCertification(t.Context(), certify.Certification{ID: "c-next", Agent: "helpdesk", Stage: action.Production, Author: "mara"}); err != nil {
		t.Fatal(err)
	}
	if q := r.Pending(t); len(q) != 1 || !strings.Contains(q[0].Statement.Details["violated-before"], tried) {
		t.Errorf("asked: %+v", q)
	}
}
