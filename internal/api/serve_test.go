package api_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// A socket that a dead process left is replaced; anything else of that name is
// not ours to remove.
func TestListenUnix(t *testing.T) {
	dir, err := os.MkdirTemp("", "sp")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	again, err := api.ListenUnix(path, 0o600)
	if err != nil {
		t.Fatalf("over a stale socket: got %v", err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v, %v; want 0600", fi.Mode(), err)
	}
	again.Close()
	for name, make := range map[string]func() error{
		"file":    func() error { return os.WriteFile(path, []byte("precious"), 0o600) },
		"folder":  func() error { return os.Mkdir(path, 0o700) },
		"symlink": func() error { return os.Symlink("/etc/passwd", path) },
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		if l, err := api.ListenUnix(path, 0o600); err == nil {
			l.Close()
			t.Errorf("%s in the way: it was replaced", name)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s in the way: it was removed", name)
		}
		os.Remove(path)
	}
	if _, err := api.ListenUnix(filepath.Join(dir, strings.Repeat("x", 108)), 0o600); err == nil || !strings.Contains(err.Error(), "shorter data folder") {
		t.Errorf("long path: got %v", err)
	}
}

func TestKind(t *testing.T) {
	for in, want := range map[string]string{"capability": "Capability", "CAPABILITIES": "Capability", "people": "Person", "Persons": "Person", "policysets": "PolicySet",
		"witnesses": "Witness", "credentialsource": "CredentialSource", "retentions": "Retention", "": "", "s": "", "task": ""} {
		if got := api.Kind(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
