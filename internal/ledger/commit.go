package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport-dev/sallyport/internal/record"
)

// commitLoop commits what no caller commits itself. While a commit is on its way
// to the disk the next batch gathers; a lone draft is never kept waiting.
func (l *Ledger) commitLoop() {
	for {
		batch := l.queue.take()
		if len(batch) == 0 {
			return
		}
		l.commitBatch(batch)
		l.answer(batch)
	}
}

// answer ends the time of whoever committed the batch.
func (l *Ledger) answer(batch []*pending) {
	l.queue.done()
	for _, p := range batch {
		close(p.done)
	}
	l.poke()
}

// commitAlone commits a draft in its caller's goroutine, if nobody else wanted
// anything, and those that came meanwhile. There is one commit at a time all the
// same.
func (l *Ledger) commitAlone(p *pending) bool {
	if !l.queue.alone() {
		return false
	}
	gather()
	batch := l.queue.join(p)
	defer l.answer(batch)
	defer func() {
		// The caller's own goroutine may be one that survives panics.
		if v := recover(); v != nil {
			err := l.stop(fmt.Errorf("sallyport: internal error: commit panicked: %v", v))
			for _, p := range batch {
				p.entry, p.err = record.Entry{}, err
			}
			panic(v)
		}
	}()
	l.commitBatch(batch)
	return true
}

// growth is what a batch adds to one log.
type growth struct {
	log      *Log
	from, to Head
	rows     []Row
	blobs    []Sealed
	edge     edge // after the growth
}

// commitBatch sets entry or err of every draft in the batch.
func (l *Ledger) commitBatch(batch []*pending) {
	fail := func(err error) {
		for _, p := range batch {
			p.entry, p.err = record.Entry{}, err
		}
	}
	if err := l.Err(); err != nil {
		fail(err)
		return
	}
	var grown []*growth
	// Not the callers' contexts: one that ends must not spoil the batch.
	ctx := context.WithoutCancel(l.ctx)
	err := l.store.Update(ctx, func(tx WriteTx) (err error) {
		grown, err = l.writeBatch(tx, batch)
		return err
	})
	if errors.Is(err, ErrUnknown) {
		err = l.resolve(ctx, grown, err)
	}
	switch {
	case err == nil:
		for _, g := range grown {
			if len(g.rows) > 0 {
				g.log.edge = g.edge
			}
		}
	case errors.Is(err, ErrFatal) || errors.Is(err, ErrUnknown):
		fail(l.stop(err))
	default:
		fail(fmt.Errorf("append: nothing was kept: %w", err))
	}
}

// writeBatch writes the batch. It may run again from the start.
func (l *Ledger) writeBatch(tx WriteTx, batch []*pending) ([]*growth, error) {
	byTenant := map[string]*growth{}
	var grown []*growth
	for _, p := range batch {
		if byTenant[p.log.tenant] == nil {
			g := &growth{log: p.log}
			byTenant[p.log.tenant] = g
			grown = append(grown, g)
		}
	}
	// One order of locks for all nodes, so that none waits in a circle.
	slices.SortFunc(grown, func(a, b *growth) int { return bytes.Compare([]byte(a.log.tenant), []byte(b.log.tenant)) })
	for _, g := range grown {
		h, err := tx.Lock(g.log.tenant)
		if err != nil {
			return nil, err
		}
		g.from, g.to = h, h
	}
	for _, p := range batch {
		p.entry, p.err = record.Entry{}, nil
		if err := l.writeOne(tx, byTenant[p.log.tenant], p); err != nil {
			return nil, err
		}
	}
	for _, g := range grown {
		if len(g.rows) == 0 {
			continue
		}
		if err := g.write(tx); err != nil {
			return nil, err
		}
	}
	return grown, nil
}

