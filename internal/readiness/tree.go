package readiness

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/receipt"
)

// tree is the right edge of an RFC 9162 Merkle tree that grows record by
// record: one hash per full subtree, the largest first.
type tree struct {
	size int64
	full []tlog.Hash
}

func (t *tree) add(raw []byte) {
	h := tlog.RecordHash(raw)
	for n := t.size; n&1 == 1; n >>= 1 {
		last := len(t.full) - 1
		h = tlog.NodeHash(t.full[last], h)
		t.full = t.full[:last]
	}
	t.full = append(t.full, h)
	t.size++
}

// root is the hash of the tree so far.
func (t *tree) root() (tlog.Hash, error) {
	if len(t.full) == 0 {
		return tlog.TreeHash(0, nil)
	}
	h := t.full[len(t.full)-1]
	for i := len(t.full) - 2; i >= 0; i-- {
		h = tlog.NodeHash(t.full[i], h)
	}
	return h, nil
}

// behind is how old a record may be that the newest checkpoint does not cover.
const behind = 2 * time.Second

// ledgerCheck is what is known about the log's checkpoint.
type ledgerCheck struct {
	signed []byte
	receipt.Checkpoint
	size     int64 // of the verified checkpoint; 0 without one
	covers   bool  // the records that were read give its root
	verified bool  // the log was verified from bytes
	problems []string
	at       ref // last record that it covers
	oldest   ref // first record that it does not cover
	open     bool
	fetched  time.Time // when it was asked for
}

func (c *ledgerCheck) problem(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

func openCheckpoint(ctx context.Context, src Source, now time.Time) ledgerCheck {
	c := ledgerCheck{fetched: now}
	if now.IsZero() {
		c.fetched = time.Now()
	}
	cp, err := src.Checkpoint(ctx)
	if err != nil {
		c.problem("there is no checkpoint: %v", err)
		return c
	}
	c.signed = cp.Signed
	if c.Checkpoint, err = receipt.ParseCheckpoint(cp.Signed, cp.Key); err != nil {
		c.problem("%v", err)
		return c
	}
	c.size = c.Size
	return c
}

// compare is called before each record and at the end.
func (c *ledgerCheck) compare(t *tree) {
	if c.covers || c.size == 0 || t.size != c.size {
		return
	}
	root, err := t.root()
	if err != nil || root != c.Root {
		c.problem("the %d records that were read do not give the signed root", c.size)
		c.size = 0
		return
	}
	c.covers = true
}

// late notes the edge of what the checkpoint covers.
func (c *ledgerCheck) late(e record.Entry) {
	switch {
	case e.Seq < c.Size:
		c.at = at(e)
	case !c.open:
		c.open, c.oldest = true, at(e)
	}
}

// pass hands over to a later checkpoint what was found while reading up to it.
func (c *ledgerCheck) pass(later *ledgerCheck, h *history) {
	later.problems = append(later.problems, c.problems...)
	if h.size > 0 {
		later.at = h.last
	}
}

var errEnough = errors.New("enough")

// entriesUntil calls f for the records before size.
func entriesUntil(ctx context.Context, src Source, size int64, f func(seq int64, raw []byte)) error {
	err := src.Entries(ctx, 0, func(e record.Entry) error {
		if e.Seq >= size {
			return errEnough
		}
		f(e.Seq, e.Raw)
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}
