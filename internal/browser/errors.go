package browser

import (
	"errors"
	"fmt"
)

// What input can end with. Before each of these but ErrBlocked and ErrNotSeen,
// no input event was sent.
var (
	// ErrMoved says that what was decided on is not what is there now: ground again.
	ErrMoved = errors.New("the element is not what it was when it was decided on")
	// ErrNotSeen says that the events went out and no guard confirmed where
	// they arrived: treat the outcome as unknown and do not repeat it blindly.
	ErrNotSeen = errors.New("no guard saw the input arrive")
	// ErrUninspectable says that nothing can be grounded there.
	ErrUninspectable = errors.New("nothing can be grounded here")
	// ErrNoPage says that no page is open: navigate first.
	ErrNoPage = errors.New("no page is open")
	// ErrCrashed says that the renderer of the page died: navigate again.
	ErrCrashed = errors.New("the page has crashed")
	// ErrLeft says that the window in front showed a refusal or an error and was
	// closed: the page before it is in front again.
	ErrLeft = errors.New("the window in front could not be opened, and was closed")
	// ErrGuard says that the guard could not be put in place; no input is possible.
	ErrGuard = errors.New("the input guard is not in place")
	// ErrURL refuses a destination that is not http or https.
	ErrURL = errors.New("only http and https addresses can be opened")
	// ErrKey says that a key or chord has no known meaning.
	ErrKey = errors.New("unknown key")
	// ErrChord refuses a chord that reaches the browser and not the page.
	ErrChord = errors.New("this chord acts on the browser, not on the page")
	// ErrText refuses text that is more than text: Enter and Tab are actions
	// of their own, to be grounded and decided on their own.
	ErrText = errors.New("text holds a control character: press Enter or Tab as a key")
	// ErrInput refuses an input whose fields make no sense.
	ErrInput = errors.New("input is malformed")

	errTakesNoText = fmt.Errorf("%w: the focused element takes no text", ErrInput)
)

// Refusal is the code and the text of an error of Check.
func Refusal(err error) (code, message string) {
	switch {
	case errors.Is(err, ErrChord):
		return "browser_chord", ErrChord.Error()
	case errors.Is(err, ErrKey):
		return "unknown_key", "the key or chord is not known"
	case errors.Is(err, ErrText):
		return "bad_text", ErrText.Error()
	case errors.Is(err, errTakesNoText):
		return "takes_no_text", errTakesNoText.Error()
	}
	return "bad_input", "the input makes no sense where it would arrive"
}

// BlockedError says that the guard stopped an event: it was about to land on
// something else than was decided on.
type BlockedError struct {
	Event string // DOM event type that was stopped
	// Pressed says that the press itself had reached the right element and a
	// later event did not, so a page that acts on the press has acted.
	Pressed bool
}

// ErrBlocked matches every BlockedError.
var ErrBlocked = errors.New("the guard blocked the input")

func (e *BlockedError) Error() string {
	if e.Pressed {
		return fmt.Sprintf("the guard blocked %s after the press", e.Event)
	}
	return "the guard blocked " + e.Event
}

// Is reports whether target is ErrBlocked.
func (e *BlockedError) Is(target error) bool { return target == ErrBlocked }
