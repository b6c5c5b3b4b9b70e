package ledger

import (
	"context"
	"errors"
	"fmt"
	"math"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport-dev/sallyport/internal/record"
)

// Problem is one thing that is wrong with a log.
type Problem struct {
	// Seq names the record; To is Seq, or the last of a range in which the
	// record is that cannot be told more exactly.
	Seq, To int64
	// What is "changed", "missing", "reordered", "duplicate", "extra",
	// "malformed", "clock", "index", "payload", "hash" or "checkpoint".
	What   string
	Detail string
}

func (p Problem) String() string {
	if p.To > p.Seq {
		return fmt.Sprintf("records %d to %d: %s: %s", p.Seq, p.To, p.What, p.Detail)
	}
	return fmt.Sprintf("record %d: %s: %s", p.Seq, p.What, p.Detail)
}

// Report is what Verify found.
type Report struct {
	Size     int64     // records
	Root     tlog.Hash // of their tree; zero when a record is missing without which it is not known
	Signed   int64     // records under the newest checkpoint
	Payloads int       // opened and equal to their commitments
	Erased   int       // payloads whose key is destroyed
	Problems []Problem // at most maxProblems
}

// OK reports whether nothing is wrong.
func (r Report) OK() bool { return len(r.Problems) == 0 }

const maxProblems = 1000

// Verify reads the whole log from bytes: every record is hashed again and must
// give the stored hashes, every signed root and the roots of the kept
// checkpoints; records must be canonical, in order, without a gap, their time
// not going back; every payload must open and match its commitment.
//
// kept are checkpoints that the caller has stored elsewhere. Only they can show
// that the whole store was put back to an older state, or that its end was cut
// off with its checkpoints. An error means that the log could not be read.
func (g *Log) Verify(ctx context.Context, kept ...[]byte) (Report, error) {
	v := &verification{g: g, ctx: ctx, kept: map[int64][]tlog.Hash{}}
	v.edge.hashes = map[int64]tlog.Hash{}
	for _, b := range kept {
		size, root, err := g.openCheckpoint(b)
		if err != nil {
			return Report{}, fmt.Errorf("verify: kept %w", err)
		}
		v.kept[size] = append(v.kept[size], root)
	}
	head, err := g.Head(ctx)
	if err != nil {
		return Report{}, fmt.Errorf("verify: %w", err)
	}
	for v.edge.size < head.Size {
		if err := v.page(head.Size); err != nil {
			return Report{}, fmt.Errorf("verify: %w", err)
		}
	}
	if err := v.end(head); err != nil {
		return Report{}, fmt.Errorf("verify: %w", err)
	}
	return v.rep, nil
}

type verification struct {
	g    *Log
	ctx  context.Context
	rep  Report
	kept map[int64][]tlog.Hash

	edge   edge            // of the records seen, by their stored leaf hashes
	time   string          // of the last record
	begun  map[string]bool // tasks that the index finds in the window of TaskWindow
	signed int64           // size of the last checkpoint that was right
	forked bool            // some root was not right: none after it can be
}

func (v *verification) add(seq, to int64, what, format string, args ...any) {
	if len(v.rep.Problems) < maxProblems {
		v.rep.Problems = append(v.rep.Problems, Problem{seq, to, what, fmt.Sprintf(format, args...)})
	}
}

// span is one page of the log as stored. Rows and hashes may be absent.
type span struct {
	from, to int64
	rows     map[int64]Row
	hashes   map[int64]tlog.Hash // by stored index
	signed   map[int64][]byte    // checkpoints by size
}

// page verifies the next records, up to pageSize and size.
func (v *verification) page(size int64) error {
	s := span{from: v.edge.size, to: min(v.edge.size+pageSize, size), rows: map[int64]Row{},
		hashes: map[int64]tlog.Hash{}, signed: map[int64][]byte{}}
	if err := v.g.l.store.View(v.ctx, func(tx ReadTx) error { return s.read(tx, v.g.tenant) }); err != nil {
		return err
	}
	for seq := s.from; seq < s.to; seq++ {
		if err := v.ctx.Err(); err != nil {
			return err
		}
		row, ok := s.rows[seq]
		if !ok {
			v.add(seq, seq, "missing", "there is no such record")
		}
		if seq%TaskWindow == 0 {
			v.begun = map[string]bool{}
		}
		var leaf tlog.Hash
		if ok {
			leaf = v.leaf(s, seq, row)
		}
		v.climb(s, seq, leaf, ok)
		if err := v.checkRoots(s.signed); err != nil {
			return err
		}
	}
	return nil
}

