// Package durable writes small files so that they survive a crash whole.
//
// Invariants:
//   - A reader sees the old content or the new, never a part of either.
//   - When WriteFile or Mkdir returned nil, the result is on the disk.
//
// After an error the content is the old or the new one, and it is not known
// which of them a power loss would leave. A caller that must know reads the
// file again and writes it again; after a failed fsync it must not trust that
// reading alone, as the kernel may show pages that it dropped from the disk's
// queue.
//
// Not trusted: the file system's order of operations; every step that matters
// is followed by fsync. Trusted: that fsync reaches stable storage, and that
// nobody else writes into the folder.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// The steps that can fail on a real disk. Tests break each of them.
var (
	create  = os.CreateTemp
	write   = (*os.File).Write
	chmod   = (*os.File).Chmod
	syncing = (*os.File).Sync
	closing = (*os.File).Close
	rename  = os.Rename
)

// WriteFile replaces the file at path by data, with exactly these permissions.
// A symbolic link at path is replaced, not followed.
//
// Order: temporary file in the same folder, content, permissions, fsync,
// rename, fsync of the folder. A crash before the rename leaves the old file
// and perhaps a temporary one (".NAME.tmp-*", removable at any time that no
// WriteFile runs); a crash after it leaves the new file, or, until the folder
// is synced, either.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	dir, name := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	f, err := create(dir, "."+name+".tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := fill(f, data, perm); err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := rename(f.Name(), path); err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncDir(dir)
}

// fill writes and closes f. The error of Close counts: some file systems
// report a failed write only there.
func fill(f *os.File, data []byte, perm fs.FileMode) error {
	_, err := write(f, data)
	if err == nil {
		err = chmod(f, perm)
	}
	if err == nil {
		err = syncing(f)
	}
	return errors.Join(err, closing(f))
}

// Mkdir makes one folder with exactly these permissions and syncs its parent.
// A folder that exists keeps its permissions, and its entry is synced: the
// one who made it may have crashed before that. Parents must exist.
func Mkdir(path string, perm fs.FileMode) error {
	err := os.Mkdir(path, perm)
	switch {
	case errors.Is(err, fs.ErrExist):
		st, e := os.Lstat(path)
		if e != nil {
			return e
		}
		if !st.IsDir() {
			return err
		}
	case err != nil:
		return err
	default:
		if err := os.Chmod(path, perm); err != nil { // umask took from it
			return err
		}
		if err := syncDir(path); err != nil {
			return err
		}
	}
	return syncDir(filepath.Dir(filepath.Clean(path)))
}

// syncDir makes the entries of a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := errors.Join(syncing(d), closing(d)); err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	return nil
}
