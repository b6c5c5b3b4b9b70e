// Package mcp is the door to tools: a server of the Model Context Protocol over
// Streamable HTTP, on a listener inside the harness's network namespace, in front of
// the MCP servers that connectors declare. The harness has no other way to them.
//
// Order of one call:
//
//  1. strict reading: one JSON-RPC request with a closed list of methods and members;
//     header fields that say what the body says must say the same
//  2. the call becomes an operation of its connector: declared arguments and no others,
//     in canonical JSON, and valid by the tool's own schema where that is known
//  3. gate: decided and recorded, with the arguments. A call that people are asked
//     about is answered as held after Config.Patience; the same call passes once they
//     have approved
//  4. dispatch: permit over server, tool and arguments; then credentials, by lease
//  5. who answers is measured in the handshake, the server's identity and whole list of
//     tools in a session of its own, and Observer.Observe is asked. Another server or
//     list than the certified one gets no call
//  6. the arguments are validated by the schema as it is now; the call is sent, once
//  7. of the answer text, images and structured content are passed on, without secrets
//
// A listing is the same with the list as its effect (mcp.list); what the agent sees is
// what was measured, the tools of its grant alone, and no word of a server beside
// their definitions. In a trial words can be added to those (Config.Tell): then the
// server, what is measured and what is called are as ever.
//
// Invariants:
//   - What was decided is what is sent: the arguments are one slice of bytes.
//   - A server is a constant of the door. No redirect is followed, no proxy asked.
//   - Nothing that the harness sends reaches a server but the arguments; no
//     credential of it, no session, no id.
//   - A server asks nothing here: no sampling, elicitation, roots or input. Prompts,
//     resources, completion, logging, tasks and subscriptions are not offered.
//   - Each request stands alone: there are no sessions, so nobody can take another's.
//
// Not decided here: what a server does behind a tool that it calls by the certified
// name. What it says of a tool (annotations too) is measured and believed in nothing.
//
// Why both ends are read here and not by an SDK: what is decided has to be the bytes
// that go out, lists must never come out of a cache, and nothing may be sent again.
//
// Not trusted: the harness, and everything that a server says.
package mcp

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Path is where the door answers.
const Path = "/mcp"

// Gate is the one door.
type Gate interface {
	Act(ctx context.Context, a action.Action, blobs []record.Blob, d gate.Dispatch) gate.Result
}

// Config is what the door of one task needs. Tenant, Task, Agent, Gate, Servers,
// Recognize, Observer and Redact must be set.
type Config struct {
	Tenant, Task, Agent string
	Gate                Gate
	Servers             []Server
	// Recognize says what a call of a declared tool means. arguments are canonical
	// JSON. An error denies it.
	Recognize func(app, tool string, arguments []byte) (Meaning, error)
	// Credentials puts the use of what the task holds for a server on record and
	// returns what puts it into requests to it. nil: none are sent.
	Credentials func(ctx context.Context, app, action string) (put func(*http.Request) error, err error)
	Observer    Observer
	// Tell says what is added to what a tool says of itself, in what the harness is given
	// and nowhere else: the words of a trial, which it has put on record. An error keeps
	// the list back. nil in every task that is no trial.
	Tell func(ctx context.Context, app, tool string) (string, error)
	// Redact takes known secrets out of what a server says.
	Redact func([]byte) []byte
	// Patience is how long a call waits for people; 0 is DefaultPatience.
	Patience time.Duration
	// Timeout bounds one call of a server; 0 is DefaultTimeout.
	Timeout time.Duration
}

const (
	// DefaultPatience is below what clients wait for an answer by themselves: the
	// TypeScript SDK gives up after a minute.
	DefaultPatience = 45 * time.Second
	// DefaultTimeout is for one call.
	DefaultTimeout = 2 * time.Minute
)

// Server is an MCP server and what of it is declared.
type Server struct {
	App  string // connector's name: what policy decides on
	URL  string
	Name string // what it must call itself; "" is anything
	// Tools are all declared ones. Granted says which of them the task's grant has.
	Tools   []string
	Granted map[string]bool
	Roots   *x509.CertPool // nil means the machine's
	// Dial reaches it; nil means the network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Meaning is what a call means to the connector.
type Meaning struct {
	Operation string
	Effect    action.Effect
	Params    map[string]string
	Labels    []string
	// Code says why the arguments are none of the operation's; "" if they are.
	Code, Why string
}

// Measurement is one sight of a server.
type Measurement struct {
	App string
	// Effect is how far what follows reaches, and Drift what was known when it was
	// decided, as gate.Permit has it.
	Effect action.Effect
	Drift  string
	// Facts by name: mcp.APP.peer, of a server with TLS; mcp.APP.server, mcp.APP.tools,
	// and of each declared tool mcp.APP.tool.TOOL.says and mcp.APP.tool.TOOL.takes. In
	// the handshake there is the peer alone.
	Facts map[string]string
	// Definitions are those of the declared tools, as they are passed on: a list, with
	// no secret in it. nil in the handshake.
	Definitions []byte
}

// Observer compares measurements with the boundary manifest. An error means that
// nothing more may be sent; it is called concurrently.
type Observer interface {
	Observe(ctx context.Context, m Measurement) error
}
