package attack

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// The harness's program is measured, started, and then rewritten in its place: a
// shell reads a script as it goes, so the rest would be another program under the
// digest of the first. What runs is the copy that was measured.
func TestProgramRewrittenWhileItRuns(t *testing.T) {
	r := sandbox(t)
	script := func(last string) []byte {
		return []byte("#!/bin/sh\necho begun\nread go\n" + strings.Repeat("# "+strings.Repeat("-", 60)+"\n", 1000) + "echo " + last + "\n")
	}
	path := filepath.Join(t.TempDir(), "harness")
	if err := os.WriteFile(path, script("measured"), 0o755); err != nil {
		t.Fatal(err)
	}
	var out rig.Output
	stdin, hand := io.Pipe()
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	running, err := r.Server.Run(t.Context(), "", x.ID, server.Harness{Path: path, Stdin: stdin, Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatal(err)
	}
	rig.Await(t, "the script runs", func() bool { return strings.Contains(out.String(), "begun") })
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, bytes.NewReader(script("swapped!"))); err != nil {
		t.Fatal(err)
	}
	f.Close()
	io.WriteString(hand, "go\n")
	hand.Close()
	rig.Wait(t, running)
	if got := out.String(); !strings.Contains(got, "measured") || strings.Contains(got, "swapped") {
		t.Errorf("got %q, want the program that was measured", got)
	}
}
