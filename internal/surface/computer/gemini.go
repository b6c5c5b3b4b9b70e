package computer

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

// geminiCall is a function call: of generateContent (name, args) or of the
// Interactions API (type function_call, name, arguments).
type geminiCall struct {
	Type      *string     `json:"type"`
	ID        *string     `json:"id"`
	Name      string      `json:"name"`
	Args      *geminiArgs `json:"args"`
	Arguments *geminiArgs `json:"arguments"`
	// What comes with a step of the Interactions API and says nothing here.
	Status    canon.Value `json:"status"`
	Signature canon.Value `json:"signature"`
}

// geminiArgs are the arguments of all functions. Points and destinations are on
// the grid of 1000 by 1000.
type geminiArgs struct {
	X            *int        `json:"x"`
	Y            *int        `json:"y"`
	StartX       *int        `json:"start_x"`
	StartY       *int        `json:"start_y"`
	EndX         *int        `json:"end_x"`
	EndY         *int        `json:"end_y"`
	DestinationX *int        `json:"destination_x"`
	DestinationY *int        `json:"destination_y"`
	Text         *string     `json:"text"`
	PressEnter   *bool       `json:"press_enter"`
	Clear        *bool       `json:"clear_before_typing"`
	Key          *string     `json:"key"`
	Keys         canon.Value `json:"keys"`
	Direction    *string     `json:"direction"`
	Magnitude    *int        `json:"magnitude"`
	Pixels       *int        `json:"magnitude_in_pixels"`
	Clicks       *int        `json:"magnitude_in_wheel_clicks"`
	Seconds      *float64    `json:"seconds"`
	URL          *string     `json:"url"`
	// Intent is the model's own account of why. It is not looked at.
	Intent *string         `json:"intent"`
	Safety *geminiDecision `json:"safety_decision"`
	// Acknowledgement belongs to a response. In a call it is forged.
	Acknowledgement canon.Value `json:"safety_acknowledgement"`
}

type geminiDecision struct {
	Decision    string  `json:"decision"`
	Explanation *string `json:"explanation"`
}

// function is what one function needs and may have beside intent and
// safety_decision, and how it becomes neutral actions.
type function struct {
	need, may string
	calls     func(a geminiArgs, v view) ([]call, *refusal)
}

// geminiCurrent are the functions of the browser and desktop environments since
// gemini-3.5-flash.
var geminiCurrent = map[string]function{
	"click":           {"x y", "", pointer("left_click")},
	"double_click":    {"x y", "", pointer("double_click")},
	"triple_click":    {"x y", "", pointer("triple_click")},
	"middle_click":    {"x y", "", pointer("middle_click")},
	"right_click":     {"x y", "", pointer("right_click")},
	"move":            {"x y", "", pointer("mouse_move")},
	"mouse_down":      {"x y", "", pointer("mouse_move", "left_mouse_down")},
	"mouse_up":        {"x y", "", pointer("mouse_move", "left_mouse_up")},
	"type":            {"text", "press_enter", geminiType},
	"drag_and_drop":   {"start_x start_y end_x end_y", "", geminiDrag},
	"wait":            {"", "seconds", geminiWait(1)},
	"press_key":       {"key", "", geminiKey},
	"hotkey":          {"keys", "", geminiHotkey},
	"key_down":        {"key", "", never(noHeldKeys)},
	"key_up":          {"key", "", never(noHeldKeys)},
	"take_screenshot": {},
	"scroll":          {"x y direction", "magnitude_in_pixels magnitude_in_wheel_clicks", geminiScroll},
	"go_back":         {"", "", never(noNavigation)},
	"go_forward":      {"", "", never(noNavigation)},
	"navigate":        {"url", "", never(noNavigation)},
}

// geminiLegacy are the functions of gemini-2.5-computer-use-preview and
// gemini-3-flash-preview. The browser is always open.
var geminiLegacy = map[string]function{
	"open_web_browser": {},
	"click_at":         {"x y", "", pointer("left_click")},
	"hover_at":         {"x y", "", pointer("mouse_move")},
	"type_text_at":     {"x y text", "press_enter clear_before_typing", geminiTypeAt},
	"scroll_document":  {"direction", "", geminiScrollDocument},
	"scroll_at":        {"x y direction", "magnitude", geminiScrollAt},
	"wait_5_seconds":   {"", "", geminiWait(5)},
	"key_combination":  {"keys", "", geminiHotkey},
	"drag_and_drop":    {"x y destination_x destination_y", "", geminiDrag},
	"go_back":          {"", "", never(noNavigation)},
	"go_forward":       {"", "", never(noNavigation)},
	"search":           {"", "", never(noNavigation)},
	"navigate":         {"url", "", never(noNavigation)},
}

