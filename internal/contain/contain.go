// Package contain starts a process that can reach nothing but what it was given.
//
// The process gets fresh user, network, IPC, mount, PID and UTS namespaces, a
// root file system made of an allow-list, no capability, no_new_privs, a
// seccomp filter and no descriptor that was not named. It works with and
// without root and starts no helper program: the stages are this very binary,
// executed again under a private argv[0] (Main).
//
// Invariants:
//   - The network namespace has lo and nothing else. The only way out is a
//     listener in it that the parent serves.
//   - Only Spec.Mounts exist inside, read-only unless Writable, beside a fresh
//     /proc, a minimal /dev and empty tmpfs folders.
//   - The process never runs as host uid 0. Under a root parent every process
//     has its own host uid, so two of them cannot signal, trace or read each other.
//   - Nothing of it outlives Kill, the end of its first process, or the death
//     of the parent, also by SIGKILL: the init of its PID namespace dies with
//     the parent, and the kernel ends a PID namespace with its init.
//   - The stages have an empty environment and learn the Spec over an inherited
//     descriptor: no secret is visible in a process list, except what the Spec
//     itself puts into Args.
//
// Not trusted: anything inside after exec. The parent reads from the inside
// only small messages of its own init, which the workload cannot trace.
// The kernel is trusted; SelfTest tries the known ways around on the running
// machine.
//
// Divergence from a virtual machine: the kernel is shared. /proc/meminfo,
// /proc/stat and the kernel version show the host's.
package contain

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"
)

// Spec says what to run and all that exists around it.
type Spec struct {
	// Path is the executable, an absolute path as seen inside. If no Mount
	// covers it, the host file of the same path is bound there read-only.
	// "/proc/self/fd/3" and so on executes one of Files.
	Path string
	Args []string // without argv[0], which is Path
	Env  []string // the whole environment; HOME in it chooses the home tmpfs (default /home/agent)
	Dir  string   // working directory inside; empty is HOME

	// Listen are TCP addresses (IP literals of the loopback, with port) opened
	// inside the network namespace before exec. The parent serves them.
	Listen []string

	Mounts []Mount    // the allow-list; at most 200
	Files  []*os.File // descriptors 3, 4, ... inside; never folders, from which one could walk the host

	Stdin          io.Reader
	Stdout, Stderr io.Writer // a writer that blocks for ever also blocks Wait and Kill; a file does not

	UID int // user and group id seen inside; 0 means 1000. Never host root

	// NestedUserNS lets the process create user namespaces, which Chromium's
	// own sandbox needs. It costs kernel attack surface; off for harnesses.
	NestedUserNS bool

	MemoryMax int64 // bytes; 0 is no limit. See Doctor for how it is enforced here
	PidsMax   int64 // processes and threads; 0 means 4096

	argv0 string // of the self-test's probe; empty is Path
}

// Mount makes the host's Source visible at Target. Both are absolute; Source
// may be a folder, a file or a Unix socket.
//
// The process runs as another host user (see Process.HostUID): what it opens
// must be readable by that user, as for any other program. To connect to a
// socket it needs write permission on the socket file (mode 0666 under a root
// parent; the folder around the socket on the host does not matter then, so
// keep that folder 0700 and the socket is reachable only from inside).
type Mount struct {
	Source, Target string
	Writable       bool
	// Checked says that Source was looked at and allowed, so no part of it may be a
	// link: it could lead elsewhere by now.
	Checked bool
}

// SystemMounts are the host's programs, libraries, fonts and certificates, as
// a dynamically linked program needs them: /usr and what leads to it, and a
// few files of /etc. Nothing in it is private to a user.
func SystemMounts() []Mount {
	var out []Mount
	for _, p := range []string{
		"/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32",
		"/etc/ld.so.cache", "/etc/fonts", "/etc/alternatives", "/etc/ssl/certs", "/etc/mime.types",
	} {
		if _, err := os.Stat(p); err == nil {
			out = append(out, Mount{Source: p, Target: p})
		}
	}
	return out
}

const (
	defaultUID  = 1000
	defaultHome = "/home/agent"
	maxMounts   = 200 // SCM_RIGHTS carries at most 253 descriptors in a message
	maxListen   = 16
	maxFiles    = 64
	defaultPids = 4096
	maxString   = 128 << 10 // of one argument: execve(2), MAX_ARG_STRLEN
	maxStrings  = 1 << 20   // execve takes a quarter of the stack's limit, 2 MiB as a rule
)

