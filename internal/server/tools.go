package server

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/capability"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/surface/mcp"
)

// atTools is the source of what was seen of a server of tools.
const atTools = "mcp"

// toolServers are the MCP servers of which the task's grant has a tool.
func (s *session) toolServers() (out []mcp.Server, err error) {
	var apps []string
	for _, r := range s.instance.Rules {
		if spec := s.world.connectors.Spec(r.App); spec != nil && s.agent.apps[r.App] && spec.HasTool(r.Operation) {
			apps = append(apps, r.App)
		}
	}
	slices.Sort(apps)
	for _, app := range slices.Compact(apps) {
		at, ok := s.world.connectors.Tools(s.stage(), app)
		if !ok {
			return nil, fmt.Errorf("connector %s has no server of tools in stage %s", app, s.stage())
		}
		x, err := toolServer(app, at, routes(s.task.Routes))
		if err != nil {
			return nil, err
		}
		x.Granted = map[string]bool{}
		for _, tool := range at.Tools {
			op, _ := s.world.connectors.Spec(app).ToolOperation(tool)
			x.Granted[tool] = slices.ContainsFunc(s.instance.Rules, func(r capability.Rule) bool { return r.App == app && r.Operation == op.Name })
		}
		out = append(out, x)
	}
	return out, nil
}

// toolServer is the way to a server of tools.
func toolServer(app string, at connector.ToolServer, by routes) (mcp.Server, error) {
	x := mcp.Server{App: app, URL: at.URL, Name: at.Server, Tools: at.Tools, Dial: checked{by, at.Origin.Local}.dial}
	if at.Origin.CA != "" {
		x.Roots = x509.NewCertPool()
		if !x.Roots.AppendCertsFromPEM([]byte(at.Origin.CA)) {
			return x, fmt.Errorf("connector %s: ca of %s is not PEM", app, at.Origin.URL)
		}
	}
	return x, nil
}

// productionPeers measures who vouches for production's servers of tools, by a handshake
// and no request: they are what is certified, and not those of the sandbox. One that
// cannot be reached has to be as the sandbox's was seen.
func (t *tenant) productionPeers(ctx context.Context, w *world, a *agent, seen *measured) {
	for _, app := range a.connectors {
		at, ok := w.connectors.Tools(action.Production, app)
		if !ok || seen.get("mcp."+app+".server") == "" {
			continue
		}
		x, err := toolServer(app, at, nil)
		peer := ""
		if err == nil {
			peer, err = mcp.Peer(ctx, x)
		}
		if err != nil {
			t.srv.log.Warn("the peer of a server of tools in production could not be measured", "agent", a.name, "connector", app, "err", err)
			continue
		}
		seen.replace(boundary.Observed, atTools+" in production", "mcp."+app+".peer", peer)
	}
}

// toolFacts are of the servers of tools in production of which a capability of the agent
// has a tool: without them the first call lapses.
func (w *world) toolFacts(a *agent) []string {
	var out []string
	for _, name := range a.spec.Capabilities {
		c := w.capabilities[name]
		if c == nil || !slices.Contains(c.Stages, action.Production) {
			continue
		}
		for _, op := range c.Operations {
			app := op.App
			if app == "" {
				app, _, _ = strings.Cut(op.Operation, ".")
			}
			at, ok := w.connectors.Tools(action.Production, app)
			if !ok || !a.apps[app] || !w.connectors.Spec(app).HasTool(op.Operation) {
				continue
			}
			out = append(out, "mcp."+app+".server")
			if strings.HasPrefix(at.URL, "https:") {
				out = append(out, "mcp."+app+".peer")
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// newTools makes the door to servers of tools.
func (s *session) newTools(servers []mcp.Server, redact func([]byte) []byte) (*mcp.Door, error) {
	var tell func(ctx context.Context, app, tool string) (string, error)
	if s.task.Suite+s.task.Canary != "" && len(s.task.Told) > 0 {
		tell = (&teller{s: s, kept: map[string]bool{}}).tell
	}
	d, err := mcp.New(mcp.Config{Tell: tell, Tenant: s.t.name, Task: s.task.ID, Agent: s.task.Agent, Gate: s.t.srv.gate, Servers: servers,
		Recognize: s.recognizeTool, Credentials: s.toolCredentials, Observer: &toolObserver{s: s, kept: map[string]action.Digest{}}, Redact: redact})
	if err == nil {
		s.onStop(func() { d.Close() })
	}
	return d, err
}

func (s *session) recognizeTool(app, tool string, arguments []byte) (mcp.Meaning, error) {
	m, err := s.world.connectors.RecognizeTool(app, tool, arguments)
	return mcp.Meaning{Operation: m.Operation, Effect: m.Effect, Params: m.Params, Labels: m.Labels, Code: m.Code, Why: m.Why}, err
}

// toolCredentials has the use of what the task holds for a server put on record, and
// returns what puts it into requests to that server and no other.
func (s *session) toolCredentials(ctx context.Context, app, id string) (func(*http.Request) error, error) {
	at, ok := s.world.connectors.Tools(s.stage(), app)
	if !ok {
		return nil, errors.New("the connector has no server of tools")
	}
	secrets := fieldSecrets{s.jar, s.t.leases}
	takes := slices.DeleteFunc(slices.Clone(at.Takes), func(t connector.Take) bool { return !secrets.Leased(at.Origin.URL, t.Source) })
	var names []string
	for _, t := range takes {
		names = append(names, t.Source)
	}
	values, err := secrets.Use(ctx, at.Origin.URL, id, names)
	if err != nil {
		return nil, err
	}
	return func(r *http.Request) error {
		if originOf(r) != at.Origin.URL {
			return errors.New("the request is for another origin")
		}
		for _, t := range takes {
			if err := t.Put(r, nil, values[t.Source]); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// toolObserver holds every sight of a server of tools against the boundary. What is seen
// there for the first time in a task, or otherwise than before, is on record before
// anything follows from it: facts, and definitions as evidence, since the facts have
// only digests of what a server says.
type toolObserver struct {
	s      *session
	mu     sync.Mutex
	kept   map[string]action.Digest // what is on record, by connector
	sights int
}

// maxSights bounds the records of one task, for a server that is another one each time.
const maxSights = 100

// Observe implements mcp.Observer. An error keeps the call from being sent. What could not
// be put on record is compared all the same: it may be what ends the certification.
func (o *toolObserver) Observe(ctx context.Context, m mcp.Measurement) error {
	return errors.Join(o.record(ctx, m), o.s.compare(ctx, atTools, m.Facts, m.Effect, m.Drift))
}

func (o *toolObserver) record(ctx context.Context, m mcp.Measurement) error {
	if m.Definitions == nil {
		return nil // the handshake of a look
	}
	sum, err := canon.DigestOf(map[string]any{"facts": m.Facts, "definitions": canon.Digest(m.Definitions)})
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.kept[m.App] == sum {
		return nil
	}
	if o.sights++; o.sights > maxSights {
		return errors.New("the servers of tools of this task change too often")
	}
	_, err = o.s.t.log.Append(ctx, record.Draft{Type: "tools.measured", Task: o.s.task.ID, Agent: o.s.task.Agent, Actor: "sallyport",
		Body: map[string]any{"connector": m.App, "facts": m.Facts}, Blobs: []record.Blob{{Name: "tool-definitions", Type: "application/json", Data: m.Definitions}}})
	if err == nil {
		o.kept[m.App] = sum
	}
	return err
}
