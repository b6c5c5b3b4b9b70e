package browser

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	// maxMessage bounds one protocol message from the browser, in bytes. A
	// lossless screenshot of a noisy page at twice the size stays under it.
	maxMessage = 32 << 20
	// writeLimit is how long the browser may leave its end of the pipe unread.
	writeLimit = 10 * time.Second
)

// errClosed is the cause when the pipe ended; every call after it fails.
var errClosed = errors.New("the browser's pipe is closed")

// lax reads what Chromium writes: page text may hold lone surrogates, which
// are not ours to refuse. Names stay exact and duplicates stay errors.
var lax = jsontext.AllowInvalidUTF8(true)

// message is one envelope of the DevTools protocol. The raw members alias the
// bytes as read.
type message struct {
	id      int64
	session string
	method  string
	params  jsontext.Value
	result  jsontext.Value
	fault   jsontext.Value
}

// protocolError is an error answer of the browser to one method.
type protocolError struct {
	method  string
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (e *protocolError) Error() string {
	return fmt.Sprintf("%s: %s (%d)", e.method, e.Message, e.Code)
}

// conn speaks the DevTools protocol over a pair of pipes: JSON documents, each
// ended by a NUL byte. Whatever goes wrong on the pipe (end, a message over
// the limit, a document that cannot be read) closes it, and every call that
// waits or comes later fails.
type conn struct {
	w  *os.File
	r  *os.File
	on func(message) // called by the reader in order; must not wait for an answer
	// ended is asked, once the pipe ended, why.
	ended func() error

	wmu  sync.Mutex // orders whole messages on w
	mu   sync.Mutex // guards the fields below
	next int64
	wait map[int64]chan message
	taps map[int64]func(message) // answers that are wanted in the order of events
	err  error
	done chan struct{} // closed when err is set
}

func newConn(r, w *os.File, on func(message), ended func() error) *conn {
	c := &conn{w: w, r: r, on: on, ended: ended, wait: map[int64]chan message{}, taps: map[int64]func(message){}, done: make(chan struct{})}
	go c.read()
	return c
}

func (c *conn) read() {
	br := bufio.NewReaderSize(c.r, 256<<10)
	for {
		b, err := readMessage(br)
		if err != nil {
			if errors.Is(err, errClosed) {
				err = c.ended()
			}
			c.close(err)
			return
		}
		m, err := parseMessage(b)
		if err != nil {
			c.close(err)
			return
		}
		if m.id == 0 {
			c.on(m)
			continue
		}
		c.mu.Lock()
		ch, tap := c.wait[m.id], c.taps[m.id]
		delete(c.wait, m.id)
		delete(c.taps, m.id)
		c.mu.Unlock()
		if tap != nil {
			tap(m)
		}
		if ch != nil {
			ch <- m // capacity 1, one answer each
		}
	}
}

// readMessage returns the bytes up to the next NUL, which it takes away.
func readMessage(br *bufio.Reader) ([]byte, error) {
	var b []byte
	for {
		part, err := br.ReadSlice(0)
		if len(b)+len(part) > maxMessage {
			return nil, fmt.Errorf("protocol message over %d bytes", maxMessage)
		}
		b = append(b, part...)
		switch {
		case err == nil:
			return b[:len(b)-1], nil
		case !errors.Is(err, bufio.ErrBufferFull):
			if errors.Is(err, io.EOF) {
				err = errClosed
			}
			return nil, err
		}
	}
}

// parseMessage reads the envelope only; members keep pointing into b.
func parseMessage(b []byte) (message, error) {
	var m message
	d := jsontext.NewDecoder(bytes.NewBuffer(b), lax)
	t, err := d.ReadToken()
	if err != nil || t.Kind() != '{' {
		return m, fmt.Errorf("protocol message is not an object: %w", errors.Join(err, errClosed))
	}
	for d.PeekKind() != '}' {
		t, err := d.ReadToken()
		if err != nil {
			return m, fmt.Errorf("protocol message: %w", err)
		}
		name := t.String()
		v, err := d.ReadValue()
		if err != nil {
			return m, fmt.Errorf("protocol message: %w", err)
		}
		end := int(d.InputOffset())
		v = jsontext.Value(b[end-len(v) : end])
		switch name {
		case "id":
			err = json.Unmarshal(v, &m.id)
		case "sessionId":
			err = json.Unmarshal(v, &m.session)
		case "method":
			err = json.Unmarshal(v, &m.method)
		case "params":
			m.params = v
		case "result":
			m.result = v
		case "error":
			m.fault = v
		}
		if err != nil {
			return m, fmt.Errorf("protocol message: %s: %w", name, err)
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return m, fmt.Errorf("protocol message: %w", err)
	}
	if int(d.InputOffset()) != len(b) {
		return m, errors.New("protocol message: data after the object")
	}
	return m, nil
}

func (c *conn) close(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	close(c.done)
	c.w.Close()
	c.r.Close()
}

func (c *conn) cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// call is one request on its way. Requests of one goroutine reach a target in
// the order in which they were sent, so several may be sent before the first
// is waited for.
type call struct {
	c      *conn
	id     int64
	method string
	ch     chan message
	err    error
}

// send writes one request. params is a value for JSON, or nil.
func (c *conn) send(session, method string, params any) *call {
	k := &call{c: c, method: method, ch: make(chan message, 1)}
	if params == nil {
		params = struct{}{}
	}
	c.mu.Lock()
	if c.err != nil {
		k.err = c.err
		c.mu.Unlock()
		return k
	}
	c.next++
	k.id = c.next
	c.wait[k.id] = k.ch
	c.mu.Unlock()
	if err := c.write(k.id, session, method, params); err != nil {
		k.drop()
		k.err = err
	}
	return k
}

func (c *conn) write(id int64, session, method string, params any) error {
	b, err := json.Marshal(struct {
		ID      int64  `json:"id"`
		Session string `json:"sessionId,omitzero"`
		Method  string `json:"method"`
		Params  any    `json:"params"`
	}{id, session, method, params}, lax)
	if err != nil {
		return err
	}
	b = append(b, 0)
	c.wmu.Lock()
	c.w.SetWriteDeadline(time.Now().Add(writeLimit))
	_, err = c.w.Write(b)
	c.wmu.Unlock()
	if err != nil { // a message cut in the middle cannot be mended
		c.close(fmt.Errorf("write to the browser: %w", err))
	}
	return err
}

func (k *call) drop() {
	k.c.mu.Lock()
	delete(k.c.wait, k.id)
	k.c.mu.Unlock()
}

// get waits for the answer and reads its result into out, unless out is nil.
func (k *call) get(ctx context.Context, out any) error {
	raw, err := k.raw(ctx)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(raw, out, lax); err != nil {
		return fmt.Errorf("%s: answer: %w", k.method, err)
	}
	return nil
}

func (k *call) raw(ctx context.Context) (jsontext.Value, error) {
	if k.err != nil {
		return nil, k.err
	}
	var m message
	select {
	case m = <-k.ch:
	default:
		select {
		case m = <-k.ch:
		case <-ctx.Done():
			k.drop()
			return nil, fmt.Errorf("%s: %w", k.method, ctx.Err())
		case <-k.c.done:
			return nil, k.c.cause()
		}
	}
	if m.fault != nil {
		e := &protocolError{method: k.method}
		if err := json.Unmarshal(m.fault, e, lax); err != nil {
			return nil, fmt.Errorf("%s: error answer: %w", k.method, err)
		}
		return nil, e
	}
	return m.result, nil
}

func (c *conn) call(ctx context.Context, session, method string, params, out any) error {
	return c.send(session, method, params).get(ctx, out)
}

type obj = map[string]any
