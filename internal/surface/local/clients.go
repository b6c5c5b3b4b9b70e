package local

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// closeTimeout bounds how long Close waits for clients that were cut.
const closeTimeout = 10 * time.Second

// Clients are the listeners and connections of a door that speaks no HTTP: they
// are cut together, and none is taken afterwards. The zero value has none.
type Clients struct {
	mu      sync.Mutex
	closed  bool
	open    map[io.Closer]struct{}
	running sync.WaitGroup
}

// Serve accepts clients from l until l or all of them are closed; each is closed
// when client returns. It returns nil after Close.
func (c *Clients) Serve(l net.Listener, client func(net.Conn)) error {
	if !c.add(l) {
		return nil
	}
	defer c.remove(l)
	for {
		conn, err := l.Accept()
		if err != nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.closed {
				return nil
			}
			return err
		}
		if c.add(conn) {
			go func() {
				defer c.remove(conn)
				client(conn)
			}()
		}
	}
}

// Close cuts every connection and returns when none is left.
func (c *Clients) Close() error {
	c.mu.Lock()
	c.closed = true
	for x := range c.open {
		x.Close()
	}
	c.mu.Unlock()
	done := make(chan struct{})
	go func() { c.running.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-time.After(closeTimeout):
		return errors.New("a connection did not end in time")
	}
}

// add keeps what Close has to close; false means that it is closed already.
func (c *Clients) add(x io.Closer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		x.Close()
		return false
	}
	if c.open == nil {
		c.open = map[io.Closer]struct{}{}
	}
	c.open[x] = struct{}{}
	c.running.Add(1)
	return true
}

func (c *Clients) remove(x io.Closer) {
	x.Close()
	c.mu.Lock()
	delete(c.open, x)
	c.mu.Unlock()
	c.running.Done()
}