func readGemini(functions map[string]function) func([]byte, view) (request, *refusal) {
	return func(body []byte, v view) (request, *refusal) {
		var c geminiCall
		if r := readJSON(body, &c); r != nil {
			return request{}, r
		}
		step := c.Type != nil
		if step && (*c.Type != "function_call" || c.ID == nil || c.Args != nil) || !step && c.Arguments != nil || c.ID != nil && len(*c.ID) > maxID {
			return request{}, refuse("bad_member", "the body is one function call, with args, or as a step with its id and arguments")
		}
		var args geminiArgs
		if c.Args != nil {
			args = *c.Args
		} else if c.Arguments != nil {
			args = *c.Arguments
		}
		if args.Acknowledgement != nil {
			return request{}, forged()
		}
		f, ok := functions[c.Name]
		if !ok {
			return request{}, refuse("unknown_action", "the function is not one of this set")
		}
		if !args.has(f) {
			return request{}, refuse("bad_member", "%s lacks an argument or has one that it does not take", c.Name)
		}
		req := request{space: v.grid(), from: "gemini", shot: true, where: true}
		var r *refusal
		if req.checks, r = args.Safety.checks(); r != nil {
			return request{}, r
		}
		if f.calls != nil {
			if req.calls, r = f.calls(args, v); r != nil {
				return request{}, r
			}
		}
		req.answer = func(o outcome) any { return geminiResponse(c, len(req.checks) > 0, o) }
		return req, nil
	}
}

// has compares the arguments that were sent with those of f.
func (a geminiArgs) has(f function) bool {
	need, may := strings.Fields(f.need), strings.Fields(f.may)
	for _, m := range []struct {
		name string
		set  bool
	}{{"x", a.X != nil}, {"y", a.Y != nil}, {"start_x", a.StartX != nil}, {"start_y", a.StartY != nil}, {"end_x", a.EndX != nil},
		{"end_y", a.EndY != nil}, {"destination_x", a.DestinationX != nil}, {"destination_y", a.DestinationY != nil},
		{"text", a.Text != nil}, {"press_enter", a.PressEnter != nil}, {"clear_before_typing", a.Clear != nil}, {"key", a.Key != nil},
		{"keys", a.Keys != nil}, {"direction", a.Direction != nil}, {"magnitude", a.Magnitude != nil},
		{"magnitude_in_pixels", a.Pixels != nil}, {"magnitude_in_wheel_clicks", a.Clicks != nil},
		{"seconds", a.Seconds != nil}, {"url", a.URL != nil}} {
		needed := slices.Contains(need, m.name)
		if needed != m.set && (needed || !slices.Contains(may, m.name)) {
			return false
		}
	}
	return true
}

// checks are the questions of a decision. A word that is not known is not
// one that a person could answer.
func (d *geminiDecision) checks() ([]check, *refusal) {
	switch {
	case d == nil || d.Decision == "regular" || d.Decision == "allowed":
		return nil, nil
	case d.Decision == "require_confirmation":
		return []check{{ID: "safety_decision", Code: &d.Decision, Message: d.Explanation}}, nil
	}
	r := refuse("unknown_safety_decision", "the provider's safety decision is not one that a person may confirm")
	r.next = "do not do this; ask the model for another way"
	return nil, r
}

func never(why func() *refusal) func(geminiArgs, view) ([]call, *refusal) {
	return func(geminiArgs, view) ([]call, *refusal) { return nil, why() }
}

// pointer goes to the point with the first action and does the others there.
func pointer(actions ...string) func(geminiArgs, view) ([]call, *refusal) {
	return func(a geminiArgs, _ view) ([]call, *refusal) {
		out := []call{{action: actions[0], at: &[2]int{*a.X, *a.Y}}}
		for _, more := range actions[1:] {
			out = append(out, call{action: more})
		}
		return out, nil
	}
}

func geminiDrag(a geminiArgs, _ view) ([]call, *refusal) {
	c := call{action: "left_click_drag"}
	if a.StartX != nil {
		c.from, c.at = &[2]int{*a.StartX, *a.StartY}, &[2]int{*a.EndX, *a.EndY}
	} else {
		c.from, c.at = &[2]int{*a.X, *a.Y}, &[2]int{*a.DestinationX, *a.DestinationY}
	}
	return []call{c}, nil
}

func press(keys string) call { return call{action: "key", key: &keys} }

func geminiType(a geminiArgs, _ view) ([]call, *refusal) {
	var out []call
	if *a.Text != "" {
		out = append(out, call{action: "type", text: a.Text})
	}
	if a.PressEnter != nil && *a.PressEnter {
		out = append(out, press("Enter"))
	}
	if out == nil {
		return nil, refuse("bad_text", "there is nothing to type")
	}
	return out, nil
}

