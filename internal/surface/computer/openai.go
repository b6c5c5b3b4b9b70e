package computer

import (
	"encoding/base64"
	"math"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

// openAIWait is the pause of a wait, which carries no time (the vendor's guide
// sleeps as long).
const openAIWait = 2.0 // seconds

// straight is how far a point of a drag's path may lie off the line from its
// first to its last, in pixels of the display.
const (
	straight = 8.0
	maxPath  = 200 // points
)

// openAICall is a computer_call item of a response (OpenAI Responses API):
// actions of the GA tool "computer", action of "computer_use_preview".
type openAICall struct {
	Type    string          `json:"type"`
	ID      *string         `json:"id"`
	CallID  string          `json:"call_id"`
	Status  *string         `json:"status"`
	Action  *openAIAction   `json:"action"`
	Actions *[]openAIAction `json:"actions"`
	Pending []check         `json:"pending_safety_checks"`
	// Acknowledged belongs to an output. In a call it is forged.
	Acknowledged canon.Value `json:"acknowledged_safety_checks"`
}

type openAIAction struct {
	Type    string         `json:"type"`
	X       *int           `json:"x"`
	Y       *int           `json:"y"`
	Button  *string        `json:"button"`
	Path    *[]openAIPoint `json:"path"`
	ScrollX *int           `json:"scroll_x"`
	ScrollY *int           `json:"scroll_y"`
	Text    *string        `json:"text"`
	Keys    *[]string      `json:"keys"`
}

type openAIPoint struct {
	X int `json:"x"`
	Y int `json:"y"`
}

// readOpenAI reads calls of the GA tool, or of the preview, which has one action
// in each call and no held keys.
func readOpenAI(ga bool) func([]byte, view) (request, *refusal) {
	return func(body []byte, v view) (request, *refusal) {
		var c openAICall
		if r := readJSON(body, &c); r != nil {
			return request{}, r
		}
		if c.Acknowledged != nil {
			return request{}, forged()
		}
		if c.Type != "computer_call" || c.CallID == "" || len(c.CallID) > maxID {
			return request{}, refuse("bad_member", "the body is a computer_call with its call_id")
		}
		var todo []openAIAction
		switch {
		case c.Action != nil && c.Actions == nil:
			todo = []openAIAction{*c.Action}
		case ga && c.Action == nil && c.Actions != nil:
			todo = *c.Actions
		default:
			return request{}, refuse("bad_member", "a call has actions, or in the preview one action")
		}
		if len(todo) == 0 || len(todo) > maxActions {
			return request{}, refuse("bad_batch", "a call has 1 to %d actions", maxActions)
		}
		req := request{space: v, checks: c.Pending, from: "openai", shot: true}
		for _, a := range todo {
			if !ga && a.Keys != nil && a.Type != "keypress" {
				return request{}, refuse("bad_member", "the preview has no held keys")
			}
			calls, r := a.calls(v)
			if r != nil {
				return request{}, r
			}
			req.calls = append(req.calls, calls...)
		}
		req.answer = func(o outcome) any { return openAIOutput(c.CallID, req.checks, o) }
		return req, nil
	}
}

// has reports whether exactly the named members were sent, keys aside.
func (a openAIAction) has(names string) bool {
	var got []string
	for _, m := range []struct {
		name string
		set  bool
	}{{"x", a.X != nil}, {"y", a.Y != nil}, {"button", a.Button != nil}, {"path", a.Path != nil},
		{"scroll_x", a.ScrollX != nil}, {"scroll_y", a.ScrollY != nil}, {"text", a.Text != nil}} {
		if m.set {
			got = append(got, m.name)
		}
	}
	return strings.Join(got, " ") == names
}

// openAIMembers are the members of each action beside type and keys.
var openAIMembers = map[string]string{
	"click": "x y button", "double_click": "x y", "move": "x y", "drag": "path", "scroll": "x y scroll_x scroll_y",
	"keypress": "", "type": "text", "wait": "", "screenshot": "",
}

// openAIButtons are the neutral clicks. The buttons back and forward are
// history, which is not among them.
var openAIButtons = map[string]string{"left": "left_click", "right": "right_click", "wheel": "middle_click"}

func (a openAIAction) calls(v view) ([]call, *refusal) {
	want, known := openAIMembers[a.Type]
	if !known {
		return nil, refuse("unknown_action", "the action is not known")
	}
	var held []string
	if a.Keys != nil {
		held = *a.Keys
	}
	if !a.has(want) || len(held) > 0 && (a.Type == "type" || a.Type == "wait" || a.Type == "screenshot") {
		return nil, refuse("bad_member", "%s lacks a member or has one that it does not take", a.Type)
	}
	at, _ := pair(a.X, a.Y)
	c := call{at: at}
	if len(held) > 0 && a.Type != "keypress" {
		c.modifiers = &held
	}
	switch a.Type {
	case "click":
		if *a.Button == "back" || *a.Button == "forward" {
			return nil, noNavigation()
		}
		if c.action = openAIButtons[*a.Button]; c.action == "" {
			return nil, refuse("bad_member", "the button is not known")
		}
	case "double_click":
		c.action = "double_click"
	case "move":
		if c.modifiers != nil {
			return nil, noHeldKeys()
		}
		c.action = "mouse_move"
	case "drag":
		if c.modifiers != nil {
			return nil, noHeldKeys()
		}
		from, to, r := line(*a.Path)
		if r != nil {
			return nil, r
		}
		c = call{action: "left_click_drag", from: from, at: to}
	case "scroll":
		c.action, c.by = "scroll_by", v.distance(&[2]int{*a.ScrollX, *a.ScrollY})
	case "keypress":
		return keypress(held)
	case "type":
		c.action, c.text = "type", a.Text
	case "wait":
		s := openAIWait
		c.action, c.seconds = "wait", &s
	case "screenshot":
		c.action = "screenshot"
	}
	return []call{c}, nil
}

// keypress presses each key, one by one, with the modifiers that stand before all
// of them.
func keypress(keys []string) ([]call, *refusal) {
	var mods []string
	var out []call
	for _, k := range keys {
		if _, is := modifierNames[strings.ToLower(k)]; is && len(out) == 0 {
			mods = append(mods, k)
			continue
		}
		if len(k) > 1 && strings.Contains(k, "+") {
			return nil, refuse("unknown_key", "each key is an element of its own")
		}
		chord := strings.Join(append(slices.Clone(mods), k), "+")
		out = append(out, call{action: "key", key: &chord})
	}
	if len(out) == 0 {
		return nil, refuse("unknown_key", "a modifier alone is not pressed")
	}
	return out, nil
}

// line is a path as one drag. One that bends would be another gesture: the
// browser's drag goes straight, and is decided on both of its ends together.
func line(path []openAIPoint) (from, to *[2]int, r *refusal) {
	if len(path) < 2 || len(path) > maxPath {
		return nil, nil, refuse("bad_member", "a path has 2 to %d points", maxPath)
	}
	a, z := path[0], path[len(path)-1]
	for _, p := range path {
		if max(abs(p.X), abs(p.Y)) > maxDistance {
			return nil, nil, refuse("off_screen", "a point of the path is outside the display")
		}
	}
	for _, p := range path {
		if off(a, z, p) > straight {
			r := refuse("bent_path", "the path of a drag is not a straight line")
			r.next = "send a drag from the first to the last point; nothing of this request was executed"
			return nil, nil, r
		}
	}
	return &[2]int{a.X, a.Y}, &[2]int{z.X, z.Y}, nil
}

// off is the distance of p from the segment from a to z.
func off(a, z, p openAIPoint) float64 {
	dx, dy := float64(z.X-a.X), float64(z.Y-a.Y)
	px, py := float64(p.X-a.X), float64(p.Y-a.Y)
	t := 0.0
	if l := dx*dx + dy*dy; l > 0 {
		t = min(max((px*dx+py*dy)/l, 0), 1)
	}
	return math.Hypot(px-t*dx, py-t*dy)
}

// openAIOutput is a computer_call_output item. What was not done is told in
// members of our own beside it, which a harness takes out before it sends the
// item. The checks are acknowledged only if a person approved.
func openAIOutput(id string, checks []check, o outcome) map[string]any {
	m := map[string]any{"type": "computer_call_output", "call_id": id, "status": "completed"}
	if o.shot != nil {
		m["output"] = map[string]any{"type": "computer_screenshot",
			"image_url": "data:" + o.shot.Image.MediaType + ";base64," + base64.StdEncoding.EncodeToString(o.shot.Image.Data)}
	}
	if o.approved && len(checks) > 0 {
		m["acknowledged_safety_checks"] = checks
	}
	if status, p := o.problem(); status != "" {
		m["status"] = "incomplete"
		m["code"], m["layer"], m["message"], m["next"] = p.Code, p.Layer, p.Message, p.Next
		m["results"] = slices.Collect(func(yield func(result) bool) {
			for _, r := range o.results {
				if r.Image = nil; !yield(r) {
					return
				}
			}
		})
	}
	return m
}
