package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/estate/agent"
	"github.com/sallyport-dev/sallyport/internal/estate/provider"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
)

// launched attests everybody as the workload of task t1, or nobody.
type launched struct {
	tenant string
	nobody atomic.Bool
}

func (l *launched) Attest(context.Context, identity.Peer) (identity.Workload, error) {
	if l.nobody.Load() {
		return identity.Workload{}, errors.New("not launched here")
	}
	return identity.Workload{Tenant: l.tenant, Agent: "helpdesk", Task: "t1", Selectors: []string{"test"}}, nil
}

type live struct{}

func (live) Live(context.Context, string, string) ([]string, error) { return nil, nil }

// The harness shows who it is, cannot be who it is not, and does not start
// without the identity it was promised.
func TestIdentity(t *testing.T) {
	w := start(t, provider.Honest, allowAll)
	log := ledgertest.New(t)
	seal, err := ledgertest.Root(t).Sealer(log.Tenant())
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := identity.Open(t.Context(), log, seal, live{}, identity.Config{TrustDomain: "brightwell.example", IssuerURL: "https://sallyport.example/t/brightwell"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(issuer.Close)
	sock := filepath.Join(t.TempDir(), "w.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan struct{})
	who := &launched{tenant: log.Tenant()}
	go func() { defer close(served); issuer.ServeWorkload(ctx, l, who) }()
	t.Cleanup(func() { cancel(); <-served })

	w.env["SPIFFE_ENDPOINT_SOCKET"] = "unix://" + sock
	other := "spiffe://brightwell.example/agent/helpdesk/task/t2"
	if err := w.run(agent.Options{Attacks: []string{"other-identity"}, Targets: agent.Targets{OtherIdentity: other}}); err != nil {
		t.Fatal(err)
	}
	out := w.out.String()
	if strings.Count(out, "identity spiffe://brightwell.example/") != 2 || strings.Contains(out, "eyJ") {
		t.Errorf("transcript:\n%s", out)
	}
	var a agent.Attempt
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &a); err != nil || !strings.HasPrefix(a.Result, "blocked") {
		t.Errorf("got %+v %v", a, err)
	}

	who.nobody.Store(true)
	limited, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	err = agent.Run(limited, agent.Options{Goal: goal, Out: &w.out, Getenv: func(k string) string { return w.env[k] }})
	if err == nil || w.provider.Calls() != 0 {
		t.Errorf("ran without an identity: %v, %d calls", err, w.provider.Calls())
	}
}
