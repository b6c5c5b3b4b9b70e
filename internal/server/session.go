package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/browser"
	"github.com/sallyport-dev/sallyport/internal/capability"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/contain"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/surface/cdp"
	"github.com/sallyport-dev/sallyport/internal/surface/computer"
	"github.com/sallyport-dev/sallyport/internal/surface/egress"
	"github.com/sallyport-dev/sallyport/internal/surface/inference"
	"github.com/sallyport-dev/sallyport/internal/surface/mcp"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// The screen of every session, in pixels.
const (
	screenWidth  = 1280
	screenHeight = 800
)

// Addresses inside the harness's network namespace.
const (
	computerAddr  = "127.0.0.1:8601"
	inferenceAddr = "127.0.0.1:8602"
	cdpAddr       = "127.0.0.1:8603"
	issuerAddr    = "127.0.0.1:8604"
	toolsAddr     = "127.0.0.1:8605"
	proxyAddr     = "127.0.0.1:3128"
)

// Paths inside the harness's root.
const (
	insideSocket = "/run/sallyport/workload.sock"
	insideCA     = "/run/sallyport/ca.pem"
)

// Harness is the program that an agent runs as.
type Harness struct {
	Path string   // absolute, on this machine
	Args []string // without argv[0]
	Dir  string   // working directory; only seen inside if it is mounted
	Bind []string // further read-only paths, absolute
	Env  []string // further variables; ours win
	// Standard streams, handed to the process.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// session is one running task: a contained harness, a contained browser, and
// the doors between them and the world.
type session struct {
	t        *tenant
	task     task.Task
	instance *capability.Instance
	world    *world
	agent    *agent
	seen     *measured     // what was measured of the boundary
	dir      string        // sockets; gone with the session
	program  contain.Mount // the copy that runs; empty if it runs from its own place
	path     string        // of the harness's program
	bound    []string      // further paths that the harness sees, without links; as Harness.Bind
	admitted atomic.Bool   // to the gate

	databases []*roleLease
	hosts     []hostLease
	jar       *jar
	journal   *computer.Journal
	browser   *browser.Browser
	proc      *contain.Process

	// screen and protocol are there when up says so; protocol is nil where the
	// boundary has no door for it.
	screen   *computer.Server
	protocol *cdp.Server
	up       atomic.Bool
	hand     takeover
	asked    atomic.Int32 // how often the agent asked for a part of the task

	// mu orders onStop against stop: what is opened after stop is closed at once,
	// so that a kill in the middle of a start leaves nothing.
	mu      sync.Mutex
	closers []func() // in order of opening
	stopped bool

	done chan struct{} // closed when everything of the session is gone
}

// start brings up everything and runs the harness. What it opened is closed by
// stop, also when start failed half-way.
//
// Order: admit to the gate; browser, measured; harness binary, measured;
// certification held against the measurement; leases; start page; harness. So
// no credential is issued for a boundary that is not the certified one.
func (s *session) start(ctx context.Context, h Harness) error {
	err := checkHarness(h)
	if err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", "sallyport-"); err != nil {
		return err
	}
	s.onStop(func() { os.RemoveAll(s.dir) })
	if err := s.admit(ctx); err != nil {
		return err
	}
	// A kill may have ended the task before it was admitted; one that comes from
	// here on finds the admission.
	if x, err := s.t.tasks.Get(ctx, s.task.ID); err != nil || x.State != task.Active {
		s.t.srv.gate.Shut(func(a gate.Admission) bool { return a.Tenant == s.t.name && a.Task == s.task.ID }, "ended", "the task ended while it started")
		return errors.Join(err, fmt.Errorf("task %s is %s", s.task.ID, x.State))
	}
	if err := s.startBrowser(ctx); err != nil {
		// The first line: what a browser prints when it ends is for the log.
		s.t.srv.log.Warn("browser", "task", s.task.ID, "err", err)
		first, _, _ := strings.Cut(err.Error(), "\n")
		return errors.New("browser: " + first)
	}
	if err := s.measure(h); err != nil {
		return err
	}
	if err := s.t.holdAgainst(ctx, s); err != nil {
		return err
	}
	if err := s.lease(ctx); err != nil {
		return err
	}
	if url := s.startURL(); url != "" {
		if err := s.browser.Navigate(ctx, url); err != nil {
			return fmt.Errorf("start page: %w", err)
		}
	}
	if err := s.startHarness(ctx, h); err != nil {
		return fmt.Errorf("harness: %w", err)
	}
	s.up.Store(true)
	return nil
}

