package computer

import (
	"bytes"
	"image"
	"image/draw"
	"image/png"
	"log/slog"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Pressed names the piece of the picture around what was pressed, in evidence.
const Pressed = "pressed"

const (
	pieceMargin             = 24 // pixels around the element
	pieceWidth, pieceHeight = 480, 240
)

// piece is what the agent saw where it presses: evidence for whoever judges the
// change that the press may send. It is cut out of the last picture and costs no
// new one. A press that can only read, and one before any picture, has none.
func (s *Server) piece(a aim) []record.Blob {
	p := pressed{in: a.in.Kind, key: a.in.Key, element: a.target.Element}
	if s.shot == nil || !p.mayChange() {
		return nil
	}
	area := a.area().Intersect(image.Rect(0, 0, s.c.Width, s.c.Height))
	if area.Empty() {
		return nil
	}
	var buf bytes.Buffer
	full, err := png.Decode(bytes.NewReader(s.shot))
	if err == nil {
		out := image.NewRGBA(image.Rectangle{Max: area.Size()})
		draw.Draw(out, out.Bounds(), full, area.Min, draw.Src)
		err = (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(&buf, out)
	}
	if err != nil { // the press is decided and recorded all the same
		slog.Warn("cut a piece out of the picture", "task", s.c.Task, "error", err)
		return nil
	}
	return []record.Blob{{Name: Pressed, Type: "image/png", Data: buf.Bytes()}}
}

// area is the element with a margin, no larger than a piece may be, and always
// with the point in it.
func (a aim) area() image.Rectangle {
	at := image.Pt(a.in.X, a.in.Y)
	box := a.target.Box
	if a.in.Kind == Key {
		if box.Empty() {
			return box
		}
		at = image.Pt((box.Min.X+box.Max.X)/2, (box.Min.Y+box.Max.Y)/2)
	}
	if !at.In(box) {
		box = image.Rectangle{at, at.Add(image.Pt(1, 1))}
	}
	most := image.Rect(at.X-pieceWidth/2, at.Y-pieceHeight/2, at.X+pieceWidth/2, at.Y+pieceHeight/2)
	return box.Inset(-pieceMargin).Union(image.Rect(at.X-80, at.Y-40, at.X+80, at.Y+40)).Intersect(most)
}

// mayChange reports whether the press may send something that changes: it
// submits a form that is no GET, or what it does is up to a script.
func (p *pressed) mayChange() bool {
	switch p.in {
	case Click, Down, Up, Drag:
	case Key:
		if p.key != "Enter" && p.key != " " {
			return false
		}
	default:
		return false
	}
	if p.submits() && !strings.EqualFold(formMethod(p.element), "GET") {
		return true
	}
	return p.leftToScript() && (control(p.element) || p.sends())
}

// pressedOf is the evidence that piece left in the record of an input.
func pressedOf(a action.Action) (out []action.Evidence) {
	for _, e := range a.Evidence {
		if e.Name == Pressed {
			out = append(out, e)
		}
	}
	return out
}
