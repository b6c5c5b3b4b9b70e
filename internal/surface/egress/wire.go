package egress

import (
	"bytes"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/sallyport-dev/sallyport/internal/gate"
)

// Limits of one HTTP/1.1 message head and of the lines of a chunked body.
const (
	maxHead   = 64 << 10 // bytes of request line and fields
	maxFields = 200
	maxLine   = 4 << 10 // bytes of a chunk-size line or a trailer section
)

// errMalformed ends a connection whose bytes have more than one reading. It was
// recorded when it was found.
// It looks like a network error, so that net/http adds no answer of its own.
var errMalformed = &net.OpError{Op: "read", Net: "http", Err: errors.New("malformed http/1.1")}

// wire is a client connection that hands on HTTP/1.1 only after it has read it
// strictly (RFC 9112), so that the server behind it never has to choose between
// two readings. net/http forgives bare LF, folded fields and a Host that differs
// from the target; wire does not.
//
// Read is called by one goroutine at a time, as net/http does.
type wire struct {
	net.Conn
	forward bool // true on the proxy port: absolute form and CONNECT; false in a tunnel: origin form
	// refuse is told once of the code and the bytes. answer is false while a
	// response is being written by another goroutine.
	refuse func(w *wire, code string, raw []byte, answer bool)
	tunnel target // what CONNECT named; zero on the proxy port

	in    []byte // read, not yet checked
	out   []byte // checked, not yet handed on
	state wireState
	left  int64 // bytes of body or chunk still to come
	fail  error // sticky
	// denial is what the gate said of fail. It is read by the handler whose body
	// read met fail.
	denial *gate.Result
	// open counts heads handed on whose responses are not complete.
	open atomic.Int64
	// raw is set when the connection was taken over and is no longer HTTP.
	raw atomic.Bool
}

type wireState int

const (
	inBody wireState = iota - 1
	inHead
	inChunkSize
	inChunk
	inChunkEnd
	inTrailer
	awaiting // CONNECT or Upgrade: the client must be silent until it is answered
)

func (w *wire) Read(p []byte) (int, error) {
	for {
		if len(w.out) > 0 {
			n := copy(p, w.out)
			w.out = w.out[n:]
			return n, nil
		}
		if w.raw.Load() {
			if len(w.in) > 0 {
				n := copy(p, w.in)
				w.in = w.in[n:]
				return n, nil
			}
			return w.Conn.Read(p)
		}
		if w.fail != nil {
			return 0, w.fail
		}
		if code := w.check(); code != "" {
			w.fail = errMalformed
			w.refuse(w, code, w.in, w.open.Load() == 0)
			continue
		}
		if len(w.out) > 0 {
			continue
		}
		// p is not used as the buffer: what it receives must have been checked.
		buf := make([]byte, 4096)
		n, err := w.Conn.Read(buf)
		w.in = append(w.in, buf[:n]...)
		if n == 0 && err != nil {
			return 0, err // not sticky: net/http uses deadlines to stop a read
		}
	}
}

// check moves what can be vouched for from in to out, or returns a code.
func (w *wire) check() string {
	for len(w.in) > 0 {
		var need bool
		var code string
		switch w.state {
		case inHead:
			need, code = w.head()
		case inBody, inChunk:
			n := min(w.left, int64(len(w.in)))
			w.pass(int(n))
			if w.left -= n; w.left == 0 {
				w.state++ // inBody to inHead, inChunk to inChunkEnd
			}
		case inChunkSize, inChunkEnd, inTrailer:
			need, code = w.chunkLine()
		case awaiting:
			return "data_before_answer"
		}
		if need || code != "" {
			return code
		}
		if len(w.out) > 0 && w.state == inHead {
			return "" // one message at a time: the next one waits until this one is read
		}
	}
	return ""
}

func (w *wire) pass(n int) {
	w.out = append(w.out, w.in[:n]...)
	w.in = w.in[n:]
}

// line returns the length of the CRLF-ended line at the start of in, without
// its end, or -1 if more bytes are needed.
func (w *wire) line(limit int) (int, string) {
	i := bytes.IndexByte(w.in, '\n')
	if i < 0 {
		if len(w.in) > limit {
			return 0, "line_too_long"
		}
		return -1, ""
	}
	if i == 0 || w.in[i-1] != '\r' {
		return 0, "bare_lf"
	}
	if i > limit {
		return 0, "line_too_long"
	}
	return i - 1, ""
}

func (w *wire) chunkLine() (need bool, code string) {
	n, code := w.line(maxLine)
	if n < 0 || code != "" {
		return n < 0, code
	}
	l := string(w.in[:n])
	switch w.state {
	case inChunkEnd:
		if n != 0 {
			return false, "chunk_end"
		}
		w.state = inChunkSize
	case inTrailer:
		// Trailers are read strictly and dropped: nothing decides on them.
		if n == 0 {
			w.state = inHead
		} else if code := checkField(l); code != "" {
			return false, code
		}
		if w.left += int64(n); w.left > maxLine {
			return false, "line_too_long"
		}
		if n != 0 {
			w.in = w.in[n+2:]
			return false, ""
		}
	default:
		// Chunk extensions have no meaning to anybody and are read differently.
		size, err := strconv.ParseUint(l, 16, 32)
		if err != nil || len(l) > 8 || !isHex(l[0]) {
			return false, "chunk_size"
		}
		w.left, w.state = int64(size), inChunk
		if size == 0 {
			w.state = inTrailer
		}
	}
	w.pass(n + 2)
	return false, ""
}

// head checks one complete request head.
func (w *wire) head() (need bool, code string) {
	end := bytes.Index(w.in, []byte("\r\n\r\n"))
	if end < 0 {
		if len(w.in) > maxHead {
			return false, "head_too_large"
		}
		// Found early, so that a client that never sends CRLF is told.
		if i := bytes.IndexByte(w.in, '\n'); i >= 0 && (i == 0 || w.in[i-1] != '\r') {
			return false, "bare_lf"
		}
		return true, ""
	}
	if end > maxHead {
		return false, "head_too_large"
	}
	lines := strings.Split(string(w.in[:end]), "\r\n")
	method, code := w.requestLine(lines[0])
	if code != "" {
		return false, code
	}
	f, code := readFraming(lines[1:])
	if code != "" {
		return false, code
	}
	// Python before 3.12 opens tunnels with HTTP/1.0 and without Host.
	if f.hosts == 0 && method == "CONNECT" && w.forward {
		f.host, f.hosts = strings.Fields(lines[0])[1], 1
	}
	if f.hosts != 1 {
		return false, "host_count"
	}
	if code := w.sameHost(lines[0], f.host); code != "" {
		return false, code
	}
	last := method == "CONNECT" || f.upgrade
	if last && (f.chunked || f.length > 0) {
		return false, "body_with_upgrade"
	}
	w.pass(end + 4)
	w.open.Add(1)
	switch {
	case last:
		w.state = awaiting
	case f.chunked:
		w.state, w.left = inChunkSize, 0
	case f.length > 0:
		w.state, w.left = inBody, f.length
	}
	return false, ""
}
