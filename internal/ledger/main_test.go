package ledger_test

import (
	"os"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
	"github.com/sallyport-dev/sallyport/internal/store"
	"github.com/sallyport-dev/sallyport/internal/store/pgtest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		child(dir)
		return
	}
	code := m.Run()
	pgtest.Stop()
	os.Exit(code)
}

const tenant = ledgertest.Tenant

// both runs a test on each kind of store, with a ledger that has one tenant.
func both(t *testing.T, f func(t *testing.T, l *ledger.Ledger, log *ledger.Log)) {
	t.Run("sqlite", func(t *testing.T) {
		s, err := store.OpenSQLite(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		with(t, s, f)
	})
	t.Run("postgres", func(t *testing.T) {
		s, err := store.OpenPostgres(t.Context(), pgtest.URL(t))
		if err != nil {
			t.Fatal(err)
		}
		with(t, s, f)
	})
}

func with(t *testing.T, s ledger.Store, f func(t *testing.T, l *ledger.Ledger, log *ledger.Log)) {
	t.Cleanup(func() { s.Close() })
	l, err := ledger.Open(t.Context(), s, ledgertest.Root(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	log, err := l.Create(t.Context(), tenant, tenant+".example/log")
	if err != nil {
		t.Fatal(err)
	}
	f(t, l, log)
	ledgertest.Check(t, log)
}
