package ledger

import (
	"context"
	"errors"

	"golang.org/x/mod/sumdb/tlog"
)

// ErrUnknown is wrapped by Store.Update when the commit may or may not have
// happened. The ledger looks the records up before it answers anybody.
var ErrUnknown = errors.New("commit state unknown")

// ErrFatal is wrapped by a Store's error after which what the store holds is
// not known to be on stable storage (a failed fsync). The ledger stops.
var ErrFatal = errors.New("stable storage is in doubt")

// ErrNoHash is wrapped by ReadTx.Hashes for a hash that is not stored.
var ErrNoHash = errors.New("stored hash is missing or torn")

// Store is the database under the ledger, declared here and implemented by
// package store. Every method is safe for concurrent use.
type Store interface {
	// Update runs f in one read-write transaction and returns nil only after
	// it is on stable storage. f may run again from the start when the
	// database asks for a retry. An error from f is returned as it is and
	// leaves nothing. Other errors leave nothing either, unless they wrap
	// ErrUnknown or ErrFatal.
	Update(ctx context.Context, f func(WriteTx) error) error
	// View runs f over one consistent, current (not replicated) state.
	View(ctx context.Context, f func(ReadTx) error) error
	// Purge makes what was deleted or replaced unreadable in the database's
	// own files, as far as the database can.
	Purge(ctx context.Context) error
	Close() error
}

// Head is where a tenant's log ends.
type Head struct {
	Size int64  // records
	Time string // of the last record, in the record's own form
}

// TaskWindow is how many positions of a log one entry in the index of tasks
// stands for: who looks for a task's records starts at the first of them in
// each window and looks at the rest of the window.
const TaskWindow = 1024

// Row is one record as stored. Type, Task and Agent repeat what Raw says, to
// find records by; Raw is what counts, and Verify compares.
type Row struct {
	Seq               int64
	Type, Task, Agent string
	// First is set by the store: the record is in the index of tasks. The first
	// of its task in its window is; others may be.
	First bool
	Raw   []byte
}

// Sealed is one encrypted payload.
type Sealed struct {
	ID, Task string
	Bytes    []byte
}

// ReadTx reads. What is absent gives record.ErrNotFound. Callbacks may use the
// transaction.
type ReadTx interface {
	Tenants() ([]string, error)
	Head(tenant string) (Head, error)
	Object(tenant, kind, id string) ([]byte, error)
	// Objects calls f by rising id (byte order).
	Objects(tenant, kind string, f func(id string, body []byte) error) error
	// Records calls f for at most limit records from seq on, in order; of one
	// task only, when task is not empty.
	Records(tenant, task string, from int64, limit int, f func(Row) error) error
	// Hashes returns the stored hashes of the indexes (tlog.StoredHashIndex);
	// an absent one gives ErrNoHash.
	Hashes(tenant string, indexes []int64) ([]tlog.Hash, error)
	Blob(tenant, id string) (Sealed, error)
	// Checkpoint returns the newest checkpoint of at most size records.
	Checkpoint(tenant string, size int64) (int64, []byte, error)
}

// WriteTx reads and writes.
type WriteTx interface {
	ReadTx
	// Lock is Head, and keeps every other writer off the tenant until the end
	// of the transaction. It comes before any other use of the tenant.
	Lock(tenant string) (Head, error)
	// Nest runs f; if f returns an error its writes are undone and the
	// transaction can go on.
	Nest(f func() error) error
	CreateTenant(tenant string) error
	PutObject(tenant, kind, id string, body []byte) error
	DeleteObject(tenant, kind, id string) error
	// Append writes rows, each with the stored hashes that it completes, and
	// moves the head. hashes start at stored index first.
	Append(tenant string, to Head, rows []Row, first int64, hashes []tlog.Hash) error
	PutBlob(tenant string, b Sealed) error
	// PutCheckpoint keeps an existing checkpoint of that size.
	PutCheckpoint(tenant string, size int64, note []byte) error
}
