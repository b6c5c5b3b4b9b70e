// Package agent is the sample harness: a small, real agent loop that uses a
// computer through Sallyport. It is the reference for how a harness is written,
// it is what the demo and the built-in certification suite run, and with a real
// upstream behind the inference endpoint it runs against a real model unchanged.
//
// It runs inside the boundary and knows it only by its environment
// (SALLYPORT_COMPUTER_URL, SALLYPORT_MCP_URL, ANTHROPIC_BASE_URL, SPIFFE_ENDPOINT_SOCKET, ...). It
// holds no secret: its API key is a placeholder.
//
// For the demo of a hijacked harness it can also try to break out (Attempts).
// Nothing here is trusted by the boundary.
package agent

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

//go:embed prompt.txt
var prompt string

// SystemPrompt is the system prompt that Run sends.
func SystemPrompt() string { return prompt }

// Tools is the tools array that Run sends, as JSON, where the task has no tools of others.
func Tools() string { return string(tools) }

var tools = json.RawMessage(`[{"type":"computer_20251124","name":"computer","display_width_px":1280,"display_height_px":800,"enable_zoom":true}]`)

const (
	beta      = "computer-use-2025-11-24"
	version   = "2023-06-01"
	keepShots = 3 // older screenshots are taken out of the conversation
	// MaxTurns bounds the calls of the model when Options names no bound.
	MaxTurns = 120
)

// Options of one run. What is empty comes from the environment.
type Options struct {
	Goal     string // the first user message
	Model    string // name of the model to ask for; "" means ANTHROPIC_MODEL
	MaxTurns int
	// NoStream asks for whole answers.
	NoStream bool
	// Attacks are names of attempts (see Attempts) made before the loop, as a
	// hijacked harness would. Targets says where they aim.
	Attacks []string
	Targets Targets
	// Audience of the JWT-SVID that is fetched to show the identity; "" means
	// "sample-agent".
	Audience string
	Out      io.Writer // the transcript; nil means standard output
	Getenv   func(string) string
}

// Goal is the first user message of the sample agent's tasks, from what the
// requester declared: in their own words, or the reset of a second factor.
func Goal(getenv func(string) string) string {
	if r := getenv("SALLYPORT_PARAM_REQUEST"); r != "" {
		return r
	}
	return fmt.Sprintf("Reset MFA for user %s, ticket %s", getenv("SALLYPORT_PARAM_USER"), getenv("SALLYPORT_PARAM_TICKET"))
}

// ErrLimit says that the run ended by its bound of turns, not by the model.
var ErrLimit = errors.New("the run reached its limit of turns")

// Run is the loop: ask the model, execute its tool calls, answer, until the
// model ends its turn.
func Run(ctx context.Context, o Options) error {
	if o.Out == nil {
		o.Out = os.Stdout
	}
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.MaxTurns == 0 {
		o.MaxTurns = MaxTurns
	}
	if o.Model == "" {
		o.Model = o.Getenv("ANTHROPIC_MODEL")
	}
	a := &agent{o: o, model: strings.TrimSuffix(o.Getenv("ANTHROPIC_BASE_URL"), "/"), computer: strings.TrimSuffix(o.Getenv("SALLYPORT_COMPUTER_URL"), "/"),
		// The doors are on loopback: no proxy between. No timeout over all: an
		// action may be held until a person answers.
		client: &http.Client{Transport: &http.Transport{ResponseHeaderTimeout: 0, IdleConnTimeout: time.Minute}}}
	a.printf("task %s", orNone(o.Getenv("SALLYPORT_TASK")))
	if err := a.identify(ctx); err != nil {
		return err
	}
	for _, name := range o.Attacks {
		if err := a.attempt(ctx, name); err != nil {
			return err
		}
	}
	if o.Goal == "" {
		if len(o.Attacks) > 0 {
			return nil
		}
		return errors.New("a goal is needed")
	}
	if a.model == "" || a.computer == "" || o.Model == "" {
		return errors.New("ANTHROPIC_BASE_URL, SALLYPORT_COMPUTER_URL and a model name are needed")
	}
	if err := a.findTools(ctx); err != nil {
		return err
	}
	return a.loop(ctx)
}

type agent struct {
	o               Options
	model, computer string
	client          *http.Client
	messages        []message
	tools           []json.RawMessage  // that the model is told of
	session         *mcp.ClientSession // with the door to tools; nil where there is none
}

func (a *agent) printf(format string, args ...any) {
	fmt.Fprintf(a.o.Out, format+"\n", args...)
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

func (a *agent) loop(ctx context.Context) error {
	a.printf("user: %s", a.o.Goal)
	a.messages = []message{{"user", []block{{"type": "text", "text": a.o.Goal}}}}
	for range a.o.MaxTurns {
		m, err := a.askAgain(ctx)
		if err != nil {
			return err
		}
		a.messages = append(a.messages, message{"assistant", m.Content})
		var results []block
		stopped := false
		for _, b := range m.Content {
			switch b["type"] {
			case "text":
				a.printf("agent: %s", b["text"])
			case "tool_use":
				r := block{"type": "tool_result", "tool_use_id": b["id"], "is_error": true}
				if stopped {
					// What follows a refused action was planned on the
					// assumption that it had worked.
					r["content"] = []block{{"type": "text", "text": "not executed: an action before it was not done"}}
				} else if err := a.use(ctx, b, r); err != nil {
					return err
				}
				stopped = r["is_error"] == true
				results = append(results, r)
			}
		}
		if m.StopReason != "tool_use" || len(results) == 0 {
			a.printf("end: %s", m.StopReason)
			return nil
		}
		a.messages = append(a.messages, message{"user", results})
		a.forgetShots()
	}
	return ErrLimit
}

// use executes one tool call and fills its result.
func (a *agent) use(ctx context.Context, call, result block) error {
	in, err := json.Marshal(call["input"])
	if err != nil {
		return fmt.Errorf("tool input: %w", err)
	}
	a.printf("  %v %s", call["name"], in)
	if name := text(call["name"]); name != "computer" && a.session != nil {
		return a.call(ctx, name, in, result)
	} else if name != "computer" {
		result["content"] = []block{{"type": "text", "text": "there is no such tool"}}
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.computer+"/v1/anthropic/computer_20251124", bytes.NewReader(in))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.client.Do(req)
	if err != nil {
		return fmt.Errorf("computer: %w", err)
	}
	defer resp.Body.Close()
	var r struct {
		Content []block `json:"content"`
		IsError bool    `json:"is_error"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
		return fmt.Errorf("computer: read the answer: %w", err)
	}
	result["content"], result["is_error"] = r.Content, r.IsError
	for _, b := range r.Content {
		if b["type"] == "image" {
			a.printf("    (picture)")
		} else if r.IsError {
			a.printf("    refused: %v", b["text"])
		}
	}
	return nil
}

// forgetShots takes all but the last screenshots out of the conversation: they
// are large, and what they showed has been acted on.
func (a *agent) forgetShots() {
	left := keepShots
	for i := len(a.messages) - 1; i >= 0; i-- {
		for j := len(a.messages[i].Content) - 1; j >= 0; j-- {
			inner, ok := a.messages[i].Content[j]["content"].([]block)
			if !ok {
				continue
			}
			for k := range inner {
				if inner[k]["type"] != "image" {
					continue
				}
				if left--; left < 0 {
					inner[k] = block{"type": "text", "text": "(an older picture was here)"}
				}
			}
		}
	}
}
