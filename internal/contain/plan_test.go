package contain_test

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/internal/contain"
)

func init() {
	roles["plan"] = func() error {
		if err := contain.ReadPlan(); err != nil {
			return err
		}
		// What is collected is closed by a goroutine, which runs meanwhile.
		for range 50 {
			runtime.GC()
			if _, err := unix.FcntlInt(4, unix.F_GETFD, 0); err != nil {
				return errors.New("the plan is closed")
			}
		}
		return nil
	}
}

// A stage that collects garbage between reading the plan and executing the next
// stage used to close the plan on the way: under load, a browser did not start.
func TestPlanStaysOpen(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := contain.PlanFile()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(exe)
	cmd.Env = []string{"CONTAIN_TEST_ROLE=plan"}
	cmd.ExtraFiles = []*os.File{f, f}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
