package ledger

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Log is one tenant's log. It implements record.Log.
type Log struct {
	l      *Ledger
	tenant string
	sealer record.Sealer

	key      logKey
	signer   note.Signer
	verifier note.Verifier

	edge edge // after this node's last commit; owned by whoever commits
	// signing is held while a checkpoint is made; it guards tip.
	signing sync.Mutex
	tip     tip

	// keyMu guards dataKeys and is held while a data key is made.
	keyMu    sync.Mutex
	dataKeys map[string]aead // by task
}

var _ record.Log = (*Log)(nil)

// Tenant implements record.Log.
func (g *Log) Tenant() string { return g.tenant }

// Origin is the log's name in checkpoints.
func (g *Log) Origin() string { return g.key.Origin }

// VerifierKey is the public key of the log (C2SP signed-note, "verifier keys").
func (g *Log) VerifierKey() string { return g.key.Verifier }

// pending is a draft on its way to the committer.
type pending struct {
	ctx    context.Context
	log    *Log
	raw    raw  // all but Seq, Time and Clamped
	form   form // of raw
	blobs  []Sealed
	change func(record.Tx) error
	// internal is the ledger's own change; its errors spoil the batch.
	internal func(WriteTx) error
	size     int // of body and blobs, in bytes

	entry record.Entry
	err   error
	done  chan struct{}
}

// Append implements record.Log. When ctx ends while the draft is being
// committed, it is not known whether it was kept.
func (g *Log) Append(ctx context.Context, d record.Draft) (record.Entry, error) {
	if err := g.l.Err(); err != nil {
		return record.Entry{}, err
	}
	p, err := g.prepare(ctx, d)
	if err != nil {
		return record.Entry{}, fmt.Errorf("append %s: %w", d.Type, err)
	}
	return g.submit(ctx, p)
}

func (g *Log) submit(ctx context.Context, p *pending) (record.Entry, error) {
	if g.l.commitAlone(p) {
		return p.entry, p.err
	}
	if err := g.l.queue.put(p); err != nil {
		return record.Entry{}, fmt.Errorf("append %s: %w", p.raw.Type, err)
	}
	select {
	case <-p.done:
		return p.entry, p.err
	case <-ctx.Done():
		return record.Entry{}, fmt.Errorf("append %s: not known whether it was kept: %w", p.raw.Type, context.Cause(ctx))
	}
}

func (g *Log) prepare(ctx context.Context, d record.Draft) (*pending, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if d.Type == "" {
		return nil, errors.New("record has no type")
	}
	body := []byte("{}")
	if d.Body != nil {
		var err error
		if body, err = canon.Marshal(d.Body); err != nil {
			return nil, fmt.Errorf("body: %w", err)
		}
	}
	p := &pending{ctx: ctx, log: g, change: d.Change, size: len(body), done: make(chan struct{}),
		raw: raw{V: 1, Tenant: g.tenant, Type: d.Type, Task: d.Task, Agent: d.Agent, Actor: d.Actor, ID: randomID(), Body: body}}
	// Text the database cannot hold would spoil a whole batch.
	for _, s := range []string{d.Type, d.Task, d.Agent, d.Actor} {
		if err := checkText(s); err != nil {
			return nil, err
		}
	}
	for _, b := range d.Blobs {
		ev, sealed, err := g.sealBlob(ctx, d.Task, b)
		if err != nil {
			return nil, fmt.Errorf("blob %s: %w", b.Name, err)
		}
		p.raw.Evidence = append(p.raw.Evidence, ev)
		p.blobs = append(p.blobs, sealed)
		p.size += len(sealed.Bytes)
	}
	var err error
	p.form, err = p.raw.encode()
	return p, err
}

// View implements record.Log.
func (g *Log) View(ctx context.Context, f func(record.Tx) error) error {
	return g.l.store.View(ctx, func(tx ReadTx) error {
		return f(&view{tenant: g.tenant, r: tx})
	})
}

// pageSize is how many records one read transaction delivers. Records never
// change, so reading in several transactions shows one log.
const pageSize = 256

// Entries implements record.Log.
func (g *Log) Entries(ctx context.Context, from int64, f func(record.Entry) error) error {
	return g.entries(ctx, "", from, f)
}

// TaskEntries is Entries of one task.
func (g *Log) TaskEntries(ctx context.Context, task string, f func(record.Entry) error) error {
	return g.entries(ctx, task, 0, f)
}

func (g *Log) entries(ctx context.Context, task string, from int64, f func(record.Entry) error) error {
	from = max(from, 0)
	for {
		rows, err := g.page(ctx, task, from, pageSize)
		if err != nil {
			return err
		}
		for _, row := range rows {
			r, err := decode(row.Raw)
			if err != nil {
				return fmt.Errorf("record %d: %w", row.Seq, err)
			}
			if r.Seq != row.Seq || task == "" && r.Seq != from {
				return fmt.Errorf("record %d: found %d in its place: %w", from, r.Seq, errTampered)
			}
			e, err := r.entry(row.Raw)
			if err != nil {
				return fmt.Errorf("record %d: %w", row.Seq, err)
			}
			if err := f(e); err != nil {
				return err
			}
			from = row.Seq + 1
		}
		if len(rows) < pageSize {
			return nil
		}
	}
}

var errTampered = errors.New("the store was changed from outside")

func (g *Log) page(ctx context.Context, task string, from int64, limit int) (rows []Row, err error) {
	err = g.l.store.View(ctx, func(tx ReadTx) error {
		rows = rows[:0]
		return tx.Records(g.tenant, task, from, limit, func(r Row) error {
			rows = append(rows, r)
			return nil
		})
	})
	return rows, err
}

func randomID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// checkText refuses what some database cannot hold as text.
func checkText(s string) error {
	if !utf8.ValidString(s) || strings.ContainsRune(s, 0) || len(s) > 1024 {
		return fmt.Errorf("name %.40q: want UTF-8 without NUL, at most 1024 bytes", s)
	}
	return nil
}
