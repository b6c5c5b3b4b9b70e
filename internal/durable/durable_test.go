package durable

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestWriteFileReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, want := range []string{"", "one", strings.Repeat("two", 1<<20), "3"} {
		if err := WriteFile(path, []byte(want), 0o640); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Fatalf("got %d bytes, %v; want %d", len(got), err, len(want))
		}
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode() != 0o640 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	onlyEntry(t, path)
}

func TestWriteFileReplacesLinkNotItsTarget(t *testing.T) {
	dir := t.TempDir()
	victim, link := filepath.Join(dir, "victim"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(victim, []byte("keep"), 0o600), os.Symlink(victim, link)); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(link, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(victim); string(got) != "keep" {
		t.Errorf("victim: got %q", got)
	}
}

// Each step fails once, as a disk would make it fail.
func TestEachFaultLeavesAWholeFileAndAnError(t *testing.T) {
	broken := errors.New("input/output error")
	renamed := false
	faults := map[string]func(){
		"create": func() { create = func(string, string) (*os.File, error) { return nil, broken } },
		"short write": func() {
			write = func(f *os.File, b []byte) (int, error) { n, _ := f.Write(b[:1]); return n, broken }
		},
		"chmod":  func() { chmod = func(*os.File, fs.FileMode) error { return broken } },
		"fsync":  func() { syncing = func(*os.File) error { return broken } },
		"close":  func() { closing = func(f *os.File) error { f.Close(); return broken } },
		"rename": func() { rename = func(string, string) error { return broken } },
		"folder fsync": func() {
			syncing = func(f *os.File) error {
				if st, _ := f.Stat(); st.IsDir() {
					renamed = true
					return broken
				}
				return f.Sync()
			}
		},
	}
	for name, inject := range faults {
		t.Run(name, func(t *testing.T) {
			restore(t)
			renamed = false
			path := filepath.Join(t.TempDir(), "f")
			if err := WriteFile(path, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			inject()
			if err := WriteFile(path, []byte("new"), 0o600); !errors.Is(err, broken) {
				t.Errorf("got error %v", err)
			}
			want := "old"
			if renamed {
				want = "new"
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != want {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
			onlyEntry(t, path)
		})
	}
}

// The order is the promise: content synced before the name, name before return.
func TestOrderOfSteps(t *testing.T) {
	restore(t)
	var steps []string
	syncing = func(f *os.File) error {
		st, _ := f.Stat()
		if st.IsDir() {
			steps = append(steps, "sync folder")
		} else {
			steps = append(steps, "sync file")
		}
		return f.Sync()
	}
	rename = func(a, b string) error { steps = append(steps, "rename"); return os.Rename(a, b) }
	if err := WriteFile(filepath.Join(t.TempDir(), "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(steps, ", "), "sync file, rename, sync folder"; got != want {
		t.Errorf("got %s; want %s", got, want)
	}
}

func TestMkdir(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "d")
	for range 2 {
		if err := Mkdir(path, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != fs.ModeDir|0o711 {
		t.Errorf("got %v, %v", st.Mode(), err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{file, filepath.Join(dir, "link"), filepath.Join(dir, "no/d")} {
		if err := Mkdir(p, 0o700); err == nil {
			t.Errorf("%s: no error", p)
		}
	}
	restore(t)
	broken := errors.New("broken")
	syncing = func(*os.File) error { return broken }
	for _, p := range []string{path, filepath.Join(dir, "e")} {
		if err := Mkdir(p, 0o700); !errors.Is(err, broken) {
			t.Errorf("%s: fsync error lost: %v", p, err)
		}
	}
}

// A writer is killed at any moment, over and over: the file is always whole.
func TestKilledWriterLeavesAWholeFile(t *testing.T) {
	if path := os.Getenv("DURABLE_VICTIM"); path != "" {
		for i := byte(0); ; i++ {
			if err := WriteFile(path, bytes.Repeat([]byte{'a' + i%26}, 1<<16), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "f")
	if err := WriteFile(path, bytes.Repeat([]byte{'.'}, 1<<16), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		before, _ := os.ReadFile(path)
		cmd := exec.Command(exe, "-test.run=^TestKilledWriterLeavesAWholeFile$")
		cmd.Env = append(os.Environ(), "DURABLE_VICTIM="+path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		limit := time.After(20 * time.Second)
		for changed := false; !changed; {
			select {
			case <-limit:
				t.Fatal("writer does not write")
			default:
				now, _ := os.ReadFile(path)
				changed = !bytes.Equal(now, before)
			}
		}
		cmd.Process.Kill()
		cmd.Wait()
		got, err := os.ReadFile(path)
		if err != nil || len(got) != 1<<16 || bytes.Count(got, got[:1]) != 1<<16 {
			t.Fatalf("torn: %d bytes, %v", len(got), err)
		}
	}
}

func restore(t *testing.T) {
	c, w, m, s, cl, r := create, write, chmod, syncing, closing, rename
	t.Cleanup(func() { create, write, chmod, syncing, closing, rename = c, w, m, s, cl, r })
}

// onlyEntry fails if a temporary file was left behind.
func onlyEntry(t *testing.T, path string) {
	t.Helper()
	es, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(es) != 1 || es[0].Name() != filepath.Base(path) {
		t.Errorf("folder has %v, %v", es, err)
	}
}
