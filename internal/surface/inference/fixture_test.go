package inference_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/surface/inference"
)

const realKey = "sk-ant-test-0123456789+/abcdef"

// memory is a log that keeps decisions in memory: the gate is real, the ledger
// is another package.
type memory struct {
	record.Log
	mu       sync.Mutex
	decided  []gate.Decided
	outcomes []gate.Outcome
	blobs    [][]byte
	text     string
}

func (m *memory) Append(_ context.Context, d record.Draft) (record.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch b := d.Body.(type) {
	case gate.Decided:
		m.decided = append(m.decided, b)
		for _, x := range d.Blobs {
			m.blobs = append(m.blobs, x.Data)
		}
	case gate.Outcome:
		m.outcomes = append(m.outcomes, b)
	}
	m.text += fmt.Sprintf("%+v", d)
	return record.Entry{Seq: int64(len(m.decided))}, nil
}

func (m *memory) operations() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, d := range m.decided {
		out = append(out, string(d.Decision.Verdict)+" "+d.Action.Operation+" "+d.Decision.Code)
	}
	return out
}

type policy func(gate.Facts) action.Decision

func (p policy) Decide(f gate.Facts) action.Decision { return p(f) }

type noHolds struct{}

func (noHolds) Open(context.Context, action.Action, action.Decision) (gate.Hold, error) {
	return nil, errors.New("nobody to ask")
}

// pins is an observer with a certified model, system prompt and tool list; the
// first measurement sets what it has not.
type pins struct {
	mu                   sync.Mutex
	model, system, tools string
	peer                 string
	seen                 []inference.Measurement
	lapsed               bool
}

func (p *pins) Observe(_ context.Context, m inference.Measurement) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, m)
	if m.Phase == inference.AtConnect {
		if p.peer == "" {
			p.peer = m.Peer
		}
		if m.Peer != p.peer {
			p.lapsed = true
			return errors.New("drift: private cause")
		}
		return nil
	}
	if p.system == "" {
		p.system, p.tools = string(m.SystemDigest), string(m.ToolsDigest)
	}
	if m.Model != p.model || string(m.SystemDigest) != p.system || string(m.ToolsDigest) != p.tools {
		p.lapsed = true
		return errors.New("drift: private cause")
	}
	return nil
}

func (p *pins) phases() []inference.Phase {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []inference.Phase
	for _, m := range p.seen {
		out = append(out, m.Phase)
	}
	return out
}

type key string

func (k key) Key(context.Context) (inference.Secret, error) {
	return inference.NewSecret(string(k)), nil
}

type fixture struct {
	*testing.T
	url  string
	log  *memory
	pins *pins
	gate *gate.Gate
	up   *httptest.Server
}

// start runs the endpoint in front of a real TLS upstream.
func start(t *testing.T, up http.HandlerFunc, edit ...func(*inference.Config)) *fixture {
	t.Helper()
	f := &fixture{T: t, log: &memory{}, pins: &pins{model: "claude-sample-1"}}
	f.up = httptest.NewTLSServer(up)
	t.Cleanup(f.up.Close)
	f.gate = gate.New(func() string { return "a1" })
	if err := f.gate.Admit(gate.Admission{Tenant: "brightwell", Task: "t1", Agent: "helpdesk", Stage: action.Sandbox, Holds: noHolds{},
		Policy: policy(func(gate.Facts) action.Decision { return action.Decision{Verdict: action.Allow} }),
		Log:    f.log, Deadline: time.Now().Add(time.Hour), MaxActions: 1000, HoldLimit: time.Second, Certified: func() error { return nil }}); err != nil {
		t.Fatal(err)
	}
	c := inference.Config{Tenant: "brightwell", Task: "t1", Agent: "helpdesk", Gate: f.gate, Observer: f.pins, Key: key(realKey),
		Upstream: f.up.URL, Roots: f.up.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, Betas: []string{"computer-use-2025-11-24"}, MaxBody: 1 << 20}
	for _, e := range edit {
		e(&c)
	}
	s, err := inference.New(c)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	f.url = "http://" + l.Addr().String()
	return f
}

func (f *fixture) do(method, path, body string, header map[string]string) (int, string) {
	f.Helper()
	req, err := http.NewRequest(method, f.url+path, strings.NewReader(body))
	if err != nil {
		f.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Api-Key", "placeholder")
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		f.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	for k, v := range resp.Header {
		if strings.Contains(strings.Join(v, ","), realKey) {
			f.Errorf("header %s holds the key", k)
		}
	}
	if strings.Contains(string(b), realKey) || strings.Contains(f.log.text, realKey) {
		f.Error("the key reached the harness or a record")
	}
	return resp.StatusCode, string(b)
}

func (f *fixture) post(body string) (int, string) {
	return f.do("POST", "/v1/messages", body, nil)
}

const plain = `{"model":"claude-sample-1","max_tokens":10,"system":"be good","messages":[{"role":"user","content":"hi"}]}`

func stream(s string) string { return strings.TrimSuffix(s, "}") + `,"stream":true}` }

func message(w http.ResponseWriter, model string) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"id":"m","type":"message","role":"assistant","model":%q,"content":[],"stop_reason":"end_turn"}`, model)
}

func sse(w http.ResponseWriter, events ...string) {
	w.Header().Set("Content-Type", "text/event-stream")
	for _, e := range events {
		io.WriteString(w, e)
		w.(http.Flusher).Flush()
	}
}

func started(model string) string {
	return "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"" + model + "\"}}\n\n"
}

const (
	delta   = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"secret plan\"}}\n\n"
	stopped = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
)
