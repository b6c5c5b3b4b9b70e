package computer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/surface/computer"
)

// memory is a log that keeps records in memory: the gate is real, the ledger is
// another package.
type memory struct {
	mu      sync.Mutex
	decided []gate.Decided
	blobs   [][]record.Blob
	raw     []byte
}

func (m *memory) Tenant() string { return "brightwell" }
func (m *memory) Append(_ context.Context, d record.Draft) (record.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b, ok := d.Body.(gate.Decided); ok {
		m.decided = append(m.decided, b)
		m.blobs = append(m.blobs, d.Blobs)
	}
	raw, err := canon.Marshal(d.Body)
	if err != nil {
		// The duration of an outcome has no canonical form of its own here.
		raw = fmt.Appendf(nil, "%+v", d.Body)
	}
	m.raw = append(m.raw, raw...)
	return record.Entry{Seq: int64(len(m.decided))}, nil
}
func (m *memory) View(context.Context, func(record.Tx) error) error { return record.ErrNotFound }
func (m *memory) Entries(context.Context, int64, func(record.Entry) error) error {
	return nil
}
func (m *memory) Payload(context.Context, action.Evidence) ([]byte, error) {
	return nil, record.ErrNotFound
}

// operations is what was decided, in order, with the verdict.
func (m *memory) operations() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, d := range m.decided {
		out = append(out, string(d.Decision.Verdict)+" "+d.Action.Operation)
	}
	return out
}

type decider func(gate.Facts) action.Decision

func (p decider) Decide(f gate.Facts) action.Decision { return p(f) }

func allowAll(gate.Facts) action.Decision { return action.Decision{Verdict: action.Allow} }

type noHolds struct{}

func (noHolds) Open(context.Context, action.Action, action.Decision) (gate.Hold, error) {
	return nil, errors.New("nobody to ask")
}

// screen records what it is given. The target is a function of the point, so
// that tests can move things.
type screen struct {
	mu     sync.Mutex
	got    []computer.Input
	at     func(n, x, y int) computer.Target // n counts groundings
	focus  computer.Target
	n      int
	err    error
	before func()
	onShot func()
	homes  int
	never  string // code of what Check refuses

	groundErr error
}

func (s *screen) Screenshot(context.Context) ([]byte, error) {
	if s.onShot != nil {
		s.onShot()
	}
	img := image.NewNRGBA(image.Rect(0, 0, 1280, 800))
	img.Set(100, 100, color.White)
	var b bytes.Buffer
	err := png.Encode(&b, img)
	return b.Bytes(), err
}

func (s *screen) Ground(_ context.Context, x, y int) (computer.Target, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	if s.groundErr != nil {
		return computer.Target{}, s.groundErr
	}
	if s.at != nil {
		return s.at(s.n, x, y), nil
	}
	return target("button", "submit"), nil
}

func (s *screen) GroundFocus(context.Context) (computer.Target, error) { return s.focus, nil }

func (s *screen) Check(computer.Target, *computer.Target, computer.Input) (code, message string) {
	return s.never, ""
}

func (s *screen) Press(ctx context.Context, t computer.Target, to *computer.Target, p gate.Permit, d action.Digest, in computer.Input) error {
	if err := p.Consume(d); err != nil {
		return err
	}
	now := s.focus
	if in.Kind != computer.Key && in.Kind != computer.Type {
		now, _ = s.Ground(ctx, in.X, in.Y)
	}
	if now.Fingerprint != t.Fingerprint {
		return computer.ErrNotDelivered
	}
	if to != nil {
		if end, _ := s.Ground(ctx, in.ToX, in.ToY); end.Fingerprint != to.Fingerprint {
			return computer.ErrNotDelivered
		}
	}
	if s.before != nil {
		s.before()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	s.got = append(s.got, in)
	return nil
}

func (s *screen) Home(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.homes++
	return s.err
}

func (s *screen) inputs() []computer.Input {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

func target(tag, inputType string) computer.Target {
	return computer.Target{Fingerprint: action.Digest("sha256:" + tag), Element: action.Element{Tag: tag, InputType: inputType,
		FrameOrigin: "https://iam.example", TopOrigin: "https://iam.example", URL: "https://iam.example/users/jo",
		FormAction: "https://iam.example/users/jo/mfa/reset", FormMethod: "POST"}}
}

type fixture struct {
	*testing.T
	url     string
	log     *memory
	screen  *screen
	real    managed
	journal *computer.Journal
	gate    *gate.Gate
	server  *computer.Server
}

func start(t *testing.T, p decider) *fixture {
	t.Helper()
	return startOn(t, p, &screen{focus: target("input", "text")})
}

func startOn(t *testing.T, p decider, s0 computer.Screen, edit ...func(*gate.Admission)) *fixture {
	t.Helper()
	f := &fixture{T: t, log: &memory{}}
	f.screen, _ = s0.(*screen)
	f.real, _ = s0.(managed)
	f.journal = computer.NewJournal(f.real.sender)
	n := 0
	f.gate = gate.New(func() string { n++; return fmt.Sprintf("a%d", n) })
	admission := gate.Admission{Tenant: "brightwell", Task: "t1", Agent: "helpdesk", Stage: action.Sandbox, Policy: p, Holds: noHolds{},
		Log: f.log, Deadline: time.Now().Add(time.Hour), MaxActions: 1000, HoldLimit: time.Second, Certified: func() error { return nil }}
	for _, e := range edit {
		e(&admission)
	}
	if err := f.gate.Admit(admission); err != nil {
		t.Fatal(err)
	}
	s, err := computer.New(computer.Config{Tenant: "brightwell", Task: "t1", Agent: "helpdesk", Gate: f.gate, Screen: s0,
		Journal: f.journal, Width: 1280, Height: 800, AppOf: appOf})
	if err != nil {
		t.Fatal(err)
	}
	s.SetSettle(0)
	f.server = s
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	f.url = srv.URL
	return f
}

func appOf(origin string) string {
	return map[string]string{"https://iam.example": "iam", "https://tickets.example": "tickets"}[origin]
}

type answer struct {
	Code    string `json:"code"`
	Layer   string `json:"layer"`
	Message string `json:"message"`
	Next    string `json:"next"`
	IsError bool   `json:"is_error"`
	Content []struct {
		Type, Text string
		Source     struct {
			Type, Data string
			MediaType  string `json:"media_type"`
		}
	}
	Results []struct {
		Type, Status, Code string
		Actions            []string
		Cursor             *struct{ X, Y int }
		Image              *struct{ Data []byte }
	}
}

func (f *fixture) post(path, body string) (int, answer) {
	f.Helper()
	resp, err := http.Post(f.url+path, "application/json", strings.NewReader(body))
	if err != nil {
		f.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		f.Fatal(err)
	}
	var a answer
	if err := json.Unmarshal(raw, &a); err != nil {
		f.Fatalf("answer is not JSON: %v: %s", err, raw)
	}
	return resp.StatusCode, a
}

const (
	neutral   = "/v1/actions"
	anthropic = "/v1/anthropic/computer_20251124"
)

func (f *fixture) want(ops ...string) {
	f.Helper()
	if got := f.log.operations(); !slices.Equal(got, ops) {
		f.Errorf("decided: got %q, want %q", got, ops)
	}
}
