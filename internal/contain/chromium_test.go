package contain_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/contain"
)

// Chromium with its own sandbox on (no --no-sandbox) must run inside and show
// a page that only the served listener has.
func TestChromiumKeepsItsOwnSandbox(t *testing.T) {
	exe, err := contain.FindChromium("shell")
	if err != nil {
		t.Fatal(err)
	}
	s := contain.Spec{
		Path: exe, Env: []string{"HOME=/home/agent"}, Mounts: contain.SystemMounts(), NestedUserNS: true,
		Args: []string{"--headless", "--disable-gpu", "--user-data-dir=/tmp/profile", "--dump-dom",
			"data:text/html,<p>rendered</p>"},
	}
	var out, log bytes.Buffer
	s.Stdout, s.Stderr = &out, &log
	if err := start(t, s).Wait(); err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	if !strings.Contains(out.String(), "<p>rendered</p>") {
		t.Errorf("got %q\n%s", &out, &log)
	}
}

func TestFindChromiumNeverReturnsTheWrapper(t *testing.T) {
	script := filepath.Join(t.TempDir(), "chromium")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexec real\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{script, "chromium", "/nonexistent"} {
		t.Setenv("SALLYPORT_CHROMIUM", p)
		if got, err := contain.FindChromium("full"); !errors.Is(err, contain.ErrNoChromium) {
			t.Errorf("%s: got %q, %v", p, got, err)
		}
	}
	if _, err := contain.FindChromium("firefox"); !errors.Is(err, contain.ErrNoChromium) {
		t.Errorf("unknown kind: %v", err)
	}
}
