package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/apitest"
	"github.com/sallyport-dev/sallyport/internal/cli"
)

func TestMain(m *testing.M) {
	apitest.Main()
	if len(os.Args) > 1 && os.Args[1] == "sample-agent" {
		os.Exit(cli.SampleAgent(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// result is what one command line did.
type result struct {
	exit     int
	out, err string
}

func run(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	var out, errw bytes.Buffer
	code := cli.Run(t.Context(), args, strings.NewReader(stdin), &out, &errw)
	return result{code, out.String(), errw.String()}
}

// want checks the exit status and that the texts are in what was printed.
func (r result) want(t *testing.T, exit int, texts ...string) {
	t.Helper()
	if r.exit != exit {
		t.Errorf("exit status: got %d, want %d\n%s%s", r.exit, exit, r.out, r.err)
	}
	for _, x := range texts {
		if !strings.Contains(r.out+r.err, x) {
			t.Errorf("got\n%s%swant in it %q", r.out, r.err, x)
		}
	}
}

func TestUsage(t *testing.T) {
	t.Setenv("SALLYPORT_SERVER", "")
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"unknown_command":   {[]string{"nonsense"}, "unknown command"},
		"unknown_flag":      {[]string{"task", "list", "--all"}, "unknown flag"},
		"missing_argument":  {[]string{"task", "show"}, "accepts 1 arg"},
		"output_unknown":    {[]string{"task", "list", "-o", "yaml"}, "want text or json"},
		"version_no_number": {[]string{"rollback", "policyset/x", "--to", "x"}, "--to \"x\": want a whole number\n  next: sallyport rollback --help"},
		"version_too_large": {[]string{"get", "changes", "policyset/x", "--version", "99999999999999999999"}, "--version \"99999999999999999999\": want a whole number"},
		"limit_no_number":   {[]string{"ledger", "list", "--limit", "many"}, "--limit \"many\": want a whole number"},
		"no_duration":       {[]string{"task", "take", "t-1", "--for", "5"}, "--for \"5\": want a duration, such as 90s"},
		"no_bool":           {[]string{"certify", "x", "--changed=maybe"}, "--changed \"maybe\": want true or false\n  next: sallyport certify --help"},
		"hold_limit_none":   {[]string{"up", "--hold-limit", "-1m"}, "--hold-limit: want more than nothing"},
		"server_not_unix":   {[]string{"task", "list", "--server", "http://127.0.0.1"}, "unix:///path"},
		"apply_nothing":     {[]string{"apply"}, "-f is needed"},
		"apply_no_file":     {[]string{"apply", "-f", "/no/such"}, "no such file"},
		"param_malformed":   {[]string{"task", "open", "--capability", "c", "--param", "x"}, "NAME=VALUE"},
		"param_twice":       {[]string{"task", "open", "--capability", "c", "--param", "x=1", "--param", "x=2"}, "each name once"},
		"stage_unknown":     {[]string{"task", "open", "--capability", "c", "--stage", "prod"}, "--stage"},
		"two_people":        {[]string{"task", "open", "--capability", "c", "--as", "a", "--requester", "b"}, "two people"},
		"run_without_task":  {[]string{"run", "--", "/bin/true"}, "--task is needed"},
		"run_no_program":    {[]string{"run", "--task", "t", "--", "/no/such"}, "/no/such"},
		"run_bind_missing":  {[]string{"run", "--task", "t", "--bind", "/no/such", "--", "/bin/true"}, "--bind"},
		"reject_no_reason":  {[]string{"reject", "x"}, "--reason"},
		"revoke_no_reason":  {[]string{"revoke", "agent/x"}, "--reason"},
		"certify_sandbox":   {[]string{"certify", "x", "--stage", "sandbox"}, "only production"},
		"bill_of_tasks":     {[]string{"task", "list", "-o", "cyclonedx"}, "want text or json"},
		"bill_and_against":  {[]string{"get", "boundary", "x", "-o", "cyclonedx", "--against", "live"}, "--against"},
		"statement_unasked": {[]string{"certify", "x", "c-1"}, "goes with --statement"},
		"statement_and_run": {[]string{"certify", "x", "--statement", "--suite", "s"}, "runs no suite"},
		"file_unasked":      {[]string{"certify", "x", "-f", "y"}, "goes with --statement"},
		"kind_unknown":      {[]string{"get", "pods"}, "there is no kind"},
		"record_negative":   {[]string{"ledger", "show", "--", "-1"}, "its number"},
		"policy_test_empty": {[]string{"policy", "test"}, "give files"},
		"replay_since":      {[]string{"policy", "replay", "--since", "yesterday"}, "want a date"},
		"replay_no_file":    {[]string{"policy", "replay", "-f", "/no/such"}, "no such file"},
		"hold_limit_zero":   {[]string{"up", "--hold-limit", "0s"}, "--hold-limit"},
		"listen_malformed":  {[]string{"up", "--listen", "8470"}, "--listen"},
		"kek_unknown":       {[]string{"up", "--kek", "vault"}, "--kek: \"vault\": want file, passphrase or unix"},
		"kek_no_terminal":   {[]string{"up", "--kek", "passphrase"}, "a passphrase is read from --passphrase-fd"},
		"kek_fd_closed":     {[]string{"up", "--kek", "passphrase", "--passphrase-fd", "987"}, "read the passphrase"},
		"kek_fd_alone":      {[]string{"up", "--passphrase-fd", "0"}, "is for --kek passphrase"},
		"kek_argument":      {[]string{"up", "--kek", "passphrase", "--passphrase", "x"}, "unknown flag"},
		"experiment":        {[]string{"up", "--experimental", "broker"}, "--experimental: \"broker\": want wit-svid"},
		"kek_grace_zero":    {[]string{"up", "--kek-grace", "0s"}, "--kek-grace"},
		"rewrap_nothing":    {[]string{"secret", "rewrap", "--new-kek", "unix:///s"}, "holds no keys"},
		"estate_public":     {[]string{"estate", "--admin", "0.0.0.0:8646"}, "loopback addresses only"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			run(t, "", append([]string{"--data", dir}, c.args...)...).want(t, 2, c.want)
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("a usage error left %v", left)
			}
		})
	}
}

// TestNameOfAFileMovesNothing: a checkout of somebody else has a file whose name would
// write on the terminal of who applies it.
func TestNameOfAFileMovesNothing(t *testing.T) {
	t.Setenv("SALLYPORT_SERVER", "")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a\x1b[2J\u202eb.yaml"), []byte("kind: Agent\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"apply", "-f", dir}, {"apply", "-f", filepath.Join(dir, "\x1b[2J")}} {
		r := run(t, "", append(args, "--data", dir)...)
		r.want(t, 2, `\u{001b}[2J`)
		if strings.Contains(r.err, "\x1b") {
			t.Errorf("%q", r.err)
		}
	}
}

