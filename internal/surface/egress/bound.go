package egress

import (
	"errors"
	"io"
	"sync/atomic"
)

// An answer without end would keep its session busy and fill whatever reads it.
// Both limits are of bytes as the client gets them, decompressed.
const (
	DefaultMaxAnswer = 256 << 20 // one answer
	DefaultMaxTotal  = 8 << 30   // all answers of a session, WebSocket frames included
)

var errTooLarge = errors.New("the answer is larger than the door passes on")

// allowance is what origins may still send in this session.
type allowance struct{ left atomic.Int64 }

// take reports whether n bytes more may come.
func (a *allowance) take(n int) bool { return a.left.Add(-int64(n)) >= 0 }

// bounded is a body of at most left bytes. The byte behind them is an error and
// no end: a cut answer never looks whole.
type bounded struct {
	src   io.Reader
	left  int64
	total *allowance
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.src.Read(p)
	if b.left -= int64(n); b.left < 0 || !b.total.take(n) {
		return 0, errTooLarge
	}
	return n, err
}
