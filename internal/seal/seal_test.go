package seal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/seal"
)

func sealer(t *testing.T, key byte, tenant string) record.Sealer {
	t.Helper()
	root, err := seal.NewRoot(bytes.Repeat([]byte{key}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	s, err := root.Sealer(tenant)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSealedValueOpensOnlyInItsPlace swaps context, tenant and root key.
func TestSealedValueOpensOnlyInItsPlace(t *testing.T) {
	a := sealer(t, 1, "a")
	secret := []byte("hunter2")
	sealed, err := a.Seal("lease iam", secret)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := a.Open("lease iam", sealed); err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("got %q, %v", got, err)
	}
	for name, c := range map[string]struct {
		s       record.Sealer
		context string
	}{
		"context": {a, "lease payments"},
		"empty":   {a, ""},
		"tenant":  {sealer(t, 1, "b"), "lease iam"},
		"root":    {sealer(t, 2, "a"), "lease iam"},
		"shift":   {sealer(t, 1, "a\x00lease"), "iam"},
	} {
		if got, err := c.s.Open(c.context, sealed); !errors.Is(err, seal.ErrOpen) {
			t.Errorf("other %s: got %q, %v; want %v", name, got, err, seal.ErrOpen)
		}
	}
	for i := range sealed {
		b := bytes.Clone(sealed)
		b[i] ^= 1
		if got, err := a.Open("lease iam", b); !errors.Is(err, seal.ErrOpen) {
			t.Errorf("byte %d: got %q, %v", i, got, err)
		}
		if got, err := a.Open("lease iam", sealed[:i]); !errors.Is(err, seal.ErrOpen) {
			t.Errorf("cut at %d: got %q, %v", i, got, err)
		}
	}
	again, err := a.Seal("lease iam", secret)
	if err != nil || bytes.Equal(again, sealed) {
		t.Error("two seals of one value are equal")
	}
	if bytes.Contains(sealed, secret) {
		t.Error("the secret is readable")
	}
}

func TestZeroRootSealsNothing(t *testing.T) {
	if _, err := new(seal.Root).Sealer("a"); err == nil {
		t.Error("zero root: got no error")
	}
	if _, err := (*seal.Root)(nil).Sealer("a"); err == nil {
		t.Error("nil root: got no error")
	}
	if _, err := seal.NewRoot(make([]byte, 31)); err == nil {
		t.Error("short key: got no error")
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	s := seal.NewSecret([]byte("hunter2"))
	box := struct {
		S seal.Secret
		P *seal.Secret
	}{s, &s}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", s, "box", box)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s, "box", box)
	j, err := json.Marshal(box)
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{fmt.Sprintf("%v %+v %#v %s %q %x %X %d", s, s, s, s, s, s, s, s),
		fmt.Sprintf("%v %+v %#v %s %x", box, box, box, box, box), fmt.Sprint(&s, []seal.Secret{s}, map[string]seal.Secret{"a": s}),
		fmt.Errorf("x: %v", s).Error(), log.String(), string(j)} {
		if low := strings.ToLower(out); strings.Contains(low, "hunter2") || strings.Contains(low, "68756e74657232") || strings.Contains(out, "104 117") {
			t.Errorf("leaked: %s", out)
		}
	}
	if got := string(s.Reveal()); got != "hunter2" || s.Empty() || !new(seal.Secret).Empty() {
		t.Errorf("got %q", got)
	}
}

func TestRootKeyFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := seal.Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: got %v", err)
	}
	made, err := seal.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, seal.FileName)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 || st.Size() != seal.KeySize {
		t.Errorf("got %v, %v", st, err)
	}
	loaded, err := seal.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := made.Sealer("a")
	b, _ := loaded.Sealer("a")
	sealed, err := a.Seal("x", []byte("y"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Open("x", sealed); err != nil {
		t.Errorf("the loaded key is another: %v", err)
	}
	if _, err := seal.Create(dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second: got %v, want %v", err, fs.ErrExist)
	}
	// State without its key: never a new key.
	os.Remove(path)
	os.WriteFile(filepath.Join(dir, "ledger.db"), nil, 0o600)
	if _, err := seal.Create(dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("state without key: got %v, want %v", err, fs.ErrExist)
	}
	for name, c := range map[string]struct {
		size int
		mode os.FileMode
	}{"torn": {31, 0o600}, "empty": {0, 0o600}, "long": {33, 0o600}, "readable": {32, 0o640}, "open": {32, 0o604}} {
		os.Remove(path)
		if err := os.WriteFile(path, make([]byte, c.size), c.mode); err != nil {
			t.Fatal(err)
		}
		os.Chmod(path, c.mode)
		if _, err := seal.Load(dir); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