func TestNoServer(t *testing.T) {
	t.Setenv("SALLYPORT_SERVER", "")
	dir := t.TempDir()
	for _, args := range [][]string{{"task", "list"}, {"get"}, {"approvals"}, {"ledger", "verify"}, {"revoke", "agent/x", "--reason", "x"},
		{"run", "--task", "t", "--", "/bin/true"}, {"secret", "list"}, {"certify", "x"}, {"policy", "replay"}} {
		run(t, "", append([]string{"--data", dir}, args...)...).want(t, 3, "no server answers", "sallyport up --data "+dir)
	}
	run(t, "", "--server", "unix:///nonexistent/s", "ledger", "verify").want(t, 3, "/nonexistent/s")
}

func TestHelpHasAnExample(t *testing.T) {
	for _, c := range []string{"up", "apply", "rollback", "get", "get behaviour", "get boundary", "get changes", "get separation", "get notify", "task", "task open", "task show", "task close", "task list", "task take", "task screen", "task act", "task give-back", "run", "approvals", "approve", "reject", "revoke", "canary", "certify", "certify new-suite",
		"secret", "secret put", "secret list", "secret rewrap", "secret keys", "ledger", "ledger list", "ledger show", "ledger verify", "ledger prove", "ledger export",
		"policy", "policy check", "policy test", "policy replay", "doctor", "estate", "version"} {
		run(t, "", append(strings.Fields(c), "--help")...).want(t, 0, "Examples:\n  sallyport "+c)
	}
	run(t, "", "version").want(t, 0, "sallyport")
	run(t, "", "completion", "bash").want(t, 0, "complete")
}

