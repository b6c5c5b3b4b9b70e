package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/contain"
)

// What an agent runs from lies on disk and can be exchanged while it runs. It is
// digested at launch, and looked at again each second and before everything that is
// privileged: by what lstat says, and by content where that is another, or was
// looked at readAgain ago. So who keeps lstat as it was is seen after that time: by
// a mapping that was written to before, the clock of the machine, or its raw disk.

// onDisk is what this process knows of files.
var onDisk = &files{known: map[string]sight{}, now: time.Now}

const (
	// readAgain is how old a digest may be whose files were not touched. A browser
	// takes some 0.3 s to read.
	readAgain = time.Minute
	// settled is how long ago a file must have been touched for its digest to be
	// kept: a change right after may have the same time, in steps of up to 2 s.
	settled = 2 * time.Second
)

type files struct {
	now   func() time.Time
	mu    sync.Mutex
	known map[string]sight
}

// sight is a digest, and what lstat said of the files just before it was taken.
type sight struct {
	stat   string
	taken  time.Time
	digest action.Digest
}

// digest is sum's of the files below paths, which key names. It is taken again when
// one of them was touched, or it is old.
func (f *files) digest(key string, paths []string, sum func() (action.Digest, error)) (action.Digest, error) {
	now := f.now()
	stat, touched, err := lstats(paths)
	if err != nil {
		return "", err
	}
	f.mu.Lock()
	old, ok := f.known[key]
	f.mu.Unlock()
	if age := now.Sub(old.taken); ok && old.stat == stat && age >= 0 && age < readAgain {
		return old.digest, nil
	}
	// Not under the lock: a large file keeps nobody else waiting.
	d, err := sum()
	if err == nil && now.Sub(touched) > settled {
		f.mu.Lock()
		f.known[key] = sight{stat, now, d}
		f.mu.Unlock()
	}
	return d, err
}

func (f *files) file(path string) (action.Digest, error) {
	real, err := filepath.EvalSymlinks(path) // what lstat says of a link is not of what runs
	if err != nil {
		return "", err
	}
	return f.digest(path, []string{real}, func() (action.Digest, error) { return fileDigest(real) })
}

func (f *files) tree(paths []string) (action.Digest, error) {
	return f.digest("tree\x00"+strings.Join(paths, "\x00"), paths, func() (action.Digest, error) { return treeDigest(paths) })
}

// browser is the digest of the browser's program and of what lies beside it and is no
// other program: libraries, executable or not, resources and snapshots of its heap.
func (f *files) browser(kind string) (action.Digest, error) {
	bin, err := contain.FindChromium(kind)
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(bin)
	beside, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	paths := []string{bin}
	for _, e := range beside {
		info, err := e.Info()
		if err != nil {
			return "", err
		}
		if info.Mode().IsRegular() && (info.Mode()&0o111 == 0 || strings.Contains(e.Name(), ".so")) {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return f.tree(paths)
}

// lstats is all that lstat says of the files below paths, but for when they were
// read; and when one was touched last.
func lstats(paths []string) (all string, touched time.Time, err error) {
	var b strings.Builder
	for _, root := range paths {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			st, ok := info.Sys().(*syscall.Stat_t)
			if !ok {
				return errors.New(path + ": no lstat")
			}
			if c := time.Unix(st.Ctim.Unix()); c.After(touched) {
				touched = c
			}
			_, err = fmt.Fprintln(&b, path, st.Dev, st.Ino, st.Mode, st.Uid, st.Gid, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
			return err
		})
		if err != nil {
			return "", touched, err
		}
	}
	return b.String(), touched, nil
}
