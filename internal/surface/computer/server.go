package computer

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/gate"
)

// Config is what one endpoint needs. Every field must be set.
type Config struct {
	Tenant, Task, Agent string
	Gate                Gate
	Screen              Screen
	Journal             *Journal
	Width, Height       int // of the screen, pixels
	// AppOf names the connector that owns an origin, or "": an input on an
	// origin that nobody owns is on no application.
	AppOf func(origin string) string
}

// Server is the computer endpoint of one task.
type Server struct {
	c    Config
	http *http.Server
	key  []byte // of digests over typed text; dies with the server

	// busy is held for the whole of a request that acts. It owns the fields
	// below and every call of Screen.
	busy   sync.Mutex
	cursor image.Point
	down   bool
	seen   action.Digest // the last picture that was let out
}

// New makes the endpoint. The cursor starts in the middle of the screen.
func New(c Config) (*Server, error) {
	if c.Tenant == "" || c.Task == "" || c.Agent == "" || c.Gate == nil || c.Screen == nil || c.Journal == nil || c.Width < 1 || c.Height < 1 || c.AppOf == nil {
		return nil, errors.New("computer: incomplete configuration")
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("computer: make a key: %w", err)
	}
	s := &Server{c: c, key: key, cursor: image.Pt(c.Width/2, c.Height/2)}
	// No write timeout: an action may be held until a person answers.
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug)}
	return s, nil
}

// Serve answers on l until Close. It closes l.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("computer: serve: %w", err)
	}
	return nil
}

// Close cuts every connection; what is in flight sees its context end.
func (s *Server) Close() error { return s.http.Close() }

// The routes.
const (
	pathDisplay   = "/v1/display"
	pathActions   = "/v1/actions"
	pathAnthropic = "/v1/anthropic/computer_20251124"
)

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, why := s.read(w, r)
	if why == nil && r.URL.Path == pathDisplay {
		s.display(w)
		return
	}
	var (
		todo []planned
		v    view
	)
	if why == nil {
		v, why = parseView(r.URL.Query(), s.c.Width, s.c.Height)
	}
	if why == nil {
		todo, why = parse(r.URL.Path, body, v)
	}
	if why != nil {
		s.malformed(r.Context(), why.code, body)
		writeRefusal(w, why)
		return
	}
	if !s.busy.TryLock() {
		writeRefusal(w, &refusal{http.StatusConflict, "in_flight", "another action of this task is in flight", "send one action at a time"})
		return
	}
	defer s.busy.Unlock()
	results := s.execute(r.Context(), v, todo)
	if r.URL.Path == pathAnthropic {
		writeJSON(w, http.StatusOK, toolResult(results[0]))
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"results": results})
}

// read checks everything about a request that is not its document.
func (s *Server) read(w http.ResponseWriter, r *http.Request) ([]byte, *refusal) {
	want := http.MethodPost
	switch r.URL.Path {
	case pathDisplay:
		want = http.MethodGet
	case pathActions, pathAnthropic:
	default:
		return []byte(r.URL.Path), &refusal{http.StatusNotFound, "unknown_path", "the path is not known", "use " + pathDisplay + ", " + pathActions + " or " + pathAnthropic}
	}
	if r.Method != want {
		w.Header().Set("Allow", want)
		return []byte(r.Method), &refusal{http.StatusMethodNotAllowed, "wrong_method", "the method is not allowed here", "use " + want}
	}
	if r.Header.Get("Origin") != "" {
		// No page has business here; a browser inside the harness would be
		// an unmanaged one.
		return []byte(r.URL.Path), &refusal{http.StatusForbidden, "from_a_page", "requests of web pages are refused", "call from the harness"}
	}
	if want == http.MethodGet {
		return nil, nil
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return []byte(r.URL.Path), &refusal{http.StatusUnsupportedMediaType, "wrong_type", "the body must be application/json", "set Content-Type"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var big *http.MaxBytesError
	if errors.As(err, &big) {
		return body, &refusal{http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf("the request is larger than %d bytes", maxBody), "send fewer actions"}
	}
	if err != nil {
		return body, refuse("unreadable", "the body could not be read")
	}
	return body, nil
}

func parse(path string, body []byte, v view) ([]planned, *refusal) {
	readCalls := readNeutral
	if path == pathAnthropic {
		readCalls = readAnthropic
	}
	calls, why := readCalls(body)
	if why != nil {
		return nil, why
	}
	return plan(calls, v)
}

// malformed records, through the gate, an attempt that has no canonical form.
func (s *Server) malformed(ctx context.Context, code string, raw []byte) {
	a := s.action("malformed", action.Irreversible)
	a.Params["why"] = code
	a.Digest = canon.Digest(raw)
	s.c.Gate.Act(ctx, a, nil, func(context.Context, gate.Permit) action.Outcome {
		return action.Outcome{State: action.Failed, Detail: "malformed"}
	})
}

func (s *Server) display(w http.ResponseWriter) {
	writeJSON(w, http.StatusOK, map[string]any{
		"width": s.c.Width, "height": s.c.Height, "deviceScaleFactor": 1,
		"scaling": map[string]any{"minWidth": (s.c.Width + 3) / 4, "maxWidth": s.c.Width, "aspectTolerancePixels": 1, "query": "display=WIDTHxHEIGHT"},
		"formats": []string{pathActions, pathAnthropic},
	})
}

// toolResult is the content of a tool_result block (Anthropic Messages API).
// The caller adds tool_use_id.
func toolResult(r result) map[string]any {
	switch {
	case r.Status != statusDone:
		return toolError(r.Status, r.problem)
	case r.Image != nil:
		return map[string]any{"is_error": false, "content": []any{map[string]any{"type": "image",
			"source": map[string]any{"type": "base64", "media_type": r.Image.MediaType, "data": r.Image.Data}}}}
	case r.Cursor != nil:
		return map[string]any{"is_error": false, "content": []any{map[string]any{"type": "text", "text": fmt.Sprintf("X=%d,Y=%d", r.Cursor.X, r.Cursor.Y)}}}
	}
	return map[string]any{"is_error": false, "content": []any{map[string]any{"type": "text", "text": "done"}}}
}

func toolError(status string, p problem) map[string]any {
	text := status + ": " + p.Code + " (" + string(p.Layer) + "): " + p.Message
	if p.Next != "" {
		text += ". Next: " + p.Next
	}
	return map[string]any{"is_error": true, "content": []any{map[string]any{"type": "text", "text": text}},
		"status": status, "code": p.Code, "layer": p.Layer, "message": p.Message, "next": p.Next}
}

// writeRefusal answers with the members of a problem and, for a client that
// hands the answer on to a model, with those of a tool_result.
func writeRefusal(w http.ResponseWriter, why *refusal) {
	writeJSON(w, why.status, toolError(statusDenied, problem{why.code, action.LayerForm, why.message, why.next}))
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// The only error left is a client that went away.
	_ = json.NewEncoder(w).Encode(v)
}