// TestServer goes the way of a user, against one server.
func TestServer(t *testing.T) {
	t.Setenv("SALLYPORT_SERVER", "")
	t.Setenv("SSH_AUTH_SOCK", "")
	r := apitest.Start(t)
	u := &user{T: t, r: r}
	t.Run("apply", func(t *testing.T) { u.in(t).apply() })
	t.Run("get", func(t *testing.T) { u.in(t).get() })
	t.Run("approve", func(t *testing.T) { u.in(t).approve() })
	t.Run("secret", func(t *testing.T) { u.in(t).secret() })
	t.Run("task", func(t *testing.T) { u.in(t).task() })
	t.Run("run", func(t *testing.T) { u.in(t).run() })
	t.Run("take_over", func(t *testing.T) { u.in(t).takeOver() })
	t.Run("evidence", func(t *testing.T) { u.in(t).evidence() })
	t.Run("replay", func(t *testing.T) { u.in(t).replay() })
	t.Run("changes", func(t *testing.T) { u.in(t).changes() })
	t.Run("ledger", func(t *testing.T) { u.in(t).ledger() })
	r.Stop(t)
	t.Run("task_unreachable", func(t *testing.T) { u.in(t).do("", "task", "list").want(t, 3, "no server answers") })
	t.Run("ledger_of_a_stopped_server", func(t *testing.T) { u.in(t).ledger() })
	r.Open(t)
	t.Run("certification_page", func(t *testing.T) { u.in(t).certificationPage() })
	r.Stop(t)
	t.Run("certified", func(t *testing.T) { u.in(t).certified() })
}

type user struct {
	*testing.T
	r *apitest.Rig
}

func (u *user) in(t *testing.T) *user { return &user{t, u.r} }

func (u *user) do(stdin string, args ...string) result {
	u.Helper()
	if args[0] == "ledger" || args[0] == "readiness" {
		args = append(args, "--store", u.r.Store) // asked when the server is stopped
	}
	return run(u.T, stdin, append([]string{"--data", u.r.Data}, args...)...)
}

func (u *user) file(name string) string { return filepath.Join(u.r.Files, filepath.FromSlash(name)) }

func (u *user) apply() {
	// Nothing of a folder with one mistake is applied, and each mistake is named.
	bad := filepath.Join(u.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("apiVersion: sallyport/v1\nkind: Tenant\nmetadata:\n  name: brightwell\nspec:\n  trustDomian: x\n  demo: maybe\n"), 0o600); err != nil {
		u.Fatal(err)
	}
	res := u.do("", "apply", "-f", u.r.Files, "-f", bad, "--as", "noor")
	res.want(u.T, 2, bad+":6: spec.trustDomian: ", bad+":7: spec.demo: ")
	u.do("", "get").want(u.T, 1, "there are 0 tenants")
	// A file that is named and missing.
	if err := os.Rename(u.file("estate-ca.pem"), u.file("moved")); err != nil {
		u.Fatal(err)
	}
	u.do("", "apply", "-f", u.r.Files, "--as", "noor").want(u.T, 2, u.file("connectors.yaml")+":", "estate-ca.pem")
	if err := os.Rename(u.file("moved"), u.file("estate-ca.pem")); err != nil {
		u.Fatal(err)
	}
	u.do("", "apply", "-f", u.r.Files, "--as", "mallory").want(u.T, 1, "person_unknown")
	u.do("", "apply", "-f", u.r.Files, "--as", "noor").want(u.T, 0, "Capability        reset-mfa", "created", "2 waiting for approval")
	u.do("", "apply", "-f", u.r.Files, "--as", "noor").want(u.T, 0, "unchanged")
	// A change by somebody without the role of the kind; a reference to nothing.
	suite, err := os.ReadFile(u.file("capability.yaml"))
	if err != nil {
		u.Fatal(err)
	}
	changed := strings.Replace(string(suite), "max: 1", "max: 2", 1)
	u.do(changed, "apply", "-f", "-", "--as", "dana").want(u.T, 1, "role_missing")
	before, _, _ := strings.Cut(string(suite), "operation: iam.user.mfa.reset")
	line := fmt.Sprintf("-:%d: ", strings.Count(before, "\n")+1)
	dangling := strings.ReplaceAll(string(suite), "iam.user.mfa.reset", "iam.user.delete")
	u.do(dangling, "apply", "-f", "-", "--as", "noor").want(u.T, 2, line+"spec.operations[0].operation: no connector declares iam.user.delete", "nothing was applied")
	u.do(strings.Repeat("#", 2<<20), "apply", "-f", "-", "--as", "noor").want(u.T, 2, "limit")
}

