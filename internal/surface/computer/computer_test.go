package computer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/png"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/surface/computer"
)

func TestClickIsGroundedDecidedAndDelivered(t *testing.T) {
	f := start(t, allowAll)
	status, a := f.post(neutral, `{"actions":[{"type":"left_click","x":10,"y":20,"modifiers":["shift"]}]}`)
	if status != 200 || a.Results[0].Status != "done" || len(a.Results[0].Actions) != 1 {
		t.Fatalf("got %d %+v", status, a)
	}
	f.want("allow computer.left_click")
	in := f.screen.inputs()
	if len(in) != 1 || in[0].X != 10 || in[0].Y != 20 || in[0].Button != "left" || in[0].Count != 1 || !slices.Equal(in[0].Modifiers, []string{"Shift"}) {
		t.Errorf("delivered: got %+v", in)
	}
	d := f.log.decided[0].Action
	if d.Element == nil || d.Element.FormMethod != "POST" || d.Effect != action.Read || d.Params["x"] != "10" {
		t.Errorf("recorded: got %+v", d)
	}
}

// Every documented action of the vendor's format reaches the screen as the
// primitive it stands for.
func TestAnthropicActions(t *testing.T) {
	for _, tc := range []struct {
		body, op string
		want     computer.Input
	}{
		{`{"action":"left_click","coordinate":[5,6],"text":"ctrl"}`, "left_click", computer.Input{Kind: computer.Click, X: 5, Y: 6, Button: "left", Count: 1, Modifiers: []string{"Control"}}},
		{`{"action":"left_click","coordinate":[5,6],"key":"shift+ctrl"}`, "left_click", computer.Input{Kind: computer.Click, X: 5, Y: 6, Button: "left", Count: 1, Modifiers: []string{"Control", "Shift"}}},
		{`{"action":"right_click","coordinate":[5,6]}`, "right_click", computer.Input{Kind: computer.Click, X: 5, Y: 6, Button: "right", Count: 1}},
		{`{"action":"middle_click","coordinate":[5,6]}`, "middle_click", computer.Input{Kind: computer.Click, X: 5, Y: 6, Button: "middle", Count: 1}},
		{`{"action":"double_click","coordinate":[5,6]}`, "double_click", computer.Input{Kind: computer.Click, X: 5, Y: 6, Button: "left", Count: 2}},
		{`{"action":"triple_click","coordinate":[1279,799]}`, "triple_click", computer.Input{Kind: computer.Click, X: 1279, Y: 799, Button: "left", Count: 3}},
		{`{"action":"left_click"}`, "left_click", computer.Input{Kind: computer.Click, X: 640, Y: 400, Button: "left", Count: 1}},
		{`{"action":"mouse_move","coordinate":[5,6]}`, "move", computer.Input{Kind: computer.Move, X: 5, Y: 6}},
		{`{"action":"left_click_drag","start_coordinate":[1,2],"coordinate":[5,6]}`, "drag", computer.Input{Kind: computer.Drag, X: 1, Y: 2, ToX: 5, ToY: 6, Button: "left", Count: 1}},
		{`{"action":"scroll","coordinate":[5,6],"scroll_direction":"down","scroll_amount":3}`, "scroll", computer.Input{Kind: computer.Wheel, X: 5, Y: 6, DY: 300}},
		{`{"action":"key","text":"ctrl+shift+Page_Down"}`, "key", computer.Input{Kind: computer.Key, Key: "PageDown", Modifiers: []string{"Control", "Shift"}}},
		{`{"action":"hold_key","text":"a","duration":0.05}`, "hold_key", computer.Input{Kind: computer.Key, Key: "a"}},
		{`{"action":"type","text":"héllo"}`, "type", computer.Input{Kind: computer.Type, Text: "héllo", Count: 5}},
	} {
		t.Run(tc.op, func(t *testing.T) {
			f := start(t, allowAll)
			status, a := f.post(anthropic, tc.body)
			if status != 200 || a.IsError || a.Content[0].Text != "done" {
				t.Fatalf("got %d %+v", status, a)
			}
			f.want("allow computer." + tc.op)
			if got := f.screen.inputs(); len(got) != 1 || fmt.Sprint(got[0]) != fmt.Sprint(tc.want) {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

// What has no canonical form is refused as a whole, recorded, and reaches
// nothing: a good action before it in the batch neither.
func TestMalformedIsRefusedAndRecorded(t *testing.T) {
	for _, tc := range []struct{ name, path, body, code string }{
		{"duplicate_keys", neutral, `{"actions":[{"type":"left_click","x":1,"x":2,"y":3}]}`, "malformed_json"},
		{"duplicate_actions", neutral, `{"actions":[{"type":"screenshot"}],"actions":[{"type":"left_click","x":1,"y":1}]}`, "malformed_json"},
		{"duplicate_keys_anthropic", anthropic, `{"action":"screenshot","action":"left_click","coordinate":[1,1]}`, "malformed_json"},
		{"case_changed_member", neutral, `{"actions":[{"type":"left_click","X":1,"y":3}]}`, "malformed_json"},
		{"unknown_field", neutral, `{"actions":[{"type":"left_click","x":1,"y":3,"force":true}]}`, "malformed_json"},
		{"unknown_action", anthropic, `{"action":"execute_js","text":"alert(1)"}`, "unknown_action"},
		{"case_changed_action", anthropic, `{"action":"Left_Click","coordinate":[1,1]}`, "unknown_action"},
		{"off_screen_right", neutral, `{"actions":[{"type":"left_click","x":1280,"y":3}]}`, "off_screen"},
		{"off_screen_negative", anthropic, `{"action":"left_click","coordinate":[-1,3]}`, "off_screen"},
		{"off_screen_huge", anthropic, `{"action":"left_click","coordinate":[2147483648,3]}`, "off_screen"},
		{"off_screen_second_of_batch", neutral, `{"actions":[{"type":"left_click","x":1,"y":1},{"type":"left_click","x":1,"y":800}]}`, "off_screen"},
		{"off_screen_drag_start", neutral, `{"actions":[{"type":"left_click_drag","fromX":5000,"fromY":1,"x":1,"y":1}]}`, "off_screen"},
		{"fractional", anthropic, `{"action":"left_click","coordinate":[1.5,3]}`, "malformed_json"},
		{"three_coordinates", anthropic, `{"action":"left_click","coordinate":[1,2,3]}`, "malformed_json"},
		{"zoom_by_wheel", anthropic, `{"action":"scroll","coordinate":[1,1],"scroll_direction":"down","scroll_amount":1,"text":"ctrl"}`, "unknown_key"},
		{"half_a_point", neutral, `{"actions":[{"type":"left_click","x":1}]}`, "bad_point"},
		{"field_of_another_action", neutral, `{"actions":[{"type":"screenshot","text":"x"}]}`, "bad_member"},
		{"point_on_mouse_down", anthropic, `{"action":"left_mouse_down","coordinate":[1,1]}`, "bad_member"},
		{"text_and_key", anthropic, `{"action":"left_click","coordinate":[1,1],"text":"ctrl","key":"shift"}`, "bad_member"},
		{"trailing_data", neutral, `{"actions":[{"type":"screenshot"}]} {}`, "malformed_json"},
		{"empty", neutral, ``, "malformed_json"},
		{"invalid_utf8", neutral, "{\"actions\":[{\"type\":\"type\",\"text\":\"\xff\"}]}", "malformed_json"},
		{"deep", neutral, strings.Repeat("[", 100) + strings.Repeat("]", 100), "malformed_json"},
		{"no_actions", neutral, `{"actions":[]}`, "bad_batch"},
		{"too_many_actions", neutral, `{"actions":[` + strings.Repeat(`{"type":"screenshot"},`, 50) + `{"type":"screenshot"}]}`, "bad_batch"},
		{"too_many_inputs", neutral, `{"actions":[{"type":"type","text":"` + strings.Repeat(`\n`, 201) + `"}]}`, "bad_batch"},
		{"oversized", neutral, `{"actions":[{"type":"type","text":"` + strings.Repeat("a", 300<<10) + `"}]}`, "too_large"},
		{"long_text", neutral, `{"actions":[{"type":"type","text":"` + strings.Repeat("a", 9<<10) + `"}]}`, "too_large"},
		{"control_character", neutral, `{"actions":[{"type":"type","text":"a\u001bb"}]}`, "bad_text"},
		{"unknown_key", anthropic, `{"action":"key","text":"XF86Launch0"}`, "unknown_key"},
		{"unknown_modifier", anthropic, `{"action":"left_click","coordinate":[1,1],"text":"hyper"}`, "unknown_key"},
		{"key_sequence", anthropic, `{"action":"key","text":"Tab Return"}`, "unknown_key"},
		{"endless_wait", anthropic, `{"action":"wait","duration":1e9}`, "bad_duration"},
		{"negative_hold", anthropic, `{"action":"hold_key","text":"a","duration":-1}`, "bad_duration"},
		{"empty_region", anthropic, `{"action":"zoom","region":[5,5,5,9]}`, "off_screen"},
		{"region_outside", anthropic, `{"action":"zoom","region":[0,0,1281,800]}`, "off_screen"},
		{"scroll_sideways_typo", anthropic, `{"action":"scroll","coordinate":[1,1],"scroll_direction":"dwon","scroll_amount":1}`, "bad_direction"},
		{"scroll_for_ever", anthropic, `{"action":"scroll","coordinate":[1,1],"scroll_direction":"down","scroll_amount":100000}`, "bad_amount"},
		{"display_of_another_aspect", anthropic + "?display=1024x768", `{"action":"screenshot"}`, "bad_display"},
		{"display_larger", anthropic + "?display=2560x1600", `{"action":"screenshot"}`, "bad_display"},
		{"display_zero", anthropic + "?display=0x0", `{"action":"screenshot"}`, "bad_display"},
		{"unknown_query", anthropic + "?task=t2", `{"action":"screenshot"}`, "bad_query"},
		{"unknown_path", "/v1/actions/", `{}`, "unknown_path"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := start(t, allowAll)
			status, a := f.post(tc.path, tc.body)
			if status < 400 || a.Code != tc.code || a.Layer != "form" || a.Message == "" || a.Next == "" || !a.IsError {
				t.Fatalf("got %d %+v, want code %s", status, a, tc.code)
			}
			f.want("deny computer.malformed")
			if got := f.log.decided[0].Decision.Code; got != tc.code {
				t.Errorf("recorded code: got %s, want %s", got, tc.code)
			}
			if got := f.screen.inputs(); len(got) != 0 {
				t.Errorf("inputs reached the screen: %+v", got)
			}
		})
	}
}

func TestWrongMethodTypeAndOrigin(t *testing.T) {
	for _, tc := range []struct {
		name, method, path, contentType, origin string
		status                                  int
	}{
		{"get_on_actions", "GET", neutral, "", "", 405},
		{"put", "PUT", anthropic, "application/json", "", 405},
		{"post_on_display", "POST", "/v1/display", "application/json", "", 405},
		{"form_post", "POST", neutral, "text/plain", "", 415},
		{"from_a_page", "POST", neutral, "application/json", "https://evil.localhost", 403},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := start(t, allowAll)
			req, _ := http.NewRequest(tc.method, f.url+tc.path, strings.NewReader(`{"actions":[{"type":"screenshot"}]}`))
			req.Header.Set("Content-Type", tc.contentType)
			if tc.origin != "" {
				req.Header.Set("Origin", tc.origin)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != tc.status {
				t.Errorf("status: got %d, want %d", resp.StatusCode, tc.status)
			}
			f.want("deny computer.malformed")
		})
	}
}

// T35: a batch must not go on after a step that was not let through.
func TestBatchStopsAtTheFirstDenial(t *testing.T) {
	f := start(t, func(x gate.Facts) action.Decision {
		if x.Action.Operation == "computer.key" {
			return action.Denied(action.LayerGuardrail, "no_keys", "keys are not allowed", "click instead")
		}
		return action.Decision{Verdict: action.Allow}
	})
	_, a := f.post(neutral, `{"actions":[{"type":"left_click","x":1,"y":1},{"type":"key","key":"Return"},{"type":"left_click","x":2,"y":2},{"type":"screenshot"}]}`)
	var got []string
	for _, r := range a.Results {
		got = append(got, r.Status)
	}
	if want := []string{"done", "denied", "not_executed", "not_executed"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if a.Results[1].Code != "no_keys" {
		t.Errorf("code: got %q", a.Results[1].Code)
	}
	if n := len(f.screen.inputs()); n != 1 {
		t.Errorf("inputs: got %d, want 1", n)
	}
	f.want("allow computer.left_click", "deny computer.key")
}

// T29: a line break in typed text is a submit; it must be a decision of its own.
func TestNewlineInTextIsAKeyOfItsOwn(t *testing.T) {
	for _, text := range []string{`jo\nx`, `jo\r\nx`, `jo\rx`, `jo\u2028x`} {
		f := start(t, func(x gate.Facts) action.Decision {
			if x.Action.Params["key"] == "Enter" {
				return action.Denied(action.LayerGuardrail, "no_submit", "no", "")
			}
			return action.Decision{Verdict: action.Allow}
		})
		_, a := f.post(anthropic, `{"action":"type","text":"`+text+`"}`)
		if !a.IsError || a.Code != "no_submit" {
			t.Errorf("%s: got %+v", text, a)
		}
		f.want("allow computer.type", "deny computer.key")
		if in := f.screen.inputs(); len(in) != 1 || in[0].Text != "jo" {
			t.Errorf("%s: delivered %+v", text, in)
		}
	}
}

// T30: a release without a press, and anything but moves while it is held.
func TestStrayMouseUp(t *testing.T) {
	f := start(t, allowAll)
	if _, a := f.post(anthropic, `{"action":"left_mouse_up"}`); a.Code != "stray_mouse_up" {
		t.Errorf("got %+v", a)
	}
	for _, s := range []string{`{"action":"left_mouse_down"}`, `{"action":"mouse_move","coordinate":[9,9]}`} {
		if _, a := f.post(anthropic, s); a.IsError {
			t.Errorf("%s: got %+v", s, a)
		}
	}
	if _, a := f.post(anthropic, `{"action":"left_mouse_down"}`); a.Code != "button_is_down" {
		t.Errorf("second press: got %+v", a)
	}
	if _, a := f.post(anthropic, `{"action":"type","text":"x"}`); a.Code != "button_is_down" {
		t.Errorf("type while down: got %+v", a)
	}
	if _, a := f.post(anthropic, `{"action":"left_mouse_up"}`); a.IsError {
		t.Errorf("release: got %+v", a)
	}
	in := f.screen.inputs()
	if len(in) != 3 || in[0].X != 640 || in[2].Kind != computer.Up || in[2].X != 9 {
		t.Errorf("got %+v", in)
	}
	f.want("deny computer.malformed", "allow computer.left_mouse_down", "allow computer.move",
		"deny computer.malformed", "deny computer.malformed", "allow computer.left_mouse_up")
}

// T28: the page puts another control under the pointer while the gate decides.
func TestTargetSwappedAfterTheDecision(t *testing.T) {
	f := start(t, allowAll)
	f.screen.at = func(n, _, _ int) computer.Target {
		if n == 1 {
			return target("button", "submit")
		}
		return target("a", "")
	}
	_, a := f.post(anthropic, `{"action":"left_click","coordinate":[1,1]}`)
	if !a.IsError || a.Code != "not_delivered" || len(f.screen.inputs()) != 0 {
		t.Errorf("got %+v, inputs %+v", a, f.screen.inputs())
	}
	if id, _, _ := f.journal.Explain(t.Context(), action.Request{Method: "POST", Origin: "https://iam.example", Path: "/users/jo/mfa/reset"}, false, time.Now()); id != "" {
		t.Errorf("an input that was not delivered explains a request: %s", id)
	}
}

// T30: the end of a drag is swapped.
func TestDragEndSwapped(t *testing.T) {
	f := start(t, allowAll)
	f.screen.at = func(n, x, _ int) computer.Target {
		if x == 50 && n > 2 {
			return target("textarea", "")
		}
		return target("div", "")
	}
	if _, a := f.post(anthropic, `{"action":"left_click_drag","start_coordinate":[1,1],"coordinate":[50,1]}`); a.Code != "not_delivered" || len(f.screen.inputs()) != 0 {
		t.Errorf("got %+v", a)
	}
}

func TestUnconfirmedInputIsUnknown(t *testing.T) {
	for _, tc := range []struct {
		err  error
		code string
	}{{errors.New("no ok seen"), "unknown_outcome"}, {fmt.Errorf("blocked: %w", computer.ErrNotDelivered), "not_delivered"}} {
		f := start(t, allowAll)
		f.screen.err = tc.err
		if _, a := f.post(anthropic, `{"action":"left_click","coordinate":[1,1]}`); a.Code != tc.code || strings.Contains(a.Message, "no ok seen") {
			t.Errorf("got %+v, want %s", a, tc.code)
		}
	}
}

// A password typed by the agent is in no record, neither as text nor as single
// keys, and its digest cannot be found by trying.
func TestPasswordIsNotRecorded(t *testing.T) {
	f := start(t, allowAll)
	for _, tgt := range []computer.Target{target("input", "password"), {Element: action.Element{Uninspectable: "canvas"}}} {
		f.screen.focus = tgt
		f.post(anthropic, `{"action":"type","text":"hunter2!"}`)
		f.post(anthropic, `{"action":"key","text":"Q"}`)
	}
	for i, d := range f.log.decided {
		if len(f.log.blobs[i]) != 0 || d.Action.Params["key"] == "Q" || d.Action.Params["key"] == "Shift+Q" {
			t.Errorf("recorded: %+v", d.Action)
		}
	}
	if bytes.Contains(f.log.raw, []byte("hunter2")) {
		t.Error("the ledger holds the password")
	}
	if f.log.decided[0].Action.Params["textLength"] != "8" {
		t.Errorf("length: got %v", f.log.decided[0].Action.Params)
	}
	g := start(t, allowAll)
	g.screen.focus = target("input", "password")
	g.post(anthropic, `{"action":"type","text":"hunter2!"}`)
	if g.log.decided[0].Action.Digest == f.log.decided[0].Action.Digest {
		t.Error("two servers make the same digest for the same text: it can be found by trying")
	}
	f.screen.focus = target("input", "text")
	f.post(anthropic, `{"action":"type","text":"a comment"}`)
	if b := f.log.blobs[len(f.log.blobs)-1]; len(b) != 1 || string(b[0].Data) != "a comment" {
		t.Errorf("text of an open field is evidence: got %+v", b)
	}
}

// A picture that cannot be recorded or is denied does not leave.
func TestScreenshotIsRecordedBeforeItLeaves(t *testing.T) {
	f := start(t, allowAll)
	_, a := f.post(neutral, `{"actions":[{"type":"screenshot"}]}`)
	if a.Results[0].Image == nil || !bytes.Equal(a.Results[0].Image.Data, f.log.blobs[0][0].Data) {
		t.Fatal("the picture that left is not the one that was recorded")
	}
	g := start(t, func(gate.Facts) action.Decision { return action.Denied(action.LayerGrant, "outside_grant", "no", "") })
	_, a = g.post(anthropic, `{"action":"screenshot"}`)
	if !a.IsError || a.Content[0].Type != "text" {
		t.Errorf("denied screenshot: got %+v", a)
	}
}

func TestInputNamesThePictureThatWasSeen(t *testing.T) {
	f := start(t, allowAll)
	f.post(neutral, `{"actions":[{"type":"screenshot"},{"type":"left_click","x":1,"y":1}]}`)
	if got, want := f.log.decided[1].Action.Params["seen"], f.log.decided[0].Action.Params["picture"]; got != want || got == "" {
		t.Errorf("got %q, want %q", got, want)
	}
}

// T36: scaled points map to the pixel under the centre, never off the screen.
func TestScaledDisplay(t *testing.T) {
	f := start(t, allowAll)
	for _, tc := range []struct{ x, y, wantX, wantY int }{{0, 0, 0, 0}, {1023, 639, 1279, 799}, {512, 320, 640, 400}, {100, 7, 125, 9}} {
		f.screen.got = nil
		_, a := f.post(anthropic+"?display=1024x640", fmt.Sprintf(`{"action":"left_click","coordinate":[%d,%d]}`, tc.x, tc.y))
		if in := f.screen.inputs(); a.IsError || len(in) != 1 || in[0].X != tc.wantX || in[0].Y != tc.wantY {
			t.Errorf("%d,%d: got %+v, want %d,%d", tc.x, tc.y, in, tc.wantX, tc.wantY)
		}
	}
	if _, a := f.post(anthropic+"?display=1024x640", `{"action":"left_click","coordinate":[1024,1]}`); a.Code != "off_screen" {
		t.Errorf("got %+v", a)
	}
	_, a := f.post(neutral+"?display=1024x640", `{"actions":[{"type":"screenshot"},{"type":"zoom","region":[0,0,512,320]},{"type":"zoom","region":[0,0,100,640]}]}`)
	for i, want := range []image.Point{{1024, 640}, {1024, 640}, {100, 640}} {
		c, err := png.DecodeConfig(bytes.NewReader(a.Results[i].Image.Data))
		if err != nil || c.Width != want.X || c.Height != want.Y {
			t.Errorf("picture %d: got %dx%d (%v), want %v", i, c.Width, c.Height, err, want)
		}
	}
}

func TestHome(t *testing.T) {
	f := start(t, allowAll)
	f.post(anthropic, `{"action":"key","text":"alt+Home"}`)
	f.post(neutral, `{"actions":[{"type":"home"}]}`)
	f.want("allow computer.home", "allow computer.home")
	if f.screen.homes != 2 || len(f.screen.inputs()) != 0 {
		t.Errorf("got %d homes, inputs %+v", f.screen.homes, f.screen.inputs())
	}
	g := start(t, func(gate.Facts) action.Decision { return action.Denied(action.LayerGrant, "outside_grant", "no", "") })
	if _, a := g.post(anthropic, `{"action":"key","text":"alt+Home"}`); !a.IsError || g.screen.homes != 0 {
		t.Errorf("got %+v", a)
	}
	if _, a := f.post(neutral, `{"actions":[{"type":"home","text":"https://evil.localhost"}]}`); a.Code != "bad_member" {
		t.Errorf("got %+v", a)
	}
}

// An input names the application that owns the frame it goes to; one on an
// unknown origin, or a drag across two applications, names none.
func TestInputNamesTheApplication(t *testing.T) {
	f := start(t, allowAll)
	f.screen.at = func(_, x, _ int) computer.Target {
		return computer.Target{Element: action.Element{FrameOrigin: map[int]string{1: "https://iam.example", 2: "https://tickets.example", 3: "https://evil.localhost"}[x]}}
	}
	for _, tc := range []struct{ body, app string }{
		{`{"action":"left_click","coordinate":[1,1]}`, "iam"},
		{`{"action":"left_click","coordinate":[3,1]}`, ""},
		{`{"action":"left_click_drag","start_coordinate":[1,1],"coordinate":[1,1]}`, "iam"},
		{`{"action":"left_click_drag","start_coordinate":[1,1],"coordinate":[2,1]}`, ""},
		{`{"action":"left_click_drag","start_coordinate":[3,1],"coordinate":[2,1]}`, ""},
	} {
		f.post(anthropic, tc.body)
		if got := f.log.decided[len(f.log.decided)-1].Action.App; got != tc.app {
			t.Errorf("%s: got %q, want %q", tc.body, got, tc.app)
		}
	}
}

func TestCursorPosition(t *testing.T) {
	f := start(t, allowAll)
	f.post(anthropic, `{"action":"mouse_move","coordinate":[33,44]}`)
	if _, a := f.post(anthropic, `{"action":"cursor_position"}`); a.Content[0].Text != "X=33,Y=44" {
		t.Errorf("got %+v", a)
	}
}

func TestOneActionInFlight(t *testing.T) {
	f := start(t, allowAll)
	entered, leave := make(chan struct{}), make(chan struct{})
	f.screen.before = func() { close(entered); <-leave }
	done := make(chan answer)
	go func() {
		_, a := f.post(anthropic, `{"action":"left_click","coordinate":[1,1]}`)
		done <- a
	}()
	<-entered
	if status, a := f.post(anthropic, `{"action":"left_click","coordinate":[2,2]}`); status != 409 || a.Code != "in_flight" {
		t.Errorf("got %d %+v", status, a)
	}
	close(leave)
	if a := <-done; a.IsError {
		t.Errorf("first action: %+v", a)
	}
}

// T57: the end of the task cuts a wait and everything after it.
func TestKillCutsTheWait(t *testing.T) {
	f := start(t, allowAll)
	done := make(chan answer)
	go func() {
		_, a := f.post(neutral, `{"actions":[{"type":"wait","seconds":60},{"type":"left_click","x":1,"y":1}]}`)
		done <- a
	}()
	for len(f.log.operations()) == 0 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := f.gate.End(ctx, func(gate.Admission) bool { return true }, "killed", "killed by test"); err != nil {
		t.Fatal(err)
	}
	if a := <-done; a.Results[0].Status == "done" || a.Results[1].Status != "not_executed" || len(f.screen.inputs()) != 0 {
		t.Errorf("got %+v", a)
	}
	if _, a := f.post(anthropic, `{"action":"screenshot"}`); a.Code != "killed" {
		t.Errorf("after the kill: got %+v", a)
	}
}

func TestDisplay(t *testing.T) {
	f := start(t, allowAll)
	resp, err := http.Get(f.url + "/v1/display")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var d struct{ Width, Height int }
	if err := json.NewDecoder(resp.Body).Decode(&d); err != nil || d.Width != 1280 || d.Height != 800 {
		t.Errorf("got %+v %v", d, err)
	}
}

func FuzzActions(f *testing.F) {
	f.Add([]byte(`{"actions":[{"type":"left_click","x":1,"y":1}]}`))
	f.Add([]byte(`{"action":"type","text":"a\nb"}`))
	g := gate.New(func() string { return "a" })
	scr := &screen{}
	s, err := computer.New(computer.Config{Tenant: "t", Task: "t", Agent: "a", Gate: g, Screen: scr, Journal: computer.NewJournal(nil), Width: 1280, Height: 800, AppOf: appOf})
	if err != nil {
		f.Fatal(err)
	}
	// Nothing is admitted: whatever the bytes, nothing may reach the screen.
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, path := range []string{neutral, anthropic} {
			r := httptest.NewRequest("POST", path, bytes.NewReader(b))
			r.Header.Set("Content-Type", "application/json")
			s.ServeHTTP(httptest.NewRecorder(), r)
		}
		if len(scr.inputs()) != 0 {
			t.Fatal("an input passed without a task")
		}
	})
}
