package identity

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
)

// Peer is the process at the other end of a Unix socket, as the kernel names
// it when it connected: ids of this host's namespaces, whatever namespaces the
// caller is in. It holds a pidfd, so that the pid cannot come to mean another
// process unnoticed.
type Peer struct {
	PID int32
	UID uint32
	GID uint32
	fd  *os.File
}

// Alive reports whether the process that connected still runs. What was read
// from /proc/PID is about that process only if Alive says yes afterwards: a
// pid is not reused while its process has not been reaped.
func (p Peer) Alive() error {
	gone := refuse("process_gone", "the process that connected has ended")
	if p.fd == nil || p.PID <= 0 {
		return gone
	}
	c, err := p.fd.SyscallConn()
	if err != nil {
		return gone
	}
	alive := false
	err = c.Control(func(fd uintptr) {
		for {
			// A pidfd is readable once its process has ended (pidfd_open(2)).
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			if err == unix.EINTR {
				continue
			}
			alive = err == nil && n == 0
			return
		}
	})
	if err != nil || !alive {
		return gone
	}
	return nil
}

// namespace returns the inode of one of the peer's namespaces ("net", "pid").
func (p Peer) namespace(kind string) (uint64, error) {
	return namespaceOf(int(p.PID), kind)
}

func namespaceOf(pid int, kind string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/"+strconv.Itoa(pid)+"/ns/"+kind, &st); err != nil {
		return 0, fmt.Errorf("%s namespace of process %d: %w", kind, pid, err)
	}
	return st.Ino, nil
}

// peerOf asks the kernel who connected: SO_PEERCRED, and SO_PEERPIDFD (Linux
// 6.5) for the very process that connected. On an older kernel the pidfd is
// opened by pid: between connect and accept the pid could have been reused, so
// there the pidfd proves less; the namespace and the uid are checked anyway.
func peerOf(conn net.Conn) (Peer, error) {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return Peer{}, errors.New("not a Unix socket")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var cred *unix.Ucred
	var credErr, fdErr error
	fd := -1
	err = raw.Control(func(s uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(s), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if credErr == nil {
			fd, fdErr = unix.GetsockoptInt(int(s), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		}
	})
	if err = errors.Join(err, credErr); err != nil {
		return Peer{}, fmt.Errorf("peer credentials: %w", err)
	}
	if cred.Pid <= 0 { // not visible from our pid namespace
		return Peer{}, errors.New("peer has no pid here")
	}
	p := Peer{PID: cred.Pid, UID: cred.Uid, GID: cred.Gid}
	if errors.Is(fdErr, unix.ENOPROTOOPT) {
		fd, fdErr = openPidfd(p)
	}
	if fdErr != nil {
		return Peer{}, fmt.Errorf("pidfd of process %d: %w", p.PID, fdErr)
	}
	unix.CloseOnExec(fd)
	p.fd = os.NewFile(uintptr(fd), "pidfd")
	return p, nil
}

// openPidfd opens a pidfd by pid, and refuses a process of another uid.
func openPidfd(p Peer) (int, error) {
	fd, err := unix.PidfdOpen(int(p.PID), 0)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/"+strconv.Itoa(int(p.PID)), &st); err != nil || st.Uid != p.UID {
		unix.Close(fd)
		return -1, errors.New("the pid belongs to another process")
	}
	return fd, nil
}

// peerAuth is what gRPC keeps of a connection.
type peerAuth struct {
	credentials.CommonAuthInfo
	peer Peer
}

func (peerAuth) AuthType() string { return "unix-peer" }

// peerConn closes the pidfd with the connection.
type peerConn struct {
	net.Conn
	fd *os.File
}

func (c *peerConn) Close() error { return errors.Join(c.Conn.Close(), c.fd.Close()) }

// peerCredentials makes gRPC ask the kernel instead of the caller. It is for
// the server's side only.
type peerCredentials struct{}

var _ credentials.TransportCredentials = peerCredentials{}

func (peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	inner := conn
	if l, ok := conn.(*limitedConn); ok {
		inner = l.Conn
	}
	p, err := peerOf(inner)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return &peerConn{conn, p.fd}, peerAuth{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, peer: p,
	}, nil
}

func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("peer credentials are for servers")
}

func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix-peer"}
}

func (c peerCredentials) Clone() credentials.TransportCredentials { return c }

func (peerCredentials) OverrideServerName(string) error { return nil }
