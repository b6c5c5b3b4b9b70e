package leasetest

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/test/peer"
)

// peers is the folder of the peers that are Node.js programs.
func peers() string {
	_, here, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(here), "../../../test/identity")
}

// StartNode runs a peer of test/identity until the test ends, and returns the line
// that it prints when it is ready. It trusts ca, PEM, beside the machine's roots.
func StartNode(t testing.TB, ca []byte, args ...string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("starts node")
	}
	if err := peer.Modules(peers()); err != nil {
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
