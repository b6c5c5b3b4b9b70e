package identity

import (
	"crypto/x509"
	"net"
	"sync"
	"sync/atomic"
)

// limitedListener closes connections over maxConns at once: each one holds
// descriptors of the boundary, which the workload must not use up.
type limitedListener struct {
	net.Listener
	open atomic.Int32
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) > maxConns {
			l.open.Add(-1)
			c.Close()
			continue
		}
		return &limitedConn{Conn: c, release: func() { l.open.Add(-1) }}, nil
	}
}

type limitedConn struct {
	net.Conn
	once    sync.Once
	release func()
}

func (c *limitedConn) Close() error {
	c.once.Do(c.release)
	return c.Conn.Close()
}

func concat(certs []*x509.Certificate) []byte {
	var b []byte
	for _, c := range certs {
		b = append(b, c.Raw...)
	}
	return b
}
