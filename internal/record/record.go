// Package record is the vocabulary of the ledger: what a record is, and the two
// small interfaces through which the engines write and read. It does no I/O.
//
// A state change that is not in the ledger did not happen: state is changed
// only by the Change function of a Draft, in the transaction that makes the
// draft's record durable.
package record

import (
	"context"
	"errors"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// ErrNotFound is returned by Tx.Get for an object that does not exist.
var ErrNotFound = errors.New("not found")

// ErrTooLarge is wrapped by Append for a record that is larger than a log takes. The
// caller should put large things into blobs, and record in fewer words what it refuses.
var ErrTooLarge = errors.New("record is too large, put large values into blobs")

// Blob is evidence kept apart from the record. Append fills Blob and
// Commitment of the returned action.Evidence.
type Blob struct {
	Name string // what it is: screenshot, request-body, ...
	Type string // media type
	Data []byte
}

// Draft is a record that is not yet in the ledger.
type Draft struct {
	Type  string // dotted, e.g. action.decided
	Task  string // task id, or empty
	Agent string // agent name, or empty
	Actor string // who caused it: "person:jo", "agent:helpdesk", "sallyport"
	// Body is marshalled to canonical JSON. It holds no secret.
	Body any
	// Blobs are stored, encrypted, in the same transaction; the record carries
	// their references in order.
	Blobs []Blob
	// Change alters state in the same transaction. An error from it leaves
	// neither the record nor the change, and is returned by Append as it is.
	// It may run again from the start if the database asks for a retry, so it
	// must not touch anything but the Tx.
	Change func(Tx) error
}

// Entry is a durable record.
type Entry struct {
	Seq      int64             `json:"seq"` // position in the tenant's log, from 0
	Time     time.Time         `json:"time"`
	Type     string            `json:"type"`
	Tenant   string            `json:"tenant"`
	Task     string            `json:"task,omitempty"`
	Agent    string            `json:"agent,omitempty"`
	Actor    string            `json:"actor,omitempty"`
	Evidence []action.Evidence `json:"evidence,omitempty"`
	Body     []byte            `json:"-"` // canonical JSON of the body
	Raw      []byte            `json:"-"` // the canonical bytes that are hashed into the tree
}

// Tx reads and changes the state of one tenant. Objects are JSON documents by
// kind and id; marshalling is canonical.
type Tx interface {
	Get(kind, id string, v any) error // ErrNotFound
	Put(kind, id string, v any) error
	Delete(kind, id string) error
	// List calls f for each object of the kind, by rising id.
	List(kind string, f func(id string, raw []byte) error) error
}

// Log is one tenant's log.
type Log interface {
	Tenant() string
	// Append returns when the record and its change are on stable storage. Any
	// error means that nothing of it was kept, or that it is not known: the
	// caller must treat the step as not done and deny.
	Append(ctx context.Context, d Draft) (Entry, error)
	// View reads a consistent state. f must not keep the Tx.
	View(ctx context.Context, f func(Tx) error) error
	// Entries calls f for each record from seq on, in order, until f returns
	// an error, which is returned.
	Entries(ctx context.Context, from int64, f func(Entry) error) error
	// Payload returns the evidence bytes, checked against the commitment.
	Payload(ctx context.Context, e action.Evidence) ([]byte, error)
}

// Sealer encrypts small secrets at rest for one tenant. Context names what the
// secret is and is authenticated, so that one sealed value cannot be put in
// the place of another.
type Sealer interface {
	Seal(context string, secret []byte) ([]byte, error)
	Open(context string, sealed []byte) ([]byte, error)
}