// geminiTypeAt clicks, clears, types and presses Enter. The vendor's reference
// gives clear_before_typing and press_enter as true where they are not sent.
func geminiTypeAt(a geminiArgs, v view) ([]call, *refusal) {
	out, _ := pointer("left_click")(a, v)
	if a.Clear == nil || *a.Clear {
		out = append(out, press("Control+a"), press("Delete"))
	}
	if *a.Text != "" {
		out = append(out, call{action: "type", text: a.Text})
	}
	if a.PressEnter == nil || *a.PressEnter {
		out = append(out, press("Enter"))
	}
	return out, nil
}

func geminiWait(seconds float64) func(geminiArgs, view) ([]call, *refusal) {
	return func(a geminiArgs, _ view) ([]call, *refusal) {
		s := seconds
		if a.Seconds != nil {
			s = *a.Seconds
		}
		return []call{{action: "wait", seconds: &s}}, nil
	}
}

func geminiKey(a geminiArgs, _ view) ([]call, *refusal) { return []call{press(*a.Key)}, nil }

// geminiHotkey takes one chord: a list of keys, or their names with plus signs
// between them.
func geminiHotkey(a geminiArgs, _ view) ([]call, *refusal) {
	var list []string
	var text string
	if json.Unmarshal(a.Keys, &text) == nil {
		return []call{press(text)}, nil
	}
	if json.Unmarshal(a.Keys, &list) != nil || len(list) == 0 {
		return nil, refuse("unknown_key", "keys are a list of names")
	}
	calls, r := keypress(list)
	if r == nil && len(calls) != 1 {
		return nil, refuse("unknown_key", "a hotkey is modifiers and one key")
	}
	return calls, r
}

// geminiScroll takes pixels of the picture (300 where they are not sent), or the
// wheel clicks that the desktop environment sends.
func geminiScroll(a geminiArgs, v view) ([]call, *refusal) {
	switch {
	case a.Clicks != nil && a.Pixels != nil:
		return nil, refuse("bad_member", "a scroll has one magnitude")
	case a.Clicks != nil:
		return []call{{action: "scroll", at: &[2]int{*a.X, *a.Y}, direction: a.Direction, amount: a.Clicks}}, nil
	case a.Pixels != nil:
		return scrollTo(a, *a.Pixels, v)
	}
	return scrollTo(a, 300, v)
}

// geminiScrollAt takes a magnitude on the grid, 800 where it is not sent.
func geminiScrollAt(a geminiArgs, v view) ([]call, *refusal) {
	if a.Magnitude != nil {
		return scrollTo(a, *a.Magnitude, v.grid())
	}
	return scrollTo(a, 800, v.grid())
}

// geminiScrollDocument turns the wheel in the middle of the screen, by as much as
// scroll_at does.
func geminiScrollDocument(a geminiArgs, v view) ([]call, *refusal) {
	middle := 500
	a.X, a.Y = &middle, &middle
	return scrollTo(a, 800, v.grid())
}

func scrollTo(a geminiArgs, magnitude int, space view) ([]call, *refusal) {
	d, ok := directions[*a.Direction]
	if !ok {
		return nil, refuse("bad_direction", "scroll goes up, down, left or right")
	}
	if magnitude < 1 || magnitude > 1000 {
		return nil, refuse("bad_amount", "a magnitude is 1 to 1000")
	}
	return []call{{action: "scroll_by", at: &[2]int{*a.X, *a.Y}, by: space.distance(&[2]int{d[0] * magnitude, d[1] * magnitude})}}, nil
}

// geminiResponse is a function response, or a function_result for a step. The
// vendor asks for the page's address: it gets the origin alone, since the
// rest of an address may carry what a model should not see.
func geminiResponse(c geminiCall, asked bool, o outcome) map[string]any {
	body := map[string]any{"url": "about:blank"}
	if o.shot != nil && o.shot.origin != "" {
		body["url"] = o.shot.origin + "/"
	}
	if asked && o.approved {
		body["safety_acknowledgement"] = "true"
	}
	if status, p := o.problem(); status != "" {
		body["error"] = p.text(status)
		body["status"], body["code"], body["layer"], body["message"], body["next"] = status, p.Code, p.Layer, p.Message, p.Next
	}
	if c.Type == nil {
		m := map[string]any{"name": c.Name, "response": body}
		if c.ID != nil {
			m["id"] = *c.ID
		}
		if o.shot != nil {
			m["parts"] = []any{map[string]any{"inlineData": map[string]any{"mimeType": o.shot.Image.MediaType, "data": o.shot.Image.Data}}}
		}
		return m
	}
	text, err := canon.Marshal(body)
	if err != nil {
		panic("sallyport: internal error: answer: " + err.Error())
	}
	blocks := []any{map[string]any{"type": "text", "text": string(text)}}
	if o.shot != nil {
		blocks = append(blocks, map[string]any{"type": "image", "mime_type": o.shot.Image.MediaType, "data": o.shot.Image.Data})
	}
	return map[string]any{"type": "function_result", "name": c.Name, "call_id": *c.ID, "result": blocks}
}
