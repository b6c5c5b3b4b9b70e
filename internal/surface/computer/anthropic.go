package computer

import (
	"fmt"
	"slices"
)

// The actions of each version of Anthropic's computer tool, as its reference
// documents them. A version has what the one before it has.
var (
	computer20241022 = version{name: "computer_20241022", actions: []string{"key", "type", "mouse_move", "left_click", "left_click_drag",
		"right_click", "middle_click", "double_click", "screenshot", "cursor_position"}}
	computer20250124 = version{name: "computer_20250124", at: true, actions: append([]string{"left_mouse_down", "left_mouse_up", "scroll",
		"hold_key", "wait", "triple_click"}, computer20241022.actions...)}
	computer20251124 = version{name: "computer_20251124", at: true, actions: append([]string{"zoom"}, computer20250124.actions...)}
)

// version is one version of the tool.
type version struct {
	name    string
	actions []string
	// at says that clicks take a point and a held key, and drags a start. Before
	// that they act where the cursor is.
	at bool
}

// anthropicCall is the input of a tool_use block.
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

// has refuses what this version of the tool does not have.
func (t version) has(a anthropicCall) *refusal {
	if !slices.Contains(t.actions, a.Action) {
		if slices.Contains(computer20251124.actions, a.Action) {
			r := refuse("not_in_version", "%s has no action %s", t.name, a.Action)
			r.next = "declare " + computer20251124.name + " to the model and send its actions to its own path"
			return r
		}
		return refuse("unknown_action", "the action is not known")
	}
	if t.at {
		return nil
	}
	moves := a.Action == "mouse_move" || a.Action == "left_click_drag"
	texts := a.Action == "key" || a.Action == "type"
	if a.Coordinate != nil && !moves || a.StartCoordinate != nil || a.Key != nil || a.Text != nil && !texts {
		r := refuse("not_in_version", "in %s this action acts at the cursor and takes no such member", t.name)
		r.next = "send mouse_move first, or declare " + computer20251124.name
		return r
	}
	return nil
}

// readAnthropic maps the vendor's overloaded "text": a chord for key and
// hold_key, text for type, a held modifier for pointer actions (the
// documentation says text, the quickstart also accepts key).
func readAnthropic(t version) func([]byte, view) (request, *refusal) {
	return func(body []byte, v view) (request, *refusal) {
		var a anthropicCall
		if r := readJSON(body, &a); r != nil {
			return request{}, r
		}
		if r := t.has(a); r != nil {
			return request{}, r
		}
		c := call{action: a.Action, at: a.Coordinate, from: a.StartCoordinate, direction: a.ScrollDirection,
			amount: a.ScrollAmount, seconds: a.Duration, region: a.Region}
		if r := c.anthropicText(a); r != nil {
			return request{}, r
		}
		return request{calls: []call{c}, space: v, answer: func(o outcome) any { return toolResult(o.results[0]) }}, nil
	}
}

func (c *call) anthropicText(a anthropicCall) *refusal {
	if a.Action == "type" {
		c.text, c.key = a.Text, a.Key
		return nil
	}
	if a.Text != nil && a.Key != nil {
		return refuse("bad_member", "a key is given by text or by key, not by both")
	}
	key := a.Text
	if key == nil {
		key = a.Key
	}
	switch {
	case a.Action == "key" || a.Action == "hold_key":
		c.key = key
	case key != nil && *key != "":
		m := splitPlus(*key)
		c.modifiers = &m
	}
	return nil
}

// toolResult is the content of a tool_result block (Anthropic Messages API).
// The caller adds tool_use_id.
func toolResult(r result) map[string]any {
	switch {
	case r.Status != statusDone:
		return toolError(r.Status, r.problem)
	case r.Image != nil:
		return map[string]any{"is_error": false, "content": []any{map[string]any{"type": "image",
			"source": map[string]any{"type": "base64", "media_type": r.Image.MediaType, "data": r.Image.Data}}}}
	case r.Cursor != nil:
		return map[string]any{"is_error": false, "content": []any{map[string]any{"type": "text", "text": fmt.Sprintf("X=%d,Y=%d", r.Cursor.X, r.Cursor.Y)}}}
	}
	return map[string]any{"is_error": false, "content": []any{map[string]any{"type": "text", "text": "done"}}}
}

func toolError(status string, p problem) map[string]any {
	out := map[string]any{"is_error": true, "content": []any{map[string]any{"type": "text", "text": p.text(status)}},
		"status": status, "code": p.Code, "layer": p.Layer, "message": p.Message, "next": p.Next}
	if p.Question != "" {
		out["question"] = p.Question
	}
	return out
}
