package vault_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
)

// TestOfficialClient: OpenBao's own client reads every answer of the contract's
// server that the source reads, so that the contract is not our own reading alone.
// It is a module of its own, test/vault, with dependencies of its own.
func TestOfficialClient(t *testing.T) {
	if testing.Short() {
		t.Skip("builds OpenBao's client")
	}
	r := newRig(t)
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "client"), ".")
	build.Dir, build.Env = "../../../test/vault", append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-buildvcs=false")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, r.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	run := exec.CommandContext(t.Context(), filepath.Join(dir, "client"))
	run.Env = []string{"VAULT=" + r.URL, "CA=" + ca, "TASK=" + r.issuer.Token("spiffe://acme.example/agent/desk/task/t", leasetest.Audience, leasetest.Prefix+"l-1.x"),
		"BOUNDARY=" + r.issuer.Token("spiffe://acme.example/boundary", leasetest.Audience, "x"), "HOME=" + dir}
	if out, err := run.CombinedOutput(); err != nil || string(out) != "agreed\n" {
		t.Errorf("%v\n%s", err, out)
	}
}
