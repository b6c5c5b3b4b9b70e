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

func (w *wire) requestLine(l string) (method, code string) {
	method, rest, ok1 := strings.Cut(l, " ")
	uri, version, ok2 := strings.Cut(rest, " ")
	if !ok1 || !ok2 || uri == "" {
		return "", "request_line"
	}
	if version != "HTTP/1.1" && (version != "HTTP/1.0" || method != "CONNECT") {
		return "", "version"
	}
	if code := checkMethod(method); code != "" {
		return "", code
	}
	for i := range len(uri) {
		if uri[i] <= ' ' || uri[i] >= 0x7f {
			return "", "target_bytes"
		}
	}
	return method, ""
}

// sameHost compares the request target with the Host field and, in a tunnel,
// with the host the tunnel was opened for.
func (w *wire) sameHost(line, host string) string {
	method, uri, _ := strings.Cut(line, " ")
	uri, _, _ = strings.Cut(uri, " ")
	want, scheme := w.tunnel, w.tunnel.scheme
	switch {
	case !w.forward:
		if method == "CONNECT" || uri[0] != '/' {
			return "target_form"
		}
	case method == "CONNECT":
		var code string
		scheme = "https"
		if want, code = parseTarget(scheme, uri); code != "" {
			return code
		}
		if !strings.Contains(uri[strings.LastIndexByte(uri, ']')+1:], ":") {
			return "port" // RFC 9110 section 9.3.6: CONNECT always names a port
		}
	default:
		var code string
		scheme = "http"
		if want, _, code = splitAbsolute(uri); code != "" {
			return code
		}
	}
	got, code := parseTarget(scheme, host)
	if code != "" {
		return code
	}
	// Some clients leave the port out of the Host of a CONNECT.
	if method == "CONNECT" && !strings.Contains(host, ":") {
		got.port = want.port
	}
	if got != want {
		return "host_mismatch"
	}
	return ""
}

// splitAbsolute reads the absolute-form target of a proxied http request.
func splitAbsolute(uri string) (target, string, string) {
	rest, ok := strings.CutPrefix(uri, "http://")
	if !ok {
		if strings.HasPrefix(uri, "/") {
			return target{}, "", "target_form"
		}
		return target{}, "", "scheme"
	}
	cut := strings.IndexAny(rest, "/?#")
	if cut < 0 {
		cut = len(rest)
	}
	t, code := parseTarget("http", rest[:cut])
	path := rest[cut:]
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return t, path, code
}

func checkMethod(m string) string {
	if m == "" || len(m) > 24 {
		return "method"
	}
	for i := range len(m) {
		if (m[i] < 'A' || m[i] > 'Z') && m[i] != '-' {
			return "method"
		}
	}
	if m == "TRACE" || m == "TRACK" {
		return "method" // they exist to reflect the request, credentials included
	}
	return ""
}

// framing is what decides where a message ends and whom it is for.
type framing struct {
	host    string
	hosts   int
	length  int64
	chunked bool
	upgrade bool
}

func readFraming(lines []string) (framing, string) {
	f := framing{length: -1}
	if len(lines) > maxFields {
		return f, "too_many_fields"
	}
	for _, l := range lines {
		if code := checkField(l); code != "" {
			return f, code
		}
		name, value, _ := strings.Cut(l, ":")
		value = strings.Trim(value, " \t")
		switch strings.ToLower(name) {
		case "host":
			f.host = value
			f.hosts++
		case "content-length":
			if f.length >= 0 {
				return f, "content_length_twice"
			}
			n, err := strconv.ParseUint(value, 10, 62)
			if err != nil || strings.Trim(value, "0123456789") != "" {
				return f, "content_length"
			}
			f.length = int64(n)
		case "transfer-encoding":
			if f.chunked || !strings.EqualFold(value, "chunked") {
				return f, "transfer_encoding"
			}
			f.chunked = true
		case "upgrade":
			f.upgrade = true
		}
	}
	if f.chunked && f.length >= 0 {
		return f, "length_and_chunked"
	}
	return f, ""
}

// checkField accepts "token:value" on one line.
func checkField(l string) string {
	if l == "" || l[0] == ' ' || l[0] == '\t' {
		return "folded_field"
	}
	name, value, ok := strings.Cut(l, ":")
	if !ok || !isToken(name) {
		return "field_name"
	}
	if !isFieldValue(value) {
		return "field_value"
	}
	return ""
}

func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"(),/:;<=>?@[\\]{}", c) >= 0 {
			return false
		}
	}
	return s != ""
}

// isFieldValue accepts visible ASCII, spaces and tabs. Other bytes are legal in
// HTTP and have no agreed reading.
func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < ' ' && c != '\t') || c >= 0x7f {
			return false
		}
	}
	return true
}
