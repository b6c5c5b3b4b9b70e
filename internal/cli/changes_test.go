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

	// An object that is missing would be fetched by what the remote names.
	for _, kv := range [][2]string{{"core.repositoryFormatVersion", "1"}, {"extensions.partialClone", "origin"}, {"remote.origin.promisor", "true"}, {"remote.origin.url", "ext::" + script}, {"protocol.ext.allow", "always"}} {
		u.git(dir, "", "config", kv[0], kv[1])
	}
	if err := os.Remove(filepath.Join(dir, ".git", "objects", tree[:2], tree[2:])); err != nil {
		u.Fatal(err)
	}
	u.do("", apply...).want(u.T, 0, "changed")
	u.do("", "get", "changes", "policyset/spare", "-o", "json").want(u.T, 0, `"sameAs": 2`)
	if _, err := os.Stat(ran); err == nil {
		u.Error("a program that the repository names was run")
	}
}