func (u *user) get() {
	u.do("", "get").want(u.T, 0, "PolicySet         company")
	for _, kind := range []string{"capability", "Capabilities", "CAPABILITY"} {
		u.do("", "get", kind, "reset-mfa").want(u.T, 0, "kind: Capability")
	}
	u.do("", "get", "person", "nobody").want(u.T, 1, "no_such_resource")
	u.do("", "--tenant", "other", "get").want(u.T, 1, "no_such_tenant")
	// What is read back can be applied again, and is the same.
	all := u.do("", "get", "connectors")
	u.do(all.out, "apply", "-f", "-", "--as", "noor").want(u.T, 0, "unchanged")
	var list []map[string]any
	if err := json.Unmarshal([]byte(u.do("", "get", "people", "-o", "json").out), &list); err != nil || len(list) != 10 {
		u.Errorf("json: %d people, %v", len(list), err)
	}
}

// ids of what waits.
func (u *user) ids() []string {
	var list []struct{ Statement struct{ Kind, Nonce string } }
	if err := json.Unmarshal([]byte(u.do("", "approvals", "-o", "json").out), &list); err != nil {
		u.Fatal(err)
	}
	var ids []string
	for _, a := range list {
		ids = append(ids, a.Statement.Nonce)
	}
	return ids
}

func (u *user) approve() {
	u.do("", "approvals").want(u.T, 0, "boundary", "capability", "reset-mfa")
	ids := u.ids()
	if len(ids) != 2 {
		u.Fatalf("got %d approvals, want 2", len(ids))
	}
	u.do("", "approvals", ids[0]).want(u.T, 0, "You are asked to approve:", "State: pending")
	u.do("", "approve", ids[0], "--key", u.file("keys/ines")).want(u.T, 2, "add --yes")
	u.do("", "approve", ids[0], "--yes").want(u.T, 2, "no ssh-agent runs")
	u.do("", "approve", ids[0], "--yes", "--key", u.file("people.yaml")).want(u.T, 2, "--key")
	u.do("", "approve", ids[0], "--yes", "--key", u.file("keys/dana")).want(u.T, 1, "role_missing")
	u.do("", "approve", ids[0], "--yes", "--key", u.file("keys/ines"), "--as", "felix").want(u.T, 1, "key_not_theirs")
	u.do("", "approve", ids[0], "--yes", "--key", u.file("keys/ines"), "--assertion", u.file("people.yaml")).want(u.T, 2, "assertion")
	u.do("", "approve", ids[0], "--yes", "--assertion", u.file("people.yaml")).want(u.T, 2, "--assertion")
	u.passkey(ids[0])
	// Whose key it is, is looked up.
	u.do("", "approve", ids[1], "--yes", "--key", u.file("keys/ines")).want(u.T, 0, "signed as ines; 1 of 1; the approval is used")
	u.do("", "approve", ids[0], "--yes", "--key", u.file("keys/felix")).want(u.T, 1, "not_pending")
	u.do("", "approvals").want(u.T, 0, "no approval is pending")
	u.do("", "approvals", "--state", "all").want(u.T, 2, "invalid_state")
}

