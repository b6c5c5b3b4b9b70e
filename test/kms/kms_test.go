package kms

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/cli"
	"github.com/sallyport-dev/sallyport/internal/contain"
	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// TestMain is also the command line, under its own name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "sallyport" {
		contain.Main()
		os.Exit(cli.Main())
	}
	rig.Main(m, nil)
}

var block = regexp.MustCompile("(?ms)^<!-- block: (kek-[a-z-]+) -->\n```[a-z]+\n(.*?)^```")

// page are the named blocks of docs/operate.md.
func page(t *testing.T, replace *strings.Replacer) map[string]string {
	t.Helper()
	b, err := os.ReadFile("../../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, m := range block.FindAllStringSubmatch(string(b), -1) {
		out[m[1]] = replace.Replace(m[2])
	}
	return out
}

// shell is where the page's commands run.
type shell struct {
	t   *testing.T
	dir string
	env []string
}

func newShell(t *testing.T) *shell {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &shell{t: t, dir: t.TempDir()}
	if err := os.Symlink(self, filepath.Join(s.dir, "sallyport")); err != nil {
		t.Fatal(err)
	}
	s.env = append(os.Environ(), "PATH="+s.dir+":"+os.Getenv("PATH"))
	return s
}

func (s *shell) run(line string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), "sh", "-ec", line)
	cmd.Dir, cmd.Env = s.dir, s.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v %s", line, err, out)
	}
	return string(out)
}

// up runs a server until f returns.
func (s *shell) up(line string, f func(pid int)) {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), "sh", "-ec", "exec "+line)
	cmd.Dir, cmd.Env = s.dir, s.env
	out := &rig.Output{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	rig.Await(s.t, "a server by "+line, func() bool {
		select {
		case err := <-done:
			s.t.Fatalf("%s: %v %s", line, err, out)
		default:
		}
		return strings.Contains(out.String(), "sallyport is up")
	})
	f(cmd.Process.Pid)
	cmd.Process.Signal(syscall.SIGTERM)
	if err := <-done; err != nil {
		s.t.Errorf("%s: %v %s", line, err, out)
	}
}

