package leasetest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// peers is the folder of the peers that are Node.js programs.
func peers() string {
	_, here, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(here), "../../../test/identity")
}

// install runs npm ci where the modules are not those of the lock file. Tests of
// two packages may get here at once.
func install(dir string) error {
	guard, err := os.OpenFile(filepath.Join(dir, "package-lock.json"), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer guard.Close() // and lets go of the lock
	if err := syscall.Flock(int(guard.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	lock, err := os.ReadFile(guard.Name())
	if err != nil {
		return err
	}
	mark := filepath.Join(dir, "node_modules", ".sallyport-lock")
	if have, err := os.ReadFile(mark); err == nil && string(have) == string(lock) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=optional")
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	return os.WriteFile(mark, lock, 0o644)
}

// StartNode runs a peer of test/identity until the test ends, and returns the line
// that it prints when it is ready. It trusts ca, PEM, beside the machine's roots.
func StartNode(t testing.TB, ca []byte, args ...string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("starts node")
	}
	if err := install(peers()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", args...)
	cmd.Dir = peers()
	cmd.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+file)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line := make(chan string, 1)
	go func() { s, _ := bufio.NewReader(out).ReadString('\n'); line <- strings.TrimSpace(s) }()
	select {
	case s := <-line:
		if s == "" {
			t.Fatalf("node %v ended", args)
		}
		return s
	case <-time.After(30 * time.Second):
		t.Fatalf("node %v did not start in 30 s", args)
	}
	return ""
}
