package attack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

func init() {
	programs["daemon"] = daemon
	programs["killer"] = killer
}

// daemon starts a child in a session of its own and ends, so that its task ends.
func daemon(_ context.Context, args []string) error {
	cmd := exec.Command("/proc/self/exe", append([]string{"program", "hammer"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	time.Sleep(time.Second) // so that the child acts at all
	return nil
}

// killer signals everything that it can name.
func killer(context.Context, []string) error {
	time.Sleep(500 * time.Millisecond) // so that everything around it stands
	fmt.Println("everybody:", syscall.Kill(-1, syscall.SIGKILL))
	for pid := 1; pid < 1<<15; pid++ {
		if pid != os.Getpid() {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return nil
}

// A harness leaves a process behind that goes on writing when the task is over.
// It must be gone with the task: what runs inside ends with its first process.
func TestDaemonOutlivesItsTask(t *testing.T) {
	r := wide(t)
	x, out := r.Run(t, rig.Intent(action.Sandbox, "jo", "4711"), append([]string{"program", "daemon"}, comment(r, action.Sandbox, "")[2:]...)...)
	if x.State != task.Closed {
		t.Errorf("the task is %s: %s\n%s", x.State, x.Why, out)
	}
	at := hits(r, action.Sandbox)
	if at == 0 {
		t.Errorf("the daemon never wrote\n%s", out)
	}
	r.NoSessions(t, action.Sandbox)
	time.Sleep(300 * time.Millisecond) // time for what should not come
	if got := hits(r, action.Sandbox); got != at {
		t.Errorf("%d writes after the end", got-at)
	}
}

// A harness kills every process that it can name. That must be its own alone:
// the server lives, and so does the other task's browser.
func TestKillerHarness(t *testing.T) {
	r := wide(t)
	other := r.OpenTask(t, rig.Intent(action.Sandbox, "sam", "4712"))
	var out rig.Output
	running, err := r.Server.Run(t.Context(), "", other.ID, rig.Harness(t, &out, "program", "hands", "find:app:tickets", "wait:4000", "press:app:tickets", "find:page:tickets/list"))
	if err != nil {
		t.Fatal(err)
	}
	x, text := r.Run(t, rig.Intent(action.Sandbox, "jo", "4711"), "program", "killer")
	if !x.State.Over() {
		t.Errorf("the killer's task is %s\n%s", x.State, text)
	}
	if y := rig.Wait(t, running); y.State != task.Closed {
		t.Errorf("the other task is %s: %s\n%s", y.State, y.Why, out.String())
	}
	r.NoSessions(t, action.Sandbox)
}
