package seal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// FileName is the name of the root key file in a data folder.
const FileName = "root.key"

// Load reads the root key of the data folder dir. It refuses a file that
// others than its owner can read, or of another size.
func Load(dir string) (*Root, error) {
	if _, err := os.Lstat(filepath.Join(dir, RingName)); err == nil {
		return nil, fmt.Errorf("the keys in %s are wrapped (it has %s): say with --kek by what", dir, RingName)
	}
	key, err := readKey(dir)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	return NewRoot(key)
}

func readKey(dir string) ([]byte, error) {
	path := filepath.Join(dir, FileName)
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	if !st.Mode().IsRegular() || st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("root key: %s has mode %v, want a regular file with mode 0600", path, st.Mode())
	}
	key, err := io.ReadAll(io.LimitReader(f, KeySize+1))
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	if len(key) != KeySize {
		clear(key)
		return nil, fmt.Errorf("root key: %s is torn or not a key: want %d bytes", path, KeySize)
	}
	return key, nil
}

// Create makes the data folder dir if need be, and a root key in it. The
// folder must be empty: a key is never made beside state that another key
// may have sealed. A crash leaves either no root key or a whole one (and maybe
// a file root.key.new, which makes the folder not empty; it holds no key that
// was ever used, and may be removed by hand).
func Create(dir string) (*Root, error) {
	if err := empty(dir); err != nil {
		return nil, err
	}
	key := make([]byte, KeySize)
	defer clear(key)
	rand.Read(key)
	if err := writeNew(filepath.Join(dir, FileName), key, 0o600); err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	return NewRoot(key)
}

// empty makes the folder if need be, and refuses one that holds anything.
func empty(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("root key: %w", err)
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("root key: %w", err)
	}
	if len(names) > 0 {
		return fmt.Errorf("root key: %s is not empty (it has %s): %w", dir, names[0].Name(), fs.ErrExist)
	}
	return nil
}

// writeNew writes in this order: the bytes, their sync, the name, the sync of
// the folder. The name therefore never stands for a torn file.
func writeNew(path string, b []byte, perm fs.FileMode) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	// Link, unlike rename, fails when the name exists: two starts at once
	// cannot replace each other's key.
	if err := os.Link(tmp, path); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Remove(tmp); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