// passkey approves with what a browser gives for what the command prints.
func (u *user) passkey(id string) {
	k := apitest.NewPasskey(u.T)
	u.r.SetPasskeys(u.T, "ines", k)
	defer u.r.SetPasskeys(u.T, "ines")
	var a api.Approval
	if err := json.Unmarshal([]byte(u.do("", "approvals", id, "-o", "json", "--as", "ines").out), &a); err != nil || len(a.Passkeys) != 1 {
		u.Fatalf("passkeys: got %+v, %v", a.Passkeys, err)
	}
	file := filepath.Join(u.TempDir(), "answer.json")
	answer := func(k *apitest.Passkey) {
		if err := os.WriteFile(file, k.Get(u.T, a.Passkeys[0]), 0o600); err != nil {
			u.Fatal(err)
		}
	}
	answer(apitest.NewPasskey(u.T))
	u.do("", "approve", id, "--yes", "--assertion", file).want(u.T, 2, "no person's")
	answer(k)
	u.do("", "approve", id, "--assertion", file).want(u.T, 2, "add --yes")
	u.do("", "approve", id, "--yes", "--assertion", file).want(u.T, 0, "signed as ines; 1 of 1; the approval is used")
}

func (u *user) secret() {
	u.do("hunter2\n", "secret", "put", "provider-key", "--as", "dana").want(u.T, 1, "role_missing")
	res := u.do(u.r.Sample.Secrets["provider-key"]+"\n", "secret", "put", "provider-key", "--as", "sven")
	res.want(u.T, 0, "is stored")
	u.do("", "secret", "put", "empty", "--as", "sven").want(u.T, 2, "invalid_secret")
	u.do("x", "secret", "put", "Name With Spaces", "--as", "sven").want(u.T, 2, "invalid_name")
	u.do("x", "secret", "put", "../x", "--as", "sven").want(u.T, 1, "no_such_route")
	list := u.do("", "secret", "list")
	list.want(u.T, 0, "provider-key", "sven")
	if strings.Contains(res.out+res.err+list.out, u.r.Sample.Secrets["provider-key"]) {
		u.Error("a secret was printed")
	}
	u.r.Apply(u.T) // the rest of the secrets
}

func (u *user) task() {
	u.do("", "task", "open", "--capability", "reset-mfa", "--param", "user=jo", "--param", "ticket=4711", "--requester", "dana").want(u.T, 1, "no_certification", "next: sallyport certify helpdesk")
	u.do("", "task", "open", "--capability", "reset-mfa", "--param", "user=jo;", "--param", "ticket=4711", "--requester", "dana", "--stage", "sandbox").want(u.T, 2, "invalid_parameters")
	u.do("", "task", "open", "--capability", "reset-mfa", "--requester", "mara").want(u.T, 1, "role_missing")
	id := u.open()
	u.do("", "task", "show", id).want(u.T, 0, "proposed", "user=jo")
	u.do("", "task", "list").want(u.T, 0, id)
	u.do("", "task", "close", id, "--as", "lin").want(u.T, 1, "role_missing")
	u.do("", "task", "close", id, "--as", "dana").want(u.T, 0, "closed by dana")
	u.do("", "revoke", "agent/helpdesk", "--reason", "test", "--as", "mara").want(u.T, 0, "no task was running")
	res := u.do("", "task", "show", "t-none", "-o", "json")
	var p struct{ Code, Next string }
	if err := json.Unmarshal([]byte(res.err), &p); err != nil || res.exit != 1 || p.Code != "no_such_task" {
		u.Errorf("refusal as json: exit %d, %q", res.exit, res.err)
	}
	u.do("", "certify", "helpdesk", "--history").want(u.T, 0, "there is no certification")
	u.do("", "certify", "helpdesk", "--as", "dana").want(u.T, 1, "role_missing")
}

func (u *user) open() string {
	u.Helper()
	res := u.do("", "task", "open", "--capability", "reset-mfa", "--param", "user=jo", "--param", "ticket=4711", "--requester", "dana", "--stage", "sandbox", "-o", "json")
	var x struct{ ID string }
	if err := json.Unmarshal([]byte(res.out), &x); err != nil || x.ID == "" {
		u.Fatalf("task open: %s%s", res.out, res.err)
	}
	return x.ID
}

