package rig

import (
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
	return dir, os.CopyFS(dir, os.DirFS(r.Dir))
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
	if err := os.CopyFS(r.Dir, os.DirFS(snapshot)); err != nil {
		return err
	}
	return r.Open()
}
