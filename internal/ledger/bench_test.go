package ledger_test

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
	"github.com/sallyport-dev/sallyport/internal/record"
)

var kilobyte = pad(800)

func pad(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'a'
	}
	return string(b)
}

// BenchmarkBareFsync is the limit: 1 KiB appended to a file and synced.
func BenchmarkBareFsync(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "f"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 1024)
	for b.Loop() {
		if _, err := f.Write(buf); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
}

func draft() record.Draft {
	return record.Draft{Type: "action.decided", Task: "t1", Agent: "helpdesk", Actor: "agent:helpdesk", Body: map[string]string{"x": kilobyte}}
}

// BenchmarkAppendOne is one caller that waits for each record of 1 KiB.
func BenchmarkAppendOne(b *testing.B) {
	log := ledgertest.New(b)
	for b.Loop() {
		if _, err := log.Append(b.Context(), draft()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAppend64 is 64 callers at once; the time is per record.
func BenchmarkAppend64(b *testing.B) {
	log := ledgertest.New(b)
	left := atomic.Int64{}
	left.Store(int64(b.N))
	done := make(chan error, 64)
	b.ResetTimer()
	for range 64 {
		go func() {
			for left.Add(-1) >= 0 {
				if _, err := log.Append(b.Context(), draft()); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 64 {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
}
