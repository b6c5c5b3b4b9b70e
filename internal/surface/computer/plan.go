package computer

import (
	"image"
	"math"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// A set of members, to say what an action takes.
type members uint16

const (
	mAt members = 1 << iota
	mFrom
	mText
	mKey
	mModifiers
	mDirection
	mAmount
	mSeconds
	mRegion
	mBy
)

func (c call) members() members {
	var m members
	for i, set := range []bool{c.at != nil, c.from != nil, c.text != nil, c.key != nil, c.modifiers != nil,
		c.direction != nil, c.amount != nil, c.seconds != nil, c.region != nil, c.by != nil} {
		if set {
			m |= 1 << i
		}
	}
	return m
}

// actions is the closed list of what may be asked, what it needs and what else
// it may carry. A member outside both is refused.
var actions = map[string]struct{ need, may members }{
	"screenshot":      {},
	"zoom":            {need: mRegion},
	"cursor_position": {},
	"home":            {},
	"wait":            {need: mSeconds},
	"mouse_move":      {need: mAt},
	"left_click":      {may: mAt | mModifiers},
	"right_click":     {may: mAt | mModifiers},
	"middle_click":    {may: mAt | mModifiers},
	"double_click":    {may: mAt | mModifiers},
	"triple_click":    {may: mAt | mModifiers},
	"left_mouse_down": {},
	"left_mouse_up":   {},
	"left_click_drag": {need: mAt, may: mFrom},
	"scroll":          {need: mDirection | mAmount, may: mAt | mModifiers},
	"scroll_by":       {need: mBy, may: mAt | mModifiers},
	"type":            {need: mText},
	"key":             {need: mKey},
	"hold_key":        {need: mKey | mSeconds},
}

// step is one primitive: one decision. at and from are screen pixels; a nil at
// means the cursor's place when its turn comes.
type step struct {
	op       string // operation without the surface
	at, from *image.Point
	in       Input
	wait     time.Duration // of wait, and after the key of hold_key
	region   image.Rectangle
	where    bool // of screenshot: with the origin of the page

	// After an approved question of the provider: its action, and what the first
	// input must still hit.
	approved string
	expect   action.Digest
}

// planned is a call with its primitives.
type planned struct {
	action string
	steps  []step
}

// plan checks every call and expands it. Nothing is executed if one is refused.
func plan(calls []call, v view) ([]planned, *refusal) {
	var out []planned
	inputs := 0
	for _, c := range calls {
		steps, r := expand(c, v)
		if r != nil {
			return nil, r
		}
		if inputs += len(steps); inputs > maxInputs {
			return nil, refuse("bad_batch", "a request has at most %d primitive inputs", maxInputs)
		}
		out = append(out, planned{c.action, steps})
	}
	return out, nil
}

func expand(c call, v view) ([]step, *refusal) {
	spec, ok := actions[c.action]
	if !ok {
		return nil, refuse("unknown_action", "the action is not known")
	}
	if m := c.members(); m&spec.need != spec.need || m&^(spec.need|spec.may) != 0 {
		return nil, refuse("bad_member", "%s lacks a member or has one that it does not take", c.action)
	}
	s := step{op: c.action}
	var r *refusal
	if s.at, r = v.point(c.at); r != nil {
		return nil, r
	}
	if s.from, r = v.point(c.from); r != nil {
		return nil, r
	}
	if c.modifiers != nil {
		if s.in.Modifiers, ok = parseModifiers(*c.modifiers); !ok {
			return nil, refuse("unknown_key", "a modifier is not known or is given twice")
		}
	}
	switch c.action {
	case "screenshot", "cursor_position", "home":
	case "zoom":
		s.region, r = v.area(*c.region)
	case "wait":
		s.wait, r = seconds(*c.seconds, maxWait)
	case "mouse_move":
		s.op, s.in.Kind = "move", Move
	case "left_click", "right_click", "middle_click", "double_click", "triple_click":
		s.in.Kind = Click
		s.in.Button = map[string]string{"right_click": "right", "middle_click": "middle"}[c.action]
		if s.in.Button == "" {
			s.in.Button = "left"
		}
		s.in.Count = max(1, map[string]int{"double_click": 2, "triple_click": 3}[c.action])
	case "left_mouse_down":
		s.in.Kind, s.in.Button, s.in.Count = Down, "left", 1
	case "left_mouse_up":
		s.in.Kind, s.in.Button, s.in.Count = Up, "left", 1
	case "left_click_drag":
		s.op, s.in.Kind, s.in.Button, s.in.Count = "drag", Drag, "left", 1
	case "scroll":
		r = s.scroll(*c.direction, *c.amount)
	case "scroll_by":
		s.op = "scroll"
		r = s.wheel(c.by[0], c.by[1])
	case "type":
		return typeSteps(*c.text)
	case "key", "hold_key":
		if r = s.press(c); r == nil && c.action == "key" && s.in.Key == "Home" && slices.Equal(s.in.Modifiers, []string{"Alt"}) {
			s = step{op: "home"}
		}
	}
	if r != nil {
		return nil, r
	}
	return []step{s}, nil
}

func (s *step) scroll(direction string, amount int) *refusal {
	if amount < 1 || amount > maxScroll {
		return refuse("bad_amount", "scroll takes 1 to %d wheel clicks", maxScroll)
	}
	d, ok := directions[direction]
	if !ok {
		return refuse("bad_direction", "scroll goes up, down, left or right")
	}
	return s.wheel(d[0]*amount*wheelClick, d[1]*amount*wheelClick)
}

var directions = map[string][2]int{"up": {0, -1}, "down": {0, 1}, "left": {-1, 0}, "right": {1, 0}}

// wheel takes screen pixels; positive is right and down.
func (s *step) wheel(dx, dy int) *refusal {
	if most := maxScroll * wheelClick; abs(dx) > most || abs(dy) > most || dx == 0 && dy == 0 {
		return refuse("bad_amount", "scroll takes up to %d pixels in a direction, and more than none", most)
	}
	if len(s.in.Modifiers) > 0 && !slices.Equal(s.in.Modifiers, []string{"Shift"}) {
		return refuse("unknown_key", "scroll takes Shift alone: other modifiers zoom the browser")
	}
	s.in.Kind, s.in.DX, s.in.DY = Wheel, dx, dy
	return nil
}

func (s *step) press(c call) *refusal {
	k, ok := parseChord(*c.key)
	if !ok {
		return refuse("unknown_key", "the key is not known")
	}
	s.in.Kind, s.in.Key, s.in.Modifiers = Key, k.key, k.modifiers
	if c.seconds == nil {
		return nil
	}
	var r *refusal
	s.wait, r = seconds(*c.seconds, maxHold)
	return r
}

// typeSteps makes a run of characters one decision, and each line break and tab
// in it a key with a decision of its own.
func typeSteps(text string) ([]step, *refusal) {
	if len(text) > maxText {
		return nil, refuse("too_large", "a text has at most %d bytes", maxText)
	}
	parts, ok := splitText(text)
	if !ok || len(parts) == 0 {
		return nil, refuse("bad_text", "the text is empty or has control characters")
	}
	var out []step
	for _, p := range parts {
		if p.key != "" {
			out = append(out, step{op: "key", in: Input{Kind: Key, Key: p.key}})
		} else {
			out = append(out, step{op: "type", in: Input{Kind: Type, Text: p.text, Count: utf8.RuneCountInString(p.text)}})
		}
	}
	return out, nil
}

func seconds(f float64, most time.Duration) (time.Duration, *refusal) {
	if math.IsNaN(f) || f < 0 || f > most.Seconds() {
		return 0, refuse("bad_duration", "the time is 0 to %d seconds", int(most.Seconds()))
	}
	return time.Duration(f * float64(time.Second)), nil
}

func splitPlus(s string) []string {
	var out []string
	start := 0
	for i := range len(s) {
		if s[i] == '+' {
			out = append(out, s[start:i])
			start = i + 1
		}
	}
	return append(out, s[start:])
}
