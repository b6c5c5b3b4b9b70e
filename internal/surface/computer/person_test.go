package computer_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// prefer posts with a preference and returns the answer's status and header too.
func (f *fixture) prefer(wait, path, body string) (int, http.Header, map[string]any) {
	f.Helper()
	req, err := http.NewRequest(http.MethodPost, f.url+path, strings.NewReader(body))
	if err != nil {
		f.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Prefer", wait)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		f.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		f.Fatal(err)
	}
	var a map[string]any
	if err := json.Unmarshal(b, &a); err != nil {
		f.Fatalf("%s: %v", b, err)
	}
	return resp.StatusCode, resp.Header, a
}

// A harness that cannot wait is told in every format that it is held, gets no
// picture with it, and passes when it sends the same again.
func TestHeldForWhoCannotWait(t *testing.T) {
	clicks := func(x gate.Facts) action.Decision {
		if x.Action.Operation == "computer.left_click" {
			return action.Decision{Verdict: action.Hold, Layer: action.LayerGuardrail, Code: "needs_approval", Approvers: "approver"}
		}
		return action.Decision{Verdict: action.Allow}
	}
	for path, body := range map[string]string{
		neutral:   `{"actions":[{"type":"mouse_move","x":1,"y":1},{"type":"left_click","x":405,"y":157},{"type":"wait","seconds":0}]}`,
		anthropic: `{"action":"left_click","coordinate":[405,157]}`,
		openai:    `{"type":"computer_call","id":"cu_1","call_id":"call_1","status":"completed","actions":[{"type":"click","button":"left","x":405,"y":157}],"pending_safety_checks":[]}`,
	} {
		t.Run(path, func(t *testing.T) {
			var yes atomic.Bool
			wait := func(ctx context.Context) error {
				if yes.Load() {
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			}
			f := startOn(t, clicks, &screen{focus: target("input", "text")}, func(a *gate.Admission) { a.Holds = patient{wait} })
			status, h, a := f.prefer("wait=0", path, body)
			if status != http.StatusConflict || h.Get("Retry-After") == "" || h.Get("Preference-Applied") != "wait=0" || h.Get("Sallyport-Question") != "hold-1" {
				t.Errorf("got %d %v", status, h)
			}
			if b, _ := json.Marshal(a); !strings.Contains(string(b), `"code":"held"`) || strings.Contains(string(b), "image") {
				t.Errorf("got %.500s", b)
			}
			yes.Store(true)
			if status, h, a := f.prefer("wait=0", path, body); status != http.StatusOK || h.Get("Retry-After") != "" || len(f.screen.inputs()) == 0 {
				t.Errorf("sent again: got %d %v", status, a)
			}
		})
	}
}

type patient struct{ wait func(context.Context) error }

func (p patient) Open(context.Context, action.Action, action.Decision) (gate.Hold, error) {
	return patientHold{p}, nil
}

type patientHold struct{ patient }

func (patientHold) ID() string                       { return "hold-1" }
func (h patientHold) Wait(ctx context.Context) error { return h.wait(ctx) }
func (patientHold) Use(record.Tx) error              { return nil }

// A person acts as somebody else on the same screen, cursor and button; the
// agent is refused meanwhile, before anything of the page was looked at.
//
// Threats: T56 (authority)
func TestPersonOnTheScreen(t *testing.T) {
	f := start(t, allowAll)
	f.post(neutral, `{"actions":[{"type":"mouse_move","x":7,"y":8}]}`)
	if _, no := f.server.Person(t.Context(), "person:ines", []byte(`{"actions":[{"type":"nothing"}]}`)); no == nil || no.Code != "unknown_action" || no.Layer != action.LayerForm {
		t.Errorf("got %+v", no)
	}
	if b, no := f.server.Person(t.Context(), "person:ines", []byte(`{"actions":[{"type":"screenshot"}]}`)); no != nil || !strings.Contains(string(b), "not_in_hand") || strings.Contains(string(b), "image") {
		t.Errorf("got %s, %+v", b, no)
	}
	if err := f.gate.Pass(t.Context(), "brightwell", "t1", "", "person:ines"); err != nil {
		t.Fatal(err)
	}
	looked := false
	f.screen.onShot = func() { looked = true }
	for _, body := range []string{`{"actions":[{"type":"screenshot"},{"type":"wait","seconds":0}]}`, `{"actions":[{"type":"cursor_position"}]}`, `{"actions":[{"type":"left_click","x":1,"y":1}]}`} {
		_, a := f.post(neutral, body)
		if r := a.Results[0]; r.Status != "denied" || r.Code != gate.CodeTaken || r.Image != nil || r.Cursor != nil {
			t.Errorf("%s: got %+v", body, r)
		}
		if n := len(a.Results); n > 1 && a.Results[1].Status != "not_executed" {
			t.Errorf("%s: got %+v", body, a.Results)
		}
	}
	if looked || len(f.screen.inputs()) != 1 {
		t.Error("the screen was touched for the agent")
	}
	b, no := f.server.Person(t.Context(), "person:ines", []byte(`{"actions":[{"type":"cursor_position"},{"type":"left_click"},{"type":"screenshot"}]}`))
	if no != nil || !strings.Contains(string(b), `"cursor":{"x":7,"y":8}`) || !strings.Contains(string(b), `"image"`) || strings.Contains(string(b), "denied") {
		t.Errorf("got %.300s, %+v", b, no)
	}
	if err := f.gate.Pass(t.Context(), "brightwell", "t1", "person:ines", ""); err != nil {
		t.Fatal(err)
	}
	if _, a := f.post(neutral, `{"actions":[{"type":"left_click"}]}`); a.Results[0].Status != "done" {
		t.Errorf("given back: %+v", a.Results)
	}
	for i, d := range f.log.decided {
		switch d.Action.Source {
		case "person":
			if d.Action.Actor != "person:ines" || d.Action.Params["seen"] != "" {
				t.Errorf("%d: %+v", i, d.Action)
			}
		default:
			if d.Action.Actor != "" {
				t.Errorf("%d: the agent's is %s's", i, d.Action.Actor)
			}
		}
	}
}

// A picture that was taken for the agent is not let out once a person has the
// session, nor is it kept.
//
// Threats: T56 (authority)
func TestPictureIsNotCarriedOver(t *testing.T) {
	f := start(t, allowAll)
	passed := make(chan error, 1)
	f.screen.onShot = func() {
		go func() { passed <- f.gate.Pass(context.Background(), "brightwell", "t1", "", "person:ines") }()
		for turn := true; turn; { // until the gate has begun to pass the session on
			var end func()
			_, end, turn = f.gate.Turn(context.Background(), action.Action{Tenant: "brightwell", Task: "t1", Agent: "helpdesk", Surface: action.Computer})
			end()
		}
	}
	_, a := f.post(neutral, `{"actions":[{"type":"screenshot"}]}`)
	if r := a.Results[0]; r.Code != gate.CodeTaken || r.Image != nil {
		t.Errorf("got %+v", r)
	}
	if err := <-passed; err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for _, b := range f.log.blobs {
		if len(b) > 0 {
			t.Errorf("kept: %s", b[0].Name)
		}
	}
}
