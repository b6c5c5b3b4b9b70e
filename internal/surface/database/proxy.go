package database

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/surface/local"
)

const (
	startupTimeout = 10 * time.Second
	signInTimeout  = 15 * time.Second
	cancelTimeout  = 2 * time.Second
)

// Gate is the one door.
type Gate interface {
	Act(ctx context.Context, a action.Action, blobs []record.Blob, d gate.Dispatch) gate.Result
}

// Config is what one address needs.
type Config struct {
	Tenant, Task, Agent string
	Gate                Gate
	Source              string        // the credential source: what policy decides on
	Effect              action.Effect // how far its roles reach
	Audience            string        // where it is
	Database            string
	Role                string // of the task
	// Connect signs in upstream as Role, with the parameters of a session. Its
	// errors may hold what the server said, and no secret.
	Connect func(ctx context.Context, parameters map[string]string) (*pgconn.HijackedConn, error)
}

// Proxy serves one database to one task.
type Proxy struct {
	c      Config
	ctx    context.Context // done when closed
	cancel context.CancelFunc

	clients local.Clients

	mu       sync.Mutex
	sessions map[cancelKey]*pgconn.HijackedConn
}

// cancelKey is what a client shows to cancel a statement of its own. It is ours:
// the server's stays here.
type cancelKey struct{ pid, secret uint32 }

