package computer

import (
	"encoding/json"
	"image"
	"strings"
	"testing"
	"unicode"

	"github.com/sallyport-dev/sallyport/internal/browser"
)

// translated checks what must hold of every request that a translator accepts:
// the primitives are of the closed list, on the screen, bounded, and no line
// break hides in a text.
func translated(t *testing.T, path string, body []byte) (request, bool) {
	t.Helper()
	screen := view{1280, 800, 1280, 800}
	for _, v := range []view{screen, {640, 400, 1280, 800}} {
		req, todo, why := parse(path, body, v)
		if why != nil {
			if why.code == "" || why.message == "" || why.next == "" || why.status < 400 {
				t.Fatalf("refusal without its parts: %+v", why)
			}
			return req, false
		}
		n := 0
		for _, p := range todo {
			for _, st := range p.steps {
				n++
				if _, ok := actions[st.op]; !ok && st.op != "move" && st.op != "drag" {
					t.Fatalf("operation %q", st.op)
				}
				for _, at := range []*image.Point{st.at, st.from} {
					if at != nil && !at.In(image.Rect(0, 0, screen.w, screen.h)) {
						t.Fatalf("point %v of %s", at, st.op)
					}
				}
				if abs(st.in.DX) > maxScroll*wheelClick || abs(st.in.DY) > maxScroll*wheelClick || st.wait < 0 || st.wait > maxWait {
					t.Fatalf("out of bounds: %+v", st)
				}
				if strings.ContainsFunc(st.in.Text, unicode.IsControl) {
					t.Fatalf("a control character in %q", st.in.Text)
				}
				_ = st.String()
			}
		}
		if n > maxInputs {
			t.Fatalf("%d primitives", n)
		}
		if len(req.checks) > 0 {
			(&Server{key: []byte("k")}).keyed(req.checks, todo) // must have a canonical form
		}
	}
	req, _, _ := parse(path, body, screen)
	return req, true
}

func FuzzAnthropic(f *testing.F) {
	f.Add([]byte(`{"action":"left_click","coordinate":[5,6],"text":"ctrl"}`))
	f.Add([]byte(`{"action":"scroll","coordinate":[5,6],"scroll_direction":"down","scroll_amount":3}`))
	f.Add([]byte(`{"action":"zoom","region":[0,0,10,10]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		// What an older version takes, a newer one takes too.
		took := false
		for _, name := range []string{"20241022", "20250124", "20251124"} {
			_, ok := translated(t, "/v1/anthropic/computer_"+name, b)
			if took && !ok {
				t.Fatalf("%s refuses what the version before it takes", name)
			}
			took = ok
		}
	})
}

func FuzzOpenAI(f *testing.F) {
	f.Add([]byte(`{"type":"computer_call","call_id":"c","pending_safety_checks":[{"id":"a","code":"b"}],"actions":[{"type":"click","button":"left","x":1,"y":1,"keys":["CTRL"]},{"type":"keypress","keys":["CTRL","A"]}]}`))
	f.Add([]byte(`{"type":"computer_call","call_id":"c","action":{"type":"drag","path":[{"x":1,"y":1},{"x":2,"y":2}]}}`))
	f.Add([]byte(`{"type":"computer_call","call_id":"c","actions":[{"type":"scroll","x":1,"y":1,"scroll_x":-3,"scroll_y":900}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		preview, _ := translated(t, "/v1/openai/computer_use_preview", b)
		ga, ok := translated(t, "/v1/openai/computer", b)
		if !ok && preview.answer != nil {
			t.Fatal("the preview takes what the tool refuses")
		}
		if !ok {
			return
		}
		// No check is lost on the way, and none that was acknowledged is taken.
		var doc map[string]json.RawMessage
		var pending []json.RawMessage
		if json.Unmarshal(b, &doc) != nil {
			t.Fatal("accepted what is not JSON")
		}
		_ = json.Unmarshal(doc["pending_safety_checks"], &pending)
		if _, forged := doc["acknowledged_safety_checks"]; forged || len(pending) != len(ga.checks) {
			t.Fatalf("%d checks became %d", len(pending), len(ga.checks))
		}
	})
}

func FuzzGemini(f *testing.F) {
	f.Add([]byte(`{"name":"type_text_at","args":{"x":1,"y":1,"text":"a\nb","press_enter":true}}`))
	f.Add([]byte(`{"name":"click","args":{"x":999,"y":0,"safety_decision":{"decision":"require_confirmation","explanation":"e"}}}`))
	f.Add([]byte(`{"type":"function_call","id":"f","name":"hotkey","arguments":{"keys":["ctrl","a"],"intent":"i"}}`))
	f.Add([]byte(`{"name":"scroll_at","args":{"x":1,"y":1,"direction":"up","magnitude":999}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, path := range []string{"/v1/gemini/computer_use", "/v1/gemini/computer_use_legacy"} {
			req, ok := translated(t, path, b)
			if !ok {
				continue
			}
			type decided struct {
				Safety *struct {
					Decision string `json:"decision"`
				} `json:"safety_decision"`
				Ack json.RawMessage `json:"safety_acknowledgement"`
			}
			var doc struct{ Args, Arguments decided }
			if json.Unmarshal(b, &doc) != nil {
				t.Fatal("accepted what is not JSON")
			}
			asked := 0
			for _, d := range []decided{doc.Args, doc.Arguments} {
				if d.Safety != nil && d.Safety.Decision != "regular" && d.Safety.Decision != "allowed" {
					asked++
				}
				if d.Ack != nil {
					t.Fatal("took an acknowledgement")
				}
			}
			if asked != len(req.checks) {
				t.Fatalf("%d questions became %d", asked, len(req.checks))
			}
		}
	})
}

// T36: every cell of the grid is on the screen, in order, at most half a cell off
// what the vendor's reference computes, and the last is not past the edge.
func TestGridOfAThousand(t *testing.T) {
	for _, size := range [][2]int{{1280, 800}, {1000, 1000}, {1024, 640}, {640, 400}, {1920, 1080}, {999, 333}} {
		v := view{size[0], size[1], size[0], size[1]}
		last := -1
		for i := range 1000 {
			p, why := v.grid().point(&[2]int{i, i})
			if why != nil {
				t.Fatalf("%v cell %d: %v", size, i, why)
			}
			if p.X < last || p.X >= size[0] || p.Y >= size[1] || p.X-i*size[0]/1000 > size[0]/2000+1 || p.X < i*size[0]/1000 {
				t.Errorf("%v cell %d: got %v", size, i, p)
			}
			last = p.X
		}
		if last < size[0]-1-size[0]/1000 {
			t.Errorf("%v: the last cell is at %d", size, last)
		}
		for _, bad := range [][2]int{{1000, 0}, {0, 1000}, {-1, 0}} {
			if _, why := v.grid().point(&bad); why == nil || why.code != "off_screen" {
				t.Errorf("%v %v: got %v", size, bad, why)
			}
		}
	}
}

// Every key name of the vendors that this door takes is one that the browser's
// door knows, or refuses as the browser's own.
func TestVendorKeysAreKnown(t *testing.T) {
	for name, k := range keyNames {
		if err := browser.CheckChord(k); err != nil && err != browser.ErrChord {
			t.Errorf("%s: %q: %v", name, k, err)
		}
	}
}
