// Package kms runs a Kubernetes KMS v2 plugin over a PKCS #11 token, for tests.
// SoftHSM stands for the hardware; the plugin is a program of its own.
package kms

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

const pin = "1234"

// Token is a PKCS #11 token, and the plugin before it while it is served.
type Token struct {
	Socket string

	t       testing.TB
	dir     string
	conf    string
	module  string
	program string
	cmd     *exec.Cmd
}

// build builds the plugin, which is a module of its own and needs a C compiler.
func build(t testing.TB, program string) {
	t.Helper()
	src, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/sallyport-dev/sallyport/test/kms").Output()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", program, ".")
	cmd.Dir = filepath.Join(string(bytes.TrimSpace(src)), "plugin")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the plugin, which needs a C compiler (scripts/deps.sh): %v %s", err, out)
	}
}

// NewToken makes an empty token.
func NewToken(t testing.TB) *Token {
	t.Helper()
	if testing.Short() {
		t.Skip("builds a plugin and runs it")
	}
	k := &Token{t: t}
	for _, p := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/lib/pkcs11/libsofthsm2.so"} {
		if _, err := os.Stat(p); err == nil {
			k.module = p
		}
	}
	if k.module == "" {
		t.Fatal("SoftHSM is needed (scripts/deps.sh)")
	}
	var err error
	if k.dir, err = os.MkdirTemp("", "kms"); err != nil { // short: a socket's path has 107 bytes
		t.Fatal(err)
	}
	k.Socket, k.program = filepath.Join(k.dir, "s"), filepath.Join(k.dir, "plugin")
	t.Cleanup(func() { k.Stop(); os.RemoveAll(k.dir) })
	build(t, k.program)
	tokens, conf := filepath.Join(k.dir, "tokens"), filepath.Join(k.dir, "conf")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, []byte("directories.tokendir = "+tokens+"\nobjectstore.backend = file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k.conf = "SOFTHSM2_CONF=" + conf
	cmd := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "kms", "--so-pin", "87654321", "--pin", pin)
	cmd.Env = append(os.Environ(), k.conf)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	return k
}

// Endpoint is how the plugin is named.
func (k *Token) Endpoint() string { return "unix://" + k.Socket }

// Serve starts the plugin, with the key of that label as the one that encrypts.
func (k *Token) Serve(key string, more ...string) {
	k.t.Helper()
	k.Stop()
	os.Remove(k.Socket)
	k.cmd = exec.Command(k.program, append([]string{"-module", k.module, "-pin", pin, "-key", key, "-socket", k.Socket}, more...)...)
	k.cmd.Env = append(os.Environ(), k.conf)
	var said bytes.Buffer
	k.cmd.Stderr = &said
	if err := k.cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("unix", k.Socket)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			k.t.Fatalf("the plugin does not serve: %s", said.String())
		}
	}
}

// Stop ends the plugin; the token stays.
func (k *Token) Stop() {
	if k.cmd != nil {
		k.cmd.Process.Kill()
		k.cmd.Wait()
		k.cmd = nil
	}
}
