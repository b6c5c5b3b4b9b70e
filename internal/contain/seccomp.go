package contain

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The filter takes away kernel interfaces that a harness or a browser does
// not need and that were, more than once, the way out of namespaces. It is a
// deny list: programs inside are arbitrary, and everything here is already
// stopped by a namespace or a missing capability. It is the second wall, for
// the day the first one has a hole.

// deniedAlways holds for every contained process.
var deniedAlways = append([]uint32{
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER, // acts behind this filter's back
	unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL, // keyrings have no namespace of their own
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE,
	unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR,
	unix.SYS_KEXEC_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
	unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_REBOOT, unix.SYS_ACCT, unix.SYS_QUOTACTL,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX,
	unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_FANOTIFY_INIT,
	unix.SYS_SYSLOG, unix.SYS_VHANGUP, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME,
	unix.SYS_SETNS, unix.SYS_PIDFD_GETFD,
}, deniedArch...)

// deniedHarness is more that Chromium's own sandbox and its crash handler use.
var deniedHarness = []uint32{
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_KCMP,
	unix.SYS_UNSHARE, unix.SYS_CHROOT,
}

// newNamespaces are the flags of clone(2) that a harness may not use.
const newNamespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID |
	unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// Offsets in struct seccomp_data (seccomp(2)). Both supported architectures
// are little endian: the low half of an argument comes first.
const (
	offNr   = 0
	offArch = 4
	offArg0 = 16
	offArg1 = 24
	offArg2 = 32
)

type program []unix.SockFilter

func (p *program) load(off uint32) {
	*p = append(*p, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off})
}

func (p *program) jump(test uint16, k uint32, yes, no uint8) {
	*p = append(*p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | test, Jt: yes, Jf: no, K: k})
}

func (p *program) ret(v uint32) {
	*p = append(*p, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: v})
}

const denied = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)

// deny refuses a system call by number; the accumulator holds the number.
func (p *program) deny(nr uint32) {
	p.jump(unix.BPF_JEQ, nr, 0, 1)
	p.ret(denied)
}

// build assembles the filter.
func build(nested bool) program {
	var p program
	// Another architecture has other numbers: nothing below would hold.
	p.load(offArch)
	p.jump(unix.BPF_JEQ, auditArch, 1, 0)
	p.ret(unix.SECCOMP_RET_KILL_PROCESS)
	p.load(offNr)
	if x32Bit != 0 {
		p.jump(unix.BPF_JGE, x32Bit, 0, 1)
		p.ret(denied)
	}
	for _, nr := range deniedAlways {
		p.deny(nr)
	}
	if !nested {
		for _, nr := range deniedHarness {
			p.deny(nr)
		}
		// clone3 hides its flags in memory. C libraries fall back to clone.
		p.jump(unix.BPF_JEQ, unix.SYS_CLONE3, 0, 1)
		p.ret(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))
		p.jump(unix.BPF_JEQ, unix.SYS_CLONE, 0, 4)
		p.load(offArg0)
		p.jump(unix.BPF_JSET, newNamespaces, 0, 1)
		p.ret(denied)
		p.ret(unix.SECCOMP_RET_ALLOW)
	}
	// ioctl: no typing into a terminal.
	p.jump(unix.BPF_JEQ, unix.SYS_IOCTL, 0, 5)
	p.load(offArg1)
	p.jump(unix.BPF_JEQ, unix.TIOCSTI, 1, 0)
	p.jump(unix.BPF_JEQ, unix.TIOCLINUX, 0, 1)
	p.ret(denied)
	p.ret(unix.SECCOMP_RET_ALLOW)
	// socket: local, IP, and route netlink (which lists interfaces). No vsock,
	// which no namespace stops, no packet, no kernel crypto.
	p.jump(unix.BPF_JEQ, unix.SYS_SOCKET, 0, 9)
	p.load(offArg0)
	p.jump(unix.BPF_JEQ, unix.AF_UNIX, 6, 0)
	p.jump(unix.BPF_JEQ, unix.AF_INET, 5, 0)
	p.jump(unix.BPF_JEQ, unix.AF_INET6, 4, 0)
	p.jump(unix.BPF_JEQ, unix.AF_NETLINK, 0, 2)
	p.load(offArg2)
	p.jump(unix.BPF_JEQ, unix.NETLINK_ROUTE, 1, 0)
	p.ret(denied)
	p.ret(unix.SECCOMP_RET_ALLOW)
	p.ret(unix.SECCOMP_RET_ALLOW)
	return p
}

// filter installs it on all threads of this process, for good.
func filter(nested bool) error {
	p := build(nested)
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}
