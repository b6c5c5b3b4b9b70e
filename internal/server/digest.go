package server

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// treeDigest is over the name, mode and content of every file below paths.
// Symbolic links count by their target's name and are not followed, so no path may
// be one.
func treeDigest(paths []string) (action.Digest, error) {
	lines := []string{}
	for _, root := range slices.Sorted(slices.Values(paths)) {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			line := strconv.Quote(path) + " " + info.Mode().String() // two trees are not one text
			switch {
			case info.Mode().IsRegular():
				sum, err := fileDigest(path)
				if err != nil {
					return err
				}
				line += " " + string(sum)
			case info.Mode()&fs.ModeSymlink != 0:
				to, err := os.Readlink(path)
				if err != nil {
					return err
				}
				line += " -> " + to
			}
			lines = append(lines, line)
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return canon.DigestOf(lines)
}

// maxFile bounds a file that is measured, in bytes: who could put a larger one there
// would keep everybody waiting for its digest.
const maxFile = 4 << 30

func fileDigest(path string) (action.Digest, error) {
	f, err := openFile(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return copyDigest(io.Discard, f)
}

// openFile opens a regular file, and waits for nobody at the other end of another
// kind.
func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, errors.Join(fmt.Errorf("%s is no regular file of at most %d bytes", path, int64(maxFile)), err, f.Close())
	}
	return f, nil
}

// copyDigest copies, and gives the digest of what it copied.
func copyDigest(w io.Writer, r io.Reader) (action.Digest, error) {
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, h), io.LimitReader(r, maxFile+1))
	if err == nil && n > maxFile {
		err = fmt.Errorf("a file grew beyond %d bytes", int64(maxFile))
	}
	return action.Digest("sha256:" + hex.EncodeToString(h.Sum(nil))), err
}
