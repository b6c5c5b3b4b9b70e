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
	do    func()
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
func (w *Wire) CutAt(n int64, after bool) { w.At(n, after, func() {}) }

// At is CutAt that also calls do, which must not wait for the wire.
func (w *Wire) At(n int64, after bool, do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.steps, w.cutAt, w.after, w.do = 0, n, after, do
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

// Steps are the messages towards the upstream since CutAt or At.
func (w *Wire) Steps() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.steps
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
	if hit && !w.after {
		w.do()
	}
	if hit && !w.after || w.down {
		w.cut()
		return false
	}
	_, err := up.Write(b)
	if hit {
		w.do()
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
