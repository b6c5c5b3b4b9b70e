package cli_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/task"
)

var pageBlock = regexp.MustCompile("(?ms)^<!-- block: ([a-z-]+) -->\n```[a-z]+\n(.*?)^```")

// certificationPage does what docs/certification.md says, with its own commands and
// lines: a suite from the agent's capabilities, from a task that ran, by hand, and
// those that ship.
func (u *user) certificationPage() {
	b, err := os.ReadFile("../../docs/certification.md")
	if err != nil {
		u.Fatal(err)
	}
	blocks := map[string]string{}
	for _, m := range pageBlock.FindAllStringSubmatch(string(b), -1) {
		blocks[m[1]] = m[2]
	}
	did := ""
	tasks, err := u.r.As("lin").Tasks(u.Context())
	if err != nil {
		u.Fatal(err)
	}
	for _, x := range tasks {
		if x.State == task.Closed && did == "" {
			if u.do("", "certify", "new-suite", "helpdesk", "--from", x.ID).exit == 0 { // others did nothing
				did = x.ID
			}
		}
	}
	if did == "" {
		u.Fatal("no task of the server did anything")
	}
	file := filepath.Join(u.TempDir(), "mine.yaml")
	shell := strings.NewReplacer("mine.yaml", file, "play/", u.r.Files+"/", "TASK", did)
	does := func(block string) (said string) {
		if blocks[block] == "" {
			u.Fatalf("there is no block %s", block)
		}
		for line := range strings.Lines(shell.Replace(blocks[block])) {
			words, to, redirected := strings.Cut(strings.TrimSpace(line), " > ")
			r := u.do("", strings.Fields(words)[1:]...)
			r.want(u.T, 0)
			if redirected {
				if err := os.WriteFile(to, []byte(r.out), 0o600); err != nil {
					u.Fatal(err)
				}
			}
			said += r.out
		}
		return said
	}
	does("start")
	b, err = os.ReadFile(file)
	if err != nil {
		u.Fatal(err)
	}
	if err := os.WriteFile(file, append(b, blocks["scenario"]...), 0o600); err != nil {
		u.Fatal(err)
	}
	u.do("", "apply", "-f", file, "--as", "noor").want(u.T, 0, "Suite")
	does("from")
	if b, err = os.ReadFile(file); err != nil {
		u.Fatal(err)
	}
	all, err := resource.Decode([]resource.Source{{Name: file, Data: b}})
	if err != nil {
		u.Fatal(err)
	}
	s := all[0].Spec.(*resource.SuiteSpec)
	if sc := s.All()[0]; len(s.Scenarios) != 1 || sc.Capability != "reset-mfa" || sc.Params["ticket"] != "4711" || len(sc.Expect.Done) != 3 ||
		sc.Expect.Done[0].Operation != "iam.user.mfa.reset" || sc.Expect.Done[0].Params["user"] != "jo" || sc.Expect.Done[1].Params["text"] != "" || sc.Expect.Never[0] != "other" {
		u.Errorf("task %s became %s", did, b)
	}
	if said := does("desk"); !strings.Contains(said, "core-injection") || !strings.Contains(said, "boundary") || !strings.Contains(said, "correspond") {
		u.Errorf("got %s", said)
	}
	u.do("", "certify", "new-suite", "nobody").want(u.T, 1, "no_such_resource")
	u.do("", "certify", "new-suite", "desk", "--from", did).want(u.T, 2, "is of agent helpdesk")
	u.do("", "certify", "desk", "--suite", "easy", "--as", "mara").want(u.T, 2, "suite_not_of_agent")
	for _, id := range u.ids() {
		u.do("", "approve", id, "--yes", "--key", u.file("keys/ines")).want(u.T, 0)
	}
}

// singleCommands does the commands of the page that need no block of their own, as they
// are there, on an agent that is certified as id.
func (u *user) singleCommands(id, key string) {
	page, err := os.ReadFile("../../docs/certification.md")
	if err != nil {
		u.Fatal(err)
	}
	dir := u.TempDir()
	for _, c := range []struct {
		line string
		exit int
		says string
	}{
		{"certify helpdesk --history", 0, id},
		{"certify helpdesk --changed --as mara", 1, "nothing that is declared has changed since the last certification " + id},
		{"certify helpdesk --statement -f helpdesk.sallyport", 0, "is written"},
		{"verify helpdesk.sallyport --key KEY", 0, "is valid"},
		{"canary helpdesk page-acts-by-itself --as mara", 1, "agent helpdesk declares no canary"},
		{"get behaviour helpdesk", 0, "certified by " + id},
		{"get boundary helpdesk", 0, "model.id"},
		{"get boundary helpdesk --against live", 0, "is the one that was certified as " + id},
		{"get boundary helpdesk -o cyclonedx", 0, "machine-learning-model"},
		{"task open --agent helpdesk --capability reset-mfa --param user=jo --param ticket=4711 --stage shadow --requester dana", 1, "does not cover stage shadow"},
		{"get changes policyset/company", 0, "noor"},
		{"get changes policyset/company --version 2", 1, "no_such_version"},
		{"rollback policyset/company --to 1 --as noor", 0, "unchanged"},
	} {
		if !strings.Contains(string(page), "\nsallyport "+c.line) {
			u.Errorf("the page has no %q", c.line)
		}
		line := strings.NewReplacer("helpdesk.sallyport", filepath.Join(dir, "helpdesk.sallyport"), "KEY", key).Replace(c.line)
		u.do("", strings.Fields(line)...).want(u.T, c.exit, c.says)
	}
}