// ErrSpec is wrapped by every refusal of a Spec: nothing was started.
var ErrSpec = errors.New("containment spec refused")

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrSpec, fmt.Sprintf(format, args...))
}

func (s *Spec) check() error {
	if !clean(s.Path) {
		return refuse("path %q is not absolute and clean", s.Path)
	}
	if s.Dir != "" && !clean(s.Dir) {
		return refuse("dir %q is not absolute and clean", s.Dir)
	}
	if h := s.home(); !clean(h) || h == "/" {
		return refuse("HOME %q is not absolute and clean", h)
	}
	for _, l := range s.Listen {
		a, err := netip.ParseAddrPort(l)
		if err != nil || !a.Addr().IsLoopback() || a.Port() == 0 {
			return refuse("listen %q is not a loopback address with a port", l)
		}
	}
	for _, e := range s.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return refuse("environment entry without a name")
		}
	}
	total := 0
	for _, e := range slices.Concat(s.Env, s.Args) {
		if strings.ContainsRune(e, 0) {
			return refuse("NUL byte in the environment or arguments")
		}
		if total += len(e) + 1; len(e) >= maxString || total > maxStrings {
			return refuse("environment and arguments are longer than %d bytes in one string or %d in all: hand a file over instead", maxString, maxStrings)
		}
	}
	switch {
	case len(s.Mounts) > maxMounts, len(s.Listen) > maxListen, len(s.Files) > maxFiles:
		return refuse("more than %d mounts, %d listeners or %d files", maxMounts, maxListen, maxFiles)
	case s.UID < 0 || s.UID >= 1<<31-1:
		return refuse("uid %d", s.UID)
	case s.MemoryMax < 0 || s.PidsMax < 0:
		return refuse("negative limit")
	}
	return errors.Join(s.checkMounts(), s.checkFiles())
}

func (s *Spec) checkMounts() error {
	seen := map[string]bool{}
	for _, m := range s.Mounts {
		switch {
		case !clean(m.Source) || !clean(m.Target):
			return refuse("mount %q on %q: not absolute and clean", m.Source, m.Target)
		case reserved(m.Target):
			return refuse("mount target %q is made by the containment itself", m.Target)
		case seen[m.Target]:
			return refuse("two mounts on %q", m.Target)
		case m.Source == "/" || kernelTree(m.Source):
			return refuse("mount source %q would show the host's processes, devices or all of it", m.Source)
		}
		seen[m.Target] = true
	}
	return nil
}

func (s *Spec) checkFiles() error {
	all := []any{s.Stdin, s.Stdout, s.Stderr}
	for _, f := range s.Files {
		if f == nil {
			return refuse("nil file")
		}
		all = append(all, f)
	}
	for _, f := range all {
		if f, ok := f.(*os.File); ok && f != nil {
			if st, err := f.Stat(); err != nil || st.IsDir() {
				return refuse("file %s is closed or a folder", f.Name())
			}
		}
	}
	return nil
}

func clean(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && !strings.ContainsRune(p, 0)
}

// reserved says that mounting at p could replace what setup makes.
func reserved(p string) bool {
	return kernelTree(p) || p == "/" || p == "/tmp" || p == "/run"
}

// kernelTree says that p is in a file system that shows the kernel's state.
func kernelTree(p string) bool {
	for _, r := range []string{"/proc", "/dev", "/sys"} {
		if p == r || strings.HasPrefix(p, r+"/") {
			return true
		}
	}
	return false
}

func (s *Spec) home() string {
	for _, e := range slices.Backward(s.Env) {
		if h, ok := strings.CutPrefix(e, "HOME="); ok {
			return h
		}
	}
	return defaultHome
}

// mounts is the allow-list in mounting order: outer targets first, so that an
// inner one is not hidden by an outer one.
func (s *Spec) mounts() []Mount {
	ms := slices.Clone(s.Mounts)
	covered := strings.HasPrefix(s.Path, "/proc/self/fd/") || slices.ContainsFunc(ms, func(m Mount) bool {
		return m.Target == s.Path || strings.HasPrefix(s.Path, m.Target+"/")
	})
	if !covered {
		ms = append(ms, Mount{Source: s.Path, Target: s.Path})
	}
	slices.SortStableFunc(ms, func(a, b Mount) int { return strings.Compare(a.Target+"/", b.Target+"/") })
	return ms
}
