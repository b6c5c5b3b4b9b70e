package contain

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Host users of contained processes under a root parent: 0x5A000000 to
// 0x5AFFFFFF (1509949440 to 1526726655). No account may be made in this range.
// Inside a rootless container, whose user namespace does not have the range,
// the top of its largest range of users is taken instead.
const (
	firstHostID = 0x5A000000
	countHostID = 1 << 24
)

// identity is the host user (and group of the same number) of one process.
type identity struct {
	host      int
	dedicated bool
	claim     int // socket whose name marks the uid as taken; 0 is none
}

// claimID chooses the host user. Without root it is the caller's own, and the
// caller's supplementary groups stay in force (the kernel lets nobody drop
// them): a group can open no more than the allow-list shows.
func claimID() (identity, error) {
	if os.Geteuid() != 0 {
		return identity{host: os.Getuid()}, nil
	}
	first, count, err := hostRange()
	if err != nil {
		return identity{}, err
	}
	for range 64 {
		var b [4]byte
		rand.Read(b[:]) // never fails
		uid := first + int(binary.LittleEndian.Uint32(b[:])%uint32(count))
		fd, err := claimUID(uid)
		if err == unix.EADDRINUSE {
			continue
		}
		if err != nil {
			return identity{}, os.NewSyscallError("claim host uid", err)
		}
		return identity{host: uid, dedicated: true, claim: fd}, nil
	}
	return identity{}, errors.New("no free host uid")
}

// claimUID marks a uid as taken among all Sallyports of this network namespace
// by binding an abstract socket, which the kernel frees when we die.
func claimUID(uid int) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("@sallyport-uid-%d", uid)}); err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

func (i *identity) release() {
	if i.claim != 0 {
		unix.Close(i.claim)
		i.claim = 0
	}
}

// hostRange is the range of users a root parent may hand out.
func hostRange() (first, count int, err error) {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return 0, 0, err
	}
	return rangeOf(string(b))
}

func rangeOf(uidMap string) (first, count int, err error) {
	for line := range strings.Lines(uidMap) {
		var in, out, n int
		if _, err := fmt.Sscan(line, &in, &out, &n); err != nil {
			return 0, 0, fmt.Errorf("uid_map: %w", err)
		}
		if in <= firstHostID && in+n >= firstHostID+countHostID {
			return firstHostID, countHostID, nil
		}
		if n > count {
			first, count = in, n
		}
	}
	// Upper half of the largest range: away from the accounts of a container.
	first, count = first+count/2, count/2
	if count < 1024 || first < 1024 {
		return 0, 0, errors.New("this user namespace has no unprivileged users to give to contained processes; run as an ordinary user or map at least 4096 uids")
	}
	return first, count, nil
}

// attr is how the first stage is forked. Capabilities are ambient, so that
// they survive the exec into the first stage, which drops them all.
func (i identity) attr(uid int) *syscall.SysProcAttr {
	gid := i.host
	if !i.dedicated {
		gid = os.Getgid()
	}
	a := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWNS |
			unix.CLONE_NEWPID | unix.CLONE_NEWUTS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: i.host, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: gid, Size: 1}},
		AmbientCaps: []uintptr{
			unix.CAP_SYS_ADMIN,        // mounts, host name
			unix.CAP_NET_ADMIN,        // lo up
			unix.CAP_NET_BIND_SERVICE, // Listen below 1024
			unix.CAP_SETPCAP,          // empty the bounding set
			unix.CAP_SYS_RESOURCE,     // forbid nested user namespaces
		},
		Pdeathsig: syscall.SIGKILL,
	}
	if i.dedicated {
		a.GidMappingsEnableSetgroups = true // to drop root's groups
		a.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	}
	return a
}
