package cli_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/cli"
)

// The folder to play from is the owner's alone, and its people stay who they are
// when the estate starts again.
func TestEstate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "play")
	var keys []string
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		var errw strings.Builder
		out := watched{seen: func(s string) {
			if strings.Contains(s, "Ctrl-C") {
				cancel()
			}
		}}
		code := cli.Run(ctx, []string{"estate", "--dir", dir, "--production", "127.0.0.1:0", "--sandbox", "127.0.0.1:0", "--admin", "127.0.0.1:0",
			"--provider", "127.0.0.1:0", "--provider-admin", "127.0.0.1:0"}, strings.NewReader(""), &out, &errw)
		cancel()
		if code != 0 {
			t.Fatalf("exit %d: %s", code, errw.String())
		}
		secret, err := os.ReadFile(filepath.Join(dir, "secrets", "iam-helpdesk", "sandbox"))
		if err != nil || len(secret) < 8 {
			t.Fatalf("password: %d bytes, %v", len(secret), err)
		}
		if strings.Contains(out.String(), string(secret)) {
			t.Error("a password was printed")
		}
		key, err := os.ReadFile(filepath.Join(dir, "keys", "ines.pub"))
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, string(key))
	}
	if keys[0] != keys[1] {
		t.Error("a person has another key after a second start")
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err == nil && fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: mode %o, want nothing for others", path, fi.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