// harness runs a command whose standard input ends once the boundary says that
// it runs: a harness that is gone before it is known has nothing to attest.
func (u *user) harness(args ...string) result {
	u.Helper()
	in, typed := io.Pipe()
	var out bytes.Buffer
	errw := watched{seen: func(s string) {
		if strings.Contains(s, "runs\n") {
			typed.Close()
		}
	}}
	code := cli.Run(u.Context(), append([]string{"--data", u.r.Data, "run"}, args...), in, &out, &errw)
	typed.Close()
	return result{code, out.String(), errw.String()}
}

func (u *user) run() {
	u.harness("--task", u.open(), "--", "/bin/sh", "-c", "cat; echo done").want(u.T, 0, "done", "is closed")
	// The harness's own status.
	u.harness("--task", u.open(), "--", "/bin/sh", "-c", "cat; echo to-error >&2; exit 42").want(u.T, 42, "to-error", "harness_failed")
	u.do("", "run", "--task", "t-none", "--", "/bin/true").want(u.T, 1, "no_such_task")
	// What is bound is there, and read-only; what is not, is not.
	dir := u.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		u.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "given"), []byte("given"), 0o644); err != nil {
		u.Fatal(err)
	}
	u.harness("--task", u.open(), "--bind", dir, "--dir", dir, "--", "/bin/sh", "-c", "cat; cat given; touch new || ls "+u.r.Data).want(u.T, 2, "given", "No such file")
	// The sample agent is this binary; its goal is the task's parameters.
	defer u.r.Approver(u.T, "ines")()
	self, err := os.Executable()
	if err != nil {
		u.Fatal(err)
	}
	u.do("", "run", "--task", u.open(), "--", self, "sample-agent").want(u.T, 0, "Ticket 4711 is answered and closed", "is closed")
}

// takeOver: a person steps into a session that runs.
func (u *user) takeOver() {
	id := u.open()
	u.do("", "task", "take", id, "--as", "mara").want(u.T, 2, "--reason is needed")
	u.do("", "task", "take", id, "--as", "mara", "--reason", "test").want(u.T, 1, "not_running")
	ended := make(chan result, 1)
	go func() { ended <- u.do("", "run", "--task", id, "--", "/bin/sleep", "1000") }()
	for limit := time.Now().Add(time.Minute); ; {
		res := u.do("", "task", "take", id, "--as", "mara", "--reason", "signs in", "--for", "10m")
		if res.exit == 0 {
			res.want(u.T, 0, "mara has the session until", "next: sallyport task screen "+id)
			break
		}
		if time.Now().After(limit) {
			u.Fatalf("the session was not taken over: %s", res.err)
		}
	}
	u.do("", "task", "take", id, "--as", "ada", "--reason", "test").want(u.T, 1, "taken_already")
	u.do("", "task", "take", id, "--as", "ines", "--reason", "test").want(u.T, 1, "role_missing")
	u.do("", "task", "take", id, "--as", "mara", "--reason", "test", "--for", "2h").want(u.T, 2, "bad_duration")
	u.do("", "task", "show", id).want(u.T, 0, "taken over by mara until", "signs in")
	file := filepath.Join(u.TempDir(), "screen.png")
	u.do("", "task", "screen", id, "--as", "mara", "-f", file).want(u.T, 0, file)
	if b, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(b), "\x89PNG\r\n") {
		u.Errorf("the picture: %v", err)
	}
	u.do("", "task", "screen", id, "--as", "ada", "-f", file).want(u.T, 1, "not_in_hand")
	u.do("", "task", "act", id, `{"type":"mouse_move","x":10,"y":20}`, "--as", "mara").want(u.T, 0, "mouse_move: done")
	u.do("", "task", "act", id, `{"actions":[{"type":"cursor_position"},{"type":"screenshot"}]}`, "--as", "mara", "-o", "json").want(u.T, 0, `"x": 10`, `"image"`)
	u.do("", "task", "act", id, `{"type":"key","key":"nosuchkey"}`, "--as", "mara").want(u.T, 2, "unknown_key")
	u.do("", "task", "act", id, `click`, "--as", "mara").want(u.T, 2, "not a JSON object")
	u.do("", "task", "give-back", id, "--as", "mara", "--reason", "done").want(u.T, 0, "the agent has the session; mara had it since")
	u.do("", "task", "give-back", id, "--as", "mara").want(u.T, 1, "not_taken")
	u.do("", "task", "close", id, "--as", "dana").want(u.T, 0, "closed by dana")
	<-ended
	u.do("", "approvals", "--people").want(u.T, 0, "PERSON", "ines", "MEDIAN")
}

