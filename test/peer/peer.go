// Package peer builds programs of other people's libraries, which are modules of
// their own below test/, with dependencies of their own.
package peer

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Go runs the go command in the module test/NAME, and returns what it prints.
func Go(t testing.TB, name string, args ...string) string {
	t.Helper()
	root, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), "go", args...)
	c.Dir = filepath.Join(strings.TrimSpace(string(root)), "test", name)
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-buildvcs=false")
	c.Stderr = t.Output()
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go %s in test/%s: %v", strings.Join(args, " "), name, err)
	}
	return strings.TrimSpace(string(out))
}

// Build builds the program test/NAME.
func Build(t testing.TB, name string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), name)
	Go(t, name, "build", "-o", bin, ".")
	return bin
}
