package ledger

import "time"

// SetClock replaces the clock. Call it before appending.
func (l *Ledger) SetClock(now func() time.Time) { l.now = now }
