// Package cdp is the door for unmodified clients of the DevTools protocol:
// Playwright, Puppeteer and whatever connects like them. It serves one client of
// one task over HTTP and WebSocket, on a listener inside the harness's network
// namespace. The browser's own connection stays with the browser, and so does
// the guard: the client sees sessions, contexts and worlds of its own.
//
// The method table (methods.txt) says of every method of the browser's protocol
// whether it is passed on, answered or changed here, made an input, or refused,
// which of its parameters may be there, and why. There are three profiles:
//
//   - sealed: nothing but refusal; the agent has the computer surface only.
//   - pinned: scripts are evaluated only if their digest is known (the helpers
//     of the drivers); everything else a client does with a page works.
//   - open: the client's scripts are evaluated. They can do what a page's own
//     script can do: only door 2 and the handling of secrets stand behind them.
//
// Invariants:
//   - Unknown means no: a method without a line, a parameter that its line does
//     not name, a member of a message that is none of id, method, params and
//     sessionId, an event that is not listed.
//   - Inputs do not go to the browser as they are. They become inputs of the
//     computer surface: grounded, decided by the gate, recorded, and given to
//     the page by the guard's own order, one after the other. What can never be
//     given (a chord of the browser's) is refused before anybody is asked.
//   - Files come from the harness itself: it puts them here under the names that
//     its client will use (uploads.go). No path of a client is ever opened.
//   - The client names nothing real: ids of requests, sessions and contexts are
//     made here, and a target must have been told of. (Targets keep the
//     browser's ids, since those are the ids of their main frames.)
//   - Cookies, credentials and bodies are in no event.
//   - One client at a time; a second connection is refused.
//   - While a person has the session (Mute) the client hears nothing: no event,
//     no result, no picture, also of what it asked before; what it asks is refused
//     (taken_over). It is ended when the session is given back, since what it
//     knows of the pages is old; it may connect again then.
//   - What a client may make us keep is bounded: the size and depth of messages,
//     requests in flight, queues, contexts. Over a bound the connection ends.
//
// A client that cannot wait for people says Prefer: wait=N (RFC 7240) in its
// handshake. An input that is held longer fails with code "held" and the
// question's id; the same input again passes once it is approved.
//
// Not trusted: the client, the model behind it, and every text of a page.
package cdp

import (
	"context"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Profile says how far a client reaches.
type Profile string

// The profiles, from narrow to wide. The zero value is Sealed.
const (
	Sealed Profile = "sealed"
	Pinned Profile = "pinned"
	Open   Profile = "open"
)

// Gate is the one door.
type Gate interface {
	Act(ctx context.Context, a action.Action, blobs []record.Blob, d gate.Dispatch) gate.Result
	// Turn keeps everybody else from the session while an input is grounded and given.
	Turn(ctx context.Context, a action.Action) (turn context.Context, end func(), ok bool)
}

// Journal hears of an input just before the page does, so that door 2 can
// explain the requests that it causes, and forgets it if the page did not get
// it. kind is click, up or key; key is a key's DOM name.
type Journal interface {
	Note(id, kind, key string, e action.Element)
	Forget(id string)
}

// Events are what an Upstream tells. They must not wait. See Upstream.
type Events struct {
	// Target tells of a target that has its guard: state is created, changed,
	// crashed or destroyed, parent the target that holds a frame or a worker,
	// info its TargetInfo. waiting says that it runs only after Resume.
	Target   func(state, target, parent string, info []byte, waiting bool)
	Event    func(session int, method string, params []byte) // session 0: the browser
	Detached func(session int)
	Closed   func(err error) // the browser ended
}

// Upstream is one client's view on the managed browser. done and the events of
// a session are called in the order in which the browser sent them. It keeps
// the guard out of what the client sees and names.
type Upstream interface {
	// Attach makes a session on a target that was told of.
	Attach(target string, done func(session int, err error))
	Detach(session int)
	// Resume lets a target run that was told of as waiting.
	Resume(target string)
	// Send passes one request on; session 0 is the browser itself. done gets
	// the result or the protocol's error object, and is not called when the
	// browser ends.
	Send(session int, method string, params []byte, done func(result, fault []byte))
	// Front makes a page the one that is shown.
	Front(target string) error
	// Ground says what the pointer would hit at x, y of the page's viewport, in
	// CSS pixels; GroundFocus what a key would go to. The third result is the
	// browser's handle, to be given back.
	Ground(ctx context.Context, target string, x, y float64) (action.Element, action.Digest, any, error)
	GroundFocus(ctx context.Context, target string) (action.Element, action.Digest, any, error)
	// GroundNode says what a file input is, by its backend number.
	GroundNode(ctx context.Context, target string, backend int) (action.Element, action.Digest, any, error)
	// Check says why an input can never be given to what ref grounded, as a code
	// and a sentence; no code if nothing stands against it. Kinds are key (text
	// is the chord), type, and those of Mouse.
	Check(ref any, kind, text string, modifiers int, dx, dy float64) (code, message string)
	// Mouse, Key, Type and Upload give one input to what ref grounded and to
	// nothing else. They consume p with digest before the first event. state is a
	// state of action.Outcome: Failed says that the page saw nothing of it. The
	// kinds of Mouse are move, down, up, wheel, tap, drop and cancel.
	Mouse(ctx context.Context, ref any, p gate.Permit, digest action.Digest, kind, button string, count, modifiers int, dx, dy float64) (state string, err error)
	Key(ctx context.Context, ref any, p gate.Permit, digest action.Digest, chord string) (state string, err error)
	Type(ctx context.Context, ref any, p gate.Permit, digest action.Digest, text string) (state string, err error)
	Upload(ctx context.Context, ref any, p gate.Permit, digest action.Digest, names []string, contents [][]byte) (state string, err error)
	// TakeDialog takes over the question that a page asks, which is answered by
	// AcceptDialog, with a permit, or by DismissDialog. The page stands still until
	// then. message is the page's.
	TakeDialog(target string) (e action.Element, kind, message string, ref any, ok bool)
	AcceptDialog(ctx context.Context, ref any, p gate.Permit, digest action.Digest, text string) (state string, err error)
	DismissDialog(ref any)
	// Close ends every session of the view.
	Close()
}
