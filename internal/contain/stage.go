package contain

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Private names of the stages. Somebody who executes the binary under one of
// them gains nothing: a stage only acts on descriptors 3 and 4.
const (
	stageSetup = "sallyport-contain-setup"
	stageInit  = "sallyport-contain-init"
	stageProbe = "sallyport-contain-probe"
)

// Main must be the first statement of main and of TestMain. In a process that
// Start made it never returns; in any other it does nothing.
func Main() {
	switch os.Args[0] {
	case stageSetup:
		fail(setup())
	case stageInit:
		fail(runInit())
	case stageProbe:
		runProbe()
		os.Exit(0)
	}
}

// fail reports to the parent why the world could not be made, and ends. The
// exit is the bare system call: a stage has nothing to flush, and the hooks of
// os.Exit (race detector, coverage) would hold up every end by a second.
func fail(err error) {
	if err == nil {
		syscall.Exit(0)
	}
	if send(fdControl, note{Kind: "error", Text: err.Error()}) != nil {
		fmt.Fprintln(os.Stderr, "sallyport: containment stage without a parent:", err)
	}
	syscall.Exit(125)
}

// setup is the first stage: PID 1 of the new namespaces, with capabilities in
// them. It makes the world and executes init, which has none.
//
// The thread stays locked: capabilities and bounding sets are per thread, and
// the exec at the end must happen on the one that dropped them.
func setup() error {
	runtime.LockOSThread()
	n, trees, err := receive(fdControl, startLimit)
	if err != nil || n.Kind != "go" {
		return fmt.Errorf("wait for the parent: %w", errors.Join(err, errGone))
	}
	p, err := readPlan()
	if err != nil {
		return fmt.Errorf("read the plan: %w", err)
	}
	// Whatever the parent's parent left open without close-on-exec stops here.
	if err := unix.CloseRange(uint(fdFirst+p.Files), ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close inherited descriptors: %w", err)
	}
	// When memory runs out, the kernel shall take what is contained, not the
	// server. Lowering it again takes a capability.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0); err != nil {
		return fmt.Errorf("out-of-memory preference: %w", err)
	}
	if err := network(p); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("sallyport")); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if !p.Nested {
		if err := forbidUserNamespaces(); err != nil {
			return err
		}
	}
	if !p.Trees {
		if trees, err = cloneTrees(p.Mounts); err != nil {
			return err
		}
	}
	if err := makeRoot(p, trees); err != nil {
		return err
	}
	if err := dropPrivileges(); err != nil {
		return err
	}
	for fd := fdControl; fd < fdFirst+p.Files; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("keep descriptor %d: %w", fd, err)
		}
	}
	return fmt.Errorf("execute init: %w", syscall.Exec("/proc/self/exe", []string{stageInit}, nil))
}

// network brings lo up, opens the listeners and hands them to the parent.
func network(p plan) error {
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &st); err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	var fds []int
	for _, addr := range p.Listen {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			return err
		}
		defer f.Close()
		l.Close()
		fds = append(fds, int(f.Fd()))
	}
	return send(fdControl, note{Kind: "listening", NetNS: st.Ino}, fds...)
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// forbidUserNamespaces sets the limit of this user namespace to none. Nobody
// inside can raise it: that takes a capability that is gone after setup.
func forbidUserNamespaces() error {
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
		return fmt.Errorf("forbid nested user namespaces: %w", err)
	}
	return nil
}

// dropPrivileges leaves no capability in any set, none to gain by exec, and
// no way to change that.
func dropPrivileges() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	for c := uintptr(0); ; c++ {
		if set, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0); err != nil || set < 0 {
			break // past the last capability of this kernel
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	const bits = 1<<0 | 1<<1 | // SECBIT_NOROOT, locked
		1<<2 | 1<<3 | // SECBIT_NO_SETUID_FIXUP, locked
		1<<5 | // SECBIT_KEEP_CAPS locked off
		1<<6 | 1<<7 // SECBIT_NO_CAP_AMBIENT_RAISE, locked
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, bits, 0, 0, 0); err != nil {
		return fmt.Errorf("lock securebits: %w", err)
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&hdr, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	return nil
}

// selfExe is what the stages execute: this binary, or, when other users may
// not execute its file, a sealed copy in memory made once.
func selfExe() (string, error) {
	st, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", err
	}
	if os.Geteuid() != 0 || st.Mode()&0o005 == 0o005 {
		return "/proc/self/exe", nil
	}
	f, err := exeCopy()
	if err != nil {
		return "", fmt.Errorf("copy own executable: %w", err)
	}
	return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())), nil
}
