package server

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// treeDigest is over the name, mode and content of every file below paths.
// Symbolic links count by their target's name and are not followed.
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
			line := path + " " + info.Mode().String()
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

func fileDigest(path string) (action.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return action.Digest("sha256:" + hex.EncodeToString(h.Sum(nil))), nil
}
