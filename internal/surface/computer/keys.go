package computer

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// chord is one key with the modifiers that are held around it.
type chord struct {
	key       string   // DOM key name (UI Events KeyboardEvent key values)
	modifiers []string // DOM names, sorted
}

func (c chord) String() string { return strings.Join(append(slices.Clone(c.modifiers), c.key), "+") }

// character reports whether the key would write a character.
func (c chord) character() bool {
	return utf8.RuneCountInString(c.key) == 1 && !slices.ContainsFunc(c.modifiers, func(m string) bool { return m != "Shift" })
}

// modifierNames maps the names that models use (X keysyms, xdotool, DOM), in
// lower case, to DOM names.
var modifierNames = map[string]string{
	"ctrl": "Control", "control": "Control", "control_l": "Control", "control_r": "Control",
	"alt": "Alt", "alt_l": "Alt", "alt_r": "Alt", "option": "Alt",
	"shift": "Shift", "shift_l": "Shift", "shift_r": "Shift",
	"super": "Meta", "super_l": "Meta", "super_r": "Meta", "meta": "Meta", "cmd": "Meta", "command": "Meta", "win": "Meta",
}

// keyNames is closed: a key that is not here and is not one printable character
// is refused.
var keyNames = map[string]string{
	"return": "Enter", "enter": "Enter", "kp_enter": "Enter", "tab": "Tab", "escape": "Escape", "esc": "Escape",
	"backspace": "Backspace", "delete": "Delete", "insert": "Insert", "home": "Home", "end": "End",
	"page_up": "PageUp", "pageup": "PageUp", "prior": "PageUp", "page_down": "PageDown", "pagedown": "PageDown", "next": "PageDown",
	"up": "ArrowUp", "down": "ArrowDown", "left": "ArrowLeft", "right": "ArrowRight",
	"arrowup": "ArrowUp", "arrowdown": "ArrowDown", "arrowleft": "ArrowLeft", "arrowright": "ArrowRight",
	"space": " ", "plus": "+", "minus": "-", "equal": "=", "comma": ",", "period": ".", "slash": "/", "backslash": "\\",
	"equals": "=", "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "decimal": ".",
	"semicolon": ";", "apostrophe": "'", "grave": "`", "bracketleft": "[", "bracketright": "]", "underscore": "_",
	"f1": "F1", "f2": "F2", "f3": "F3", "f4": "F4", "f5": "F5", "f6": "F6",
	"f7": "F7", "f8": "F8", "f9": "F9", "f10": "F10", "f11": "F11", "f12": "F12",
}

// parseChord reads "ctrl+shift+t", "Return", "a", "ctrl++".
func parseChord(s string) (chord, bool) {
	mods, key := "", s
	if i := strings.LastIndexByte(strings.TrimSuffix(s, "+"), '+'); i >= 0 && len(s) > 1 {
		mods, key = s[:i], s[i+1:]
	}
	c := chord{}
	if mods != "" {
		m, ok := parseModifiers(strings.Split(mods, "+"))
		if !ok {
			return chord{}, false
		}
		c.modifiers = m
	}
	if name, ok := keyNames[strings.ToLower(key)]; ok {
		c.key = name
		return c, true
	}
	r, n := utf8.DecodeRuneInString(key)
	if n != len(key) || n == 0 || r == utf8.RuneError || !unicode.IsPrint(r) {
		return chord{}, false
	}
	c.key = key
	return c, true
}

// parseModifiers refuses unknown and repeated names.
func parseModifiers(names []string) ([]string, bool) {
	var out []string
	for _, n := range names {
		m, ok := modifierNames[strings.ToLower(n)]
		if !ok || slices.Contains(out, m) {
			return nil, false
		}
		out = append(out, m)
	}
	slices.Sort(out)
	return out, true
}

// typed is one part of a text: a run of characters, or one key.
type typed struct {
	text string
	key  string
}

// splitText cuts a text where a character is in truth a key with an effect of
// its own: a line break submits forms and a tab moves the focus. ok is false for
// other control characters and for invalid UTF-8.
func splitText(s string) (parts []typed, ok bool) {
	if !utf8.ValidString(s) {
		return nil, false
	}
	run := func(t string) {
		if t != "" {
			parts = append(parts, typed{text: t})
		}
	}
	s = strings.ReplaceAll(s, "\r\n", "\n")
	start := 0
	for i, r := range s {
		switch {
		case r == '\n' || r == '\r' || r == '\u2028' || r == '\u2029' || r == '\u0085':
			run(s[start:i])
			parts = append(parts, typed{key: "Enter"})
		case r == '\t':
			run(s[start:i])
			parts = append(parts, typed{key: "Tab"})
		case unicode.IsControl(r):
			return nil, false
		default:
			continue
		}
		start = i + utf8.RuneLen(r)
	}
	run(s[start:])
	return parts, true
}
