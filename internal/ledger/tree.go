package ledger

import (
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// edgeIndexes are the stored hashes of the full subtrees that make up a tree
// of size records, left to right: all that is needed to extend it.
func edgeIndexes(size int64) []int64 {
	var idx []int64
	for level := bits.Len64(uint64(size)) - 1; level >= 0; level-- {
		if size>>level&1 == 1 {
			idx = append(idx, tlog.StoredHashIndex(level, size>>level-1))
		}
	}
	return idx
}

// edge is the right edge of a tree: its edgeIndexes and their hashes.
type edge struct {
	size   int64
	hashes map[int64]tlog.Hash
}

// readEdge reads the edge of a tree of size records.
func readEdge(tx ReadTx, tenant string, size int64) (edge, error) {
	idx := edgeIndexes(size)
	hs, err := tx.Hashes(tenant, idx)
	if errors.Is(err, ErrNoHash) {
		err = fmt.Errorf("%w: %w", err, errTampered)
	}
	if err != nil {
		return edge{}, err
	}
	e := edge{size: size, hashes: map[int64]tlog.Hash{}}
	for i, x := range idx {
		e.hashes[x] = hs[i]
	}
	return e, nil
}

// extend returns the hashes to store after first = StoredHashCount(e.size) for
// the leaves, and the edge that follows. It reads nothing.
func (e edge) extend(leaves []tlog.Hash) ([]tlog.Hash, edge, error) {
	r := &overlay{first: tlog.StoredHashCount(e.size), under: e.hashes}
	for i, leaf := range leaves {
		hs, err := tlog.StoredHashesForRecordHash(e.size+int64(i), leaf, r)
		if err != nil {
			return nil, edge{}, err
		}
		r.hashes = append(r.hashes, hs...)
	}
	next := edge{size: e.size + int64(len(leaves)), hashes: map[int64]tlog.Hash{}}
	idx := edgeIndexes(next.size)
	hs, err := r.ReadHashes(idx)
	if err != nil {
		return nil, edge{}, err
	}
	for i, x := range idx {
		next.hashes[x] = hs[i]
	}
	return r.hashes, next, nil
}

// whole reports whether every hash of the edge is known.
func (e edge) whole() bool { return len(e.hashes) == bits.OnesCount64(uint64(e.size)) }

// root is the root hash of the tree the edge ends.
func (e edge) root() (tlog.Hash, error) {
	return tlog.TreeHash(e.size, &overlay{first: tlog.StoredHashCount(e.size), under: e.hashes})
}

// overlay reads hashes that are not stored yet, from index first on, over the
// edge under them.
type overlay struct {
	first  int64
	hashes []tlog.Hash
	under  map[int64]tlog.Hash
}

func (o *overlay) ReadHashes(idx []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(idx))
	for i, x := range idx {
		h, ok := o.under[x]
		if n := x - o.first; n >= 0 && n < int64(len(o.hashes)) {
			h, ok = o.hashes[n], true
		}
		if !ok {
			return nil, fmt.Errorf("sallyport: internal error: hash %d is not at the edge", x)
		}
		out[i] = h
	}
	return out, nil
}
