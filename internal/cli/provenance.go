package cli

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/server"
)

// sourceFile is a file that was read to be applied.
type sourceFile struct {
	name string // as it was opened; "-" is standard input
	data []byte
}

// gitLimit bounds all that is asked of git. An apply does not wait for it longer, and
// never fails for it.
const gitLimit = 3 * time.Second

// provenance says which commit files are of, by the git program where there is one:
// nil without one, outside of a work tree, or when git does not answer. It is what
// this side claims. files are all that were read, the first before the others.
//
// Not trusted: the repository. Only its objects and HEAD are read, and nothing that its
// configuration names is run: no filter, file system monitor, remote or program that
// verifies signatures; so a signature is said to be there, and not to be good.
func provenance(ctx context.Context, files []sourceFile) *server.Provenance {
	if len(files) == 0 || files[0].name == "-" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, gitLimit)
	defer cancel()
	g := git{ctx, filepath.Dir(files[0].name)}
	root := strings.TrimSuffix(g.ask("rev-parse", "--show-toplevel"), "\n")
	names := strings.Fields(g.ask("rev-parse", "HEAD", "HEAD^{tree}"))
	if root == "" || len(names) != 2 {
		return nil
	}
	commit := g.ask("cat-file", "commit", names[0])
	p := &server.Provenance{Commit: names[0], Tree: names[1], Branch: clip(plain(strings.TrimSpace(g.ask("symbolic-ref", "--quiet", "--short", "HEAD")))),
		Dirty: g.dirty(root, files)}
	head, _, _ := strings.Cut(commit, "\n\n")
	for l := range strings.Lines(head) {
		name, value, _ := strings.Cut(strings.TrimSuffix(l, "\n"), " ")
		switch {
		case name == "author" && p.Author == "": // git reads the first
			p.Author, p.Time = authorOf(value)
		case name == "gpgsig" || name == "gpgsig-sha256":
			p.Signed = formOf(value)
		}
	}
	if p.Author == "" {
		return nil // git makes no such commit
	}
	return p
}

// authorOf reads "NAME <MAIL> SECONDS ZONE", and makes what is not printable visible. A
// time that no JSON can say is none.
func authorOf(line string) (string, time.Time) {
	who, when, _ := strings.Cut(line, "> ")
	var seconds int64
	fmt.Sscan(when, &seconds)
	at := time.Unix(seconds, 0).UTC()
	if at.Year() < 1 || at.Year() > 9999 {
		at = time.Time{}
	}
	return clip(plain(strings.TrimSuffix(who, ">") + ">")), at
}

// clip keeps a text within what the server takes.
func clip(s string) string {
	const limit = 256 // bytes
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	return s
}

// formOf is the form of a commit's signature, by its first line.
func formOf(armor string) string {
	for mark, form := range map[string]string{"SSH SIGNATURE": "ssh", "PGP SIGNATURE": "openpgp", "SIGNED MESSAGE": "x509"} {
		if strings.Contains(armor, mark) {
			return form
		}
	}
	return ""
}

// git asks the git program about the work tree around dir.
type git struct {
	ctx context.Context
	dir string
}

// maxAnswer bounds what git says, in bytes.
const maxAnswer = 1 << 20

// ask is what git prints, or nothing if it fails. Variables of the caller that would
// name another repository are left out. Nothing of this repository stands for a commit
// (git-replace, commit-graph): others would find another under its name.
func (g git) ask(args ...string) string {
	cmd := exec.CommandContext(g.ctx, "git", append([]string{"--literal-pathspecs", "-c", "core.fsmonitor=false", "-c", "core.commitGraph=false"}, args...)...)
	cmd.Dir, cmd.WaitDelay = g.dir, 100*time.Millisecond
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "LC_ALL=C", "GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0",
		"GIT_NO_REPLACE_OBJECTS=1", "GIT_NO_LAZY_FETCH=1", "GIT_ALLOW_PROTOCOL=none"} // older gits do not know the first; a fetch runs what a remote names
	var out limited
	cmd.Stdout = &out
	if cmd.Run() != nil {
		return ""
	}
	return out.String()
}

// limited keeps the first maxAnswer bytes; more is an error, which ends git.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > maxAnswer {
		return 0, fmt.Errorf("more than %d bytes", maxAnswer)
	}
	return l.Buffer.Write(p)
}

// dirty reports whether what was read of a file is not what HEAD's commit has there.
// The bytes themselves are compared, so no filter of the repository runs, and a file
// that changed meanwhile is not taken for the one that was applied.
func (g git) dirty(root string, files []sourceFile) bool {
	g.dir = root
	args := []string{"ls-tree", "-z", "--full-tree", "HEAD", "--"}
	want := map[string][]byte{}
	for _, f := range files {
		abs, err := filepath.Abs(f.name)
		if err == nil {
			abs, err = filepath.EvalSymlinks(abs)
		}
		rel, rerr := filepath.Rel(root, abs)
		if f.name == "-" || err != nil || rerr != nil || !filepath.IsLocal(rel) {
			return true
		}
		want[rel] = f.data
		args = append(args, rel)
	}
	// Each is "MODE TYPE OBJECT<tab>PATH".
	for line := range strings.SplitSeq(g.ask(args...), "\x00") {
		meta, name, _ := strings.Cut(line, "\t")
		data, read := want[name]
		if of := strings.Fields(meta); read && len(of) == 3 && of[2] == blobName(data, len(of[2])) {
			delete(want, name)
		}
	}
	return len(want) > 0
}

// blobName is the name of a file's content as an object of Git, in the form whose
// names have that many digits.
func blobName(data []byte, digits int) string {
	h := sha1.New()
	if digits == 2*sha256.Size {
		h = sha256.New()
	}
	fmt.Fprintf(h, "blob %d\x00", len(data))
	h.Write(data)
	return hex.EncodeToString(h.Sum(nil))
}