func (s *session) onStop(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		f()
		return
	}
	s.closers = append(s.closers, f)
}

// stop closes everything that start opened, newest first.
func (s *session) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	for _, f := range slices.Backward(s.closers) {
		f()
	}
	s.closers = nil
}

func (s *session) admit(ctx context.Context) error {
	t := s.task
	answerable, err := s.t.answerable(ctx, s.world, t)
	if err != nil {
		return err
	}
	grant, err := compile(s.t.name, t.Agent, t.ID, s.instance, s.world)
	if err != nil {
		return err
	}
	guard := s.agent.guardrails
	certified, drifted, remeasure := func() error { return nil }, func() string { return "" }, func(context.Context) {}
	if t.Stage == action.Production {
		remeasure = s.remeasure
		drifted = s.drifted
		certified = func() error {
			c, err := s.t.certs.Live(t.Agent, t.Stage)
			if err == nil && c.ID != t.Certification {
				err = fmt.Errorf("certification %s, under which the task was opened, is no longer in force", t.Certification)
			}
			return err
		}
	}
	budgets := s.instance.Budgets
	defer s.admitted.Store(true)
	return s.t.srv.gate.Admit(gate.Admission{
		Tenant: s.t.name, Task: t.ID, Agent: t.Agent, Stage: t.Stage, Tier: t.Tier, Params: t.Params, Parent: t.Parent(),
		Policy: s.world.decider(s.agent, grant),
		Holds: holds{engine: s.t.approvals, task: t, instance: s.instance, policy: guard.Digest(),
			excluded: answerable, people: s.world.peopleOf(t.Suite + t.Canary), everybody: slices.Collect(maps.Keys(s.world.people))},
		Log: s.t.log, Deadline: s.until(), MaxActions: budgets.Actions,
		HoldLimit: s.t.srv.cfg.HoldLimit, Certified: certified, Drifted: drifted, Remeasure: remeasure,
	})
}

// until is when the task's time is spent.
func (s *session) until() time.Time {
	return s.task.Started.Add(time.Duration(s.task.Seconds) * time.Second)
}

// egressFor makes the effect door of one source, with keys of its own or those
// that its client knows already.
func (s *session) egressFor(source string, in egress.Explainer, keys *egress.Keys) (*egress.Proxy, error) {
	pools, err := roots(s.world.connectors, s.stage())
	if err != nil {
		return nil, err
	}
	cfg := egress.Config{Tenant: s.t.name, Task: s.task.ID, Agent: s.task.Agent, Source: source, Stage: s.stage(),
		Gate: s.t.srv.gate, Connectors: recognizer{s.world.connectors, s.stage(), s.agent.apps},
		Credentials: s.jar, Secrets: fieldSecrets{s.jar, s.t.leases}, Inputs: in, Redactor: s.jar, RootsFor: pools, Keys: keys, Dialer: routes(s.task.Routes)}
	p, err := egress.New(cfg)
	if err != nil {
		return nil, err
	}
	s.onStop(func() {
		if err := p.Close(); err != nil {
			s.t.srv.log.Error("egress did not close", "task", s.task.ID, "err", err)
		}
	})
	return p, nil
}

func (s *session) startBrowser(ctx context.Context) error {
	b, keys, err := s.t.srv.browsers.Take(ctx, browser.Config{Kind: s.agent.browserKind, Width: screenWidth, Height: screenHeight})
	if err != nil {
		return err
	}
	s.browser = b
	s.onStop(func() { b.Close() })
	door, err := s.egressFor("browser", s.journal, keys)
	if err != nil {
		return err
	}
	b.Conceal(concealed{door, s.secretFields()})
	s.serve("browser egress", func() error { return door.Serve(b.ProxyListener()) })
	return nil
}

// sender is what the browser says of a request that its door has got.
func (s *session) sender(ctx context.Context, r action.Request) (computer.Sender, bool) {
	who, ok := s.browser.Sender(ctx, r)
	return computer.Sender{Frame: who.Frame, Gesture: who.Gesture}, ok
}

// serve runs f until the session stops; an error before that ends the task.
func (s *session) serve(name string, f func() error) {
	go func() {
		// A closed listener is the end of the process that it belonged to.
		if err := f(); err != nil && !errors.Is(err, net.ErrClosed) {
			select {
			case <-s.t.srv.gate.Done(s.t.name, s.task.ID):
			default:
				s.t.srv.log.Error("a surface stopped", "surface", name, "task", s.task.ID, "err", err)
				s.t.endTask(s.task.ID, task.Failed, "surface_failed", name+" stopped: "+err.Error())
			}
		}
	}()
}

