package clients

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/surface/mcp"
)

// everything starts the protocol's own reference server.
func everything(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	l.Close()
	cmd := exec.CommandContext(t.Context(), "node", "node_modules/@modelcontextprotocol/server-everything/dist/index.js", "streamableHttp")
	cmd.Env = append(os.Environ(), "PORT="+port)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return "http://" + addr
		}
		if time.Now().After(limit) {
			t.Fatal("the server does not listen")
		}
	}
}

type seenTools struct {
	mu    sync.Mutex
	facts map[string]string
}

func (s *seenTools) Observe(_ context.Context, m mcp.Measurement) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, v := range m.Facts {
		if old, ok := s.facts[n]; ok && old != v {
			return fmt.Errorf("%s: %s → %s", n, old, v)
		}
	}
	s.facts = m.Facts
	return nil
}

// TestToolClients: the official TypeScript SDKs of both generations of the protocol, as
// they are, on one side of the door, and the reference server on the other.
func TestToolClients(t *testing.T) {
	if testing.Short() {
		t.Skip("installs modules")
	}
	if err := install(); err != nil {
		t.Fatal(err)
	}
	url := everything(t)
	tool := func(name string, arguments map[string]connector.Field) connector.Operation {
		return connector.Operation{Name: "every." + name, Kind: connector.KindTool, Tool: name, Effect: action.Read, Arguments: arguments}
	}
	whole := func(name string) connector.Field {
		return connector.Field{Param: name, Type: connector.TypeInteger, Optional: true}
	}
	set, err := connector.NewSet(map[string]*connector.Spec{"every": {MCP: &connector.MCP{Path: "/mcp", Server: "mcp-servers/everything"},
		Stages: map[action.Stage]connector.Stage{action.Sandbox: {Origins: []connector.Origin{{Name: "main", URL: url, Local: true}}}},
		Operations: []connector.Operation{
			tool("echo", map[string]connector.Field{"message": {Param: "message"}}), tool("get-sum", map[string]connector.Field{"a": whole("a"), "b": whole("b")}),
			tool("get-tiny-image", nil), tool("get-structured-content", map[string]connector.Field{"location": {Param: "location"}}),
			tool("get-annotated-message", map[string]connector.Field{"messageType": {Param: "messageType"}, "includeImage": {Param: "includeImage", Type: connector.TypeBoolean, Optional: true}}),
			tool("trigger-long-running-operation", map[string]connector.Field{"duration": whole("duration"), "steps": whole("steps")}),
			tool("get-resource-links", map[string]connector.Field{"count": {Param: "count", Type: connector.TypeJSON}}), tool("get-env", nil)}}})
	if err != nil {
		t.Fatal(err)
	}
	at, _ := set.Tools(action.Sandbox, "every")
	granted := map[string]bool{}
	for _, name := range at.Tools {
		granted[name] = name != "get-env"
	}
	for _, which := range []string{"sdk", "client"} {
		t.Run(which, func(t *testing.T) {
			seen := &seenTools{}
			kit := gatetest.New(t, func(f gate.Facts) action.Decision {
				if f.Action.Operation == "every.get-env" || f.Action.Unmatched() {
					return action.Denied(action.LayerGrant, "outside_grant", "the task was not given it", "")
				}
				return gatetest.AllowAll(f)
			})
			door, err := mcp.New(mcp.Config{Tenant: gatetest.Tenant, Task: gatetest.Task, Agent: gatetest.Agent, Gate: kit.Gate, Observer: seen, Redact: func(b []byte) []byte { return b },
				Servers: []mcp.Server{{App: "every", URL: at.URL, Name: at.Server, Tools: at.Tools, Granted: granted}},
				Recognize: func(app, tool string, arguments []byte) (mcp.Meaning, error) {
					m, err := set.RecognizeTool(app, tool, arguments)
					return mcp.Meaning{Operation: m.Operation, Effect: m.Effect, Params: m.Params, Labels: m.Labels, Code: m.Code, Why: m.Why}, err
				}})
			if err != nil {
				t.Fatal(err)
			}
			var versions sync.Map
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				versions.Store(r.Header.Get("Mcp-Protocol-Version"), true)
				door.ServeHTTP(w, r)
			}))
			defer srv.Close()
			defer door.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "node", "tools.mjs", srv.URL+mcp.Path, which)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v\n%s%s", err, out, stderr.Bytes())
			}
			n := 0
			for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); n++ {
				var s scenario
				if err := json.Unmarshal(lines.Bytes(), &s); err != nil || s.Error != "" {
					t.Errorf("%s: %s %v", s.Name, s.Error, err)
				}
			}
			if n != 15 {
				t.Errorf("%d scenarios ran: %s", n, stderr.Bytes())
			}
			want := map[string]string{"sdk": "2025-11-25", "client": "2026-07-28"}[which]
			if _, spoken := versions.Load(want); !spoken {
				t.Errorf("it does not speak %s", want)
			}
			if got := seen.facts["mcp.every.tools"]; !strings.HasPrefix(got, "echo, get-annotated-message, get-env, ") || strings.Contains(got, "sampling") {
				t.Errorf("the server lists %s", got)
			}
		})
	}
}
