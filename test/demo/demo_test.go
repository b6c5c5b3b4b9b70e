// Package demo runs the demo as a reader of the README does: the binary as
// `make build` makes it, the story on real Chromium, and what it leaves behind.
package demo

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/readiness"
	"github.com/sallyport-dev/sallyport/internal/store/pgtest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	pgtest.Stop()
	os.Exit(code)
}

func TestDemoTellsItsWholeStory(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { // the harness runs as somebody else
		t.Fatal(err)
	}
	bin, out := filepath.Join(dir, "sallyport"), filepath.Join(dir, "out")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "github.com/sallyport-dev/sallyport/cmd/sallyport")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	args := []string{"demo", "--headless", "--out", out}
	store, err := pgtest.Chosen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if store != "" {
		args = append(args, "--store", store)
	}
	told, err := exec.CommandContext(t.Context(), bin, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, told)
	}
	for _, title := range []string{"\n1. ", "\n2. ", "\n3. ", "\n4. ", "\n5. ", "\n6. ", "\n7. ", "\n8. ", "\n9. ", "\nThe end\n"} {
		if !bytes.Contains(told, []byte(title)) {
			t.Errorf("the story has no part %q:\n%s", strings.TrimSpace(title), told)
		}
	}
	var r readiness.Report
	raw, err := os.ReadFile(filepath.Join(out, "readiness.json"))
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil || !r.Ready || len(r.Conditions) != 10 {
		t.Errorf("readiness.json: ready %v, %d conditions, %v", r.Ready, len(r.Conditions), err)
	}
	page, err := os.ReadFile(filepath.Join(out, "readiness.html"))
	if err != nil || bytes.Contains(page, []byte(`src="http`)) || bytes.Contains(page, []byte(`href="http`)) {
		t.Errorf("readiness.html is not there or not self-contained: %v", err)
	}
	bundle := filepath.Join(out, "bundle.sallyport")
	if text, err := exec.Command(bin, "verify", bundle).CombinedOutput(); err != nil {
		t.Errorf("verify: %v: %s", err, text)
	}
	b, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(bundle, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := exec.Command(bin, "verify", bundle).CombinedOutput(); err == nil {
		t.Errorf("a bundle with one changed bit is accepted: %s", text)
	}
}
