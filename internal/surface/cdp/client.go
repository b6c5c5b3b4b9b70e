package cdp

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
)

const (
	maxInFlight = 2048     // requests of the client without an answer
	maxQueued   = 64 << 20 // bytes that wait for the client, or for us
	maxStrikes  = 32       // malformed messages
	maxSessions = 128
	maxInputs   = 1024 // inputs that wait for their turn
)

// client is one connection. One goroutine, loop, owns all of its fields; what
// comes from elsewhere comes through its queue, in order.
type client struct {
	s        *Server
	ctx      context.Context
	cancel   context.CancelFunc
	sock     *socket
	up       Upstream
	over     chan struct{} // closed when run has returned
	muted    atomic.Bool   // a person has the session, or had it; never unset
	hasty    bool          // the client waits for people for as long as patience
	patience time.Duration

	todo *queue[func()] // for loop
	out  *queue[[]byte] // for the socket

	inFlight  map[asked]bool // requests without an answer
	strikes   int
	self      *target // the browser, which the connection itself is a session on
	targets   map[string]*target
	order     []string // ids of targets, as they were told of
	sessions  map[string]*session
	byNumber  map[int]*session
	root      autoAttach
	discover  *filter             // nil: the client does not want to hear of targets
	contexts  map[string]string   // the browser's id of a context by ours
	alias     map[string]string   // the reverse
	made      map[string]bool     // contexts that the client made, by our id
	expect    map[string][]func() // what waits for a target to be told of
	downloads bool                // the client wants to hear of downloads
	dialogs   map[*session]string // the kind of the last dialog
	refused   map[string]bool     // what was recorded already
	hands     *hands
}

// asked names a request as an answer does. Another one of the same name while
// it is in flight is refused: nobody could say which of the two an answer is of.
type asked struct {
	session string
	id      int64
}

// session is a session of the client on one target. A session on a tab has no
// session of the browser behind it (number 0): the tab is ours.
type session struct {
	id     string
	number int
	target *target
	parent *session // that it was attached from; nil for the connection
	auto   autoAttach
	drags  bool // the client wants to hear of drags
}

func newClient(s *Server, ctx context.Context, cancel context.CancelFunc, sock *socket) *client {
	c := &client{s: s, ctx: ctx, cancel: cancel, sock: sock, over: make(chan struct{}),
		self:     &target{id: hexID(), kind: "browser", info: map[string]any{"title": "", "url": ""}},
		inFlight: map[asked]bool{}, targets: map[string]*target{}, sessions: map[string]*session{}, byNumber: map[int]*session{}, contexts: map[string]string{},
		alias: map[string]string{}, made: map[string]bool{}, expect: map[string][]func(){}, dialogs: map[*session]string{}, refused: map[string]bool{}}
	c.todo = newQueue[func()](maxQueued)
	c.out = newQueue[[]byte](maxQueued)
	c.hands = newHands(c)
	return c
}

// run serves the connection until it ends. Order at the end: nothing more is
// read, the context ends (an input that waits for a person is given up), the
// view is closed.
func (c *client) run() error {
	defer close(c.over)
	defer c.cancel()
	up, err := c.s.c.Open(Events{
		Target: func(state, target, parent string, info []byte, waiting bool) {
			c.post(func() { c.onTarget(state, target, parent, info, waiting) })
		},
		Event: func(n int, method string, params []byte) {
			if events[method] {
				c.postSized(len(params), func() { c.onEvent(n, method, params) })
			}
		},
		Detached: func(n int) { c.post(func() { c.onDetached(n) }) },
		Closed:   func(error) { c.end(closeNormal, "the browser has ended") },
	})
	if err != nil {
		c.sock.close(closePolicy, "the browser takes no client now")
		return err
	}
	c.up = up
	defer up.Close()
	var wait sync.WaitGroup
	wait.Go(c.write)
	wait.Go(c.hands.work)
	wait.Go(c.ping)
	wait.Go(c.loop)
	err = c.read()
	code, why := closeNormal, ""
	if bad := (*closeError)(nil); errors.As(err, &bad) {
		code, why = bad.code, bad.why
	}
	c.end(code, why)
	wait.Wait()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// end closes the connection from whatever side.
func (c *client) end(code int, why string) {
	if c.ctx.Err() == nil {
		c.cancel()
		c.todo.shut()
		c.out.shut()
		go c.sock.close(code, why)
	}
}

// post gives f to loop. A client that makes more than can be kept is ended.
func (c *client) post(f func()) { c.postSized(0, f) }

// postSized is post for what holds size bytes.
func (c *client) postSized(size int, f func()) {
	if !c.todo.put(f, size+200) {
		c.end(closePolicy, "too much waits for this client")
	}
}

func (c *client) loop() {
	for f, ok := c.todo.take(); ok; f, ok = c.todo.take() {
		f()
	}
}

// read takes messages as fast as loop handles them: one that is not handled
// yet keeps the next one in the client's own buffers.
func (c *client) read() error {
	for c.ctx.Err() == nil {
		b, err := c.sock.read()
		if err != nil {
			return err
		}
		done := make(chan struct{})
		c.post(func() { defer close(done); c.onMessage(b) })
		select {
		case <-done:
		case <-c.ctx.Done():
		}
	}
	return nil
}

func (c *client) write() {
	for b, ok := c.out.take(); ok; b, ok = c.out.take() {
		if c.sock.text(b) != nil {
			c.end(closePolicy, "the client does not read")
			return
		}
	}
	c.end(closeNormal, "closed")
}

func (c *client) ping() {
	t := time.NewTicker(pingEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			c.sock.write(9, nil)
		case <-c.ctx.Done():
			return
		}
	}
}

