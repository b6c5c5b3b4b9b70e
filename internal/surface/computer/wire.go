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
	// maxDistance is more than any scroll may be, so that no sum overflows.
	maxDistance = 1 << 20
	maxWait     = 60 * time.Second
	maxHold     = 10 * time.Second
	wheelClick  = 100 // CSS pixels of one wheel click
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

// call is one action in the neutral form, which every format is translated to.
// A nil member was not sent.
type call struct {
	action    string
	at, from  *[2]int // in the request's space
	text, key *string
	modifiers *[]string
	direction *string
	amount    *int
	seconds   *float64
	region    *[4]int
	by        *[2]int // of the wheel, screen pixels
}

// request is what a format was translated to.
type request struct {
	calls  []call
	space  view    // of the points and regions of calls
	checks []check // of the provider, that a person must answer first
	// from names the provider in the record of checks.
	from string
	// shot asks for a picture after the last action, and for the origin of the
	// page when where is set too.
	shot, where bool
	answer      func(outcome) any // in the shape of the format
}

// check is a question that the model's provider wants a person to answer. It
// comes through the harness: its texts are evidence and nothing else.
type check struct {
	ID      string  `json:"id"`
	Code    *string `json:"code"`
	Message *string `json:"message"`
}

// format is one vendor's form of actions, by the path that it is served on.
type format struct {
	path string
	read func(body []byte, v view) (request, *refusal)
}

// formats is the closed list of what is understood.
var formats = []format{
	{"/v1/actions", readNeutral},
	{"/v1/anthropic/computer_20241022", readAnthropic(computer20241022)},
	{"/v1/anthropic/computer_20250124", readAnthropic(computer20250124)},
	{"/v1/anthropic/computer_20251124", readAnthropic(computer20251124)},
	{"/v1/openai/computer", readOpenAI(true)},
	{"/v1/openai/computer_use_preview", readOpenAI(false)},
	{"/v1/gemini/computer_use", readGemini(geminiCurrent)},
	{"/v1/gemini/computer_use_legacy", readGemini(geminiLegacy)},
}

func formatOf(path string) (format, bool) {
	for _, f := range formats {
		if f.path == path {
			return f, true
		}
	}
	return format{}, false
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
	DX        *int      `json:"dx"`
	DY        *int      `json:"dy"`
	Seconds   *float64  `json:"seconds"`
	Region    *[4]int   `json:"region"`
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

func readNeutral(body []byte, v view) (request, *refusal) {
	var doc struct {
		Actions []neutralCall `json:"actions"`
	}
	if r := readJSON(body, &doc); r != nil {
		return request{}, r
	}
	if len(doc.Actions) == 0 || len(doc.Actions) > maxActions {
		return request{}, refuse("bad_batch", "a request has 1 to %d actions", maxActions)
	}
	req := request{space: v, answer: func(o outcome) any { return map[string]any{"results": o.results} }}
	for _, n := range doc.Actions {
		at, ok1 := pair(n.X, n.Y)
		from, ok2 := pair(n.FromX, n.FromY)
		by, ok3 := pair(n.DX, n.DY)
		if !ok1 || !ok2 || !ok3 {
			return request{}, refuse("bad_point", "a point or a distance needs both coordinates")
		}
		req.calls = append(req.calls, call{action: n.Type, at: at, from: from, text: n.Text, key: n.Key, modifiers: n.Modifiers,
			direction: n.Direction, amount: n.Amount, seconds: n.Seconds, region: n.Region, by: v.distance(by)})
	}
	return req, nil
}