// lease obtains what the capability names: sessions of applications and secrets
// that go into fields, which the jar keeps, roles of databases and keys for hosts.
// The end of the task cuts it short.
func (s *session) lease(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-s.t.srv.gate.Done(s.t.name, s.task.ID):
			cancel()
		case <-ctx.Done():
		}
	}()
	if s.task.Stage == action.Shadow {
		if err := s.world.shadows(s.instance); err != nil { // a source may be another than when the task was opened
			return err
		}
	}
	for _, name := range s.instance.Credentials {
		src := s.world.sources[name]
		if src == nil {
			return fmt.Errorf("capability %s: credential source %s does not exist", s.instance.Capability, name)
		}
		if src.PostgreSQL != nil {
			if err := s.leaseRole(ctx, name, src); err != nil {
				return err
			}
			continue
		}
		if src.SSH != nil {
			if err := s.leaseHost(ctx, name, src); err != nil {
				return err
			}
			continue
		}
		origin, err := s.world.audience(name, src, s.stage())
		if err != nil {
			return err
		}
		if src.OAuth != nil {
			if err := s.leaseToken(ctx, name, src, origin); err != nil {
				return err
			}
			continue
		}
		if len(src.UpstreamStages()) > 0 {
			if err := s.leaseUpstream(ctx, name, src, origin); err != nil {
				return err
			}
			continue
		}
		l, secret, err := s.t.leases.Issue(ctx, lease.Request{Task: s.task.ID, Agent: s.task.Agent, Chain: s.task.Chain, Source: name,
			Audience: origin, Account: accountOf(src), Purpose: s.instance.Capability, Static: src.Static(),
			Until: s.until(), Live: func(tx record.Tx) error { return task.Live(tx, s.task.ID) }})
		if err != nil {
			return err
		}
		if l.Static {
			err = s.hold(name, src, l, secret)
		} else {
			err = s.keep(src, l, secret)
		}
		clear(secret)
		if err != nil {
			return err
		}
		if src.Secret == nil || l.Static {
			continue
		}
		// An application may show its own account's password to its pages.
		password, err := s.t.password(ctx, src, secretStage(s.task))
		if err != nil {
			return err
		}
		s.jar.secret(password)
		clear(password)
	}
	return nil
}

// startURL is where the screen starts: the first application that the
// capability reads or acts on.
func (s *session) startURL() string {
	names := slices.Clone(s.agent.connectors)
	for _, n := range names {
		if slices.Contains(s.instance.Reads, n) {
			if spec := s.world.connectors.Spec(n); spec != nil {
				if st, ok := spec.Stages[s.stage()]; ok && len(st.Origins) > 0 {
					return st.Origins[0].URL + "/"
				}
			}
		}
	}
	return ""
}

// appOf names the agent's own connector that owns an origin.
func (s *session) appOf(origin string) string {
	if name, ok := s.world.connectors.Owner(s.stage(), origin); ok && s.agent.apps[name] {
		return name
	}
	return ""
}

