// Package store keeps the ledger's bytes in SQLite (one node) or PostgreSQL
// (several nodes that share nothing else). It implements ledger.Store.
//
// Invariants:
//   - Update returns nil only when the transaction is on stable storage: SQLite
//     with journal_mode WAL and synchronous FULL, PostgreSQL with fsync and
//     synchronous_commit as the server has them, which OpenPostgres checks.
//   - A commit whose answer is lost is never reported as done or undone, but as
//     ledger.ErrUnknown.
//   - After a failed fsync the kernel may show data that is not on the disk. A
//     SQLite store then leaves a marker in its folder and refuses to open until
//     it is cleared by hand (ClearPoison).
//   - A database made by a newer Sallyport, or with a migration that is not the
//     one this binary knows, is refused.
//
// Not trusted: other processes. A SQLite folder is locked while open; a
// PostgreSQL server must be the primary.
package store

import (
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// conn runs statements, written with ? for parameters, in one transaction.
type conn interface {
	exec(query string, args ...any) error
	// rows calls f for each row of the result, after reading all of it, with
	// the columns that n counts.
	rows(query string, n int, f func(cols []any) error, args ...any) error
}

// tx is the transaction of both databases.
type tx struct {
	c conn
	// forUpdate is the clause that locks a row, where the database has one.
	forUpdate string
	nested    int
}

var _ ledger.WriteTx = (*tx)(nil)

// one reads exactly one row, or gives record.ErrNotFound.
func (t *tx) one(query string, n int, args ...any) ([]any, error) {
	var got []any
	err := t.c.rows(query, n, func(cols []any) error {
		got = append([]any(nil), cols...)
		return nil
	}, args...)
	if err == nil && got == nil {
		err = record.ErrNotFound
	}
	return got, err
}

func (t *tx) Tenants() ([]string, error) {
	var names []string
	err := t.c.rows(`SELECT tenant FROM tenants ORDER BY tenant`, 1, func(c []any) error {
		names = append(names, text(c[0]))
		return nil
	})
	return names, err
}

func (t *tx) Head(tenant string) (ledger.Head, error) { return t.head(tenant, "") }

func (t *tx) Lock(tenant string) (ledger.Head, error) { return t.head(tenant, t.forUpdate) }

func (t *tx) head(tenant, lock string) (ledger.Head, error) {
	c, err := t.one(`SELECT size, time FROM tenants WHERE tenant = ?`+lock, 2, tenant)
	if err != nil {
		return ledger.Head{}, err
	}
	return ledger.Head{Size: integer(c[0]), Time: text(c[1])}, nil
}

func (t *tx) CreateTenant(tenant string) error {
	return t.c.exec(`INSERT INTO tenants (tenant, size, time) VALUES (?, 0, '')`, tenant)
}

// Nest implements ledger.WriteTx by a savepoint.
func (t *tx) Nest(f func() error) error {
	t.nested++
	defer func() { t.nested-- }()
	name := fmt.Sprintf("s%d", t.nested)
	if err := t.c.exec("SAVEPOINT " + name); err != nil {
		return err
	}
	if err := f(); err != nil {
		if e := t.c.exec("ROLLBACK TO SAVEPOINT " + name); e != nil {
			return e
		}
		if e := t.c.exec("RELEASE SAVEPOINT " + name); e != nil {
			return e
		}
		return err
	}
	return t.c.exec("RELEASE SAVEPOINT " + name)
}

func (t *tx) Object(tenant, kind, id string) ([]byte, error) {
	c, err := t.one(`SELECT body FROM objects WHERE tenant = ? AND kind = ? AND id = ?`, 1, tenant, kind, id)
	if err != nil {
		return nil, err
	}
	return bytesOf(c[0]), nil
}

func (t *tx) Objects(tenant, kind string, f func(string, []byte) error) error {
	return t.c.rows(`SELECT id, body FROM objects WHERE tenant = ? AND kind = ? ORDER BY id`, 2,
		func(c []any) error { return f(text(c[0]), bytesOf(c[1])) }, tenant, kind)
}

func (t *tx) PutObject(tenant, kind, id string, body []byte) error {
	return t.c.exec(`INSERT INTO objects (tenant, kind, id, body) VALUES (?, ?, ?, ?)
		ON CONFLICT (tenant, kind, id) DO UPDATE SET body = excluded.body`, tenant, kind, id, body)
}

func (t *tx) DeleteObject(tenant, kind, id string) error {
	return t.c.exec(`DELETE FROM objects WHERE tenant = ? AND kind = ? AND id = ?`, tenant, kind, id)
}

func (t *tx) Records(tenant, task string, from int64, limit int, f func(ledger.Row) error) error {
	row := func(c []any) error {
		return f(ledger.Row{Seq: integer(c[0]), Type: text(c[1]), Task: text(c[2]), Agent: text(c[3]), Raw: bytesOf(c[4])})
	}
	if task != "" {
		return t.c.rows(`SELECT seq, type, task, agent, raw FROM records
			WHERE tenant = ? AND task = ? AND task <> '' AND seq >= ? ORDER BY seq LIMIT ?`, 5, row, tenant, task, from, limit)
	}
	return t.c.rows(`SELECT seq, type, task, agent, raw FROM records
		WHERE tenant = ? AND seq >= ? ORDER BY seq LIMIT ?`, 5, row, tenant, from, limit)
}

// maxRows bounds the rows of one statement.
const maxRows = 64

// values is "(?, ?), (?, ?)" for n rows of m columns.
func values(n, m int) string {
	row := "(" + strings.TrimSuffix(strings.Repeat("?, ", m), ", ") + ")"
	return strings.TrimSuffix(strings.Repeat(row+", ", n), ", ")
}

func (t *tx) Append(tenant string, to ledger.Head, rows []ledger.Row, first int64, hashes []tlog.Hash) error {
	for len(rows) > 0 {
		n := chunk(len(rows))
		args := make([]any, 0, 6*n)
		for _, r := range rows[:n] {
			args = append(args, tenant, r.Seq, r.Type, r.Task, r.Agent, r.Raw)
		}
		if err := t.c.exec(insertRecords[n], args...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	for i := int64(0); len(hashes) > 0; {
		n := chunk(len(hashes))
		args := make([]any, 0, 3*n)
		for j := range hashes[:n] {
			args = append(args, tenant, first+i+int64(j), hashes[j][:])
		}
		if err := t.c.exec(insertHashes[n], args...); err != nil {
			return err
		}
		hashes, i = hashes[n:], i+int64(n)
	}
	return t.c.exec(`UPDATE tenants SET size = ?, time = ? WHERE tenant = ?`, to.Size, to.Time, tenant)
}

// chunk is how many of n rows go into one statement: few sizes, so that few
// statements are prepared.
func chunk(n int) int {
	switch {
	case n >= maxRows:
		return maxRows
	case n >= 8:
		return 8
	}
	return 1
}

var insertRecords, insertHashes = map[int]string{}, map[int]string{}

func init() {
	for _, n := range []int{1, 8, maxRows} {
		insertRecords[n] = `INSERT INTO records (tenant, seq, type, task, agent, raw) VALUES ` + values(n, 6)
		insertHashes[n] = `INSERT INTO hashes (tenant, idx, hash) VALUES ` + values(n, 3)
	}
}

func (t *tx) Hashes(tenant string, indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i := 0; i < len(indexes); {
		n := chunk(len(indexes) - i)
		found := map[int64][]byte{}
		args := []any{tenant}
		for _, x := range indexes[i : i+n] {
			args = append(args, x)
		}
		err := t.c.rows(`SELECT idx, hash FROM hashes WHERE tenant = ? AND idx IN `+values(1, n), 2, func(c []any) error {
			found[integer(c[0])] = bytesOf(c[1])
			return nil
		}, args...)
		if err != nil {
			return nil, err
		}
		for ; n > 0; n, i = n-1, i+1 {
			h := found[indexes[i]]
			if len(h) != tlog.HashSize {
				return nil, fmt.Errorf("%w: %d of tenant %s", ledger.ErrNoHash, indexes[i], tenant)
			}
			out[i] = tlog.Hash(h)
		}
	}
	return out, nil
}

func (t *tx) Blob(tenant, id string) (ledger.Sealed, error) {
	c, err := t.one(`SELECT task, sealed FROM blobs WHERE tenant = ? AND id = ?`, 2, tenant, id)
	if err != nil {
		return ledger.Sealed{}, err
	}
	return ledger.Sealed{ID: id, Task: text(c[0]), Bytes: bytesOf(c[1])}, nil
}

func (t *tx) PutBlob(tenant string, b ledger.Sealed) error {
	return t.c.exec(`INSERT INTO blobs (tenant, id, task, sealed) VALUES (?, ?, ?, ?)`, tenant, b.ID, b.Task, b.Bytes)
}

func (t *tx) Checkpoint(tenant string, size int64) (int64, []byte, error) {
	c, err := t.one(`SELECT size, note FROM checkpoints WHERE tenant = ? AND size <= ? ORDER BY size DESC LIMIT 1`, 2, tenant, size)
	if err != nil {
		return 0, nil, err
	}
	return integer(c[0]), bytesOf(c[1]), nil
}

func (t *tx) PutCheckpoint(tenant string, size int64, note []byte) error {
	return t.c.exec(`INSERT INTO checkpoints (tenant, size, note) VALUES (?, ?, ?) ON CONFLICT (tenant, size) DO NOTHING`, tenant, size, note)
}

// Both drivers give int64, string and []byte for the columns of the schema;
// another type is a column changed from outside, and reads as the zero value,
// which no check lets pass.
func integer(v any) int64 {
	n, _ := v.(int64)
	return n
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

func bytesOf(v any) []byte {
	b, _ := v.([]byte)
	return b
}