// New makes the proxy. It does not touch the network.
func New(c Config) (*Proxy, error) {
	if c.Gate == nil || c.Connect == nil || c.Source == "" || c.Role == "" || c.Database == "" {
		return nil, errors.New("database: incomplete configuration")
	}
	p := &Proxy{c: c, sessions: map[cancelKey]*pgconn.HijackedConn{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// Serve accepts clients from l until l or the proxy is closed. It returns nil
// after Close.
func (p *Proxy) Serve(l net.Listener) error {
	if err := p.clients.Serve(l, p.client); err != nil {
		return fmt.Errorf("database: accept: %w", err)
	}
	return nil
}

// Close cuts every connection and returns when none is left.
func (p *Proxy) Close() error {
	p.cancel()
	if err := p.clients.Close(); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	return nil
}

func (p *Proxy) action(operation string, e action.Effect) action.Action {
	return action.Action{Tenant: p.c.Tenant, Task: p.c.Task, Agent: p.c.Agent, Surface: action.Database, Source: "harness",
		Operation: operation, Effect: e, App: p.c.Source, Params: map[string]string{}}
}

// malformed records, through the gate, an attempt that has no canonical form.
func (p *Proxy) malformed(why string) {
	a := p.action("database.malformed", action.Irreversible)
	a.Params["why"] = why
	a.Digest = canon.Digest([]byte(why))
	p.c.Gate.Act(p.ctx, a, nil, func(context.Context, gate.Permit) action.Outcome {
		return action.Outcome{State: action.Failed, Detail: "malformed"}
	})
}

// form is what is decided and then asked of the server.
type form struct {
	Audience   string            `json:"audience"`
	Role       string            `json:"role"`
	Parameters map[string]string `json:"parameters"`
}

func (p *Proxy) digest(session map[string]string) action.Digest {
	d, err := canon.DigestOf(form{p.c.Audience, p.c.Role, session})
	if err != nil {
		return "" // matches nothing
	}
	return d
}

// client serves one connection to its end.
func (p *Proxy) client(c net.Conn) {
	c.SetDeadline(time.Now().Add(startupTimeout))
	h, err := greet(c)
	switch {
	case err != nil:
		if !errors.Is(err, io.EOF) && p.ctx.Err() == nil { // a look whether somebody listens is no attempt
			p.malformed("startup")
			c.Write(refusal("08P01", "startup: not a startup message of protocol 3", ""))
		}
		return
	case h.cancel != nil:
		p.cancelStatement(*h.cancel)
		return
	}
	session, code, reason := h.check(p.c.Role, p.c.Database)
	if code != "" {
		p.malformed(code)
		c.Write(refusal("28000", code+": "+reason, ""))
		return
	}
	c.SetDeadline(time.Time{}) // a person may be asked
	a := p.action("database.connect", p.c.Effect)
	a.Params["database"], a.Params["endpoint"] = p.c.Database, p.c.Audience
	a.Digest = p.digest(session)
	res := p.c.Gate.Act(p.ctx, a, nil, func(ctx context.Context, permit gate.Permit) action.Outcome {
		if err := permit.Consume(p.digest(session)); err != nil {
			return action.Outcome{State: action.Failed, Detail: err.Error()}
		}
		return p.serve(ctx, c, h, session)
	})
	if res.Outcome == nil {
		c.SetDeadline(time.Now().Add(startupTimeout))
		c.Write(refusal("42501", res.Decision.Code+": "+res.Decision.Reason, res.Decision.Next))
	}
}

// serve is the effect: sign in, then pass bytes until one side or the task ends.
func (p *Proxy) serve(ctx context.Context, c net.Conn, h hello, session map[string]string) action.Outcome {
	sctx, cancel := context.WithTimeout(ctx, signInTimeout)
	up, err := p.c.Connect(sctx, session)
	cancel()
	if err != nil {
		c.SetDeadline(time.Now().Add(startupTimeout))
		if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) {
			c.Write(refusal(pg.Code, pg.Message, pg.Hint))
			return action.Outcome{State: action.Failed, Detail: "refused by the database: " + pg.Code}
		}
		c.Write(refusal("08001", "upstream_failed: the database cannot be reached", "try again; the operator sees the cause"))
		return action.Outcome{State: action.Failed, Detail: "upstream_failed"}
	}
	defer up.Conn.Close()
	key := p.keep(up)
	defer p.forget(key)
	// The end of the task cuts both, and cancels what the server is doing: it
	// notices a closed socket only when it has something to say.
	defer local.OnDone(ctx, func() {
		c.Close() // first: nothing more gets through
		p.cancelStatement(key)
		up.Conn.Close()
	})()
	if err := h.begin(c, up, key); err != nil {
		return action.Outcome{State: action.Done, Detail: "the client left"}
	}
	in, out := relay(c, up.Conn)
	return action.Outcome{State: action.Done, Detail: fmt.Sprintf("%d bytes to the database, %d from it", in, out)}
}

// begin welcomes the client and passes on what the server has already said.
func (h hello) begin(c net.Conn, up *pgconn.HijackedConn, key cancelKey) error {
	b, err := h.welcome(up.ParameterStatuses, key)
	if err != nil {
		return err
	}
	for up.Frontend.ReadBufferLen() > 0 {
		m, err := up.Frontend.Receive()
		if err != nil {
			return err
		}
		if b, err = m.Encode(b); err != nil {
			return err
		}
	}
	_, err = c.Write(b)
	return err
}

// relay passes bytes both ways until one side ends.
func relay(c, up net.Conn) (in, out int64) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		out, _ = io.Copy(c, up)
		c.Close()
		up.Close()
	}()
	in, _ = io.Copy(up, c)
	// The client's last word (Terminate) has arrived; what the server still
	// answers is for nobody.
	up.Close()
	<-done
	return in, out
}

func (p *Proxy) keep(up *pgconn.HijackedConn) cancelKey {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		var b [8]byte
		rand.Read(b[:])
		key := cancelKey{binary.BigEndian.Uint32(b[:4]) >> 1, binary.BigEndian.Uint32(b[4:])}
		if _, taken := p.sessions[key]; !taken {
			p.sessions[key] = up
			return key
		}
	}
}

func (p *Proxy) forget(key cancelKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.sessions, key)
}

// cancelStatement asks the server to cancel what a session does. An unknown key is
// passed over, as the server does.
func (p *Proxy) cancelStatement(key cancelKey) {
	p.mu.Lock()
	up := p.sessions[key]
	p.mu.Unlock()
	if up == nil {
		return
	}
	copied := *up
	pc, err := pgconn.Construct(&copied)
	if err != nil {
		return
	}
	// Not the task's context: it is over when this matters most.
	ctx, cancel := context.WithTimeout(context.Background(), cancelTimeout)
	defer cancel()
	_ = pc.CancelRequest(ctx) // the protocol gives no answer to it either
}
