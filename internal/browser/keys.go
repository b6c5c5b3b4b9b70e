package browser

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// keyDef is a key of the US layout, as the protocol names it.
type keyDef struct {
	key, code string
	vk        int
	char      string // what it types without modifiers
	location  int
}

type modifier struct {
	keyDef
	bit Modifiers
}

type chord struct {
	held    []modifier
	key     keyDef
	bits    Modifiers
	command string // editing command of the platform
}

// text is what the chord types.
func (c chord) text() string {
	if c.bits&^Shift != 0 {
		return ""
	}
	return c.key.char
}

var modifierKeys = map[string]modifier{
	"control": {keyDef{key: "Control", code: "ControlLeft", vk: 17, location: 1}, Ctrl},
	"shift":   {keyDef{key: "Shift", code: "ShiftLeft", vk: 16, location: 1}, Shift},
	"alt":     {keyDef{key: "Alt", code: "AltLeft", vk: 18, location: 1}, Alt},
	"meta":    {keyDef{key: "Meta", code: "MetaLeft", vk: 91, location: 1}, Meta},
}

// namedKeys are the keys that are not one printable character, by W3C name in
// lower case.
var namedKeys = func() map[string]keyDef {
	m := map[string]keyDef{
		"enter":     {key: "Enter", code: "Enter", vk: 13, char: "\r"},
		"tab":       {key: "Tab", code: "Tab", vk: 9},
		"backspace": {key: "Backspace", code: "Backspace", vk: 8},
		"escape":    {key: "Escape", code: "Escape", vk: 27},
		"delete":    {key: "Delete", code: "Delete", vk: 46}, "insert": {key: "Insert", code: "Insert", vk: 45},
		"home": {key: "Home", code: "Home", vk: 36}, "end": {key: "End", code: "End", vk: 35},
		"pageup": {key: "PageUp", code: "PageUp", vk: 33}, "pagedown": {key: "PageDown", code: "PageDown", vk: 34},
		"arrowleft": {key: "ArrowLeft", code: "ArrowLeft", vk: 37}, "arrowup": {key: "ArrowUp", code: "ArrowUp", vk: 38},
		"arrowright": {key: "ArrowRight", code: "ArrowRight", vk: 39}, "arrowdown": {key: "ArrowDown", code: "ArrowDown", vk: 40},
		"contextmenu": {key: "ContextMenu", code: "ContextMenu", vk: 93},
	}
	for i := 1; i <= 12; i++ {
		n := fmt.Sprintf("F%d", i)
		m[strings.ToLower(n)] = keyDef{key: n, code: n, vk: 111 + i}
	}
	return m
}()

// aliases lead from other names (X11 keysyms as xdotool takes them, and what
// models write) to those above. All lower case.
var aliases = map[string]string{
	"return": "enter", "kp_enter": "enter", "back_space": "backspace", "esc": "escape", "del": "delete", "ins": "insert",
	"page_up": "pageup", "prior": "pageup", "pgup": "pageup", "page_down": "pagedown", "next": "pagedown", "pgdn": "pagedown",
	"left": "arrowleft", "right": "arrowright", "up": "arrowup", "down": "arrowdown", "menu": "contextmenu",
	"ctrl": "control", "control_l": "control", "control_r": "control", "ctrl_l": "control", "ctrl_r": "control",
	"shift_l": "shift", "shift_r": "shift", "alt_l": "alt", "alt_r": "alt", "option": "alt",
	"super": "meta", "super_l": "meta", "super_r": "meta", "meta_l": "meta", "meta_r": "meta", "cmd": "meta", "command": "meta", "win": "meta",
}

// symbols are the X11 names of printable characters.
var symbols = map[string]string{
	"space": " ", "minus": "-", "plus": "+", "equal": "=", "comma": ",", "period": ".", "slash": "/", "backslash": "\\",
	"semicolon": ";", "apostrophe": "'", "grave": "`", "bracketleft": "[", "bracketright": "]", "exclam": "!", "at": "@",
	"numbersign": "#", "dollar": "$", "percent": "%", "asciicircum": "^", "ampersand": "&", "asterisk": "*",
	"parenleft": "(", "parenright": ")", "underscore": "_", "less": "<", "greater": ">", "question": "?", "colon": ":",
	"quotedbl": "\"", "braceleft": "{", "braceright": "}", "bar": "|", "asciitilde": "~",
}

