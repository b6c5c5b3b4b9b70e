// Package computer is door 1: pixels out, pointer and keys in. It serves one
// task over HTTP on a listener inside the harness's network namespace.
//
// Door 1 explains, door 2 decides. Every input is grounded to the element, form
// and origin that it will hit, decided by the gate and recorded before it is
// given to the browser; what the input causes is decided again at the egress, on
// the bytes that would be sent. So looking (screenshot, zoom, move, scroll, wait,
// cursor_position) has effect observe, clicks and keys have effect read, and a
// permitted click permits no request.
//
// Invariants:
//   - A request is read completely and strictly before anything of it happens.
//     Unknown member, duplicate member, unknown action, a point off the screen:
//     the whole request is refused and recorded as computer.malformed.
//   - Every action becomes primitive inputs. Each is grounded and decided at its
//     own turn, so the second step of a batch is decided on the screen that the
//     first one left behind. The first one that is not done ends the batch.
//   - What can never be given (a chord of the browser's, text where none goes) is
//     refused at layer form before the gate: nothing is allowed that cannot be done.
//   - Just before an input is given to the browser its target is grounded again,
//     by Screen.Press: a target that changed since the decision does not get the
//     input.
//   - One request at a time; cursor and button are kept here. A left_mouse_up
//     without a left_mouse_down is refused. A drag from one application to another
//     is on neither, in one action or by hand.
//   - A picture is recorded before it leaves. With a press that may send a change
//     goes a piece of the last one, around what was pressed: what the agent saw there.
//   - Text that goes into a password field, or into something that could not be
//     inspected, is in no record: only its length is. Digests over typed text
//     are keyed with a key that dies with the server, so that a short text
//     cannot be found by trying.
//
// Formats. Each is a path that takes POST; GET /v1/display lists them. A file per
// vendor translates to one neutral form, which is all that the rest knows:
//
//	/v1/actions                       {"actions":[...]}, neutral; answer {"results":[...]}
//	/v1/anthropic/computer_20241022   the input of a tool_use block; answer: content
//	/v1/anthropic/computer_20250124   of a tool_result, to which the harness adds
//	/v1/anthropic/computer_20251124   its tool_use_id
//	/v1/openai/computer               a computer_call item, with action or actions;
//	/v1/openai/computer_use_preview   with one action; answer: a computer_call_output
//	/v1/gemini/computer_use           one function call, of generateContent or as a step
//	/v1/gemini/computer_use_legacy    of the Interactions API; answer: its response
//
// An action that a version does not have is refused (not_in_version or
// unknown_action). Addresses, search and history are refused (no_navigation), as
// are keys and modifiers that would stay down (no_held_keys) and a drag whose path
// bends (bent_path). OpenAI's and Gemini's answers end with a picture, which is an
// action of its own, also when something was not done; then OpenAI's item says
// "incomplete", and code, layer, message, next and results stand beside the
// vendor's members, for the harness to take out. Gemini's url is the page's
// origin alone, and its points are cells of a grid of 1000 by 1000.
//
// Safety checks. A question of the provider (pending_safety_checks,
// safety_decision) becomes an action computer.safety_check before anything else of
// the call. Only if policy holds it and people approve does the call go on, bound
// to what they saw, each primitive at its own turn; only then does the answer
// acknowledge. Otherwise: safety_check_pending. An acknowledgement that the
// harness sends is refused. The harness can leave a question out: what it hands
// on is all that is seen here.
//
// Scaled screens. A client may declare a display smaller than the screen
// (?display=1024x640); pictures are scaled to it and points are mapped back. The
// aspect must agree within one pixel. Pixel (i, j) of the declared display
// stands for the screen pixel under its centre: floor((i+0.5)*W/w). So a point
// never leaves the screen, and at a border between two controls the one under
// the centre is hit, which may differ from the colour the scaled picture shows.
//
// The way back. A refused navigation leaves a page without links, and chords that
// act on the browser are refused. So alt+Home (and the action "home") opens the
// task's start page, as operation computer.home with a decision of its own.
//
// hold_key presses and releases the key and lets the time pass: no key stays
// down while somebody decides. A left button can stay down, for drags by hand.
//
// The Journal of permitted inputs tells door 2 which input explains a request;
// its rules and their limits are in its comment. A well-formed request while
// another is in flight is refused, and not recorded: it was never an attempt.
//
// Callers that cannot wait for people say so with Prefer: wait=N (RFC 7240). What
// is held longer is answered with status 409, code "held", Retry-After, and the
// question's id in Sallyport-Question; sent again, from the action that was held
// on, it passes once it is approved. A request that is held ends with no picture.
//
// People. Who takes the session over acts through Person, in the neutral form: as
// another actor (Action.Actor), on the same screen, cursor and button. A request
// is one turn at the gate, so none of it is inside somebody else's time.
//
// Not trusted: the harness, the model, and every text in an Element that the
// page's author wrote.
package computer

