package store

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/ledger"
)

// TestLogIsCopied: the write-ahead log gets into the database without a stop,
// and is written over then instead of growing.
func TestLogIsCopied(t *testing.T) {
	const limit, page = 50, 4096
	dir := t.TempDir()
	s, err := openSQLite(dir, writerParams, limit)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	n := 0
	write := func() {
		t.Helper()
		err := s.Update(t.Context(), func(w ledger.WriteTx) error {
			n++
			return w.PutObject("a", "b", fmt.Sprint(n), make([]byte, 5*page))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	size := func(name string) int64 {
		t.Helper()
		i, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return i.Size()
	}
	for range 4 * limit {
		write()
	}
	for end := time.Now().Add(30 * time.Second); size(DatabaseName) < 15*limit*page; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the database has %d bytes", size(DatabaseName))
		}
	}
	// A log that is never started anew has all that is in the database, and more.
	for end := time.Now().Add(30 * time.Second); size(DatabaseName) <= size(DatabaseName+"-wal"); write() {
		if time.Now().After(end) {
			t.Fatalf("the database has %d bytes, the log %d", size(DatabaseName), size(DatabaseName+"-wal"))
		}
	}
}
