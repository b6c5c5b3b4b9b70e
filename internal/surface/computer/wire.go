package computer

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

// Limits of one request.
const (
	maxBody    = 256 << 10 // bytes
	maxActions = 50        // in a batch
	maxInputs  = 200       // primitive inputs of a request
	maxText    = 8 << 10   // bytes of one text
	maxScroll  = 50        // wheel clicks
	maxWait    = 60 * time.Second
	maxHold    = 10 * time.Second
	wheelClick = 100 // CSS pixels of one wheel click
)

// refusal is an answer to a request without canonical form. It is also an error
// text for the agent, so it quotes nothing that a page wrote.
type refusal struct {
	status        int
	code          string // stable
	message, next string
}

func (r *refusal) Error() string { return r.code + ": " + r.message }

func refuse(code, format string, args ...any) *refusal {
	return &refusal{status: http.StatusBadRequest, code: code, message: fmt.Sprintf(format, args...),
		next: "send an action of the documented form; nothing of this request was executed"}
}

// call is one action of either format. A nil member was not sent.
type call struct {
	action    string
	at, from  *[2]int
	text, key *string
	modifiers *[]string
	direction *string
	amount    *int
	seconds   *float64
	region    *[4]int
}

// neutralCall is an element of "actions" on /v1/actions.
type neutralCall struct {
	Type      string    `json:"type"`
	X         *int      `json:"x"`
	Y         *int      `json:"y"`
	FromX     *int      `json:"fromX"`
	FromY     *int      `json:"fromY"`
	Text      *string   `json:"text"`
	Key       *string   `json:"key"`
	Modifiers *[]string `json:"modifiers"`
	Direction *string   `json:"direction"`
	Amount    *int      `json:"amount"`
	Seconds   *float64  `json:"seconds"`
	Region    *[4]int   `json:"region"`
}

// anthropicCall is the input of a computer_20251124 tool_use block.
type anthropicCall struct {
	Action          string   `json:"action"`
	Coordinate      *[2]int  `json:"coordinate"`
	StartCoordinate *[2]int  `json:"start_coordinate"`
	Text            *string  `json:"text"`
	Key             *string  `json:"key"`
	ScrollDirection *string  `json:"scroll_direction"`
	ScrollAmount    *int     `json:"scroll_amount"`
	Duration        *float64 `json:"duration"`
	Region          *[4]int  `json:"region"`
}

func pair(x, y *int) (*[2]int, bool) {
	if (x == nil) != (y == nil) {
		return nil, false
	}
	if x == nil {
		return nil, true
	}
	return &[2]int{*x, *y}, true
}

// readJSON never repeats the parser's text to the agent beyond its first cause:
// it may quote the document.
func readJSON(body []byte, v any) *refusal {
	err := canon.Unmarshal(body, maxBody, v)
	if errors.Is(err, canon.ErrTooLarge) {
		r := refuse("too_large", "the request is larger than %d bytes", maxBody)
		r.status = http.StatusRequestEntityTooLarge
		return r
	}
	if err != nil {
		return refuse("malformed_json", "the body is not one strict JSON document of this form: no duplicate or unknown members, whole numbers for points")
	}
	return nil
}

func readNeutral(body []byte) ([]call, *refusal) {
	var doc struct {
		Actions []neutralCall `json:"actions"`
	}
	if r := readJSON(body, &doc); r != nil {
		return nil, r
	}
	if len(doc.Actions) == 0 || len(doc.Actions) > maxActions {
		return nil, refuse("bad_batch", "a request has 1 to %d actions", maxActions)
	}
	var out []call
	for _, n := range doc.Actions {
		at, ok1 := pair(n.X, n.Y)
		from, ok2 := pair(n.FromX, n.FromY)
		if !ok1 || !ok2 {
			return nil, refuse("bad_point", "a point needs both coordinates")
		}
		out = append(out, call{action: n.Type, at: at, from: from, text: n.Text, key: n.Key, modifiers: n.Modifiers,
			direction: n.Direction, amount: n.Amount, seconds: n.Seconds, region: n.Region})
	}
	return out, nil
}

// readAnthropic maps the vendor's overloaded "text": a chord for key and
// hold_key, text for type, a held modifier for pointer actions (the
// documentation says text, the quickstart also accepts key).
func readAnthropic(body []byte) ([]call, *refusal) {
	var a anthropicCall
	if r := readJSON(body, &a); r != nil {
		return nil, r
	}
	c := call{action: a.Action, at: a.Coordinate, from: a.StartCoordinate, direction: a.ScrollDirection,
		amount: a.ScrollAmount, seconds: a.Duration, region: a.Region}
	switch a.Action {
	case "type":
		c.text, c.key = a.Text, a.Key
	case "key", "hold_key":
		if a.Text != nil && a.Key != nil {
			return nil, refuse("bad_member", "a key is given by text or by key, not by both")
		}
		if c.key = a.Text; c.key == nil {
			c.key = a.Key
		}
	default:
		if a.Text != nil && a.Key != nil {
			return nil, refuse("bad_member", "a held modifier is given by text or by key, not by both")
		}
		held := a.Text
		if held == nil {
			held = a.Key
		}
		if held != nil && *held != "" {
			m := splitPlus(*held)
			c.modifiers = &m
		}
	}
	return []call{c}, nil
}
