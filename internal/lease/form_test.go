package lease_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/lease"
)

// slow is an application that takes its time for the first sign-in, and does it also
// when nobody waits for the answer any more.
type slow struct {
	next             http.RoundTripper
	forms            atomic.Int32 // sent
	began, let, done chan struct{}
	lose             bool // the connection breaks meanwhile
}

func newSlow(next http.RoundTripper) *slow {
	return &slow{next: next, began: make(chan struct{}), let: make(chan struct{}), done: make(chan struct{})}
}

func (s *slow) RoundTrip(q *http.Request) (*http.Response, error) {
	if q.Method != http.MethodPost || q.URL.Path != "/login" || s.forms.Add(1) > 1 {
		return s.next.RoundTrip(q)
	}
	type answer struct {
		resp *http.Response
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		defer close(s.done)
		<-s.let
		resp, err := s.next.RoundTrip(q.Clone(context.WithoutCancel(q.Context())))
		got <- answer{resp, err}
	}()
	close(s.began)
	if s.lose {
		return nil, errors.New("the connection is lost")
	}
	select {
	case a := <-got:
		return a.resp, a.err
	case <-q.Context().Done():
		return nil, q.Context().Err()
	}
}

// The task ends while the application works on its sign-in, which ends the start of the
// task. The end waits for the answer: looked for by its label, the session would not
// be there yet, and come afterwards.
//
// Threats: T57 (lease)
func TestEndDuringSignIn(t *testing.T) {
	r := newRig(t)
	s := newSlow(r.source.Client.Transport)
	r.source.Client.Transport = s
	k := r.keeper()
	ctx, kill := context.WithCancel(t.Context())
	issued := make(chan error, 1)
	go func() {
		_, _, err := k.Issue(ctx, lease.Request{Task: "t-1", Agent: "helper", Source: "iam-helpdesk", Audience: r.source.Recipe.Origin, Until: time.Now().Add(time.Hour)})
		issued <- err
	}()
	<-s.began
	kill()
	ended := make(chan error, 1)
	go func() { ended <- k.End(t.Context(), "t-1") }()
	select {
	case err := <-ended:
		t.Errorf("the end did not wait: %v", err)
		ended <- err
	case <-time.After(100 * time.Millisecond): // time for an end that does not wait
	}
	close(s.let)
	<-s.done
	if err := <-issued; err == nil {
		t.Error("a task that ended has a session")
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := r.types(); r.alive() != 0 || got != "requested revoking revoked" || s.forms.Load() != 1 {
		t.Errorf("%d sessions live; records: %s; %d forms were sent, want the task's alone: its cookies are known", r.alive(), got, s.forms.Load())
	}
}

// early waits for less than a form does.
type early struct {
	*lease.Form
	late time.Duration
}

func (e early) Late() time.Duration { return e.late }

// The answer of a sign-in is lost, and nothing carries its label when that is looked
// for: the application comes to it later. It is in sight until that is over, over a
// restart, and ended then. It is no alarm: nobody has it.
//
// Threats: T57, K4 (lease)
func TestSessionThatComesLate(t *testing.T) {
	r := newRig(t)
	s := newSlow(r.source.Client.Transport)
	s.lose = true
	r.source.Client.Transport = s
	src := early{r.source, time.Hour}
	keeper := func() *lease.Keeper {
		k := r.keeper()
		k.Find = func(context.Context, lease.Lease) (lease.Source, error) { return src, nil }
		return k
	}
	if _, _, err := r.issue(keeper()); err == nil {
		t.Fatal("a session of no answer")
	}
	insight := func() {
		t.Helper()
		k := keeper()
		if err := k.Recover(t.Context()); err != nil {
			t.Error(err)
		}
		alarms, err := k.Unconfirmed(t.Context())
		open, oerr := k.Open(t.Context())
		if err != nil || oerr != nil || len(alarms) != 0 || len(open) != 1 || !strings.Contains(open[0].Why, "answer was lost") || !open[0].Lasts.After(time.Now()) {
			t.Errorf("open are %+v, and alarm %+v: %v %v", open, alarms, err, oerr)
		}
	}
	insight()
	close(s.let)
	<-s.done
	if r.alive() != 1 {
		t.Fatalf("%d sessions live: the case tests nothing", r.alive())
	}
	insight()
	src.late = 0
	if err := keeper().Recover(t.Context()); err != nil {
		t.Error(err)
	}
	if open, err := keeper().Open(t.Context()); err != nil || len(open) != 0 || r.alive() != 0 {
		t.Errorf("open are %+v, %v; %d sessions live; records: %s", open, err, r.alive(), r.types())
	}
}