// evidence: an auditor looks at what the agent saw.
func (u *user) evidence() {
	var page struct {
		Records []struct {
			Seq      int
			Evidence []struct{ Type string }
		}
	}
	if err := json.Unmarshal([]byte(u.do("", "ledger", "list", "--limit", "1000", "-o", "json").out), &page); err != nil {
		u.Fatal(err)
	}
	for _, r := range page.Records {
		if len(r.Evidence) == 0 || r.Evidence[0].Type != "image/png" {
			continue
		}
		seq := strconv.Itoa(r.Seq)
		u.do("", "ledger", "show", seq, "--payload", "0", "--as", "lin").want(u.T, 0, "\x89PNG\r\n")
		u.do("", "ledger", "show", seq, "--payload", "0", "--as", "dana").want(u.T, 1, "role_missing")
		u.do("", "ledger", "show", seq, "--payload", "7", "--as", "lin").want(u.T, 1, "no_such_evidence")
		u.do("", "ledger", "list", "--type", "evidence.opened").want(u.T, 0, "person:lin")
		return
	}
	u.Error("no record has a screenshot")
}

// replay: what the sample agent did, decided again.
func (u *user) replay() {
	u.do("", "policy", "replay", "--as", "noor").want(u.T, 0, "decisions unchanged")
	file := u.file("policies/company.cedar")
	own, err := os.ReadFile(file)
	if err != nil {
		u.Fatal(err)
	}
	defer os.WriteFile(file, own, 0o600)
	write := func(text string) {
		if err := os.WriteFile(file, append(bytes.Clone(own), text...), 0o600); err != nil {
			u.Fatal(err)
		}
	}
	const frozen = `@id("company/frozen") @code("frozen") forbid (principal, action == Action::"tickets.ticket.comment", resource);`
	write(frozen)
	u.do("", "policy", "replay", "-f", u.r.Files, "--as", "noor").want(u.T, 1, "TIGHTENED:\n  tickets.ticket.comment\n    was  allow by grant, permitted (grant/reset-mfa/",
		"    now  deny by guardrail, frozen (company/frozen)\n    1: record ")
	u.do("", "policy", "replay", "-f", u.r.Files, "--as", "noor", "--agent", "helpdesk", "--since", "2999-01-01").want(u.T, 0, "0 of 0 decisions unchanged")
	u.do("", "policy", "replay", "-f", u.r.Files, "--as", "lin", "-o", "json").want(u.T, 1, `"change": "tightened"`)
	u.do("", "policy", "replay", "--as", "noor", "--task", "t-none").want(u.T, 2, "no_such_task")
	u.do("", "policy", "replay", "-f", u.r.Files, "--as", "dana").want(u.T, 1, "role_missing")
	write("permit (principal, action, resource);")
	u.do("", "policy", "replay", "-f", u.r.Files, "--as", "noor").want(u.T, 2, "company.cedar")
	u.do("", "ledger", "list", "--type", "policy.replayed").want(u.T, 0, "person:noor", "person:lin")
	u.do("", "apply", "-f", u.file("capability.yaml"), "--as", "noor").want(u.T, 0, "unchanged")
}

