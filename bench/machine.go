package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fact is a line about the machine.
type fact struct{ name, value string }

func (b *bench) fact(name, value string) { b.facts = append(b.facts, fact{name, value}) }

// machine gathers what the numbers depend on.
func (b *bench) machine() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	kind, source, err := mountOf(b.dir)
	if err != nil {
		return err
	}
	if kind == "tmpfs" || kind == "ramfs" {
		return fmt.Errorf("%s is on %s, where durable means nothing: name another folder with -dir", b.dir, kind)
	}
	b.fact("Date", time.Now().UTC().Format("2006-01-02"))
	b.fact("Processor", fmt.Sprintf("%s, %d cores for this process", processor(), runtime.GOMAXPROCS(0)))
	b.fact("Kernel", "Linux "+unix.ByteSliceToString(u.Release[:])+" "+unix.ByteSliceToString(u.Machine[:]))
	b.fact("Disk", kind+" on "+filepath.Base(source))
	b.fact("Go", strings.TrimPrefix(runtime.Version(), "go"))
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "modernc.org/sqlite" {
				b.fact("SQLite", m.Path+" "+m.Version+", WAL, synchronous FULL")
			}
		}
	}
	b.fact("Load before", load())
	return nil
}

// machineAfter says what else the machine did meanwhile.
func (b *bench) machineAfter() { b.fact("Load after", load()+" (its own work included)") }

func load() string {
	raw, err := os.ReadFile("/proc/loadavg")
	f := strings.Fields(string(raw))
	if err != nil || len(f) < 3 {
		return "unknown"
	}
	return strings.Join(f[:3], " ")
}

func processor() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// mountOf is the file system of a folder: the longest mount point above it.
func mountOf(dir string) (kind, source string, err error) {
	dir, err = filepath.EvalSymlinks(dir)
	if err != nil {
		return "", "", err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", "", err
	}
	raw, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", "", err
	}
	longest := -1
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		at := f[1]
		if at != "/" && dir != at && !strings.HasPrefix(dir, at+"/") || len(at) < longest {
			continue
		}
		longest, kind, source = len(at), f[2], f[0]
	}
	return kind, source, nil
}

// status reads a field of /proc/PID/status that is in kB, as bytes.
func status(pid int, field string) (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			var kb int64
			if _, err := fmt.Sscan(rest, &kb); err != nil {
				return 0, err
			}
			return kb << 10, nil
		}
	}
	return 0, fmt.Errorf("process %d has no %s", pid, field)
}

// treePSS is the proportional set size of a process and all below it, in bytes.
func treePSS(root int) (int64, error) {
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	below := map[int][]int{}
	for _, path := range all {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		var pid, parent int
		var state string
		name := strings.LastIndexByte(string(raw), ')')
		if _, err := fmt.Sscan(string(raw[:max(0, strings.IndexByte(string(raw), ' '))]), &pid); err != nil || name < 0 {
			return 0, fmt.Errorf("%s: not understood", path)
		}
		if _, err := fmt.Sscan(string(raw[name+1:]), &state, &parent); err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		below[parent] = append(below[parent], pid)
	}
	var sum int64
	for todo := []int{root}; len(todo) > 0; todo = todo[1:] {
		todo = append(todo, below[todo[0]]...)
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", todo[0]))
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(raw)) {
			if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
				var kb int64
				if _, err := fmt.Sscan(rest, &kb); err != nil {
					return 0, err
				}
				sum += kb << 10
			}
		}
	}
	return sum, nil
}
