package cdp

import (
	"strings"
	"unicode"
)

// finger is a touch that has begun. It is given to the page when the finger is
// taken away again, as one tap: nothing stays down while somebody decides.
type finger struct {
	x, y      float64
	modifiers int
}

func (h *hands) onScreen(x, y float64) bool {
	return x >= 0 && y >= 0 && x < float64(h.c.s.c.Width) && y < float64(h.c.s.c.Height)
}

// touch reads Input.dispatchTouchEvent: one finger that stays where it is. What
// a moving finger would end on nobody could decide; a wheel scrolls, a mouse drags.
func (h *hands) touch(r request) ([]stroke, *problem) {
	var p struct {
		Type   string `json:"type"`
		Points []struct {
			X float64 `json:"x"`
			Y float64 `json:"y"`
		} `json:"touchPoints"`
		Modifiers int `json:"modifiers"`
	}
	if !into(r.params, &p) || p.Modifiers&^15 != 0 || p.Modifiers < 0 || len(p.Points) > 1 {
		return nil, bad("the event is malformed, or of more than one finger")
	}
	down := h.finger
	switch {
	case p.Type == "touchStart" && len(p.Points) == 1 && down == nil:
		if !h.onScreen(p.Points[0].X, p.Points[0].Y) {
			return nil, bad("the point is outside the screen")
		}
		h.finger = &finger{p.Points[0].X, p.Points[0].Y, p.Modifiers}
		return nil, nil
	case p.Type == "touchMove" && len(p.Points) == 1 && down != nil:
		if p.Points[0].X == down.x && p.Points[0].Y == down.y {
			return nil, nil
		}
		h.finger = nil
		return nil, bad("a finger that moves is not served; taps are")
	case p.Type == "touchCancel":
		h.finger = nil
		return nil, nil
	case p.Type == "touchEnd" && down != nil:
		h.finger = nil
		return []stroke{{op: "left_click", kind: "tap", x: down.x, y: down.y, modifiers: down.modifiers, count: 1}}, nil
	}
	h.finger = nil
	return nil, bad("one finger goes down, and up again where it is")
}

// drag reads Input.dispatchDragEvent. What is dragged was taken over by the
// browser's side as the drag began; the client's own data is not looked at. Of
// the way the page hears when it ends, so that both ends are one after the other
// what was decided.
func (h *hands) drag(r request) ([]stroke, *problem) {
	var p struct {
		Type      string  `json:"type"`
		X         float64 `json:"x"`
		Y         float64 `json:"y"`
		Modifiers int     `json:"modifiers"`
	}
	if !into(r.params, &p) || p.Modifiers&^15 != 0 || p.Modifiers < 0 || !h.onScreen(p.X, p.Y) {
		return nil, bad("the event is malformed, or outside the screen")
	}
	if h.pressed != "left" {
		return nil, bad("nothing is dragged: the left button is not down")
	}
	s := stroke{x: p.X, y: p.Y, modifiers: p.Modifiers}
	switch p.Type {
	case "dragEnter", "dragOver":
		return nil, nil
	case "drop":
		s.op, s.kind, s.button, s.count = "left_mouse_up", "drop", "left", 1
	case "dragCancel":
		s.op, s.kind = "move", "cancel"
	default:
		return nil, bad("the type is not known")
	}
	return []stroke{s}, nil
}

// scroll reads Input.synthesizeScrollGesture as a turn of the wheel. The gesture
// counts to where the content goes, the wheel to where the view goes.
func (h *hands) scroll(r request) ([]stroke, *problem) {
	var p struct {
		X  float64 `json:"x"`
		Y  float64 `json:"y"`
		DX float64 `json:"xDistance"`
		DY float64 `json:"yDistance"`
	}
	if !into(r.params, &p) || !h.onScreen(p.X, p.Y) {
		return nil, bad("the gesture is malformed, or outside the screen")
	}
	return []stroke{{op: "scroll", kind: "wheel", x: p.X, y: p.Y, dx: -p.DX, dy: -p.DY}}, nil
}

const maxChosen = 16

// choose reads DOM.setFileInputFiles.
func (h *hands) choose(r request) ([]stroke, *problem) {
	var p struct {
		Files []string `json:"files"`
		Node  int      `json:"backendNodeId"`
	}
	if !into(r.params, &p) || p.Node < 1 || len(p.Files) > maxChosen {
		return nil, bad("a file input is named by its backendNodeId, and takes up to 16 files")
	}
	s := stroke{op: "upload", kind: "upload", node: p.Node}
	for _, name := range p.Files {
		u, ok := h.c.s.uploads.get(name)
		if !ok {
			return nil, refuse("cdp_upload", "no file was put here under that name; files of a machine are never read",
				"PUT its content to /uploads + the same path at SALLYPORT_CDP_URL first")
		}
		s.files = append(s.files, u)
	}
	return []stroke{s}, nil
}

// readable makes a page's or client's text safe to quote in a record: one line,
// nothing that hides.
func readable(s string, limit int) string {
	n := 0
	return strings.Map(func(r rune) rune {
		if n++; n > limit {
			return -1
		}
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}
