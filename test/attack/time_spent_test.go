package attack

import (
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// A harness stays and waits for the night. When the time of its task is over the
// boundary must end it by itself, with its credentials, and not only refuse.
func TestTaskEndsByTheClock(t *testing.T) {
	if testing.Short() {
		t.Skip("starts browsers")
	}
	r := rig.New(t, rig.Options{Edit: rig.Replace("capability.yaml", "seconds: 900", "seconds: 4")})
	r.Ready(t)
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	var out rig.Output
	start := time.Now()
	running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, comment(r, action.Sandbox, "")...))
	if err != nil {
		t.Fatal(err)
	}
	x = rig.Wait(t, running)
	if x.State == task.Closed || x.State == task.Active || x.Code == "interrupted" {
		t.Errorf("after %s the task is %s (%s: %s)", time.Since(start), x.State, x.Code, x.Why)
	}
	at := hits(r, action.Sandbox)
	r.NoSessions(t, action.Sandbox)
	time.Sleep(300 * time.Millisecond) // time for what should not come
	if got := hits(r, action.Sandbox); got != at {
		t.Errorf("%d writes after the end", got-at)
	}
}

// The same task is started by many at once. One may run.
func TestOneTaskRunsOnce(t *testing.T) {
	r := wide(t)
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	const many = 5
	results := make(chan error, many)
	for range many {
		go func() {
			var out rig.Output
			running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, comment(r, action.Sandbox, "3")...))
			if err == nil {
				rig.Wait(t, running)
			}
			results <- err
		}()
	}
	ran := 0
	for range many {
		if err := <-results; err == nil {
			ran++
		}
	}
	if ran != 1 {
		t.Errorf("it ran %d times", ran)
	}
	if got := hits(r, action.Sandbox); got != 3 {
		t.Errorf("%d writes, want those of one harness", got)
	}
	if y, err := r.Server.Task(t.Context(), "", x.ID); err != nil || y.State != task.Closed {
		t.Errorf("the task is %s (%s: %s), %v", y.State, y.Code, y.Why, err)
	}
}
