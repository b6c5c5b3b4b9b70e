package contain

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func socket(domain, kind, proto int) error {
	fd, err := unix.Socket(domain, kind, proto)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func rawSocket(bait) error {
	if socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP) == nil {
		return nil
	}
	return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
}

func packetSocket(bait) error {
	for _, d := range []int{unix.AF_ALG, unix.AF_XDP, unix.AF_BLUETOOTH} {
		if socket(d, unix.SOCK_RAW, 0) == nil || socket(d, unix.SOCK_SEQPACKET, 0) == nil {
			return nil
		}
	}
	return socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
}

func vsock(bait) error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0) }

// parentPresent says whether the number of the parent means the parent here,
// and not some process of this namespace.
func parentPresent(b bait) bool {
	l, err := likeness(pidText(b.Parent))
	return err == nil && l == b.Likeness
}

var errNotThere = errors.New("the parent does not exist in this PID namespace")

func parentVisible(b bait) error {
	es, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range es {
		if l, err := likeness(e.Name()); err == nil && l == b.Likeness {
			return through("as process " + e.Name())
		}
	}
	return errNotThere
}

func procFile(b bait, name string) error {
	if !parentPresent(b) {
		return errNotThere
	}
	f, err := os.Open("/proc/" + pidText(b.Parent) + "/" + name)
	if err == nil {
		f.Close()
	}
	return err
}

func signalParent(b bait) error {
	err := unix.Kill(b.Parent, 0)
	if err == nil && !parentPresent(b) {
		return errNotThere
	}
	return err
}

func ptrace(pid int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, 0, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

func traceParent(b bait) error {
	err := ptrace(b.Parent)
	if err == nil && !parentPresent(b) {
		return errNotThere
	}
	return err
}

func traceInit(bait) error {
	var b [8]byte
	local := []unix.Iovec{{Base: &b[0], Len: 8}}
	remote := []unix.RemoteIovec{{Base: 0x400000, Len: 8}}
	// EFAULT would mean that the check of permission passed.
	if _, err := unix.ProcessVMReadv(1, local, remote, 0); err == nil || err == unix.EFAULT {
		return nil
	}
	return ptrace(1)
}

func sharedMemory(b bait) error {
	_, err := unix.SysvShmGet(b.ShmKey, 4096, 0)
	return err
}

func status(field string) string {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func capabilities(bait) error {
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if v := status(set); v == "" || strings.Trim(v, "0") != "" {
			return nil
		}
	}
	return errors.New("all five sets are empty")
}

func noNewPrivs(bait) error {
	if status("NoNewPrivs") != "1" || status("Seccomp") != "2" {
		return nil
	}
	return errors.New("no_new_privs and a seccomp filter are set")
}

// becomeRoot tries on this thread only: the raw call, not Go's for all threads.
func becomeRoot(b bait) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, id := range []uintptr{0, 65534, 1} {
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, id, id, id); e == 0 {
			return nil
		}
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, id, id, id); e == 0 {
			return nil
		}
	}
	group := uint32(0)
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&group)), 0); e == 0 {
		return nil
	}
	if os.Getuid() == 0 {
		return nil
	}
	return unix.EPERM
}

func mountSomething(bait) error {
	for _, try := range []func() error{
		func() error { return unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "") },
		func() error { return unix.Mount("", "/usr", "", unix.MS_REMOUNT|unix.MS_BIND, "") },
		func() error { return unix.Mount("/tmp", "/run", "", unix.MS_BIND, "") },
		func() error { return unix.Unmount("/proc/sys", unix.MNT_DETACH) },
		func() error { return unix.PivotRoot("/tmp", "/tmp") },
		func() error { return unix.Chroot("/tmp") },
		func() error { _, err := unix.Fsopen("tmpfs", 0); return err },
	} {
		if try() == nil {
			return nil
		}
	}
	return unix.EPERM
}

func deviceNode(bait) error {
	defer os.Remove("/tmp/node")
	if unix.Mknod("/tmp/node", unix.S_IFBLK|0o600, int(unix.Mkdev(8, 0))) == nil {
		return nil
	}
	return unix.Mknod("/tmp/node", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 1)))
}

func terminalInjection(bait) error {
	if _, err := os.OpenFile("/dev/tty", os.O_RDWR, 0); err == nil {
		return nil
	}
	if _, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0); err == nil {
		return nil
	}
	c := byte('x')
	_, _, e := unix.Syscall(unix.SYS_IOCTL, 0, unix.TIOCSTI, uintptr(unsafe.Pointer(&c)))
	if e == 0 || e == unix.ENOTTY { // ENOTTY: the filter let it pass to the file
		return nil
	}
	return e
}

const gainRoute = "gain-route"

// userNamespace makes a user namespace, where all capabilities are had, and
// tries to use them on the network namespace and mounts around it. A harness
// must not get so far.
func userNamespace(b bait) error {
	// Through the fd, as /proc/self/exe names a file that is not mounted here.
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{stageProbe, gainRoute}, Env: []string{},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case b.Profile == "harness" && !errors.As(err, &exit) && err != nil:
		return err // not even created
	case b.Profile == "harness":
		return nil
	case errors.As(err, &exit) && exit.ExitCode() == gainedNothing:
		return errors.New("created, as a browser may, but it has no power over this network or these mounts")
	}
	return nil
}

const gainedNothing = 42

// tryGainRoute runs as root of a nested user namespace.
func tryGainRoute() int {
	if status("CapEff") == "0000000000000000" {
		return 1 // the attempt itself is broken: count as not stopped
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return 1
	}
	ifr, _ := unix.NewIfreq("lo")
	ifr.SetUint16(0)
	if unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr) == nil {
		return 2
	}
	if socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) == nil {
		return 3
	}
	if unix.Mount("", "/usr", "", unix.MS_REMOUNT|unix.MS_BIND, "") == nil {
		return 4
	}
	if os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("9"), 0) == nil {
		return 5
	}
	return gainedNothing
}

func joinNamespace(bait) error {
	for _, ns := range []string{"net", "mnt", "user", "pid"} {
		f, err := os.Open("/proc/1/ns/" + ns)
		if err != nil {
			continue
		}
		err = unix.Setns(int(f.Fd()), 0)
		f.Close()
		if err == nil {
			return nil
		}
	}
	return unix.Setns(0, unix.CLONE_NEWNET)
}

// kernelInterfaces must each be refused with EPERM, before the kernel looks at
// the arguments.
func kernelInterfaces(bait) error {
	for nr, name := range map[uintptr]string{
		unix.SYS_IO_URING_SETUP: "io_uring", unix.SYS_KEYCTL: "keyctl", unix.SYS_ADD_KEY: "add_key",
		unix.SYS_BPF: "bpf", unix.SYS_PERF_EVENT_OPEN: "perf", unix.SYS_USERFAULTFD: "userfaultfd",
		unix.SYS_INIT_MODULE: "init_module", unix.SYS_KEXEC_LOAD: "kexec", unix.SYS_REBOOT: "reboot",
		unix.SYS_OPEN_BY_HANDLE_AT: "open_by_handle_at", unix.SYS_PIDFD_GETFD: "pidfd_getfd",
	} {
		if _, _, e := unix.Syscall6(nr, 0, 0, 0, 0, 0, 0); e != unix.EPERM {
			return through(fmt.Sprintf("%s answers: %v", name, e))
		}
	}
	return unix.EPERM
}

func changeClock(bait) error {
	now := unix.NsecToTimeval(time.Now().UnixNano())
	return unix.Settimeofday(&now)
}

func cgroup(bait) error {
	_, err := os.ReadDir("/sys/fs/cgroup")
	return err
}
