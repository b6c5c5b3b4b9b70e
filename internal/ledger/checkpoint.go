package ledger

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport-dev/sallyport/internal/record"
)

// signEvery is how long growth may wait for a checkpoint, which gathers what
// is appended meanwhile. With the time to sign it stays under the promised 1 s.
const signEvery = 400 * time.Millisecond

// tip is the newest tree that was read back, hashed and signed.
type tip struct {
	edge edge
	root tlog.Hash
	note []byte // nil when nothing is signed yet
}

// signer signs notes with an Ed25519 key (C2SP signed-note).
type signer struct {
	name string
	hash uint32
	key  ed25519.PrivateKey
}

func (s *signer) Name() string                    { return s.name }
func (s *signer) KeyHash() uint32                 { return s.hash }
func (s *signer) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.key, msg), nil }

func (g *Log) setKey(k logKey) error {
	seed, err := g.sealer.Open("log key "+k.Origin, k.Sealed)
	if err != nil {
		return fmt.Errorf("log key: %w", err)
	}
	defer clear(seed)
	if len(seed) != ed25519.SeedSize {
		return errors.New("log key: not an Ed25519 seed")
	}
	priv := ed25519.NewKeyFromSeed(seed)
	vkey, err := note.NewEd25519VerifierKey(k.Origin, priv.Public().(ed25519.PublicKey))
	if err != nil {
		return fmt.Errorf("log key: %w", err)
	}
	if vkey != k.Verifier {
		return fmt.Errorf("log key: the stored verifier key is not of the sealed key: %w", errTampered)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return fmt.Errorf("log key: %w", err)
	}
	g.key, g.verifier, g.signer = k, v, &signer{name: k.Origin, hash: v.KeyHash(), key: priv}
	return nil
}

// checkpointText is the body of a C2SP tlog-checkpoint.
func checkpointText(origin string, size int64, root tlog.Hash) string {
	return fmt.Sprintf("%s\n%d\n%s\n", origin, size, root)
}

// openCheckpoint verifies a note of this log and returns its tree.
func (g *Log) openCheckpoint(b []byte) (size int64, root tlog.Hash, err error) {
	n, err := note.Open(b, note.VerifierList(g.verifier))
	if err != nil {
		return 0, root, fmt.Errorf("checkpoint: %w", err)
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) != 4 || lines[0] != g.key.Origin {
		return 0, root, fmt.Errorf("checkpoint: not of log %s", g.key.Origin)
	}
	size, err = strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 {
		return 0, root, fmt.Errorf("checkpoint: size %q", lines[1])
	}
	h, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(h) != tlog.HashSize {
		return 0, root, fmt.Errorf("checkpoint: root %q", lines[2])
	}
	copy(root[:], h)
	if checkpointText(g.key.Origin, size, root) != n.Text {
		return 0, root, errors.New("checkpoint: not in canonical form")
	}
	return size, root, nil
}

