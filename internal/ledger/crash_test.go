package ledger_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/internal/store"
)

const childEnv = "SALLYPORT_TEST_APPEND_IN"

// child appends from several goroutines for ever and writes the position of
// each acknowledged record to standard output, until it is killed.
func child(dir string) {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx := context.Background()
	s, err := store.OpenSQLite(dir)
	if err != nil {
		fail(err)
	}
	root, err := seal.NewRoot(make([]byte, seal.KeySize))
	if err != nil {
		fail(err)
	}
	l, err := ledger.Open(ctx, s, root)
	if err != nil {
		fail(err)
	}
	log, err := l.Tenant(ctx, tenant)
	if err != nil {
		if log, err = l.Create(ctx, tenant, "acme.example/log"); err != nil {
			fail(err)
		}
	}
	var mu sync.Mutex
	for w := range 8 {
		go func() {
			for i := 0; ; i++ {
				d := record.Draft{Type: "test.killed", Task: fmt.Sprint(w), Body: map[string]int{"i": i}, Change: bump("sum")}
				if i%5 == 0 {
					d.Blobs = []record.Blob{{Name: "b", Type: "text/plain", Data: make([]byte, 2000)}}
				}
				e, err := log.Append(ctx, d)
				if err != nil {
					fail(err)
				}
				mu.Lock()
				fmt.Println(e.Seq)
				mu.Unlock()
			}
		}()
	}
	select {}
}

// TestKillLosesNothingAcknowledged kills a process that appends, at any moment,
// and looks for every record it was told is kept.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	if testing.Short() {
		t.Skip("starts 20 processes")
	}
	dir := t.TempDir()
	acked := int64(-1)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var kept []byte
	for round := range 20 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewScanner(out)
		// The clock starts at the first answer, so that each round gets some.
		for first := true; in.Scan(); first = false {
			var seq int64
			if _, err := fmt.Sscan(in.Text(), &seq); err == nil {
				acked = max(acked, seq)
			}
			if first {
				time.AfterFunc(time.Duration(rnd.IntN(60_000))*time.Microsecond, func() { cmd.Process.Kill() })
			}
		}
		cmd.Wait()

		s, err := store.OpenSQLite(dir)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		root, err := seal.NewRoot(make([]byte, seal.KeySize))
		if err != nil {
			t.Fatal(err)
		}
		l, err := ledger.Open(t.Context(), s, root)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		log, err := l.Tenant(t.Context(), tenant)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		h, err := log.Head(t.Context())
		if err != nil || h.Size <= acked {
			t.Fatalf("round %d: the log has %d records, %v; record %d was acknowledged", round, h.Size, err, acked)
		}
		var c counter
		if err := log.View(t.Context(), func(tx record.Tx) error { return tx.Get("counter", "sum", &c) }); err != nil || c.N != h.Size {
			t.Fatalf("round %d: %d records, state counts %d, %v", round, h.Size, c.N, err)
		}
		if kept != nil {
			rep, err := log.Verify(t.Context(), kept)
			if err != nil || !rep.OK() {
				t.Fatalf("round %d: %v %v", round, rep.Problems, err)
			}
		}
		ledgertest.Check(t, log)
		if kept, err = log.CheckpointNow(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "ledger.poisoned")); err == nil {
		t.Error("a kill poisoned the store")
	}
	t.Logf("%d records acknowledged", acked+1)
}