import (
	"context"
	"errors"
	"image"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// ErrNotDelivered is wrapped by an error of Screen.Press if it is certain that
// the page saw nothing of the input, as is gate.ErrPermit. Any other error
// leaves the outcome unknown.
var ErrNotDelivered = errors.New("the input was not delivered")

// ErrLeft is wrapped by an error of Screen.Ground and GroundFocus if the window in
// front showed a refusal or an error and was closed instead.
var ErrLeft = errors.New("the window in front was closed")

// Gate is the one door.
type Gate interface {
	Act(ctx context.Context, a action.Action, blobs []record.Blob, d gate.Dispatch) gate.Result
	// Turn keeps everybody else from the session while a request is worked on.
	Turn(ctx context.Context, a action.Action) (turn context.Context, end func(), ok bool)
}

// Target is what an input would hit.
type Target struct {
	Element     action.Element
	Fingerprint action.Digest // changes when what would be hit changes
	Ref         any           // the screen's own handle, given back to Press
	// Box is the element on the screen; empty where the screen cannot tell.
	Box image.Rectangle
}

// Kind is a kind of primitive input.
type Kind string

// The primitive inputs.
const (
	Move  Kind = "move"
	Click Kind = "click"
	Down  Kind = "down"
	Up    Kind = "up"
	Drag  Kind = "drag" // from (X, Y) to (ToX, ToY) with the left button
	Wheel Kind = "wheel"
	Key   Kind = "key"
	Type  Kind = "type" // printable text without line breaks
)

// Input is one primitive input. Points are screen pixels.
type Input struct {
	Kind      Kind
	X, Y      int
	ToX, ToY  int
	Button    string   // left, middle, right
	Count     int      // 1 to 3
	Modifiers []string // Alt, Control, Meta, Shift; sorted
	DX, DY    int      // wheel, CSS pixels
	Key       string   // DOM key name (UI Events), one key
	Text      string
}

// Screen is the managed browser. Nothing else puts input into it. Calls are
// never made concurrently by one Server.
type Screen interface {
	// Screenshot is the whole screen as PNG.
	Screenshot(ctx context.Context) ([]byte, error)
	// Ground says what a pointer input at the point would hit.
	Ground(ctx context.Context, x, y int) (Target, error)
	// GroundFocus says what a key would go to, across frames.
	GroundFocus(ctx context.Context) (Target, error)
	// Check says why an input can never be given to t, whatever is decided, as a
	// code and a sentence; no code if nothing stands against it.
	Check(t Target, to *Target, in Input) (code, message string)
	// Press gives the input to t and to nothing else; to is the end of a drag
	// and otherwise nil. It consumes p with digest before the first event. What a
	// press, a key or text would hit is grounded again then, and if it is not what
	// t and to are the fingerprints of, the page gets nothing (ErrNotDelivered). It
	// returns an error unless the page was seen to receive the input on t.
	Press(ctx context.Context, t Target, to *Target, p gate.Permit, digest action.Digest, in Input) error
	// Home opens the task's start page, an address that only the operator
	// chooses. It returns when the page has loaded.
	Home(ctx context.Context) error
}
