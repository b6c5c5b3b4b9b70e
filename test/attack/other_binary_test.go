package attack

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// Whoever may run tasks brings another program than the certified one to
// production: other bytes, other arguments, another environment, further files.
// Measuring at launch must refuse it before a credential is issued, and the
// certification of the right program stands.
func TestAnotherBinaryInProduction(t *testing.T) {
	r := certified(t)
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	patched := filepath.Join(dir, "agent")
	if err := os.WriteFile(patched, append(self, 0), 0o755); err != nil {
		t.Fatal(err)
	}
	bound := filepath.Join(dir, "site.py")
	if err := os.WriteFile(bound, []byte("import os"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*server.Harness){
		"other bytes":       func(h *server.Harness) { h.Path = patched },
		"other program":     func(h *server.Harness) { h.Path = "/bin/sh"; h.Args = []string{"-c", "true"} },
		"other arguments":   func(h *server.Harness) { h.Args = []string{"sample-agent", "x"} },
		"other environment": func(h *server.Harness) { h.Env = []string{"LD_PRELOAD=/tmp/evil.so"} },
		"more environment":  func(h *server.Harness) { h.Env = []string{"PYTHONPATH=" + dir} },
		"further files":     func(h *server.Harness) { h.Bind = []string{bound} },
	} {
		t.Run(name, func(t *testing.T) {
			before := r.State(action.Production)
			x := r.OpenTask(t, rig.Intent(action.Production, "jo", "4711"))
			var out rig.Output
			h := rig.Harness(t, &out, rig.SampleAgent...)
			change(&h)
			running, err := r.Server.Run(t.Context(), "", x.ID, h)
			if err == nil {
				x = rig.Wait(t, running)
				t.Errorf("it ran; the task is %s (%s)\n%s", x.State, x.Code, out.String())
				return
			}
			refusedWith(t, err, "drift", "harness_environment")
			if x, err = r.Server.Task(t.Context(), "", x.ID); err != nil || !x.State.Over() || x.State == task.Closed {
				t.Errorf("the task is %s, %v", x.State, err)
			}
			for _, e := range r.Records(t, 0) {
				if e.Task == x.ID && strings.HasPrefix(e.Type, "lease.") {
					t.Errorf("%s for a program that was not certified", e.Type)
				}
			}
			if got := rig.Changes(before, r.State(action.Production)); len(got) > 0 {
				t.Errorf("changed: %q", got)
			}
			if got := live(t, r); got == nil {
				t.Error("the certification of the right program is gone")
			}
		})
	}
	// The right one still works.
	x, out := r.Run(t, rig.Intent(action.Production, "jo", "4711"), rig.SampleAgent...)
	if x.State != task.Closed {
		t.Errorf("the certified program: %s: %s\n%s", x.State, x.Why, out)
	}
}

// live is the certification that the records say is in force, or nil.
func live(t *testing.T, r *rig.Rig) *certify.Certification {
	t.Helper()
	all, err := r.Server.Certifications(t.Context(), "", "helpdesk")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.State == certify.Live {
			return &c
		}
	}
	return nil
}
