package server_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/internal/server"
)

// TestExchangeOnDisk exchanges what was digested in ways that leave the name, or what
// lstat says of it, as they were.
//
// Threats: T50 (authority)
func TestExchangeOnDisk(t *testing.T) {
	for _, c := range []struct {
		name string
		how  func(t *testing.T, disk server.Disk, dir string) (path string, exchange func())
	}{
		{"behind_a_link", func(t *testing.T, disk server.Disk, dir string) (string, func()) {
			put(t, dir+"/v1", "good")
			link(t, dir+"/v1", dir+"/agent")
			disk.Pass(10 * time.Second)
			return dir + "/agent", func() { put(t, dir+"/v1", "evil") }
		}},
		{"link_elsewhere", func(t *testing.T, disk server.Disk, dir string) (string, func()) {
			put(t, dir+"/v1", "good")
			put(t, dir+"/v2", "evil")
			link(t, dir+"/v1", dir+"/agent")
			disk.Pass(10 * time.Second)
			return dir + "/agent", func() {
				link(t, dir+"/v2", dir+"/new")
				if err := os.Rename(dir+"/new", dir+"/agent"); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"by_a_mapping_that_was_there", func(t *testing.T, disk server.Disk, dir string) (string, func()) {
			m := mapped(t, dir+"/agent")
			disk.Pass(10 * time.Second)
			return dir + "/agent", func() { copy(m, "evil"); disk.Pass(time.Minute) }
		}},
		// As a change within the step of time in which it was touched.
		{"just_after_it_was_touched", func(t *testing.T, disk server.Disk, dir string) (string, func()) {
			m := mapped(t, dir+"/agent")
			return dir + "/agent", func() { copy(m, "evil") }
		}},
		{"for_a_pipe", func(t *testing.T, disk server.Disk, dir string) (string, func()) {
			put(t, dir+"/agent", "good")
			return dir + "/agent", func() {
				if err := os.Remove(dir + "/agent"); err != nil {
					t.Fatal(err)
				}
				if err := unix.Mkfifo(dir+"/agent", 0o755); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"for_what_nobody_can_read_to_its_end", func(t *testing.T, disk server.Disk, dir string) (string, func()) {
			put(t, dir+"/agent", "good")
			return dir + "/agent", func() {
				if err := os.Truncate(dir+"/agent", 1<<42); err != nil {
					t.Fatal(err)
				}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk, dir := server.NewDisk(), t.TempDir()
			path, exchange := c.how(t, disk, dir)
			before, err := disk.File(path)
			if err != nil {
				t.Fatal(err)
			}
			exchange()
			done := make(chan struct{})
			go func() {
				defer close(done)
				if after, err := disk.File(path); err == nil && after == before {
					t.Errorf("it is %s still", after)
				}
			}()
			select {
			case <-done:
			case <-time.After(30 * time.Second):
				t.Fatal("it is looked at for ever")
			}
		})
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, filepath.Clean(path)); err != nil {
		t.Fatal(err)
	}
}

// mapped is a good file, mapped so that a write is none that the kernel sees.
func mapped(t *testing.T, path string) []byte {
	t.Helper()
	put(t, path, "good")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(m) })
	copy(m, "good")
	return m
}
