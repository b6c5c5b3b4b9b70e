package browser

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
)

// heard is a client of the protocol that keeps what it is told.
type heard struct {
	*Client
	t  testing.TB
	mu sync.Mutex
	// guarded by mu
	targets map[string]string // id -> state
	events  []string
	woken   chan struct{}
}

func (w *world) client() *heard {
	w.t.Helper()
	h := &heard{t: w.t, targets: map[string]string{}, woken: make(chan struct{})}
	change := func(f func()) {
		h.mu.Lock()
		defer h.mu.Unlock()
		f()
		close(h.woken)
		h.woken = make(chan struct{})
	}
	c, err := w.OpenClient(ClientEvents{
		Target: func(state, target, parent string, info []byte, waiting bool) {
			change(func() { h.targets[target] = state })
			if waiting {
				go h.Resume(target)
			}
		},
		Event: func(n int, method string, params []byte) {
			change(func() { h.events = append(h.events, method+" "+string(params)) })
		},
		Detached: func(int) {},
		Closed:   func(error) {},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	h.Client = c
	w.t.Cleanup(c.Close)
	return h
}

func (h *heard) until(what string, ok func() bool) {
	h.t.Helper()
	limit := time.After(10 * time.Second)
	for {
		h.mu.Lock()
		done, ch := ok(), h.woken
		h.mu.Unlock()
		if done {
			return
		}
		select {
		case <-ch:
		case <-limit:
			h.t.Fatalf("never: %s", what)
		}
	}
}

func (h *heard) attach(target string) int {
	h.t.Helper()
	got := make(chan int, 1)
	h.Attach(target, func(n int, err error) {
		if err != nil {
			h.t.Error(err)
		}
		got <- n
	})
	return <-got
}

// ask returns the result, or the error's message.
func (h *heard) ask(session int, method string, params any) (string, string) {
	h.t.Helper()
	b, err := json.Marshal(params)
	if err != nil {
		h.t.Fatal(err)
	}
	type answer struct{ result, fault string }
	got := make(chan answer, 1)
	h.Send(session, method, b, func(result, fault []byte) { got <- answer{string(result), string(fault)} })
	select {
	case a := <-got:
		return a.result, a.fault
	case <-time.After(10 * time.Second):
		h.t.Fatalf("%s: no answer", method)
		return "", ""
	}
}

// TestClientKnowsTheGuard: even a client that knew every name and number of the
// guard could not reach it.
func TestClientKnowsTheGuard(t *testing.T) {
	w := open(t, Config{})
	w.load("page", "<button>press</button>")
	h := w.client()
	h.until("a page", func() bool { return len(h.targets) == 1 })
	page, err := w.current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := h.attach(page.target)
	if _, fault := h.ask(n, "Runtime.enable", obj{}); fault != "" {
		t.Fatal(fault)
	}
	w.Browser.mu.Lock()
	frame, guard := "", 0
	for f, id := range page.worlds {
		frame, guard = f, id
	}
	w.Browser.mu.Unlock()
	if guard == 0 {
		t.Fatal("the guard has no world")
	}
	for _, e := range h.events {
		if strings.Contains(e, w.guard.world) || strings.Contains(e, fmt.Sprintf(`"id":%d,`, guard)) {
			t.Errorf("told of the guard: %s", e)
		}
	}
	probe := "function(){return Object.keys(globalThis)}"
	for name, c := range map[string]struct {
		method string
		params obj
	}{
		"context":            {"Runtime.evaluate", obj{"expression": "1", "contextId": guard}},
		"execution_context":  {"Runtime.callFunctionOn", obj{"functionDeclaration": probe, "executionContextId": guard}},
		"object":             {"Runtime.callFunctionOn", obj{"functionDeclaration": probe, "objectId": fmt.Sprintf("1.%d.1", guard)}},
		"argument":           {"Runtime.callFunctionOn", obj{"functionDeclaration": probe, "arguments": []obj{{"objectId": fmt.Sprintf("1.%d.1", guard)}}}},
		"properties":         {"Runtime.getProperties", obj{"objectId": fmt.Sprintf("1.%d.1", guard)}},
		"promise":            {"Runtime.awaitPromise", obj{"promiseObjectId": fmt.Sprintf("1.%d.1", guard)}},
		"node":               {"DOM.resolveNode", obj{"backendNodeId": 1, "executionContextId": guard}},
		"world":              {"Page.createIsolatedWorld", obj{"frameId": frame, "worldName": w.guard.world}},
		"script":             {"Page.addScriptToEvaluateOnNewDocument", obj{"source": "1", "worldName": w.guard.world}},
		"binding_name":       {"Runtime.addBinding", obj{"name": w.guard.report}},
		"binding_world":      {"Runtime.addBinding", obj{"name": "x", "executionContextName": w.guard.world}},
		"binding_removed":    {"Runtime.removeBinding", obj{"name": w.guard.report}},
		"context_as_text":    {"Runtime.evaluate", obj{"expression": "1", "contextId": fmt.Sprint(guard)}},
		"context_as_a_float": {"Runtime.evaluate", obj{"expression": "1", "contextId": float64(guard) + 0.5}},
		"other_session":      {"Runtime.evaluate", obj{"expression": "1", "uniqueContextId": "1.1"}},
	} {
		if result, fault := h.ask(n, c.method, c.params); fault == "" {
			t.Errorf("%s: got %s", name, result)
		}
	}
	if result, fault := h.ask(n, "Runtime.evaluate", obj{"expression": "1+1"}); !strings.Contains(result, `"value":2`) {
		t.Errorf("its own script: got %s %s", result, fault)
	}
	if _, fault := h.ask(n+1, "Runtime.evaluate", obj{"expression": "1"}); fault == "" {
		t.Error("a session that was not given has an answer")
	}
	// The guard still does its work.
	w.must(w.ground(30, 20), Click{})
}

// TestOneClientAtATime: the next client meets no session of the one before.
func TestOneClientAtATime(t *testing.T) {
	w := open(t, Config{})
	w.load("page", "")
	a := w.client()
	a.until("a page", func() bool { return len(a.targets) == 1 })
	page, err := w.current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := a.attach(page.target)
	if _, err := w.OpenClient(ClientEvents{}); !errors.Is(err, ErrClient) {
		t.Errorf("a second client: got %v", err)
	}
	a.Close()
	a.Close()
	b := w.client()
	b.until("a page", func() bool { return len(b.targets) == 1 })
	if _, fault := b.ask(n, "Page.enable", obj{}); fault == "" {
		t.Error("a session of the client before has an answer")
	}
	if m := b.attach(page.target); m == 0 {
		t.Error("no session for the next client")
	}
}

// TestNumbersOfAnotherProcess: contexts are numbered anew in each process. A
// client that is told of no contexts, and collected numbers in one page, reaches
// with them nothing of the guard's in the next.
//
// Threats: T28 (door)
func TestNumbersOfAnotherProcess(t *testing.T) {
	w := open(t, Config{})
	w.load("page", "<button>press</button>")
	h := w.client()
	h.until("a page", func() bool { return len(h.targets) == 1 })
	page, err := w.current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := h.attach(page.target)
	known := 0
	for i := range 40 {
		result, fault := h.ask(n, "Page.createIsolatedWorld", obj{"frameId": page.target, "worldName": fmt.Sprint("mine", i)})
		if fault != "" {
			t.Fatal(fault)
		}
		var r struct {
			ID int `json:"executionContextId"`
		}
		if err := json.Unmarshal([]byte(result), &r); err != nil {
			t.Fatal(err)
		}
		if _, fault := h.ask(n, "Runtime.evaluate", obj{"expression": "1", "contextId": r.ID}); fault == "" {
			known++
		}
	}
	if known != 40 {
		t.Errorf("%d of 40 own worlds can be used", known)
	}
	w.set("/frames", strings.Repeat("<iframe srcdoc='<p>x'></iframe>", 10))
	if err := w.Navigate(t.Context(), "http://elsewhere.test/frames"); err != nil {
		t.Fatal(err)
	}
	for id := range 80 {
		if result, fault := h.ask(n, "Runtime.evaluate", obj{"expression": "Object.getOwnPropertyNames(globalThis).filter(n=>/^k[A-Z2-7]{26}$/.test(n)).length", "contextId": id, "returnByValue": true}); fault == "" {
			t.Errorf("context %d: %s", id, result)
		}
	}
	// What it evaluates now is the page's, and an object of it can be looked at.
	result, fault := h.ask(n, "Runtime.evaluate", obj{"expression": "document"})
	var r struct {
		Result struct {
			ObjectID string `json:"objectId"`
		} `json:"result"`
	}
	if err := json.Unmarshal([]byte(result), &r); err != nil {
		t.Fatal(fault, err)
	}
	if _, fault := h.ask(n, "Runtime.getProperties", obj{"objectId": r.Result.ObjectID}); fault != "" {
		t.Errorf("an object that the client was given: %s", fault)
	}
}
