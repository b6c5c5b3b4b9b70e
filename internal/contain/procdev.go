package contain

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// The devices that exist inside. No tty and no ptmx: there is no terminal to
// inject into.
var devices = []string{"null", "zero", "full", "random", "urandom"}

func cloneDevices() (fds []int, err error) {
	for _, d := range devices {
		fd, err := unix.OpenTree(unix.AT_FDCWD, "/dev/"+d, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			closeAll(fds)
			return nil, fmt.Errorf("device %s: %w", d, err)
		}
		fds = append(fds, fd)
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			closeAll(fds)
			return nil, fmt.Errorf("device %s: set flags: %w (needs Linux 5.12)", d, err)
		}
	}
	return fds, nil
}

func (b *builder) dev(trees []int) {
	b.tmpfs("/dev", "mode=0755,size=64k,nr_inodes=64")
	for i, d := range devices {
		b.attach(trees[i], "/dev/"+d)
	}
	for name, to := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0",
		"stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		b.do("link", "/dev/"+name, func(path string) error { return os.Symlink(to, path) })
	}
	b.do("folder", "/dev/shm", b.mkdir)
	b.readOnly("/dev", 0)
	b.tmpfs("/dev/shm", "mode=1777,size=1g,nr_inodes=20k")
}

// proc mounts a fresh /proc of the new PID namespace. What is left of the
// host's state in it is made read-only or hidden, as far as the kernel has it.
func (b *builder) proc() {
	b.do("proc", "/proc", func(path string) error {
		if err := b.mkdir(path); err != nil {
			return err
		}
		err := unix.Mount("proc", path, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("%w (a container that masks /proc forbids a fresh one; start it with an unmasked /proc)", err)
		}
		return err
	})
	for _, p := range []string{"/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/driver"} {
		b.ifThere(p, func() {
			b.do("bind", p, func(path string) error {
				return unix.Mount(path, path, "", unix.MS_BIND|unix.MS_REC, "")
			})
			b.readOnly(p, unix.MS_NOEXEC)
		})
	}
	for _, p := range []string{
		"/proc/sysrq-trigger", "/proc/kcore", "/proc/kmsg", "/proc/keys", "/proc/key-users", "/proc/kallsyms",
		"/proc/timer_list", "/proc/sched_debug", "/proc/latency_stats", "/proc/kpagecount", "/proc/kpageflags",
		"/proc/vmallocinfo", "/proc/pagetypeinfo", "/proc/slabinfo",
	} {
		b.ifThere(p, func() {
			b.do("hide", p, func(path string) error {
				return unix.Mount("/dev/null", path, "", unix.MS_BIND, "")
			})
			b.readOnly(p, unix.MS_NOEXEC) // and nodev: it cannot even be opened
		})
	}
	for _, p := range []string{"/proc/acpi", "/proc/scsi", "/proc/asound"} {
		b.ifThere(p, func() {
			b.do("hide", p, func(path string) error {
				flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY)
				return unix.Mount("tmpfs", path, "tmpfs", flags, "size=0,nr_inodes=1,mode=0555")
			})
		})
	}
}

func (b *builder) ifThere(p string, f func()) {
	if b.err != nil {
		return
	}
	if _, err := os.Lstat(b.base + p); err == nil {
		f()
	}
}

func (b *builder) readOnly(target string, flags uintptr) {
	b.do("make read-only", target, func(path string) error {
		return unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|flags, "")
	})
}
