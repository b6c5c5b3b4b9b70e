package identity

import (
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
)

// ListenWorkload makes the socket of one session at path, which must not
// exist. The folder must be closed to everyone else (mode 0700), so that the
// socket is reachable only where it is mounted; the socket itself is open to
// all, since the uid of the workload is not known before it is launched, and
// Attestor decides who gets something. Closing the listener removes the file.
func ListenWorkload(path string) (net.Listener, error) {
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("workload socket: %w", err)
	}
	if dir.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("workload socket: folder of %s is open to others (mode %v)", path, dir.Mode().Perm())
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("workload socket: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, fmt.Errorf("workload socket: %w", err)
	}
	return l, nil
}

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
