package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// sshAgent starts OpenSSH's agent and returns its socket and how to end it.
func sshAgent(t *testing.T, env ...string) (string, func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	sock := filepath.Join(dir, "s")
	cmd := exec.Command("ssh-agent", "-D", "-a", sock)
	cmd.Env = append(os.Environ(), env...)
	if err := cmd.Start(); err != nil {
		t.Fatalf("OpenSSH's ssh-agent is needed (scripts/deps.sh): %v", err)
	}
	end := func() { cmd.Process.Kill(); cmd.Wait() }
	t.Cleanup(end)
	await(t, "the agent's socket", func() bool {
		c, err := net.Dial("unix", sock)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return sock, end
}

// addKeys gives an agent n keys, and one of another kind before them.
func addKeys(t *testing.T, sock string, n int) {
	t.Helper()
	c, err := net.Dial("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a := agent.NewClient(c)
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	all := []any{other}
	for range n {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, k)
	}
	for _, k := range all {
		if err := a.Add(agent.AddedKey{PrivateKey: k}); err != nil {
			t.Fatal(err)
		}
	}
}

// judge lets go-spiffe verify a fresh SVID of each kind against the bundle.
func judge(t *testing.T, i *identity.Issuer) {
	t.Helper()
	b, err := spiffebundle.Parse(spiffeid.RequireTrustDomainFromString("acme.example"), get(t, i.BundleEndpoint()))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := i.IssueJWT(t.Context(), aWorkload(), aud)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jwtsvid.ParseAndValidate(tok.Reveal(), b, []string{aud}); err != nil {
		t.Errorf("jwt: %v", err)
	}
	c, err := i.IssueX509(t.Context(), aWorkload())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := x509svid.ParseAndVerify([][]byte{c.Raw}, b); err != nil {
		t.Errorf("x509: %v", err)
	}
}

// The tenant's keys are in a PKCS #11 token, which OpenSSH's agent holds: no
// private key was ever in this process or is in the store. SoftHSM stands for
// the hardware.
func TestKeysInAToken(t *testing.T) {
	module := ""
	for _, p := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/lib/pkcs11/libsofthsm2.so"} {
		if _, err := os.Stat(p); err == nil {
			module = p
		}
	}
	if module == "" {
		t.Fatal("SoftHSM is needed (scripts/deps.sh)")
	}
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	if err := os.Mkdir(filepath.Join(dir, "tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	conf := "SOFTHSM2_CONF=" + write("softhsm2.conf", "directories.tokendir = "+filepath.Join(dir, "tokens")+"\nobjectstore.backend = file\n", 0o600)
	run := func(env []string, name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env = append(append(os.Environ(), conf), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	run(nil, "softhsm2-util", "--init-token", "--free", "--label", "acme", "--so-pin", "87654321", "--pin", "1234")
	var keys []*ecdsa.PrivateKey
	for n := range 2 {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		file := write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), 0o600)
		run(nil, "softhsm2-util", "--import", file, "--token", "acme", "--label", fmt.Sprint("k", n), "--id", fmt.Sprint("0", n), "--pin", "1234")
		os.Remove(file)
	}
	sock, end := sshAgent(t, conf)
	run([]string{"SSH_AUTH_SOCK=" + sock, "SSH_ASKPASS_REQUIRE=force", "SSH_ASKPASS=" + write("askpass", "#!/bin/sh\necho 1234\n", 0o700)}, "ssh-add", "-s", module)

	f := newFixture(t, identity.Config{Signer: identity.NewSigner(sock)})
	if !f.issuer.CACert().PublicKey.(*ecdsa.PublicKey).Equal(keys[0].Public()) && !f.issuer.CACert().PublicKey.(*ecdsa.PublicKey).Equal(keys[1].Public()) {
		t.Error("the CA's key is not one of the token's")
	}
	judge(t, f.issuer)
	// The token goes away: nothing is issued, what was issued verifies.
	tok, err := f.issuer.IssueJWT(t.Context(), aWorkload(), aud)
	if err != nil {
		t.Fatal(err)
	}
	end()
	if _, err := f.issuer.IssueJWT(t.Context(), aWorkload(), aud); !errors.Is(err, identity.ErrUnavailable) {
		t.Errorf("without the token: got %v, want ErrUnavailable", err)
	}
	if _, err := f.issuer.VerifyJWT(t.Context(), tok.Reveal(), aud); err != nil {
		t.Errorf("what was issued: got %v", err)
	}
}

// Keys move from the store into an agent at a rotation; each rotation takes two
// keys that were never used, and without two it is refused and the old go on.
func TestSignerRotation(t *testing.T) {
	sock, _ := sshAgent(t)
	now := time.Now()
	clock := func() time.Time { return now }
	f := newFixture(t, identity.Config{Now: clock})
	f.issuer = f.open(t, identity.Config{Now: clock, Signer: identity.NewSigner(sock)})
	if err := f.issuer.Rotate(t.Context()); err == nil || !strings.Contains(err.Error(), "no two P-256 keys") {
		t.Errorf("empty agent: got %v", err)
	}
	judge(t, f.issuer) // the sealed keys go on
	addKeys(t, sock, 3)
	if err := f.issuer.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * time.Hour)
	f.issuer.KID() // retires the sealed ones
	judgeSubject(t, f.issuer, now)
	if err := f.issuer.Rotate(t.Context()); err == nil || !strings.Contains(err.Error(), "no two P-256 keys") {
		t.Errorf("one key left: got %v", err)
	}
	if _, err := identity.Open(t.Context(), f.log, f.seal, f.live, identity.Config{TrustDomain: "acme.example", IssuerURL: issuerURL, Now: clock}); err == nil || !strings.Contains(err.Error(), "signer") {
		t.Errorf("started without the signer: got %v", err)
	}
}

func judgeSubject(t *testing.T, i *identity.Issuer, now time.Time) {
	t.Helper()
	c, err := i.IssueX509(t.Context(), aWorkload())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.VerifyX509(t.Context(), c); err != nil {
		t.Errorf("certificate by the agent's key at %v: %v", now, err)
	}
}

// liar is an agent that answers with signatures over something else.
type liar struct {
	agent.Agent
	lies bool
}

func (l *liar) Sign(key ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	if l.lies {
		data = append(data[:len(data):len(data)], 'x')
	}
	return l.Agent.Sign(key, data)
}

// A signer that signs something else than it was given makes no SVID.
func TestSignerThatLies(t *testing.T) {
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a := &liar{Agent: agent.NewKeyring()}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go agent.ServeAgent(a, c)
		}
	}()
	addKeys(t, l.Addr().String(), 2)
	f := newFixture(t, identity.Config{Signer: identity.NewSigner(l.Addr().String())})
	judge(t, f.issuer)
	records := len(f.entries(t, "identity.issued"))
	a.lies = true
	if _, err := f.issuer.IssueJWT(t.Context(), aWorkload(), aud); !errors.Is(err, identity.ErrUnavailable) {
		t.Errorf("jwt: got %v, want ErrUnavailable", err)
	}
	if _, err := f.issuer.IssueX509(t.Context(), aWorkload()); !errors.Is(err, identity.ErrUnavailable) {
		t.Errorf("x509: got %v, want ErrUnavailable", err)
	}
	if n := len(f.entries(t, "identity.issued")); n != records {
		t.Errorf("issued records: got %d, want %d", n, records)
	}
}

// An edited store cannot put a stranger's public key in the place of one that a
// signer holds.
func TestStoreThiefWithSigner(t *testing.T) {
	sock, _ := sshAgent(t)
	addKeys(t, sock, 2)
	storeThief(t, identity.Config{Signer: identity.NewSigner(sock)})
}
