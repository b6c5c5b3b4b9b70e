package egress

import (
	"bufio"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/surface/local"
)

// maxFrame bounds one WebSocket frame in bytes.
const maxFrame = 64 << 20

// upgradeOf reports whether r is a WebSocket handshake (RFC 6455 section 4.2.1).
// No other protocol can be upgraded to.
func upgradeOf(r *http.Request) (bool, string) {
	up := r.Header.Values("Upgrade")
	if len(up) == 0 {
		return false, ""
	}
	if len(up) != 1 || !strings.EqualFold(up[0], "websocket") {
		return false, "upgrade_protocol"
	}
	connection := false
	for t := range strings.SplitSeq(strings.Join(r.Header.Values("Connection"), ","), ",") {
		connection = connection || strings.EqualFold(strings.TrimSpace(t), "upgrade")
	}
	keys, versions := r.Header.Values("Sec-Websocket-Key"), r.Header.Values("Sec-Websocket-Version")
	if r.Method != "GET" || r.ProtoMajor != 1 || !connection || len(keys) != 1 || len(versions) != 1 || versions[0] != "13" {
		return false, "upgrade_handshake"
	}
	if k, err := base64.StdEncoding.DecodeString(keys[0]); err != nil || len(k) != 16 {
		return false, "upgrade_handshake"
	}
	return true, ""
}

// webSocketHeader completes the outgoing handshake. No extensions are offered:
// a secret could hide in compressed frames.
func webSocketHeader(h http.Header) {
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", "websocket")
	h.Del("Sec-Websocket-Extensions")
	h.Del("Accept-Encoding")
}

// relay passes frames until one side closes or ctx ends. The handshake was the
// action; what it let through ends with it.
func (x *exchange) relay(ctx context.Context, resp *http.Response) action.Outcome {
	up, ok := resp.Body.(io.ReadWriteCloser)
	client, isWire := x.in.conn.(*wire)
	if !ok || !isWire || !x.in.websocket || !accepted(x.out, resp) {
		x.code = "upgrade_refused"
		return action.Outcome{State: action.Done, Status: resp.StatusCode, Detail: x.code}
	}
	outcome := action.Outcome{State: action.Done, Status: resp.StatusCode}
	if _, _, err := http.NewResponseController(x.w).Hijack(); err != nil || client.fail != nil {
		outcome.Detail = "client_gone"
		x.started = true
		client.Close()
		return outcome
	}
	x.started = true
	client.raw.Store(true)
	cut := func() { up.Close(); client.sever() }
	defer cut()
	defer local.OnDone(ctx, cut)()
	h := http.Header{}
	copyResponseHeader(h, resp.Header, !x.rec.OwnCredentials, x.p.scrubber())
	h.Del("Content-Type")
	h.Del("Date")
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", "websocket")
	var head strings.Builder
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	h.Write(&head)
	head.WriteString("\r\n")
	if _, err := io.WriteString(client, head.String()); err != nil {
		return outcome
	}
	sent, misplaced := make(chan struct{}), false
	go func() {
		defer close(sent)
		defer cut()
		misplaced = errors.Is(frames(up, client, true, nil), errMisplaced)
	}()
	switch err := frames(client, &bounded{src: up, left: x.p.cfg.MaxTotal, total: &x.p.answers}, false, x.p.scrubber); {
	case errors.Is(err, errReflected):
		outcome.Detail = "secret_reflected"
	case errors.Is(err, errTooLarge):
		outcome.Detail = "response_too_large"
	}
	cut()
	if <-sent; misplaced {
		outcome.Detail = "placeholder_misplaced"
	}
	return outcome
}

// sever closes the socket under TLS first: a goodbye to a client that does not
// read would take seconds.
func (w *wire) sever() {
	if tc, ok := w.Conn.(*tls.Conn); ok {
		tc.NetConn().Close()
	}
	w.Close()
}

// accepted checks the server's part of the handshake (RFC 6455 section 4.1), so
// that an origin which did not upgrade cannot be used as a raw tunnel.
func accepted(out *http.Request, resp *http.Response) bool {
	return strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") &&
		resp.Header.Get("Sec-Websocket-Accept") == acceptKey(out.Header.Get("Sec-Websocket-Key")) &&
		resp.Header.Get("Sec-Websocket-Extensions") == ""
}

func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

var errFrame = errors.New("not a websocket frame")

// errMisplaced ends a stream of a client in which a placeholder is sent.
var errMisplaced = errors.New("a placeholder is sent where no secret is put in")

// unmasked reads a masked payload and looks for a placeholder in it. What it
// gives on is what was sent.
type unmasked struct {
	src  io.Reader
	key  []byte
	at   int
	seen *[]byte // the end of what was sent before, of earlier frames too
}

// window is how much of what was sent is looked at together with what follows,
// in bytes: more than a placeholder's beginning has in any of its spellings.
const window = 512

func (u *unmasked) Read(p []byte) (int, error) {
	n, err := u.src.Read(p)
	for _, c := range p[:n] {
		*u.seen = append(*u.seen, c^u.key[u.at&3])
		u.at++
	}
	if namesSecret(*u.seen) {
		return 0, errMisplaced
	}
	if over := len(*u.seen) - window; over > 0 {
		*u.seen = append((*u.seen)[:0], (*u.seen)[over:]...)
	}
	return n, err
}

// frames copies WebSocket frames (RFC 6455 section 5.2) and nothing else. With now,
// a payload that carries a secret ends the connection before it is passed on, and
// so does one of a client (masked) that carries a placeholder.
func frames(dst io.Writer, src io.Reader, masked bool, now func() *scrubber) error {
	in := bufio.NewReaderSize(src, 32<<10)
	var seen []byte
	for {
		head := make([]byte, 2, 14)
		if _, err := io.ReadFull(in, head); err != nil {
			return err
		}
		op, control := head[0]&0x0f, head[0]&0x08 != 0
		n := uint64(head[1] & 0x7f)
		if head[0]&0x70 != 0 || (op > 2 && op < 8) || op > 10 || (head[1]&0x80 != 0) != masked ||
			control && (n > 125 || head[0]&0x80 == 0) {
			return errFrame
		}
		extra := map[uint64]int{126: 2, 127: 8}[n]
		if masked {
			extra += 4
		}
		head = head[:2+extra]
		if _, err := io.ReadFull(in, head[2:]); err != nil {
			return err
		}
		switch n {
		case 126:
			n = uint64(binary.BigEndian.Uint16(head[2:]))
		case 127:
			n = binary.BigEndian.Uint64(head[2:])
		}
		if n > maxFrame {
			return errFrame
		}
		if _, err := dst.Write(head); err != nil {
			return err
		}
		var payload io.Reader = io.LimitReader(in, int64(n))
		if masked {
			payload = &unmasked{src: payload, key: head[len(head)-4:], seen: &seen}
		}
		if now != nil {
			payload = &scrubReader{now: now, src: payload, refuse: true}
		}
		// A short read ends the copy without an error; the next header read
		// then meets the end of the stream.
		if _, err := io.Copy(dst, payload); err != nil {
			return err
		}
	}
}