func (s *session) startHarness(ctx context.Context, h Harness) error {
	door, err := s.egressFor("harness", nil, nil)
	if err != nil {
		return err
	}
	s.screen, err = computer.New(computer.Config{Tenant: s.t.name, Task: s.task.ID, Agent: s.task.Agent, Gate: s.t.srv.gate,
		Screen: screen{s.browser, s.startURL()}, Journal: s.journal, Width: screenWidth, Height: screenHeight, AppOf: s.appOf})
	if err != nil {
		return err
	}
	s.onStop(func() { s.screen.Close() })
	servers, err := s.toolServers()
	if err != nil {
		return err
	}
	var tools *mcp.Door
	if len(servers) > 0 {
		if tools, err = s.newTools(servers, door.Redact); err != nil {
			return err
		}
	}
	model, err := s.newModel(tools)
	if err != nil {
		return err
	}

	listen := []string{computerAddr, inferenceAddr, proxyAddr}
	if s.drivers() {
		listen = append(listen, cdpAddr)
	}
	first := len(listen) // of the databases
	for i := range s.databases {
		listen = append(listen, databaseAddr(i))
	}
	firstHost := len(listen)
	for i := range s.hosts {
		listen = append(listen, hostAddr(i))
	}
	if tools != nil {
		listen = append(listen, toolsAddr)
	}
	if s.exchanges() || s.delegates() {
		listen = append(listen, issuerAddr)
	}
	ca := filepath.Join(s.dir, "ca.pem")
	if err := os.WriteFile(ca, door.CAPEM(), 0o644); err != nil {
		return err
	}
	sock := filepath.Join(s.dir, "workload.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		return err
	}
	s.onStop(func() { l.Close() })
	// The folder around it is private: the socket is reachable through the
	// mount in the harness's root only, where the harness has another uid.
	if err := os.Chmod(sock, 0o666); err != nil {
		return err
	}
	socket, hostMounts, err := s.hostFiles()
	if err != nil {
		return err
	}
	mounts := append(contain.SystemMounts(), hostMounts...)
	mounts = append(mounts, contain.Mount{Source: sock, Target: insideSocket}, contain.Mount{Source: ca, Target: insideCA})
	for i, b := range h.Bind {
		mounts = append(mounts, contain.Mount{Source: s.bound[i], Target: b, Checked: true})
	}
	if s.program.Source != "" {
		mounts = append(mounts, s.program)
	}
	p, err := contain.Start(s.t.srv.ctx, contain.Spec{Path: h.Path, Args: h.Args, Env: s.environment(h), Dir: h.Dir,
		Listen: listen, Mounts: mounts,
		Stdin: h.Stdin, Stdout: h.Stdout, Stderr: h.Stderr})
	if err != nil {
		return err
	}
	s.proc = p
	s.onStop(p.Kill)
	// What runs from its own place was opened after it was measured. The doors
	// are not served yet, so nothing has passed if it was exchanged in between.
	if err := s.unexchanged(h); err != nil {
		return err
	}
	if err := s.t.attestor.Register(identity.Launch{Tenant: s.t.name, Agent: s.task.Agent, Task: s.task.ID, PID: p.PID(),
		NetNS: p.NetNS(), HostUID: uint32(p.HostUID()), BinaryDigest: action.Digest(s.seen.get("harness.binary")), SPIFFEID: s.agent.spec.SPIFFEID}); err != nil {
		select {
		case <-p.Done():
			return nil // it has ended already, so nobody is there to attest
		case <-time.After(time.Second):
			return err
		}
	}
	// Served only now: until the launch is registered the harness waits.
	wctx, cancel := context.WithCancel(context.Background())
	s.onStop(cancel)
	s.serve("workload API", func() error { return s.t.issuer.ServeWorkload(wctx, l, s.t.attestor) })
	ls := p.Listeners()
	s.serve("computer", func() error { return s.screen.Serve(bounded(ls[0])) })
	s.serve("inference", func() error { return model.Serve(bounded(ls[1])) })
	s.serve("harness egress", func() error { return door.Serve(ls[2]) })
	if s.drivers() {
		if s.protocol, err = s.newProtocol(); err != nil {
			return err
		}
		s.serve("browser protocol", func() error { return s.protocol.Serve(bounded(ls[3])) })
	}
	for i, d := range s.databases {
		if err := s.serveDatabase(d, ls[first+i]); err != nil {
			return err
		}
	}
	if err := s.serveHosts(socket, ls[firstHost:]); err != nil {
		return err
	}
	if tools != nil {
		s.serve("tools", func() error { return tools.Serve(bounded(ls[firstHost+len(s.hosts)])) })
	}
	if s.exchanges() || s.delegates() {
		s.serveTokens(ls[len(ls)-1])
	}
	return nil
}

// newModel makes the way to the model.
func (s *session) newModel(tools *mcp.Door) (*inference.Server, error) {
	var given func(name, description string, schema []byte) bool
	if tools != nil {
		given = tools.Gave
	}
	m, err := inference.New(inference.Config{Given: given, Tenant: s.t.name, Task: s.task.ID, Agent: s.task.Agent, Gate: s.t.srv.gate,
		Observer: observer{s}, Key: s.t.providerKey(s.agent), Upstream: s.agent.endpoint, Roots: s.agent.roots, Dial: routes(s.task.Routes).dial, Betas: s.agent.betas})
	if err == nil {
		s.onStop(func() { m.Close() })
	}
	return m, err
}

// drivers reports whether there is a door for clients of the DevTools protocol.
func (s *session) drivers() bool { return s.agent.protocol != string(cdp.Sealed) }

