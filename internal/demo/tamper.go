package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/internal/store"
)

// edit changes the rows of a copy. It returns what is written in their place.
type edit func(rows []ledger.Row) []ledger.Row

// tampered copies a tenant's log, with its proofs and its key, into a data
// folder of its own and lets an edit loose on the records of the copy. It is
// what somebody with write access to the database could do.
func tampered(ctx context.Context, from ledger.Store, rootKey, dir, tenant string, e edit) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	key, err := os.ReadFile(rootKey)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, seal.FileName), key, 0o600); err != nil {
		return err
	}
	clear(key)
	to, err := store.OpenSQLite(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	var c copied
	if err := from.View(ctx, func(tx ledger.ReadTx) error { return c.read(tx, tenant) }); err != nil {
		return fmt.Errorf("copy the log: %w", err)
	}
	c.rows = e(c.rows)
	return to.Update(ctx, func(tx ledger.WriteTx) error { return c.write(tx, tenant) })
}

// copied is a tenant's log in memory.
type copied struct {
	head       ledger.Head
	key        []byte
	taskKeys   map[string][]byte
	rows       []ledger.Row
	blobs      []ledger.Sealed
	hashes     []tlog.Hash
	size       int64
	checkpoint []byte
}

func (c *copied) read(tx ledger.ReadTx, tenant string) (err error) {
	if c.head, err = tx.Head(tenant); err != nil {
		return err
	}
	if c.key, err = tx.Object(tenant, "ledger.key", "log"); err != nil {
		return err
	}
	c.rows, c.blobs, c.taskKeys = nil, nil, map[string][]byte{}
	err = tx.Objects(tenant, "ledger.taskkey", func(id string, body []byte) error {
		c.taskKeys[id] = bytes.Clone(body)
		return nil
	})
	if err != nil {
		return err
	}
	err = tx.Records(tenant, "", 0, int(c.head.Size), func(r ledger.Row) error {
		r.Raw = bytes.Clone(r.Raw)
		c.rows = append(c.rows, r)
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range c.rows {
		var e struct {
			Evidence []struct {
				Blob string `json:"blob"`
			} `json:"evidence"`
		}
		if err := json.Unmarshal(r.Raw, &e); err != nil {
			return err
		}
		for _, x := range e.Evidence {
			b, err := tx.Blob(tenant, x.Blob)
			if err != nil {
				return err
			}
			c.blobs = append(c.blobs, b)
		}
	}
	var indexes []int64
	for i := range tlog.StoredHashIndex(0, c.head.Size) {
		indexes = append(indexes, i)
	}
	if c.hashes, err = tx.Hashes(tenant, indexes); err != nil {
		return err
	}
	c.size, c.checkpoint, err = tx.Checkpoint(tenant, c.head.Size)
	return err
}

func (c *copied) write(tx ledger.WriteTx, tenant string) error {
	if err := tx.CreateTenant(tenant); err != nil {
		return err
	}
	var errs []error
	for id, k := range c.taskKeys {
		errs = append(errs, tx.PutObject(tenant, "ledger.taskkey", id, k))
	}
	for _, b := range c.blobs {
		errs = append(errs, tx.PutBlob(tenant, b))
	}
	return errors.Join(errors.Join(errs...), tx.PutObject(tenant, "ledger.key", "log", c.key), tx.Append(tenant, c.head, c.rows, 0, c.hashes),
		tx.PutCheckpoint(tenant, c.size, c.checkpoint))
}

// The three edits of the last chapter, on the record in the middle.

func flipByte(rows []ledger.Row) []ledger.Row {
	r := &rows[len(rows)/2]
	i := bytes.LastIndexByte(r.Raw, '"') - 1
	r.Raw[i] ^= 1
	return rows
}

func drop(rows []ledger.Row) []ledger.Row {
	m := len(rows) / 2
	return append(rows[:m:m], rows[m+1:]...)
}

func swap(rows []ledger.Row) []ledger.Row {
	m := len(rows) / 2
	a, b := &rows[m], &rows[m+1]
	a.Raw, b.Raw = b.Raw, a.Raw
	a.Type, b.Type, a.Task, b.Task, a.Agent, b.Agent = b.Type, a.Type, b.Task, a.Task, b.Agent, a.Agent
	return rows
}