func (s *span) read(tx ReadTx, tenant string) error {
	err := tx.Records(tenant, "", s.from, int(s.to-s.from), func(r Row) error {
		if r.Seq < s.to {
			s.rows[r.Seq] = r
		}
		return nil
	})
	if err != nil {
		return err
	}
	first, end := tlog.StoredHashCount(s.from), tlog.StoredHashCount(s.to)
	idx := make([]int64, 0, end-first)
	for i := first; i < end; i++ {
		idx = append(idx, i)
	}
	if err := s.readHashes(tx, tenant, idx); err != nil {
		return err
	}
	for size := s.to; size > s.from; size-- {
		at, note, err := tx.Checkpoint(tenant, size)
		if errors.Is(err, record.ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		s.signed[at] = note
		size = at
	}
	return nil
}

// readHashes reads what is there: a store with a hole must still be verified.
func (s *span) readHashes(tx ReadTx, tenant string, idx []int64) error {
	hs, err := tx.Hashes(tenant, idx)
	if err == nil {
		for i, x := range idx {
			s.hashes[x] = hs[i]
		}
		return nil
	}
	if !errors.Is(err, ErrNoHash) {
		return err
	}
	if len(idx) > 1 {
		return errors.Join(s.readHashes(tx, tenant, idx[:len(idx)/2]), s.readHashes(tx, tenant, idx[len(idx)/2:]))
	}
	return nil
}

// leaf checks one record and returns the hash that the tree should go on with:
// the stored one, so that one bad record does not spoil all roots after it.
func (v *verification) leaf(s span, seq int64, row Row) tlog.Hash {
	stored, have := s.hashes[tlog.StoredHashIndex(0, seq)]
	if !have {
		v.add(seq, seq, "hash", "its leaf hash is missing")
	}
	got := tlog.RecordHash(row.Raw)
	if !have {
		stored = got
	}
	r, err := decodeCanonical(row.Raw)
	if got != stored {
		v.blame(seq, r, got)
		return stored
	}
	if err != nil {
		v.add(seq, seq, "malformed", "%v", err)
		return stored
	}
	v.checkRecord(seq, row, r)
	return stored
}

// blame says what happened to a record that does not have its leaf hash.
func (v *verification) blame(seq int64, r *raw, got tlog.Hash) {
	if r != nil && r.Seq != seq && r.Tenant == v.g.tenant {
		if h, err := v.g.hashReader(v.ctx).ReadHashes([]int64{tlog.StoredHashIndex(0, max(r.Seq, 0))}); err == nil && h[0] == got {
			v.misplaced(seq, r.Seq, got)
			return
		}
	}
	v.add(seq, seq, "changed", "its bytes do not give its leaf hash")
}

// misplaced reports a record, of hash got, that is not in its own place.
func (v *verification) misplaced(seq, own int64, got tlog.Hash) {
	what := "reordered"
	rows, err := v.g.page(v.ctx, "", own, 1)
	if err == nil && len(rows) == 1 && rows[0].Seq == own && tlog.RecordHash(rows[0].Raw) == got {
		what = "duplicate"
	}
	v.add(seq, seq, what, "record %d is in its place", own)
}

func (v *verification) checkRecord(seq int64, row Row, r *raw) {
	switch {
	case r.Tenant != v.g.tenant:
		v.add(seq, seq, "malformed", "it says it is record %d of %s", r.Seq, r.Tenant)
	case r.Seq != seq: // and its leaf hash came with it
		v.misplaced(seq, r.Seq, tlog.RecordHash(row.Raw))
	}
	if row.Type != r.Type || row.Task != r.Task || row.Agent != r.Agent {
		v.add(seq, seq, "index", "type, task or agent in the index differ from the record")
	}
	if row.First {
		v.begun[r.Task] = true
	} else if r.Task != "" && !v.begun[r.Task] {
		v.begun[r.Task] = true
		v.add(seq, seq, "index", "the index of tasks does not lead to it")
	}
	if _, err := r.entry(row.Raw); err != nil {
		v.add(seq, seq, "malformed", "%v", err)
	}
	if r.Time < v.time {
		v.add(seq, seq, "clock", "time %s is before the record before it", r.Time)
	}
	v.time = max(v.time, r.Time)
	for _, e := range r.Evidence {
		switch _, err := v.g.Payload(v.ctx, e); {
		case err == nil:
			v.rep.Payloads++
		case errors.Is(err, ErrErased):
			v.rep.Erased++
		default:
			v.add(seq, seq, "payload", "%s: %v", e.Name, err)
		}
	}
}

// climb adds a leaf to the tree and compares each inner hash that it completes
// with the stored one. The lowest difference is reported; above it the tree
// goes on with the stored hash. Those that a missing record completes went with
// it; then nothing is known of the tree until a later record completes more.
func (v *verification) climb(s span, seq int64, h tlog.Hash, present bool) {
	level, known := 0, present
	for ; seq>>level&1 == 1; level++ {
		left := tlog.StoredHashIndex(level, seq>>level-1)
		l, ok := v.edge.hashes[left]
		delete(v.edge.hashes, left)
		if known = known && ok; known {
			h = tlog.NodeHash(l, h)
		}
		stored, have := s.hashes[tlog.StoredHashIndex(level+1, seq>>(level+1))]
		low := seq >> (level + 1) << (level + 1)
		switch {
		case !have && present:
			v.add(low, seq, "hash", "an inner hash of level %d is missing", level+1)
		case have && !known:
			v.add(low, seq, "hash", "one of them is missing: the others cannot be held against their stored hash of level %d", level+1)
			h, known = stored, true
		case have && stored != h:
			v.add(low, seq, "changed", "they do not give their stored hash of level %d", level+1)
			h = stored
		}
	}
	if known {
		v.edge.hashes[tlog.StoredHashIndex(level, seq>>level)] = h
	}
	v.edge.size = seq + 1
}

// checkRoots compares the tree so far with what was signed of this size.
func (v *verification) checkRoots(signed map[int64][]byte) error {
	size := v.edge.size
	note, isSigned := signed[size]
	kept := v.kept[size]
	if !isSigned && len(kept) == 0 || !v.edge.whole() {
		return nil
	}
	root, err := v.edge.root()
	if err != nil {
		return err
	}
	last := max(size-1, v.signed)
	for _, k := range kept {
		if k != root && !v.forked {
			v.forked = true
			v.add(v.signed, last, "changed", "they do not give the root of the kept checkpoint of %d records", size)
		}
	}
	if !isSigned {
		return nil
	}
	said, want, err := v.g.openCheckpoint(note)
	switch {
	case err != nil:
		v.add(last, last, "checkpoint", "after it: %v", err)
	case said != size:
		v.add(last, last, "checkpoint", "the checkpoint of %d records is of %d", size, said)
	case v.forked:
	case want != root:
		v.forked = true
		v.add(v.signed, last, "changed", "they do not give the signed root of %d records", size)
	default:
		v.signed, v.rep.Signed = size, size
	}
	return nil
}

// end compares the end of the log with the head and the checkpoints.
func (v *verification) end(head Head) (err error) {
	n := v.edge.size
	v.rep.Size = n
	if !v.edge.whole() {
		v.add(v.signed, n-1, "hash", "a record is missing without which their tree is not known: they cannot be held against a root")
	} else if v.rep.Root, err = v.edge.root(); err != nil {
		return err
	}
	if n > 0 && v.rep.OK() && head.Time != v.time {
		v.add(n-1, n-1, "clock", "the head says %s, the record %s", head.Time, v.time)
	}
	for size := range v.kept {
		if size > n {
			v.add(n, size-1, "missing", "the kept checkpoint has %d records, the log has %d: its end was cut off, or it was put back to an older state", size, n)
		}
	}
	return v.g.l.store.View(v.ctx, func(tx ReadTx) error {
		now, err := tx.Head(v.g.tenant)
		if err != nil {
			return err
		}
		size, _, err := tx.Checkpoint(v.g.tenant, math.MaxInt64)
		if err == nil && size > now.Size {
			v.add(now.Size, size-1, "missing", "a checkpoint has %d records, the log has %d: its end was cut off", size, now.Size)
		} else if err != nil && !errors.Is(err, record.ErrNotFound) {
			return err
		}
		return tx.Records(v.g.tenant, "", now.Size, 1, func(r Row) error {
			v.add(r.Seq, r.Seq, "extra", "it is beyond the end of the log")
			return nil
		})
	})
}
