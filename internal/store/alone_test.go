package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport-dev/sallyport/internal/store"
	"github.com/sallyport-dev/sallyport/internal/store/pgtest"
)

// Two servers on one database would not hear of each other's kills: the second
// is refused while the first lives, and the first hears when it loses the lock.
func TestAlone(t *testing.T) {
	url := pgtest.URL(t)
	open := func() *store.Postgres {
		s, err := store.OpenPostgres(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first, second := open(), open()
	defer second.Close()
	lost, err := first.Alone(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Alone(t.Context()); !errors.Is(err, store.ErrInUse) {
		t.Fatalf("second server: got %v, want ErrInUse", err)
	}
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	if _, err := c.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-lost:
	case <-time.After(20 * time.Second):
		t.Fatal("a server whose lock was cut was not told")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Alone(t.Context()); err != nil {
		t.Errorf("after the first is gone: %v", err)
	}
}
