package ledger

import "time"

// SetClock replaces the clock. Call it before appending.
func (l *Ledger) SetClock(now func() time.Time) { l.now = now }

// DataKeys is how many data keys are in memory, and how many may be.
func (g *Log) DataKeys() (n, limit int) {
	g.keyMu.Lock()
	defer g.keyMu.Unlock()
	return len(g.dataKeys), maxDataKeys
}
