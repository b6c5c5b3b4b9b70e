package identity

import "sync"

// news wakes everybody who waits for a change. The zero value is ready.
type news struct {
	mu sync.Mutex
	c  chan struct{}
}

// wait returns what is closed at the next tell. Who takes it before looking
// misses nothing.
func (n *news) wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.c == nil {
		n.c = make(chan struct{})
	}
	return n.c
}

func (n *news) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.c != nil {
		close(n.c)
		n.c = nil
	}
}