// punctuation is the US layout: character, shifted character, code, virtual key.
var punctuation = []struct {
	plain, shifted byte
	code           string
	vk             int
}{
	{'-', '_', "Minus", 189}, {'=', '+', "Equal", 187}, {',', '<', "Comma", 188}, {'.', '>', "Period", 190},
	{'/', '?', "Slash", 191}, {'\\', '|', "Backslash", 220}, {';', ':', "Semicolon", 186}, {'\'', '"', "Quote", 222},
	{'`', '~', "Backquote", 192}, {'[', '{', "BracketLeft", 219}, {']', '}', "BracketRight", 221}, {' ', ' ', "Space", 32},
	{'1', '!', "Digit1", '1'}, {'2', '@', "Digit2", '2'}, {'3', '#', "Digit3", '3'}, {'4', '$', "Digit4", '4'}, {'5', '%', "Digit5", '5'},
	{'6', '^', "Digit6", '6'}, {'7', '&', "Digit7", '7'}, {'8', '*', "Digit8", '8'}, {'9', '(', "Digit9", '9'}, {'0', ')', "Digit0", '0'},
}

// printable is the key that types r. shift says that Shift is held.
func printable(s string, shift bool) (keyDef, bool) {
	if utf8.RuneCountInString(s) != 1 {
		return keyDef{}, false
	}
	if len(s) > 1 {
		if r, _ := utf8.DecodeRuneInString(s); r == utf8.RuneError {
			return keyDef{}, false
		}
		return keyDef{key: s, char: s}, true // not on this layout: typed as it is
	}
	c := s[0]
	if u := c &^ 0x20; u >= 'A' && u <= 'Z' {
		if shift {
			c = u
		}
		return keyDef{key: string(c), code: "Key" + string(u), vk: int(u), char: string(c)}, true
	}
	for _, p := range punctuation {
		if c != p.plain && c != p.shifted {
			continue
		}
		if shift {
			c = p.shifted
		}
		return keyDef{key: string(c), code: p.code, vk: p.vk, char: string(c)}, true
	}
	return keyDef{}, false
}

// parseChord reads names joined by plus signs: modifiers, then one key.
func parseChord(s string) (chord, error) {
	var c chord
	if s == "" || len(s) > 100 {
		return c, ErrKey
	}
	parts := strings.Split(s, "+")
	if s == "+" || strings.HasSuffix(s, "++") { // the plus key itself
		parts = append(parts[:len(parts)-2], "plus")
	}
	for i, raw := range parts {
		name := strings.ToLower(raw)
		if a, ok := aliases[name]; ok {
			name = a
		}
		if m, ok := modifierKeys[name]; ok {
			if c.bits&m.bit != 0 {
				return c, fmt.Errorf("%w: %q twice", ErrKey, clip(raw, 40))
			}
			if i == len(parts)-1 { // a modifier alone
				c.key = m.keyDef
				return c, refuse(c)
			}
			c.held, c.bits = append(c.held, m), c.bits|m.bit
			continue
		}
		if i != len(parts)-1 {
			return c, fmt.Errorf("%w: %q is not a modifier", ErrKey, clip(raw, 40))
		}
		k, ok := namedKeys[name]
		if !ok {
			if sym, is := symbols[name]; is {
				raw = sym
			}
			if c.bits&(Ctrl|Meta) != 0 {
				raw = strings.ToLower(raw)
			}
			k, ok = printable(raw, c.bits&Shift != 0)
		}
		if !ok {
			return c, fmt.Errorf("%w: %q", ErrKey, clip(raw, 40))
		}
		c.key = k
	}
	c.command = commands[c.bits][strings.ToLower(c.key.key)]
	return c, refuse(c)
}

// commands are the editing commands that the platform's key bindings would
// make; a headless browser has no such bindings.
var commands = map[Modifiers]map[string]string{
	Ctrl:         {"a": "selectAll", "c": "copy", "x": "cut", "v": "paste", "z": "undo", "y": "redo"},
	Ctrl | Shift: {"z": "redo", "v": "pasteAndMatchStyle"},
}

// CheckChord reports whether a key or chord is known and acts on the page
// alone. The list is of what may pass: every chord with Alt (access keys,
// history) or Meta, and every other one with Ctrl, belongs to the browser.
func CheckChord(s string) error {
	_, err := parseChord(s)
	return err
}

var (
	ctrlKeys    = []string{"a", "b", "c", "i", "v", "x", "y", "z", "enter", "backspace", "delete", "home", "end", "arrowleft", "arrowright", "arrowup", "arrowdown", "shift", "control", "insert"}
	browserKeys = []string{"f1", "f3", "f5", "f6", "f7", "f10", "f11", "f12", "contextmenu", "alt", "meta"}
	editKeys    = []string{"z", "v", "home", "end", "arrowleft", "arrowright", "arrowup", "arrowdown"}
)

func refuse(c chord) error {
	k := strings.ToLower(c.key.key)
	bad := slices.Contains(browserKeys, k)
	switch c.bits {
	case 0:
	case Shift:
		bad = bad || k == "escape"
	case Ctrl:
		bad = bad || !slices.Contains(ctrlKeys, k)
	case Ctrl | Shift:
		bad = bad || !slices.Contains(editKeys, k)
	default:
		bad = true
	}
	if bad {
		return ErrChord
	}
	return nil
}
