// Package action is the vocabulary of Sallyport: the words every other package
// speaks, as closed types. It does no I/O and reads no clock.
//
// Glossary (one word, one thing, in code, command line, API and ledger):
//
//   - Tenant: one policy domain, one SPIFFE trust domain, one log, one set of keys.
//   - Agent: a governed workload with a named human owner. Never a person's account.
//   - Surface: a way to act (computer, egress, inference, ...).
//   - Action: one attempt on one surface, in one canonical form.
//   - Operation: the business effect recovered from a request, e.g. iam.user.mfa.reset.
//   - Effect: how far an operation reaches (observe < read < write < privileged < irreversible).
//   - Task: one bounded run of a capability with its parameters filled in: the declared intent.
//   - Decision: allow, deny, hold, modify or defer, as a value, with the layer and policies that made it.
//   - Epoch: the counter that fences authority; a permit of an older epoch cannot be dispatched.
package action

import (
	"fmt"
	"time"
)

// Surface names a way to act.
type Surface string

// The surfaces.
const (
	Computer  Surface = "computer"  // pixels in, pointer and keys out
	Egress    Surface = "egress"    // every request that leaves the browser or the harness
	Inference Surface = "inference" // calls to the model provider
	Database  Surface = "database"  // sessions of databases
	SSH       Surface = "ssh"       // sessions at hosts, and signing in to them
	MCP       Surface = "mcp"       // calls of tools of MCP servers, and the lists of them
	Control   Surface = "control"   // the boundary's own steps (opening a task, signing in, closing)
)

// Effect is how far an operation reaches. The zero value is not an effect.
type Effect string

// The effects, in rising order of consequence.
const (
	Observe      Effect = "observe"      // looks at the screen; nothing leaves the boundary
	Read         Effect = "read"         // reads an application
	Write        Effect = "write"        // changes an application, reversibly
	Privileged   Effect = "privileged"   // changes identity, access, secrets or money
	Irreversible Effect = "irreversible" // cannot be undone
)

var effectRank = map[Effect]int{Observe: 1, Read: 2, Write: 3, Privileged: 4, Irreversible: 5}

// ParseEffect accepts exactly the five names.
func ParseEffect(s string) (Effect, error) {
	if _, ok := effectRank[Effect(s)]; !ok {
		return "", fmt.Errorf("effect %q: want observe, read, write, privileged or irreversible", s)
	}
	return Effect(s), nil
}

// AtLeast reports whether e reaches as far as o. An unknown effect reaches
// further than every known one, so that it is never treated as harmless.
func (e Effect) AtLeast(o Effect) bool {
	r, ok := effectRank[e]
	return !ok || r >= effectRank[o]
}

// Changes reports whether e alters something outside the boundary.
func (e Effect) Changes() bool { return e.AtLeast(Write) }

// Stage is where a task runs. All stages share identity, policy and log.
type Stage string

// The stages.
const (
	Sandbox    Stage = "sandbox"
	Shadow     Stage = "shadow" // in production's conditions, and nothing takes effect
	Production Stage = "production"
)

// ParseStage accepts exactly the names of where applications are.
func ParseStage(s string) (Stage, error) {
	if Stage(s) != Sandbox && Stage(s) != Production {
		return "", fmt.Errorf("stage %q: want sandbox or production", s)
	}
	return Stage(s), nil
}

// ParseTaskStage accepts exactly the names of where tasks run.
func ParseTaskStage(s string) (Stage, error) {
	if Stage(s) == Shadow {
		return Shadow, nil
	}
	if _, err := ParseStage(s); err != nil {
		return "", fmt.Errorf("stage %q: want sandbox, shadow or production", s)
	}
	return Stage(s), nil
}

// Conditions is the stage whose applications, credentials and rules a task has.
func (s Stage) Conditions() Stage {
	if s == Shadow {
		return Production
	}
	return s
}

// Epoch is the fencing counter of one scope. It only rises.
type Epoch int64

// Digest is "sha256:" followed by 64 lower-case hex digits: the digest of
// canonical bytes. The zero value matches nothing.
type Digest string

// Screenshot is the name of evidence that is a picture of the screen, or of a part.
const Screenshot = "screenshot"

// Evidence refers to a payload kept apart from the ledger: the record holds a
// salted commitment, the store holds the encrypted bytes.
type Evidence struct {
	Name       string `json:"name"`       // what it is: screenshot, request-body, ...
	Blob       string `json:"blob"`       // identifier in the store
	Type       string `json:"type"`       // media type
	Size       int64  `json:"size"`       // bytes of the payload
	Commitment Digest `json:"commitment"` // HMAC-SHA-256 keyed with the blob's own salt
}

// Element is what the pointer or the keyboard would act on, as grounded at
// door 1. Origin, Form and Link are facts; URL after its origin, Role, Name, Text
// and Window are written by the page's author and may serve a deny or a display,
// never an allow.
type Element struct {
	FrameOrigin string `json:"frameOrigin"`          // origin of the frame that owns the element
	TopOrigin   string `json:"topOrigin"`            // origin of the page
	Frames      string `json:"frames,omitempty"`     // origins from the page down to a frame in it, apart by blanks
	Frame       string `json:"frame,omitempty"`      // the browser's own name of the frame, for what it says of requests
	URL         string `json:"url"`                  // document URL of the frame
	Tag         string `json:"tag,omitempty"`        // lower-case local name
	Role        string `json:"role,omitempty"`       // page-controlled
	Name        string `json:"name,omitempty"`       // page-controlled, at most 120 bytes
	Text        string `json:"text,omitempty"`       // visible text, at most 120 bytes
	Doubts      string `json:"doubts,omitempty"`     // why Name and Text may not be what they look like, apart by blanks
	Link        string `json:"link,omitempty"`       // resolved href
	FormAction  string `json:"formAction,omitempty"` // resolved action after formaction
	FormMethod  string `json:"formMethod,omitempty"` // upper case
	Window      string `json:"window,omitempty"`     // where link or form opens, if it is not the frame itself
	InputType   string `json:"inputType,omitempty"`  // type of an input element
	// Uninspectable says why nothing could be grounded (canvas, PDF, browser
	// chrome, no node). Policy sees it; the shipped rules deny input on it.
	Uninspectable string `json:"uninspectable,omitempty"`
}

