package contain

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// exeCopy is kept for the life of the server: one copy, not one per process.
var exeCopy = sync.OnceValues(func() (*os.File, error) {
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	f, err := sealed("sallyport", b)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// High, so that the descriptors of no child are laid over it before exec.
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, fdFirst+maxFiles+1)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	return os.NewFile(uintptr(fd), "sallyport"), nil
})

// cloneTrees opens the sources as detached mounts, with the flags they will
// have: nosuid, nodev, and read-only unless writable, on submounts too.
func cloneTrees(ms []Mount) (fds []int, err error) {
	for _, m := range ms {
		fd, err := cloneTree(m)
		if err != nil {
			closeAll(fds)
			return nil, fmt.Errorf("mount %s: %w%s", m.Source, err, whyClosed(m.Source, err))
		}
		fds = append(fds, fd)
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
		if !m.Writable {
			attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
		}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
			closeAll(fds)
			return nil, fmt.Errorf("mount %s: set flags: %w (needs Linux 5.12)", m.Source, err)
		}
	}
	return fds, nil
}

func cloneTree(m Mount) (int, error) {
	const flags = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_RECURSIVE
	if !m.Checked {
		return unix.OpenTree(unix.AT_FDCWD, m.Source, flags)
	}
	at, err := unix.Openat2(unix.AT_FDCWD, m.Source, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)
	return unix.OpenTree(at, "", flags|unix.AT_EMPTY_PATH)
}

func whyClosed(source string, err error) string {
	if errors.Is(err, unix.EACCES) {
		return fmt.Sprintf(" (host user %d may not walk to it)", os.Getuid())
	}
	return ""
}

// makeRoot builds the new root on a tmpfs, moves into it and lets go of the
// old one. Sources are already open, so nothing is looked up by path in the
// host's tree after the first mount here.
func makeRoot(p plan, trees []int) error {
	if len(trees) != len(p.Mounts) {
		return errors.New("mounts missing")
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// All sources are open before the first mount hides a part of the host.
	devices, err := cloneDevices()
	if err != nil {
		return err
	}
	base, err := stand()
	if err != nil {
		return err
	}
	r := builder{base: base, uid: p.UID}
	r.tmpfs("/", "mode=0755,size=4m,nr_inodes=4096")
	r.proc()
	r.dev(devices)
	r.content(p, trees)
	r.files(p)
	if r.err != nil {
		return r.err
	}
	return pivot(base)
}

// stand is a folder of the old root to build on; what it hides is not needed.
func stand() (string, error) {
	for _, d := range []string{"/tmp", "/run", "/mnt", "/usr"} {
		if st, err := os.Stat(d); err == nil && st.IsDir() {
			return d, nil
		}
	}
	return "", errors.New("no folder to build the root on")
}

// pivot changes the root, and seals the tmpfs that carries it.
func pivot(base string) error {
	if err := unix.Chdir(base); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	// The old root is now stacked over the new one at ".": take it away.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	return nil
}

// builder makes the tree below base; the first error stops it.
type builder struct {
	base string
	uid  int
	err  error
}

func (b *builder) do(what, target string, f func(path string) error) {
	if b.err != nil {
		return
	}
	if err := f(b.base + target); err != nil {
		b.err = fmt.Errorf("%s %s: %w", what, target, err)
	}
}

func (b *builder) tmpfs(target, options string) {
	b.do("tmpfs", target, func(path string) error {
		if err := b.mkdir(path); err != nil {
			return err
		}
		options := fmt.Sprintf("%s,uid=%d,gid=%d", options, b.uid, b.uid)
		return unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options)
	})
}

func (b *builder) mkdir(path string) error { return os.MkdirAll(path, 0o755) }

// content mounts the allow-list and the writable folders, outer ones first.
// Each tmpfs has its own limits, so that one process cannot use up the memory
// or the inodes of another.
func (b *builder) content(p plan, trees []int) {
	scratch := map[string]string{
		"/tmp": "mode=1777,size=1g,nr_inodes=200k",
		"/run": "mode=0755,size=16m,nr_inodes=4k",
		p.Home: "mode=0700,size=1g,nr_inodes=200k",
	}
	place := map[string]func(){}
	for target, options := range scratch {
		place[target] = func() { b.tmpfs(target, options) }
	}
	for i, m := range p.Mounts {
		place[m.Target] = func() { b.attach(trees[i], m.Target) }
	}
	for _, target := range slices.SortedFunc(maps.Keys(place), func(x, y string) int {
		return strings.Compare(x+"/", y+"/")
	}) {
		place[target]()
	}
}

// attach puts a tree on its target. Targets are resolved without following
// symbolic links: a link in a mounted tree must not redirect a later mount.
func (b *builder) attach(tree int, target string) {
	b.do("mount on", target, func(path string) error {
		var st unix.Stat_t
		if err := unix.Fstat(tree, &st); err != nil {
			return err
		}
		if err := b.point(path, st.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
			return err
		}
		how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
		at, err := unix.Openat2(unix.AT_FDCWD, path, &how)
		if err != nil {
			return err
		}
		defer unix.Close(at)
		return unix.MoveMount(tree, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	})
}

// point makes sure that there is something of the right kind to mount on.
func (b *builder) point(path string, dir bool) error {
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	if dir {
		return b.mkdir(path)
	}
	if err := b.mkdir(filepath.Dir(path)); err != nil {
		return err
	}
	return os.WriteFile(path, nil, 0o444)
}

// files are the few names that programs look up, unless the allow-list has
// its own.
func (b *builder) files(p plan) {
	home := p.Home
	for name, text := range map[string]string{
		"/etc/passwd":        fmt.Sprintf("agent:x:%d:%d::%s:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n", p.UID, p.UID, home),
		"/etc/group":         fmt.Sprintf("agent:x:%d:\nnogroup:x:65534:\n", p.UID),
		"/etc/hosts":         "127.0.0.1 localhost\n::1 localhost\n",
		"/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
	} {
		b.do("file", name, func(path string) error {
			if _, err := os.Lstat(path); err == nil {
				return nil
			}
			if err := b.mkdir(filepath.Dir(path)); err != nil {
				return err
			}
			return os.WriteFile(path, []byte(text), 0o444)
		})
	}
}
