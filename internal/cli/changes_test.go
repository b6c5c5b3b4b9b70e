package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// git runs the git program in dir.
func (u *user) git(dir, stdin string, args ...string) string {
	u.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		u.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (u *user) write(name, text string) {
	u.Helper()
	if err := os.WriteFile(name, []byte(text), 0o700); err != nil {
		u.Fatal(err)
	}
}

// changes: what is applied from a work tree, what was before, and back to it. The
// repository is one whose configuration would run programs, and none is run.
func (u *user) changes() {
	dir := u.TempDir()
	ran := filepath.Join(dir, "ran")
	u.write(filepath.Join(dir, "spare.yaml"), "apiVersion: sallyport/v1\nkind: PolicySet\nmetadata: {name: spare, tenant: brightwell}\nspec:\n  policies: [{name: spare.cedar, file: spare.cedar}]\n")
	const first, second = `@id("spare/a") forbid (principal, action == Action::"mail.send", resource);`, `@id("spare/b") forbid (principal, action == Action::"mail.send", resource);`
	cedar := filepath.Join(dir, "spare.cedar")
	u.write(cedar, first+"\n")
	u.git(dir, "", "init", "-q", "-b", "trunk")
	apply := []string{"apply", "-f", filepath.Join(dir, "spare.yaml"), "--as", "noor"}
	u.git(dir, "", "add", "spare.yaml", "spare.cedar")
	tree := u.git(dir, "", "write-tree")
	commit := u.git(dir, "tree "+tree+"\nauthor Noor\x1b[2J <noor@brightwell.example> 1700000000 +0100\ncommitter Noor <n@x> 1700000000 +0100\ngpgsig -----BEGIN SSH SIGNATURE-----\n U1NIU0lH\n -----END SSH SIGNATURE-----\n\nThe first.\n",
		"hash-object", "-t", "commit", "-w", "--stdin")
	u.git(dir, "", "update-ref", "refs/heads/trunk", commit)
	script := filepath.Join(dir, "evil")
	u.write(script, "#!/bin/sh\ntouch "+ran+"\n")
	u.write(filepath.Join(dir, ".gitattributes"), "* filter=evil diff=evil\n")
	for _, kv := range []string{"filter.evil.clean", "filter.evil.process", "diff.evil.textconv", "core.fsmonitor", "gpg.ssh.program", "gpg.program", "core.pager", "core.sshCommand"} {
		u.git(dir, "", "config", kv, script)
	}
	u.git(dir, "", "config", "log.showSignature", "true")

	u.do("", apply...).want(u.T, 0, "created")
	u.do("", "get", "changes", "policyset/spare").want(u.T, 0, "commit "+commit[:12]+" of trunk, signed (ssh, not verified), by Noor\\u{001b}[2J <noor@brightwell.example>")
	u.write(cedar, second+"\n")
	u.do("", apply...).want(u.T, 0, "changed")
	u.do("", "get", "changes", "PolicySet/spare").want(u.T, 0, "commit "+commit[:12]+" of trunk, with changes")
	u.do("", "get", "changes", "policysets/spare", "--version", "2").want(u.T, 0, `spare/a`, `spare/b`)
	u.do("", "get", "changes", "policyset/spare", "--version", "3").want(u.T, 1, "no_such_version")
	u.do("", "ledger", "list", "--type", "resource.applied").want(u.T, 0, "PolicySet/spare")
	u.do("", "ledger", "list", "--type", "resource.applied", "-o", "json").want(u.T, 0, `"commit": "`+commit+`"`, `"signed": "ssh"`)

	u.do("", "rollback", "policyset/spare", "--as", "noor").want(u.T, 2, "--to is needed")
	u.do("", "rollback", "spare", "--to", "1").want(u.T, 2, "want KIND/NAME")
	u.do("", "rollback", "policyset/spare", "--to", "1", "--as", "dana").want(u.T, 1, "role_missing")
	u.do("", "rollback", "policyset/spare", "--to", "9", "--as", "noor").want(u.T, 1, "no_such_version")
	u.do("", "rollback", "person/dana", "--to", "1", "--as", "kofi").want(u.T, 1, "not_kept")
	u.do("", "rollback", "policyset/spare", "--to", "1", "--as", "noor").want(u.T, 0, "changed")
	u.do("", "get", "changes", "policyset/spare").want(u.T, 0, "as version 1")
	u.do("", "get", "policyset", "spare").want(u.T, 0, "spare/a")

	u.claims()

	// An object that is missing would be fetched by what the remote names.
	for _, kv := range [][2]string{{"core.repositoryFormatVersion", "1"}, {"extensions.partialClone", "origin"}, {"remote.origin.promisor", "true"}, {"remote.origin.url", "ext::" + script}, {"protocol.ext.allow", "always"}} {
		u.git(dir, "", "config", kv[0], kv[1])
	}
	if err := os.Remove(filepath.Join(dir, ".git", "objects", tree[:2], tree[2:])); err != nil {
		u.Fatal(err)
	}
	u.do("", apply...).want(u.T, 0, "changed")
	u.do("", "get", "changes", "policyset/spare", "-o", "json").want(u.T, 0, `"sameAs": `)
	if _, err := os.Stat(ran); err == nil {
		u.Error("a program that the repository names was run")
	}
}

// claims: commits that only an attacker makes keep nobody from applying, and what stands
// for a commit in this repository alone is not taken for it.
func (u *user) claims() {
	dir := u.TempDir()
	cedar := filepath.Join(dir, "spare.cedar")
	u.write(filepath.Join(dir, "spare.yaml"), "apiVersion: sallyport/v1\nkind: PolicySet\nmetadata: {name: spare, tenant: brightwell}\nspec:\n  policies: [{name: spare.cedar, file: spare.cedar}]\n")
	n := 0
	apply := func() string {
		u.Helper()
		n++
		u.do("", "apply", "-f", filepath.Join(dir, "spare.yaml"), "--as", "noor").want(u.T, 0, "changed")
		all := strings.Split(strings.TrimSpace(u.do("", "get", "changes", "policyset/spare").out), "\n")
		return all[len(all)-1]
	}
	next := func() {
		u.write(cedar, `@id("spare/c`+strings.Repeat("c", n)+`") forbid (principal, action == Action::"mail.send", resource);`)
		u.git(dir, "", "add", "spare.yaml", "spare.cedar")
	}
	commit := func(author string) string {
		return u.git(dir, "tree "+u.git(dir, "", "write-tree")+"\n"+author+"committer N <n@x> 1700000000 +0000\n\nOdd.\n", "hash-object", "--literally", "-t", "commit", "-w", "--stdin")
	}
	u.git(dir, "", "init", "-q", "-b", "trunk")
	for _, author := range []string{"author N <n@x> 99999999999999 +0000\n", "author N <n@x> -99999999999999 +0000\n", "author N <n@x> 999999999999999999999999 +0000\n", "author N <n@x>\n", "author \n", ""} {
		next()
		u.git(dir, "", "update-ref", "refs/heads/trunk", commit(author))
		apply()
	}
	// The files as they are now are in no commit, but in one that replaces it here.
	was := commit("author N <n@x> 1700000000 +0000\n")
	u.git(dir, "", "update-ref", "refs/heads/trunk", was)
	next()
	u.git(dir, "", "replace", was, commit("author Other <o@x> 1700000000 +0000\n"))
	if got := apply(); !strings.Contains(got, "commit "+was[:12]+" of trunk, with changes, by N <n@x>") {
		u.Errorf("a replaced commit is claimed as %s", got)
	}
}