// Request is the canonical request that would leave door 2.
type Request struct {
	Method string `json:"method"`
	Origin string `json:"origin"` // scheme://host[:port], lower case, default port left out
	Path   string `json:"path"`   // as sent
	Query  string `json:"query,omitempty"`
	// BodyDigest is the digest of the body before any secret is put in.
	BodyDigest Digest `json:"bodyDigest,omitempty"`
	BodySize   int64  `json:"bodySize,omitempty"`
	BodyType   string `json:"bodyType,omitempty"`
	// Destination is the Fetch metadata destination as sent by the browser
	// (document, script, image, empty, ...). Informative.
	Destination string `json:"destination,omitempty"`
	// RedirectOf is the action whose response led here, if any.
	RedirectOf string `json:"redirectOf,omitempty"`
}

// Action is one attempt on one surface in canonical form. Everything the gate,
// policy and ledger know about an attempt is in here; a surface fills it, the
// gate adds ID and Digest.
type Action struct {
	ID        string            `json:"id"` // unique in the tenant, made by the gate
	Tenant    string            `json:"tenant"`
	Task      string            `json:"task"`
	Agent     string            `json:"agent"`
	Actor     string            `json:"actor,omitempty"` // who did it in the agent's place ("person:ines"); empty: the agent
	Surface   Surface           `json:"surface"`
	Source    string            `json:"source,omitempty"` // browser, harness, person or boundary: who sent it
	Operation string            `json:"operation"`        // dotted name; "<surface>.unmatched" when no operation matches
	Effect    Effect            `json:"effect"`           // of the operation
	App       string            `json:"app,omitempty"`    // connector's name, when one owns the target
	Params    map[string]string `json:"params,omitempty"`
	Labels    []string          `json:"labels,omitempty"` // put on the task if the action is let through
	Element   *Element          `json:"element,omitempty"`
	Request   *Request          `json:"request,omitempty"`
	// Explained is the ID of the permitted input at door 1 that explains this
	// request, or empty. Only meaningful on the egress surface.
	Explained string     `json:"explained,omitempty"`
	Evidence  []Evidence `json:"evidence,omitempty"`
	// Digest is over the exact form that will be dispatched: the surface
	// computes it before asking and again when it consumes the permit.
	Digest Digest `json:"digest"`
}

// Unmatched reports whether no connector operation was recognised.
func (a Action) Unmatched() bool { return a.Operation == string(a.Surface)+".unmatched" }

// Verdict is the kind of a Decision. The zero value is not a verdict and
// counts as Deny wherever it is met.
type Verdict string

// The verdicts.
const (
	Allow Verdict = "allow"
	Deny  Verdict = "deny"
	Hold  Verdict = "hold"
)

// Layer names what made a decision, in the order the gate asks them.
type Layer string

// The layers.
const (
	LayerForm      Layer = "form"      // canonical form could not be made
	LayerAuthority Layer = "authority" // epoch, task, certification, budgets
	LayerGuardrail Layer = "guardrail" // the tenant's policy
	LayerGrant     Layer = "grant"     // the task's own grant
	LayerHold      Layer = "hold"      // a person decided, or nobody did in time
	LayerShadow    Layer = "shadow"    // it would have passed or been asked, in a stage where nothing takes effect
	LayerLedger    Layer = "ledger"    // the record could not be made durable
	LayerDispatch  Layer = "dispatch"  // the fence, or the door itself, at the last step
)

// Decision is a value: a denial is not an error. Code is stable and may be
// matched on by programs; Reason and Next are for people.
type Decision struct {
	Verdict  Verdict  `json:"verdict"`
	Layer    Layer    `json:"layer"`
	Code     string   `json:"code"`               // e.g. outside_grant, no_certification, budget_spent
	Reason   string   `json:"reason"`             // one sentence, no secret, no page text
	Next     string   `json:"next,omitempty"`     // the next legal step
	Policies []string `json:"policies,omitempty"` // ids, sorted
	// Approvers is the role that must approve, when Verdict is Hold.
	Approvers string `json:"approvers,omitempty"`
}

// Denied makes a denial.
func Denied(l Layer, code, reason, next string) Decision {
	return Decision{Verdict: Deny, Layer: l, Code: code, Reason: reason, Next: next}
}

// Outcome is what is known after dispatch.
type Outcome struct {
	// State is "done", "failed" (nothing happened) or "unknown" (it may have
	// happened; never repeated blindly).
	State  string `json:"state"`
	Status int    `json:"status,omitempty"` // HTTP status, when there was one
	Detail string `json:"detail,omitempty"` // no secret, no page text
	// ReadBack is "verified", "failed" or "unknown" where the operation has a
	// read-back, and empty where it has none.
	ReadBack string        `json:"readBack,omitempty"`
	Evidence []Evidence    `json:"evidence,omitempty"`
	Took     time.Duration `json:"tookNanos,omitempty"`
	// Tokens are what a provider says that a call of a model took, in and out.
	Tokens int64 `json:"tokens,omitempty"`
}

// Outcome states.
const (
	Done    = "done"
	Failed  = "failed"
	Unknown = "unknown"
)