func (u *user) ledger() {
	u.do("", "ledger", "list").want(u.T, 0, "task.closed", "records of tenant brightwell")
	u.do("", "ledger", "list", "--from", "0", "--limit", "1").want(u.T, 0, "tenant.created", "1 of ")
	u.do("", "ledger", "list", "--type", "approval.granted").want(u.T, 0, "capability reset-mfa")
	u.do("", "ledger", "show", "0").want(u.T, 0, "type: tenant.created")
	u.do("", "ledger", "show", "999999").want(u.T, 1, "no record 999999")
	u.do("", "ledger", "verify").want(u.T, 0, "ok")
	u.do("", "ledger", "prove", "0").want(u.T, 0, "c2sp.org/tlog-proof@v1")
	u.do("", "ledger", "prove", "999999").want(u.T, 1, "no record")
	u.do("", "--tenant", "other", "ledger", "list").want(u.T, 1, "")
	file := filepath.Join(u.TempDir(), "bundle.sallyport")
	u.do("", "ledger", "export", "-f", file).want(u.T, 0, "is written")
	if b, err := os.ReadFile(file); err != nil || !bytes.Contains(b, []byte(`{"seal":`)) {
		u.Errorf("bundle: %d bytes, %v", len(b), err)
	}
	// The approvals and who gave them are in it, and it verifies offline.
	u.do("", "verify", file).want(u.T, 0, "is valid", "approvals     4")
	u.do("", "ledger", "export", "-f", "/no/such/folder/x").want(u.T, 2, "no such file")
	// Nothing was certified, and the decision says so, from a server and from what it left.
	u.do("", "readiness", "helpdesk").want(u.T, 1, "NOT READY", "agent helpdesk")
	u.do("", "readiness", "nobody").want(u.T, 1, "nobody")
	if _, err := os.Stat(filepath.Join(u.r.Data, "root.key")); err != nil {
		u.Error(err)
	}
}

// TestPolicy works without a server.
func TestPolicy(t *testing.T) {
	files := filepath.Join("..", "..", "examples", "helpdesk")
	run(t, "", "policy", "check", filepath.Join(files, "policies", "company.cedar")).want(t, 0, "ok")
	run(t, "", "policy", "check", "-f", files, filepath.Join(files, "policies", "company.cedar")).want(t, 0, "ok")
	slips := filepath.Join(t.TempDir(), "slips.cedar")
	if err := os.WriteFile(slips, []byte(`@id("a") forbid (principal, action, resource) when { context.params has user && context.params.user == "Jo" };
@id("b") forbid (principal, action, resource) when { context.params has text && context.params.text == "pay" };
`), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "", "policy", "check", "-f", files, slips).want(t, 0, `warning: `, `parameter "user" is never "Jo"`, `parameter "text" is compared exactly`)
	run(t, "", "policy", "test", "-f", files).want(t, 0, "cases as expected")
	bad := filepath.Join(t.TempDir(), "bad.cedar")
	if err := os.WriteFile(bad, []byte("permit(principal, action, resource);\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "", "policy", "check", bad).want(t, 2, bad+":1")
	cases := filepath.Join(t.TempDir(), "cases.yaml")
	if err := os.WriteFile(cases, []byte("cases:\n  - name: wrong\n    action: {surface: egress, operation: iam.read, effect: read, app: iam}\n    expect: {verdict: allow}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "", "policy", "test", cases).want(t, 1, "FAIL wrong", "0 of 1")
	run(t, "", "policy", "test", bad).want(t, 2, bad)
}

// An interrupted up ends by itself, with status 0, and leaves a folder that
// opens again.
func TestUp(t *testing.T) {
	dir, err := os.MkdirTemp("", "sp")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		var out, errw watched
		out.seen = func(s string) {
			if strings.Contains(s, "Ctrl-C") {
				cancel()
			}
		}
		code := cli.Run(ctx, []string{"up", "--data", dir, "--listen", "127.0.0.1:0"}, strings.NewReader(""), &out, &errw)
		cancel()
		if code != 0 {
			t.Fatalf("exit %d: %s%s", code, out.String(), errw.String())
		}
	}
	// State without its root key is not made anew.
	if err := os.Remove(filepath.Join(dir, "root.key")); err != nil {
		t.Fatal(err)
	}
	run(t, "", "up", "--data", dir, "--listen", "off").want(t, 1, "root.key")
}

// watched calls seen with all that was written so far.
type watched struct {
	bytes.Buffer
	seen func(string)
}

func (b *watched) Write(p []byte) (int, error) {
	n, err := b.Buffer.Write(p)
	if b.seen != nil {
		b.seen(b.String())
	}
	return n, err
}
