package rig

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Snapshot stops the server and keeps a copy of its data folder, so that tests
// can begin where it stands. The copy goes with the rig.
func (r *Rig) Snapshot() (string, error) {
	if err := r.CloseServer(); err != nil {
		return "", err
	}
	base, err := os.MkdirTemp("", "rig-")
	if err != nil {
		return "", err
	}
	r.closers = append(r.closers, func() error { return os.RemoveAll(base) })
	dir := filepath.Join(base, "data")
	return dir, copyFolder(dir, r.Dir)
}

// Restore stops the server, puts a snapshot in the place of its data folder, and
// starts it again. The world keeps its state.
func (r *Rig) Restore(snapshot string) error {
	if err := r.CloseServer(); err != nil {
		return err
	}
	if err := os.RemoveAll(r.Dir); err != nil {
		return err
	}
	if err := copyFolder(r.Dir, snapshot); err != nil {
		return err
	}
	return r.Open()
}

// copyFolder copies files and folders, for their owner alone. Sockets stay.
func copyFolder(to, from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			return os.MkdirAll(target, 0o700)
		case !d.Type().IsRegular():
			return nil
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			out.Close()
			return err
		}
		return out.Close()
	})
}
