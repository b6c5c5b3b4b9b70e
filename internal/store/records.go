package store

import (
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"strings"
	"sync"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// A record's place is its tenant's number << seqBits | its position. So a
// tenant has at most 2^40 records, and the schema allows 2^22 tenants.
const seqBits = 40

func place(number, seq int64) int64 { return number<<seqBits | seq }

func (t *tx) Records(tenant, task string, from int64, limit int, f func(ledger.Row) error) error {
	number, err := t.number(tenant)
	if err != nil {
		return err
	}
	if from = max(from, 0); from >= 1<<seqBits {
		return nil
	}
	if task == "" {
		return t.span("", place(number, from), place(number+1, 0), limit, f)
	}
	// Where the task has records, window by window; then these.
	for limit > 0 {
		window := from / ledger.TaskWindow * ledger.TaskWindow
		c, err := t.one(`SELECT place FROM records WHERE first = 1 AND task = ? AND place >= ? AND place < ?
			ORDER BY place LIMIT 1`, 1, task, place(number, window), place(number+1, 0))
		if errors.Is(err, record.ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		from = max(from, integer(c[0])-place(number, 0))
		end := (from/ledger.TaskWindow + 1) * ledger.TaskWindow
		err = t.span(task, place(number, from), place(number, end), limit, func(r ledger.Row) error {
			limit--
			return f(r)
		})
		if err != nil {
			return err
		}
		from = end
	}
	return nil
}

// span reads the records, of one task if it is named, at places from low to
// before high.
func (t *tx) span(task string, low, high int64, limit int, f func(ledger.Row) error) error {
	row := func(c []any) error {
		return f(ledger.Row{Seq: integer(c[0]) & (1<<seqBits - 1), Type: text(c[1]), Task: text(c[2]), Agent: text(c[3]),
			First: integer(c[4]) == 1, Raw: bytesOf(c[5])})
	}
	where, args := "", []any{low, high}
	if task != "" {
		where, args = " AND task = ?", append(args, task)
	}
	return t.c.rows(`SELECT place, type, task, agent, first, raw FROM records WHERE place >= ? AND place < ?`+where+
		` ORDER BY place LIMIT ?`, 6, row, append(args, limit)...)
}

func (t *tx) Append(tenant string, to ledger.Head, rows []ledger.Row, first int64, hashes []tlog.Hash) error {
	number, err := t.number(tenant)
	if err != nil {
		return err
	}
	if to.Size > 1<<seqBits {
		return fmt.Errorf("log of tenant %s is full: it has %d records", tenant, to.Size)
	}
	for len(rows) > 0 {
		n := chunk(len(rows))
		args := make([]any, 0, 7*n)
		for _, r := range rows[:n] {
			own := completed(r.Seq)
			at := tlog.StoredHashIndex(0, r.Seq) - first
			if at < 0 || at+own > int64(len(hashes)) {
				return fmt.Errorf("sallyport: internal error: record %d comes without its hashes", r.Seq)
			}
			args = append(args, place(number, r.Seq), r.Type, r.Task, r.Agent, t.first(tenant, r), join(hashes[at:at+own]), r.Raw)
		}
		if err := t.c.exec(insertRecords[n], args...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return t.c.exec(`UPDATE tenants SET size = ?, time = ? WHERE number = ?`, to.Size, to.Time, number)
}

// completed is how many stored hashes a record completes: its leaf's and, above
// it, those of the subtrees that end with it.
func completed(seq int64) int64 { return int64(bits.TrailingZeros64(^uint64(seq))) + 1 }

func join(hashes []tlog.Hash) []byte {
	b := make([]byte, 0, len(hashes)*tlog.HashSize)
	for _, h := range hashes {
		b = append(b, h[:]...)
	}
	return b
}

// maxRows bounds the rows of one statement.
const maxRows = 64

// chunk is how many of n rows go into one statement: powers of two, so that few
// statements are prepared.
func chunk(n int) int { return min(maxRows, 1<<(bits.Len(uint(n))-1)) }

// values is "(?, ?), (?, ?)" for n rows of m columns.
func values(n, m int) string {
	row := "(" + strings.TrimSuffix(strings.Repeat("?, ", m), ", ") + ")"
	return strings.TrimSuffix(strings.Repeat(row+", ", n), ", ")
}

var insertRecords = map[int]string{}

func init() {
	for n := 1; n <= maxRows; n *= 2 {
		insertRecords[n] = `INSERT INTO records (place, type, task, agent, first, hashes, raw) VALUES ` + values(n, 7)
	}
}

// first says that a task has an indexed record in a window of its tenant's log.
type first struct {
	tenant, task string
	window       int64
}

// firsts are committed, so they stay true. To forget some is harmless: one more
// record of the task is indexed.
type firsts struct {
	mu    sync.Mutex
	known map[first]bool
}

const maxFirsts = 1 << 10

// first is 1 for a record to index: no other of its task in its window is known
// to be.
func (t *tx) first(tenant string, r ledger.Row) int64 {
	f := first{tenant, r.Task, r.Seq / ledger.TaskWindow}
	if r.Task == "" || t.added[f] || t.firsts.has(f) {
		return 0
	}
	if t.added == nil {
		t.added = map[first]bool{}
	}
	t.added[f] = true
	return 1
}

func (s *firsts) has(f first) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[f]
}

// add is called after the commit.
func (s *firsts) add(fs map[first]bool) {
	if len(fs) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil || len(s.known) > maxFirsts {
		s.known = map[first]bool{}
	}
	maps.Copy(s.known, fs)
}

func (t *tx) Hashes(tenant string, indexes []int64) ([]tlog.Hash, error) {
	number, err := t.number(tenant)
	if err != nil {
		return nil, err
	}
	// Each hash lies with the record that completes it, above that one's lower.
	stored := map[int64][]byte{}
	var places []any
	for _, x := range indexes {
		seq, _ := owner(x)
		if _, ok := stored[seq]; !ok && seq < 1<<seqBits {
			stored[seq] = nil
			places = append(places, place(number, seq))
		}
	}
	for len(places) > 0 {
		n := chunk(len(places))
		err := t.c.rows(`SELECT place, hashes FROM records WHERE place IN `+values(1, n), 2, func(c []any) error {
			stored[integer(c[0])-place(number, 0)] = bytesOf(c[1])
			return nil
		}, places[:n]...)
		if err != nil {
			return nil, err
		}
		places = places[n:]
	}
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		seq, level := owner(x)
		b := stored[seq]
		if int64(len(b)) != completed(seq)*tlog.HashSize {
			return nil, fmt.Errorf("%w: %d of tenant %s", ledger.ErrNoHash, x, tenant)
		}
		out[i] = tlog.Hash(b[level*tlog.HashSize:])
	}
	return out, nil
}

// owner is the record that completes the stored hash, and the hash's level.
func owner(index int64) (seq int64, level int) {
	level, n := tlog.SplitStoredHashIndex(index)
	return (n+1)<<level - 1, level
}
