package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// Of every version of a declared resource that was in force is kept who applied it, when,
// and its digest; and of the last keptVersions what it said, so that it can be compared
// and applied again. To apply one again is an apply like any other, by whoever
// does it: nothing that was approved or certified comes back with it.
//
// Of a Person only who changed it and when is kept: a key or role that was taken away
// is not to be had back by a number.

// kindVersion holds the versions: object kind "version", id Kind/name/N, N from 1.
const kindVersion = "version"

// keptVersions of each resource are kept whole: more than anybody goes back to, and not
// so many that who applies again and again fills the store.
const keptVersions = 100

// version is one that was put in force.
type version struct {
	Digest    action.Digest   `json:"digest"`
	Author    string          `json:"author"`
	Applied   time.Time       `json:"applied"`
	Claimed   *Provenance     `json:"claimed,omitempty"`
	Canonical json.RawMessage `json:"canonical,omitempty"`
}

// putResource puts a resource in force, and its version beside it. Everything that
// does passes here.
func putResource(tx record.Tx, s stored) error {
	var now stored
	if err := tx.Get(kindResource, s.id(), &now); err != nil && !errors.Is(err, record.ErrNotFound) {
		return err
	}
	s.Version = now.Version + 1
	v := version{s.Digest, s.Author, s.Applied, s.Claimed, s.Canonical}
	if s.Kind == resource.KindPerson {
		v.Canonical = nil
	}
	return errors.Join(tx.Put(kindVersion, versionID(s.id(), s.Version), v), tx.Put(kindResource, s.id(), s), forgetVersion(tx, s.id(), s.Version-keptVersions))
}

// forgetVersion lets go of what a version said.
func forgetVersion(tx record.Tx, id string, n int) error {
	var v version
	if n < 1 {
		return nil
	}
	if err := tx.Get(kindVersion, versionID(id, n), &v); err != nil {
		return err
	}
	v.Canonical = nil
	return tx.Put(kindVersion, versionID(id, n), v)
}

func versionID(id string, n int) string { return id + "/" + strconv.Itoa(n) }

// Provenance is where a client says that what it applies comes from: a commit of a
// Git repository. It is recorded as claimed, and nothing is decided by it.
type Provenance struct {
	Commit string    `json:"commit"`           // hex, SHA-1 or SHA-256
	Tree   string    `json:"tree"`             // of the commit: what all its files are, whatever the repository
	Branch string    `json:"branch,omitempty"` // none where no branch is checked out
	Author string    `json:"author"`           // of the commit, as it says
	Time   time.Time `json:"time"`             // when it was authored, as it says
	// Signed is the form of the commit's signature (ssh, openpgp, x509), or empty. It
	// was not verified.
	Signed string `json:"signed,omitempty"`
	// Dirty says that a file that was applied is not in the commit as it is.
	Dirty bool `json:"dirty"`
}

var gitObject = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// maxClaim bounds a text of a claim, in bytes.
const maxClaim = 256

func (p *Provenance) check() error {
	bad := func(field, want string) error {
		return problem(Invalid, "invalid_provenance", "claimed."+field+": want "+want, "leave claimed out, or say what git says")
	}
	text := func(s string) bool {
		return len(s) <= maxClaim && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
	}
	switch {
	case p == nil:
	case !gitObject.MatchString(p.Commit):
		return bad("commit", "40 or 64 hexadecimal digits")
	case !gitObject.MatchString(p.Tree):
		return bad("tree", "40 or 64 hexadecimal digits")
	case !text(p.Branch):
		return bad("branch", fmt.Sprintf("at most %d bytes of printable text", maxClaim))
	case p.Author == "" || !text(p.Author):
		return bad("author", fmt.Sprintf("1 to %d bytes of printable text", maxClaim))
	case !slices.Contains([]string{"", "ssh", "openpgp", "x509"}, p.Signed):
		return bad("signed", "ssh, openpgp, x509 or nothing")
	}
	return nil
}

// Change is one version of a resource.
type Change struct {
	Version int           `json:"version"`
	Digest  action.Digest `json:"digest"`
	Author  string        `json:"author"`
	Applied time.Time     `json:"applied"`
	Claimed *Provenance   `json:"claimed,omitempty"`
	// SameAs is the last version before that said exactly this; 0 is none.
	SameAs int `json:"sameAs,omitempty"`
}

// Changes lists the versions of a resource, the one in force last.
func (s *Server) Changes(ctx context.Context, tenantName, kind, name string) ([]Change, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	var out []Change
	err = t.log.View(ctx, func(tx record.Tx) error {
		out = nil
		var now stored
		if err := tx.Get(kindResource, kind+"/"+name, &now); err != nil {
			return err
		}
		last := map[action.Digest]int{}
		for n := 1; n <= now.Version; n++ {
			var v version
			if err := tx.Get(kindVersion, versionID(now.id(), n), &v); err != nil {
				return err
			}
			out = append(out, Change{n, v.Digest, v.Author, v.Applied, v.Claimed, last[v.Digest]})
			last[v.Digest] = n
		}
		return nil
	})
	return out, noVersion(err, kind, name, 0)
}

// Version is what a resource was in one of its versions, in canonical form.
func (s *Server) Version(ctx context.Context, tenantName, kind, name string, n int) (json.RawMessage, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	if kind == resource.KindPerson {
		return nil, problem(Refused, "not_kept", "what a Person was is not kept", "declare what the person is to have; an approver answers")
	}
	var v version
	err = t.log.View(ctx, func(tx record.Tx) error { return tx.Get(kindVersion, versionID(kind+"/"+name, n), &v) })
	if err == nil && v.Canonical == nil {
		return nil, problem(Refused, "not_kept", fmt.Sprintf("what %s %s said in version %d is not kept: the last %d versions are", kind, strconv.Quote(name), n, keptVersions), "see: sallyport get changes "+kind+"/"+name)
	}
	return v.Canonical, noVersion(err, kind, name, n)
}

func noVersion(err error, kind, name string, n int) error {
	switch {
	case !errors.Is(err, record.ErrNotFound):
		return err
	case n == 0:
		return problem(NotFound, "no_such_resource", "there is no "+kind+" "+strconv.Quote(name), "see: sallyport get "+kind)
	}
	return problem(NotFound, "no_such_version", fmt.Sprintf("%s %s has no version %d", kind, strconv.Quote(name), n), "see: sallyport get changes "+kind+"/"+name)
}

// authors are who wrote anything that an agent's boundary is made of, and who answers
// for the agent: none of them approves it, or its certification.
func (w *world) authors(a *agent) []string {
	out := []string{a.owner, a.deputy, w.resources[resource.KindAgent+"/"+a.name].Author}
	for kind, names := range map[string][]string{resource.KindConnector: a.spec.Connectors, resource.KindPolicySet: a.spec.PolicySets, resource.KindCapability: a.spec.Capabilities,
		resource.KindSuite: a.spec.Suites, resource.KindCredentialSource: append(w.credentialsOf(a), w.auditorsOf(a)...)} {
		for _, n := range names {
			out = append(out, w.resources[kind+"/"+n].Author)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
