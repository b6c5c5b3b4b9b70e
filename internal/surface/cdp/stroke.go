package cdp

import (
	"strings"
	"unicode/utf8"
)

// stroke is one input as it is decided.
type stroke struct {
	page      string
	op        string // operation of the computer surface
	kind      string // move, down, up, wheel, tap, drop, cancel, key, type, upload
	x, y      float64
	button    string
	count     int
	modifiers int
	dx, dy    float64
	chord     string
	key       string // of the chord, without modifiers
	text      string
	node      int // backend number of a file input
	files     []upload
}

func bad(what string) *problem {
	p := refuse("cdp_input", what, "send the input in the form that drivers send it")
	p.rpc = codeParams
	return p
}

// mouse reads Input.dispatchMouseEvent.
func (h *hands) mouse(r request) ([]stroke, *problem) {
	var p struct {
		Type      string  `json:"type"`
		X         float64 `json:"x"`
		Y         float64 `json:"y"`
		Modifiers int     `json:"modifiers"`
		Button    string  `json:"button"`
		Count     int     `json:"clickCount"`
		DX        float64 `json:"deltaX"`
		DY        float64 `json:"deltaY"`
		Pointer   string  `json:"pointerType"`
	}
	if !into(r.params, &p) || p.Modifiers&^15 != 0 || p.Modifiers < 0 || p.Pointer != "" && p.Pointer != "mouse" {
		return nil, bad("the event is malformed, or of another pointer than the mouse")
	}
	s := stroke{x: p.X, y: p.Y, modifiers: p.Modifiers, button: p.Button, count: p.Count, dx: p.DX, dy: p.DY}
	if s.button == "none" {
		s.button = ""
	}
	if s.button != "" && s.button != "left" && s.button != "middle" && s.button != "right" {
		return nil, bad("the button is not known to the screen")
	}
	w, hgt := float64(h.c.s.c.Width), float64(h.c.s.c.Height)
	if !(p.X >= 0 && p.Y >= 0 && p.X < w && p.Y < hgt) {
		if p.Type == "mouseMoved" { // leaving the screen is nothing that a page could be asked about
			return nil, nil
		}
		return nil, bad("the point is outside the screen")
	}
	switch p.Type {
	case "mouseMoved":
		s.op, s.kind, s.button, s.count = "move", "move", h.pressed, 0
	case "mousePressed":
		if s.button == "" || p.Count < 1 {
			return nil, bad("a press has a button and a count")
		}
		if h.pressed != "" {
			return nil, bad("a button is down already")
		}
		s.kind = "down"
		s.count = (p.Count-1)%3 + 1 // after the third click Chromium starts again
		s.op = s.button + "_click"
		if s.button == "left" {
			s.op = []string{"left_click", "double_click", "triple_click"}[s.count-1]
		}
	case "mouseReleased":
		if h.dropped && h.pressed == "" { // what a driver sends after a drop of its own
			h.dropped = false
			return nil, nil
		}
		if h.pressed == "" || s.button != h.pressed {
			return nil, bad("that button is not down")
		}
		s.kind, s.op = "up", "left_mouse_up"
		s.count = max(0, (p.Count-1)%3+1)
	case "mouseWheel":
		s.op, s.kind, s.button, s.count = "scroll", "wheel", "", 0
	default:
		return nil, bad("the type is not known")
	}
	return []stroke{s}, nil
}

// held are the bits of the protocol's modifiers, in the order of a chord.
var held = []struct {
	bit  int
	name string
}{{2, "Control"}, {1, "Alt"}, {8, "Shift"}, {4, "Meta"}}

// keyboard reads Input.dispatchKeyEvent. A key is pressed and released when it
// goes down, so that nothing stays down while somebody decides; a modifier is
// held around the keys that come with it. A key that would write and goes down
// without its text waits for the text, which some clients send behind it
// (browser-use): both together are one key.
func (h *hands) keyboard(r request) ([]stroke, *problem) {
	var p struct {
		Type      string   `json:"type"`
		Modifiers int      `json:"modifiers"`
		Text      string   `json:"text"`
		Key       string   `json:"key"`
		Commands  []string `json:"commands"`
	}
	if !into(r.params, &p) || p.Modifiers&^15 != 0 || p.Modifiers < 0 || len(p.Commands) > 0 {
		return nil, bad("the event is malformed, or brings editing commands")
	}
	before := h.silent
	h.silent = ""
	switch p.Type {
	case "keyUp":
		if before == "Enter" && p.Key == before { // nothing came behind it
			return press("Enter", 0), nil
		}
		return nil, nil
	case "char":
		switch {
		case p.Text == "\r" || p.Text == "\n":
			return press("Enter", 0), nil
		case before != "" && utf8.RuneCountInString(p.Text) == 1:
			return press(p.Text, 0), nil
		}
		return []stroke{{op: "type", kind: "type", text: p.Text}}, nil
	case "keyDown", "rawKeyDown":
	default:
		return nil, bad("the type is not known")
	}
	switch p.Key {
	case "Control", "Shift", "Alt", "Meta", "AltGraph", "CapsLock":
		return nil, nil
	case "", "Unidentified", "Dead", "Process":
		return nil, bad("the key has no name")
	}
	if writes := p.Key == "Enter" || utf8.RuneCountInString(p.Key) == 1; writes && p.Text == "" && p.Modifiers&^8 == 0 {
		h.silent = p.Key
		return nil, nil
	}
	return press(p.Key, p.Modifiers), nil
}

func press(key string, modifiers int) []stroke {
	var parts []string
	for _, m := range held {
		if modifiers&m.bit != 0 {
			parts = append(parts, m.name)
		}
	}
	return []stroke{{op: "key", kind: "key", key: key, modifiers: modifiers, chord: strings.Join(append(parts, key), "+")}}
}

// insert reads Input.insertText. A line break or a tab is a key with an effect
// of its own.
func insert(r request) ([]stroke, *problem) {
	var p struct {
		Text string `json:"text"`
	}
	if !into(r.params, &p) || p.Text == "" || len(p.Text) > 64<<10 {
		return nil, bad("the text is empty or too long")
	}
	var out []stroke
	text := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(p.Text)
	for i, line := range strings.Split(text, "\n") {
		if i > 0 {
			out = append(out, press("Enter", 0)...)
		}
		for j, run := range strings.Split(line, "\t") {
			if j > 0 {
				out = append(out, press("Tab", 0)...)
			}
			if run != "" {
				out = append(out, stroke{op: "type", kind: "type", text: run})
			}
		}
	}
	if len(out) > 200 {
		return nil, bad("the text has too many lines")
	}
	return out, nil
}
