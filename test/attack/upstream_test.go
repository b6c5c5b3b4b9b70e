package attack

import (
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// The applications are gone, or lie, when a task's credentials are to be ended.
// The kill must still stop the agent, must not say that all is ended, must keep
// the leases in sight and open no further task for the agent, and must end them
// by itself as soon as the application lets it.
func TestRevocationThatDoesNotWork(t *testing.T) {
	if testing.Short() {
		t.Skip("starts browsers")
	}
	const (
		honest int32 = iota
		down
		lying
	)
	var mode atomic.Int32
	tap := &rig.Tap{Intercept: func(w http.ResponseWriter, r *http.Request) bool {
		switch mode.Load() {
		case down:
			panic(http.ErrAbortHandler)
		case lying:
			// It says that the session is ended, and it is not.
			if r.Method == http.MethodPost && (r.URL.Path == "/logout" || strings.HasSuffix(r.URL.Path, "/revoke")) {
				w.WriteHeader(http.StatusNoContent)
				return true
			}
		}
		return false
	}}
	r := rig.New(t, rig.Options{Before: tap.Start})
	r.Ready(t)
	for name, how := range map[string]int32{"down": down, "lying": lying} {
		t.Run(name, func(t *testing.T) {
			r.Estate.Copy("sandbox").Reset()
			x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
			var out rig.Output
			running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, "program", "hands", "find:app:tickets", "wait:60000"))
			if err != nil {
				t.Fatal(err)
			}
			rig.Await(t, "the sessions", func() bool { return sessions(r) == 2 })
			mode.Store(how)
			defer mode.Store(honest)
			if _, err := r.Server.Revoke(t.Context(), "", rig.As("ada"), "task/"+x.ID, "test"); err == nil {
				t.Error("the kill said that everything is ended")
			}
			y, err := r.Server.Task(t.Context(), "", x.ID)
			if err != nil || y.State != task.Closing || y.Code != "killed" {
				t.Errorf("the task is %s (%s), %v", y.State, y.Code, err)
			}
			if got := sessions(r); got < 2 {
				t.Errorf("%d sessions are alive, so this test does not test anything", got)
			}
			for _, l := range open(t, r, x.ID) {
				if l.State != lease.Revoking || l.Attempts == 0 || l.Why == "" {
					t.Errorf("lease of %s is %s after %d attempts: %q", l.Source, l.State, l.Attempts, l.Why)
				}
			}
			if got := len(open(t, r, x.ID)); got != 2 {
				t.Errorf("%d leases are in sight, want 2", got)
			}
			_, err = r.Server.OpenTask(t.Context(), "", rig.As("dana"), rig.Intent(action.Sandbox, "jo", "4711"))
			refusedWith(t, err, "lease_unconfirmed")
			unconfirmed := 0
			for _, e := range r.Records(t, 0) {
				if e.Task == x.ID && e.Type == "lease.unconfirmed" {
					unconfirmed++
				}
			}
			if unconfirmed == 0 {
				t.Error("the ledger does not say that the end is unconfirmed")
			}
			mode.Store(honest)
			rig.Await(t, "the end of the leases", func() bool { return len(open(t, r, x.ID)) == 0 })
			rig.Await(t, "the end of the task", func() bool {
				y, err := r.Server.Task(t.Context(), "", x.ID)
				return err == nil && y.State == task.Revoked
			})
			r.NoSessions(t, action.Sandbox)
			rig.Wait(t, running)
			// And the agent may work again.
			z, text := r.Run(t, rig.Intent(action.Sandbox, "jo", "4711"), "program", "hands", "find:app:tickets")
			if z.State != task.Closed {
				t.Errorf("afterwards: %s: %s\n%s", z.State, z.Why, text)
			}
		})
	}
}

// The application is gone when the task starts. Nothing half-open is left.
func TestSignInFails(t *testing.T) {
	if testing.Short() {
		t.Skip("starts browsers")
	}
	var cut atomic.Value
	cut.Store("")
	tap := &rig.Tap{Intercept: func(_ http.ResponseWriter, r *http.Request) bool {
		if c := cut.Load().(string); c != "" && r.Method+" "+r.URL.Path == c {
			panic(http.ErrAbortHandler)
		}
		return false
	}}
	r := rig.New(t, rig.Options{Before: tap.Start})
	r.Ready(t)
	for _, at := range []string{"GET /login", "POST /login"} {
		t.Run(at, func(t *testing.T) {
			cut.Store(at)
			x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
			var out rig.Output
			start := time.Now()
			if running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, rig.SampleAgent...)); err == nil {
				y := rig.Wait(t, running)
				t.Errorf("it ran without its credentials and is %s", y.State)
			} else if errors.As(err, new(*server.Problem)) {
				t.Logf("refused after %s: %v", time.Since(start), err)
			}
			cut.Store("")
			rig.Await(t, "the end of the task", func() bool {
				y, err := r.Server.Task(t.Context(), "", x.ID)
				return err == nil && y.State == task.Failed
			})
			for _, l := range open(t, r, x.ID) { // a session whose answer was lost may come late
				if at != "POST /login" || l.Attempts > 0 || !l.Lasts.After(start) {
					t.Errorf("open: %+v", l)
				}
			}
			r.NoSessions(t, action.Sandbox)
		})
	}
}

func sessions(r *rig.Rig) (n int) {
	for _, ss := range r.State(action.Sandbox).Sessions {
		n += len(ss)
	}
	return n
}

// open are the leases of a task that are not confirmed ended.
func open(t *testing.T, r *rig.Rig, id string) (out []lease.Lease) {
	t.Helper()
	all, err := r.Server.Leases(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if l.Task == id && l.State != lease.Revoked {
			out = append(out, l)
		}
	}
	return out
}
