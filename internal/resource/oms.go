package resource

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// ModelSignature says which files a model is: a bundle of OpenSSF Model Signing
// 1.0, signed with a key. Nothing here sees the files, so it is the publisher's
// word for what is declared, and no measurement.
type ModelSignature struct {
	// As in Provenance; Statement is the bundle.
	Statement string `json:"statement,omitempty"`
	File      string `json:"file,omitempty"`
	Key       string `json:"key,omitempty"`
	KeyFile   string `json:"keyFile,omitempty"`
}

const omsV1 = "https://model_signing/signature/v1.0"

// Signed is what a verified signature of a model says.
type Signed struct {
	// Root is the statement's subject: SHA-256 over the digests of the files, by
	// which others refer to the model. It is not over their names, nor over which
	// files were left out; Manifest is.
	Root, Manifest action.Digest
	Key            action.Digest // of the key that signed
}

// manifest is the predicate. Members that it does not name are left out, as the
// specification says.
type manifest struct {
	Resources     []file `json:"resources"`
	Serialization struct {
		Method        string   `json:"method"`
		HashType      string   `json:"hash_type"`
		ShardSize     int64    `json:"shard_size"`
		AllowSymlinks *bool    `json:"allow_symlinks"`
		IgnorePaths   []string `json:"ignore_paths"`
	} `json:"serialization"`
}

type file struct {
	Name      string `json:"name"`
	Algorithm string `json:"algorithm"`
	Digest    string `json:"digest"`
}

var (
	// digestForm is by the algorithm's name in the specification's registry.
	digestForm = map[string]*regexp.Regexp{"sha256": sha256Hex, "blake3": sha256Hex, "blake2b": regexp.MustCompile(`^[0-9a-f]{128}$`)}
	shardForm  = regexp.MustCompile(`^(.+):(0|[1-9][0-9]{0,17}):([1-9][0-9]{0,17})$`)
)

// Verify verifies the bundle.
func (m *ModelSignature) Verify() (Signed, error) {
	e, err := openBundle([]byte(m.Statement))
	if err != nil {
		return Signed{}, err
	}
	st, key, err := openStatement(e, m.Key, omsV1, inTotoV1)
	if err != nil {
		return Signed{}, err
	}
	var man manifest
	if err := canon.UnmarshalOpen(st.Predicate, maxSigned, &man); err != nil {
		return Signed{}, fmt.Errorf("predicate: %w", err)
	}
	if err := man.check(); err != nil {
		return Signed{}, fmt.Errorf("predicate: %w", err)
	}
	root := man.root()
	if len(st.Subject) != 1 || st.Subject[0].Name == "" || st.Subject[0].Digest["sha256"] != root {
		return Signed{}, errors.New("the one subject is not named, or not the SHA-256 over the digests of the resources")
	}
	all, err := man.digest()
	return Signed{Root: "sha256:" + action.Digest(root), Manifest: all, Key: key}, err
}

// check is sections 5.2, 6.1.2 and 6.3 of the specification, as far as OpenSSF's own
// tool keeps to them: it sorts by the parts of a path, so the order of the resources
// is not looked at, and up to version 1.0.0 it calls a model of one file ".".
func (m *manifest) check() error {
	s := m.Serialization
	if s.Method != "files" && s.Method != "shards" || (s.Method == "shards") != (s.ShardSize > 0) || s.ShardSize < 0 {
		return fmt.Errorf("serialization.method is %q with shard_size %d, want files without one, or shards with one", s.Method, s.ShardSize)
	}
	form := digestForm[s.HashType]
	if form == nil || s.AllowSymlinks == nil {
		return fmt.Errorf("serialization.hash_type is %q, want sha256, blake2b or blake3, and allow_symlinks", s.HashType)
	}
	for i, p := range s.IgnorePaths {
		if p == "" {
			return fmt.Errorf("serialization.ignore_paths[%d] is empty", i)
		}
	}
	if len(m.Resources) == 0 {
		return errors.New("resources: there are none")
	}
	seen := map[string]bool{}
	for i, r := range m.Resources {
		at := fmt.Sprintf("resources[%d] (%q)", i, r.Name)
		path := r.Name
		if s.Method == "shards" {
			part := shardForm.FindStringSubmatch(r.Name)
			if part == nil {
				return fmt.Errorf("%s is no shard: want PATH:START:END", at)
			}
			path = part[1]
		}
		switch {
		case !fs.ValidPath(path) || path == "." && len(m.Resources) > 1 || strings.Contains(path, "\x00"):
			return fmt.Errorf("%s is no path below the model", at)
		case seen[r.Name]:
			return fmt.Errorf("%s is there twice", at)
		case r.Algorithm != s.HashType || !form.MatchString(r.Digest):
			return fmt.Errorf("%s has algorithm %q and digest %q, want %s in lower-case hexadecimal", at, r.Algorithm, r.Digest, s.HashType)
		}
		seen[r.Name] = true
	}
	return nil
}

// root is section 6.5.1, over the digests as they are listed.
func (m *manifest) root() string {
	all := sha256.New()
	for _, r := range m.Resources {
		d, _ := hex.DecodeString(r.Digest) // check has read it
		all.Write(d)
	}
	return hex.EncodeToString(all.Sum(nil))
}

// digest is over all that the manifest says, in one form: a tool that lists the same
// in another order says the same.
func (m *manifest) digest() (action.Digest, error) {
	one := *m
	one.Resources, one.Serialization.IgnorePaths = slices.Clone(m.Resources), slices.Clone(m.Serialization.IgnorePaths)
	slices.SortFunc(one.Resources, func(a, b file) int { return cmp.Compare(a.Name, b.Name) })
	slices.Sort(one.Serialization.IgnorePaths)
	one.Serialization.IgnorePaths = slices.Compact(one.Serialization.IgnorePaths)
	return canon.DigestOf(one)
}
