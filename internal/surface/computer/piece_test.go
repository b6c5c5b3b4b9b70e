package computer_test

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/surface/computer"
)

// What the agent saw where it presses is in the record of a press that may send a
// change, and beside the change that the press explains.
//
// Threats: T24, T51 (door)
func TestPieceOfThePicture(t *testing.T) {
	f := start(t, allowAll)
	button := target("button", "submit")
	link := computer.Target{Fingerprint: "sha256:a", Element: action.Element{Tag: "a", FrameOrigin: "https://iam.example", Link: "https://iam.example/users"}}
	field := target("input", "text")
	get := target("button", "submit")
	get.Element.FormMethod = "GET"
	bare := computer.Target{Fingerprint: "sha256:b", Element: action.Element{Tag: "button", FrameOrigin: "https://iam.example"}}
	at := button
	f.screen.at = func(int, int, int) computer.Target { return at }
	press := func(body string) []byte {
		t.Helper()
		if _, a := f.post(anthropic, body); a.IsError {
			t.Fatalf("%s: %+v", body, a)
		}
		var piece []byte
		for _, b := range f.log.blobs[len(f.log.blobs)-1] {
			if b.Name == computer.Pressed {
				piece = b.Data
			}
		}
		return piece
	}
	const click = `{"action":"left_click","coordinate":[100,100]}`
	if press(click) != nil {
		t.Error("a piece of no picture")
	}
	f.post(anthropic, `{"action":"screenshot"}`)
	for name, c := range map[string]struct {
		on   computer.Target
		body string
		box  image.Rectangle
		want image.Rectangle // of the screen
	}{
		"form":            {button, click, image.Rect(90, 90, 150, 110), image.Rect(20, 60, 180, 140)},
		"script":          {bare, click, image.Rect(60, 80, 400, 130), image.Rect(20, 56, 340, 154)},
		"huge":            {bare, click, image.Rect(0, 0, 1280, 800), image.Rect(0, 0, 340, 220)},
		"box_elsewhere":   {bare, click, image.Rect(500, 500, 600, 600), image.Rect(20, 60, 180, 140)},
		"no_box":          {bare, click, image.Rectangle{}, image.Rect(20, 60, 180, 140)},
		"corner":          {bare, `{"action":"left_click","coordinate":[1279,799]}`, image.Rectangle{}, image.Rect(1199, 759, 1280, 800)},
		"down":            {button, `{"action":"left_mouse_down"}`, image.Rectangle{}, image.Rect(1199, 759, 1280, 800)},
		"link":            {link, click, image.Rect(90, 90, 150, 110), image.Rectangle{}},
		"field":           {field, click, image.Rect(90, 90, 150, 110), image.Rectangle{}},
		"form_that_reads": {get, click, image.Rect(90, 90, 150, 110), image.Rectangle{}},
		"move":            {button, `{"action":"mouse_move","coordinate":[100,100]}`, image.Rect(90, 90, 150, 110), image.Rectangle{}},
	} {
		t.Run(name, func(t *testing.T) {
			f.T = t
			if name == "down" {
				at = bare
				press(`{"action":"mouse_move","coordinate":[1279,799]}`)
				defer f.post(anthropic, `{"action":"left_mouse_up"}`)
			}
			at = c.on
			at.Box = c.box
			piece := press(c.body)
			if c.want.Empty() {
				if piece != nil {
					t.Error("there is a piece")
				}
				return
			}
			img, err := png.Decode(bytes.NewReader(piece))
			if err != nil {
				t.Fatal(err)
			}
			if img.Bounds().Size() != c.want.Size() {
				t.Errorf("got %v, want %v", img.Bounds(), c.want)
			}
			// The fixture's picture has one white pixel, where the press goes.
			if p := image.Pt(100, 100); p.In(c.want) {
				if got := color.GrayModel.Convert(img.At(p.X-c.want.Min.X, p.Y-c.want.Min.Y)); got != (color.Gray{255}) {
					t.Errorf("it is another part of the picture: %v", got)
				}
			}
		})
	}
	f.T = t
	// Enter has no point: the piece is around the element that has the focus.
	f.screen.focus = target("input", "text")
	f.screen.focus.Box = image.Rect(80, 90, 120, 110)
	if press(`{"action":"key","text":"Return"}`) == nil || press(`{"action":"key","text":"a"}`) != nil {
		t.Error("of keys, Enter in a form and nothing else has a piece")
	}
}

// A press in the real browser and the change that it explains: the element, the
// frame and the piece go with it.
func TestRealBrowserChangeSaysWhatWasPressed(t *testing.T) {
	f, s := real(t, formPage, allowAll)
	f.ok(`{"action":"screenshot"}`)
	f.ok(`{"action":"left_click","coordinate":[50,130]}`)
	at := s.wait(t, "POST /users/jo/mfa/reset")
	id, on, shown := f.journal.Explain(t.Context(), s.request(t, "/users/jo/mfa/reset"), true, at)
	if id == "" || on == nil || on.Name != "Reset" || on.Text != "Reset" || on.FrameOrigin != "http://site.test" || on.Frame == "" {
		t.Errorf("explained by %q, on %+v", id, on)
	}
	var blob bool
	for _, b := range f.log.blobs[len(f.log.blobs)-1] {
		blob = blob || b.Name == computer.Pressed && len(b.Data) > 100
	}
	// This fixture's log gives out no commitments, so there is nothing to hand on.
	if !blob || len(shown) != 0 {
		t.Errorf("recorded %v, handed on %v", blob, shown)
	}
}

// The window in front was refused: the input goes nowhere, and the answer says
// that it was closed and what to do.
func TestWindowThatWasRefused(t *testing.T) {
	f := start(t, allowAll)
	f.screen.groundErr = fmt.Errorf("x: %w", computer.ErrLeft)
	if _, a := f.post(anthropic, `{"action":"left_click","coordinate":[1,1]}`); a.Code != "window_closed" || a.Next == "" || len(f.screen.inputs()) != 0 {
		t.Errorf("got %+v", a)
	}
	f.screen.groundErr = nil
	if _, a := f.post(anthropic, `{"action":"left_click","coordinate":[1,1]}`); a.IsError {
		t.Errorf("got %+v", a)
	}
}
