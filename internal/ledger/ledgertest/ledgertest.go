// Package ledgertest gives tests a real ledger in a folder of their own, and
// checks that it is whole.
package ledgertest

import (
	"bytes"
	"context"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/internal/store"
	"github.com/sallyport-dev/sallyport/internal/store/pgtest"
)

// Tenant is the name of the log that New makes.
const Tenant = "acme"

// New returns an empty log on the store that pgtest.StoreEnv chooses. It is checked and closed at the end of
// the test.
func New(t testing.TB) record.Log {
	t.Helper()
	l, _ := NewLedger(t)
	log, err := l.Create(t.Context(), Tenant, Tenant+".example/log")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Check(t, log) })
	return log
}

// NewLedger returns a ledger without tenants, and its root key.
func NewLedger(t testing.TB) (*ledger.Ledger, *seal.Root) {
	t.Helper()
	root := Root(t)
	l, err := ledger.Open(t.Context(), open(t), root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, root
}

// open opens an empty store of the chosen kind.
func open(t testing.TB) ledger.Store {
	t.Helper()
	url, err := pgtest.Chosen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if url != "" {
		s, err := store.OpenPostgres(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	s, err := store.OpenSQLite(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// Root returns a root key that is the same in every test.
func Root(t testing.TB) *seal.Root {
	t.Helper()
	root, err := seal.NewRoot(bytes.Repeat([]byte{7}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// Check verifies every record, hash, checkpoint and payload of log from bytes,
// and fails the test with what it found.
func Check(t testing.TB, log record.Log) {
	t.Helper()
	g, ok := log.(*ledger.Log)
	if !ok {
		return
	}
	rep, err := g.Verify(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	for _, p := range rep.Problems {
		t.Errorf("verify: %v", p)
	}
}
