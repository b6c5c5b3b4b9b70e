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
	"github.com/sallyport-dev/sallyport/internal/prefer"
	"github.com/sallyport-dev/sallyport/internal/surface/local"
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
	seen   action.Digest // the last picture that was let out to the agent
	shot   []byte        // the whole screen that the last picture was made of, PNG
	actor  string        // who acts, if it is not the agent
	// pressed is the origin of the frame that the button went down on.
	pressed string
	// settle is how long a page gets before the picture that ends a request of a
	// format that asks for none.
	settle time.Duration
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
	s := &Server{c: c, key: key, cursor: image.Pt(c.Width/2, c.Height/2), settle: 500 * time.Millisecond}
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

// pathDisplay is the only path that is read; the others are of formats.
const pathDisplay = "/v1/display"

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, why := s.read(w, r)
	if why == nil && r.URL.Path == pathDisplay {
		s.display(w)
		return
	}
	var (
		req  request
		todo []planned
		v    view
	)
	if why == nil {
		v, why = parseView(r.URL.Query(), s.c.Width, s.c.Height)
	}
	if why == nil {
		req, todo, why = parse(r.URL.Path, body, v)
	}
	if why != nil {
		s.malformed(r.Context(), "", why.code, body)
		writeRefusal(w, why)
		return
	}
	ctx := r.Context()
	wait, short := prefer.Wait(r.Header)
	if short {
		ctx = gate.WithPatience(ctx, wait)
		w.Header().Set("Preference-Applied", prefer.Applied(wait))
	}
	o, why := s.do(ctx, "", v, req, todo)
	if why != nil {
		writeRefusal(w, why)
		return
	}
	status := http.StatusOK
	if p := o.held(); p.Question != "" {
		status = http.StatusConflict
		w.Header().Set("Retry-After", prefer.RetryAfter)
		w.Header().Set("Sallyport-Question", p.Question)
	}
	writeJSON(w, status, req.answer(o))
}

// Person does a request in the neutral form for an actor who has taken the
// session over, and answers as /v1/actions does. What has no canonical form, or
// comes while another request is in flight, is a denial.
func (s *Server) Person(ctx context.Context, actor string, body []byte) ([]byte, *action.Decision) {
	v := view{s.c.Width, s.c.Height, s.c.Width, s.c.Height}
	req, why := readNeutral(body, v)
	var todo []planned
	if why == nil {
		todo, why = plan(req.calls, v)
	}
	var o outcome
	if why != nil {
		s.malformed(ctx, actor, why.code, body)
	} else {
		o, why = s.do(ctx, actor, v, req, todo)
	}
	if why != nil {
		d := action.Denied(action.LayerForm, why.code, why.message, why.next)
		return nil, &d
	}
	b, err := json.Marshal(req.answer(o))
	if err != nil {
		panic("sallyport: internal error: results: " + err.Error())
	}
	return b, nil
}

// do works on one request at a time, as one turn of its actor. When it returns,
// the next may begin. Whose turn it is not learns nothing of whose it is.
func (s *Server) do(ctx context.Context, actor string, v view, req request, todo []planned) (outcome, *refusal) {
	ctx, end, ok := s.c.Gate.Turn(ctx, s.by(actor, "turn", action.Observe))
	defer end()
	if !ok {
		return outcome{results: s.outOfTurn(ctx, actor, todo)}, nil
	}
	if !s.busy.TryLock() {
		return outcome{}, &refusal{http.StatusConflict, "in_flight", "another action of this task is in flight", "send one action at a time"}
	}
	defer s.busy.Unlock()
	s.actor = actor
	return s.perform(ctx, v, req, todo), nil
}

// outOfTurn has the gate refuse, and record, the first of what was asked, before
// anything of the page was looked at.
func (s *Server) outOfTurn(ctx context.Context, actor string, todo []planned) []result {
	r := result{Type: todo[0].action, Status: statusDone}
	a := s.by(actor, todo[0].steps[0].op, action.Read)
	a.Digest = form{Task: s.c.Task, Operation: a.Operation}.digest()
	s.act(ctx, a, nil, func(context.Context, gate.Permit) action.Outcome {
		return action.Outcome{State: action.Failed, Detail: "the session has just changed hands"}
	}, &r)
	return append([]result{r}, notExecuted(todo[1:])...)
}

// read checks everything about a request that is not its document.
func (s *Server) read(w http.ResponseWriter, r *http.Request) ([]byte, *refusal) {
	if why := local.Refuse(r); why != nil {
		return []byte(r.URL.Path), &refusal{http.StatusForbidden, why.Code, why.Message, why.Next}
	}
	want := http.MethodPost
	if r.URL.Path == pathDisplay {
		want = http.MethodGet
	} else if _, ok := formatOf(r.URL.Path); !ok {
		return []byte(r.URL.Path), &refusal{http.StatusNotFound, "unknown_path", "the path is not known", "GET " + pathDisplay + " lists the formats"}
	}
	if r.Method != want {
		w.Header().Set("Allow", want)
		return []byte(r.Method), &refusal{http.StatusMethodNotAllowed, "wrong_method", "the method is not allowed here", "use " + want}
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

func parse(path string, body []byte, v view) (request, []planned, *refusal) {
	f, _ := formatOf(path)
	req, why := f.read(body, v)
	if why != nil {
		return request{}, nil, why
	}
	todo, why := plan(req.calls, req.space)
	if why == nil {
		why = askable(req.checks, todo)
	}
	return req, todo, why
}

// malformed records, through the gate, an attempt that has no canonical form.
func (s *Server) malformed(ctx context.Context, actor, code string, raw []byte) {
	a := s.by(actor, "malformed", action.Irreversible)
	a.Params["why"] = code
	a.Digest = canon.Digest(raw)
	s.c.Gate.Act(ctx, a, nil, func(context.Context, gate.Permit) action.Outcome {
		return action.Outcome{State: action.Failed, Detail: "malformed"}
	})
}

func (s *Server) display(w http.ResponseWriter) {
	var paths []string
	for _, f := range formats {
		paths = append(paths, f.path)
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"width": s.c.Width, "height": s.c.Height, "deviceScaleFactor": 1,
		"scaling": map[string]any{"minWidth": (s.c.Width + 3) / 4, "maxWidth": s.c.Width, "aspectTolerancePixels": 1, "query": "display=WIDTHxHEIGHT"},
		"formats": paths,
	})
}

// writeRefusal answers with the members of a problem and, for a client that
// hands the answer on to a model, with those of a tool_result.
func writeRefusal(w http.ResponseWriter, why *refusal) {
	writeJSON(w, why.status, toolError(statusDenied, problem{Code: why.code, Layer: action.LayerForm, Message: why.message, Next: why.next}))
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// The only error left is a client that went away.
	_ = json.NewEncoder(w).Encode(v)
}