func (c *client) send(b []byte) {
	if c.s.c.Secrets != nil {
		b = redact(b, c.s.c.Secrets())
	}
	if !c.out.put(b, len(b)) {
		c.end(closePolicy, "the client does not read")
	}
}

// onMessage handles one message of the client.
func (c *client) onMessage(b []byte) {
	r, why := parseRequest(b)
	if why == nil && c.inFlight[asked{r.session, r.id}] {
		// Without its id, which would make it the answer to the other one.
		r.id, why = -1, malformed("the id is that of a request that has no answer yet", codeRequest)
	}
	if why != nil {
		c.strikes++
		c.record(why, "", b)
		c.send(failure(r.id, "", why.asRPC()))
		if c.strikes >= maxStrikes {
			c.end(closePolicy, "too many malformed messages")
		}
		return
	}
	if c.inFlight[asked{r.session, r.id}] = true; len(c.inFlight) > maxInFlight {
		c.end(closePolicy, "too many requests without an answer")
		return
	}
	if c.muted.Load() {
		if key := gate.CodeTaken + " " + r.method; !c.refused[key] && len(c.refused) <= len(table()) {
			c.refused[key] = true
			c.hands.outOfTurn(r.method)
		}
		c.fail(r, taken())
		return
	}
	var s *session
	if r.session != "" {
		if s = c.sessions[r.session]; s == nil {
			c.fail(r, plain(-32001, "Session with given id not found."))
			return
		}
	}
	line, why := lookup(r.method, c.s.c.Profile)
	if why == nil {
		why = checkParams(line, r.params)
	}
	if why != nil {
		c.record(why, r.method, b)
		c.fail(r, why)
		return
	}
	switch {
	case s == nil && line.verdict == rewrite && !overall(r.method):
		c.fail(r, plain(codeMethod, "'"+r.method+"' wasn't found"))
	case line.verdict == input:
		c.hands.take(r, s)
	case line.verdict == rewrite:
		c.rewrite(r, s)
	case r.method == "Browser.getVersion" && s != nil && s.target != c.self:
		c.fail(r, plain(codeMethod, "'"+r.method+"' wasn't found"))
	default:
		c.forward(r, s, r.params, nil)
	}
}

// overall reports whether a method that is answered here may come without a
// session.
func overall(method string) bool {
	return strings.HasPrefix(method, "Target.") || strings.HasPrefix(method, "Browser.")
}

// forward passes a request on with params. change may replace the result.
func (c *client) forward(r request, s *session, params jsontext.Value, change func(jsontext.Value) jsontext.Value) {
	n := 0 // the browser itself
	if r.method != "Browser.getVersion" {
		if s == nil || s.number == 0 {
			c.fail(r, plain(codeMethod, "'"+r.method+"' wasn't found"))
			return
		}
		n = s.number
	}
	c.up.Send(n, r.method, params, func(result, fault []byte) {
		c.postSized(len(result), func() {
			if fault != nil {
				c.fault(r, fault)
				return
			}
			if change != nil {
				result = change(result)
			}
			c.done(r, result)
		})
	})
}

// taken refuses what is asked while a person has the session.
func taken() *problem {
	return &problem{Layer: action.LayerAuthority, Code: gate.CodeTaken, Message: "a person has taken the session over", Next: "wait"}
}

// mute keeps from the client whatever comes from now on. What waits for its
// leave to run is let run.
func (c *client) mute() {
	c.muted.Store(true)
	c.post(func() {
		for _, t := range c.targets {
			if t.waiting {
				t.waiting = false
				c.up.Resume(t.id)
			}
		}
	})
}

func (c *client) done(r request, result []byte) {
	if c.muted.Load() {
		c.fail(r, taken())
		return
	}
	delete(c.inFlight, asked{r.session, r.id})
	if result == nil {
		result = []byte("{}")
	}
	c.send(answer(r.id, r.session, result))
}

// fault passes on an error of the browser.
func (c *client) fault(r request, fault []byte) {
	if c.muted.Load() {
		c.fail(r, taken())
		return
	}
	delete(c.inFlight, asked{r.session, r.id})
	c.send(failure(r.id, r.session, fault))
}

func (c *client) fail(r request, why *problem) {
	delete(c.inFlight, asked{r.session, r.id})
	c.send(failure(r.id, r.session, why.asRPC()))
}

// emit sends an event to the client on one of its sessions; nil is the
// connection itself.
func (c *client) emit(s *session, method string, params []byte) {
	if c.muted.Load() {
		return
	}
	id := ""
	if s != nil {
		id = s.id
	}
	c.send(event(method, id, params))
}

// record writes an attempt that no rule lets through to the ledger, through the
// gate, each kind of it once in a connection.
func (c *client) record(why *problem, method string, raw []byte) {
	key := why.Code + " " + method
	if c.refused[key] || len(c.refused) > len(table()) {
		return
	}
	c.refused[key] = true
	c.hands.note(why.Code, method, raw)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
