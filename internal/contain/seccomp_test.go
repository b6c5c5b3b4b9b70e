package contain_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/internal/contain"
)

// verdict runs the filter as the kernel would (seccomp(2), struct seccomp_data).
func verdict(t *testing.T, prog []unix.SockFilter, arch, nr uint32, args ...uint64) uint32 {
	t.Helper()
	word := func(off uint32) uint32 {
		switch {
		case off == 0:
			return nr
		case off == 4:
			return arch
		case off >= 16 && (off-16)/8 < uint32(len(args)):
			return uint32(args[(off-16)/8] >> (8 * ((off - 16) % 8)))
		}
		return 0
	}
	var a uint32
	for pc := 0; pc < len(prog); pc++ {
		i := prog[pc]
		taken := false
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = word(i.K)
			continue
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		case unix.BPF_JMP | unix.BPF_K | unix.BPF_JEQ:
			taken = a == i.K
		case unix.BPF_JMP | unix.BPF_K | unix.BPF_JGE:
			taken = a >= i.K
		case unix.BPF_JMP | unix.BPF_K | unix.BPF_JSET:
			taken = a&i.K != 0
		default:
			t.Fatalf("instruction %d: code %#x", pc, i.Code)
		}
		if taken {
			pc += int(i.Jt)
		} else {
			pc += int(i.Jf)
		}
	}
	t.Fatal("filter has no end")
	return 0
}

func TestFilterVerdicts(t *testing.T) {
	const (
		allow = uint32(unix.SECCOMP_RET_ALLOW)
		kill  = uint32(unix.SECCOMP_RET_KILL_PROCESS)
	)
	eperm, enosys := unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM), unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)
	for _, nested := range []bool{false, true} {
		p := contain.Build(nested)
		harness := func(v uint32) uint32 {
			if nested {
				return allow
			}
			return v
		}
		arch := uint32(contain.AuditArch)
		check := func(what string, want uint32, nr uint32, args ...uint64) {
			t.Helper()
			if got := verdict(t, p, arch, nr, args...); got != want {
				t.Errorf("nested %v: %s: got %#x, want %#x", nested, what, got, want)
			}
		}
		for _, nr := range contain.DeniedAlways() {
			check("denied call", eperm, nr)
		}
		for _, nr := range contain.DeniedHarness() {
			check("denied call of a harness", harness(eperm), nr)
		}
		for _, nr := range []uint32{unix.SYS_READ, unix.SYS_EXECVE, unix.SYS_CONNECT, unix.SYS_FUTEX, unix.SYS_SECCOMP, unix.SYS_PRCTL} {
			check("ordinary call", allow, nr)
		}
		for _, flag := range []uint64{unix.CLONE_NEWUSER, unix.CLONE_NEWNET, unix.CLONE_NEWNS | uint64(unix.SIGCHLD)} {
			check("clone into namespaces", harness(eperm), unix.SYS_CLONE, flag)
		}
		check("clone of a thread", allow, unix.SYS_CLONE, unix.CLONE_VM|unix.CLONE_THREAD|unix.CLONE_SIGHAND)
		check("clone3", harness(enosys), unix.SYS_CLONE3)
		check("type into a terminal", eperm, unix.SYS_IOCTL, 0, unix.TIOCSTI)
		check("the same with dirt in the upper half", eperm, unix.SYS_IOCTL, 0, 0xdead00000000|unix.TIOCSTI)
		check("paste into a console", eperm, unix.SYS_IOCTL, 0, unix.TIOCLINUX)
		check("window size", allow, unix.SYS_IOCTL, 0, unix.TIOCGWINSZ)
		for domain, want := range map[uint64]uint32{
			unix.AF_UNIX: allow, unix.AF_INET: allow, unix.AF_INET6: allow,
			unix.AF_VSOCK: eperm, unix.AF_PACKET: eperm, unix.AF_ALG: eperm, unix.AF_XDP: eperm, 0: eperm, 999: eperm,
		} {
			check("socket", want, unix.SYS_SOCKET, domain, unix.SOCK_STREAM, 0)
		}
		check("route netlink", allow, unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
		check("netfilter netlink", eperm, unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)
		if got := verdict(t, p, unix.AUDIT_ARCH_I386, unix.SYS_READ); got != kill {
			t.Errorf("32-bit call: got %#x", got)
		}
		if arch == unix.AUDIT_ARCH_X86_64 {
			check("x32 call", eperm, 0x40000000|unix.SYS_READ)
		}
	}
}
