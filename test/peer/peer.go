// Package peer builds programs of other people's libraries, which are modules of
// their own below test/, with dependencies of their own.
package peer

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
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

// Modules runs npm ci in a folder where the modules are missing or are not those of
// its lock file. Tests of two packages may get there at once.
func Modules(dir string) error {
	guard, err := os.Open(filepath.Join(dir, "package-lock.json"))
	if err != nil {
		return err
	}
	defer guard.Close() // and lets go of the lock
	if err := syscall.Flock(int(guard.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	lock, err := os.ReadFile(guard.Name())
	if err != nil {
		return err
	}
	mark := filepath.Join(dir, "node_modules", ".sallyport-lock")
	if have, err := os.ReadFile(mark); err == nil && string(have) == string(lock) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=optional")
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	return os.WriteFile(mark, lock, 0o644)
}
