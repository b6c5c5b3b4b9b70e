package store

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport-dev/sallyport/internal/ledger"
)

// BenchmarkUpdate commits batches of records of about 900 bytes, of 64 running
// tasks in turn; the times are per record. The processor's time is what a
// commit takes from everybody else.
func BenchmarkUpdate(b *testing.B) {
	for _, tenants := range []int{1, 3} {
		for _, batch := range []int{1, 8, 63, 64} {
			b.Run(fmt.Sprintf("tenants=%d/batch=%d", tenants, batch), func(b *testing.B) { benchmarkUpdate(b, tenants, batch) })
		}
	}
}

func benchmarkUpdate(b *testing.B, tenants, batch int) {
	s, err := OpenSQLite(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	name := func(i int) string { return fmt.Sprint("tenant", i%tenants) }
	err = s.Update(b.Context(), func(w ledger.WriteTx) error {
		for i := range tenants {
			if err := w.CreateTenant(name(i)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	raw := make([]byte, 900)
	start, count := cpuTime(b), 0
	for i := 0; b.Loop(); i++ {
		err := s.Update(b.Context(), func(w ledger.WriteTx) error {
			h, err := w.Lock(name(i))
			if err != nil {
				return err
			}
			rows := make([]ledger.Row, batch)
			for j := range rows {
				seq := h.Size + int64(j)
				rows[j] = ledger.Row{Seq: seq, Type: "action.decided", Agent: "helpdesk", Task: fmt.Sprintf("01979b2e-%016x", seq%64*7919), Raw: raw}
			}
			first, end := tlog.StoredHashCount(h.Size), tlog.StoredHashCount(h.Size+int64(batch))
			return w.Append(name(i), ledger.Head{Size: h.Size + int64(batch), Time: "2026-11-23T10:00:00.000000000Z"}, rows, first, make([]tlog.Hash, end-first))
		})
		if err != nil {
			b.Fatal(err)
		}
		count += batch
	}
	used := cpuTime(b) - start
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(count), "ns/record")
	b.ReportMetric(float64(used.Nanoseconds())/float64(count), "cpu-ns/record")
}

// cpuTime is the processor's time of this process.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
