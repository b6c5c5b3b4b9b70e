package rig

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sallyport-dev/sallyport/internal/store/pgtest"
)

// Snapshot is the state of a stopped server.
type Snapshot struct{ dir, store string }

// Snapshot stops the server and keeps a copy of its state, so that tests can
// begin where it stands. The copy goes with the rig.
func (r *Rig) Snapshot(ctx context.Context) (s Snapshot, err error) {
	if err := r.CloseServer(); err != nil {
		return s, err
	}
	base, err := os.MkdirTemp("", "rig-")
	if err != nil {
		return s, err
	}
	r.closers = append(r.closers, func() error { return os.RemoveAll(base) })
	s.dir = filepath.Join(base, "data")
	if r.Store != "" {
		if s.store, err = pgtest.Copy(ctx, r.Store); err != nil {
			return s, err
		}
	}
	return s, copyFolder(s.dir, r.Dir)
}

// Restore stops the server, puts a snapshot in the place of its state, and starts
// it again. The world keeps its state.
func (r *Rig) Restore(ctx context.Context, s Snapshot) (err error) {
	if err := r.CloseServer(); err != nil {
		return err
	}
	if s.store != "" {
		if r.Store, err = pgtest.Copy(ctx, s.store); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(r.Dir); err != nil {
		return err
	}
	if err := copyFolder(r.Dir, s.dir); err != nil {
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
