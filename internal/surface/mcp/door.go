package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/gate"
)

// Door is the endpoint of one task.
type Door struct {
	c       Config
	http    *http.Server
	servers []*upstream
	tools   map[string]*upstream // declared ones, by name
	given   given
}

// New makes the door. It does not touch the network.
func New(c Config) (*Door, error) {
	if c.Tenant == "" || c.Task == "" || c.Agent == "" || c.Gate == nil || len(c.Servers) == 0 || c.Recognize == nil || c.Observer == nil || c.Redact == nil {
		return nil, errors.New("mcp: incomplete configuration")
	}
	if c.Patience == 0 {
		c.Patience = DefaultPatience
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	s := &Door{c: c, tools: map[string]*upstream{}}
	for _, x := range c.Servers {
		up := newUpstream(x, c.Timeout, c.Redact, s.verify(x.App))
		s.servers = append(s.servers, up)
		for _, t := range x.Tools {
			if other := s.tools[t]; other != nil {
				return nil, fmt.Errorf("mcp: tool %s is of %s and of %s", t, other.App, x.App)
			}
			s.tools[t] = up
		}
	}
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug)}
	return s, nil
}

// Serve answers on l until Close. It closes l.
func (s *Door) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("mcp: serve: %w", err)
	}
	return nil
}

// Close cuts every call.
func (s *Door) Close() error {
	err := s.http.Close()
	for _, up := range s.servers {
		up.client.CloseIdleConnections()
	}
	return err
}

// ServeHTTP answers one request.
func (s *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q, why := s.read(w, r)
	if why != nil {
		if why.status != http.StatusMethodNotAllowed { // clients look whether there is a stream
			s.malformed(r.Context(), why.code, q.raw, nil)
		}
		s.refuse(w, q, why)
		return
	}
	switch q.Method {
	case "initialize":
		version := latest
		if slices.Contains(initialized, q.ProtocolVersion) {
			version = q.ProtocolVersion
		}
		s.answer(w, q, map[string]any{"protocolVersion": version, "capabilities": capabilities, "serverInfo": self})
	case "server/discover":
		s.answer(w, q, map[string]any{"supportedVersions": append([]string{stateless}, initialized...), "capabilities": capabilities, "ttlMs": 0, "cacheScope": "private"})
	case "ping":
		s.answer(w, q, map[string]any{})
	case "tools/list":
		s.list(w, r, q)
	case "tools/call":
		s.call(w, r, q)
	default:
		w.WriteHeader(http.StatusAccepted) // a notification: nothing here waits for one
	}
}

var (
	capabilities = map[string]any{"tools": map[string]any{}}
	self         = map[string]string{"name": "sallyport", "version": "1"}
)

// answer writes a result.
func (s *Door) answer(w http.ResponseWriter, q *request, result map[string]any) {
	if q.modern {
		result["resultType"] = "complete"
		meta, _ := result["_meta"].(map[string]any)
		if meta == nil {
			meta = map[string]any{}
		}
		meta[metaServer] = self
		result["_meta"] = meta
	}
	s.write(w, http.StatusOK, map[string]any{"jsonrpc": "2.0", "id": q.ID, "result": result})
}

// refuse writes an error of JSON-RPC.
func (s *Door) refuse(w http.ResponseWriter, q *request, why *refusal) {
	data := map[string]any{"code": why.code}
	if why.rpc == codeVersion {
		data["supported"] = append([]string{stateless}, initialized...)
	}
	if why.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", http.MethodPost)
	}
	status := why.status
	if why.rpc == codeNoMethod && q.modern {
		status = http.StatusNotFound
	}
	if q.notification() && status == http.StatusOK {
		status = http.StatusBadRequest // there is nobody to read an answer
	}
	s.fail(w, q, status, why.rpc, "sallyport: "+why.message, data)
}

func (s *Door) fail(w http.ResponseWriter, q *request, status, code int, text string, data map[string]any) {
	id := q.ID
	if len(id) == 0 {
		id = canon.Value("null")
	}
	s.write(w, status, map[string]any{"jsonrpc": "2.0", "id": id, "error": map[string]any{"code": code, "message": text, "data": data}})
}

func (s *Door) write(w http.ResponseWriter, status int, doc map[string]any) {
	// Not in canonical form: a server's numbers go on as they are.
	b, err := json.Marshal(doc)
	if err != nil {
		panic("sallyport: internal error: " + err.Error())
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(b) // the only error left is a client that went away
}

func (s *Door) action(operation string, e action.Effect, app string) action.Action {
	return action.Action{Tenant: s.c.Tenant, Task: s.c.Task, Agent: s.c.Agent, Surface: action.MCP, Source: "harness",
		Operation: operation, Effect: e, App: app, Params: map[string]string{}}
}

// malformed records, through the gate, an attempt that has no canonical form.
func (s *Door) malformed(ctx context.Context, code string, raw []byte, params map[string]string) gate.Result {
	a := s.action("mcp.malformed", action.Irreversible, "")
	for k, v := range params {
		a.Params[k] = v
	}
	a.Params["why"] = code
	a.Digest = canon.Digest(raw)
	return s.c.Gate.Act(ctx, a, nil, func(context.Context, gate.Permit) action.Outcome {
		return action.Outcome{State: action.Failed, Detail: "malformed"}
	})
}