// What docs/operate.md says of key-encryption keys is what works: a server with a
// key file moves to a KMS by one command; the KMS goes, which refuses new tasks after
// a while, and comes back with another key, which the server takes; without it no
// server starts; and a passphrase takes its place.
func TestKeyEncryptionPage(t *testing.T) {
	token := NewToken(t)
	var kek string
	r := rig.New(t, rig.Options{KEK: func() (seal.KEK, time.Duration, error) {
		if kek == "" {
			return nil, 0, nil
		}
		k, err := server.ParseKEK(kek, nil)
		return k, 2 * time.Second, err
	}})
	blocks := page(t, strings.NewReplacer("/var/lib/sallyport", r.Dir, "unix:///run/kms/socket.sock", token.Endpoint(), "sallyport up", "sallyport up --listen off"+storeFlag(r)))
	r.Ready(t)
	if err := r.CloseServer(); err != nil {
		t.Fatal(err)
	}
	s := newShell(t)
	token.Serve("key-1")
	lines := strings.Split(strings.TrimSpace(blocks["kek-kms"]), "\n")
	if len(lines) != 2 {
		t.Fatalf("got block %q, want two lines", lines)
	}
	if got := s.run(lines[0]); !strings.Contains(got, "done: the keys are wrapped by kms key key-1") {
		t.Errorf("got %s", got)
	}
	if _, err := os.Stat(filepath.Join(r.Dir, seal.FileName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the key file is still there: %v", err)
	}
	if err := r.Open(); err == nil || !strings.Contains(err.Error(), "--kek") {
		t.Fatalf("without --kek: got %v", err)
	}
	kek = token.Endpoint()
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	token.Stop()
	rig.Await(t, "a task that is refused", func() bool {
		_, err := r.Server.OpenTask(t.Context(), "", rig.As("dana"), rig.Intent(action.Sandbox, "jo", "4711"))
		p, ok := errors.AsType[*server.Problem](err)
		return ok && p.Code == "keys_closed"
	})
	if err := r.Server.PutSecret(t.Context(), "", rig.As("sven"), "other", []byte("a new secret")); !errors.Is(err, seal.ErrClosed) {
		t.Errorf("a secret was sealed: %v", err)
	}
	if err := r.Server.Ready(t.Context()); !errors.Is(err, seal.ErrClosed) {
		t.Errorf("ready: got %v", err)
	}
	if _, err := r.Server.Revoke(t.Context(), "", rig.As("ada"), "task/"+x.ID, "kills work without the KMS"); err != nil {
		t.Error(err)
	}
	token.Serve("key-2")
	rig.Await(t, "the wrapping by the new key, on record", func() bool {
		for _, e := range r.Records(t, 0) {
			if e.Type == "keys.rewrapped" && bytes.Contains(e.Body, []byte(`"key-2"`)) {
				return true
			}
		}
		return false
	})
	if err := r.Server.PutSecret(t.Context(), "", rig.As("sven"), "other", []byte("a new secret")); err != nil {
		t.Error(err)
	}
	if err := r.CloseServer(); err != nil {
		t.Fatal(err)
	}
	token.Stop()
	if err := r.Open(); err == nil || !strings.Contains(err.Error(), token.Socket) || r.Server != nil {
		t.Fatalf("without the KMS: got %v, want which plugin does not answer", err)
	}
	swapped(t, r, token)
	s.up(lines[1], func(int) {
		if got := s.run("sallyport secret keys --data " + r.Dir); !strings.Contains(got, "wrapped by  kms key key-2") {
			t.Errorf("got %s", got)
		}
	})
	if got := s.run("sallyport ledger verify --data " + r.Dir + " --kek " + kek + storeFlag(r)); !strings.Contains(got, "key") {
		t.Errorf("got %s", got)
	}
	// To a passphrase; systemd gives it to the server.
	const secret = "a long passphrase of the page"
	for _, name := range []string{"passphrase", "sallyport-passphrase"} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.run(blocks["kek-passphrase"]); !strings.Contains(got, "wrapped by passphrase") {
		t.Errorf("got %s", got)
	}
	s.env = append(s.env, "CREDENTIALS_DIRECTORY="+s.dir)
	s.up("sallyport up --listen off --data "+r.Dir+" --kek passphrase"+storeFlag(r), func(pid int) {
		if got := s.run("sallyport secret keys --data " + r.Dir); !strings.Contains(got, "wrapped by  passphrase") {
			t.Errorf("got %s", got)
		}
		for _, file := range []string{"cmdline", "environ"} {
			b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), file))
			if err != nil || bytes.Contains(b, []byte(secret)) {
				t.Errorf("the passphrase is in %s: %v", file, err)
			}
		}
	})
}

// swapped puts a sealed secret into the place of another, in the store.
func swapped(t *testing.T, r *rig.Rig, token *Token) {
	t.Helper()
	token.Serve("key-2")
	k, err := server.ParseKEK(token.Endpoint(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	root, _, err := server.OpenKeys(t.Context(), r.Dir, k)
	if err != nil {
		t.Fatal(err)
	}
	s, err := root.Sealer("brightwell")
	if err != nil {
		t.Fatal(err)
	}
	st, err := r.OpenStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	sealed := map[string][]byte{}
	if err := st.View(t.Context(), func(tx ledger.ReadTx) error {
		return tx.Objects("brightwell", "secret", func(id string, b []byte) error {
			var x server.Secret
			err := json.Unmarshal(b, &x)
			sealed[id] = x.Sealed
			return err
		})
	}); err != nil {
		t.Fatal(err)
	}
	for id, b := range sealed {
		if _, err := s.Open("secret/"+id, b); err != nil {
			t.Errorf("%s: %v", id, err)
		}
		for other := range sealed {
			if _, err := s.Open("secret/"+other, b); other != id && !errors.Is(err, seal.ErrOpen) {
				t.Errorf("%s in the place of %s: got %v", id, other, err)
			}
		}
	}
	if len(sealed) < 3 {
		t.Errorf("got %d secrets", len(sealed))
	}
}

func storeFlag(r *rig.Rig) string {
	if r.Store == "" {
		return ""
	}
	return " --store '" + r.Store + "'"
}
