package store

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// faultFS is a file system of one folder, in memory, that knows what a disk
// would hold: what was synced, and of the rest whatever chance lets through. A
// program on it can lose its power at any moment.
type faultFS struct {
	fs.Inode
	mu      sync.Mutex
	live    map[string]*faultFile // names as programs see them
	durable map[string]*faultFile // names as of the last sync of the folder
	frozen  bool                  // the power is off: nothing works
	// fault may make an operation ("write", "fsync") on a file fail.
	fault func(op, name string) syscall.Errno
}

type faultFile struct {
	fs.Inode
	root    *faultFS
	name    string
	data    []byte // as programs see it
	synced  []byte // as of the last sync
	pending []change
}

// change is a write that is not synced, or a truncation when data is nil.
type change struct {
	off  int64
	data []byte
}

const sector = 512

// image returns what the disk holds after the power is cut: each unsynced
// sector has reached it, or not, whatever the order.
func (r *faultFS) image(rnd *rand.Rand) map[string][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frozen = true
	out := map[string][]byte{}
	keep := map[string]*faultFile{}
	for name, f := range r.durable {
		if r.live[name] == f || rnd.IntN(2) == 0 {
			keep[name] = f
		}
	}
	for name, f := range r.live {
		if r.durable[name] != f && rnd.IntN(2) == 0 {
			keep[name] = f
		}
	}
	for name, f := range keep {
		b := append([]byte(nil), f.synced...)
		// One round in three loses all that was not synced.
		lost := rnd.IntN(3) == 0
		for _, c := range f.pending {
			if lost {
				break
			}
			b = c.apply(b, func() bool { return rnd.IntN(2) == 0 })
		}
		out[name] = b
	}
	return out
}

func (c change) apply(b []byte, through func() bool) []byte {
	if c.data == nil {
		if through() {
			b = resize(b, c.off)
		}
		return b
	}
	for i := 0; i < len(c.data); i += sector {
		end := min(i+sector, len(c.data))
		if through() {
			if at := c.off + int64(end); int64(len(b)) < at {
				b = resize(b, at)
			}
			copy(b[c.off+int64(i):], c.data[i:end])
		}
	}
	return b
}

func resize(b []byte, n int64) []byte {
	if n <= int64(len(b)) {
		return b[:n]
	}
	return append(b, make([]byte, n-int64(len(b)))...)
}

// check is called with mu held.
func (r *faultFS) check(op, name string) syscall.Errno {
	if r.frozen {
		return syscall.EIO
	}
	if r.fault != nil {
		return r.fault(op, name)
	}
	return 0
}

func (r *faultFS) setFault(f func(op, name string) syscall.Errno) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = f
}

func (r *faultFS) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.check("create", name); e != 0 {
		return nil, nil, 0, e
	}
	f := &faultFile{root: r, name: name}
	r.live[name] = f
	f.attr(&out.Attr)
	return r.NewPersistentInode(ctx, f, fs.StableAttr{Mode: fuse.S_IFREG}), nil, fuse.FOPEN_KEEP_CACHE, 0
}

func (r *faultFS) Unlink(_ context.Context, name string) syscall.Errno {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.check("unlink", name); e != 0 {
		return e
	}
	delete(r.live, name)
	return 0
}

// Fsync of the folder makes its names durable.
func (r *faultFS) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.check("fsync", "."); e != 0 {
		return e
	}
	r.durable = map[string]*faultFile{}
	for name, f := range r.live {
		r.durable[name] = f
	}
	return 0
}

func (f *faultFile) attr(a *fuse.Attr) {
	a.Mode, a.Size, a.Nlink = fuse.S_IFREG|0o600, uint64(len(f.data)), 1
}

func (f *faultFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.root.mu.Lock()
	defer f.root.mu.Unlock()
	f.attr(&out.Attr)
	return 0
}

func (f *faultFile) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	f.root.mu.Lock()
	defer f.root.mu.Unlock()
	if e := f.root.check("write", f.name); e != 0 {
		return e
	}
	if size, ok := in.GetSize(); ok {
		f.data = resize(f.data, int64(size))
		f.pending = append(f.pending, change{off: int64(size)})
	}
	f.attr(&out.Attr)
	return 0
}

func (f *faultFile) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

func (f *faultFile) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	f.root.mu.Lock()
	defer f.root.mu.Unlock()
	if off >= int64(len(f.data)) {
		return fuse.ReadResultData(nil), 0
	}
	return fuse.ReadResultData(append([]byte(nil), f.data[off:min(off+int64(len(dest)), int64(len(f.data)))]...)), 0
}

func (f *faultFile) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	f.root.mu.Lock()
	defer f.root.mu.Unlock()
	if e := f.root.check("write", f.name); e != 0 {
		return 0, e
	}
	c := change{off, append([]byte{}, data...)}
	f.data = c.apply(f.data, func() bool { return true })
	f.pending = append(f.pending, c)
	return uint32(len(data)), 0
}

func (f *faultFile) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	f.root.mu.Lock()
	defer f.root.mu.Unlock()
	if e := f.root.check("fsync", f.name); e != 0 {
		return e
	}
	f.synced, f.pending = append([]byte(nil), f.data...), nil
	return 0
}

// mount mounts a faultFS that holds image, all of it synced, on a new folder.
// The folder must be used by another process only: this one answers for it,
// and a page of a mapped file that it waits for would stop it.
func mount(t *testing.T, image map[string][]byte) (r *faultFS, dir string, unmount func()) {
	t.Helper()
	r = &faultFS{live: map[string]*faultFile{}, durable: map[string]*faultFile{}}
	dir = t.TempDir()
	server, err := fs.Mount(dir, r, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMount: true, FsName: "fault", Name: "fault"},
		OnAdd: func(ctx context.Context) {
			for name, b := range image {
				f := &faultFile{root: r, name: name, data: b, synced: append([]byte(nil), b...)}
				r.live[name], r.durable[name] = f, f
				r.AddChild(name, r.NewPersistentInode(ctx, f, fs.StableAttr{Mode: fuse.S_IFREG}), true)
			}
		},
	})
	if err != nil {
		t.Fatalf("this test mounts a FUSE file system, for which it needs root and /dev/fuse: %v", err)
	}
	return r, dir, func() {
		if err := server.Unmount(); err != nil {
			t.Fatalf("unmount: %v", err)
		}
	}
}

// folder writes an image to a real folder.
func folder(t *testing.T, image map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range image {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// readFolder is the reverse of folder.
func readFolder(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	image := map[string][]byte{}
	for _, n := range names {
		if image[n.Name()], err = os.ReadFile(filepath.Join(dir, n.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return image
}
