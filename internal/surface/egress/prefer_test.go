package egress

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// question is asked once and answered when the test says so.
type question struct {
	mu     sync.Mutex
	yes    bool
	used   bool
	digest action.Digest
}

func (q *question) Open(_ context.Context, a action.Action, _ action.Decision) (gate.Hold, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.digest == "" {
		q.digest = a.Digest
	}
	if q.digest != a.Digest {
		return nil, errors.New("another request")
	}
	return q, nil
}

func (q *question) ID() string { return "q-1" }

func (q *question) Wait(ctx context.Context) error {
	q.mu.Lock()
	yes := q.yes
	q.mu.Unlock()
	if yes {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (q *question) Use(record.Tx) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.used {
		return errors.New("used")
	}
	q.used = true
	return nil
}

func asking(gate.Facts) action.Decision {
	return action.Decision{Verdict: action.Hold, Layer: action.LayerGuardrail, Code: "ask", Approvers: "approver"}
}

// A harness that says how long it can wait is told that it is held, and passes
// once when it sends the same again. Its preference is no part of the request.
func TestHarnessThatCannotWait(t *testing.T) {
	q := &question{}
	o := newOrigin(t, true, nil)
	k := gatetest.New(t, asking, func(a *gate.Admission) { a.Holds = q })
	r := newRig(t, o, nil, func(c *Config) { c.Gate, c.Source = k, "harness" })
	send := func(prefer, accept string) *http.Response {
		t.Helper()
		req, err := http.NewRequest("POST", o.name()+"/w", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Prefer", prefer)
		req.Header.Set("Accept", accept)
		resp, err := r.client(true).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	resp := send("wait=0, return=minimal", "application/json")
	h := resp.Header
	if resp.StatusCode != http.StatusConflict || h.Get("Retry-After") == "" || h.Get("Preference-Applied") != "wait=0" || h.Get("Sallyport-Question") != "q-1" ||
		!strings.HasPrefix(h.Get("Sallyport-Decision"), "hold; code=held; layer=hold") {
		t.Errorf("got %d %v", resp.StatusCode, h)
	}
	var n struct{ Code, Layer, Next, Question string }
	if err := json.NewDecoder(resp.Body).Decode(&n); err != nil || n.Code != gate.CodeHeld || n.Question != "q-1" || n.Next == "" {
		t.Errorf("got %+v, %v", n, err)
	}
	if len(o.all()) != 0 {
		t.Fatal("a held request was sent")
	}
	q.mu.Lock()
	q.yes = true
	q.mu.Unlock()
	if resp := send("return=minimal; x=1, wait=1", "application/json"); resp.StatusCode == http.StatusOK {
		t.Error("another request passed") // what else is in Prefer is sent, and counts
	}
	if resp := send("return=minimal,wait=1", "application/json"); resp.StatusCode != http.StatusOK {
		t.Errorf("sent again: got %d", resp.StatusCode)
	}
	if got := o.one(t).Header.Values("Prefer"); len(got) != 1 || got[0] != "return=minimal" {
		t.Errorf("the origin was sent Prefer %q", got)
	}
	if resp := send("wait=0, return=minimal", "application/json"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("a third time: got %d", resp.StatusCode)
	}
	o.one(t)
}

// A page's script learns nothing of holds: its Prefer is its application's.
func TestPageCannotAskForPatience(t *testing.T) {
	w := waiting{make(chan struct{}, 1)}
	o := newOrigin(t, true, nil)
	held := true
	k := gatetest.New(t, func(f gate.Facts) action.Decision {
		if held {
			return asking(f)
		}
		return gatetest.AllowAll(f)
	}, func(a *gate.Admission) { a.Holds = w })
	r := newRig(t, o, nil, func(c *Config) { c.Gate = k })
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "POST", o.name()+"/w", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Prefer", "wait=0")
	errs := make(chan error, 1)
	go func() {
		_, err := r.client(true).Do(req)
		errs <- err
	}()
	<-w.open
	select {
	case err := <-errs:
		t.Fatalf("a page was answered while people are asked: %v", err)
	default:
	}
	cancel()
	if <-errs == nil {
		t.Error("a held request of a page was answered")
	}
	eventually(t, "the refusal", func() bool { return len(k.Log.Decisions(t)) == 1 })
	held = false
	req, err = http.NewRequest("POST", o.name()+"/w", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Prefer", "wait=0")
	resp, err := r.client(true).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := o.one(t).Header.Get("Prefer"); got != "wait=0" || resp.Header.Get("Preference-Applied") != "" {
		t.Errorf("the origin was sent %q", got)
	}
}
