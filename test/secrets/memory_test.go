package secrets

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// memory searches every process that lives in another PID namespace than ours,
// which is what the boundary started for agents: its arguments, its environment,
// and all of its memory that is there, but for programs and libraries. It returns
// how many processes and bytes it read.
func (s *search) memory(t *testing.T) (processes int, size int64) {
	t.Helper()
	ours, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range all {
		if ns, err := os.Readlink(dir + "/ns/pid"); err != nil || ns == ours {
			continue // gone, or not contained
		}
		before := s.bytes
		for _, name := range []string{"cmdline", "environ"} {
			if b, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
				s.in(filepath.Join(dir, name), b)
			}
		}
		if err := s.process(dir); errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // gone meanwhile: those of other tests are contained too
		} else if err != nil {
			t.Errorf("%s: %v", dir, err)
		}
		processes++
		size += s.bytes - before
	}
	return processes, size
}

// process searches the memory of one process (proc(5): smaps and mem).
func (s *search) process(dir string) error {
	name, err := os.ReadFile(filepath.Join(dir, "comm"))
	if err != nil {
		return err
	}
	maps, err := os.Open(filepath.Join(dir, "smaps"))
	if err != nil {
		return err
	}
	defer maps.Close()
	mem, err := os.Open(filepath.Join(dir, "mem"))
	if err != nil {
		return err
	}
	defer mem.Close()
	var from, to int64
	var what string
	read := func() {
		if to == from {
			return
		}
		b := make([]byte, to-from)
		n, _ := mem.ReadAt(b, from) // the process goes on meanwhile
		s.in(fmt.Sprintf("the memory of %s, %s", bytes.TrimSpace(name), what), b[:n])
		from, to = 0, 0
	}
	const most = 1 << 30 // of one mapping; more is address space without memory
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) >= 5 && strings.Contains(f[0], "-") {
			begin, end, _ := strings.Cut(f[0], "-")
			a, err1 := strconv.ParseInt(begin, 16, 64)
			b, err2 := strconv.ParseInt(end, 16, 64)
			what = strings.Join(f[5:], " ")
			if err1 != nil || err2 != nil || f[1][0] != 'r' || b-a > most || program(what) {
				continue // the addresses of the kernel's own page do not fit, either
			}
			from, to = a, b
			continue
		}
		if len(f) == 3 && f[0] == "Rss:" {
			if f[1] == "0" {
				from, to = 0, 0
			}
			read()
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil // it ended
	}
	return nil
}

// program reports whether a mapping is code or data of a file that was there
// before any secret was.
func program(what string) bool {
	for _, p := range []string{"/usr/", "/lib", "/opt/", "[vvar", "[vdso", "[vsyscall"} {
		if strings.HasPrefix(what, p) {
			return true
		}
	}
	return false
}