// loadEdge starts from the newest stored checkpoint: its signature must be
// ours and the stored hashes must give its root.
func (g *Log) loadEdge(ctx context.Context) error {
	return g.l.store.View(ctx, func(tx ReadTx) error {
		h, err := tx.Head(g.tenant)
		if err != nil {
			return err
		}
		size, b, err := tx.Checkpoint(g.tenant, math.MaxInt64)
		if errors.Is(err, record.ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		said, root, err := g.openCheckpoint(b)
		if err != nil {
			return err
		}
		if said != size || h.Size < size {
			return fmt.Errorf("checkpoint over %d records, log has %d: %w", said, h.Size, errTampered)
		}
		e, err := readEdge(tx, g.tenant, size)
		if err != nil {
			return err
		}
		have, err := e.root()
		if err != nil {
			return err
		}
		if have != root {
			return fmt.Errorf("stored hashes do not give the signed root of %d records: %w", size, errTampered)
		}
		g.tip = tip{edge: e, root: root, note: b}
		return nil
	})
}

// sign makes a checkpoint over all records there are. It reads the new records
// back, hashes them and extends the signed tree with them, so that what it
// signs is consistent with what it signed before; and the stored hashes must
// agree.
func (g *Log) sign(ctx context.Context) ([]byte, error) {
	g.signing.Lock()
	defer g.signing.Unlock()
	if err := g.l.Err(); err != nil && !g.l.readOnly {
		return nil, err
	}
	next := g.tip
	var head Head
	err := g.l.store.View(ctx, func(tx ReadTx) (err error) {
		head, err = tx.Head(g.tenant)
		return err
	})
	if err != nil {
		return nil, err
	}
	if head.Size == g.tip.edge.size && g.tip.note != nil {
		return g.tip.note, nil
	}
	for next.edge.size < head.Size {
		if next.edge, err = g.readBack(ctx, next.edge, head.Size); err != nil {
			return nil, err
		}
	}
	if next.root, err = next.edge.root(); err != nil {
		return nil, err
	}
	text := checkpointText(g.key.Origin, head.Size, next.root)
	if next.note, err = note.Sign(&note.Note{Text: text}, g.signer); err != nil {
		return nil, err
	}
	agree := func(tx ReadTx) error {
		stored, err := readEdge(tx, g.tenant, head.Size)
		if err != nil {
			return err
		}
		if root, err := stored.root(); err != nil || root != next.root {
			return errors.Join(err, fmt.Errorf("stored hashes of %d records do not agree with the records: %w", head.Size, errTampered))
		}
		return nil
	}
	if g.l.readOnly {
		err = g.l.store.View(ctx, agree)
	} else {
		err = g.l.store.Update(ctx, func(tx WriteTx) error {
			if err := agree(tx); err != nil {
				return err
			}
			return tx.PutCheckpoint(g.tenant, head.Size, next.note)
		})
	}
	// An unknown commit is harmless here: the note is the same each time.
	if err != nil && !errors.Is(err, ErrUnknown) {
		return nil, g.l.check(err)
	}
	g.tip = next
	return next.note, nil
}

// readBack extends e by one page of records.
func (g *Log) readBack(ctx context.Context, e edge, size int64) (edge, error) {
	rows, err := g.page(ctx, "", e.size, int(min(pageSize, size-e.size)))
	if err != nil {
		return e, err
	}
	if len(rows) == 0 {
		return e, fmt.Errorf("record %d is missing: %w", e.size, errTampered)
	}
	leaves := make([]tlog.Hash, len(rows))
	for i, row := range rows {
		if row.Seq != e.size+int64(i) {
			return e, fmt.Errorf("record %d is missing: %w", e.size+int64(i), errTampered)
		}
		leaves[i] = tlog.RecordHash(row.Raw)
	}
	_, next, err := e.extend(leaves)
	return next, err
}

// signLoop keeps every log's checkpoint at most 1 s behind. It ends after a
// last round when the ledger closes.
func (l *Ledger) signLoop() {
	for {
		select {
		case <-l.grown:
		case <-l.ctx.Done():
			l.signAll(context.WithoutCancel(l.ctx))
			return
		}
		l.signAll(l.ctx)
		select {
		case <-time.After(signEvery):
		case <-l.ctx.Done():
		}
	}
}

func (l *Ledger) signAll(ctx context.Context) {
	l.mu.Lock()
	logs := make([]*Log, 0, len(l.logs))
	for _, g := range l.logs {
		logs = append(logs, g)
	}
	l.mu.Unlock()
	for _, g := range logs {
		_, err := g.sign(ctx)
		switch {
		case errors.Is(err, errTampered):
			l.stop(fmt.Errorf("tenant %s: %w", g.tenant, err))
		case err != nil && ctx.Err() == nil && l.Err() == nil:
			l.poke() // a passing fault: try again
		}
	}
}

// Head is the size of the log now, in records.
func (g *Log) Head(ctx context.Context) (Head, error) {
	var h Head
	err := g.l.store.View(ctx, func(tx ReadTx) (err error) {
		h, err = tx.Head(g.tenant)
		return err
	})
	return h, err
}

// Checkpoint returns the newest signed checkpoint, at most 1 s old. The empty
// log has one too.
func (g *Log) Checkpoint(ctx context.Context) ([]byte, error) {
	var b []byte
	err := g.l.store.View(ctx, func(tx ReadTx) (err error) {
		_, b, err = tx.Checkpoint(g.tenant, math.MaxInt64)
		return err
	})
	if errors.Is(err, record.ErrNotFound) {
		return g.sign(ctx)
	}
	return b, err
}

// CheckpointNow is Checkpoint over every record acknowledged before the call.
func (g *Log) CheckpointNow(ctx context.Context) ([]byte, error) { return g.sign(ctx) }

// hashReader reads stored hashes, each call in a transaction of its own:
// stored hashes never change.
func (g *Log) hashReader(ctx context.Context) tlog.HashReader {
	return tlog.HashReaderFunc(func(idx []int64) (hs []tlog.Hash, err error) {
		err = g.l.store.View(ctx, func(tx ReadTx) error {
			hs, err = tx.Hashes(g.tenant, idx)
			return err
		})
		return hs, err
	})
}

// Inclusion proves that one record is in the tree of a checkpoint.
type Inclusion struct {
	Seq        int64
	Raw        []byte           // the record
	Proof      tlog.RecordProof // from the record up to the root (RFC 9162 section 2.1.3)
	Checkpoint []byte
}

// ProveInclusion proves the record at seq against a checkpoint that covers it.
func (g *Log) ProveInclusion(ctx context.Context, seq int64) (Inclusion, error) {
	cp, err := g.sign(ctx)
	if err != nil {
		return Inclusion{}, fmt.Errorf("prove record %d: %w", seq, err)
	}
	return g.proveIn(ctx, seq, cp)
}

func (g *Log) proveIn(ctx context.Context, seq int64, cp []byte) (Inclusion, error) {
	size, root, err := g.openCheckpoint(cp)
	if err != nil {
		return Inclusion{}, fmt.Errorf("prove record %d: %w", seq, err)
	}
	if seq < 0 || seq >= size {
		return Inclusion{}, fmt.Errorf("prove record %d: the log has %d: %w", seq, size, record.ErrNotFound)
	}
	rows, err := g.page(ctx, "", seq, 1)
	if err != nil {
		return Inclusion{}, fmt.Errorf("prove record %d: %w", seq, err)
	}
	if len(rows) == 0 || rows[0].Seq != seq {
		return Inclusion{}, fmt.Errorf("prove record %d: it is missing: %w", seq, errTampered)
	}
	p, err := tlog.ProveRecord(size, seq, g.hashReader(ctx))
	if err != nil {
		return Inclusion{}, fmt.Errorf("prove record %d: %w", seq, err)
	}
	if err := tlog.CheckRecord(p, size, root, seq, tlog.RecordHash(rows[0].Raw)); err != nil {
		return Inclusion{}, fmt.Errorf("prove record %d: %w: %w", seq, err, errTampered)
	}
	return Inclusion{Seq: seq, Raw: rows[0].Raw, Proof: p, Checkpoint: cp}, nil
}

// Consistency proves that the tree of size to extends the tree of size from
// (RFC 9162 section 2.1.4). from must be at least 1.
func (g *Log) Consistency(ctx context.Context, from, to int64) (tlog.TreeProof, error) {
	h, err := g.Head(ctx)
	if err != nil {
		return nil, err
	}
	if from < 1 || from > to || to > h.Size {
		return nil, fmt.Errorf("prove consistency: sizes %d and %d, the log has %d", from, to, h.Size)
	}
	return tlog.ProveTree(to, from, g.hashReader(ctx))
}