// newProtocol makes the door for clients of the DevTools protocol, in the profile
// that the boundary pins.
func (s *session) newProtocol() (*cdp.Server, error) {
	version, _, _ := s.browser.Facts()
	door, err := cdp.New(cdp.Config{Tenant: s.t.name, Task: s.task.ID, Agent: s.task.Agent, Profile: cdp.Profile(s.agent.protocol),
		Version: version, Width: screenWidth, Height: screenHeight, Gate: s.t.srv.gate, Journal: clientInputs{s.journal}, AppOf: s.appOf, Secrets: s.jar.values,
		Open: func(e cdp.Events) (cdp.Upstream, error) { return s.browser.OpenClient(browser.ClientEvents(e)) }})
	if err != nil {
		return nil, err
	}
	s.onStop(func() { door.Close() })
	return door, nil
}

// clientInputs tells the journal of the inputs of a client of the protocol.
type clientInputs struct{ j *computer.Journal }

func (c clientInputs) Note(id, kind, key string, e action.Element) {
	c.j.Note(id, computer.Input{Kind: computer.Kind(kind), Key: key}, e)
}

func (c clientInputs) Forget(id string) { c.j.Forget(id) }

// bounded keeps a harness from using up the open files that all tasks share: it
// may hold so many connections to one door, and more wait. The egress has a
// bound of its own.
func bounded(l net.Listener) net.Listener { return netutil.LimitListener(l, 64) }

// loaderVariable: such a variable changes which code a program runs before its first line.
func loaderVariable(name string) bool {
	return strings.HasPrefix(name, "LD_") || name == "GCONV_PATH" || name == "BASH_ENV" || name == "ENV"
}

// environment is everything the harness finds: our variables and what the
// caller added, ours winning.
func (s *session) environment(h Harness) []string {
	const placeholder = "placeholder-the-boundary-puts-in-the-real-one"
	ours := []string{
		"SALLYPORT_TASK=" + s.task.ID,
		"SALLYPORT_COMPUTER_URL=http://" + computerAddr,
		"SPIFFE_ENDPOINT_SOCKET=unix://" + insideSocket,
		"HTTPS_PROXY=http://" + proxyAddr, "HTTP_PROXY=http://" + proxyAddr, "ALL_PROXY=http://" + proxyAddr,
		"https_proxy=http://" + proxyAddr, "http_proxy=http://" + proxyAddr,
		"NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1",
		"SSL_CERT_FILE=" + insideCA, "NODE_EXTRA_CA_CERTS=" + insideCA, "REQUESTS_CA_BUNDLE=" + insideCA,
		"ANTHROPIC_BASE_URL=http://" + inferenceAddr, "ANTHROPIC_API_KEY=" + placeholder,
		"ANTHROPIC_MODEL=" + s.agent.model,
		"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/agent", "LANG=C.UTF-8",
	}
	if s.drivers() {
		ours = append(ours, "SALLYPORT_CDP_URL=http://"+cdpAddr)
	}
	if servers, err := s.toolServers(); err == nil && len(servers) > 0 {
		ours = append(ours, "SALLYPORT_MCP_URL=http://"+toolsAddr+mcp.Path)
	}
	ours = append(ours, s.databaseEnvironment()...)
	ours = append(ours, s.hostEnvironment()...)
	if s.exchanges() {
		ours = append(ours, "SALLYPORT_ISSUER_URL=http://"+issuerAddr)
	}
	if s.delegates() {
		ours = append(ours, "SALLYPORT_TASKS_URL=http://"+issuerAddr+"/tasks")
	}
	names := map[string]bool{}
	for _, v := range ours {
		n, _, _ := strings.Cut(v, "=")
		names[n] = true
	}
	out := slices.Clone(ours)
	for _, v := range h.Env {
		if n, _, ok := strings.Cut(v, "="); ok && !names[n] {
			out = append(out, v)
		}
	}
	for _, name := range s.instance.Credentials {
		if src := s.world.sources[name]; src != nil && (src.Static() || src.PutIn()) {
			out = append(out, "SALLYPORT_SECRET_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))+"="+connector.Placeholder(name))
		}
	}
	out = append(out, s.cloudEnvironment()...)
	keys := make([]string, 0, len(s.task.Params))
	for k := range s.task.Params {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		out = append(out, "SALLYPORT_PARAM_"+strings.ToUpper(k)+"="+s.task.Params[k])
	}
	return out
}
