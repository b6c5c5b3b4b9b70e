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
//
// A commit touches few pages: records lie in one tree, by place, which is the
// tenant's number and the record's position; the Merkle hashes that a record
// completes lie in its row; and of each task only the first record in a window
// of ledger.TaskWindow is in an index. All of it is written in one transaction,
// so a crash leaves all or nothing.
package store

import (
	"fmt"

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
	numbers   map[string]int64 // of tenants, as read in this transaction
	firsts    *firsts
	added     map[first]bool // to firsts, once committed
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
	c, err := t.one(`SELECT number, size, time FROM tenants WHERE tenant = ?`+lock, 3, tenant)
	if err != nil {
		return ledger.Head{}, err
	}
	if t.numbers == nil {
		t.numbers = map[string]int64{}
	}
	t.numbers[tenant] = integer(c[0])
	return ledger.Head{Size: integer(c[1]), Time: text(c[2])}, nil
}

// number of a tenant, by which its records are found.
func (t *tx) number(tenant string) (int64, error) {
	if n, ok := t.numbers[tenant]; ok {
		return n, nil
	}
	_, err := t.Head(tenant)
	return t.numbers[tenant], err
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
