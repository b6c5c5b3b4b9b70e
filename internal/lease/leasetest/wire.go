package leasetest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Wire is a relay between a source and its upstream, which can be cut.
type Wire struct {
	l               net.Listener
	network, target string

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	down  bool
	steps int64 // messages towards the upstream so far, since CutAt
	cutAt int64 // 0 is never
	after bool  // the message still arrives; its answer does not
}

// NewWire relays what l accepts. It ends with the test.
func NewWire(t testing.TB, l net.Listener, network, target string) *Wire {
	w := &Wire{l: l, network: network, target: target, conns: map[net.Conn]struct{}{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { w.relay(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		w.Down()
		wg.Wait()
	})
	return w
}

// Down cuts everything until Restore.
func (w *Wire) Down() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut()
}

func (w *Wire) cut() {
	w.down = true
	for c := range w.conns {
		c.Close()
	}
}

// CutAt goes down at the n-th message towards the upstream from now on: before it
// arrives, or after.
func (w *Wire) CutAt(n int64, after bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.steps, w.cutAt, w.after = 0, n, after
	for c := range w.conns { // what was said before would shift the count
		c.Close()
	}
}

// Restore undoes Down and CutAt, and says whether it was down.
func (w *Wire) Restore() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.down
	w.down, w.cutAt = false, 0
	return was
}

// add keeps a connection to be cut; false means that it is cut already.
func (w *Wire) add(cs ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range cs {
		if w.down {
			return false
		}
		w.conns[c] = struct{}{}
	}
	return true
}

func (w *Wire) relay(c net.Conn) {
	defer c.Close()
	w.mu.Lock()
	down := w.down
	w.mu.Unlock()
	if down {
		return
	}
	up, err := net.Dial(w.network, w.target)
	if err != nil {
		return
	}
	defer up.Close()
	if !w.add(c, up) {
		return
	}
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.conns, c)
		delete(w.conns, up)
	}()
	go func() {
		defer c.Close()
		io.Copy(c, up)
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		if n > 0 && !w.pass(up, buf[:n]) || err != nil {
			return
		}
	}
}

func (w *Wire) pass(up net.Conn, b []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.steps++
	hit := w.cutAt > 0 && w.steps == w.cutAt
	if hit && !w.after || w.down {
		w.cut()
		return false
	}
	_, err := up.Write(b)
	if hit {
		// The upstream's half stays open for as long as it takes to be read.
		if cw, ok := up.(interface{ CloseWrite() error }); ok {
			cw.CloseWrite()
			delete(w.conns, up)
		}
		w.cut()
		return false
	}
	return err == nil
}
