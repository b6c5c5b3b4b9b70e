package approval_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/sallyport-dev/sallyport/internal/approval"
)

// ssh-keygen signs the bytes that we print, for every key type that counts;
// and it accepts what Sign made.
func TestSSHKeygen(t *testing.T) {
	dir := t.TempDir()
	run := func(stdin []byte, args ...string) []byte {
		t.Helper()
		cmd := exec.Command("ssh-keygen", args...)
		cmd.Stdin = strings.NewReader(string(stdin))
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("ssh-keygen %v: %v", args, err)
		}
		return out
	}
	for _, kind := range []string{"ed25519", "ecdsa"} {
		f := newFixture(t)
		path := filepath.Join(dir, kind)
		run(nil, "-q", "-t", kind, "-N", "", "-C", "jo", "-f", path)
		pub, err := os.ReadFile(path + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		f.put(approval.Person{Name: "jo", Roles: []string{"approver"}, Keys: []string{string(pub)}})
		s := f.request(draft())
		msg, err := s.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, kind+".statement")
		if err := os.WriteFile(file, msg, 0o600); err != nil {
			t.Fatal(err)
		}
		run(nil, "-Y", "sign", "-n", approval.Namespace, "-f", path, file)
		sig, err := os.ReadFile(file + ".sig")
		if err != nil {
			t.Fatal(err)
		}
		if a, err := f.eng.Grant(t.Context(), s.Nonce, "jo", sig, nil); err != nil || a.State != approval.Granted {
			t.Errorf("%s: signature by ssh-keygen: got %s, %v", kind, a.State, err)
		}

		private, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := ssh.ParsePrivateKey(private)
		if err != nil {
			t.Fatal(err)
		}
		ours := filepath.Join(dir, kind+".ours")
		if err := os.WriteFile(ours, f.sign(s, signer), 0o600); err != nil {
			t.Fatal(err)
		}
		allowed := filepath.Join(dir, kind+".allowed")
		if err := os.WriteFile(allowed, []byte("jo "+string(pub)), 0o600); err != nil {
			t.Fatal(err)
		}
		run(msg, "-Y", "verify", "-n", approval.Namespace, "-f", allowed, "-I", "jo", "-s", ours)

		// The same key and bytes, for another purpose.
		os.Remove(file + ".sig")
		run(nil, "-Y", "sign", "-n", "file", "-f", path, file)
		other, err := os.ReadFile(file + ".sig")
		if err != nil {
			t.Fatal(err)
		}
		s2 := f.request(draft())
		_, err = f.eng.Grant(t.Context(), s2.Nonce, "jo", other, nil)
		f.want(err, "signature_invalid")
	}
}

// A key that only a running ssh-agent holds.
func TestSSHAgent(t *testing.T) {
	f := newFixture(t)
	dir, err := os.MkdirTemp("", "spag")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	sock := filepath.Join(dir, "s")
	cmd := exec.Command("ssh-agent", "-D", "-a", sock)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	var conn net.Conn
	for limit := time.Now().Add(20 * time.Second); ; {
		if conn, err = net.Dial("unix", sock); err == nil {
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("ssh-agent does not answer: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	defer conn.Close()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := agent.NewClient(conn)
	if err := c.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		t.Fatal(err)
	}
	keys, err := c.Signers()
	if err != nil || len(keys) != 1 {
		t.Fatalf("keys of the agent: got %d, %v", len(keys), err)
	}
	f.person("jo", keys[0])
	if a, err := f.grant(f.request(draft()), "jo", keys[0]); err != nil || a.State != approval.Granted {
		t.Errorf("got %s, %v", a.State, err)
	}
}

// Types of keys that do not count are refused before anything is signed.
func TestSignRefusesWeakKeys(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := approval.Sign(shown(), k); err == nil {
		t.Error("RSA: signed, want an error")
	}
}

func TestSecurityKeyVerifiedUser(t *testing.T) {
	f := newFixture(t)
	k := newSecurityKey(t, 5)
	f.person("jo", k)
	d := draft()
	d.Statement.UserVerification = true
	if a, err := f.grant(f.request(d), "jo", k); err != nil || a.State != approval.Granted {
		t.Fatalf("got %s, %v", a.State, err)
	}
	if g := f.entries("hold.approved")[0]; g["userVerified"] != true || g["counter"] != 42.0 {
		t.Errorf("record: got %v", g)
	}
}
