package store

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/store/pgtest"
)

// TestRecordsByTask holds the records that are found by task, and the hashes,
// against what was appended: over several windows, by two tenants with tasks of
// one name, with commits that failed and stores that were opened again between.
func TestRecordsByTask(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		dir := t.TempDir()
		recordsByTask(t, func() (ledger.Store, error) { return OpenSQLite(dir) })
	})
	t.Run("postgres", func(t *testing.T) {
		url := pgtest.URL(t)
		recordsByTask(t, func() (ledger.Store, error) { return OpenPostgres(t.Context(), url) })
	})
}

// model is what a tenant's log should hold.
type model struct {
	tenant string
	rows   []ledger.Row
	hashes []tlog.Hash
}

func recordsByTask(t *testing.T, open func() (ledger.Store, error)) {
	rnd := rand.New(rand.NewPCG(1, 2))
	s, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Close() }()
	logs := []*model{{tenant: "a"}, {tenant: "b"}}
	for _, m := range logs {
		if err := s.Update(t.Context(), func(w ledger.WriteTx) error { return w.CreateTenant(m.tenant) }); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; len(logs[0].rows) < 3*ledger.TaskWindow; i++ {
		if i%20 == 19 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if s, err = open(); err != nil {
				t.Fatal(err)
			}
		}
		rows, hashes := batch(logs[i%2], rnd)
		fails := i%3 == 1
		if err := s.Update(t.Context(), func(w ledger.WriteTx) error {
			if err := logs[i%2].append(w, rows, hashes); err != nil {
				return err
			}
			if fails {
				return errFails
			}
			return nil
		}); fails != errors.Is(err, errFails) || !fails && err != nil {
			t.Fatal(err)
		}
		if !fails {
			logs[i%2].rows, logs[i%2].hashes = append(logs[i%2].rows, rows...), append(logs[i%2].hashes, hashes...)
		}
	}
	for _, m := range logs {
		if err := s.View(t.Context(), func(r ledger.ReadTx) error { return m.check(r, rnd) }); err != nil {
			t.Errorf("tenant %s: %v", m.tenant, err)
		}
	}
	err = s.View(t.Context(), func(r ledger.ReadTx) error {
		return r.Records("nobody", "", 0, 1, func(ledger.Row) error { return nil })
	})
	if !errors.Is(err, record.ErrNotFound) {
		t.Errorf("unknown tenant: got %v, want %v", err, record.ErrNotFound)
	}
}

var errFails = errors.New("the batch fails")

// batch is up to 200 records: of a task that is in each window once or twice,
// of some in all of them, of one that comes late, and of none.
func batch(m *model, rnd *rand.Rand) (rows []ledger.Row, hashes []tlog.Hash) {
	n := int64(len(m.rows))
	for i := range int64(1 + rnd.IntN(200)) {
		task := fmt.Sprint("t", rnd.IntN(5))
		switch seq := n + i; {
		case seq%700 == 699:
			task = "rare"
		case seq > 2*ledger.TaskWindow && seq%3 == 0:
			task = "late"
		case seq%7 == 0:
			task = ""
		}
		rows = append(rows, ledger.Row{Seq: n + i, Type: "x", Task: task, Agent: "helpdesk", Raw: fmt.Append(nil, m.tenant, n+i)})
		for range completed(n + i) {
			hashes = append(hashes, tlog.RecordHash(fmt.Append(nil, m.tenant, len(m.hashes)+len(hashes))))
		}
	}
	return rows, hashes
}

func (m *model) append(w ledger.WriteTx, rows []ledger.Row, hashes []tlog.Hash) error {
	h, err := w.Lock(m.tenant)
	if err != nil {
		return err
	}
	if h.Size != int64(len(m.rows)) {
		return fmt.Errorf("got %d records, want %d", h.Size, len(m.rows))
	}
	return w.Append(m.tenant, ledger.Head{Size: h.Size + int64(len(rows))}, rows, tlog.StoredHashCount(h.Size), hashes)
}

func (m *model) check(r ledger.ReadTx, rnd *rand.Rand) error {
	size := int64(len(m.rows))
	indexed := 0
	for _, task := range []string{"", "t0", "t4", "rare", "late", "never", "t"} {
		for _, from := range []int64{math.MinInt64, 0, 698, 699, 700, ledger.TaskWindow - 1, ledger.TaskWindow, rnd.Int64N(size), size - 1, size, math.MaxInt64} {
			for _, limit := range []int{0, 1, 7, 256, 1 << 20} {
				var want, got []string
				for _, row := range m.rows {
					if row.Seq >= from && (task == "" || row.Task == task) && len(want) < limit {
						want = append(want, fmt.Sprint(row.Seq, row.Type, row.Task, row.Agent, string(row.Raw)))
					}
				}
				err := r.Records(m.tenant, task, from, limit, func(row ledger.Row) error {
					if row.First && task == "" {
						indexed++
					}
					got = append(got, fmt.Sprint(row.Seq, row.Type, row.Task, row.Agent, string(row.Raw)))
					return nil
				})
				if err != nil || !slices.Equal(got, want) {
					return fmt.Errorf("task %q from %d, at most %d: got %d records, %v; want %d", task, from, limit, len(got), err, len(want))
				}
			}
		}
	}
	if indexed == 0 {
		return errors.New("no record is in the index of tasks")
	}
	all := make([]int64, len(m.hashes))
	for i := range all {
		all[i] = int64(i)
	}
	rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	got, err := r.Hashes(m.tenant, all)
	if err != nil {
		return err
	}
	for i, x := range all {
		if got[i] != m.hashes[x] {
			return fmt.Errorf("stored hash %d: got %v, want %v", x, got[i], m.hashes[x])
		}
	}
	for _, x := range []int64{int64(len(all)), math.MaxInt64 >> 8} {
		if _, err := r.Hashes(m.tenant, []int64{0, x}); !errors.Is(err, ledger.ErrNoHash) {
			return fmt.Errorf("stored hash %d: got %v, want %v", x, err, ledger.ErrNoHash)
		}
	}
	return nil
}

// TestLimits: a log does not run into the places of the next tenant.
func TestLimits(t *testing.T) {
	s, err := OpenSQLite(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.Update(t.Context(), func(w ledger.WriteTx) error {
		if err := w.CreateTenant("a"); err != nil {
			return err
		}
		return w.Append("a", ledger.Head{Size: 1<<seqBits + 1}, nil, 0, nil)
	})
	if err == nil {
		t.Error("a log over its limit: got no error")
	}
	err = s.writer.exec(`INSERT INTO tenants (number, tenant, size, time) VALUES (4194304, 'last', 0, '')`)
	if err == nil {
		t.Error("a tenant over the limit: got no error")
	}
}
