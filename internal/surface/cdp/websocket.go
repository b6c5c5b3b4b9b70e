package cdp

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	maxFrame   = 8 << 20 // bytes of one message of the client
	writeLimit = 10 * time.Second
	// idleLimit ends a connection that sends nothing at all, not even the
	// answer to a ping, which is sent every pingEvery.
	idleLimit = 90 * time.Second
	pingEvery = 30 * time.Second
)

// Close codes (RFC 6455 section 7.4.1; 1012 and 1013 are of its registry).
const (
	closeNormal   = 1000
	closeProtocol = 1002
	closeData     = 1003
	closeUTF8     = 1007
	closePolicy   = 1008
	closeTooBig   = 1009
	closeRestart  = 1012
	closeLater    = 1013
)

// socket is the server's half of one WebSocket (RFC 6455): text messages only,
// no extension, so that no frame can grow when it is unpacked.
type socket struct {
	conn net.Conn
	r    *bufio.Reader

	mu     sync.Mutex // orders frames on conn
	closed bool
}

// closeError says why the socket is to be closed, in the peer's own terms.
type closeError struct {
	code int
	why  string
}

func (e *closeError) Error() string { return fmt.Sprintf("websocket: %s (%d)", e.why, e.code) }

// accept answers a handshake (RFC 6455 section 4.2). It refuses a request with
// an Origin: a page has no business here. also is further header fields.
func accept(w http.ResponseWriter, r *http.Request, also string) (*socket, error) {
	key := r.Header.Values("Sec-Websocket-Key")
	raw, err := base64.StdEncoding.DecodeString(strings.Join(key, ""))
	if r.Method != http.MethodGet || r.ProtoMajor != 1 || !token(r.Header.Values("Upgrade"), "websocket") ||
		!token(r.Header.Values("Connection"), "upgrade") || len(key) != 1 || err != nil || len(raw) != 16 ||
		r.Header.Get("Sec-Websocket-Version") != "13" || r.ContentLength > 0 {
		return nil, errors.New("not a websocket handshake")
	}
	sum := sha1.Sum([]byte(key[0] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("take over the connection: %w", err)
	}
	conn.SetDeadline(time.Now().Add(writeLimit))
	_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+
		base64.StdEncoding.EncodeToString(sum[:])+"\r\n"+also+"\r\n")
	if err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	return &socket{conn: conn, r: rw.Reader}, nil
}

func token(values []string, want string) bool {
	for t := range strings.SplitSeq(strings.Join(values, ","), ",") {
		if strings.EqualFold(strings.TrimSpace(t), want) {
			return true
		}
	}
	return false
}

// read returns the next text message. Pings are answered on the way.
func (s *socket) read() ([]byte, error) {
	var msg []byte
	started := false
	for {
		s.conn.SetReadDeadline(time.Now().Add(idleLimit))
		op, final, payload, err := s.frame(maxFrame - len(msg))
		if err != nil {
			return nil, err
		}
		switch op {
		case 8:
			return nil, io.EOF
		case 9:
			if err := s.write(10, payload); err != nil {
				return nil, err
			}
			continue
		case 10:
			continue
		case 0:
			if !started {
				return nil, &closeError{closeProtocol, "a continuation of nothing"}
			}
		case 1:
			if started {
				return nil, &closeError{closeProtocol, "a message inside a message"}
			}
			started = true
		default:
			return nil, &closeError{closeData, "only text messages are understood"}
		}
		if msg = append(msg, payload...); !final {
			continue
		}
		if !utf8.Valid(msg) {
			return nil, &closeError{closeUTF8, "text is not UTF-8"}
		}
		return msg, nil
	}
}

// frame reads one frame (RFC 6455 section 5.2) of at most limit bytes.
func (s *socket) frame(limit int) (op byte, final bool, payload []byte, err error) {
	var head [8]byte
	if _, err = io.ReadFull(s.r, head[:2]); err != nil {
		return
	}
	op, final = head[0]&0x0f, head[0]&0x80 != 0
	n := uint64(head[1] & 0x7f)
	switch {
	case head[0]&0x70 != 0 || op > 2 && op < 8 || op > 10:
		return 0, false, nil, &closeError{closeProtocol, "reserved bits or operation"}
	case head[1]&0x80 == 0:
		return 0, false, nil, &closeError{closeProtocol, "a client's frame is masked"}
	case op >= 8 && (n > 125 || !final):
		return 0, false, nil, &closeError{closeProtocol, "control frame"}
	}
	switch n {
	case 126:
		if _, err = io.ReadFull(s.r, head[:2]); err != nil {
			return
		}
		n = uint64(binary.BigEndian.Uint16(head[:2]))
	case 127:
		if _, err = io.ReadFull(s.r, head[:8]); err != nil {
			return
		}
		n = binary.BigEndian.Uint64(head[:8])
	}
	if n > uint64(limit) {
		return 0, false, nil, &closeError{closeTooBig, fmt.Sprintf("a message is at most %d bytes", maxFrame)}
	}
	var mask [4]byte
	if _, err = io.ReadFull(s.r, mask[:]); err != nil {
		return
	}
	payload = make([]byte, n)
	if _, err = io.ReadFull(s.r, payload); err != nil {
		return
	}
	for i := range payload {
		payload[i] ^= mask[i&3]
	}
	return op, final, payload, nil
}

// text sends one text message.
func (s *socket) text(b []byte) error { return s.write(1, b) }

func (s *socket) write(op byte, b []byte) error {
	head := make([]byte, 2, 10)
	head[0] = 0x80 | op
	switch n := len(b); {
	case n < 126:
		head[1] = byte(n)
	case n < 1<<16:
		head[1] = 126
		head = binary.BigEndian.AppendUint16(head, uint16(n))
	default:
		head[1] = 127
		head = binary.BigEndian.AppendUint64(head, uint64(n))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.put(writeLimit, head, b)
}

// put needs mu.
func (s *socket) put(limit time.Duration, parts ...[]byte) error {
	if s.closed {
		return net.ErrClosed
	}
	s.conn.SetWriteDeadline(time.Now().Add(limit))
	frame := net.Buffers(parts)
	_, err := frame.WriteTo(s.conn)
	return err
}

// close says why, and cuts the connection. To a peer that does not read what
// is being written it says nothing.
func (s *socket) close(code int, why string) {
	if s.mu.TryLock() {
		b := binary.BigEndian.AppendUint16(nil, uint16(code))
		b = append(b, why[:min(len(why), 120)]...)
		s.put(time.Second, []byte{0x88, byte(len(b))}, b)
		s.mu.Unlock()
	}
	s.cut()
}

// cut ends the connection at once.
func (s *socket) cut() {
	s.conn.Close() // first: it ends a write that holds mu
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
}
