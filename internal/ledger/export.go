package ledger

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/receipt"
)

// Filter selects records for an export. The zero value selects all, which
// makes a complete bundle.
type Filter struct {
	Task     string
	From, To int64 // records From to To-1; To 0 is the end
	// Only, if not nil, are the numbers of the records that are wanted.
	Only map[int64]bool
}

func (f Filter) all() bool { return f.Task == "" && f.From == 0 && f.To == 0 && f.Only == nil }

// Export writes a bundle (package receipt) of the selected records as of now.
// extra, which may be nil, adds people, keys, approvals, statements and
// documents, in that order. What was written before an error is no bundle.
func (g *Log) Export(ctx context.Context, w io.Writer, f Filter, extra func(*receipt.Writer) error) error {
	if err := g.export(ctx, w, f, extra); err != nil {
		return fmt.Errorf("export %s: %w", g.tenant, err)
	}
	return nil
}

func (g *Log) export(ctx context.Context, w io.Writer, f Filter, extra func(*receipt.Writer) error) error {
	cp, err := g.sign(ctx)
	if err != nil {
		return err
	}
	size, _, err := g.openCheckpoint(cp)
	if err != nil {
		return err
	}
	out, err := receipt.NewWriter(w, receipt.Header{Tenant: g.tenant, Origin: g.key.Origin, Key: g.key.Verifier,
		Checkpoint: string(cp), Complete: f.all(), Made: g.l.now().UTC().Format(time.RFC3339)}, g.signer.Sign)
	if err != nil {
		return err
	}
	end := size
	if f.To > 0 {
		end = min(end, f.To)
	}
	stop := fmt.Errorf("end")
	err = g.entries(ctx, f.Task, f.From, func(e record.Entry) error {
		if e.Seq >= end {
			return stop
		}
		if f.Only != nil && !f.Only[e.Seq] {
			return nil
		}
		if f.all() {
			return out.Record(e.Raw, nil)
		}
		p, err := g.proveIn(ctx, e.Seq, cp)
		if err != nil {
			return err
		}
		return out.Record(p.Raw, p.Proof)
	})
	if err != nil && err != stop {
		return err
	}
	if extra != nil {
		if err := extra(out); err != nil {
			return err
		}
	}
	return out.Close()
}
