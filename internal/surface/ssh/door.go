// Package ssh is the door to hosts by SSH: for each host an address in the agent's
// namespace that leads there and nowhere else, and an agent socket (SSH_AUTH_SOCK)
// with the task's certificates. The client is the agent's own, such as OpenSSH's.
//
// The order for one session:
//
//  1. gate: ssh.connect on the credential source; it decides, records and gives a
//     permit. Only then the host is dialed, and bytes go both ways.
//  2. session-bind@openssh.com: the host's signature over the session's identifier,
//     by a declared key. Without it nothing is signed.
//  3. gate: ssh.sign, with a digest over host, user, session and what is signed;
//     permit; then the signature is made, and leaves.
//
// Invariants:
//   - The client never sees a private key.
//   - What is signed is a request to sign in (RFC 4252, section 7) as the declared
//     user, by the certificate of that host, in the session that the host signed.
//   - A connection lasts as long as its dispatch: when the task ends, both sockets
//     are closed before End returns, whatever is multiplexed over them.
//
// Not decided here: what is done in a session. It is encrypted between client and
// host; the certificate bounds it (force-command, no forwarding), and the host's
// log has it under the certificate's key id, which is the lease's label.
//
// Not seen here: that a signed session goes through the relay. A client that let
// somebody outside speak to the host would sign in for him; the certificate is good
// only from the declared source addresses, which are the boundary's.
//
// Not trusted: the client, and the host until it has proved a declared key.
package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/surface/local"
)

const dialTimeout = 15 * time.Second

// Gate is the one door.
type Gate interface {
	Act(ctx context.Context, a action.Action, blobs []record.Blob, d gate.Dispatch) gate.Result
}

// Config is what the door of one task needs.
type Config struct {
	Tenant, Task, Agent string
	Gate                Gate
	Hosts               []Host
}

// Host is one host and how to sign in there.
type Host struct {
	Source   string        // the credential source: what policy decides on
	Effect   action.Effect // how far a session reaches
	Audience string        // where it is
	User     string
	HostKeys []ssh.PublicKey
	// Dial reaches this host and no other.
	Dial func(ctx context.Context) (net.Conn, error)
	// Certificate makes one that is about to be used; Sign signs for it.
	Certificate func(ctx context.Context) (*ssh.Certificate, error)
	Sign        func(data []byte) (*ssh.Signature, error)
}

// Door serves the hosts of one task.
type Door struct {
	c      Config
	ctx    context.Context // done when closed
	cancel context.CancelFunc

	clients local.Clients
}

// New makes the door. It does not touch the network.
func New(c Config) (*Door, error) {
	if c.Gate == nil || len(c.Hosts) == 0 {
		return nil, errors.New("ssh: incomplete configuration")
	}
	for _, h := range c.Hosts {
		if h.Source == "" || h.User == "" || len(h.HostKeys) == 0 || h.Dial == nil || h.Certificate == nil || h.Sign == nil {
			return nil, errors.New("ssh: incomplete configuration")
		}
	}
	d := &Door{c: c}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d, nil
}

// ServeHost accepts connections to the n-th host from l until l or the door is
// closed. It returns nil after Close.
func (d *Door) ServeHost(n int, l net.Listener) error {
	return d.serve(l, func(c net.Conn) { d.connect(&d.c.Hosts[n], c) })
}

// ServeAgent accepts clients of the agent protocol, as ServeHost does.
func (d *Door) ServeAgent(l net.Listener) error { return d.serve(l, d.agent) }

func (d *Door) serve(l net.Listener, client func(net.Conn)) error {
	if err := d.clients.Serve(l, client); err != nil {
		return fmt.Errorf("ssh: accept: %w", err)
	}
	return nil
}

// Close cuts every connection and returns when none is left.
func (d *Door) Close() error {
	d.cancel()
	if err := d.clients.Close(); err != nil {
		return fmt.Errorf("ssh: %w", err)
	}
	return nil
}

func (d *Door) action(operation, source string, e action.Effect) action.Action {
	return action.Action{Tenant: d.c.Tenant, Task: d.c.Task, Agent: d.c.Agent, Surface: action.SSH, Source: "harness",
		Operation: operation, Effect: e, App: source, Params: map[string]string{}}
}

// malformed records, through the gate, an attempt that has no canonical form.
func (d *Door) malformed(why string) {
	a := d.action("ssh.malformed", "", action.Irreversible)
	a.Params["why"] = why
	a.Digest = canon.Digest([]byte(why))
	d.c.Gate.Act(d.ctx, a, nil, func(context.Context, gate.Permit) action.Outcome {
		return action.Outcome{State: action.Failed, Detail: "malformed"}
	})
}

// form is what is decided, and then done.
type form struct {
	Audience string        `json:"audience"`
	User     string        `json:"user"`
	HostKey  string        `json:"hostKey,omitempty"` // of ssh.sign: what the session was bound with
	Data     action.Digest `json:"data,omitempty"`    // of ssh.sign: what is signed
}

func (f form) digest() action.Digest {
	out, err := canon.DigestOf(f)
	if err != nil {
		return "" // matches nothing
	}
	return out
}

// connect serves one connection to its end. A refused one is closed: the protocol
// has no words for it before its keys are exchanged but a line of text.
func (d *Door) connect(h *Host, c net.Conn) {
	f := form{Audience: h.Audience, User: h.User}
	a := d.action("ssh.connect", h.Source, h.Effect)
	a.Params["endpoint"] = h.Audience
	a.Digest = f.digest()
	res := d.c.Gate.Act(d.ctx, a, nil, func(ctx context.Context, permit gate.Permit) action.Outcome {
		if err := permit.Consume(f.digest()); err != nil {
			return action.Outcome{State: action.Failed, Detail: err.Error()}
		}
		return relay(ctx, h, c)
	})
	if res.Outcome == nil {
		refuse(c, res.Decision.Code+": "+res.Decision.Reason+"; "+res.Decision.Next)
	}
}

// refuse says a line before the version, which clients show when they are verbose
// (RFC 4253, section 4.2).
func refuse(c net.Conn, why string) {
	c.SetDeadline(time.Now().Add(time.Second))
	fmt.Fprintf(c, "%.200s\r\n", why)
}

// relay is the effect: dial, then pass bytes until one side or the task ends.
func relay(ctx context.Context, h *Host, c net.Conn) action.Outcome {
	dctx, cancel := context.WithTimeout(ctx, dialTimeout)
	up, err := h.Dial(dctx)
	cancel()
	if err != nil {
		refuse(c, "upstream_failed: the host cannot be reached")
		return action.Outcome{State: action.Failed, Detail: "upstream_failed"}
	}
	defer up.Close()
	defer local.OnDone(ctx, func() { c.Close(); up.Close() })()
	done := make(chan int64)
	go func() {
		n, _ := io.Copy(c, up)
		c.Close()
		up.Close()
		done <- n
	}()
	in, _ := io.Copy(up, c)
	up.Close()
	out := <-done
	return action.Outcome{State: action.Done, Detail: fmt.Sprintf("%d bytes to the host, %d from it", in, out)}
}
