package seal_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/seal"
)

const passphrase = "correct horse battery"

func kek(t testing.TB, text string) *seal.Passphrase {
	t.Helper()
	p, err := seal.NewPassphrase([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// ring is a new ring in a folder, with a value sealed by it.
func ring(t *testing.T) (dir string, sealed []byte) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "data")
	r, err := seal.CreateRing(t.Context(), dir, kek(t, passphrase))
	if err != nil {
		t.Fatal(err)
	}
	return dir, sealedBy(t, r.Root())
}

func sealedBy(t *testing.T, root *seal.Root) []byte {
	t.Helper()
	s, err := root.Sealer("a")
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Seal("secret/iam", []byte("hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// opens: the value is what it was, in its place alone.
func opens(t *testing.T, root *seal.Root, sealed []byte) {
	t.Helper()
	s, err := root.Sealer("a")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Open("secret/iam", sealed); err != nil || string(got) != "hunter2" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := s.Open("secret/payments", sealed); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("under another name: got %v", err)
	}
	other, err := root.Sealer("b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open("secret/iam", sealed); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("as another tenant's: got %v", err)
	}
	for i := range sealed {
		b := bytes.Clone(sealed)
		b[i] ^= 1
		if _, err := s.Open("secret/iam", b); !errors.Is(err, seal.ErrOpen) {
			t.Errorf("byte %d changed: got %v", i, err)
		}
		if _, err := s.Open("secret/iam", sealed[:i]); !errors.Is(err, seal.ErrOpen) {
			t.Errorf("cut at %d: got %v", i, err)
		}
	}
}

// What opens a ring is its passphrase. A wrong one and a changed file cannot be told
// apart, so the file answers no guesses about itself.
func TestWrongPassphraseOpensNothing(t *testing.T) {
	dir, sealed := ring(t)
	r, err := seal.OpenRing(t.Context(), dir, kek(t, passphrase))
	if err != nil {
		t.Fatal(err)
	}
	opens(t, r.Root(), sealed)
	if _, err := seal.CreateRing(t.Context(), dir, kek(t, passphrase)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second ring in the folder: got %v", err)
	}
	_, wrong := seal.OpenRing(t.Context(), dir, kek(t, passphrase+"!"))
	change(t, dir, func(f map[string]any) {
		w := f["wrapped"].(map[string]any)
		w["bytes"] = flip(w["bytes"].(string))
	})
	_, changed := seal.OpenRing(t.Context(), dir, kek(t, passphrase))
	if wrong == nil || changed == nil || wrong.Error() != changed.Error() {
		t.Errorf("got %v and %v, want one error", wrong, changed)
	}
	if _, err := seal.CreateRing(t.Context(), filepath.Join(t.TempDir(), "d"), kek(t, "short")); err == nil {
		t.Error("a new passphrase of 5 bytes was taken")
	}
}

func flip(b64 string) string {
	c := byte('A')
	if b64[4] == c {
		c = 'B'
	}
	return b64[:4] + string(c) + b64[5:]
}

// copied is a copy of a ring's folder: a derivation takes its time.
func copied(t *testing.T, from string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// change edits a ring's file as somebody would who can write to the folder.
func change(t *testing.T, dir string, edit func(map[string]any)) {
	t.Helper()
	path := filepath.Join(dir, seal.RingName)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var f map[string]any
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	edit(f)
	if b, err = json.Marshal(f); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Nothing of a ring can be exchanged alone: each part is bound to the rest.
//
// Threats: E16 (door)
func TestChangedRingDoesNotOpen(t *testing.T) {
	params := func(f map[string]any) map[string]any {
		return f["wrapped"].(map[string]any)["params"].(map[string]any)
	}
	b64 := map[string]string{"v=19,m=64,t=1,p=1": "dj0xOSxtPTY0LHQ9MSxwPTE=", "v=19,m=4294967295,t=3,p=4": "dj0xOSxtPTQyOTQ5NjcyOTUsdD0zLHA9NA=="}
	from, _ := ring(t)
	for name, edit := range map[string]func(map[string]any){
		"version":     func(f map[string]any) { f["v"] = 2 },
		"kind":        func(f map[string]any) { f["kind"] = "file" },
		"key_id":      func(f map[string]any) { f["wrapped"].(map[string]any)["keyID"] = "other" },
		"salt":        func(f map[string]any) { params(f)["salt"] = flip(params(f)["salt"].(string)) },
		"less_work":   func(f map[string]any) { params(f)["argon2id"] = b64["v=19,m=64,t=1,p=1"] },
		"much_memory": func(f map[string]any) { params(f)["argon2id"] = b64["v=19,m=4294967295,t=3,p=4"] },
		"param_added": func(f map[string]any) { params(f)["x"] = "AA==" },
		"sealed":      func(f map[string]any) { f["sealed"] = flip(f["sealed"].(string)) },
		"no_sealed":   func(f map[string]any) { delete(f, "sealed") },
		"field_added": func(f map[string]any) { f["plain"] = true },
	} {
		t.Run(name, func(t *testing.T) {
			dir := copied(t, from)
			change(t, dir, edit)
			if _, err := seal.OpenRing(t.Context(), dir, kek(t, passphrase)); err == nil {
				t.Error("it opened")
			}
		})
	}
	dir := copied(t, from)
	b, err := os.ReadFile(filepath.Join(dir, seal.RingName))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, len(b) / 2, len(b) - 1} {
		if err := os.WriteFile(filepath.Join(dir, seal.RingName), b[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := seal.OpenRing(t.Context(), dir, kek(t, passphrase)); err == nil {
			t.Errorf("cut to %d bytes: it opened", n)
		}
	}
}

// A key file moves into a ring by one step. What it sealed still opens; what is
// sealed from then on does not open by a copy of the file.
func TestKeyFileMovesIntoARing(t *testing.T) {
	dir, old := keyFile(t)
	file, err := os.ReadFile(filepath.Join(dir, seal.FileName))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.OpenRing(t.Context(), dir, kek(t, passphrase)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before: got %v", err)
	}
	if _, err := seal.Adopt(t.Context(), dir, kek(t, passphrase)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, seal.FileName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the key file is still there: %v", err)
	}
	r, err := seal.OpenRing(t.Context(), dir, kek(t, passphrase))
	if err != nil {
		t.Fatal(err)
	}
	opens(t, r.Root(), old)
	fresh := sealedBy(t, r.Root())
	opens(t, r.Root(), fresh)
	root, err := seal.NewRoot(file)
	if err != nil {
		t.Fatal(err)
	}
	s, err := root.Sealer("a")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Open("secret/iam", fresh); err == nil {
		t.Errorf("a copy of the key file opens what was sealed later: %q", got)
	}
	// Another passphrase: everything still opens, by the new one alone.
	if err := r.Rewrap(t.Context(), kek(t, "another long passphrase")); err != nil {
		t.Fatal(err)
	}
	newest := sealedBy(t, r.Root())
	if _, err := seal.OpenRing(t.Context(), dir, kek(t, passphrase)); err == nil {
		t.Error("the passphrase of before still opens the ring")
	}
	if r, err = seal.OpenRing(t.Context(), dir, kek(t, "another long passphrase")); err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{old, fresh, newest} {
		opens(t, r.Root(), b)
	}
	if bytes.Equal(fresh[:3], newest[:3]) {
		t.Error("a new wrapping brought no new data key")
	}
}

func keyFile(t *testing.T) (dir string, sealed []byte) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "data")
	root, err := seal.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, sealedBy(t, root)
}

// Somebody who can write to the folder wants the server to use a key that they know:
// a key file in the place of the ring or beside it, or a ring that says it is one.
//
// Threats: E16 (door)
func TestDowngradeToAKeyFile(t *testing.T) {
	mine := bytes.Repeat([]byte{9}, seal.KeySize)
	from, _ := ring(t)
	for name, attack := range map[string]func(t *testing.T, dir string){
		"in_its_place": func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, seal.RingName)) },
		"beside_it":    func(*testing.T, string) {},
		"says_file":    func(t *testing.T, dir string) { change(t, dir, func(f map[string]any) { f["kind"] = "file" }) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := copied(t, from)
			if err := os.WriteFile(filepath.Join(dir, seal.FileName), mine, 0o600); err != nil {
				t.Fatal(err)
			}
			attack(t, dir)
			if _, err := seal.OpenRing(t.Context(), dir, kek(t, passphrase)); err == nil {
				t.Error("the ring opened")
			}
			if name != "in_its_place" {
				if _, err := seal.Load(dir); err == nil {
					t.Error("the key file was taken")
				}
			}
		})
	}
	// A value under the key that they know, in the form of a key file's.
	r, err := seal.OpenRing(t.Context(), from, kek(t, passphrase))
	if err != nil {
		t.Fatal(err)
	}
	known, err := seal.NewRoot(mine)
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Root().Sealer("a")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Open("secret/iam", sealedBy(t, known)); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestPassphraseIsCleared(t *testing.T) {
	b := []byte(passphrase)
	p, err := seal.NewPassphrase(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, make([]byte, len(b))) {
		t.Errorf("what it was given still is %q", b)
	}
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := seal.CreateRing(t.Context(), dir, p); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil || !p.Secret.Empty() {
		t.Errorf("it was not forgotten: %v", err)
	}
	if _, err := seal.OpenRing(t.Context(), dir, p); err == nil {
		t.Error("a passphrase that was cleared opens a ring")
	}
}

// crashed is a child of TestCrashAtEachStepOfARewrap, which kills itself.
func crashed(at, dir string) {
	seal.AtStep(func(s string) {
		if s == at {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	})
	p, _ := seal.NewPassphrase([]byte(passphrase))
	if _, err := os.Stat(filepath.Join(dir, seal.RingName)); err != nil {
		_, err = seal.Adopt(context.Background(), dir, p)
		exit(err)
	}
	r, err := seal.OpenRing(context.Background(), dir, p)
	if err != nil {
		exit(err)
	}
	q, _ := seal.NewPassphrase([]byte("another long passphrase"))
	exit(r.Rewrap(context.Background(), q))
}

func exit(err error) {
	if err != nil {
		os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
	os.Exit(0)
}

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "crash" {
		crashed(os.Args[2], os.Args[3])
	}
	os.Exit(m.Run())
}

// A process that is killed at any step of taking a key file in, or of wrapping by
// another passphrase, leaves everything that was sealed readable, by the key of
// before or by the new one.
func TestCrashAtEachStepOfARewrap(t *testing.T) {
	for _, c := range []struct {
		step, from string
		by         string // what opens it then; "" is the key file
	}{
		{"wrapped", "file", ""},
		{"ring", "file", passphrase},
		{"dropped", "file", passphrase},
		{"wrapped", "ring", passphrase},
		{"none", "ring", "another long passphrase"},
	} {
		t.Run(c.step+"_"+c.from, func(t *testing.T) {
			dir, sealed := keyFile(t)
			if c.from == "ring" {
				if _, err := seal.Adopt(t.Context(), dir, kek(t, passphrase)); err != nil {
					t.Fatal(err)
				}
			}
			out, err := exec.Command(os.Args[0], "crash", c.step, dir).CombinedOutput()
			if killed := err != nil && strings.Contains(err.Error(), "killed"); killed == (c.step == "none") {
				t.Fatalf("the child was not killed: %v %s", err, out)
			}
			if c.by == "" {
				root, err := seal.Load(dir)
				if err != nil {
					t.Fatal(err)
				}
				opens(t, root, sealed)
				return
			}
			r, err := seal.OpenRing(t.Context(), dir, kek(t, c.by))
			if err != nil {
				t.Fatal(err)
			}
			opens(t, r.Root(), sealed)
			if _, err := os.Stat(filepath.Join(dir, seal.FileName)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the key file is still there: %v", err)
			}
		})
	}
}

// Data keys that are not used any more are not in memory any more.
func TestOlderCopiesAreCleared(t *testing.T) {
	dir, sealed := ring(t)
	r, err := seal.OpenRing(t.Context(), dir, kek(t, passphrase))
	if err != nil {
		t.Fatal(err)
	}
	held := seal.Held(r.Root())
	if err := r.Rewrap(t.Context(), kek(t, "another long passphrase")); err != nil {
		t.Fatal(err)
	}
	for _, b := range held {
		if !bytes.Equal(b, make([]byte, seal.KeySize)) {
			t.Error("a copy of before is still in memory")
		}
	}
	opens(t, r.Root(), sealed)
}