// writeOne runs the draft's change and adds its record to the growth. It
// returns only errors that spoil the transaction; the draft's own go to p.err.
func (l *Ledger) writeOne(tx WriteTx, g *growth, p *pending) error {
	if p.err = p.ctx.Err(); p.err != nil {
		return nil
	}
	if len(p.blobs) > 0 {
		// The key may have been destroyed since the payloads were encrypted.
		if _, err := p.log.openKey(tx, p.raw.Task); errors.Is(err, ErrErased) {
			p.err = err
			return nil
		} else if err != nil {
			return err
		}
	}
	if p.change != nil {
		v := &view{tenant: p.log.tenant, r: tx, w: tx}
		var own error
		err := tx.Nest(func() error {
			own = runChange(p.change, v)
			if v.broken != nil {
				return v.broken
			}
			return own
		})
		if v.broken != nil {
			return v.broken
		}
		if p.err = own; own != nil {
			return nil
		}
		if err != nil {
			return err
		}
	}
	if p.internal != nil {
		if err := p.internal(tx); err != nil {
			return err
		}
	}
	now := l.now().UTC().Round(0)
	text := now.Format(timeForm)
	clamped := text < g.to.Time
	if clamped {
		var err error
		if now, err = parseTime(g.to.Time); err != nil {
			return err
		}
		text = g.to.Time
	}
	r, seq := &p.raw, g.to.Size
	b, body, err := p.form.at(seq, clamped, text)
	if err != nil {
		return err
	}
	p.entry = record.Entry{Seq: seq, Time: now, Type: r.Type, Tenant: r.Tenant, Task: r.Task, Agent: r.Agent, Actor: r.Actor,
		Evidence: r.Evidence, Body: body, Raw: b}
	g.to = Head{Size: seq + 1, Time: text}
	g.rows = append(g.rows, Row{Seq: seq, Type: r.Type, Task: r.Task, Agent: r.Agent, Raw: b})
	g.blobs = append(g.blobs, p.blobs...)
	return nil
}

// runChange turns a panic into an error: it ends one append, not the process.
func runChange(change func(record.Tx) error, tx record.Tx) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("sallyport: internal error: change panicked: %v", r)
		}
	}()
	return change(tx)
}

// write puts the growth into the transaction: payloads, then records with
// their hashes and the head.
func (g *growth) write(tx WriteTx) error {
	for _, b := range g.blobs {
		if err := tx.PutBlob(g.log.tenant, b); err != nil {
			return err
		}
	}
	base := g.log.edge
	if base.size != g.from.Size || base.hashes == nil {
		// The first batch of this process, or another node appended.
		var err error
		if base, err = readEdge(tx, g.log.tenant, g.from.Size); err != nil {
			return err
		}
	}
	leaves := make([]tlog.Hash, len(g.rows))
	for i, row := range g.rows {
		leaves[i] = tlog.RecordHash(row.Raw)
	}
	hashes, next, err := base.extend(leaves)
	if err != nil {
		return err
	}
	g.edge = next
	return tx.Append(g.log.tenant, g.to, g.rows, tlog.StoredHashCount(g.from.Size), hashes)
}

// Limits of the search for a lost answer.
const (
	resolveTries = 60
	resolvePause = 250 * time.Millisecond
)

// resolve finds out whether a batch was committed after its answer was lost.
// Taking the lock waits for the lost transaction to end either way; then the
// record at our place is ours or is not: its random id decides. The batch is
// one transaction, so one record stands for all.
func (l *Ledger) resolve(ctx context.Context, grown []*growth, cause error) error {
	i := slices.IndexFunc(grown, func(g *growth) bool { return len(g.rows) > 0 })
	if i < 0 {
		// Nothing but refused drafts: each has its answer already.
		return nil
	}
	g := grown[i]
	var err error
	for try := range resolveTries {
		if try > 0 {
			time.Sleep(resolvePause)
		}
		ours := false
		err = l.store.Update(ctx, func(tx WriteTx) error {
			ours = false
			if _, err := tx.Lock(g.log.tenant); err != nil {
				return err
			}
			return tx.Records(g.log.tenant, "", g.rows[0].Seq, 1, func(r Row) error {
				ours = r.Seq == g.rows[0].Seq && bytes.Equal(r.Raw, g.rows[0].Raw)
				return nil
			})
		})
		switch {
		case err == nil && ours:
			return nil
		case err == nil:
			return fmt.Errorf("the database gave up the transaction: %s", cause)
		case errors.Is(err, ErrFatal):
			return errors.Join(cause, err)
		}
	}
	return errors.Join(cause, err) // still ErrUnknown: stop
}
