// Package inference is the way to the model: a reverse endpoint for the
// Anthropic Messages API, served over plain HTTP on a listener inside the
// harness's network namespace. The harness has no other way to a model.
//
// Every call is measured (what the boundary manifest says of model, system
// prompt, tools and endpoint is compared with what is really on the wire),
// passes the gate, is recorded, and only then goes to the one upstream that the
// operator configured, with the real key.
//
// Order of one call:
//
//  1. read strictly: closed list of members, tools and content sources
//  2. Observer.Observe(request): drift lapses the certification before the gate
//     is asked, so the gate already sees it
//  3. gate: decided and recorded with the request body as evidence (strings that
//     an earlier call put on record are named by digest, see evidence.go)
//  4. the permit is consumed over what will be sent
//  5. Observer.Observe(connect) of each new connection, in its handshake: another
//     peer gets neither call nor key. Then the key is put in; sent
//  6. the response's model, and what else the provider says of itself, is read and
//     Observer.Observe(response) is asked before one byte goes to the harness. An
//     answer that can be read as no message names no model, which is drift as
//     another model is; one that the network cut is not
//  7. a stream is passed on event by event, each one read before it is passed,
//     and flushed at once; a second model in the same stream is observed too
//
// Invariants:
//   - The upstream is a constant of the server. No header, path, query or
//     absolute request line of the harness can change where a call goes.
//   - The harness's x-api-key and authorization are dropped; the real key is in
//     no record, no log and no answer. An answer of the upstream that holds the
//     key is not passed on.
//   - What was parsed is what is sent (no duplicate members are accepted), and
//     an event that was parsed is what is passed on: streams are written again
//     in one normal form, so that no second reading of line ends or field names
//     exists.
//   - Anything that would let the provider's side act past the doors is
//     refused: server tools (web search, fetch, code execution, MCP), the
//     mcp_servers and container members, and content sources by URL or file id,
//     which the provider would fetch.
//
// Measurement. The system digest is over the text of the system prompt, its
// blocks joined by a line feed, so that a string and one block are the same.
// System text that is moved into the first user message is a different system
// prompt and shows as drift; text in user messages is not measured, it is the
// task. The tools digest is over the canonical JSON of the tools array without
// cache_control, which does not change what the model is told, and without the tools that
// are, word for word, what the door to tools gave the harness: those are facts of their
// servers, and which of them a task has follows from its capability. Sampling is every
// parameter that changes how the model answers, by its name, and the betas that were
// asked for. The peer is the
// SubjectPublicKeyInfo of the root that the provider's certificate was verified by:
// leaves and intermediates are renewed by themselves, and a root is another
// provider, or somebody in between.
//
// Limits: that the provider runs the model whose name it returns is declared by
// the provider, not proved here. A key split over several events by a hostile
// provider is not found; that provider has the key anyway.
//
// Not trusted: the harness, and the upstream's answers.
package inference

import (
	"context"
	"log/slog"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Gate is the one door.
type Gate interface {
	Act(ctx context.Context, a action.Action, blobs []record.Blob, d gate.Dispatch) gate.Result
}

// Phase says when a Measurement was taken.
type Phase string

// The phases of a call.
const (
	AtRequest  Phase = "request"
	AtConnect  Phase = "connect"  // a connection to the upstream; only Peer and Endpoint are set
	AtResponse Phase = "response" // the response names its model
	AtStop     Phase = "stop"     // a response ended; StopReason is set
)

// Measurement is what was seen on the wire.
type Measurement struct {
	Phase          Phase
	Model          string // asked for, or answered
	RequestedModel string // in the later phases too
	SystemDigest   action.Digest
	ToolsDigest    action.Digest
	Sampling       map[string]string // temperature, top_p, thinking, tool_choice, betas and the like, as canonical JSON; always max_tokens
	Endpoint       string            // the upstream's URL with the path, without a query
	Peer           string            // AtConnect: digest of the public key of the root that verified the upstream
	Said           Said              // AtResponse
	Betas          []string          // sorted
	StopReason     string
}

// Said is what the provider's answer says of itself, beside its model. Unsaid
// stands for what it does not say.
type Said struct {
	Account string // Anthropic-Organization-Id: whose key it took the real one for
	Geo     string // usage.inference_geo: where it ran, as it says
}

// Unsaid is the value of what a provider does not say.
const Unsaid = "unsaid"

// Observer compares measurements with the boundary manifest. An error means
// that the call must not go on; it is called concurrently.
type Observer interface {
	Observe(ctx context.Context, m Measurement) error
}

// Secret is the provider key. It prints as a label.
type Secret struct{ s string }

// NewSecret wraps a key.
func NewSecret(s string) Secret { return Secret{s} }

func (Secret) String() string               { return "[secret]" }
func (Secret) GoString() string             { return "[secret]" }
func (Secret) LogValue() slog.Value         { return slog.StringValue("[secret]") }
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// Key gives the real key, just in time, for one call.
type Key interface {
	Key(ctx context.Context) (Secret, error)
}
