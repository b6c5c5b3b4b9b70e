package cdp

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/prefer"
	"github.com/sallyport-dev/sallyport/internal/surface/local"
)

// Config is what one endpoint needs. Every field but Profile and Secrets must be set.
type Config struct {
	Tenant, Task, Agent string
	Profile             Profile // zero: Sealed
	Version             string  // of the browser, as Browser.getVersion reports it
	Width, Height       int     // of the screen, CSS pixels
	Gate                Gate
	Journal             Journal
	// Open makes the one view on the browser. An error refuses the client.
	Open func(Events) (Upstream, error)
	// AppOf names the connector that owns an origin, or "".
	AppOf func(origin string) string
	// Secrets are values that the client must not see even if a page got hold
	// of one; may be nil. Door 2 keeps them out of pages; this is the second
	// look. It is called for each message and must not block.
	Secrets func() []string
}

// Server is the endpoint of one task.
type Server struct {
	c    Config
	http *http.Server
	path string // of the socket; not a secret, only a name as Chromium has them
	key  []byte // of digests over typed text; dies with the server
	busy atomic.Bool

	uploads uploads

	mu     sync.Mutex
	live   *client
	closed bool
	muted  bool // a person has the session
}

// New makes the endpoint.
func New(c Config) (*Server, error) {
	switch c.Profile {
	case "":
		c.Profile = Sealed
	case Sealed, Pinned, Open:
	default:
		return nil, fmt.Errorf("cdp: profile %q: want sealed, pinned or open", c.Profile)
	}
	if c.Tenant == "" || c.Task == "" || c.Agent == "" || c.Version == "" || c.Gate == nil || c.Journal == nil || c.Open == nil || c.AppOf == nil || c.Width < 1 || c.Height < 1 {
		return nil, errors.New("cdp: incomplete configuration")
	}
	s := &Server{c: c, key: make([]byte, 32), path: "/devtools/browser/" + strings.ToLower(hexID())}
	rand.Read(s.key)
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug)}
	return s, nil
}

// hexID is a fresh name in the form of Chromium's own.
func hexID() string {
	var b [16]byte
	rand.Read(b[:])
	return strings.ToUpper(hex.EncodeToString(b[:]))
}

// Serve answers on l until Close. It closes l.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(&bounded{Listener: l, free: make(chan struct{}, maxConns)}); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cdp: serve: %w", err)
	}
	return nil
}

// maxConns bounds the connections to the endpoint; a surplus one is closed.
const maxConns = 32

type bounded struct {
	net.Listener
	free chan struct{}
}

// Accept returns the next connection that there is room for.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case b.free <- struct{}{}:
			return &counted{Conn: c, free: b.free}, nil
		default:
			c.Close()
		}
	}
}

type counted struct {
	net.Conn
	free chan struct{}
	once sync.Once
}

// Close gives the room back.
func (c *counted) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { <-c.free })
	return err
}

// closeLimit is how long Close waits for the last input to have ended.
const closeLimit = 2 * time.Second

// Close cuts every connection; what is in flight sees its context end.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	live := s.live
	s.mu.Unlock()
	err := s.http.Close()
	if live != nil {
		live.end(closeNormal, "the task is over")
		select {
		case <-live.over:
		case <-time.After(closeLimit): // a browser that does not answer keeps no kill waiting
		}
	}
	return err
}

// Mute keeps the client from the browser until Unmute, which ends it. From when
// it returns the client hears nothing; what it does by input is cut by the gate.
func (s *Server) Mute() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.muted = true
	if s.live != nil {
		s.live.mute()
	}
}

// Unmute lets a client connect again.
func (s *Server) Unmute() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.muted = false
	if s.live != nil && s.live.muted.Load() {
		s.live.end(closeRestart, "the session was given back: connect again")
	}
}

func (s *Server) silent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.muted
}

// ServeHTTP answers one request. Nothing of the browser's own HTTP endpoints
// is behind it: the ones that act (/json/new, /json/close, /json/activate and
// the pages' own sockets) do not exist.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if why := local.Refuse(r); why != nil {
		writeProblem(w, http.StatusForbidden, problem{Layer: layerForm, Code: why.Code, Message: why.Message, Next: why.Next})
		return
	}
	if s.silent() {
		w.Header().Set("Retry-After", prefer.RetryAfter)
		writeProblem(w, http.StatusConflict, *taken())
		return
	}
	if s.c.Profile == Sealed {
		writeProblem(w, http.StatusForbidden, problem{Layer: layerForm, Code: "cdp_sealed",
			Message: "this task has no DevTools protocol", Next: "use the computer surface, SALLYPORT_COMPUTER_URL"})
		return
	}
	path := strings.TrimSuffix(r.URL.Path, "/")
	if path == s.path {
		s.socket(w, r)
		return
	}
	if strings.HasPrefix(path, "/uploads/") && r.Method == http.MethodPut {
		s.putUpload(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		writeProblem(w, http.StatusMethodNotAllowed, problem{Layer: layerForm, Code: "wrong_method", Message: "the method is not allowed here", Next: "use GET"})
		return
	}
	switch path {
	case "/json/version":
		writeJSON(w, http.StatusOK, map[string]string{"Browser": s.c.Version, "Protocol-Version": "1.3",
			"webSocketDebuggerUrl": "ws://" + r.Host + s.path})
	case "/json", "/json/list":
		// Pages have no sockets of their own here, so there is nothing to list.
		writeJSON(w, http.StatusOK, []any{})
	case "/json/protocol":
		writeJSON(w, http.StatusOK, offered(s.c.Profile))
	default:
		writeProblem(w, http.StatusNotFound, problem{Layer: layerForm, Code: "unknown_path", Message: "the path is not known",
			Next: "use /json/version, /json/list, /json/protocol, or PUT to /uploads/"})
	}
}

// socket serves the one client. Order: its place, the handshake, its view.
func (s *Server) socket(w http.ResponseWriter, r *http.Request) {
	if !s.busy.CompareAndSwap(false, true) {
		writeProblem(w, http.StatusConflict, problem{Layer: layerForm, Code: "cdp_busy", Message: "a client is connected already", Next: "disconnect it first"})
		return
	}
	defer s.busy.Store(false)
	wait, hasty := prefer.Wait(r.Header)
	also := ""
	if hasty {
		also = "Preference-Applied: " + prefer.Applied(wait) + "\r\n"
	}
	sock, err := accept(w, r, also)
	if err != nil {
		writeProblem(w, http.StatusBadRequest, problem{Layer: layerForm, Code: "bad_handshake", Message: err.Error(), Next: "connect by WebSocket"})
		return
	}
	defer sock.cut()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := newClient(s, ctx, cancel, sock)
	c.hasty, c.patience = hasty, wait
	s.mu.Lock()
	if s.closed || s.muted {
		s.mu.Unlock()
		sock.close(closeLater, gate.CodeTaken)
		return
	}
	s.live = c
	s.mu.Unlock()
	if err := c.run(); err != nil {
		slog.Debug("cdp: client ended", "task", s.c.Task, "error", err)
	}
}

func writeProblem(w http.ResponseWriter, status int, p problem) { writeJSON(w, status, p) }

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the only error left is a client that went away
}
