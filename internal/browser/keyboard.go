package browser

import "slices"

// key sends a chord: modifiers down, the key, modifiers up, each one checked
// by the guard against the element that was focused when it was decided.
func (f *flying) key(g Grounded, in Key) error {
	c, err := parseChord(in.Chord)
	if err != nil {
		return err
	}
	// The release of a key that moves the focus arrives on the next element.
	// Only Space acts on its release, and Enter may have.
	s := armSpec{Mode: "key", Loose: c.key.key != " " && c.key.key != "Enter"}
	p, err := f.arm(g, s)
	if err != nil {
		return err
	}
	if err := f.ready(s); err != nil {
		return err
	}
	var calls []*call
	var held Modifiers
	for _, m := range c.held {
		held |= m.bit
		calls = append(calls, f.keyEvent("rawKeyDown", m.keyDef, held))
	}
	kind := "rawKeyDown"
	if c.text() != "" {
		kind = "keyDown"
	}
	e := f.keyParams(kind, c.key, held)
	if t := c.text(); t != "" {
		e["text"], e["unmodifiedText"] = t, t
	}
	if c.command != "" {
		e["commands"] = []string{c.command}
	}
	calls = append(calls, f.b.conn.send(f.page.id, "Input.dispatchKeyEvent", e), f.keyEvent("keyUp", c.key, held))
	for _, m := range slices.Backward(c.held) {
		held &^= m.bit
		calls = append(calls, f.keyEvent("keyUp", m.keyDef, held))
	}
	if err := f.sent(calls...); err != nil {
		return err
	}
	return f.verdict([]place{p}, []string{"keydown"})
}

func (f *flying) keyEvent(kind string, k keyDef, held Modifiers) *call {
	return f.b.conn.send(f.page.id, "Input.dispatchKeyEvent", f.keyParams(kind, k, held))
}

func (f *flying) keyParams(kind string, k keyDef, held Modifiers) obj {
	return obj{"type": kind, "key": k.key, "code": k.code, "windowsVirtualKeyCode": k.vk, "nativeVirtualKeyCode": k.vk,
		"modifiers": int(held), "location": k.location}
}

// text inserts the whole text in one step, as an input method does: the page
// sees beforeinput and input, so it cannot move the focus between two letters.
func (f *flying) text(g Grounded, in Type) error {
	s := armSpec{Mode: "key", Text: true}
	p, err := f.arm(g, s)
	if err != nil {
		return err
	}
	if err := f.ready(s); err != nil {
		return err
	}
	if err := f.sent(f.b.conn.send(f.page.id, "Input.insertText", obj{"text": in.Text})); err != nil {
		return err
	}
	return f.verdict([]place{p}, []string{"beforeinput"})
}
